"""Having a session go on from another conversation: what stays, what is added, and what nobody edits (01 §8.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from support.driving import Crash, CrashPoints, S, said
from support.scripted import ScriptedCaller, text

from lash_cli import LashCore, LashSession, Message, OpenAgentFrameRequest
from lash_cli.core.content import PluginOrigin, Role, TextPart, ToolCallPart
from lash_cli.core.graph import ConversationPayload, SessionNode
from lash_cli.core.policy import ModelSpec
from lash_cli.errors import ConflictError, LashRuntimeError, SessionExecutionBusy
from lash_cli.store.base import ReadScope

MakeCore = Callable[..., LashCore]


def echo() -> ScriptedCaller:
    return ScriptedCaller([text("ok")], repeat=True)


def user(words: str, **rest: object) -> Message:
    return Message("", Role.USER, (TextPart(words),), **rest)  # type: ignore[arg-type]


def spoken(session: LashSession) -> list[Message]:
    return list(session.read_view().messages)


async def talked(core: LashCore, *words: str) -> LashSession:
    session = await core.open_session(S)
    for word in words:
        await session.turn(word).run()
    return session


async def nodes_of(core: LashCore) -> tuple[SessionNode, ...]:
    read = await core.store.load_session(S, ReadScope.FULL_GRAPH)
    assert read is not None
    return read.nodes


async def test_a_session_goes_on_from_another_conversation_and_keeps_the_one_it_had(make_core: MakeCore) -> None:
    caller = echo()
    core = make_core(caller)
    session = await talked(core, "one", "two", "three")
    before, view = await nodes_of(core), session.read_view()
    shorter = [*spoken(session)[:2], user("two, in short"), Message("", Role.ASSISTANT, (TextPart("fine"),))]
    done = await session.admin().replace_active_read_state(shorter)
    assert (done.kept, len(done.node_ids), done.previous_leaf_node_id) == (2, 2, view.leaf_node_id)
    assert done.leaf_node_id == done.node_ids[-1] == session.read_view().leaf_node_id
    assert session.read_view().head_revision == (view.head_revision or 0) + 1, "one commit"
    assert said(spoken(session)) == ["one", "ok", "two, in short", "fine"]
    assert said(view.messages) == ["one", "ok", "two", "ok", "three", "ok"], "a view that was taken stays as it is"
    after = await nodes_of(core)
    assert after[: len(before)] == before, "no node is edited or removed"
    assert [node.parent_node_id for node in after[len(before) :]] == [before[1].node_id, done.node_ids[0]]
    await session.turn("four").run()
    assert said(caller.requests[-1].messages) == ["one", "ok", "two, in short", "fine", "four"]
    other = await make_core(echo()).open_session(S, create=False)
    assert said(spoken(other)) == ["one", "ok", "two, in short", "fine", "four", "ok"]
    await core.branch_to_node(S, before[-1].node_id)
    await session.refresh()
    assert said(spoken(session)) == ["one", "ok", "two", "ok", "three", "ok"], "the branch is still there"


async def test_the_conversation_it_has_already_writes_nothing(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await talked(core, "one")
    view, nodes = session.read_view(), await nodes_of(core)
    hint = user("only now", origin=PluginOrigin("p", transient=True))
    unnamed = [replace(message, id="") for message in spoken(session)]
    done = await session.admin().replace_active_read_state([*unnamed, hint])
    assert (done.kept, done.node_ids, done.leaf_node_id) == (2, (), view.leaf_node_id)
    assert (session.read_view().head_revision, await nodes_of(core)) == (view.head_revision, nodes)


async def test_a_shorter_conversation_only_moves_the_head(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await talked(core, "one", "two")
    nodes = await nodes_of(core)
    done = await session.admin().replace_active_read_state(spoken(session)[:2])
    assert (done.kept, done.node_ids, done.leaf_node_id) == (2, (), nodes[1].node_id)
    assert said(spoken(session)) == ["one", "ok"]
    assert session.read_view().last_prompt_usage is None, "nobody knows how full the context is there"
    assert await nodes_of(core) == nodes
    await session.turn("else").run()
    assert (await nodes_of(core))[-2].parent_node_id == nodes[1].node_id


async def test_what_only_adds_keeps_what_is_known_of_the_context(make_core: MakeCore) -> None:
    session = await talked(make_core(echo()), "one")
    known = session.read_view().last_prompt_usage
    await session.admin().replace_active_read_state([*spoken(session), user("more")])
    assert known is not None and session.read_view().last_prompt_usage == known


async def test_no_conversation_at_all_begins_the_current_frame_again(make_core: MakeCore) -> None:
    caller = echo()
    core = make_core(caller)
    session = await talked(core, "one")
    opened = OpenAgentFrameRequest("second", "test", (ConversationPayload(user("summary")),))
    await session.admin().open_agent_frame(opened)
    await session.turn("two").run()
    done = await session.admin().replace_active_read_state([])
    assert (done.kept, done.node_ids, spoken(session)) == (0, (), [])
    await session.turn("three").run()
    assert said(caller.requests[-1].messages) == ["three"]
    again = await make_core(echo()).open_session(S, create=False)
    assert said(spoken(again)) == ["three", "ok"]
    assert [frame.frame_id for frame in again.read_view().frames][-1] == "second"


async def test_records_of_plugins_stay_where_the_conversation_stays(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await talked(core, "one")
    kept = await session.admin().append_plugin_body("notebook", {"page": 1})
    await session.turn("two").run()
    await session.admin().append_plugin_body("notebook", {"page": 2})
    done = await session.admin().replace_active_read_state([*spoken(session)[:2], user("else")])
    node = await core.store.load_node(S, done.node_ids[0])
    assert node is not None and node.parent_node_id == kept.leaf_node_id


async def test_a_session_that_said_nothing_begins_with_it(make_core: MakeCore) -> None:
    caller = echo()
    session = await make_core(caller).open_session(S)
    await session.admin().replace_active_read_state([user("the setting")])
    await session.turn("one").run()
    assert said(caller.requests[-1].messages) == ["the setting", "one"]


async def test_a_fresh_session_replaces_what_was_stored_first(make_core: MakeCore) -> None:
    core = make_core(echo())
    await (await talked(core, "one")).close()
    session = await core.open_fresh(S)
    done = await session.admin().replace_active_read_state([user("one")])
    assert (done.kept, len(done.node_ids)) == (0, 1)
    assert said(spoken(await make_core(echo()).open_session(S))) == ["one"]


async def test_a_repeated_operation_takes_nothing_back_that_was_said_since(make_core: MakeCore) -> None:
    session = await talked(make_core(echo()), "one", "two")
    wanted = [*spoken(session)[:2], user("else")]
    first = await session.admin().replace_active_read_state(wanted, operation_id="op-1")
    await session.turn("three").run()
    again = await session.admin().replace_active_read_state(wanted, operation_id="op-1")
    assert (again.kept, again.node_ids) == (first.kept, first.node_ids)
    assert again.leaf_node_id == session.read_view().leaf_node_id
    assert said(spoken(session)) == ["one", "ok", "else", "three", "ok"]
    with pytest.raises(ConflictError) as refused:
        await session.admin().replace_active_read_state([user("other")], operation_id="op-1")
    assert refused.value.code == "node_exists"


@pytest.mark.parametrize("point", ["before:replace", "after:replace"])
async def test_one_that_a_crash_cut_off_stands_once_when_it_is_repeated(make_core: MakeCore, point: str) -> None:
    await (await talked(make_core(echo()), "one", "two")).close()
    session = await make_core(echo(), crash_point=CrashPoints(point)).open_session(S)
    wanted = [*spoken(session)[:2], user("else")]
    with pytest.raises(Crash):
        await session.admin().replace_active_read_state(wanted, operation_id="op-1")
    again = await make_core(echo()).open_session(S)
    await again.admin().replace_active_read_state(wanted, operation_id="op-1")
    assert said(spoken(again)) == ["one", "ok", "else"]


async def test_calls_without_a_result_are_refused_and_nothing_changes(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await talked(core, "one", "two")
    view, nodes = session.read_view(), await nodes_of(core)
    open_call = Message("", Role.ASSISTANT, (ToolCallPart("c1", "ls", "{}"),))
    with pytest.raises(ConflictError) as refused:
        await session.admin().replace_active_read_state([*spoken(session)[:2], open_call])
    assert refused.value.code == "node_not_resumable"
    assert (session.read_view().head_revision, await nodes_of(core)) == (view.head_revision, nodes)
    assert said(spoken(session)) == said(view.messages)


async def test_what_another_process_said_meanwhile_is_left_as_a_branch(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await talked(core, "one")
    mine = spoken(session)
    other = await make_core(echo()).open_session(S)
    await other.turn("meanwhile").run()
    await session.admin().replace_active_read_state([*mine, user("else")])
    tree = await core.message_tree(S)
    assert [(said([entry.message])[0], entry.is_active) for entry in tree[2:]] == [
        ("meanwhile", False),
        ("ok", False),
        ("else", True),
    ]


async def test_it_waits_for_no_other_owner_and_needs_a_store(make_core: MakeCore) -> None:
    caller = echo()
    session = await make_core(caller).open_session(S)
    other = await make_core(echo()).open_session(S)
    caller.gate = asyncio.Event()
    running = asyncio.create_task(session.turn("one").run())
    await asyncio.wait_for(caller.entered.wait(), 30)
    with pytest.raises(SessionExecutionBusy):
        await other.admin().replace_active_read_state([])
    caller.gate.set()
    await asyncio.wait_for(running, 30)
    async with LashCore(provider=echo(), model=ModelSpec("model-1")) as core:
        resident = await core.open_session("s2")
        with pytest.raises(LashRuntimeError) as refused:
            await resident.admin().replace_active_read_state([])
    assert refused.value.code == "missing_session_store_factory"
