"""A turn asked for again is answered by its stamp, as completely as the store allows (contract 01 §7)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.doubling import double
from support.driving import S
from support.scripted import ScriptedCaller, calls, text
from support.switching import Switching, switch

from lash_cli.api import FunctionToolProvider, Inline, TurnOutput, tool
from lash_cli.core.content import Message, Role, TextPart, ToolCallPart, ToolResultPart
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.llm import LlmResponse
from lash_cli.core.tools import (
    FailureClass,
    FinishControl,
    SafeRetry,
    ToolCallOutput,
    ToolFailed,
    ToolSuccess,
    cancelled,
    failure,
)
from lash_cli.core.tools import RetryHint as Hint

PIXEL = Inline("image/png", b"\x89PNG\r\n\x1a\n" + bytes(16), "dot.png")


class Nothing(msgspec.Struct):
    """No arguments."""


@tool(name="look")
async def look(args: Nothing, context: object) -> dict[str, Any]:
    """A value that is no text."""
    return {"found": [1, 2]}


@tool(name="shoot")
async def shoot(args: Nothing, context: object) -> ToolCallOutput:
    """A picture."""
    return ToolCallOutput(ToolSuccess("taken", (PIXEL,)))


@tool(name="trip")
async def trip(args: Nothing, context: object) -> ToolCallOutput:
    """A failure of its own kind."""
    return failure(FailureClass.RESOURCE_LIMIT, "too_deep", "it goes no deeper")


@tool(name="flaky", retry=SafeRetry(2))
async def flaky(args: Nothing, context: object) -> ToolCallOutput:
    """Fails in a way that may be tried again, each time."""
    return failure(FailureClass.UNAVAILABLE, "not_there", "nobody home", retry=Hint("safe"))


@tool(name="leave")
async def leave(args: Nothing, context: object) -> ToolCallOutput:
    """Gives up."""
    return cancelled("left alone")


@tool(name="done")
async def done(args: Nothing, context: object) -> ToolCallOutput:
    """Ends the turn with a value."""
    return ToolCallOutput(ToolSuccess("ok"), FinishControl({"is": "done"}))


def tools() -> list[FunctionToolProvider]:
    return [FunctionToolProvider([double, look, shoot, trip, flaky, leave, done])]


BUSY = [
    calls(("a", "double", '{"value":2}'), ("b", "look", "{}"), ("c", "shoot", "{}")),
    calls(("d", "trip", "{}"), ("e", "flaky", "{}"), ("f", "leave", "{}")),
    text("there you are"),
]


async def again(make_core, steps: list[LlmResponse], *, tidy: bool = False, **options: Any) -> tuple[TurnOutput, ...]:
    """What a key was answered with, and what it is answered with when another core is asked for it again."""
    wiring = {"tools": tools(), **options}
    async with await make_core(ScriptedCaller(steps), **wiring).open_session(S) as session:
        first = await session.turn("go", key="k").run()
    core = make_core(ScriptedCaller([]), **wiring)
    if tidy:
        await core.store.gc_unreachable()
    async with await core.open_session(S) as session:
        repeated = await session.turn("go", key="k").run()
    assert repeated.replayed and not first.replayed
    return first, repeated


async def test_a_repeated_key_answers_with_the_tool_calls_of_its_turn(make_core) -> None:
    first, repeated = await again(make_core, BUSY)
    assert [record.call_id for record in first.result.tool_calls] == list("abcdef")
    assert repeated.result == first.result


async def test_without_its_journal_a_turn_still_has_its_calls_as_the_model_was_told_of_them(make_core) -> None:
    first, repeated = await again(make_core, BUSY, tidy=True)

    def outline(output: TurnOutput) -> list[Any]:
        return [(record.call_id, record.tool, record.args, record.output.status) for record in output.result.tool_calls]

    assert outline(repeated) == outline(first)
    two, looked, shot, tripped, flaked, left = [record.output for record in repeated.result.tool_calls]
    assert (two.outcome, looked.outcome) == (ToolSuccess("4"), ToolSuccess('{"found":[1,2]}'))
    assert shot == first.result.tool_calls[2].output
    assert [output.outcome.failure.message for output in (tripped, flaked)] == ["it goes no deeper", "nobody home"]
    assert left == cancelled("left alone")
    assert repeated.result.execution == first.result.execution
    assert repeated.result.errors == ()


async def test_a_call_that_no_attempt_was_made_of_is_answered_as_the_model_was_told(make_core) -> None:
    _, repeated = await again(make_core, [calls(("a", "nope", "{}"), ("b", "double", "[")), text("well")])
    nope, broken = repeated.result.tool_calls
    assert isinstance(nope.output.outcome, ToolFailed)
    assert nope.output.outcome.failure.message == "There is no tool named 'nope'."
    assert (broken.args, broken.output.status) == ("[", "failure")


async def test_a_turn_that_a_tool_ended_is_answered_with_what_was_said_before(make_core) -> None:
    called = calls(("a", "done", "{}"))
    first, repeated = await again(make_core, [LlmResponse((*text("hold on").parts, *called.parts), called.usage)])
    assert first.result.tool_value() == {"is": "done"} and first.result.assistant_output.raw_text == "hold on"
    assert repeated.result == first.result


@pytest.mark.parametrize("frame", ["f2", f"{S}:frame:initial"])
async def test_the_calls_that_another_frame_begins_with_are_not_those_of_the_turn(make_core, frame: str) -> None:
    begun = (
        Message("any", Role.ASSISTANT, (ToolCallPart("z", "look", "{}"),)),
        Message("any", Role.USER, (ToolResultPart("z", "look", "seen"),)),
        Message("any", Role.USER, (TextPart("so far"),)),
    )
    nodes = tuple(msgspec.to_builtins(ConversationPayload(message)) for message in begun)
    steps = [switch(frame, "finish it", "s"), calls(("a", "double", '{"value":2}')), text("finished")]
    first, repeated = await again(make_core, steps, tools=[Switching(nodes), *tools()])
    assert [[record.call_id for record in result.tool_calls] for result in (*first.frames, first.result)] == [
        ["s"],
        ["a"],
    ]
    assert (repeated.frames, repeated.result) == (first.frames, first.result)


async def test_calls_whose_nodes_are_hidden_are_said_to_be_missing(make_core) -> None:
    core = make_core(ScriptedCaller([text("one"), *BUSY, text("other")]), tools=tools())
    async with await core.open_session(S) as session:
        await session.turn("begin").run()
        behind = session.read_view().messages[-1].id
        await session.turn("go", key="k").run()
        hidden = [message.id for message in session.read_view().messages[2:]]
        await session.admin().branch_to_node(behind)
        await session.turn("elsewhere").run()
        await core.store.tombstone_nodes(S, hidden)
        repeated = await session.turn("go", key="k").run()
    assert repeated.result.execution.had_tool_calls and repeated.result.tool_calls == ()
    assert [issue.code for issue in repeated.result.errors] == ["answer_not_kept", "tool_calls_not_kept"]
    assert not any(issue.blocking for issue in repeated.result.errors)
