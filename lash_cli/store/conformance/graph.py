"""Laws of the stored graph: paths, branches, frames, tombstones, sweeps (contract 01 §8, §9.6, §10, design D6)."""

from __future__ import annotations

import msgspec
import pytest

from lash_cli.core.commit import Append, CheckpointComponent, ReplaceFull, Unchanged
from lash_cli.core.content import Message, PluginOrigin, Role, TextPart
from lash_cli.core.frames import FrameStatus, open_frame
from lash_cli.core.graph import CausalRef, ConversationPayload, PluginPayload, SessionNode, messages_on
from lash_cli.errors import ConflictError, MissingCheckpointComponent
from lash_cli.store.base import ReadScope, RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION


async def ids_on_path(store: RuntimePersistence) -> list[str]:
    """The active path of the current frame."""
    read = await store.load_session(S, ReadScope.ACTIVE_PATH)
    assert read is not None
    return [node.node_id for node in read.nodes]


async def all_ids(store: RuntimePersistence) -> list[str]:
    """Every live node."""
    read = await store.load_session(S, ReadScope.FULL_GRAPH)
    assert read is not None
    return [node.node_id for node in read.nodes]


async def same_conversation(store: RuntimePersistence, expected: list[str]) -> None:
    """The conversation holds the `expected` messages, as the active path does, and no node."""
    read = await store.load_session(S, ReadScope.CONVERSATION)
    path = await store.load_session(S, ReadScope.ACTIVE_PATH)
    assert read is not None and path is not None
    assert [message.id for message in read.messages] == expected
    assert list(read.messages) == messages_on(path.nodes, path.frames[-1].frame_id)
    assert (read.nodes, path.messages) == ((), ())
    assert msgspec.structs.replace(read, messages=()) == msgspec.structs.replace(path, nodes=())


