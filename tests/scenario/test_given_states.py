"""Opening a session with a state that the caller supplies (contract 01 §2.3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashSession, RuntimeSessionState, SessionNode
from lash_cli.core.content import ToolCallPart, message_text
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.tools import ToolManifest, ToolState, ToolStateEntry
from lash_cli.errors import StoreSessionMismatch, UsageError

Change = Callable[[RuntimeSessionState], RuntimeSessionState]


async def test_a_state_goes_on_from_its_leaf_and_keeps_its_branches(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two"), text("three")])
    core = make_core(caller)
    async with await core.open_session("s1") as session:
        for words in ("a", "b"):
            await session.turn(words).run()
        state = session.export_state().rebound_to("s2")
    state = replace(state, leaf_node_id=state.nodes[1].node_id)
    async with await core.open_with_state("s2", state) as copied:
        assert [message_text(message) for message in copied.read_view().messages] == ["a", "one"]
        await copied.turn("c").run()
        assert [message_text(message) for message in caller.requests[2].messages] == ["a", "one", "c"]
    tree = await core.message_tree("s2")
    assert [message_text(entry.message) for entry in tree if not entry.is_active] == ["b", "two"]
    async with await core.open_session("s2") as again:
        assert [message_text(message) for message in again.read_view().messages] == ["a", "one", "c", "three"]


def with_nodes(change: Callable[[SessionNode, SessionNode], tuple[SessionNode, ...]]) -> Change:
    return lambda state: replace(state, nodes=change(*state.nodes))


def with_two_active_frames(state: RuntimeSessionState) -> RuntimeSessionState:
    (frame,) = state.frames
    return replace(state, frames=(frame, replace(frame, frame_id="other")))


def with_an_open_call(asked: SessionNode, answered: SessionNode) -> tuple[SessionNode, ...]:
    message = replace(answered.payload.message, parts=(ToolCallPart("c1", "ls", "{}"),))
    return asked, replace(answered, payload=ConversationPayload(message))


UNSOUND: dict[str, Change] = {
    "exactly one active frame, found 0": lambda state: replace(state, frames=(), nodes=(), leaf_node_id=None),
    "exactly one active frame, found 2": with_two_active_frames,
    "is there twice": with_nodes(lambda asked, answered: (asked, answered, asked)),
    "does not stand before it": with_nodes(lambda asked, answered: (answered, asked)),
    "is in an unknown frame": with_nodes(lambda asked, answered: (asked, replace(answered, agent_frame_id="x"))),
    "Expected `object`, got `str`": with_nodes(
        lambda asked, answered: (asked, replace(answered, payload=ConversationPayload("a text")))  # type: ignore[arg-type]
    ),
    "is missing": lambda state: replace(state, leaf_node_id="nowhere"),
    "files tool b under a": lambda state: replace(
        state, tool_state=ToolState(tools={"a": ToolStateEntry(ToolManifest("b", "look", "look"))})
    ),
    "tool calls without a result": with_nodes(with_an_open_call),
}


@pytest.mark.parametrize("problem", UNSOUND)
async def test_a_state_that_does_not_hold_together_is_refused_before_anything_is_written(make_core, problem) -> None:
    core = make_core(ScriptedCaller([text("one")]))
    async with await core.open_session("s1") as session:
        await session.turn("a").run()
        state = session.export_state().rebound_to("s2")
    with pytest.raises(UsageError, match=problem) as refused:
        await core.open_with_state("s2", UNSOUND[problem](state))
    assert refused.value.code == "session_state_invalid"
    assert await core.store.session_row("s2") is None


@pytest.mark.parametrize(
    "given", [{"session_id": "s2"}, "a state", 5], ids=["as it came out of a file", "its text", "something else"]
)
async def test_what_is_no_state_is_refused_as_one_that_does_not_hold_together(make_core, given) -> None:
    core = make_core(ScriptedCaller([]))
    async with await core.open_session("s1") as session:
        for handing_in in (lambda: core.open_with_state("s2", given), lambda: apply(session, given)):
            with pytest.raises(UsageError, match="it is a RuntimeSessionState, not") as refused:
                await handing_in()
            assert refused.value.code == "session_state_invalid"
    assert await core.store.session_row("s2") is None


async def test_a_state_whose_policy_is_none_is_refused_as_one_that_does_not_hold_together(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    async with await core.open_session("s1") as session:
        state = replace(session.export_state().rebound_to("s2"), policy="the usual one")
    with pytest.raises(UsageError, match="policy") as refused:
        await core.open_with_state("s2", state)
    assert refused.value.code == "session_state_invalid"


async def test_the_state_of_another_session_is_refused_with_what_makes_it_one_of_this(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    async with await core.open_session("s1") as session:
        with pytest.raises(StoreSessionMismatch) as refused:
            await core.open_with_state("s2", session.export_state())
    assert "rebound_to('s2')" in (refused.value.hint or "")


async def apply(session: LashSession, state: RuntimeSessionState) -> None:
    await session.admin().apply_persistence_state(state)
