"""Laws of settling: one commit, both families, the outbox and the stamp, or nothing (contract 02 §5)."""

from __future__ import annotations

import msgspec
import pytest

from lash_cli.core.ingress import ActiveTurn, InputState
from lash_cli.core.queued_work import (
    AgentFrameTask,
    BatchState,
    DeliveryPolicy,
    QueuedWorkBatchDraft,
    SlotPolicy,
    frame_task_draft,
)
from lash_cli.errors import (
    InvalidQueuedWorkBatch,
    LashError,
    QueuedWorkClaimSuperseded,
    SessionBindingMismatch,
    SessionExecutionLeaseExpired,
    TurnInputClaimSuperseded,
)
from lash_cli.store.base import LaneGranted, RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import MovableClock, OpenStore, StoreLaws
from lash_cli.store.queueing import CheckpointClaims

S = make.SESSION
TTL_SECONDS = make.TTL_MS / 1000
HANDOFF = frame_task_draft(S, "t1", AgentFrameTask("f2", "go on"))


async def busy_turn(
    open_store: OpenStore, clock: MovableClock
) -> tuple[RuntimePersistence, LaneGranted, CheckpointClaims]:
    """A turn that took input and work at a checkpoint."""
    store, lane = await make.running(open_store, clock)
    await make.enqueue(store, "steer", ingress=ActiveTurn("t1"))
    await make.put(store, make.wake())
    claims = await store.claim_checkpoint_work(make.fence_of_lane(lane), make.checkpoint_request())
    assert claims.inputs is not None and claims.work is not None
    return store, lane, claims