class GraphLaws(StoreLaws):
    async def test_the_active_path_leaves_branches_out_and_single_nodes_find_them(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        assert await ids_on_path(store) == ["m1", "b2"]
        assert await all_ids(store) == ["m1", "m2", "m3", "b2"]
        off_path = await self.open_store().load_node(S, "m3")
        assert off_path == make.nodes(["m3"], parent="m2")[0]
        assert await store.load_node(S, "nowhere") is None
        assert await store.load_node("nowhere", "m1") is None

    async def test_a_conversation_is_what_was_said_on_the_active_path(self) -> None:
        store, fence = await make.branched(self.open_store, self.clock)
        await same_conversation(store, ["m1", "b2"])
        note = SessionNode("p3", "b2", make.nodes(["m1"])[0].agent_frame_id, 1, PluginPayload("note", {"a": 1}))
        hushed = Message("h4", Role.USER, (TextPart("x"),), PluginOrigin("p", transient=True))
        unsaid = SessionNode("h4", "p3", note.agent_frame_id, 1, ConversationPayload(hushed))
        said_twice = msgspec.structs.replace(make.nodes(["m1"])[0], node_id="m5", parent_node_id="h4")
        await store.commit_runtime_state(make.commit(fence, Append((note, unsaid), "h4"), expected=2))
        await same_conversation(store, ["m1", "b2"])
        await store.commit_runtime_state(make.commit(fence, Append((said_twice,), "m5"), expected=3))
        await same_conversation(store, ["m1", "b2"])
        await store.commit_runtime_state(make.commit(fence, Unchanged("m3"), expected=4))
        await same_conversation(store, ["m1", "m2", "m3"])
        await store.commit_runtime_state(make.commit(fence, ReplaceFull(make.nodes(["n1", "n2"]), "n2")))
        await same_conversation(store, ["n1", "n2"])
        await store.commit_runtime_state(make.commit(fence, ReplaceFull((), None)))
        await same_conversation(store, [])

    async def test_moving_the_leaf_makes_the_other_branch_active(self) -> None:
        store, fence = await make.branched(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, Unchanged("m2"), expected=2))
        assert await ids_on_path(store) == ["m1", "m2"]
        position = await store.head_position(S)
        assert (position.head_revision, position.leaf_node_id) == (3, "m2")
        await store.commit_runtime_state(make.commit(fence, Unchanged(None), expected=3))
        assert await ids_on_path(store) == []
        assert len(await all_ids(store)) == 4

    async def test_a_new_frame_hides_the_old_ones_nodes_and_keeps_its_own_parents(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2"])))
        opened, _ = open_frame(make.frames(), "f2", "compaction", 9)
        delta = make.append(["n1", "n2"], parent="m2", frame_id="f2")
        await store.commit_runtime_state(make.commit(fence, delta, expected=1, with_frames=opened))
        read = await self.open_store().load_session(S, ReadScope.ACTIVE_PATH)
        assert read is not None
        assert (read.nodes, read.frames) == (delta.nodes, opened)
        assert await all_ids(store) == ["m1", "m2", "n1", "n2"]
        await store.commit_runtime_state(
            make.commit(fence, make.append(["n3"], parent="n2", frame_id="f2"), expected=2)
        )
        assert await ids_on_path(store) == ["n1", "n2", "n3"]

    async def test_frames_of_which_not_exactly_one_would_be_active_are_refused(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        (first,) = make.frames()
        _, second = open_frame(make.frames(), "f2", "compaction", 9)[0]
        left = msgspec.structs.replace(first, status=FrameStatus.SUPERSEDED)
        for frames in (None, (), (left,), (first, second), (first, first), (left, left, second)):
            with pytest.raises(ConflictError) as refused:
                await store.commit_runtime_state(make.commit(fence, Unchanged(None), with_frames=frames))
            assert refused.value.code == "agent_frame_missing"
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"])))
        for frames in ((second,), (first, second), (left,)):
            with pytest.raises(ConflictError) as refused:
                await store.commit_runtime_state(make.commit(fence, Unchanged("m1"), expected=1, with_frames=frames))
            assert refused.value.code == "agent_frame_missing"
        read = await store.load_session(S, ReadScope.FULL_GRAPH)
        assert read is not None and (read.head_revision, read.frames) == (1, (first,))
        await store.commit_runtime_state(make.commit(fence, Unchanged("m1"), expected=1, with_frames=(left, second)))

    async def test_an_opened_frame_without_nodes_has_an_empty_path(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"])))
        opened, _ = open_frame(make.frames(), "f2", "continue_as", 9)
        await store.commit_runtime_state(make.commit(fence, Unchanged("m1"), expected=1, with_frames=opened))
        assert await ids_on_path(store) == []

    async def test_the_head_alone_is_the_same_head_without_nodes(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        assert await store.load_session(S, ReadScope.HEAD) is None
        fence = await make.fence_of(store)
        opened, _ = open_frame(make.frames(), "f2", "compaction", 9)
        await store.commit_runtime_state(
            make.commit(
                fence,
                make.append(["m1", "m2"]),
                turn=make.stamp(),
                with_frames=opened,
                usage_deltas=(make.usage(),),
                components={"a": CheckpointComponent(body=b"part")},
            )
        )
        reader = self.open_store()
        head = await reader.load_session(S, ReadScope.HEAD)
        path = await reader.load_session(S, ReadScope.FULL_GRAPH)
        assert head is not None and path is not None
        assert (head.head_revision, head.leaf_node_id, head.frames) == (1, "m2", opened)
        assert head.token_ledger and head.component_refs
        assert (head.nodes, len(path.nodes)) == ((), 2)
        assert msgspec.structs.replace(head, nodes=path.nodes) == path

    async def test_a_cause_is_kept(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        plain = make.nodes(["m1"])[0]
        caused = SessionNode(plain.node_id, None, plain.agent_frame_id, 1, plain.payload, CausalRef("turn", "t1", 2))
        await store.commit_runtime_state(make.commit(fence, ReplaceFull((caused,), "m1")))
        assert await store.load_node(S, "m1") == caused

    async def test_a_full_replacement_hides_the_old_nodes_and_may_bring_ids_back(self) -> None:
        store, fence = await make.branched(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, ReplaceFull(make.nodes(["x1", "m1"]), "m1")))
        assert await all_ids(store) == ["x1", "m1"]
        assert await ids_on_path(store) == ["x1", "m1"]
        assert (await store.vacuum(S))["nodes"] == 4
        assert await all_ids(store) == ["x1", "m1"]

    async def test_a_full_replacement_has_the_frames_it_names_and_no_others(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"])))
        frames, _ = open_frame(make.frames(), "second", "compaction", 7)
        delta = make.append(["c1"], parent="m1", frame_id="second")
        await store.commit_runtime_state(make.commit(fence, delta, expected=1, with_frames=frames))
        await store.commit_runtime_state(make.commit(fence, ReplaceFull(make.nodes(["n1"]), "n1")))
        read = await store.load_session(S, ReadScope.ACTIVE_PATH)
        assert read is not None and read.frames == make.frames()

    async def test_the_active_path_cannot_be_tombstoned(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        with pytest.raises(ConflictError) as caught:
            await store.tombstone_nodes(S, ["m3", "m1"])
        assert caught.value.code == "node_on_active_path"
        assert await all_ids(store) == ["m1", "m2", "m3", "b2"]

    async def test_a_tombstone_hides_at_once_with_all_below_and_vacuum_deletes(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        assert await store.tombstone_nodes(S, ["m2", "nowhere"]) == 2
        assert await store.load_node(S, "m3") is None
        assert await all_ids(store) == ["m1", "b2"]
        assert (await store.vacuum(None))["nodes"] == 2
        assert await ids_on_path(store) == ["m1", "b2"]

    async def test_gc_deletes_what_no_head_names_and_keeps_the_rest(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        old = await store.commit_runtime_state(
            make.commit(fence, make.append(["m1"]), components={"a": CheckpointComponent(body=b"old")})
        )
        new = await store.commit_runtime_state(
            make.commit(fence, Unchanged("m1"), expected=1, components={"a": CheckpointComponent(body=b"new")})
        )
        attachment = await store.put_attachment(S, b"bytes", media_type="text/plain", owner=None, now_ms=1)
        assert (await store.gc_unreachable())["blobs"] == 1
        assert await store.load_component(new.component_refs["a"]) == b"new"
        assert await store.get_attachment(S, attachment) == b"bytes"
        with pytest.raises(MissingCheckpointComponent):
            await store.load_component(old.component_refs["a"])

    async def test_vacuum_removes_terminal_inputs_only(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        assert (await store.vacuum(S))["inputs"] == 0
        await store.commit_runtime_state(make.ending(lane))
        assert (await store.vacuum(S))["inputs"] == 1
