"""Laws of archives: a session made from its archive is the same session under another id, or nothing was changed
(contract 08 §5.1 `export`, `import`)."""

from __future__ import annotations

import msgspec
import pytest

from lash_cli.core.archive import ArchivedInput, SessionArchive
from lash_cli.core.codec import decode, encode
from lash_cli.core.commit import Append, CheckpointComponent, Unchanged
from lash_cli.core.content import AttachmentItem, AttachmentPart, Message, Role, Stored, TurnInput
from lash_cli.core.frames import AgentFrame, frame_of_session, initial_frame_id, open_frame
from lash_cli.core.graph import chain
from lash_cli.core.ingress import ActiveTurn, InputDraft, InputState, NextTurn
from lash_cli.errors import ConflictError, NotFoundError, SessionDeleted, UsageError
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionCreate, SessionFork
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import OpenStore, StoreLaws

S = make.SESSION
NEW = "again"


async def rich(open_store: OpenStore) -> RuntimePersistence:
    """A store with a session with two branches, a turn, costs, a component, an attachment and labels."""
    store = open_store()
    await store.create_session(SessionCreate(S, make.CONFIG, 3, name="mine", cwd="/work", labels={"a": "b"}))
    ref = await store.put_attachment(S, b"picture", media_type="image/png", owner=None, now_ms=4, label="p.png")
    fence = await make.fence_of(store)
    picture = Message("m0", Role.USER, (AttachmentPart(Stored(ref, "image/png", 7, "p.png")),))
    nodes = chain([picture], parent_node_id=None, agent_frame_id=initial_frame_id(S), at_ms=5)
    await store.commit_runtime_state(
        make.commit(
            fence,
            Append((*nodes, *make.nodes(["m1", "m2"], parent="m0")), "m2"),
            turn=make.stamp(),
            turn_index=1,
            usage_deltas=(make.usage(), make.usage(5, "compaction")),
            components={"tool_state": CheckpointComponent(body=b"tools")},
            attachments=(ref,),
        )
    )
    await store.commit_runtime_state(
        make.commit(fence, make.append(["b2"], parent="m0"), expected=1, turn_index=1, release=True)
    )
    return store


def renamed(frames: tuple[AgentFrame, ...]) -> list[AgentFrame]:
    """Frames without the id of their session, which their policies name, too."""
    return [frame_of_session(frame, "") for frame in frames]


