"""Laws of separation: whatever is done in one session, every other stays as it was (contract 02 §6.3, design D1).

All sessions are in one storage and their rows have the same numbers, keys and
ids wherever those need not be unique, so a statement that forgets whose rows
it is about finds those of the neighbours too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

import msgspec
import pytest

from lash_cli.core.commit import CheckpointComponent, ReplaceFull, Unchanged
from lash_cli.core.effect import TurnScope, scope_key
from lash_cli.core.frames import open_frame
from lash_cli.core.ingress import (
    AnchorNotFound,
    ByInputId,
    BySourceKey,
    InputNotFound,
)
from lash_cli.core.wait import ResolvedOk, ToolCompletionWait
from lash_cli.errors import NotFoundError, SessionExecutionLeaseExpired, TurnInputClaimSuperseded
from lash_cli.store.base import (
    LaneGranted,
    LaneIdle,
    ReadScope,
    RuntimePersistence,
    SessionFork,
)
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import MovableClock, StoreLaws
from lash_cli.store.conformance.lived import (
    LATER_MS,
    ONE,
    TWO,
    Lived,
    checkpoint_of,
    journal_claim,
    live,
    park_for_good,
    picture,
)
from lash_cli.store.queueing import CheckpointClaims

S: Final = "m"
# One that was made before and one that was made after, on either side of it wherever sessions stand in order.
NEIGHBOURS: Final = ("a", "z")


Act = Callable[[RuntimePersistence, MovableClock, Lived], Awaitable[object]]


async def _commit(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    delta = make.append(["o1"], parent="n2", frame_id="f2")
    await store.commit_runtime_state(
        make.commit(
            lived.fence,
            delta,
            expected=3,
            turn=make.stamp("t1"),
            turn_index=2,
            claim=lived.lane.claim,
            claims=[lived.inputs],
            work=[lived.work],
            outbox=[make.command("c2", session_id=S)],
            usage_deltas=(make.usage(),),
            components={"tool_state": CheckpointComponent(body=b"others")},
            attachments=(TWO,),
            defer="t1",
            release=True,
        )
    )


async def _commit_nothing_taken(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    """Under another index than its row has."""
    turn = make.stamp("t1")
    await store.commit_runtime_state(
        make.commit(lived.fence, Unchanged("n2"), expected=3, turn=turn, turn_index=9, defer="t1", release=True)
    )


async def _repeat_checkpoint(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    claims = await store.claim_checkpoint_work(lived.fence, checkpoint_of(S))
    assert (claims.inputs, claims.work) == (lived.inputs, lived.work)
    await store.release_lease(lived.fence)


async def _change_frames(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    read = await store.load_session(S, ReadScope.HEAD)
    assert read is not None
    frames, _ = open_frame(read.frames, "f3", "compaction", 10)
    delta = make.append(["o1"], parent="n2", frame_id="f3")
    await store.commit_runtime_state(make.commit(lived.fence, delta, expected=3, turn_index=1, with_frames=frames))


async def _replace(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    nodes = make.nodes(["m1"], frame_id=make.frames(S)[0].frame_id)
    await store.commit_runtime_state(make.commit(lived.fence, ReplaceFull(nodes, "m1"), turn_index=1))
    await store.vacuum(S)


async def _redrive(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    again = make.granted(
        await store.open_lane(
            make.lane_request(clock, "b", turn_id="t5", text=None, session_id=S, dead=lived.fence.fencing_token)
        )
    )
    assert again.redrive and again.turn is not None and again.turn.turn_id == "t1"


async def _give_back(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    assert await store.abandon_turn_input_claims([lived.inputs])
    assert await store.forget_aged_uncommitted(clock.now_ms()) == 1, "the turn that owned it is no more"


async def _give_back_work(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    assert await store.abandon_queued_work_claims([lived.work])


async def _fail(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    await store.fail_queued_work(lived.fence, lived.work, "boom")


async def _drain(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    await _commit(store, clock, lived)
    for number in count():
        lane = await store.open_lane(make.drain_request(clock, turn_id=f"d{number}", session_id=S))
        if isinstance(lane, LaneIdle):
            break
        assert isinstance(lane, LaneGranted)
        fence = make.fence_of_lane(lane)
        head = await store.head_position(S)
        command = None
        if lane.commands_due:
            command = await store.claim_leading_session_command(fence, claim_token=f"c{number}")
        turn = None if lane.turn is None else make.stamp(lane.turn.turn_id)
        await store.commit_runtime_state(
            make.commit(
                fence,
                Unchanged("o1"),
                expected=head.head_revision,
                turn=turn,
                turn_index=3 + number,
                claim=lane.claim,
                work=[lane.work, command],
                release=True,
            )
        )


async def _claim_outside(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    assert await store.claim_next_turn_inputs(lived.fence, claim_token="x")
    assert await store.claim_ready_queued_work(lived.fence, "idle", claim_token="y")
    await store.defer_orphaned_active_turn_inputs(lived.fence)
    await store.defer_orphaned_active_turn_inputs(lived.fence, turn_id="t1")


async def _cancel_inputs(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    await store.cancel_turn_input_suffix(S, ByInputId(f"{S}-first"))


async def _cancel_work(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    for batch_id in await make.pending_batch_ids(store, S):
        assert await store.cancel_queued_work_batch(S, batch_id)
    await store.vacuum(S)


async def _cancel_turn(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    assert await store.request_turn_cancel(S, "t1", make.evidence(), 5) is None


async def _let_go(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    await store.renew_lease(lived.fence, ttl_ms=2 * make.TTL_MS)
    assert await store.release_lease(lived.fence)


async def _hide(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    assert await store.tombstone_nodes(S, ["n1", "m3"]) == 2
    assert (await store.vacuum(S))["nodes"] == 2


async def _fork(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    await store.fork_session(SessionFork(S, "fork", clock.now_ms(), "m2"))
    await store.import_sessions([(await store.export_session(S), "copy")])
    for name in ("fork", "copy"):
        await store.delete_session(name, clock.now_ms())
    await store.release_lease(lived.fence)


async def _delete(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    await store.release_lease(lived.fence)
    assert await store.delete_session(S, clock.now_ms())
    await store.revoke_session_waits(S, clock.now_ms())


async def _rename(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    await store.change_meta(S, name="another", labels={"kind": None, "new": "label"}, now_ms=clock.now_ms())
    await store.set_session_flags(S, closed_at_ms=3, parked_at_ms=4)
    await store.set_queue_hold(S, held_at_ms=5, reason="why")


async def _journal(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    key, token = scope_key(TurnScope(S, "t1")), "token of open"
    done = await store.journal_prepare(journal_claim(clock, S, "done"))
    assert done.row is not None and done.row.outcome == S.encode()
    assert await store.journal_renew(key, "open", token, clock.now_ms() + 2 * make.TTL_MS)
    assert await store.journal_finish(key, "open", token, outcome=b"2", error=None)


async def _sweep_waits(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    assert await store.cancel_session_waits(S) == 1


async def _attach(store: RuntimePersistence, clock: MovableClock, lived: Lived) -> None:
    for data in (b"two", b"three"):
        await store.put_attachment(S, data, media_type="image/png", owner=("process", "p"), now_ms=9)


ACTS: Final[tuple[Act, ...]] = (
    _commit,
    _commit_nothing_taken,
    _repeat_checkpoint,
    _change_frames,
    _replace,
    _redrive,
    _give_back,
    _give_back_work,
    _fail,
    _drain,
    _claim_outside,
    _cancel_inputs,
    _cancel_work,
    _cancel_turn,
    _let_go,
    _hide,
    _fork,
    _delete,
    _rename,
    _journal,
    _sweep_waits,
    _attach,
)


class SeparationLaws(StoreLaws):
    @pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__.strip("_"))
    async def test_whatever_is_done_in_one_session_every_other_stays_as_it_was(self, act: Act) -> None:
        store = self.open_store()
        lived = {name: await live(store, self.clock, name) for name in (NEIGHBOURS[0], S, NEIGHBOURS[1])}
        for name in NEIGHBOURS:
            await store.request_turn_cancel(name, "t1", make.evidence(), 5)
        self.clock.tick(LATER_MS / 1000)
        own = None if act is _delete else await picture(store, S)
        others = [await picture(store, name) for name in NEIGHBOURS]
        await act(store, self.clock, lived[S])
        for name, before in zip(NEIGHBOURS, others, strict=True):
            for part, (stood, stands) in enumerate(zip(before, await picture(store, name), strict=True)):
                assert stands == stood, f"part {part} of session {name}"
        if own is not None:
            assert await picture(store, S) != own, "something was done"

    async def test_a_session_that_has_nothing_finds_nothing_of_its_neighbours(self) -> None:
        store = self.open_store()
        lived = await live(store, self.clock, NEIGHBOURS[0])
        await store.request_turn_cancel(NEIGHBOURS[0], "t1", make.evidence(), 5)
        await store.fork_session(SessionFork(NEIGHBOURS[0], "fork", self.clock.now_ms()))
        await park_for_good(store, self.clock, "parked")
        await make.create(store, self.clock, S)
        request = make.lane_request(self.clock, turn_id="t1", session_id=S, input_id=f"{S}-typed", text="another")
        lane = make.granted(await store.open_lane(request))
        assert not lane.redrive and lane.turn is not None and lane.turn.turn_index == 1
        fence = make.fence_of_lane(lane)

        assert await store.claim_checkpoint_work(fence, checkpoint_of(S)) == CheckpointClaims()
        last = msgspec.structs.replace(checkpoint_of(S), checkpoint="before_completion")
        assert await store.claim_checkpoint_work(fence, last) == CheckpointClaims()
        for batch_id in await make.pending_batch_ids(store, NEIGHBOURS[0]):
            named = store.claim_ready_queued_work(fence, "idle", claim_token="x", batch_ids=[batch_id])
            assert await named is None
            assert await store.queued_work_batch(S, batch_id) is None
            assert await store.cancel_queued_work_batch(S, batch_id) is None
        assert await store.claim_next_turn_inputs(fence, claim_token="x") is None
        assert await store.claim_ready_queued_work(fence, "idle", claim_token="x") is None
        assert await store.claim_leading_session_command(fence, claim_token="x") is None
        assert await store.queued_work(S, pending_only=False) == ()
        assert await store.inputs(S, pending_only=True) == ()
        assert await store.input_of_key(S, "k1") is None
        (missing,) = await store.cancel_turn_inputs(S, [BySourceKey("k1")])
        assert missing.outcome == InputNotFound()
        assert isinstance(await store.cancel_turn_input_suffix(S, BySourceKey("k1")), AnchorNotFound)
        assert await store.cancel_gate(S, "t1") is None
        assert await store.journal_rows(scope_key(TurnScope(S, "t1"))) == ()
        assert (await store.journal_prepare(journal_claim(self.clock, S, "done"))).kind == "claimed"
        row = await store.session_row(S)
        assert row is not None and (row.is_waiting, row.pending_inputs, row.pending_batches) == (False, 0, 0)
        assert [await store.load_node(S, name) for name in ("m1", "n2")] == [None, None]
        for ref in (ONE, TWO):
            with pytest.raises(NotFoundError):
                await store.get_attachment(S, ref)
        with pytest.raises(SessionExecutionLeaseExpired):
            await store.renew_lease(msgspec.structs.replace(lived.fence, session_id=S), ttl_ms=1)
        stealing = make.commit(fence, Unchanged(None), claim=lived.inputs)
        with pytest.raises(TurnInputClaimSuperseded):
            await store.commit_runtime_state(stealing)

        assert (await make.enqueue(store, f"{S}-new", "other words", key="k1", session_id=S)).input_id == f"{S}-new"
        (batch_id,) = await make.put(store, make.work("other", session_id=S, source_key="w1"))
        assert await make.pending_batch_ids(store, S) == [batch_id]
        assert await store.cancel_queued_work_batch(S, batch_id)
        await store.cancel_turn_inputs(S, [ByInputId(f"{S}-new")])
        commit = make.commit(
            fence, Unchanged(None), turn=make.stamp("t1"), turn_index=1, claim=lane.claim, release=True
        )
        done = await store.commit_runtime_state(commit)
        assert not done.has_waiting and done.head_revision == 1
        assert await store.commit_runtime_state(commit) == msgspec.structs.replace(done, replayed=True)

    async def test_a_sweep_of_one_session_goes_by_its_own_turns(self) -> None:
        """What a turn of that id in another session has come to is nothing to it."""
        store = self.open_store()
        lived = {name: await live(store, self.clock, name) for name in (NEIGHBOURS[0], S)}
        kept = [await store.wait_key(TurnScope(name, "t1"), ToolCompletionWait("c1")) for name in lived]
        for key in kept:
            await store.register_wait(key, None, self.clock.now_ms())
            await store.resolve_wait(key, ResolvedOk(1), self.clock.now_ms())
        await _commit(store, self.clock, lived[S])
        assert (await store.vacuum(NEIGHBOURS[0]))["waits"] == 0
        assert (await store.vacuum(S))["waits"] == 1
        await store.gc_unreachable()
        left = [len(await store.journal_rows(scope_key(TurnScope(name, "t1")))) for name in lived]
        assert left == [2, 0]
