"""Laws of queued work outside of claims: keys, wakes, order, cancels, failures (contract 02 §3.1, §3.2, §3.4, D20)."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from lash_cli.core.lease import LeaseFence
from lash_cli.core.queued_work import (
    FIRST_RETRY_MS,
    MAX_ATTEMPTS,
    AgentFrameTask,
    BatchState,
    CommandWork,
    DeliveryPolicy,
    ProcessWake,
    QueuedWorkBatchDraft,
    QueuedWorkClaim,
    QueuedWorkClass,
    ResetSession,
    SlotPolicy,
    frame_task_draft,
)
from lash_cli.errors import InvalidQueuedWorkBatch, SessionExecutionLeaseExpired
from lash_cli.store.base import RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION
RESET = CommandWork(ResetSession("law"))
WAKE = ProcessWake("w", "p", 1, "done")


async def settle_work(store: RuntimePersistence, fence: LeaseFence, claim: QueuedWorkClaim | None) -> None:
    """Settle a claim in a commit of its own."""
    head = await store.head_position(fence.session_id)
    index = (head.head_revision or 0) + 1
    delta = make.append([f"m{index}"], parent=head.leaf_node_id)
    await store.commit_runtime_state(make.commit(fence, delta, expected=head.head_revision, work=[claim]))


class WorkLaws(StoreLaws):
    async def test_batches_are_listed_in_the_order_they_came_each_session_by_itself(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        ids = await make.put(store, make.wake(1), make.command())
        others = await make.put(self.open_store(), make.wake(1, session_id="s2"))
        later = make.work("later", available_at_ms=self.clock.now_ms() + 60_000)
        ids += await make.put(store, later, make.work("last"))
        assert await make.pending_batch_ids(store) == ids
        assert await make.pending_batch_ids(store, "s2") == others
        batches = await store.queued_work(S, pending_only=False)
        assert [batch.enqueue_seq for batch in batches] == sorted({batch.enqueue_seq for batch in batches})
        assert [batch.work_class for batch in batches] == [
            QueuedWorkClass.TURN_WORK,
            QueuedWorkClass.SESSION_COMMAND,
            QueuedWorkClass.TURN_WORK,
            QueuedWorkClass.TURN_WORK,
        ]
        row = await store.session_row(S)
        assert row is not None and (row.pending_batches, row.pending_inputs) == (4, 0)

    async def test_a_batch_keeps_what_was_submitted(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        draft = frame_task_draft(S, "t1", AgentFrameTask("f2", "go on"))
        receipt = await store.enqueue_queued_work(draft)
        assert (receipt.source_key, receipt.already_settled) == (draft.source_key, False)
        batch = await self.open_store().queued_work_batch(S, receipt.batch_id)
        assert batch is not None and batch == await store.find_batch(receipt.batch_id)
        assert (batch.payloads, batch.source_key, batch.merge_key) == (
            draft.payloads,
            draft.source_key,
            draft.merge_key,
        )
        assert (batch.delivery_policy, batch.slot_policy) == (draft.delivery_policy, draft.slot_policy)
        assert (batch.state, batch.attempts, batch.enqueued_at_ms) == (BatchState.PENDING, 0, self.clock.now_ms())
        prefix, digits = batch.batch_id.split(":")
        assert (prefix, len(digits)) == ("qwb", 64)

    async def test_a_batch_no_claim_could_use_is_refused(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        for payloads, slot in (
            ((), SlotPolicy.JOIN),
            ((RESET, WAKE), SlotPolicy.EXCLUSIVE),
            ((RESET, RESET), SlotPolicy.EXCLUSIVE),
            ((RESET,), SlotPolicy.JOIN),
        ):
            draft = QueuedWorkBatchDraft(S, payloads, DeliveryPolicy.EARLIEST_SAFE_BOUNDARY, slot)
            with pytest.raises(InvalidQueuedWorkBatch):
                await store.enqueue_queued_work(draft)
        assert await store.queued_work(S, pending_only=False) == ()

    async def test_a_key_stands_for_what_was_stored_under_it_first(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        first = await store.enqueue_queued_work(make.work("a", source_key="k"))
        again = await self.open_store().enqueue_queued_work(make.work("b", source_key="k"))
        assert again == first
        (batch,) = await store.queued_work(S, pending_only=True)
        assert batch.payloads == make.work("a").payloads
        other = await store.enqueue_queued_work(make.work("c", source_key="k", session_id="s2"))
        assert other.batch_id != first.batch_id
        keyless = await make.put(store, make.work("a"), make.work("a"))
        assert len(set(keyless)) == 2

    async def test_many_submissions_of_one_key_leave_one_batch(self) -> None:
        stores = [self.open_store() for _ in range(4)]
        await make.create(stores[0], self.clock)
        receipts = await asyncio.gather(*(store.enqueue_queued_work(make.command("k")) for store in stores))
        assert len({receipt.batch_id for receipt in receipts}) == 1
        assert len(await stores[0].queued_work(S, pending_only=False)) == 1

    @pytest.mark.parametrize("how", ["completed", "cancelled"])
    async def test_the_key_of_a_settled_batch_answers_as_settled_until_a_vacuum(self, how: str) -> None:
        store = await make.opened(self.open_store, self.clock)
        first = await store.enqueue_queued_work(make.work("a", source_key="k"))
        if how == "completed":
            fence = await make.fence_of(store)
            await settle_work(store, fence, await store.claim_ready_queued_work(fence, "idle", claim_token="ct"))
        else:
            assert await store.cancel_queued_work_batch(S, first.batch_id) is not None
        again = await self.open_store().enqueue_queued_work(make.work("b", source_key="k"))
        assert (again.batch_id, again.already_settled) == (first.batch_id, True)
        tombstone = await store.queued_work_batch(S, first.batch_id)
        assert tombstone is not None and (tombstone.state.value, tombstone.payloads) == (how, ())
        assert await store.queued_work(S, pending_only=False) == ()
        assert (await store.vacuum(S))["queued_work"] == 1
        assert await store.queued_work_batch(S, first.batch_id) is None
        fresh = await store.enqueue_queued_work(make.work("b", source_key="k"))
        assert fresh.batch_id != first.batch_id and not fresh.already_settled

    async def test_a_vacuum_takes_settled_batches_of_its_session_and_nothing_else(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        ids = await make.put(store, make.work("a"), make.work("b"), make.work("c", session_id="s2"))
        await store.cancel_queued_work_batch(S, ids[0])
        await store.cancel_queued_work_batch("s2", ids[2])
        assert (await store.vacuum(S))["queued_work"] == 1
        assert await make.pending_batch_ids(store) == [ids[1]]
        assert await store.find_batch(ids[2]) is not None
        assert (await store.vacuum(None))["queued_work"] == 1

    async def test_a_wake_is_stored_once_and_consumed_once(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        first = await store.enqueue_queued_work(make.wake(7))
        assert await store.enqueue_queued_work(make.wake(7)) == first
        fence = await make.fence_of(store)
        claim = await store.claim_ready_queued_work(fence, "idle", claim_token="ct")
        assert make.ids_of(claim) == [first.batch_id]
        await settle_work(store, fence, claim)
        assert (await store.enqueue_queued_work(make.wake(7))).already_settled
        assert await store.claim_ready_queued_work(fence, "idle", claim_token="ct") is None

    async def test_a_settled_wake_refuses_its_own_and_lower_sequences_even_after_a_vacuum(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        await make.put(store, make.wake(7))
        fence = await make.fence_of(store)
        await settle_work(store, fence, await store.claim_ready_queued_work(fence, "idle", claim_token="ct"))
        await store.vacuum(S)
        for sequence, is_settled in ((6, True), (7, True), (8, False)):
            receipt = await store.enqueue_queued_work(make.wake(sequence))
            assert receipt.already_settled is is_settled
            assert (await store.queued_work_batch(S, receipt.batch_id) is None) is is_settled
        for other in (make.wake(1, process_id="p2"), make.wake(1, session_id="s2")):
            assert not (await store.enqueue_queued_work(other)).already_settled

    async def test_a_cancelled_wake_is_not_delivered_again_even_after_a_vacuum(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        waiting, taken_back = await make.put(store, make.wake(6), make.wake(7))
        assert await store.cancel_queued_work_batch(S, taken_back) is not None
        assert (await store.vacuum(S))["queued_work"] == 1
        for sequence, is_settled in ((7, True), (8, False)):
            assert (await store.enqueue_queued_work(make.wake(sequence))).already_settled is is_settled
        assert (await make.pending_batch_ids(store))[0] == waiting

    async def test_a_settled_wake_never_moves_the_mark_of_its_process_back(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        low, high = await make.put(store, make.wake(3), make.wake(9))
        fence = await make.fence_of(store)
        for batch_id in (high, low):
            claim = await store.claim_ready_queued_work(fence, "idle", claim_token="ct", batch_ids=[batch_id])
            await settle_work(store, fence, claim)
        assert (await store.enqueue_queued_work(make.wake(8))).already_settled

    async def test_only_a_batch_nobody_holds_is_cancelled_and_returned_as_it_was(self) -> None:
        store = await make.opened(self.open_store, self.clock, S, "s2")
        held, free = await make.put(store, make.wake(1), make.wake(2))
        before = await store.queued_work_batch(S, free)
        fence = await make.fence_of(store)
        claim = await store.claim_ready_queued_work(fence, "idle", claim_token="ct")
        assert make.ids_of(claim) == [held]
        assert await store.cancel_queued_work_batch(S, held) is None
        assert await store.cancel_queued_work_batch("s2", free) is None
        assert await store.cancel_queued_work_batch(S, "qwb:unknown") is None
        assert await self.open_store().cancel_queued_work_batch(S, free) == before
        assert await store.cancel_queued_work_batch(S, free) is None
        assert claim is not None
        assert await store.abandon_queued_work_claims([claim, claim]) == (held,)
        assert await store.cancel_queued_work_batch(S, held) is not None

    async def test_a_failing_batch_waits_longer_each_time_and_then_is_dead(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        failing, behind = await make.put(store, make.command("bad"), make.wake())
        waits = []
        for attempt in range(1, MAX_ATTEMPTS + 1):
            fence = await make.fence_of(store)
            claim = await store.claim_leading_session_command(fence, claim_token=f"ct{attempt}")
            assert claim is not None and make.ids_of(claim) == [failing]
            parked = await store.fail_queued_work(fence, claim, f"failure {attempt}")
            assert parked == ((failing,) if attempt == MAX_ATTEMPTS else ())
            batch = await store.queued_work_batch(S, failing)
            assert batch is not None and (batch.attempts, batch.last_error) == (attempt, f"failure {attempt}")
            other = await store.claim_ready_queued_work(fence, "idle", claim_token="other")
            assert make.ids_of(other) == [behind], "what fails does not block what stands behind it"
            await store.release_lease(fence)
            if attempt < MAX_ATTEMPTS:
                assert batch.state is BatchState.PENDING
                waits.append(batch.available_at_ms - self.clock.now_ms())
                assert (await store.demand(S)).available_at_ms == batch.available_at_ms
                self.clock.tick(waits[-1] / 1000)
        assert waits == [FIRST_RETRY_MS << step for step in range(MAX_ATTEMPTS - 1)]
        dead = await store.queued_work_batch(S, failing)
        assert dead is not None and dead.state is BatchState.DEAD
        assert await make.pending_batch_ids(store) == [behind]
        assert {one.batch_id for one in await store.queued_work(S, pending_only=False)} == {failing, behind}

    async def test_a_dead_batch_keeps_its_content_and_can_be_cancelled(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        (batch_id,) = await make.put(store, make.command())
        await self._kill(store)
        assert (await store.vacuum(S))["queued_work"] == 0
        again = await store.enqueue_queued_work(make.command())
        assert (again.batch_id, again.already_settled) == (batch_id, False)
        cancelled = await store.cancel_queued_work_batch(S, batch_id)
        assert cancelled is not None and cancelled.payloads == make.command().payloads
        assert (await store.demand(S)).has_claimable is False

    async def test_a_failure_of_a_claim_that_owns_nothing_changes_nothing(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.put(store, make.command())
        fence = await make.fence_of(store)
        claim = await store.claim_leading_session_command(fence, claim_token="ct")
        assert claim is not None
        stolen = msgspec.structs.replace(claim, claim_token="forged")
        before = await store.queued_work(S, pending_only=False)
        assert await store.fail_queued_work(fence, stolen, "no") == ()
        assert await store.queued_work(S, pending_only=False) == before
        await store.release_lease(fence)
        with pytest.raises(SessionExecutionLeaseExpired):
            await store.fail_queued_work(fence, claim, "no")

    async def test_the_failure_of_what_a_turn_started_from_drops_the_turn(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        (batch_id,) = await make.put(store, make.wake())
        lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
        assert lane.work is not None
        await store.fail_queued_work(make.fence_of_lane(lane), lane.work, "boom")
        assert await store.turn(S, "d1") is None
        assert await make.pending_batch_ids(store) == [batch_id]
        assert (await store.demand(S)).available_at_ms == self.clock.now_ms() + FIRST_RETRY_MS

    async def _kill(self, store: RuntimePersistence) -> None:
        for _ in range(MAX_ATTEMPTS):
            fence = await make.fence_of(store)
            claim = await store.claim_leading_session_command(fence, claim_token="ct")
            assert claim is not None
            await store.fail_queued_work(fence, claim, "boom")
            await store.release_lease(fence)
            self.clock.tick(60)
