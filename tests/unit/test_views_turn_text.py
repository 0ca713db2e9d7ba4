"""Event lines and Markdown blocks: pure, and harmless for a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.activity import (
    AssistantProseDelta,
    Committed,
    ErrorShown,
    RetryWait,
    ToolCallCompleted,
    ToolCallStarted,
    ToolProgress,
)
from lash_cli.core.outcome import TurnIssue
from lash_cli.core.tools import FailureClass, cancelled, failure, success
from lash_cli.views.safe_text import preview, safe_text
from lash_cli.views.turn_text import MarkdownBlocks, event_line, value_text

BROKEN = failure(FailureClass.EXECUTION, "x", "it\nbroke")


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (ToolCallStarted("c", "read_file", {"path": "a"}), '[tool] read_file started {"path":"a"}'),
        (ToolCallCompleted("c", "read_file", {}, success("x"), 8), "[tool] read_file · ok"),
        (ToolCallCompleted("c", "run", {}, success("x"), 1_234), "[tool] run · ok · 1.2s"),
        (ToolCallCompleted("c", "run", {}, BROKEN, 8), "[tool] run · error · it broke"),
        (ToolCallCompleted("c", "run", {}, cancelled("stopped"), 8), "[tool] run · cancelled · stopped"),
        (RetryWait(2_000, 2, 4, "overloaded"), "[retry] in 2.0s · attempt 2/4 · overloaded"),
        (ErrorShown(TurnIssue("llm", "no")), "[error] no"),
        (AssistantProseDelta("text"), None),
        (Committed(1, None), None),
    ],
)
def test_every_event_has_one_line_or_none(event, line) -> None:
    assert event_line(event, safe_text) == line


def test_what_a_tool_or_a_model_wrote_cannot_steer_the_terminal() -> None:
    evil = "\x1b]0;owned\x07"
    for event in (
        ToolCallStarted("c", evil, evil),
        ToolProgress("c", evil),
        ToolCallCompleted("c", evil, {}, failure(FailureClass.EXECUTION, "x", evil), 5),
        RetryWait(1, 1, 2, evil),
        ErrorShown(TurnIssue("llm", evil)),
    ):
        line = event_line(event, safe_text)
        assert line is not None and "\x1b" not in line and "\x07" not in line and "\n" not in line


def test_previews_are_one_line_of_at_most_the_limit() -> None:
    assert preview("a\n  b", 10) == "a b"
    assert preview("abcdef", 4) == "abc…"
    assert value_text({"a": [1]}) == '{"a":[1]}' and value_text("text") == "text"


def test_a_block_settles_at_a_blank_line_but_not_inside_a_fence() -> None:
    blocks = MarkdownBlocks()
    assert blocks.feed("one\n") == ""
    assert blocks.feed("\ntwo\n\n```\ncode\n\n") == "one\n\ntwo\n\n"
    assert blocks.feed("more\n```\n\ntail") == "```\ncode\n\nmore\n```\n\n"
    assert (blocks.tail, blocks.finish(), blocks.tail) == ("tail", "tail", "")


@pytest.mark.parametrize(
    "block",
    [
        "````md\n```\n\nshown\n```\n\n````\n\n",
        "```\n```python\n\ncode\n```\n\n",
        "~~~\n~~~~ no\n\ncode\n~~~~\n\n",
    ],
)
def test_a_fence_ends_at_one_as_long_that_says_nothing_else(block: str) -> None:
    blocks = MarkdownBlocks()
    settled = [blocks.feed(line) for line in f"{block}tail".splitlines(keepends=True)]
    assert [piece for piece in settled if piece] == [block]


def test_backticks_around_words_on_one_line_are_no_fence() -> None:
    assert MarkdownBlocks().feed("```a``` and so on\n\ntail") == "```a``` and so on\n\n"


@given(st.lists(st.text(alphabet="a`~\n ", max_size=8), max_size=30))
def test_settled_blocks_and_tail_are_the_text_however_it_was_cut(deltas) -> None:
    blocks = MarkdownBlocks()
    settled = "".join(blocks.feed(delta) for delta in deltas)
    assert settled + blocks.tail == "".join(deltas)
    whole = MarkdownBlocks()
    assert whole.feed("".join(deltas)).rstrip() == settled.rstrip(), "where the text was cut does not matter"
