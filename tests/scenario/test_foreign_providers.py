"""Providers and model callers of a program's own that do something wrong: their turn has an outcome all the same, and
the session goes on (contract 01 §0 rule 6, 05 §3.6)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.doubling import Number
from support.driving import S, said
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    AssistantProseDelta,
    DirectRequest,
    FunctionToolProvider,
    LlmCallResult,
    LlmRequest,
    LlmResponse,
    ProsePart,
    RetryingCaller,
    Stopped,
    TextDelta,
    TokenUsage,
    ToolContext,
    tool,
)
from lash_cli.core.activity import ReasoningShown, ToolProgress
from lash_cli.core.content import AttachmentItem, Inline, TextItem, TurnInput, user_message
from lash_cli.core.llm import (
    AttemptRecord,
    EvidenceReported,
    ExecutionEvidence,
    LlmCallRecord,
    NormalizedError,
    ReasoningDelta,
    StreamEvent,
    TerminalReason,
    UsageReported,
)
from lash_cli.core.protocols import CancelSignal, EventSink
from lash_cli.errors import DirectCompletionError, LlmTransportError
from lash_cli.providers import retry
from lash_cli.runtime import asking

Answering = Callable[[LlmRequest, EventSink], Awaitable[Any]]


class Foreign:
    """A provider that does what it is given."""

    kind = "scripted"

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def complete(self, request: LlmRequest, sink: EventSink) -> LlmResponse:
        response: LlmResponse = await self._answering(request, sink)
        return response

    async def aclose(self) -> None:
        return


class ForeignCaller(ScriptedCaller):
    """A whole model caller that does what it is given."""

    def __init__(self, answering: Answering) -> None:
        super().__init__([])
        self._answering = answering

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        result: LlmCallResult = await self._answering(request, sink)
        return result


def answers(value: Any) -> Answering:
    async def answering(request: LlmRequest, sink: EventSink) -> Any:
        return value

    return answering


def reports(event: StreamEvent) -> Answering:
    async def answering(request: LlmRequest, sink: EventSink) -> Any:
        await sink(event)
        raise LlmTransportError("gone", kind="transport", retryable=False)

    return answering


def raises(error: BaseException) -> Answering:
    async def answering(request: LlmRequest, sink: EventSink) -> Any:
        raise error

    return answering


def response(content: Any = "hi", **fields: Any) -> LlmResponse:
    return LlmResponse((ProsePart(content),), **fields)


def fails(**fields: Any) -> Answering:
    return raises(LlmTransportError("gone", **{"kind": "http", **fields}))


WRONG_ANSWERS: dict[str, Answering] = {
    "nothing": answers(None),
    "text": answers("hi"),
    "a class": answers(LlmResponse),
    "parts of another kind": answers(LlmResponse(("hi",))),  # type: ignore[arg-type]
    "half a surrogate pair": answers(response("\ud800")),
    "tokens as text": answers(response(usage=TokenUsage("5", 1))),  # type: ignore[arg-type]
    "half a token": answers(response(usage=TokenUsage(1.5, 1))),  # type: ignore[arg-type]
    "tokens given back": answers(response(usage=TokenUsage(-5, 1))),
    "more tokens than a store can hold": answers(response(usage=TokenUsage(10**30, 1))),
    "no usage": answers(response(usage=None)),
    "an unknown reason": answers(response(terminal_reason="tired")),
    "reports of more tokens than a store can hold": reports(UsageReported(TokenUsage(10**30, 1))),
    "reports of a model whose name no UTF-8 can hold": reports(EvidenceReported(ExecutionEvidence("\ud800"))),
    "an exception": raises(ValueError("of its own")),
    "an exception that no UTF-8 can hold": raises(ValueError("\ud800")),
    "a cancellation of its own": raises(asyncio.CancelledError()),
    "a failure of an unknown reason": fails(terminal_reason="tired"),
    "a failure whose kind no UTF-8 can hold": fails(kind="\ud800"),
    "a failure at an unknown place": fails(protocol_position="somewhere"),
    "a failure with a number for its words": fails(raw=5),
    "a failure whose status is a text": fails(status="busy"),
    "a failure behind tokens as text": fails(partial=response(usage=TokenUsage("5", 1))),  # type: ignore[arg-type]
    "a failure behind more tokens than a store can hold": fails(partial=response(usage=TokenUsage(10**30, 1))),
    "a failure of a model whose name no UTF-8 can hold": fails(partial=response(evidence=ExecutionEvidence("\ud800"))),
}
WRONG_RESULTS: dict[str, Answering] = {
    "nothing": answers(None),
    "an answer": answers(response()),
    "neither": answers(LlmCallResult(LlmCallRecord("r"))),
    "parts of another kind": answers(LlmCallResult(LlmCallRecord("r"), LlmResponse(("hi",)))),  # type: ignore[arg-type]
    "a number for a text": answers(LlmCallResult(LlmCallRecord("r"), response(5))),
    "half a surrogate pair": answers(LlmCallResult(LlmCallRecord("r"), response("\ud800"))),
    "half a surrogate pair for an error": answers(
        LlmCallResult(LlmCallRecord("r"), error=NormalizedError("k", "\ud800"))
    ),
    "tokens given back": answers(LlmCallResult(LlmCallRecord("r"), response(usage=TokenUsage(-5, 1)))),
    "more tokens than a store can hold": answers(
        LlmCallResult(LlmCallRecord("r", (AttemptRecord(1, 0, 0, usage=TokenUsage(10**30, 1)),)), response())
    ),
    "an exception": raises(ValueError("of its own")),
    "a cancellation of its own": raises(asyncio.CancelledError()),
}


async def goes_on(make_core, caller: Any) -> None:
    async with asyncio.timeout(30):
        core = make_core(caller)
        async with await core.open_session(S) as session:
            result = (await session.turn("hello").run()).result
            assert isinstance(result.outcome, Stopped) and result.outcome.reason == "provider_error"
            assert [issue.code for issue in result.errors] == ["provider_panicked"]
            asked = DirectRequest((user_message("d", TurnInput.text("hello")),))
            with pytest.raises(DirectCompletionError) as failed:
                await session.direct_completion(asked)
            assert failed.value.code == "provider_panicked"
        async with await make_core(ScriptedCaller([text("fine")])).open_session(S) as session:
            assert (await session.turn("again").run()).result.assistant_message() == "fine"
            assert said(session.read_view().messages) == ["hello", "again", "fine"]


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
async def test_a_provider_that_answers_nonsense_stops_its_turn_and_no_other(make_core, wrong: str) -> None:
    await goes_on(make_core, RetryingCaller(Foreign(WRONG_ANSWERS[wrong])))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (ValueError("of its own"), "the model caller raised ValueError: of its own"),
        ("not \ud800", "not \\ud800"),
        (5, "the model caller answered int"),
    ],
    ids=["an exception", "half a surrogate pair", "a number"],
)
async def test_a_model_caller_that_judges_an_attachment_with_nonsense_has_refused_it(
    make_core, wrong: Any, why: str
) -> None:
    class Judging(ScriptedCaller):
        def attachment_refusal(self, source: object) -> Any:
            if isinstance(wrong, Exception):
                raise wrong
            return wrong

    picture = TurnInput((TextItem("look"), AttachmentItem(Inline("image/png", b"png"))))
    async with await make_core(Judging([text("fine")])).open_session(S) as session:
        result = (await session.turn(picture).run()).result
        assert (result.outcome, [issue.message for issue in result.errors]) == (Stopped("invalid_input"), [why])
        assert (await session.turn("without").run()).result.assistant_message() == "fine"


@pytest.mark.parametrize("wrong", WRONG_RESULTS)
async def test_a_model_caller_that_answers_nonsense_stops_its_turn_and_no_other(make_core, wrong: str) -> None:
    await goes_on(make_core, ForeignCaller(WRONG_RESULTS[wrong]))


CANCELLED: dict[str, LlmCallResult] = {
    "an answer": LlmCallResult(LlmCallRecord("r"), response("half", terminal_reason=TerminalReason.CANCELLED)),
    "an error": LlmCallResult(
        LlmCallRecord("r"), error=NormalizedError("unknown", "gone", terminal_reason=TerminalReason.CANCELLED)
    ),
}


@pytest.mark.parametrize("how", CANCELLED)
async def test_a_call_that_nobody_here_cancelled_is_a_failure_of_its_provider(make_core, how: str) -> None:
    async with asyncio.timeout(30):
        async with await make_core(ForeignCaller(answers(CANCELLED[how]))).open_session(S) as session:
            result = (await session.turn("hello").run()).result
            assert isinstance(result.outcome, Stopped) and result.outcome.reason == "provider_error"
            assert [issue.terminal_reason for issue in result.errors] == ["provider_error"]
        async with await make_core(ScriptedCaller([text("fine")])).open_session(S) as session:
            assert (await session.turn("again").run()).result.assistant_message() == "fine"
            assert said(session.read_view().messages) == ["hello", "again", "fine"]


@pytest.mark.parametrize("kind", [lambda answering: RetryingCaller(Foreign(answering)), ForeignCaller])
async def test_a_text_that_no_utf8_can_hold_is_shown_as_far_as_it_can_be(make_core, kind: Any) -> None:
    async def answering(request: LlmRequest, sink: EventSink) -> Any:
        await sink(TextDelta("a\ud800b"))
        return response() if kind is not ForeignCaller else LlmCallResult(LlmCallRecord("r"), response())

    async with await make_core(kind(answering)).open_session(S) as session:
        output = await session.turn("hello").run()
        assert output.result.assistant_message() == "hi"
        assert AssistantProseDelta("a\\ud800b") in [item.event for item in output.activities]


@pytest.mark.parametrize("kind", [lambda answering: RetryingCaller(Foreign(answering)), ForeignCaller])
@pytest.mark.parametrize("event", [TextDelta(5), ReasoningDelta(None), "text", None])  # type: ignore[arg-type]
async def test_what_is_shown_that_nobody_can_read_is_not_shown(make_core, kind: Any, event: Any) -> None:
    async def answering(request: LlmRequest, sink: EventSink) -> Any:
        await sink(event)
        return response() if kind is not ForeignCaller else LlmCallResult(LlmCallRecord("r"), response())

    async with await make_core(kind(answering)).open_session(S) as session:
        output = await session.turn("hello").run()
        assert output.result.assistant_message() == "hi"
        shown = [item.event for item in output.activities]
        assert [event for event in shown if isinstance(event, AssistantProseDelta)] == [AssistantProseDelta("hi")]
        assert not [event for event in shown if isinstance(event, ReasoningShown)]


async def test_the_progress_of_a_tool_that_no_utf8_can_hold_is_shown_as_far_as_it_can_be(make_core) -> None:
    @tool(name="double")
    async def double(arguments: Number, context: ToolContext) -> str:
        context.progress("a\ud800b")
        await asyncio.sleep(0)
        return "done"

    caller = ScriptedCaller([calls(("a", "double", '{"value": 1}')), text("fine")])
    async with await make_core(caller, tools=[FunctionToolProvider([double])]).open_session(S) as session:
        output = await session.turn("hello").run()
        assert output.result.assistant_message() == "fine"
        told = [item.event.text for item in output.activities if isinstance(item.event, ToolProgress)]
        assert told == ["a\\ud800b"]


@pytest.mark.parametrize("by", ["cancel", "the time of the turn", "the awaiting task"])
@pytest.mark.parametrize("is_stubborn", [False, True])
async def test_a_model_caller_that_takes_no_notice_of_a_cancel_is_cut_off(
    make_core, monkeypatch, by: str, is_stubborn: bool
) -> None:
    monkeypatch.setattr(asking, "CANCEL_GRACE_S", 0.05)
    is_begun = asyncio.Event()

    async def answering(request: LlmRequest, sink: EventSink) -> Any:
        is_begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if not is_stubborn:
                raise
        return LlmCallResult(LlmCallRecord("r"), response())

    async with asyncio.timeout(30), await make_core(ForeignCaller(answering)).open_session(S) as session:
        turn = session.turn("hello", timeout_ms=50 if by == "the time of the turn" else None)
        running = asyncio.ensure_future(turn.run())
        await is_begun.wait()
        if by == "cancel":
            assert session.cancel_running_turns() == 1
        elif by == "the awaiting task":
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        if by != "the awaiting task":
            assert (await running).result.outcome == Stopped("cancelled")
        assert said(session.read_view().messages) == ["hello"]


@pytest.mark.parametrize("kind", [lambda answering: RetryingCaller(Foreign(answering)), ForeignCaller])
@pytest.mark.parametrize("by", ["cancel", "the awaiting task"])
async def test_one_that_swallows_every_cancel_does_not_hold_its_turn_and_is_heard_no_more(
    make_core, monkeypatch, caplog, kind: Any, by: str
) -> None:
    monkeypatch.setattr(asking, "CANCEL_GRACE_S", 0.05)
    monkeypatch.setattr(retry, "CANCEL_GRACE_S", 0.05)
    is_begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answering(request: LlmRequest, sink: EventSink) -> Any:
        is_begun.set()
        await sink(TextDelta("seen "))
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()
        await sink(TextDelta("late"))
        ended.set()
        return response("late") if kind is not ForeignCaller else LlmCallResult(LlmCallRecord("r"), response("late"))

    core = make_core(kind(answering))
    try:
        async with asyncio.timeout(10), await core.open_session(S) as session:
            shown: list[Any] = []
            running = asyncio.ensure_future(session.turn("hello").run())
            await is_begun.wait()
            if by == "cancel":
                assert session.cancel_running_turns() == 1
                output = await running
                assert output.result.outcome == Stopped("cancelled")
                shown = [item.event for item in output.activities if isinstance(item.event, AssistantProseDelta)]
                assert shown == [AssistantProseDelta("seen ")]
            else:
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
            assert "goes on although it was cancelled" in caplog.text
            kept = said(session.read_view().messages)
            assert "late" not in kept
            may_end.set()
            await ended.wait()
            assert said(session.read_view().messages) == kept
        async with await make_core(ScriptedCaller([text("fine")])).open_session(S) as session:
            assert (await session.turn("again").run()).result.assistant_message() == "fine"
            assert "late" not in said(session.read_view().messages)
    finally:
        may_end.set()
