"""A change that is cancelled is made or it is not, in memory as in the store (contract 01 §10, design D19).

Memory stays equal to the store without waiting for the next turn: who is
cancelled in the middle of a commit finds what the commit came to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from support.cancelling import MOST_STEPS, cancelled_at, settle
from support.scripted import ScriptedCaller, text

from lash_cli.api import (
    DirectRequest,
    FunctionToolProvider,
    LashCore,
    LashSession,
    Message,
    OpenAgentFrameRequest,
    ProtocolTurnOptions,
    SessionConfigPatch,
    SessionSpec,
    tool,
)
from lash_cli.core.codec import decode
from lash_cli.core.content import Role, TextPart
from lash_cli.core.frames import current_frame
from lash_cli.core.llm import LlmRequest, LlmResponse
from lash_cli.core.tools import ToolState
from lash_cli.core.usage import usage_report
from lash_cli.errors import SessionClosed
from lash_cli.store.base import ReadScope

WAIT_S = 30


class Nothing(msgspec.Struct):
    """No arguments."""


@tool(name="look")
async def look(args: Nothing, context: object) -> str:
    """A tool that is a member or not."""
    return "seen"


@tool(name="later")
async def later(args: Nothing, context: object) -> str:
    """A tool that is added to one session."""
    return "seen"


def said(message_id: str) -> Message:
    return Message(message_id, Role.USER, (TextPart(message_id),))


async def configure(session: LashSession) -> None:
    await session.configure(SessionConfigPatch(max_turns=3))


async def membership(session: LashSession) -> None:
    await session.tools().set_membership("look", False)


async def source(session: LashSession) -> None:
    await session.tools().add_provider(FunctionToolProvider([later]))


async def options(session: LashSession) -> None:
    await session.admin().set_protocol_turn_options(ProtocolTurnOptions(payload={"a": 1}))


async def frame(session: LashSession) -> None:
    await session.admin().open_agent_frame(OpenAgentFrameRequest("f2", "because"))


async def append(session: LashSession) -> None:
    await session.admin().append_messages([said("m1"), said("m2")])


async def replace(session: LashSession) -> None:
    await session.admin().replace_active_read_state([said("m1")])


async def move(session: LashSession) -> None:
    await session.admin().branch_to_node(None)


async def compact(session: LashSession) -> None:
    await session.admin().compact_context()


async def apply(session: LashSession) -> None:
    state = await session.admin().export_persistence_state()
    await session.admin().apply_persistence_state(msgspec.structs.replace(state, nodes=(), leaf_node_id=None))


async def reset(session: LashSession) -> None:
    await session.commands().reset("why", "k")
    await session.drain_next_session_command()


async def direct(session: LashSession) -> None:
    await session.direct_completion(DirectRequest((said("q"),)))


CHANGES = [configure, membership, source, options, frame, append, replace, move, compact, apply, reset, direct]


def answer(request: LlmRequest) -> LlmResponse:
    return text("an answer")


async def difference(session: LashSession) -> dict[str, tuple[Any, Any]]:
    """Where memory shows something else than the store has."""
    store = session._core.store
    read = await store.load_session(session.session_id, ReadScope.CONVERSATION)
    assert read is not None
    here, tools = session.read_view(), read.component_refs.get("tool_state")
    pairs = {
        "head": (here.head_revision, read.head_revision),
        "leaf": (here.leaf_node_id, read.leaf_node_id),
        "frames": (here.frames, read.frames),
        "policy": (here.policy, current_frame(read.frames).assignment.policy),
        "messages": (tuple(here.messages), tuple(read.messages)),
        "turns": (here.turn_index, read.turn_state.turn_index),
        "usage": (session.usage_report(), usage_report((*read.token_ledger, *session._state.owed))),
        "tools": (session.tools().state(), decode(await store.load_component(tools), ToolState) if tools else None),
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_cancelled_at_any_step_leaves_memory_as_the_store_is(
    make_core, change: Callable[[LashSession], Awaitable[None]], times: int
) -> None:
    core: LashCore = make_core(ScriptedCaller([answer], repeat=True), tools=[FunctionToolProvider([look])])
    for step in range(1, MOST_STEPS):
        session = await core.open_session(f"s{step}")
        await session.turn("one").run()
        at = frozenset(range(step, step + times))
        was_reached = await cancelled_at(change(session), at, every_task=False)
        await settle()
        assert await difference(session) == {}, step
        await asyncio.wait_for(session.turn("two").run(), WAIT_S)
        assert await difference(session) == {}, step
        await session.close()
        if not was_reached:
            return
    raise AssertionError(f"more than {MOST_STEPS} steps")


async def test_a_block_that_is_cancelled_at_any_step_of_its_end_lets_go_of_its_session(make_core) -> None:
    core: LashCore = make_core(ScriptedCaller([answer], repeat=True))
    await (await core.open_session("s")).turn("one").run()

    went_on = list[int]()

    async def leave(session: LashSession, step: int) -> None:
        async with session:
            pass
        went_on.append(step)

    for step in range(1, MOST_STEPS):
        session = await core.open_session("s", spec=SessionSpec(max_turns=step), mode="fresh")
        was_reached = await cancelled_at(leave(session, step), frozenset({step}), every_task=False)
        await settle()
        with pytest.raises(SessionClosed):
            await session.turn("two").run()
        if not was_reached:
            assert went_on == [step - 1, step], "one that comes before the last step ends it there"
            return
    raise AssertionError(f"more than {MOST_STEPS} steps")
