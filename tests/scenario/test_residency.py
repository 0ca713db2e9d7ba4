"""What of its graph an opened session holds, what a view shows of it, and what is read when it is asked for
(contract 01 §4.7, §10, 04 §8)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from support.driving import S, said
from support.scripted import ScriptedCaller, text

from lash_cli import (
    AppendSessionNodesRequest,
    LashCore,
    LashSession,
    Message,
    OpenAgentFrameRequest,
    SessionAppendNode,
    SessionReadView,
    WorkOptions,
)
from lash_cli.core.content import Role, TextPart
from lash_cli.core.graph import ConversationPayload, PluginPayload, ProtocolPayload
from lash_cli.core.policy import ModelSpec
from lash_cli.errors import ConfigError, LashRuntimeError, NotFoundError
from lash_cli.store.base import ReadScope

MakeCore = Callable[..., LashCore]


def echo() -> ScriptedCaller:
    return ScriptedCaller([text("ok")], repeat=True)


def user(words: str) -> Message:
    return Message("", Role.USER, (TextPart(words),))


async def branched(core: LashCore) -> LashSession:
    """one - ok - (two - ok | event - record - three - ok), the second of which is the head's."""
    session = await core.open_session(S)
    await session.turn("one").run()
    fork = session.read_view().leaf_node_id
    await session.turn("two").run()
    await session.admin().branch_to_node(fork)
    records = SessionAppendNode(ProtocolPayload("p", {"n": 1})), SessionAppendNode(PluginPayload("notebook", 7))
    await session.admin().append_session_nodes(AppendSessionNodesRequest(records))
    await session.turn("three").run()
    return session


def told(view: SessionReadView) -> list[object]:
    entries = view.chronological_projection()
    assert [entry.index for entry in entries] == list(range(len(entries)))
    return [
        said([entry.payload.message])[0] if isinstance(entry.payload, ConversationPayload) else entry.payload.payload
        for entry in entries
    ]


async def test_a_session_that_keeps_all_shows_every_branch_however_it_came_to_it(make_core: MakeCore) -> None:
    core = make_core(echo(), residency="keep_all")
    session = await branched(core)
    views = [session.read_view()]
    views.append((await make_core(echo(), residency="keep_all").open_session(S)).read_view())
    graph = await core.session_graph(S)
    for view in views:
        assert view.session_graph() == graph
        assert view.message_tree() == await core.message_tree(S)
        assert told(view) == ["one", "ok", {"n": 1}, "three", "ok"]
        assert said(view.messages) == ["one", "ok", "three", "ok"]


async def test_what_another_process_adds_and_a_new_frame_are_held_too(make_core: MakeCore) -> None:
    core = make_core(echo(), residency="keep_all")
    session = await branched(core)
    before = session.read_view()
    other = await make_core(echo()).open_session(S)
    await other.turn("elsewhere").run()
    await session.refresh()
    opened = OpenAgentFrameRequest("second", "test", (ConversationPayload(user("summary")),))
    await session.admin().open_agent_frame(opened)
    await session.turn("four").run()
    view = session.read_view()
    assert view.session_graph() == await core.session_graph(S)
    assert told(view) == ["summary", "four", "ok"]
    assert len(before.session_graph().nodes) == len(view.session_graph().nodes) - 5, "a view stays as it is"


async def test_without_it_memory_holds_the_messages_and_says_so(make_core: MakeCore) -> None:
    session = await branched(make_core(echo()))
    view = session.read_view()
    assert view.nodes is None
    for ask in (view.session_graph, view.message_tree, view.active_events, view.chronological_projection):
        with pytest.raises(LashRuntimeError) as refused:
            ask()
        assert refused.value.code == "graph_not_resident"


async def test_an_observer_holds_the_path_with_its_events_but_no_other_branch(make_core: MakeCore) -> None:
    session = await branched(make_core(echo()))
    view = await session.observe().read_view()
    assert told(view) == ["one", "ok", {"n": 1}, "three", "ok"]
    kinds = [type(node.payload) for node in view.active_events()]
    assert kinds.count(ProtocolPayload) == 1 and PluginPayload not in kinds
    with pytest.raises(LashRuntimeError):
        view.session_graph()


