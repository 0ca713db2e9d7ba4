"""The pictures of a chat: blocks are given out once and retracted text never (contract 08 §7.1)."""

from __future__ import annotations

import pytest

from lash_cli.core.activity import (
    AssistantProseDelta,
    ModelAttemptReset,
    ModelRequestStarted,
    ReasoningShown,
    ToolCallCompleted,
    ToolCallStarted,
    TurnActivity,
    TurnEvent,
    TurnFinished,
    TurnStarted,
)
from lash_cli.core.outcome import AssistantMessage, Finished, Stopped
from lash_cli.core.tools import success
from lash_cli.views.answer import WITHOUT_A_WORD
from lash_cli.views.chat_blocks import plain_block, rich_block
from lash_cli.views.chat_lines import ChatGlyphs, ToolbarStanding, Waiting, toolbar_text, waiting_lines
from lash_cli.views.chat_picture import Block, ChatPicture
from lash_cli.views.safe_text import safe_text
from lash_cli.views.tables import display_width


def played(picture: ChatPicture, *events: TurnEvent, turn: str = "t_1") -> list[Block]:
    return [
        block
        for event in events
        for block in picture.fold(TurnActivity("s", turn, "c", event, 1_000))
    ]  # fmt: skip


def finished(text: str) -> TurnFinished:
    return TurnFinished(Finished(AssistantMessage(text)))


def test_a_paragraph_is_given_out_when_it_is_complete_and_the_answer_only_once() -> None:
    picture = ChatPicture(safe_text)
    start = (TurnStarted("prompt"), ModelRequestStarted(0))
    assert played(picture, *start, AssistantProseDelta("one")) == []
    assert picture.lines(1_000, room=5) == [("", "one")]
    assert played(picture, AssistantProseDelta(" more\n\ntwo")) == [Block("assistant", "one more")]
    assert played(picture, finished("one more\n\ntwo")) == [Block("assistant", "two", True)]
    assert picture.lines(1_000, room=5) == []


def test_a_retry_takes_growing_text_away_and_disowns_what_was_given_out() -> None:
    picture = ChatPicture(safe_text)
    begin = (TurnStarted("prompt"), ModelRequestStarted(0))
    reset = ModelAttemptReset(("c",))
    assert played(
        picture, *begin, AssistantProseDelta("gone"), reset, AssistantProseDelta("kept"), finished("kept")
    ) == [Block("assistant", "kept")]
    blocks = played(picture, *begin, AssistantProseDelta("out\n\nin"), reset, finished("whole"), turn="t_2")
    assert [block.kind for block in blocks] == ["assistant", "note", "assistant"]
    assert blocks[-1] == Block("assistant", "whole")


def test_of_a_turn_whose_beginning_was_missed_the_whole_answer_is_given_out_at_its_end() -> None:
    picture = ChatPicture(safe_text)
    assert played(picture, AssistantProseDelta("second half\n\n")) == []
    assert played(picture, finished("first half\n\nsecond half")) == [
        Block("assistant", "first half\n\nsecond half")
    ]  # fmt: skip


@pytest.mark.parametrize("answer", ["", "\n\n"], ids=["nothing", "blank lines"])
def test_a_turn_that_ends_without_a_word_says_so(answer: str) -> None:
    picture = ChatPicture(safe_text)
    thought = (TurnStarted("prompt"), ModelRequestStarted(0), ReasoningShown("hmm"), AssistantProseDelta(answer))
    assert played(picture, *thought, finished(answer)) == [Block("note", WITHOUT_A_WORD)]


def test_a_tool_runs_in_the_lines_and_ends_as_a_block_and_a_cancelled_turn_says_so() -> None:
    picture = ChatPicture(safe_text)
    called = ToolCallStarted("c1", "shell_exec", {"command": "\x1b]0;x"})
    assert played(picture, TurnStarted("prompt"), called) == []
    ((style, line),) = picture.lines(13_300, room=5)
    assert style == "tool" and line.endswith("12.3s running") and "\x1b" not in line
    done = ToolCallCompleted("c1", "shell_exec", {"command": "x"}, success("fine"), 20)
    (block,) = played(picture, done)
    assert block.kind == "tool" and "ok" in block.text and "20ms" in block.text
    assert played(picture, TurnFinished(Stopped("cancelled"))) == [Block("note", "turn cancelled")]


def test_nothing_around_the_prompt_is_wider_than_the_terminal() -> None:
    waits = [
        Waiting("i1", True, "also check\nWindows paths"),
        Waiting("i2", False, "漢字 " * 40),
        Waiting("i3", False, "more"),
    ]
    standing = ToolbarStanding(
        "some-model high", 41_000, 100_000, 8, 3, 21_000, "running", 1, 2, 0, True, 24_000, "pid 4711 (turn)", "$0.13",
        "Esc stop · Tab queue",
    )  # fmt: skip
    slots = ("model", "ctx", "queue", "lease", "cost")
    for width in range(1, 140):
        lines = [*waiting_lines(waits, ChatGlyphs(), safe_text, width=width)]
        lines.append(toolbar_text(standing, slots, ChatGlyphs(), width=width))
        assert all(display_width(line) <= max(width, 1) for line in lines), (width, lines)
    assert toolbar_text(standing, slots, ChatGlyphs(), width=200) == (
        " some-model high │ ctx 41% │ ▶ turn 8 step 3 00:21 │ queue 1+2 held │ lease 24s pid 4711 (turn) │ $0.13"
        " │ Esc stop · Tab queue"
    )
    assert waiting_lines(waits, ChatGlyphs(), safe_text, width=80)[0] == (
        "  ◆ will send in this turn · 1   ↳ also check Windows paths"
    )


def test_plain_blocks_are_words_and_rich_ones_hold_no_link() -> None:
    assert plain_block(Block("assistant", "hi")) == "assistant: hi\n"
    assert plain_block(Block("assistant", "there", True)) == "there\n"
    text = rich_block(Block("assistant", "see [this](https://example.com)"), ChatGlyphs(), color=False, width=60)
    assert "\x1b]8" not in text and "example.com" in text
