"""Laws of what observers learn of a queue: one event per change, in its own transaction (contract 04 §10.1)."""

from __future__ import annotations

from lash_cli.core.ingress import ActiveTurn, ByInputId, InputDraft
from lash_cli.core.observation import GENESIS, QueueChanged, SessionCursor
from lash_cli.core.queued_work import MAX_ATTEMPTS, AgentFrameTask, DeliveryPolicy, QueuedWorkBatchDraft, SlotPolicy
from lash_cli.store.base import ReadScope, RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws
from lash_cli.store.conformance.live import after

S = make.SESSION
START = SessionCursor(GENESIS, 0, 0, S)


async def enqueue(store: RuntimePersistence, *input_ids: str, key: str | None = None) -> None:
    """Inputs for the next turn."""
    for input_id in input_ids:
        await store.enqueue_turn_input(InputDraft(S, input_id, make.text_input(input_id), source_key=key))


async def changes(store: RuntimePersistence) -> list[QueueChanged]:
    """Every change of the queue since the session began."""
    return [event.payload for event in await after(store, START) if isinstance(event.payload, QueueChanged)]


class LiveQueueLaws(StoreLaws):
    async def test_an_input_is_announced_once_and_its_replay_is_not(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await enqueue(store, "a", key="k")
        await store.enqueue_turn_input(InputDraft(S, "b", make.text_input("a"), source_key="k"))
        assert await changes(self.open_store()) == [QueueChanged("enqueued", ("a",))]

    async def test_a_cancelled_set_or_suffix_is_one_event_with_what_it_newly_cancelled(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await enqueue(store, "a", "b", "c", "d")
        before = len(await changes(store))
        await store.cancel_turn_inputs(S, [ByInputId("b"), ByInputId("nobody"), ByInputId("b")])
        await store.cancel_turn_input_suffix(S, ByInputId("b"))
        await store.cancel_turn_inputs(S, [ByInputId("c")])
        assert (await changes(store))[before:] == [
            QueueChanged("cancelled", ("b",)),
            QueueChanged("cancelled", ("c", "d")),
        ]

    async def test_a_batch_is_announced_when_it_comes_when_it_is_cancelled_and_when_it_is_given_back(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        task = AgentFrameTask("f2", "go on")
        draft = QueuedWorkBatchDraft(
            S, (task,), DeliveryPolicy.EARLIEST_SAFE_BOUNDARY, SlotPolicy.EXCLUSIVE, source_key="k"
        )
        receipt = await store.enqueue_queued_work(draft)
        assert (await store.enqueue_queued_work(draft)).batch_id == receipt.batch_id
        claim = await store.claim_ready_queued_work(await make.fence_of(store), "idle", claim_token="t")
        assert claim is not None
        await store.abandon_queued_work_claims([claim, claim])
        await store.cancel_queued_work_batch(S, receipt.batch_id)
        ids = (receipt.batch_id,)
        assert await changes(store) == [
            QueueChanged("enqueued", ids),
            QueueChanged("enqueued", ids),
            QueueChanged("cancelled", ids),
        ]

    async def test_what_a_failure_gives_back_is_announced_each_time_with_what_its_turn_took_besides(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        (batch_id,) = await make.put(store, make.wake())
        for attempt in range(MAX_ATTEMPTS):
            self.clock.tick(60)
            lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
            assert lane.work is not None
            fence = make.fence_of_lane(lane)
            expected = [batch_id]
            if attempt == 0:
                await make.enqueue(store, "a", ingress=ActiveTurn("d1"))
                taken = await store.claim_checkpoint_work(fence, make.checkpoint_request("d1"))
                assert taken.inputs is not None
                expected.append("a")
            before = (await store.live.cut(S, ReadScope.HEAD)).cursor
            parked = await store.fail_queued_work(fence, lane.work, "boom")
            assert parked == ((batch_id,) if attempt == MAX_ATTEMPTS - 1 else ())
            told = [event.payload for event in await after(store, before)]
            assert told == [QueueChanged("enqueued", tuple(expected))]
            await store.cancel_turn_inputs(S, [ByInputId("a")])
            await store.release_lease(fence)
