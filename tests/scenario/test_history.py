"""Forks and moved heads over whole trajectories: what the model is told next, and what stays (contract 01 §8.2)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from support.clock import settle
from support.driving import Crash, CrashPoints, S, said
from support.scripted import ScriptedCaller, calls, text
from support.switching import SUMMARY, Switching, switch

from lash_cli.api import FunctionToolProvider, OpenAgentFrameRequest, tool
from lash_cli.core.content import Message, Role, TextPart, ToolCallPart
from lash_cli.core.frames import FrameStatus
from lash_cli.core.graph import ConversationPayload, PluginPayload, SessionNode, orphaned_node_ids
from lash_cli.core.lease import LeaseOwnerIdentity, LocalProcess
from lash_cli.core.policy import ModelSpec, SessionConfigPatch, SessionSpec
from lash_cli.errors import (
    ConflictError,
    LashRuntimeError,
    NotFoundError,
    SessionClosed,
    SessionExecutionBusy,
    StoreUnusable,
)
from lash_cli.runtime.history import require_rooted
from lash_cli.store.base import LaneBusy, ReadScope
from lash_cli.system import boot_id, host_id


def echo() -> ScriptedCaller:
    return ScriptedCaller([text("ok")], repeat=True)


class Note(msgspec.Struct):
    text: str


@tool(name="note")
async def note(arguments: Note, context: Any) -> str:
    """Keep a note."""
    return arguments.text


def has(message: Message, kind: str) -> bool:
    return any(part.__struct_config__.tag == kind for part in message.parts)


def notes() -> FunctionToolProvider:
    return FunctionToolProvider((note,))


async def ids_of(session) -> list[str]:
    return [message.id for message in session.read_view().messages]


async def test_a_fork_continues_with_the_same_next_request_and_its_source_does_not_notice(make_core) -> None:
    caller = echo()
    core = make_core(caller)
    session = await core.open_session(S, name="origin")
    await session.turn("one").run()
    await session.turn("two").run()
    meta = await core.fork_session(S, name="copy")
    assert (meta.name, meta.parent_session_id) == ("copy", S)
    copy = await core.open_session(meta.session_id, create=False)
    assert copy.parent_session_id == S
    assert copy.read_view().turn_index == 0 and not copy.usage_report().usage.total
    await copy.turn("three").run()
    of_copy = caller.requests[-1]
    await session.turn("three").run()
    of_origin = caller.requests[-1]
    assert said(of_copy.messages) == said(of_origin.messages) == ["one", "ok", "two", "ok", "three"]
    assert of_copy.messages[:4] == of_origin.messages[:4]
    assert (of_copy.system, of_copy.tools) == (of_origin.system, of_origin.tools)
    assert copy.read_view().turn_index == 1
    again = await make_core(caller).open_session(meta.session_id, create=False)
    assert said(again.read_view().messages)[-2:] == ["three", "ok"]


@pytest.mark.parametrize("made", ["forked", "imported"])
async def test_a_handle_on_a_copy_brings_no_choice_of_its_own_and_follows_those_of_others(make_core, made) -> None:
    core = make_core(echo())
    session = await core.open_session(S)
    await session.turn("one").run()
    if made == "forked":
        await core.fork_session(S, session_id="copy")
    else:
        await core.store.import_sessions([(await core.store.export_session(S), "copy")])
    left_behind = await core.open_session("copy", spec=SessionSpec(inherit="stored"))
    copy = await core.open_session("copy", spec=SessionSpec(inherit="stored"))
    await copy.flush()
    assert copy.read_view().head_revision == left_behind.read_view().head_revision, "there was nothing to write"
    await copy.configure(SessionConfigPatch(model=ModelSpec("model-2")))
    await left_behind.turn("two").run()
    assert left_behind.policy_snapshot.model.id == "model-2"
    assert left_behind.policy_snapshot.session_id == "copy"


async def test_a_fork_is_made_at_a_turn_or_a_node_and_keeps_its_attachments_and_tools(make_core) -> None:
    caller = echo()
    core = make_core(caller, tools=[notes()])
    session = await core.open_session(S)
    await session.turn("one", turn_id="t-1").run()
    await session.turn("two", turn_id="t-2").run()
    await session.tools().set_membership("note", False)
    at_turn = await core.fork_session(S, at="t-1")
    first = await ids_of(session)
    at_node = await session.admin().fork(at=first[0])
    one = await core.open_session(at_turn.session_id, create=False)
    assert said(one.read_view().messages) == ["one", "ok"]
    assert one.tools().active_manifests() == ()
    two = await core.open_session(at_node.session_id, create=False)
    assert await ids_of(two) == first[:1]
    with pytest.raises(NotFoundError) as caught:
        await core.fork_session(S, at="t-9")
    assert caught.value.code == "node_not_found"


async def test_a_turn_id_of_the_origin_is_not_used_again_in_a_fork(make_core) -> None:
    core = make_core(echo())
    session = await core.open_session(S)
    await session.turn("one", turn_id="t-1").run()
    meta = await core.fork_session(S)
    await session.turn("two", turn_id="t-2").run()
    copy = await core.open_session(meta.session_id, create=False)
    with pytest.raises(ConflictError) as caught:
        await copy.turn("other", turn_id="t-1").run()
    assert caught.value.code == "turn_inherited"
    await session.close()
    await core.delete_session(S)
    with pytest.raises(ConflictError):
        await copy.turn("other", turn_id="t-1").run()
    # What the origin said after the fork is no history of it.
    output = await copy.turn("other", turn_id="t-2").run()
    assert output.result is not None and output.result.is_success
    assert said(copy.read_view().messages) == ["one", "ok", "other", "ok"]


async def test_a_moved_head_branches_and_moving_back_undoes_it(make_core) -> None:
    caller = echo()
    core = make_core(caller)
    session = await core.open_session(S)
    await session.turn("one").run()
    await session.turn("two").run()
    ids = await ids_of(session)
    away = await session.admin().branch_to_node(ids[1])
    assert (away.leaf_node_id, away.previous_leaf_node_id, away.is_moved) == (ids[1], ids[3], True)
    assert await ids_of(session) == ids[:2]
    assert session.read_view().last_prompt_usage is None
    await session.turn("instead").run()
    assert said(caller.requests[-1].messages) == ["one", "ok", "instead"]
    assert session.read_view().turn_index == 3
    back = await session.admin().branch_to_node(ids[3])
    assert await ids_of(session) == ids
    assert back.previous_leaf_node_id not in ids
    tree = await session.admin().message_tree()
    assert [(entry.node_id in ids, entry.is_active, entry.branch) for entry in tree] == [
        (True, True, 0),
        (True, True, 0),
        (True, True, 1),
        (True, True, 1),
        (False, False, 1),
        (False, False, 1),
    ]
    assert [entry.node_id for entry in tree if entry.is_head] == [ids[3]]
    assert session.usage_report().usage.output_tokens == 15


async def test_a_head_that_is_there_already_is_not_written_again(make_core) -> None:
    core = make_core(echo())
    session = await core.open_session(S)
    await session.turn("one").run()
    leaf = (await ids_of(session))[-1]
    move = await core.branch_to_node(S, leaf)
    assert (move.is_moved, move.head_revision) == (False, 1)
    assert (await core.store.head_position(S)).head_revision == 1


async def test_the_head_moves_before_everything_and_back(make_core) -> None:
    caller = echo()
    core = make_core(caller)
    session = await core.open_session(S)
    await session.turn("one").run()
    leaf = (await ids_of(session))[-1]
    await session.admin().branch_to_node(None)
    assert await ids_of(session) == []
    await session.turn("anew").run()
    assert said(caller.requests[-1].messages) == ["anew"]
    await session.admin().branch_to_node(leaf)
    assert said(session.read_view().messages) == ["one", "ok"]


async def test_a_move_survives_the_refresh_of_another_worker(make_core) -> None:
    caller = echo()
    mine, theirs = make_core(caller), make_core(caller)
    session = await mine.open_session(S)
    await session.turn("one").run()
    await session.turn("two").run()
    ids = await ids_of(session)
    other = await theirs.open_session(S, create=False)
    await session.admin().branch_to_node(ids[1])
    await other.turn("three").run()
    assert said(caller.requests[-1].messages) == ["one", "ok", "three"]
    await session.turn("four").run()
    assert said(caller.requests[-1].messages) == ["one", "ok", "three", "ok", "four"]


@pytest.mark.parametrize(
    "damage", ["DELETE FROM nodes WHERE node_id = ?", "UPDATE nodes SET tombstoned = 1 WHERE node_id = ?"]
)
async def test_a_head_that_was_moved_to_what_is_cut_off_is_refused_by_the_next_turn_and_moved_back(
    make_core, damage: str
) -> None:
    core = make_core(echo())
    session = await core.open_session(S)
    for number, said_then in enumerate(("one", "two", "three"), start=1):
        await session.turn(said_then, turn_id=f"t-{number}").run()
    ids = await ids_of(session)
    await session.admin().branch_to_node(ids[1])
    await core.store.db.write(lambda connection: connection.execute(damage, (ids[3],)), durable=False)
    # What a program asks that cannot be sure of its store; a move by itself looks at neighbours only.
    for node_id in ids[4:]:
        with pytest.raises(ConflictError) as caught:
            await require_rooted(core.store, S, node_id)
        assert (caught.value.code, caught.value.details) == ("node_cut_off", {"session": S, "node": node_id})
    await require_rooted(core.store, S, ids[2])
    await core.branch_to_node(S, ids[5])
    with pytest.raises(StoreUnusable):
        await session.turn("lost").run()
    await core.branch_to_node(S, ids[1])
    await session.turn("on").run()
    assert said(session.read_view().messages) == ["one", "ok", "on", "ok"]


async def test_the_head_does_not_stop_between_calls_and_results(make_core) -> None:
    caller = ScriptedCaller([calls(("c1", "note", '{"text":"a"}'), ("c2", "note", '{"text":"b"}')), text("done")])
    core = make_core(caller, tools=[notes()])
    session = await core.open_session(S)
    await session.turn("go").run()
    messages = list(session.read_view().messages)
    asked = next(message for message in messages if has(message, "tool_call"))
    results = [message for message in messages if has(message, "tool_result")]
    with pytest.raises(ConflictError) as caught:
        await session.admin().branch_to_node(asked.id)
    assert (caught.value.code, caught.value.details["before"]) == ("node_not_resumable", messages[0].id)
    with pytest.raises(ConflictError):
        await core.fork_session(S, at=asked.id)
    for result in results[:-1]:
        with pytest.raises(ConflictError):
            await session.admin().branch_to_node(result.id)
    with pytest.raises(ConflictError) as caught:
        await core.branch_before_node(S, results[0].id)
    assert caught.value.code == "node_not_resumable"
    assert await ids_of(session) == [message.id for message in messages]
    assert (await session.admin().branch_to_node(results[-1].id)).is_moved
    assert (await core.store.session_row(S)).lease.token is None


async def test_a_node_of_an_older_frame_makes_that_frame_current_under_todays_policy(make_core) -> None:
    caller = ScriptedCaller([text("ok"), switch("f2", "finish it"), text("finished"), text("again"), text("late")])
    core = make_core(caller, tools=[Switching((SUMMARY,))])
    session = await core.open_session(S)
    await session.turn("begin").run()
    first = await ids_of(session)
    await session.turn("go on").run()
    last = (await ids_of(session))[-1]
    await session.configure(SessionConfigPatch(model=ModelSpec("model-2")))
    move = await session.admin().branch_to_node(first[-1])
    assert (move.previous_frame_id, move.frame_id) == ("f2", session.read_view().frames[0].frame_id)
    frames = session.read_view().frames
    assert [frame.status for frame in frames] == [FrameStatus.ACTIVE, FrameStatus.SUPERSEDED]
    assert frames[0].assignment.policy.model.id == session.policy_snapshot.model.id == "model-2"
    await session.turn("differently").run()
    assert said(caller.requests[-1].messages) == ["begin", "ok", "differently"]
    assert caller.requests[-1].model.id == "model-2"
    await session.admin().branch_to_node(last)
    assert session.read_view().frames[1].status is FrameStatus.ACTIVE
    await session.turn("more").run()
    assert said(caller.requests[-1].messages) == ["what happened so far", "finish it", "finished", "more"]


async def test_a_running_turn_keeps_its_head_and_is_no_obstacle_to_a_fork(make_core) -> None:
    caller = echo()
    core, other = make_core(caller), make_core(echo())
    session = await core.open_session(S)
    await session.turn("one").run()
    first = (await ids_of(session))[0]
    caller.gate = asyncio.Event()
    caller.entered.clear()
    running = asyncio.create_task(session.turn("two").run())
    await asyncio.wait_for(caller.entered.wait(), 30)
    with pytest.raises(SessionExecutionBusy):
        await other.branch_to_node(S, first)
    meta = await other.fork_session(S)
    caller.gate.set()
    await asyncio.wait_for(running, 30)
    copy = await other.open_session(meta.session_id, create=False)
    assert said(copy.read_view().messages) == ["one", "ok"]
    assert said(session.read_view().messages) == ["one", "ok", "two", "ok"]


async def test_a_turn_that_was_cut_off_is_finished_before_the_head_moves(make_core) -> None:
    caller = echo()
    core = make_core(caller, crash_point=CrashPoints("before:commit", 2))
    session = await core.open_session(S)
    await session.turn("one").run()
    first = (await ids_of(session))[0]
    with pytest.raises(Crash):
        await session.turn("two").run()
    other = make_core(caller)
    with pytest.raises(ConflictError) as caught:
        await other.branch_to_node(S, first)
    assert caught.value.code == "turn_unfinished"
    resumed = await other.open_session(S, create=False)
    await resumed.redrive().run()
    assert (await other.branch_to_node(S, first)).is_moved


async def test_a_session_in_memory_has_no_history_to_move_in() -> None:
    from lash_cli.api import LashCore

    async with LashCore(provider=echo(), model=ModelSpec("model-1")) as core:
        session = await core.open_session(S)
        await session.turn("one").run()
        with pytest.raises(LashRuntimeError) as caught:
            await session.admin().branch_to_node(None)
        assert caught.value.code == "missing_session_store_factory"


async def test_an_empty_session_forks_but_its_head_does_not_move(make_core) -> None:
    core = make_core(echo())
    await core.open_session(S)
    meta = await core.fork_session(S)
    copy = await core.open_session(meta.session_id, create=False)
    await copy.turn("one").run()
    assert said(copy.read_view().messages) == ["one", "ok"]
    with pytest.raises(ConflictError) as caught:
        await core.branch_to_node(S, None)
    assert caught.value.code == "session_empty"


def test_messages_that_are_not_said_stay_out_of_the_tree() -> None:
    from lash_cli.core.history import message_tree

    def message(node_id: str, parent: str | None) -> SessionNode:
        return SessionNode(node_id, parent, "f", 1, ConversationPayload(Message(node_id, Role.USER)))

    nodes = [message("a", None), SessionNode("p", "a", "f", 1, PluginPayload("note")), message("b", "p")]
    entries = message_tree([*nodes, message("c", "a")], "p")
    shown = [(entry.node_id, entry.parent_node_id, entry.branch, entry.is_active, entry.is_head) for entry in entries]
    assert shown == [("a", None, 0, True, True), ("b", "a", 1, False, False), ("c", "a", 1, False, False)]
    assert message_tree([], None) == ()


async def test_the_history_of_a_closed_session_stays_as_it_is_and_can_be_forked(make_core) -> None:
    core = make_core(echo())
    session = await core.open_session(S)
    await session.turn("one").run()
    first = (await ids_of(session))[0]
    await core.store.set_session_flags(S, closed_at_ms=1, parked_at_ms=None)
    for change in (session.admin().branch_to_node(first), session.admin().compact_context()):
        with pytest.raises(SessionClosed):
            await change
    meta = await core.fork_session(S)
    copy = await core.open_session(meta.session_id, create=False)
    assert (await copy.turn("two").run()).result is not None


async def test_a_frame_is_opened_once_and_begins_with_its_nodes(make_core) -> None:
    caller = echo()
    core = make_core(caller)
    session = await core.open_session(S)
    await session.turn("one").run()
    first = Message("any", Role.USER, (TextPart("start here"),))
    request = OpenAgentFrameRequest("f2", "continue_as", (ConversationPayload(first),))
    opened = await session.admin().open_agent_frame(request)
    assert (opened.frame_id, opened.opened, opened.initial_node_ids) == ("f2", True, ("f2.0",))
    again = await session.admin().open_agent_frame(request)
    assert (again.frame_id, again.opened, again.initial_node_ids) == ("f2", False, ())
    assert (await core.store.session_row(S)).lease.token is None
    other = await make_core(caller).open_session(S, create=False)
    await other.turn("two").run()
    assert said(caller.requests[-1].messages) == ["start here", "two"]
    await session.refresh()
    with pytest.raises(ConflictError) as caught:
        await session.admin().open_agent_frame(OpenAgentFrameRequest(f"{S}:frame:initial", "again"))
    assert caught.value.code == "agent_frame_reused"
    broken = Message("any", Role.ASSISTANT, (ToolCallPart("c1", "note", "{}"),))
    with pytest.raises(ConflictError) as caught:
        await session.admin().open_agent_frame(OpenAgentFrameRequest("f3", "x", (ConversationPayload(broken),)))
    assert caught.value.code == "agent_frame_nodes_invalid"
    assert len(session.read_view().frames) == 2


async def test_a_turn_whose_answer_was_hidden_says_so_when_it_is_asked_for_again(make_core) -> None:
    core = make_core(ScriptedCaller([text("one"), text("two"), text("three")]))
    async with await core.open_session(S) as session:
        await session.turn("a", turn_id="t1").run()
        await session.turn("b", turn_id="t2").run()
        await session.admin().branch_to_node(session.read_view().messages[1].id)
        await session.turn("c", turn_id="t3").run()
        told = await session.turn("b", turn_id="t2").run()
        assert (told.result.assistant_message(), told.result.errors) == ("two", ())
        graph = await core.store.load_session(S, ReadScope.FULL_GRAPH)
        assert await core.store.tombstone_nodes(S, orphaned_node_ids(graph.nodes, graph.leaf_node_id)) == 2
        told = await session.turn("b", turn_id="t2").run()
        assert told.replayed and [issue.code for issue in told.result.errors] == ["answer_not_kept"]
        told = await session.turn("a", turn_id="t1").run()
        assert (told.result.assistant_message(), told.result.errors) == ("one", ())


@pytest.mark.parametrize("verb", ["branch_to_node", "delete_session"])
async def test_closing_a_core_waits_for_who_holds_a_lane_without_a_handle(
    make_core, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    core, other = make_core(echo()), make_core(echo())
    session = await core.open_session(S)
    await session.turn("hello").run()
    await session.close()
    has_claimed, may_go_on = asyncio.Event(), asyncio.Event()
    store = core.store
    held = {"branch_to_node": "load_session", "delete_session": "release_lease"}[verb]
    if verb == "delete_session":
        dead = LocalProcess(host_id(), boot_id(), 2**22 + 1, "1")
        owner = LeaseOwnerIdentity("dead", "1", dead, "dead")
        claimed = await store.try_claim_lease(S, owner, ttl_ms=60_000, token="t")
        assert not isinstance(claimed, LaneBusy)
    verb_of_store = getattr(store, held)

    async def paused(*args: Any) -> Any:
        has_claimed.set()
        await may_go_on.wait()
        return await verb_of_store(*args)

    async def closed() -> None:
        store.close()

    monkeypatch.setattr(store, held, paused)
    monkeypatch.setattr(store, "aclose", closed)
    arguments = (S, None) if verb == "branch_to_node" else (S,)
    changing = asyncio.create_task(getattr(core, verb)(*arguments))
    await has_claimed.wait()
    closing = asyncio.create_task(core.aclose())
    await settle()
    may_go_on.set()
    outcome, _ = await asyncio.gather(changing, closing, return_exceptions=True)
    rows, _ = await other.store.list_sessions(limit=2)
    assert all(row.lease.token is None for row in rows), outcome