class SettlementLaws(StoreLaws):
    async def test_one_commit_settles_both_families_stores_the_outbox_and_finishes_the_turn(self) -> None:
        store, lane, claims = await busy_turn(self.open_store, self.clock)
        commit = make.ending(
            lane, claims=[claims.inputs], work=[claims.work], outbox=[HANDOFF, make.command()], release=True
        )
        result = await store.commit_runtime_state(commit)
        states = [row.state for row in await store.inputs(S, pending_only=False)]
        assert states == [InputState.COMPLETED, InputState.COMPLETED]
        used = await store.turn_input(S, "steer")
        assert used is not None and used[1] == "t1", "the turn that used it stays on the row"
        (wake,) = make.ids_of(claims.work)
        settled = await store.queued_work_batch(S, wake)
        assert settled is not None and (settled.state, settled.payloads) == (BatchState.COMPLETED, ())
        assert tuple(await make.pending_batch_ids(store)) == result.enqueued_batches
        assert [batch.source_key for batch in await store.queued_work(S, pending_only=True)] == [
            HANDOFF.source_key,
            make.command().source_key,
        ]
        assert result.has_waiting and not result.replayed
        replayed = await self.open_store().commit_runtime_state(commit)
        assert replayed.replayed and replayed.enqueued_batches == result.enqueued_batches
        assert len(await store.queued_work(S, pending_only=True)) == 2

    @pytest.mark.parametrize(
        "fault",
        ["stolen input", "missing input", "stolen work", "missing work", "extra work", "foreign outbox", "bad outbox"],
    )
    async def test_a_commit_that_fails_in_any_part_changes_nothing(self, fault: str) -> None:
        store, lane, claims = await busy_turn(self.open_store, self.clock)
        await make.create(store, self.clock, "s2")
        inputs, work = claims.inputs, claims.work
        assert inputs is not None and work is not None
        outbox = [HANDOFF]
        error: type[LashError] = TurnInputClaimSuperseded if "input" in fault else QueuedWorkClaimSuperseded
        if fault == "stolen input":
            inputs = msgspec.structs.replace(inputs, claim_token="forged")
        elif fault == "missing input":
            inputs = msgspec.structs.replace(inputs, inputs=())
        elif fault == "stolen work":
            work = msgspec.structs.replace(work, claim_token="forged")
        elif fault == "missing work":
            work = msgspec.structs.replace(work, batches=())
        elif fault == "extra work":
            extra = msgspec.structs.replace(work.batches[0], batch_id="qwb:another")
            work = msgspec.structs.replace(work, batches=(*work.batches, extra))
        elif fault == "foreign outbox":
            outbox, error = [HANDOFF, make.command(session_id="s2")], SessionBindingMismatch
        else:
            empty = QueuedWorkBatchDraft(S, (), DeliveryPolicy.EARLIEST_SAFE_BOUNDARY, SlotPolicy.JOIN)
            outbox, error = [HANDOFF, empty], InvalidQueuedWorkBatch
        before = await make.snapshot(store)
        with pytest.raises(error):
            await store.commit_runtime_state(
                make.ending(lane, claims=[inputs], work=[work], outbox=outbox, usage_deltas=(make.usage(),))
            )
        assert await make.snapshot(store) == before
        assert await store.queued_work("s2", pending_only=False) == ()

    async def test_a_stale_completion_is_rejected_and_changes_nothing(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        await make.put(store, make.wake())
        old_fence = await make.fence_of(store)
        old = (
            await store.claim_next_turn_inputs(old_fence, claim_token="old"),
            await store.claim_ready_queued_work(old_fence, "idle", claim_token="old"),
        )
        self.clock.tick(TTL_SECONDS)
        fence = await make.fence_of(store, "b")
        new = (
            await store.claim_next_turn_inputs(fence, claim_token="new"),
            await store.claim_ready_queued_work(fence, "idle", claim_token="new"),
        )
        before = await make.snapshot(store)
        for presented, claims, error in (
            (old_fence, old, SessionExecutionLeaseExpired),
            (fence, (old[0], None), TurnInputClaimSuperseded),
            (fence, (None, old[1]), QueuedWorkClaimSuperseded),
        ):
            with pytest.raises(error):
                await store.commit_runtime_state(
                    make.commit(presented, make.append(["m1"]), claim=claims[0], work=[claims[1]])
                )
            assert await make.snapshot(store) == before
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), claim=new[0], work=[new[1]]))
        assert (await store.demand(S)).has_claimable is False

    async def test_a_claim_nobody_superseded_may_be_settled_under_a_newer_fence(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.put(store, make.wake())
        fence = await make.fence_of(store)
        claim = await store.claim_ready_queued_work(fence, "idle", claim_token="ct")
        await store.release_lease(fence)
        newer = await make.fence_of(store, "b")
        await store.commit_runtime_state(make.commit(newer, make.append(["m1"]), work=[claim]))
        assert await store.queued_work(S, pending_only=False) == ()

    async def test_a_settled_claim_cannot_be_settled_again(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.put(store, make.wake())
        fence = await make.fence_of(store)
        claim = await store.claim_ready_queued_work(fence, "idle", claim_token="ct")
        await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), work=[claim]))
        before = await make.snapshot(store)
        with pytest.raises(QueuedWorkClaimSuperseded):
            await store.commit_runtime_state(
                make.commit(fence, make.append(["m2"], parent="m1"), expected=1, work=[claim])
            )
        assert await make.snapshot(store) == before

    async def test_the_outbox_of_a_key_seen_before_answers_with_what_stands_there(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        (standing,) = await make.put(store, make.command("k"))
        fence = await make.fence_of(store)
        result = await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), outbox=[make.command("k")]))
        assert result.enqueued_batches == (standing,)
        assert await make.pending_batch_ids(store) == [standing]

    @pytest.mark.parametrize(
        ("waiting", "expected"),
        [
            ("nothing", False),
            ("next input", True),
            ("addressed input", True),
            ("work", True),
            ("later work", True),
            ("outbox", True),
            ("settled by itself", False),
        ],
    )
    async def test_a_commit_says_whether_anything_waits_behind_it(self, waiting: str, expected: bool) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.enqueue(store, "foreign", session_id="s2")
        lane = await make.start(store, self.clock, "t1")
        outbox = []
        if waiting == "next input":
            await make.enqueue(store, "i1")
        elif waiting == "addressed input":
            await make.enqueue(store, "i1", ingress=ActiveTurn("t1"))
        elif waiting == "work":
            await make.put(store, make.wake())
        elif waiting == "later work":
            await make.put(store, make.work("a", available_at_ms=self.clock.now_ms() + 1))
        elif waiting == "outbox":
            outbox.append(HANDOFF)
        result = await store.commit_runtime_state(make.ending(lane, outbox=outbox, release=True, defer="t1"))
        assert result.has_waiting is expected

    async def test_what_the_committing_generation_still_holds_does_not_wait(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.put(store, make.wake(1), make.command())
        fence = await make.fence_of(store)
        first = await store.claim_ready_queued_work(fence, "idle", claim_token="ct")
        command = await store.claim_leading_session_command(fence, claim_token="ct")
        kept = await store.commit_runtime_state(make.commit(fence, make.append(["m1"]), work=[first]))
        assert command is not None and not kept.has_waiting
        released = await store.commit_runtime_state(
            make.commit(fence, make.append(["m2"], parent="m1"), expected=1, release=True)
        )
        assert released.has_waiting, "a generation that ends gives its claims back"

    async def test_a_committed_turn_holds_nothing(self) -> None:
        store, lane, claims = await busy_turn(self.open_store, self.clock)
        await store.commit_runtime_state(make.ending(lane, defer="t1"))
        assert await make.pending_ids(store) == ["steer"]
        assert await make.pending_batch_ids(store) == make.ids_of(claims.work)
        assert (await store.demand(S)).unfinished_turn_id is None
