"""Adding to a session from outside a turn: what the model is told next, whose branch it is, and repeats (01 §8.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.driving import Crash, CrashPoints, S, said
from support.scripted import ScriptedCaller, text

from lash_cli import (
    Appended,
    AppendSessionNodesRequest,
    DirectRequest,
    LashCore,
    LashSession,
    Message,
    OpenAgentFrameRequest,
    SessionAppendNode,
    StaleBranch,
)
from lash_cli.core.commit import RuntimeCommit
from lash_cli.core.content import PluginOrigin, Role, TextPart, ToolCallPart
from lash_cli.core.graph import CausalRef, ConversationPayload, PluginPayload
from lash_cli.core.lease import LeaseFence
from lash_cli.core.observation import StateCommitted
from lash_cli.errors import (
    ConflictError,
    LashRuntimeError,
    SessionClosed,
    SessionExecutionBusy,
    StoreError,
    StoreLocked,
)
from lash_cli.runtime.observing import Replayed
from lash_cli.store.base import ReadScope

MakeCore = Callable[..., LashCore]


def echo() -> ScriptedCaller:
    return ScriptedCaller([text("ok")], repeat=True)


def message(words: str, role: Role = Role.USER, **rest: object) -> Message:
    return Message(f"given-{words}", role, (TextPart(words),), **rest)  # type: ignore[arg-type]


def request(*words: str, **rest: str | None) -> AppendSessionNodesRequest:
    nodes = tuple(SessionAppendNode(ConversationPayload(message(word))) for word in words)
    return AppendSessionNodesRequest(nodes, **rest)


async def stored(session: LashSession) -> list[str]:
    read = await session._core.store.load_session(S, ReadScope.CONVERSATION)
    assert read is not None
    return said(read.messages)


async def test_what_was_appended_is_what_the_model_is_told_next_in_this_process_and_in_the_next(
    make_core: MakeCore,
) -> None:
    caller = echo()
    session = await make_core(caller).open_session(S)
    await session.turn("one").run()
    before = session.read_view()
    done = await session.admin().append_messages([message("noted"), message("seen", Role.ASSISTANT)])
    assert len(done.node_ids) == 2 and done.leaf_node_id == done.node_ids[-1] == session.read_view().leaf_node_id
    assert session.read_view().head_revision == (before.head_revision or 0) + 1
    assert said(before.messages) == ["one", "ok"], "a view that was taken stays as it is"
    await session.turn("two").run()
    assert said(caller.requests[-1].messages) == ["one", "ok", "noted", "seen", "two"]
    again = echo()
    other = await make_core(again).open_session(S, create=False)
    await other.turn("three").run()
    assert said(again.requests[-1].messages) == ["one", "ok", "noted", "seen", "two", "ok", "three"]


async def test_a_session_that_said_nothing_yet_begins_with_what_is_appended(make_core: MakeCore) -> None:
    caller = echo()
    session = await make_core(caller).open_session(S)
    await session.admin().append_messages([message("the setting")])
    assert await stored(session) == ["the setting"]
    await session.turn("one").run()
    assert said(caller.requests[-1].messages) == ["the setting", "one"]


async def test_a_record_of_a_plugin_stands_in_the_session_with_its_cause_and_no_model_is_shown_it(
    make_core: MakeCore,
) -> None:
    caller = echo()
    core = make_core(caller)
    session = await core.open_session(S)
    await session.turn("one").run()
    cause = CausalRef("trigger_occurrence", "trg_1")
    node = SessionAppendNode(PluginPayload("notebook", {"page": 7}), cause)
    done = await session.admin().append_session_nodes(AppendSessionNodesRequest((node,)))
    assert isinstance(done, Appended)
    plain = await session.admin().append_plugin_body("notebook", {"page": 8})
    first = await core.store.load_node(S, done.node_ids[0])
    second = await core.store.load_node(S, plain.node_ids[0])
    assert first is not None and (first.payload, first.caused_by) == (PluginPayload("notebook", {"page": 7}), cause)
    assert second is not None and second.parent_node_id == first.node_id
    await session.turn("two").run()
    assert said(caller.requests[-1].messages) == ["one", "ok", "two"]


async def test_an_observer_is_told_of_the_commit(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await core.open_session(S)
    await session.turn("one").run()
    watched = make_core(echo()).observe(S)
    cursor = (await watched.current_observation()).cursor
    await session.admin().append_messages([message("noted")])
    found = await watched.resume_from_cursor(cursor)
    assert isinstance(found, Replayed)
    assert [type(event.payload) for event in found.events] == [StateCommitted]
    assert said((await watched.current_observation()).read_view.messages) == ["one", "ok", "noted"]


async def test_a_repeated_operation_adds_nothing_and_answers_the_same(make_core: MakeCore) -> None:
    session = await make_core(echo()).open_session(S)
    first = await session.admin().append_session_nodes(request("a", "b", operation_id="op-1"))
    await session.turn("one").run()
    again = await session.admin().append_session_nodes(request("a", "b", operation_id="op-1"))
    assert isinstance(first, Appended) and isinstance(again, Appended)
    assert again.node_ids == first.node_ids and again.leaf_node_id == session.read_view().leaf_node_id
    assert await stored(session) == ["a", "b", "one", "ok"]


async def test_a_repeated_record_is_compared_as_it_is_stored(make_core: MakeCore) -> None:
    session = await make_core(echo()).open_session(S)
    first = await session.admin().append_plugin_body("notebook", {"pages": (1, 2)}, operation_id="op-1")
    assert await session.admin().append_plugin_body("notebook", {"pages": (1, 2)}, operation_id="op-1") == first


@pytest.mark.parametrize("words", [("a", "c"), ("a",), ("a", "b", "c"), ("b", "b")])
async def test_an_operation_that_says_something_else_is_refused(make_core: MakeCore, words: tuple[str, ...]) -> None:
    session = await make_core(echo()).open_session(S)
    await session.admin().append_session_nodes(request("a", "b", operation_id="op-1"))
    with pytest.raises(ConflictError) as refused:
        await session.admin().append_session_nodes(request(*words, operation_id="op-1"))
    assert refused.value.code == "node_exists"
    assert await stored(session) == ["a", "b"]


@pytest.mark.parametrize("point", ["before:append", "after:append"])
async def test_an_append_that_a_crash_cut_off_stands_once_when_it_is_repeated(make_core: MakeCore, point: str) -> None:
    session = await make_core(echo(), crash_point=CrashPoints(point)).open_session(S)
    with pytest.raises(Crash):
        await session.admin().append_session_nodes(request("a", "b", operation_id="op-1"))
    other = await make_core(echo()).open_session(S)
    await other.admin().append_session_nodes(request("a", "b", operation_id="op-1"))
    assert await stored(other) == said(other.read_view().messages) == ["a", "b"]


async def test_a_required_ancestor_on_the_path_is_enough_whatever_was_said_since(make_core: MakeCore) -> None:
    session = await make_core(echo()).open_session(S)
    await session.turn("one").run()
    ancestor = session.read_view().messages[0].id
    await session.turn("two").run()
    done = await session.admin().append_session_nodes(request("noted", requires_ancestor_node_id=ancestor))
    assert isinstance(done, Appended)
    assert await stored(session) == ["one", "ok", "two", "ok", "noted"]


async def test_a_branch_that_was_left_takes_nothing(make_core: MakeCore) -> None:
    session = await make_core(echo()).open_session(S)
    await session.turn("one").run()
    root = session.read_view().messages[1].id
    await session.turn("two").run()
    left = session.read_view().leaf_node_id
    await session.admin().branch_to_node(root)
    before = session.read_view()
    done = await session.admin().append_session_nodes(request("noted", requires_ancestor_node_id=left))
    assert done == StaleBranch(root)
    assert (await session._core.store.head_position(S)).head_revision == before.head_revision
    assert await stored(session) == ["one", "ok"]
    unknown = await session.admin().append_session_nodes(request("noted", requires_ancestor_node_id="no such node"))
    assert unknown == StaleBranch(root)
    assert isinstance(await session.admin().append_session_nodes(request("x", requires_ancestor_node_id="")), Appended)


async def test_an_ancestor_in_an_older_frame_and_one_that_is_no_message_are_found(make_core: MakeCore) -> None:
    session = await make_core(echo()).open_session(S)
    await session.turn("one").run()
    old = session.read_view().messages[0].id
    record = (await session.admin().append_plugin_body("notebook", 1)).node_ids[0]
    await session.admin().open_agent_frame(OpenAgentFrameRequest("f2", "test"))
    for ancestor in (old, record):
        done = await session.admin().append_session_nodes(request("noted", requires_ancestor_node_id=ancestor))
        assert isinstance(done, Appended)
    assert await stored(session) == ["noted", "noted"], "scoped to the frame that is current"


async def test_what_no_model_could_go_on_from_is_refused_and_transient_messages_are_left_out(
    make_core: MakeCore,
) -> None:
    session = await make_core(echo()).open_session(S)
    await session.turn("one").run()
    open_call = Message("c", Role.ASSISTANT, (ToolCallPart("call-1", "note", "{}"),))
    with pytest.raises(ConflictError) as refused:
        await session.admin().append_messages([open_call])
    assert refused.value.code == "node_not_resumable"
    passing = message("passing", origin=PluginOrigin("p", transient=True))
    done = await session.admin().append_messages([passing, message("kept")])
    assert len(done.node_ids) == 1
    assert (await session.admin().append_messages([passing])).node_ids == ()
    assert await stored(session) == ["one", "ok", "kept"]


async def test_it_waits_for_a_turn_of_its_own_session_and_not_for_that_of_another_owner(make_core: MakeCore) -> None:
    caller = echo()
    session = await make_core(caller).open_session(S)
    other = await make_core(echo()).open_session(S)
    caller.gate = asyncio.Event()
    running = asyncio.create_task(session.turn("one").run())
    await asyncio.wait_for(caller.entered.wait(), 30)
    waiting = asyncio.create_task(session.admin().append_messages([message("noted")]))
    with pytest.raises(SessionExecutionBusy):
        await other.admin().append_messages([message("refused")])
    assert not waiting.done()
    caller.gate.set()
    await asyncio.wait_for(asyncio.gather(running, waiting), 30)
    assert await stored(session) == ["one", "ok", "noted"]


async def test_a_turn_that_was_cut_off_is_finished_first(make_core: MakeCore) -> None:
    session = await make_core(echo(), crash_point=CrashPoints("before:commit")).open_session(S)
    with pytest.raises(Crash):
        await session.turn("one").run()
    other = await make_core(echo()).open_session(S)
    with pytest.raises(ConflictError) as refused:
        await other.admin().append_messages([message("noted")])
    assert refused.value.code == "turn_unfinished"


async def test_a_closed_session_and_one_without_a_store_take_nothing(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await core.open_session(S)
    await session.turn("one").run()
    await core.store.set_session_flags(S, closed_at_ms=1, parked_at_ms=None)
    with pytest.raises(SessionClosed):
        await session.admin().append_messages([message("noted")])
    from lash_cli import ModelSpec

    async with (
        LashCore(provider=echo(), model=ModelSpec("m")) as resident,
        await resident.open_session(S) as unstored,
    ):
        with pytest.raises(LashRuntimeError) as refused:
            await unstored.admin().append_messages([message("noted")])
    assert refused.value.code == "missing_session_store_factory"


def refuse_next_release(core: LashCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next lane of `core` cannot be given back."""
    release = core.store.release_lease

    async def locked(fence: LeaseFence) -> bool:
        monkeypatch.setattr(core.store, "release_lease", release)
        raise StoreLocked("stayed locked")

    monkeypatch.setattr(core.store, "release_lease", locked)


async def test_what_is_committed_is_no_failure_where_only_its_lane_cannot_be_given_back(
    make_core: MakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = make_core(echo())
    session = await core.open_session(S)

    async def unsure(commit: RuntimeCommit, **options: object) -> None:
        monkeypatch.undo()
        refuse_next_release(core, monkeypatch)
        raise StoreError("the disk")

    refuse_next_release(core, monkeypatch)
    assert isinstance(await session.admin().append_messages([message("one")]), Appended)
    monkeypatch.setattr(core.store, "commit_runtime_state", unsure)
    with pytest.raises(StoreError, match="the disk") as caught:
        await session.admin().append_messages([message("two")])
    assert caught.value.ambiguous, "nor is a failure told as another one"
    await core.aclose()


async def test_a_cost_is_booked_once_where_only_the_lane_cannot_be_given_back(
    make_core: MakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = make_core(echo())
    session = await core.open_session(S)
    refuse_next_release(core, monkeypatch)
    await session.direct_completion(DirectRequest((message("beside"),)))
    await session.admin().append_messages([message("one")])
    (total,) = await core.store.usage_totals(session_id=S)
    assert total.usage.total == 15
    await core.aclose()
