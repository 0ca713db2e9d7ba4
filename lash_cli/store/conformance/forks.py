"""Laws of forks: a session that goes on from a node of another shares its history, and nothing of it can be lost
(contract 01 §8.2, §19, 08 §5.1 `fork`, design D6)."""

from __future__ import annotations

import msgspec
import pytest

from lash_cli.core.commit import Checkpoint, CheckpointComponent, ReplaceFull, RuntimeCommitResult, Unchanged
from lash_cli.core.content import TextItem, TurnInput
from lash_cli.core.frames import FrameStatus, current_frame, open_frame
from lash_cli.core.graph import chain
from lash_cli.core.head_state import TurnState
from lash_cli.core.ingress import InputDraft, ingress_message_id
from lash_cli.core.machine_tail import own_message_id
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import ConflictError, NotFoundError, SessionDeleted
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionFork, SessionMeta
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import MovableClock, StoreLaws

S = make.SESSION
F = "fork"


async def fork(
    store: RuntimePersistence, clock: MovableClock, session_id: str = F, *, source: str = S, at: str | None = None
) -> SessionMeta:
    """A fork of `source`, at its head or at a node."""
    return await store.fork_session(SessionFork(source, session_id, clock.now_ms(), at))


async def path_of(store: RuntimePersistence, session_id: str) -> list[str]:
    """The ids on the active path, which the conversation must agree with."""
    read = await store.load_session(session_id, ReadScope.ACTIVE_PATH)
    said = await store.load_session(session_id, ReadScope.CONVERSATION)
    assert read is not None and said is not None
    ids = [node.node_id for node in read.nodes]
    assert [message.id for message in said.messages] == ids
    return ids


async def graph_of(store: RuntimePersistence, session_id: str) -> set[str]:
    """Every node a session shows."""
    read = await store.load_session(session_id, ReadScope.FULL_GRAPH)
    assert read is not None
    return {node.node_id for node in read.nodes}


async def grow(store: RuntimePersistence, session_id: str, ids: list[str], parent: str) -> RuntimeCommitResult:
    """Append to a session in the frame that is current."""
    read = await store.load_session(session_id, ReadScope.HEAD)
    assert read is not None
    fence = await make.fence_of(store, session_id=session_id)
    delta = make.append(ids, parent=parent, frame_id=current_frame(read.frames).frame_id)
    return await store.commit_runtime_state(make.commit(fence, delta, expected=read.head_revision))


async def move(store: RuntimePersistence, session_id: str, leaf: str | None) -> None:
    """Move the head of a session to another node."""
    read = await store.load_session(session_id, ReadScope.HEAD)
    assert read is not None
    fence = await make.fence_of(store, session_id=session_id)
    await store.commit_runtime_state(make.commit(fence, Unchanged(leaf), expected=read.head_revision))


