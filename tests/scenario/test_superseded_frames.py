"""What was said in superseded frames stays, with a store and without one (contract 01 §0.5, §10, §11)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from support.driving import S
from support.scripted import ScriptedCaller, text
from support.switching import SUMMARY, Switching, switch

from lash_cli.api import LashCore, LashSession, ModelSpec, OpenAgentFrameRequest, SessionGraph
from lash_cli.core.content import Message, Role, TextPart, message_text
from lash_cli.core.frames import frame_of_session
from lash_cli.core.graph import ConversationPayload, PluginPayload
from lash_cli.errors import RuntimeTurnCommitConflict
from lash_cli.runtime.state import RuntimeSessionState


@pytest.fixture(params=["stored", "resident"])
async def session(request: pytest.FixtureRequest, make_core) -> AsyncIterator[LashSession]:
    """A session that was in three frames: one it began in, one a turn handed on to, one its host opened."""
    caller = ScriptedCaller([text("ok"), switch("f2", "finish it"), *[text("ok")] * 9])
    tools = [Switching((SUMMARY,))]
    if request.param == "stored":
        core = make_core(caller, tools=tools, residency="keep_all")
    else:
        core = LashCore(provider=caller, model=ModelSpec("model-1"), tools=tools)
    async with core, await core.open_session(S) as opened:
        await opened.turn("one", turn_id="t1").run()
        await opened.turn("two", turn_id="t2").run()
        third = ConversationPayload(Message("any", Role.USER, (TextPart("third"),)))
        await opened.admin().open_agent_frame(OpenAgentFrameRequest("f3", "test", (third,)))
        await opened.turn("three", turn_id="t3").run()
        yield opened


def shape(graph: SessionGraph) -> list[tuple[str, str, str | None]]:
    """The text, the frame and the text above it of every message that has one."""
    texts = {
        node.node_id: message_text(node.payload.message)
        for node in graph.nodes
        if isinstance(node.payload, ConversationPayload)
    }
    return [
        (texts[node.node_id], node.agent_frame_id, texts.get(node.parent_node_id or ""))
        for node in graph.nodes
        if texts.get(node.node_id)
    ]


FIRST = f"{S}:frame:initial"
WHOLE = [
    ("one", FIRST, None),
    ("ok", FIRST, "one"),
    ("two", FIRST, "ok"),
    ("what happened so far", "f2", ""),
    ("finish it", "f2", "what happened so far"),
    ("ok", "f2", "finish it"),
    ("third", "f3", "ok"),
    ("three", "f3", "third"),
    ("ok", "f3", "three"),
]


async def test_a_view_shows_what_was_said_in_every_frame(session: LashSession) -> None:
    view = session.read_view()
    graph = view.session_graph()
    assert shape(graph) == WHOLE
    assert graph.leaf_node_id == graph.nodes[-1].node_id
    said = [message_text(entry.message) for entry in view.message_tree()]
    assert [words for words in said if words] == [words for words, _, _ in WHOLE]
    assert [message_text(message) for message in view.messages] == ["third", "three", "ok"]
    assert [message_text(node.payload.message) for node in view.active_events()] == ["third", "three", "ok"]


async def test_an_export_has_every_frame_and_is_gone_on_from_anywhere(session: LashSession, make_core) -> None:
    state = await session.admin().export_persistence_state()
    assert shape(SessionGraph(state.nodes, state.leaf_node_id)) == WHOLE
    caller = ScriptedCaller([text("ok")], repeat=True)
    for core in (
        LashCore(provider=caller, model=ModelSpec("model-1")),
        make_core(caller, residency="keep_all"),
    ):
        async with core, await core.open_with_state("s2", _of(state, "s2")) as copied:
            await copied.turn("four").run()
            assert shape(copied.read_view().session_graph()) == [*WHOLE, ("four", "f3", "ok"), ("ok", "f3", "four")]
            assert [message_text(message) for message in caller.requests[-1].messages] == [
                "third", "three", "ok", "four",
            ]  # fmt: skip


def _of(state: RuntimeSessionState, session_id: str) -> RuntimeSessionState:
    """The same state under another session id, frames and all."""
    frames = tuple(frame_of_session(frame, session_id) for frame in state.frames)
    return msgspec.structs.replace(state, session_id=session_id, frames=frames)


async def test_the_id_of_a_turn_in_a_superseded_frame_is_not_used_again(session: LashSession) -> None:
    for turn_id in ("t1", "t2"):
        with pytest.raises(RuntimeTurnCommitConflict):
            await session.turn("something else", turn_id=turn_id).run()


async def test_who_went_back_to_an_older_frame_keeps_what_was_said_behind_it(make_core) -> None:
    core = make_core(ScriptedCaller([text("ok")], repeat=True), residency="keep_all")
    session = await core.open_session(S)
    await session.turn("one").run()
    back = session.read_view().leaf_node_id
    await session.admin().append_plugin_body("notes", {"n": 1})
    await session.admin().open_agent_frame(OpenAgentFrameRequest("f2", "test"))
    await session.turn("two").run()
    await session.admin().branch_to_node(back)
    await session.turn("three").run()
    state = await session.admin().export_persistence_state()
    async with LashCore(provider=ScriptedCaller([text("yes")]), model=ModelSpec("model-1")) as resident:
        copied = await resident.open_with_state(S, state)
        await copied.turn("four").run()
        graph = copied.read_view().session_graph()
        first = [("one", FIRST, None), ("ok", FIRST, "one"), ("three", FIRST, "ok"), ("ok", FIRST, "three")]
        assert shape(graph) == [
            *first, ("four", FIRST, "ok"), ("yes", FIRST, "four"), ("two", "f2", None), ("ok", "f2", "two"),
        ]  # fmt: skip
        (note,) = [node for node in graph.nodes if isinstance(node.payload, PluginPayload)]
        (two,) = [node for node in graph.nodes if node.parent_node_id == note.node_id]
        assert (note.parent_node_id, two.agent_frame_id) == (back, "f2")
        assert await resident.open_with_state("s2", _of(copied.export_state(), "s2")) is not None


async def test_the_branches_of_the_current_frame_stay_without_a_store_too(make_core) -> None:
    core = make_core(ScriptedCaller([text("ok")], repeat=True), residency="keep_all")
    session = await core.open_session(S)
    await session.turn("one").run()
    first = session.read_view().leaf_node_id
    await session.turn("two").run()
    await session.admin().append_plugin_body("notes", {"n": 1})
    await session.turn("three").run()
    await session.admin().branch_to_node(first)
    await session.turn("other two").run()
    await session.admin().branch_to_node(None)
    await session.turn("other one").run()
    await session.admin().branch_to_node(first)
    state = await session.admin().export_persistence_state()
    async with LashCore(provider=ScriptedCaller([text("yes")] * 2), model=ModelSpec("model-1")) as resident:
        copied = await resident.open_with_state(S, state)
        await copied.turn("four", turn_id="t4").run()
        whole = [
            ("one", FIRST, None), ("ok", FIRST, "one"),
            ("two", FIRST, "ok"), ("ok", FIRST, "two"), ("three", FIRST, None), ("ok", FIRST, "three"),
            ("other two", FIRST, "ok"), ("ok", FIRST, "other two"),
            ("other one", FIRST, None), ("ok", FIRST, "other one"),
            ("four", FIRST, "ok"), ("yes", FIRST, "four"),
        ]  # fmt: skip
        view = copied.read_view()
        assert sorted(shape(view.session_graph()), key=str) == sorted(whole, key=str)
        assert [message_text(message) for message in view.messages] == ["one", "ok", "four", "yes"]
        assert view.session_graph().leaf_node_id == view.messages[-1].id
        await copied.admin().open_agent_frame(OpenAgentFrameRequest("f2", "test"))
        await copied.turn("five").run()
        assert set(whole) < set(shape(copied.read_view().session_graph()))
        exported = _of(copied.export_state(), "s2")
    stored = await core.open_with_state("s2", exported)
    await stored.turn("six").run()
    assert {*whole, ("six", "f2", "yes")} < set(shape(stored.read_view().session_graph()))
    kept = {node.node_id for node in state.nodes}
    assert kept < {node.node_id for node in stored.read_view().session_graph().nodes}
