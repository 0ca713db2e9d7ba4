"""The whole of a session as one value: what is in it, going on from it elsewhere and in place (01 §2.3, §4.8, §11)."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.driving import Crash, CrashPoints, S, said
from support.nesting import nested
from support.scripted import ScriptedCaller, text

from lash_cli import (
    AttachmentItem,
    LashCore,
    LashSession,
    Message,
    OpenAgentFrameRequest,
    RuntimeSessionState,
    SqliteStore,
    TextItem,
    TurnInput,
)
from lash_cli.core.codec import MAX_KEPT_DEPTH, decode, encode, sha256_hex
from lash_cli.core.content import AttachmentPart, Inline, ProsePart, Role, Stored, TextPart
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.policy import ModelSpec
from lash_cli.core.tools import ToolManifest, ToolState, ToolStateEntry
from lash_cli.errors import ConflictError, LashRuntimeError, StoreSessionMismatch, UsageError
from lash_cli.store.base import ReadScope
from lash_cli.system import SystemClock, SystemIds

MakeCore = Callable[..., LashCore]

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
REF = "sha256:" + sha256_hex(PNG)
IMAGE = TurnInput((TextItem("look"), AttachmentItem(Inline("image/png", PNG, "cat.png"))))


def echo() -> ScriptedCaller:
    return ScriptedCaller([text("ok")], repeat=True)


def attached(session: LashSession) -> list[object]:
    messages = session.read_view().messages
    return [part.attachment for message in messages for part in message.parts if isinstance(part, AttachmentPart)]


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[LashCore]:
    """A core over another store."""
    store = SqliteStore.open(tmp_path / "other" / "lash.db", clock=SystemClock(), ids=SystemIds())
    async with LashCore(provider=echo(), model=ModelSpec("model-1"), store=store, queue_driver="none") as core:
        yield core


async def lived(core: LashCore) -> LashSession:
    """A session with a branch, a record of a plugin, a superseded frame and an image in the current one."""
    session = await core.open_session(S)
    await session.turn("one").run()
    fork = session.read_view().leaf_node_id
    await session.turn("left").run()
    await session.admin().branch_to_node(fork)
    await session.admin().append_plugin_body("notebook", {"page": 7})
    summary = ConversationPayload(Message("", Role.USER, (TextPart("summary"),)))
    await session.admin().open_agent_frame(OpenAgentFrameRequest("second", "test", (summary,)))
    await session.turn(IMAGE).run()
    return session


def carried(state: RuntimeSessionState) -> RuntimeSessionState:
    """The state after its way through a file."""
    read = decode(encode(state), RuntimeSessionState)
    assert read == state
    return read


async def test_an_export_has_everything_and_another_store_goes_on_from_it(
    make_core: MakeCore, elsewhere: LashCore
) -> None:
    core = make_core(echo())
    session = await lived(core)
    state = carried(await session.admin().export_persistence_state())
    assert [frame.frame_id for frame in state.frames] == [f"{S}:frame:initial", "second"]
    assert (state.attachments, state.turn_state.turn_index) == ({REF: PNG}, 3)
    assert state.nodes == (await core.session_graph(S)).nodes
    copied = await elsewhere.open_with_state(S, state)
    await copied.turn("more").run()
    assert said(copied.read_view().messages) == ["summary", "look", "ok", "more", "ok"]
    assert attached(copied) == [Stored(REF, "image/png", len(PNG), "cat.png")]
    graph = await elsewhere.session_graph(S)
    assert graph.nodes[: len(state.nodes)] == state.nodes, "moments, causes and branches included"
    assert copied.usage_report().usage.total == session.usage_report().usage.total * 4 // 3
    await elsewhere.branch_to_node(S, state.nodes[1].node_id)
    again = await elsewhere.open_session(S)
    assert said(again.read_view().messages) == ["one", "ok"], "the older frame is still there to go back to"


async def test_the_bytes_of_an_image_are_kept_where_the_state_was_adopted(
    make_core: MakeCore, elsewhere: LashCore
) -> None:
    session = await lived(make_core(echo()))
    state = await session.admin().export_persistence_state()
    copied = await elsewhere.open_with_state(S, state)
    await copied.flush()
    assert await elsewhere.store.forget_aged_uncommitted(2**60) == 0
    assert await elsewhere.store.get_attachment(S, REF) == PNG
    assert not copied._shared.state.given_attachments, "the store has them now"
    assert (await copied.admin().export_persistence_state()).attachments == {REF: PNG}


@pytest.mark.parametrize("times", [1, 2], ids=["into-an-empty-store", "over-itself"])
async def test_an_adopted_session_opens_by_its_current_frame_alone(
    make_core: MakeCore, elsewhere: LashCore, tmp_path: Path, times: int
) -> None:
    state = await (await lived(make_core(echo()))).admin().export_persistence_state()
    for _ in range(times):
        await (await elsewhere.open_with_state(S, state)).flush()
    with contextlib.closing(sqlite3.connect(tmp_path / "other" / "lash.db")) as connection, connection:
        begins = dict(connection.execute("SELECT frame_id, first_seq FROM frames"))
        seqs = dict(connection.execute("SELECT node_id, place & ((1 << 40) - 1) FROM nodes ORDER BY place"))
    first = {
        frame.frame_id: next(n for n in state.nodes if n.agent_frame_id == frame.frame_id) for frame in state.frames
    }
    assert begins == {frame_id: seqs[node.node_id] for frame_id, node in first.items()}


@pytest.mark.parametrize("attachments", [{}, {REF: b"other"}])
async def test_a_state_without_its_images_is_refused_before_anything_is_written(
    make_core: MakeCore, elsewhere: LashCore, attachments: dict[str, bytes]
) -> None:
    state = await (await lived(make_core(echo()))).admin().export_persistence_state()
    with pytest.raises(UsageError) as refused:
        await elsewhere.open_with_state(S, replace(state, attachments=attachments))
    assert (refused.value.code, REF in refused.value.message) == ("session_state_invalid", True)
    assert await elsewhere.store.session_row(S) is None


async def test_a_session_without_a_store_has_the_bytes_in_memory(make_core: MakeCore) -> None:
    state = await (await lived(make_core(echo()))).admin().export_persistence_state()
    async with LashCore(provider=echo(), model=ModelSpec("model-1")) as core:
        session = await core.open_with_state(S, state)
        assert attached(session) == [Inline("image/png", PNG, "cat.png")]
        assert (await session.admin().export_persistence_state()).nodes == session.export_state().nodes
        with pytest.raises(LashRuntimeError):
            await session.admin().apply_persistence_state(state)
        with pytest.raises(UsageError):
            await core.open_with_state(S, replace(state, attachments={}))


async def test_nodes_of_an_unknown_moment_are_of_the_moment_they_are_adopted(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await core.open_session(S)
    await session.turn("one").run()
    copied = await core.open_with_state("s2", session.export_state().rebound_to("s2"))
    await copied.flush()
    moments = [entry.at_ms for entry in await core.message_tree("s2")]
    assert min(moments) >= min(entry.at_ms for entry in await core.message_tree(S)) > 0


async def test_a_session_goes_back_to_what_it_was_in_one_commit(make_core: MakeCore) -> None:
    caller = echo()
    core = make_core(caller)
    session = await lived(core)
    state = carried(await session.admin().export_persistence_state())
    await session.turn("regretted").run()
    before, spent = session.read_view(), session.usage_report()
    await session.admin().apply_persistence_state(state)
    view = session.read_view()
    assert said(view.messages) == ["summary", "look", "ok"]
    assert view.head_revision == (before.head_revision or 0) + 1
    assert (view.turn_index, session.usage_report()) == (before.turn_index, spent), "turns count on, costs stay"
    assert await core.session_graph(S) == (await session.admin().session_graph())
    await session.turn("else").run()
    assert said(caller.requests[-1].messages) == ["summary", "look", "ok", "else"]
    again = await make_core(echo()).open_session(S)
    assert said(again.read_view().messages) == ["summary", "look", "ok", "else", "ok"]
    assert again.read_view().turn_index == before.turn_index + 1


async def test_a_state_that_has_cost_more_than_the_session_it_replaces_brings_the_rest_along(
    make_core: MakeCore, elsewhere: LashCore
) -> None:
    state = await (await lived(make_core(echo()))).admin().export_persistence_state()
    session = await elsewhere.open_session(S)
    await session.turn("one").run()
    await session.admin().apply_persistence_state(state)
    assert session.usage_report().usage.total == 3 * 15
    read = await elsewhere.store.load_session(S, ReadScope.HEAD)
    assert read is not None and sum(entry.usage.total for entry in read.token_ledger) == 3 * 15


async def test_what_cannot_be_applied_changes_nothing(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await lived(core)
    state = await session.admin().export_persistence_state()
    before = session.export_state()
    with pytest.raises(StoreSessionMismatch):
        await session.admin().apply_persistence_state(state.rebound_to("s2"))
    with pytest.raises(UsageError) as refused:
        await session.admin().apply_persistence_state(replace(state, leaf_node_id="nowhere"))
    assert refused.value.code == "session_state_invalid"
    misfiled = ToolState(tools={"a": ToolStateEntry(ToolManifest("b", "look", "look"))})
    with pytest.raises(UsageError, match="files tool b under a") as refused:
        await session.admin().apply_persistence_state(replace(state, nodes=(), leaf_node_id=None, tool_state=misfiled))
    assert refused.value.code == "session_state_invalid"
    assert session.export_state() == before
    assert await session.admin().export_persistence_state() == state
    await session.flush()
    assert await session.admin().export_persistence_state() == state, "nothing of it is left to be written"


async def test_a_crash_leaves_what_was_or_what_is_to_be(make_core: MakeCore) -> None:
    session = await lived(make_core(echo()))
    state = await session.admin().export_persistence_state()
    await session.turn("more").run()
    await session.close()
    for point, last in (("before:apply", "more"), ("after:apply", "look")):
        crashed = await make_core(echo(), crash_point=CrashPoints(point)).open_session(S)
        with pytest.raises(Crash):
            await crashed.admin().apply_persistence_state(state)
        assert said(crashed.read_view().messages)[-2] == last
        again = await make_core(echo()).open_session(S)
        assert said(again.read_view().messages)[-2] == last


async def test_a_turn_that_was_cut_off_is_finished_first(make_core: MakeCore) -> None:
    state = await (await lived(make_core(echo()))).admin().export_persistence_state()
    crashed = await make_core(echo(), crash_point=CrashPoints("before:commit")).open_session(S)
    with pytest.raises(Crash):
        await crashed.turn("cut off").run()
    with pytest.raises(ConflictError) as refused:
        await (await make_core(echo()).open_session(S)).admin().apply_persistence_state(state)
    assert refused.value.code == "turn_unfinished"


async def test_what_is_to_replace_the_stored_session_is_what_is_exported(make_core: MakeCore) -> None:
    core = make_core(echo())
    session = await lived(core)
    state = await session.admin().export_persistence_state()
    await session.close()
    fresh = await core.open_with_state(S, state)
    again = await fresh.admin().export_persistence_state()
    assert (again.nodes, again.frames, again.attachments) == (state.nodes, state.frames, state.attachments)
    read = await core.store.load_session(S, ReadScope.HEAD)
    assert read is not None and read.turn_state.turn_index == 3


async def test_a_state_goes_back_that_has_what_was_as_deep_as_may_be(make_core: MakeCore) -> None:
    """Around it a state has more levels than what it was handed in with."""
    session = await make_core(ScriptedCaller([text("one"), text("two")])).open_session("s1")
    await session.turn("a").run()
    deepest = {"notes": nested(MAX_KEPT_DEPTH - 5)}
    said = Message("deep", Role.ASSISTANT, (ProsePart("well", deepest),))
    await session.admin().replace_active_read_state((*session.read_view().messages, said))
    state = await session.admin().export_persistence_state()
    await session.admin().apply_persistence_state(state)
    await session.turn("b").run()
    assert said.parts in [message.parts for message in session.read_view().messages]
