"""The answer on its way out: nothing retracted or failed reaches a pipe, nothing is shown twice."""

from __future__ import annotations

import io

import pytest

from lash_cli.core.activity import (
    AssistantProseDelta,
    ModelAttemptReset,
    ModelRequestStarted,
    ToolCallStarted,
    TurnActivity,
    TurnEvent,
)
from lash_cli.core.outcome import (
    AssistantMessage,
    AssistantOutput,
    ExecutionSummary,
    Finished,
    Stopped,
    ToolValue,
    TurnOutcome,
    TurnResult,
)
from lash_cli.views.answer import MarkdownTerminalView, PipeView, PlainTerminalView, QuietView, TurnView
from lash_cli.views.safe_text import safe_text


def activity(event: TurnEvent, correlation: str = "c") -> TurnActivity:
    return TurnActivity("s", "t", correlation, event)


def result(outcome: TurnOutcome) -> TurnResult:
    return TurnResult("s", "t", outcome, AssistantOutput("", "", "usable"), ExecutionSummary(False, False, 0, 0))


def answered(text: str) -> TurnResult:
    return result(Finished(AssistantMessage(text)))


class Screen:
    """What was written to stdout and told on stderr."""

    def __init__(self, kind: str = "pipe") -> None:
        self.out: list[str] = []
        self.told: list[str] = []
        self.file = io.StringIO()
        self.view: TurnView = {
            "pipe": lambda: PipeView(self.out.append, self.told.append, safe_text),
            "plain": lambda: PlainTerminalView(self.out.append, self.told.append, safe_text),
            "quiet": lambda: QuietView(self.out.append, safe_text),
            "markdown": lambda: MarkdownTerminalView(self.file, self.told.append, safe_text, color=False, width=60),
        }[kind]()

    @property
    def text(self) -> str:
        return "".join(self.out)

    def play(self, *events: TurnEvent | tuple[str, TurnEvent]) -> None:
        for event in events:
            correlation, actual = event if isinstance(event, tuple) else ("c", event)
            self.view.show(activity(actual, correlation))


DELTAS = (ModelRequestStarted(0), AssistantProseDelta("hel"), AssistantProseDelta("lo"))


@pytest.mark.parametrize("kind", ["pipe", "plain", "quiet"])
def test_a_streamed_answer_is_written_once_and_ends_with_a_line_feed(kind) -> None:
    screen = Screen(kind)
    screen.play(*DELTAS)
    screen.view.finish(answered("hello"), replayed=False)
    screen.view.leave()
    assert screen.text == "hello\n"


@pytest.mark.parametrize("kind", ["pipe", "plain", "quiet"])
def test_a_replayed_answer_is_written_although_nothing_streamed(kind) -> None:
    screen = Screen(kind)
    screen.view.finish(answered("hello"), replayed=True)
    assert screen.text == "hello\n"


@pytest.mark.parametrize("kind", ["pipe", "plain", "quiet"])
def test_a_value_is_an_answer_too(kind) -> None:
    screen = Screen(kind)
    screen.view.finish(result(Finished(ToolValue("submit", {"a": 1}))), replayed=False)
    assert screen.text == '{"a":1}\n'


def test_a_pipe_gets_nothing_of_a_turn_that_stopped() -> None:
    screen = Screen()
    screen.play(*DELTAS)
    assert screen.text == "", "nothing is written before the turn has finished"
    screen.view.finish(result(Stopped("provider_error")), replayed=False)
    screen.view.leave()
    assert screen.text == ""


def test_a_pipe_never_sees_a_retracted_attempt() -> None:
    screen = Screen()
    screen.play(
        ModelRequestStarted(0),
        ("a", AssistantProseDelta("half an ans")),
        ModelAttemptReset(("a",)),
        ("b", AssistantProseDelta("whole")),
    )
    screen.view.finish(answered("whole"), replayed=False)
    assert screen.text == "whole\n"


def test_a_pipe_gets_the_prose_of_every_step_in_order() -> None:
    screen = Screen()
    screen.play(*DELTAS, ToolCallStarted("k", "run", {}), ModelRequestStarted(1), ("d", AssistantProseDelta("done")))
    screen.view.finish(answered("done"), replayed=False)
    assert screen.text == "hello\ndone\n"
    assert screen.told == ["[tool] run started {}"]


def test_a_plain_terminal_streams_and_disowns_what_was_cut_off() -> None:
    screen = Screen("plain")
    screen.play(ModelRequestStarted(0), ("a", AssistantProseDelta("half")))
    assert screen.text == "half"
    screen.play(ModelAttemptReset(("a",)), ("b", AssistantProseDelta("whole")))
    screen.view.finish(answered("whole"), replayed=False)
    assert screen.text == "half\nwhole\n"
    assert len(screen.told) == 1 and "cut off" in screen.told[0]


def test_blank_lines_before_a_retracted_call_are_no_answer_that_a_plain_terminal_would_disown() -> None:
    screen = Screen("plain")
    screen.play(ModelRequestStarted(0), ("a", AssistantProseDelta("\n\n")), ModelAttemptReset(("a",)))
    screen.play(("b", AssistantProseDelta("whole")))
    screen.view.finish(answered("whole"), replayed=False)
    assert screen.text.lstrip() == "whole\n"
    assert screen.told == []


def test_notes_start_on_a_line_of_their_own_on_a_plain_terminal() -> None:
    screen = Screen("plain")
    screen.play(*DELTAS, ToolCallStarted("k", "run", {}))
    assert screen.text.endswith("\n")


def test_a_terminal_renders_complete_blocks_once() -> None:
    screen = Screen("markdown")
    screen.play(ModelRequestStarted(0), AssistantProseDelta("some *text*\n\nlast"))
    screen.view.finish(answered("some *text*\n\nlast"), replayed=False)
    screen.view.leave()
    shown = screen.file.getvalue()
    assert "some text" in shown.replace("\x1b[3m", "").replace("\x1b[0m", "") and "*text*" not in shown.splitlines()[-1]
    assert shown.rstrip().endswith("last")


def test_a_terminal_cannot_be_steered_by_the_model() -> None:
    for kind in ("plain", "markdown", "pipe"):
        screen = Screen(kind)
        screen.play(ModelRequestStarted(0), AssistantProseDelta("\x1b]0;owned\x07\u202e\n\nx"))
        screen.view.finish(answered("\x1b]0;owned\x07\u202e\n\nx"), replayed=False)
        screen.view.leave()
        written = screen.text + screen.file.getvalue()
        assert "\x1b]" not in written and "\x07" not in written and "\u202e" not in written
        assert "\\x1b]0;owned\\x07" in written


class Piece(str):
    """Text that will not be joined to other text by a `+`, which copies all that came before."""

    def __radd__(self, earlier: str) -> str:
        raise AssertionError(f"{len(earlier)} characters were copied for one more piece")


@pytest.mark.parametrize("kind", ["pipe", "plain"])
def test_a_long_answer_is_not_copied_again_for_each_of_its_pieces(kind: str) -> None:
    screen = Screen(kind)
    screen.view.show(activity(ModelRequestStarted(1)))
    for word in ("one ", "two ", "three"):
        screen.view.show(activity(AssistantProseDelta(Piece(word))))
    screen.view.finish(answered("one two three"), replayed=False)
    assert screen.text == "one two three\n"