async def test_a_node_off_the_path_is_read_when_it_is_asked_for(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await branched(core)
    left = next(entry for entry in await core.message_tree(S) if said([entry.message]) == ["two"])
    node = await session.admin().get_historic_node(left.node_id)
    assert isinstance(node.payload, ConversationPayload) and node.payload.message == left.message
    assert (await session.admin().session_graph()).node(left.node_id) == node
    with pytest.raises(NotFoundError) as refused:
        await core.get_historic_node(S, "nowhere")
    assert refused.value.code == "node_not_found"


async def test_who_only_drains_a_queue_holds_no_branches(make_core: MakeCore, monkeypatch) -> None:
    await branched(make_core(echo()))
    core = make_core(echo(), residency="keep_all")
    await core.queue(S).enqueue("queued")
    scopes: list[ReadScope] = []
    load = core.store.load_session

    async def watched(session_id: str, scope: ReadScope):
        scopes.append(scope)
        return await load(session_id, scope)

    monkeypatch.setattr(core.store, "load_session", watched)
    await core.worker(WorkOptions(until_empty=True)).run([S])
    assert scopes and ReadScope.FULL_GRAPH not in scopes
    assert said((await core.observe(S).read_view()).messages)[-2:] == ["queued", "ok"]


async def test_the_revision_of_a_view_is_that_of_the_head_or_counts_the_turns(make_core: MakeCore) -> None:
    session = await make_core(echo()).open_session(S)
    assert session.read_view().revision == 0
    await session.turn("one").run()
    await session.admin().append_messages([user("noted")])
    assert session.read_view().revision == session.read_view().head_revision == 2
    async with LashCore(provider=echo(), model=ModelSpec("model-1")) as core:
        resident = await core.open_session(S)
        await resident.turn("one").run()
        assert (resident.read_view().revision, resident.read_view().head_revision) == (1, None)


async def test_only_who_keeps_all_reads_the_whole_graph_to_open(make_core: MakeCore, monkeypatch) -> None:
    await branched(make_core(echo()))
    core = make_core(echo())
    scopes: list[ReadScope] = []
    load = core.store.load_session

    async def watched(session_id: str, scope: ReadScope):
        scopes.append(scope)
        return await load(session_id, scope)

    monkeypatch.setattr(core.store, "load_session", watched)
    await core.open_session(S)
    assert scopes == [ReadScope.CONVERSATION]


@pytest.mark.parametrize("residency", ["keep_all", "active_path_only"])
async def test_a_snapshot_of_a_view_is_what_another_session_goes_on_from(make_core: MakeCore, residency: str) -> None:
    caller = echo()
    core = make_core(caller, residency=residency)
    session = await branched(core)
    opened = OpenAgentFrameRequest("second", "test", (ConversationPayload(user("summary")),))
    await session.admin().open_agent_frame(opened)
    await session.turn("four").run()
    for place, view in enumerate((session.read_view(), await session.observe().read_view())):
        snapshot = view.to_snapshot().rebound_to(f"copy-{place}")
        assert (snapshot.turn_state.turn_index, snapshot.token_ledger, snapshot.tool_state) == (4, (), None)
        copied = await core.open_with_state(f"copy-{place}", snapshot)
        await copied.turn("five").run()
        assert said(caller.requests[-1].messages) == ["summary", "four", "ok", "five"]


async def test_of_a_session_without_a_store_what_is_said_is_all_there_is() -> None:
    async with LashCore(provider=echo(), model=ModelSpec("model-1"), residency="keep_all") as core:
        session = await core.open_session(S)
        assert session.read_view().session_graph().nodes == ()
        await session.turn("one").run()
        view = session.read_view()
        assert told(view) == ["one", "ok"]
        assert [said([entry.message])[0] for entry in view.message_tree()] == ["one", "ok"]
        assert told(await session.observe().read_view()) == ["one", "ok"]


async def test_a_fresh_session_shows_nothing_of_what_it_will_replace(make_core: MakeCore) -> None:
    await (await branched(make_core(echo()))).close()
    core = make_core(echo(), residency="keep_all")
    session = await core.open_fresh(S)
    assert session.read_view().session_graph().nodes == ()
    await session.turn("new").run()
    assert session.read_view().session_graph() == await core.session_graph(S)
    assert told(session.read_view()) == ["new", "ok"]


def test_without_a_store_nothing_can_be_left_out_of_memory() -> None:
    with pytest.raises(ConfigError) as refused:
        LashCore(provider=echo(), model=ModelSpec("model-1"), residency="active_path_only")
    assert refused.value.code == "durable_store_required:session_store"


def test_another_residency_is_no_residency() -> None:
    with pytest.raises(ConfigError) as refused:
        LashCore(provider=echo(), model=ModelSpec("model-1"), residency="some")  # type: ignore[arg-type]
    assert refused.value.code == "residency_unknown"


@pytest.mark.parametrize("residency", ["keep_all", "active_path_only"])
async def test_nodes_that_lead_to_no_root_are_shown_apart_and_are_in_no_session_that_goes_on_from_it(
    make_core: MakeCore, residency: str
) -> None:
    session = await branched(make_core(echo()))
    left = next(e for e in await session.admin().message_tree() if said([e.message]) == ["two"]).node_id
    store = session._core.store
    await store.db.write(lambda db: db.execute("DELETE FROM nodes WHERE node_id = ?", (left,)), durable=False)
    core = make_core(echo(), residency=residency)
    opened = await core.open_session(S)
    await opened.turn("four").run()
    graph = await core.session_graph(S)
    (lost,) = graph.cut_off
    assert lost.parent_node_id is None and graph.node(lost.node_id) == lost and lost not in graph.nodes
    tree = await core.message_tree(S)
    assert [said([entry.message]) for entry in tree if entry.is_cut_off] == [["ok"]]
    if residency == "keep_all":
        assert opened.read_view().session_graph() == graph and opened.read_view().message_tree() == tree
    state = await opened.admin().export_persistence_state()
    assert state.cut_off == graph.cut_off and state.nodes == graph.nodes
    await opened.admin().apply_persistence_state(state)
    assert (await core.session_graph(S)).cut_off == ()
    if residency == "keep_all":
        assert opened.read_view().session_graph().cut_off == ()


@pytest.mark.parametrize(
    "made", [copy.copy, copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))], ids=["copy", "deep", "pickled"]
)
@pytest.mark.parametrize("options", [{}, {"residency": "keep_all"}], ids=["messages", "whole"])
async def test_a_copy_of_a_view_is_equal_to_it(make_core, options, made) -> None:
    async with await make_core(ScriptedCaller([text("ok")] * 2), **options).open_session(S) as session:
        await session.turn("one").run()
        view = session.read_view()
        copied = made(view)
        await session.turn("two").run()
        assert copied == view and copied != session.read_view()