class ArchiveLaws(StoreLaws):
    async def test_a_session_made_of_an_archive_is_the_same_session(self) -> None:
        store = await rich(self.open_store)
        archive = decode(encode(await store.export_session(S)), SessionArchive)
        before = {scope: await store.load_session(S, scope) for scope in ReadScope}
        turns = await store.turns(S, limit=9)
        totals = await store.usage_totals(session_id=S)
        assert await store.delete_session(S, 9)
        assert (await store.gc_unreachable()) is not None
        (meta,) = await store.import_sessions([(archive, NEW)])
        assert (meta.session_id, meta.name, meta.cwd, meta.labels, meta.created_at_ms) == (
            NEW, "mine", "/work", {"a": "b"}, 3,
        )  # fmt: skip
        for scope, old in before.items():
            new = await self.open_store().load_session(NEW, scope)
            assert old is not None and new is not None
            assert (new.nodes, new.messages, new.leaf_node_id) == (old.nodes, old.messages, old.leaf_node_id)
            assert renamed(new.frames) == renamed(old.frames)
            named = {(frame.session_id, frame.assignment.policy.session_id) for frame in new.frames}
            assert named == {(NEW, NEW)}
            assert (new.config, new.turn_state, new.checkpoint_ref, new.component_refs, new.token_ledger) == (
                old.config, old.turn_state, old.checkpoint_ref, old.component_refs, old.token_ledger,
            )  # fmt: skip
        assert await store.load_component(archive.head.components["tool_state"]) == b"tools" if archive.head else False
        (attachment,) = await store.list_attachments(NEW)
        assert await store.get_attachment(NEW, attachment["attachment_ref"]) == b"picture"
        (turn,) = await store.turns(NEW, limit=9)
        assert turn == msgspec.structs.replace(turns[0], session_id=NEW)
        assert [(t.day, t.source, t.usage) for t in await store.usage_totals(session_id=NEW)] == [
            (t.day, t.source, t.usage) for t in totals
        ]
        again = await store.export_session(NEW)
        assert again.head is not None and archive.head is not None
        assert (again.head.nodes, again.turns, again.usage) == (archive.head.nodes, archive.turns, archive.usage)

    async def test_it_stands_in_the_list_where_it_was_active_last(self) -> None:
        store = await rich(self.open_store)
        archive = await store.export_session(S)
        assert (archive.created_at_ms, archive.last_commit_at_ms) == (3, 5)
        await store.create_session(SessionCreate("between", make.CONFIG, 4))
        await store.import_sessions([(archive, NEW)])
        rows, _ = await store.list_sessions(limit=9)
        assert [row.meta.session_id for row in rows] == [NEW, S, "between"]

    async def test_it_goes_on_as_any_session_does(self) -> None:
        store = await rich(self.open_store)
        archive = await store.export_session(S)
        await store.import_sessions([(archive, NEW)])
        fence = await make.fence_of(store, session_id=NEW)
        delta = make.append(["n3"], parent="b2", frame_id=initial_frame_id(S))
        done = await store.commit_runtime_state(make.commit(fence, delta, expected=2))
        assert done.head_revision == 3
        read = await store.load_session(NEW, ReadScope.ACTIVE_PATH)
        assert read is not None and [node.node_id for node in read.nodes] == ["m0", "b2", "n3"]
        await store.commit_runtime_state(make.commit(fence, Unchanged("m2"), expected=3, release=True))
        read = await store.load_session(NEW, ReadScope.ACTIVE_PATH)
        assert read is not None and [node.node_id for node in read.nodes] == ["m0", "m1", "m2"]
        source = await store.load_session(S, ReadScope.ACTIVE_PATH)
        assert source is not None and [node.node_id for node in source.nodes] == ["m0", "b2"]

    async def test_frames_begin_where_they_began(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2"])))
        frames, _ = open_frame(make.frames(), "second", "compaction", 7)
        delta = make.append(["c1", "c2"], parent="m2", frame_id="second")
        await store.commit_runtime_state(make.commit(fence, delta, expected=1, with_frames=frames))
        await store.import_sessions([(await store.export_session(S), NEW)])
        read = await store.load_session(NEW, ReadScope.CONVERSATION)
        assert read is not None and [message.id for message in read.messages] == ["c1", "c2"]
        frames, _ = open_frame(frames, "third", "compaction", 8)
        await store.commit_runtime_state(
            make.commit(fence, Unchanged("c2"), expected=2, with_frames=frames, release=True)
        )
        await store.import_sessions([(await store.export_session(S), "third")])
        read = await store.load_session("third", ReadScope.CONVERSATION)
        assert read is not None and read.messages == ()

    async def test_a_fork_is_archived_with_what_it_shares(self) -> None:
        store = await rich(self.open_store)
        await store.fork_session(SessionFork(S, "fork", self.clock.now_ms()))
        archive = await store.export_session("fork")
        await store.delete_session("fork", 9)
        await store.delete_session(S, 9)
        await store.import_sessions([(archive, NEW)])
        read = await store.load_session(NEW, ReadScope.CONVERSATION)
        assert read is not None and [message.id for message in read.messages] == ["m0", "b2"]
        (attachment,) = await store.list_attachments(NEW)
        assert await store.get_attachment(NEW, attachment["attachment_ref"]) == b"picture"

    async def test_what_a_session_names_and_did_not_commit_is_archived_as_its_own(self) -> None:
        store = self.open_store()
        refs = []
        for session_id in ("beside", S):
            await make.create(store, self.clock, session_id)
            for data in (b"one", b"two"):
                label = f"{data.decode()} of {session_id}"
                put = store.put_attachment(session_id, data, media_type="image/png", owner=None, now_ms=4, label=label)
                refs.append(await put)
        parts = tuple(AttachmentPart(Stored(ref, "image/png", 3, "p.png")) for ref in refs[2:])
        nodes = chain(
            [Message("m0", Role.USER, parts)], parent_node_id=None, agent_frame_id=initial_frame_id(S), at_ms=5
        )
        fence = await make.fence_of(store)
        await store.commit_runtime_state(make.commit(fence, Append(tuple(nodes), "m0"), release=True))
        archive = await store.export_session(S)
        archived = {one.attachment_ref: (one.label, one.data) for one in archive.attachments}
        assert archived == {refs[2]: (f"one of {S}", b"one"), refs[3]: (f"two of {S}", b"two")}

    async def test_a_session_without_a_commit_is_archived_too(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        archive = await store.export_session(S)
        await store.import_sessions([(archive, NEW)])
        assert await store.load_session(NEW, ReadScope.HEAD) is None
        row = await store.session_row(NEW)
        assert row is not None and (row.config, row.head_revision) == (make.CONFIG, None)

    async def test_a_name_in_use_is_replaced_and_an_id_in_use_refused(self) -> None:
        store = await rich(self.open_store)
        archive = await store.export_session(S)
        (meta,) = await store.import_sessions([(archive, NEW)])
        assert meta.name not in ("mine", "")
        with pytest.raises(ConflictError) as caught:
            await store.import_sessions([(archive, S)])
        assert caught.value.code == "session_exists"
        await store.delete_session(S, 9)
        with pytest.raises(SessionDeleted):
            await store.import_sessions([(archive, S)])
        with pytest.raises(NotFoundError):
            await store.export_session("absent")

    async def test_what_waits_goes_along_in_its_order_and_waits_until_somebody_releases_it(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, text="running", key="host:k")))
        steered = InputDraft(S, "in-now", TurnInput.text("steered"), ActiveTurn("t1"))
        later = InputDraft(S, "in-later", TurnInput.text("later"), source_key="host:later")
        for draft in (steered, later):
            await store.enqueue_turn_input(draft)
        archive = decode(encode(await store.export_session(S)), SessionArchive)
        await store.import_sessions([(archive, NEW)])
        (copy,) = [row for row in (await store.list_sessions(limit=9))[0] if row.meta.session_id == NEW]
        assert (copy.meta.held_at_ms, copy.meta.hold_reason) == (self.clock.now_ms(), "imported")
        waiting = await store.inputs(NEW, pending_only=True)
        assert [row.input for row in waiting] == [TurnInput.text(text) for text in ("running", "steered", "later")]
        assert {(row.state, row.ingress) for row in waiting} == {(InputState.DEFERRED_NEXT_TURN, NextTurn())}
        assert {row.input_id for row in waiting}.isdisjoint({"in-t1", "in-now", "in-later"}), "in use by the source"
        # A key stands for the same submission as before, in both.
        again = await store.enqueue_turn_input(msgspec.structs.replace(later, session_id=NEW, input_id="in-other"))
        assert again.input_id == waiting[-1].input_id
        # The source goes on with what is its own.
        done = make.ending(lane, defer="t1", release=True)
        await store.commit_runtime_state(done)
        assert len(await store.inputs(S, pending_only=True)) == 2
        assert len(await store.inputs(NEW, pending_only=True)) == 3
        # Where the ids are free they stay; what is settled stays behind.
        await store.delete_session(NEW, 9)
        await store.delete_session(S, 9)
        await store.import_sessions([(archive, "third")])
        moved = await store.inputs("third", pending_only=False)
        assert [row.input_id for row in moved] == [item.input_id for item in archive.inputs]

    async def test_several_sessions_are_made_together_or_not_at_all(self) -> None:
        store = await rich(self.open_store)
        archive = await store.export_session(S)
        with pytest.raises(ConflictError):
            await store.import_sessions([(archive, NEW), (archive, S)])
        assert await store.session_row(NEW) is None
        made = await store.import_sessions([(archive, NEW), (archive, "third")])
        assert [meta.session_id for meta in made] == [NEW, "third"]
        assert made[0].name != made[1].name

    async def test_what_is_no_session_changes_nothing(self) -> None:
        store = await rich(self.open_store)
        good = await store.export_session(S)
        head = good.head
        assert head is not None
        replace = msgspec.structs.replace
        waiting = ArchivedInput("in-1", 5, TurnInput.text("later"), "host:k")
        missing = Stored("sha256:" + "0" * 64, "image/png", 7)
        for bad in (
            replace(good, session_id="no id!"),
            replace(good, head=None),
            replace(good, attachments=()),
            replace(good, attachments=(*good.attachments, *good.attachments)),
            replace(good, attachments=(replace(good.attachments[0], data=None),)),
            replace(good, attachments=(replace(good.attachments[0], data=b"other"),)),
            replace(good, turns=(*good.turns, *good.turns)),
            replace(good, turns=(replace(good.turns[0], last_node_id="nowhere"),)),
            replace(good, head=replace(head, nodes=head.nodes[1:])),
            replace(good, head=replace(head, nodes=(*head.nodes, head.nodes[0]))),
            replace(good, head=replace(head, nodes=head.nodes[::-1])),
            replace(good, head=replace(head, leaf_node_id="nowhere")),
            replace(good, head=replace(head, frames=())),
            replace(good, head=replace(head, frames=(replace(head.frames[0], previous_frame_id="nowhere"),))),
            replace(good, head=replace(head, frames=(replace(head.frames[0], previous_frame_id=initial_frame_id(S)),))),
            replace(good, head=replace(head, blobs={})),
            replace(good, head=replace(head, blobs=dict.fromkeys(head.blobs, b"other"))),
            replace(good, head=replace(head, head_revision=0)),
            replace(good, head=replace(head, head_revision=2**63 - 1)),
            replace(good, head=replace(head, turn_state=replace(head.turn_state, turn_index=2**63 - 1))),
            replace(good, head=replace(head, turn_state=replace(head.turn_state, turn_index=-1))),
            replace(good, inputs=(waiting, waiting)),
            replace(good, inputs=(waiting, replace(waiting, input_id="other"))),
            replace(good, inputs=(replace(waiting, input=TurnInput((AttachmentItem(missing),))),)),
        ):
            with pytest.raises(UsageError) as caught:
                await store.import_sessions([(bad, NEW)])
            assert caught.value.code == "archive_invalid"
            assert await store.session_row(NEW) is None