class ForkLaws(StoreLaws):
    async def test_a_fork_goes_on_from_the_head_and_each_goes_its_own_way(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        meta = await fork(store, self.clock)
        assert (meta.session_id, meta.parent_session_id) == (F, S)
        assert await path_of(self.open_store(), F) == ["m1", "b2"]
        await grow(store, F, ["f3", "f4"], "b2")
        await grow(store, S, ["s3"], "b2")
        assert await path_of(store, F) == ["m1", "b2", "f3", "f4"]
        assert await path_of(store, S) == ["m1", "b2", "s3"]
        assert await graph_of(store, F) == {"m1", "b2", "f3", "f4"}
        assert await graph_of(store, S) == {"m1", "m2", "m3", "b2", "s3"}
        assert [await store.load_node(F, name) for name in ("m2", "s3")] == [None, None]
        inherited = await store.load_node(F, "b2")
        assert inherited is not None and inherited.parent_node_id == "m1"

    async def test_a_fork_takes_configuration_and_checkpoint_but_neither_turns_nor_cost(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        done = await store.commit_runtime_state(
            make.commit(
                fence,
                make.append(["m1"]),
                turn=make.stamp(),
                turn_index=4,
                usage_deltas=(make.usage(),),
                components={"a": CheckpointComponent(body=b"part")},
            )
        )
        await fork(store, self.clock)
        read = await store.load_session(F, ReadScope.HEAD)
        row = await store.session_row(F)
        assert read is not None and row is not None
        assert (read.config, read.component_refs) == (make.CONFIG, done.component_refs)
        assert await store.load_component(read.component_refs["a"]) == b"part"
        assert (read.turn_state.turn_index, read.turn_state.token_usage, read.token_ledger) == (0, TokenUsage(), ())
        assert (read.head_revision, row.head_revision, row.leaf_node_id) == (1, 1, "m1")
        assert await store.turns(F, limit=5) == ()
        assert await store.gc_unreachable() is not None
        assert await store.load_component(read.component_refs["a"]) == b"part"

    async def test_a_fork_at_a_node_ends_there_also_off_the_active_path(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        await fork(store, self.clock, at="m2")
        assert await path_of(store, F) == ["m1", "m2"]
        await grow(store, F, ["f3"], "m2")
        assert await path_of(store, F) == ["m1", "m2", "f3"]
        assert await graph_of(store, F) == {"m1", "m2", "f3"}

    async def test_how_full_the_context_is_is_known_in_a_fork_at_the_head_alone(self) -> None:
        store, fence = await make.branched(self.open_store, self.clock)
        measured = TurnState(3, TokenUsage(input_tokens=9))
        commit = make.commit(fence, Unchanged("b2"), expected=2)
        await store.commit_runtime_state(msgspec.structs.replace(commit, checkpoint=Checkpoint(measured)))
        for number, (at, known) in enumerate(((None, 9), ("b2", 9), ("m1", 0), ("m2", 0))):
            await fork(store, self.clock, f"f{number}", at=at)
            read = await store.load_session(f"f{number}", ReadScope.HEAD)
            assert read is not None
            assert (read.turn_state.turn_index, read.turn_state.token_usage.input_tokens) == (0, known), at

    async def test_a_fork_at_a_node_of_an_older_frame_is_in_that_frame(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2"])))
        opened, _ = open_frame(make.frames(), "f2", "compaction", 9)
        delta = make.append(["n1", "n2"], parent="m2", frame_id="f2")
        await store.commit_runtime_state(make.commit(fence, delta, expected=1, with_frames=opened))
        await fork(store, self.clock, "older", at="m1")
        await fork(store, self.clock, "newer")
        older = await store.load_session("older", ReadScope.ACTIVE_PATH)
        newer = await store.load_session("newer", ReadScope.ACTIVE_PATH)
        assert older is not None and newer is not None
        assert [node.node_id for node in older.nodes] == ["m1"]
        assert [(frame.reason, frame.session_id) for frame in older.frames] == [("initial", "older")]
        assert [node.node_id for node in newer.nodes] == ["n1", "n2"]
        assert [(frame.frame_id, frame.session_id, frame.status) for frame in newer.frames] == [
            (make.frames()[0].frame_id, "newer", FrameStatus.SUPERSEDED),
            ("f2", "newer", FrameStatus.ACTIVE),
        ]
        assert await graph_of(store, "newer") == {"m1", "m2", "n1", "n2"}
        await grow(store, "newer", ["x1"], "n2")
        await grow(store, "older", ["y1"], "m1")
        assert await path_of(store, "newer") == ["n1", "n2", "x1"]
        assert await path_of(store, "older") == ["m1", "y1"]

    async def test_a_fork_that_shares_nothing_of_its_frame_grows_in_it(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2"])))
        opened, _ = open_frame(make.frames(), "f2", "continue_as", 9)
        await store.commit_runtime_state(make.commit(fence, Unchanged("m2"), expected=1, with_frames=opened))
        await store.commit_runtime_state(make.commit(fence, Unchanged("m1"), expected=2))
        await fork(store, self.clock)
        await grow(store, F, ["n1"], "m1")
        assert await path_of(store, F) == ["n1"]
        await store.commit_runtime_state(make.commit(fence, Unchanged(None), expected=3))
        await fork(store, self.clock, "empty")
        assert await path_of(store, "empty") == []
        frame = current_frame(opened)
        delta = make.append(["e1"], frame_id=frame.frame_id)
        other = await make.fence_of(store, session_id="empty")
        await store.commit_runtime_state(make.commit(other, delta, expected=1))
        assert await path_of(store, "empty") == ["e1"]

    async def test_a_fork_of_a_fork_reads_through_both(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        await fork(store, self.clock)
        await grow(store, F, ["f3", "f4"], "b2")
        await fork(store, self.clock, "deep")
        await fork(store, self.clock, "past", source=F, at="b2")
        await fork(store, self.clock, "deeper", source=F, at="f3")
        assert await path_of(store, "deep") == ["m1", "b2"]
        assert await path_of(store, "past") == ["m1", "b2"]
        assert await path_of(store, "deeper") == ["m1", "b2", "f3"]
        await grow(store, "deeper", ["d1"], "f3")
        await fork(store, self.clock, "deepest", source="deeper")
        await grow(store, "deepest", ["e1"], "d1")
        assert await path_of(store, "deepest") == ["m1", "b2", "f3", "d1", "e1"]
        assert await graph_of(store, "deepest") == {"m1", "b2", "f3", "d1", "e1"}

    async def test_the_head_of_a_fork_moves_to_what_it_shares_and_branches_there(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        await fork(store, self.clock)
        await move(store, F, "b2")
        assert await path_of(self.open_store(), F) == ["m1", "b2"], "it stood there before"
        assert (await store.head_position(F)).leaf_node_id == "b2"
        await grow(store, F, ["f3"], "b2")
        await move(store, F, "m1")
        assert await path_of(self.open_store(), F) == ["m1"]
        assert (await store.head_position(F)).leaf_node_id == "m1"
        await grow(store, F, ["g2"], "m1")
        assert await path_of(store, F) == ["m1", "g2"]
        assert await graph_of(store, F) == {"m1", "b2", "f3", "g2"}
        await fork(store, self.clock, "second", source=F)
        assert await graph_of(store, "second") == {"m1", "g2"}
        await move(store, F, None)
        assert await path_of(store, F) == []
        await move(store, F, "f3")
        assert await path_of(store, F) == ["m1", "b2", "f3"]
        with pytest.raises(ConflictError) as caught:
            await move(store, F, "m2")
        assert caught.value.code == "node_unknown"

    async def test_nothing_done_to_the_source_changes_a_fork(self) -> None:
        store, fence = await make.branched(self.open_store, self.clock)
        await fork(store, self.clock, at="m3")
        before = await store.load_session(F, ReadScope.FULL_GRAPH)
        assert await store.tombstone_nodes(S, ["m2"]) == 2
        assert (await store.vacuum(S))["nodes"] == 0
        assert await store.load_session(F, ReadScope.FULL_GRAPH) == before
        await store.commit_runtime_state(make.commit(fence, ReplaceFull(make.nodes(["m3"]), "m3")))
        assert (await store.vacuum(None))["nodes"] == 1  # b2, which no fork shows
        assert await store.load_session(F, ReadScope.FULL_GRAPH) == before
        assert await path_of(store, F) == ["m1", "m2", "m3"]
        shared = await store.load_node(F, "m3")
        assert shared is not None and shared.parent_node_id == "m2"
        await store.release_lease(fence)
        assert await store.delete_session(S, self.clock.now_ms())
        assert await store.load_session(F, ReadScope.FULL_GRAPH) == before
        await grow(store, F, ["f4"], "m3")
        assert await path_of(self.open_store(), F) == ["m1", "m2", "m3", "f4"]

    async def test_what_a_deleted_session_shared_goes_with_the_last_fork(self) -> None:
        store, fence = await make.branched(self.open_store, self.clock)
        await fork(store, self.clock, "long")
        await fork(store, self.clock, "short", at="m1")
        await store.release_lease(fence)
        await store.delete_session(S, self.clock.now_ms())
        await store.delete_session("long", self.clock.now_ms())
        assert await path_of(store, "short") == ["m1"]
        await fork(store, self.clock, "again", source="short")
        await store.delete_session("short", self.clock.now_ms())
        assert await path_of(store, "again") == ["m1"]
        await store.delete_session("again", self.clock.now_ms())
        assert (await store.vacuum(None))["nodes"] == 0

    async def test_attachments_of_the_shared_path_stay_readable(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        named = await store.put_attachment(S, b"named", media_type="text/plain", owner=None, now_ms=1)
        other = await store.put_attachment(S, b"other", media_type="text/plain", owner=None, now_ms=1)
        fence = await make.fence_of(store)
        message = make.message("m1", f"see {named}")
        nodes = chain([message], parent_node_id=None, agent_frame_id=make.frames()[0].frame_id, at_ms=1)
        delta = ReplaceFull(nodes, "m1")
        await store.commit_runtime_state(make.commit(fence, delta, attachments=(named, other), release=True))
        await fork(store, self.clock)
        await fork(store, self.clock, "second", source=F)
        await store.delete_session(S, self.clock.now_ms())
        assert (await store.gc_unreachable())["blobs"] == 1
        for name in (F, "second"):
            assert await store.get_attachment(name, named) == b"named"
            with pytest.raises(NotFoundError) as caught:
                await store.get_attachment(name, other)
            assert caught.value.code == "attachment_not_found"

    async def test_a_fork_that_starts_over_lets_go_of_what_it_shared(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        await fork(store, self.clock)
        fence = await make.fence_of(store, session_id=F)
        fresh = make.nodes(["n1"], session_id=F)
        await store.commit_runtime_state(make.commit(fence, ReplaceFull(fresh, "n1")))
        assert await graph_of(store, F) == {"n1"}
        assert await store.load_node(F, "m1") is None
        assert await path_of(store, S) == ["m1", "b2"]
        await grow(store, F, ["n2"], "n1")
        assert await path_of(store, F) == ["n1", "n2"]

    async def test_what_belongs_to_the_source_cannot_be_hidden_in_a_fork(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        await fork(store, self.clock)
        with pytest.raises(ConflictError) as caught:
            await store.tombstone_nodes(F, ["m1"])
        assert caught.value.code == "node_inherited"
        assert await store.tombstone_nodes(F, ["m2", "nowhere"]) == 0
        assert await graph_of(store, S) == {"m1", "m2", "m3", "b2"}

    async def test_a_fork_waits_for_nobody_and_sees_what_is_committed(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.start(store, self.clock, "t1")
        await fork(self.open_store(), self.clock)
        row = await store.session_row(F)
        assert row is not None
        assert (row.head_revision, row.running_turn_id, row.pending_inputs) == (None, None, 0)
        assert await store.load_session(F, ReadScope.ACTIVE_PATH) is None

    async def test_a_turn_from_the_queue_of_a_fork_never_has_the_id_of_one_that_it_shares(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        answer = make.append([own_message_id("t1", 1)])
        commit = make.ending(lane, answer, turn_index=1, release=True)
        await store.commit_runtime_state(commit)
        await fork(store, self.clock)
        # Its nodes would have the names of those of the shared turn, and be taken for them.
        again = TurnInput((TextItem("again"),), trace_turn_id="t1")
        await store.enqueue_turn_input(InputDraft(F, "i1", again))
        drained = make.granted(await store.open_lane(make.drain_request(self.clock, session_id=F)))
        assert drained.turn is not None and drained.turn.turn_id == "d1"
        assert make.ids_of(drained.claim) == ["i1"]

    async def test_an_input_of_a_fork_never_has_the_id_of_one_that_it_shares(self) -> None:
        """Its message would be taken for the other one, and what was asked would be missing from the conversation."""
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
        said = make.append([ingress_message_id("i1")])
        await store.commit_runtime_state(make.ending(lane, said, release=True))
        await fork(store, self.clock)
        await fork(store, self.clock, "deep", source=F)
        await grow(store, S, [ingress_message_id("i2")], ingress_message_id("i1"))
        fence = await make.fence_of(store, session_id=S)
        await store.commit_runtime_state(make.commit(fence, ReplaceFull(make.nodes(["n1"]), "n1"), expected=2))
        await store.vacuum(S)
        for session_id in (F, "deep"):
            with pytest.raises(ConflictError) as refused:
                await make.enqueue(store, "i1", session_id=session_id)
            assert refused.value.code == "input_exists"
        await make.enqueue(store, "i2", session_id=F)
        assert await make.pending_ids(store, F) == ["i2"]

    async def test_a_refused_fork_leaves_nothing(self) -> None:
        store, _ = await make.branched(self.open_store, self.clock)
        await make.create(store, self.clock, "other")
        await make.create(store, self.clock, "gone")
        await store.delete_session("gone", self.clock.now_ms())
        named = await store.session_row("other")
        assert named is not None
        for request, code in (
            (SessionFork(S, "other", 1), "session_exists"),
            (SessionFork(S, F, 1, "nowhere"), "node_unknown"),
            (SessionFork(S, F, 1, name=named.meta.name), "session_name_taken"),
        ):
            with pytest.raises(ConflictError) as caught:
                await store.fork_session(request)
            assert caught.value.code == code
        with pytest.raises(NotFoundError):
            await store.fork_session(SessionFork("nowhere", F, 1))
        for source_id, session_id in (("gone", F), (S, "gone")):
            with pytest.raises(SessionDeleted):
                await store.fork_session(SessionFork(source_id, session_id, 1))
        assert await store.session_row(F) is None
        assert await path_of(store, S) == ["m1", "b2"]
