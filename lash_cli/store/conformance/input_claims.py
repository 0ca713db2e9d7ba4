"""Laws of claimed inputs: at checkpoints, outside of turns, given back, orphaned (contract 02 §1.4–§1.6, §1.8, §4)."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from lash_cli.core.ingress import (
    ActiveTurn,
    AlreadyClaimed,
    Boundary,
    ByInputId,
    Cancelled,
    InputState,
)
from lash_cli.core.lease import LeaseFence
from lash_cli.errors import SessionExecutionLeaseExpired
from lash_cli.store.base import RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import MovableClock, StoreLaws
from lash_cli.store.queueing import CheckpointClaims

S = make.SESSION
TTL_SECONDS = make.TTL_MS / 1000


async def end(store: RuntimePersistence, clock: MovableClock, fence: LeaseFence, how: str) -> LeaseFence:
    """End a generation by release, expiry or takeover; the fence of the next one."""
    if how == "release":
        await store.release_lease(fence)
    elif how == "expiry":
        clock.tick(TTL_SECONDS)
    else:
        lease = await store.reclaim_lease(
            fence.session_id,
            make.owner("next"),
            observed_fencing_token=fence.fencing_token,
            ttl_ms=make.TTL_MS,
            token="lease-next",
        )
        return lease.fence()  # type: ignore[union-attr]
    return await make.fence_of(store, "next", fence.session_id)


class InputClaimLaws(StoreLaws):
    async def test_a_claim_takes_what_waits_for_the_next_turn_oldest_first(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "steer", ingress=ActiveTurn("t9"))
        for index in range(70):
            await make.enqueue(store, f"i{index}")
        fence = await make.fence_of(store)
        claim = await store.claim_next_turn_inputs(fence, claim_token="ct")
        assert claim is not None and (claim.turn_id, claim.generation) == (None, 1)
        assert make.ids_of(claim) == [f"i{index}" for index in range(64)], "no more than 64, whoever asks"
        rest = await store.claim_next_turn_inputs(fence, claim_token="ct", max_inputs=4)
        assert make.ids_of(rest) == ["i64", "i65", "i66", "i67"]
        assert await store.claim_next_turn_inputs(fence, claim_token="ct", max_inputs=0) is None
        assert await make.pending_ids(store) == ["steer", "i68", "i69"]

    async def test_of_two_claimants_under_one_fence_one_gets_the_row(self) -> None:
        stores = [self.open_store() for _ in range(4)]
        await make.create(stores[0], self.clock)
        await make.enqueue(stores[0], "i1")
        fence = await make.fence_of(stores[0])
        claims = await asyncio.gather(
            *(store.claim_next_turn_inputs(fence, claim_token=f"ct{index}") for index, store in enumerate(stores))
        )
        assert sum(claim is not None for claim in claims) == 1

    async def test_a_generation_never_gets_its_own_rows_back_however_long_it_lives(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        fence = await make.fence_of(store)
        assert await store.claim_next_turn_inputs(fence, claim_token="ct") is not None
        for _ in range(5):
            self.clock.tick(TTL_SECONDS - 1)
            await store.renew_lease(fence, ttl_ms=make.TTL_MS)
            assert await store.claim_next_turn_inputs(fence, claim_token="again") is None
            assert await make.pending_ids(store) == []
            (result,) = await store.cancel_turn_inputs(S, [ByInputId("i1")])
            assert isinstance(result.outcome, AlreadyClaimed)

    @pytest.mark.parametrize("how", ["release", "expiry", "takeover"])
    async def test_the_end_of_a_generation_frees_its_claims_at_once(self, how: str) -> None:
        store = await make.opened(self.open_store, self.clock)
        await make.enqueue(store, "i1")
        await make.enqueue(store, "i2")
        fence = await make.fence_of(store)
        first = await store.claim_next_turn_inputs(fence, claim_token="ct1")
        successor = await end(store, self.clock, fence, how)
        assert await make.pending_ids(self.open_store()) == ["i1", "i2"]
        row = await store.session_row(S)
        assert row is not None and row.pending_inputs == 2
        (result,) = await store.cancel_turn_inputs(S, [ByInputId("i1")])
        assert isinstance(result.outcome, Cancelled)
        second = await store.claim_next_turn_inputs(successor, claim_token="ct2")
        assert first is not None and second is not None and make.ids_of(second) == ["i2"]
        assert second.claim_id != first.claim_id

    async def test_claims_of_a_row_are_numbered_upwards_and_their_ids_never_repeat(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        seq = (await make.enqueue(store, "i1")).enqueue_seq
        fence = await make.fence_of(store)
        seen = []
        for _ in range(3):
            claim = await store.claim_next_turn_inputs(fence, claim_token="same")
            assert claim is not None
            seen.append((claim.claim_id, claim.fencing_token))
            assert await store.abandon_turn_input_claims([claim]) == ("i1",)
        assert seen == [(f"tic:{seq}:{number}", number) for number in (1, 2, 3)]

    async def test_34_own_claims_do_not_hide_row_35(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        for index in range(34):
            await make.enqueue(store, f"i{index}")
            assert await store.claim_next_turn_inputs(fence, claim_token=f"ct{index}") is not None
        await make.enqueue(store, "i34")
        assert make.ids_of(await store.claim_next_turn_inputs(fence, claim_token="last")) == ["i34"]

    async def test_a_fence_that_is_dead_or_forged_claims_nothing(self) -> None:
        store, lane = await make.running(self.open_store, self.clock)
        fence = make.fence_of_lane(lane)
        await make.enqueue(store, "i1")
        await make.enqueue(store, "i2", ingress=ActiveTurn("t1"))
        (batch,) = await make.put(store, make.wake())
        before = await store.inputs(S, pending_only=False)

        async def refused(fence: LeaseFence) -> None:
            for attempt in (
                store.claim_next_turn_inputs(fence, claim_token="x"),
                store.claim_checkpoint_work(fence, make.checkpoint_request()),
                store.claim_ready_queued_work(fence, "idle", claim_token="x"),
                store.claim_ready_queued_work(fence, "idle", claim_token="x", batch_ids=[batch]),
                store.claim_leading_session_command(fence, claim_token="x"),
                store.defer_orphaned_active_turn_inputs(fence),
            ):
                with pytest.raises(SessionExecutionLeaseExpired):
                    await attempt

        await refused(msgspec.structs.replace(fence, lease_token="forged"))
        await refused(msgspec.structs.replace(fence, fencing_token=2))
        self.clock.tick(TTL_SECONDS)
        await refused(fence)
        assert await store.inputs(S, pending_only=False) == before
        assert await make.pending_batch_ids(store) == [batch]

    async def test_a_checkpoint_takes_what_its_boundary_admits_of_its_own_turn_only(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        await make.enqueue(store, "late", ingress=ActiveTurn("t1", "before_completion"))
        await make.enqueue(store, "early", ingress=ActiveTurn("t1", "after_work"))
        await make.enqueue(store, "other", ingress=ActiveTurn("t2", "after_work"))
        await make.enqueue(store, "next")
        await make.create(store, self.clock, "beside")
        await store.open_lane(make.lane_request(self.clock, session_id="beside", input_id="i-beside"))
        await make.enqueue(store, "beside", ingress=ActiveTurn("t1", "after_work"), session_id="beside")
        first = await store.claim_checkpoint_work(fence, make.checkpoint_request(name="c1"))
        assert make.ids_of(first.inputs) == ["early"] and first.work is None
        assert first.inputs is not None and (first.inputs.turn_id, first.inputs.generation) == ("t1", 1)
        await make.enqueue(store, "early2", ingress=ActiveTurn("t1", "after_work"))
        last = await store.claim_checkpoint_work(fence, make.checkpoint_request("t1", "before_completion", name="c2"))
        assert make.ids_of(last.inputs) == ["late", "early2"], "in the order they came, whatever their boundary"
        assert await make.pending_ids(store) == ["other", "next"]
        assert await make.pending_ids(store, "beside") == ["beside"]

    @pytest.mark.parametrize("checkpoint", ["after_work", "before_completion"])
    async def test_a_checkpoint_with_nothing_to_admit_writes_nothing(self, checkpoint: Boundary) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        await make.enqueue(store, "next")
        await make.put(store, make.command(), make.wake())
        mark = await store.change_mark()
        empty = await store.claim_checkpoint_work(fence, make.checkpoint_request(checkpoint=checkpoint))
        assert empty == CheckpointClaims()
        assert await store.change_mark() == mark

    async def test_a_repeated_checkpoint_returns_what_the_first_took_and_never_more(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        await make.enqueue(store, "i1", ingress=ActiveTurn("t1"))
        await make.put(store, make.wake(1))
        request = make.checkpoint_request()
        first = await store.claim_checkpoint_work(fence, request)
        assert make.ids_of(first.inputs) == ["i1"] and first.work is not None
        await make.enqueue(store, "i2", ingress=ActiveTurn("t1"))
        await make.put(store, make.wake(2))
        again = msgspec.structs.replace(request, claim_token="another")
        assert await self.open_store().claim_checkpoint_work(fence, again) == first
        second = await store.claim_checkpoint_work(fence, make.checkpoint_request(name="c2"))
        assert make.ids_of(second.inputs) == ["i2"] and second.work is not None

    async def test_a_checkpoint_takes_at_most_its_limit_and_the_rest_goes_at_the_next(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        for index in range(5):
            boundary: Boundary = "after_work" if index % 2 else "before_completion"
            await make.enqueue(store, f"i{index}", ingress=ActiveTurn("t1", boundary))
        request = make.checkpoint_request("t1", "before_completion", limit=3)
        assert make.ids_of((await store.claim_checkpoint_work(fence, request)).inputs) == ["i0", "i1", "i2"]
        rest = await store.claim_checkpoint_work(fence, make.checkpoint_request("t1", "before_completion", name="c2"))
        assert make.ids_of(rest.inputs) == ["i3", "i4"]

    async def test_a_turn_that_does_not_run_takes_nothing(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        await make.enqueue(store, "i1", ingress=ActiveTurn("t1"))
        await make.put(store, make.wake())
        assert await store.claim_checkpoint_work(fence, make.checkpoint_request()) == CheckpointClaims()
        assert await make.pending_ids(store) == ["i1"]

    @pytest.mark.parametrize("how", ["release", "expiry", "takeover"])
    async def test_what_a_turn_took_stays_its_own_under_the_next_generation(self, how: str) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = make.fence_of_lane(await make.start(store, self.clock, "t1"))
        await make.enqueue(store, "i1", ingress=ActiveTurn("t1"))
        taken = await store.claim_checkpoint_work(fence, make.checkpoint_request())
        await end(store, self.clock, fence, how)
        assert await make.pending_ids(store) == []
        (result,) = await store.cancel_turn_inputs(S, [ByInputId("i1")])
        assert isinstance(result.outcome, AlreadyClaimed) and result.outcome.claim is not None
        assert result.outcome.claim.owner is None, "the lane is nobody's, or that of the next generation"
        lane = make.granted(await store.open_lane(make.lane_request(self.clock, "next", turn_id=None, text=None)))
        assert lane.redrive and lane.turn is not None and lane.turn.turn_id == "t1"
        repeated = await store.claim_checkpoint_work(make.fence_of_lane(lane), make.checkpoint_request())
        assert taken.inputs is not None and repeated.inputs is not None
        assert repeated.inputs.claim_token == taken.inputs.claim_token, "the journal knows this token"
        assert repeated.inputs.generation == lane.turn.generation
        await store.commit_runtime_state(make.ending(lane, claims=[taken.inputs], release=True))
        assert [row.state for row in await store.inputs(S, pending_only=False)] == [InputState.COMPLETED] * 2
