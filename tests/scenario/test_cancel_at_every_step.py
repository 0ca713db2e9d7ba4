"""Cancelling at every step of the event loop: the store stays whole, and the session goes on (contract 01 §6.6)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
import pytest
from support.cancelling import MOST_STEPS, cancelled_at, settle
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import FunctionToolProvider, LashCore, LashSession, tool
from lash_cli.core.content import Message, Role, ToolCallPart, ToolResultPart, is_safe_to_resume, message_text
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.llm import LlmRequest, LlmResponse
from lash_cli.errors import NotFoundError
from lash_cli.runtime.lane import claimed_lane

PROMPT = "call it twice"


class Nothing(msgspec.Struct):
    """No arguments."""


@tool(name="look")
async def look(args: Nothing, context: object) -> str:
    """Something to wait for."""
    await asyncio.sleep(0)
    return "seen"


def _answer(request: LlmRequest) -> LlmResponse:
    """What the model says by what stands last, so that a call that is made again is answered alike."""
    last = request.messages[-1]
    if any(isinstance(part, ToolResultPart) for part in last.parts):
        return text("seen twice")
    return text("after") if message_text(last) == "go on" else calls(("c1", "look", "{}"), ("c2", "look", "{}"))


def _is_answered(messages: tuple[Message, ...]) -> bool:
    parts = [part for message in messages for part in message.parts]
    made = [part.tool_call_id for part in parts if isinstance(part, ToolCallPart)]
    return made == [part.tool_call_id for part in parts if isinstance(part, ToolResultPart)]


async def _run_turn(session: LashSession) -> None:
    await session.turn(PROMPT).run()


async def _stream_turn(session: LashSession) -> None:
    async with session.turn(PROMPT).stream() as stream:
        async for _ in stream:
            pass
        await stream.result()


async def _queue_turn(session: LashSession) -> None:
    await session.enqueue(PROMPT, id="once")
    await session.queued_turn().run()


async def _change_tools(session: LashSession) -> None:
    await session.tools().set_membership("look", False)
    await session.tools().set_membership("look", True)


@pytest.mark.parametrize("after", [(0,), (0, 1), (0, 3)], ids=["once", "twice", "twice-later"])
@pytest.mark.parametrize("every_task", [False, True], ids=["caller", "every-task"])
@pytest.mark.parametrize("work", [_run_turn, _stream_turn, _queue_turn, _change_tools])
async def test_a_cancel_at_any_step_leaves_a_whole_session_that_goes_on(make_core, work, every_task, after) -> None:
    caller = ScriptedCaller([_answer], repeat=True)
    core: LashCore = make_core(caller, tools=[FunctionToolProvider([look])])
    reader: LashCore = make_core(ScriptedCaller([]))
    rival = LeaseOwnerIdentity("rival", "rival-1")
    for step in range(1, MOST_STEPS):
        session = await core.open_session(f"s{step}")
        at = frozenset(step + later for later in after)
        was_reached = await cancelled_at(work(session), at, every_task=every_task)
        await settle()
        with suppress(NotFoundError):  # what begins a session was not written
            async with claimed_lane(core.host, core.store, rival, session.session_id):
                pass  # nobody waits for the lane
        if session.tools().active_manifests() == ():
            await session.tools().set_membership("look", True)
        output = await asyncio.wait_for(session.turn("go on").run(), 30)
        assert output.result is not None and output.result.assistant_message() == "after", step
        await session.close()

        read = await reader.open_session(f"s{step}")
        messages = read.read_view().messages
        said = [message_text(message) for message in messages if message.role is Role.USER]
        assert said.count(PROMPT) <= 1 and said.count("go on") == 1, step
        assert is_safe_to_resume(messages) and _is_answered(messages), step
        assert (await read.redrive().run()).result is None, step
        await read.close()
        if not was_reached:
            return
    raise AssertionError(f"more than {MOST_STEPS} steps")
