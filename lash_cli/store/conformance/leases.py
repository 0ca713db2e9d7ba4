"""Laws of the session execution lease, row by row of contract 01 §13."""

from __future__ import annotations

import asyncio

import pytest

from lash_cli.core.lease import LeaseFence
from lash_cli.errors import SessionExecutionLeaseExpired
from lash_cli.store.base import LaneBusy
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws

S = make.SESSION
TTL_SECONDS = make.TTL_MS / 1000


class LeaseLaws(StoreLaws):
    async def test_a_free_released_or_expired_lane_is_granted_under_the_next_generation(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        first = await make.take(store, "a")
        assert await store.release_lease(first.fence())
        second = await make.take(store, "b")
        self.clock.tick(TTL_SECONDS)
        third = await make.take(store, "c")
        assert [lease.fencing_token for lease in (first, second, third)] == [1, 2, 3]
        assert third.expires_at_ms == self.clock.now_ms() + make.TTL_MS

    async def test_the_same_incarnation_extends_and_every_other_is_busy(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        held = await make.take(store, "a")
        self.clock.tick(1)
        extended = await store.try_claim_lease(S, make.owner("a"), ttl_ms=make.TTL_MS, token="ignored")
        assert not isinstance(extended, LaneBusy)
        assert (extended.lease_token, extended.fencing_token) == (held.lease_token, held.fencing_token)
        assert extended.expires_at_ms == self.clock.now_ms() + make.TTL_MS
        again = await store.try_claim_lease(S, make.owner("a"), ttl_ms=1, token="ignored")
        assert again == extended, "nothing that was granted is taken back"
        for other in (make.owner("a", "2"), make.owner("b")):
            busy = await self.open_store().try_claim_lease(S, other, ttl_ms=make.TTL_MS, token="x")
            assert isinstance(busy, LaneBusy)
            assert (busy.holder, busy.fencing_token) == (make.owner("a"), 1)

    async def test_one_millisecond_before_expiry_the_lane_is_held_and_at_expiry_it_is_free(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        self.clock.tick(TTL_SECONDS - 0.001)
        assert isinstance(await store.try_claim_lease(S, make.owner("b"), ttl_ms=1, token="x"), LaneBusy)
        self.clock.tick(0.001)
        with pytest.raises(SessionExecutionLeaseExpired):
            await store.renew_lease(fence, ttl_ms=make.TTL_MS)
        assert not isinstance(await store.try_claim_lease(S, make.owner("b"), ttl_ms=1, token="x"), LaneBusy)

    async def test_a_reclaim_needs_the_very_holder_that_was_observed(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        dead = await make.take(store, "a")

        async def reclaim(name: str, observed: int) -> object:
            return await self.open_store().reclaim_lease(
                S,
                make.owner(name),
                observed_fencing_token=observed,
                ttl_ms=make.TTL_MS,
                token=f"lease-{name}",
            )

        assert isinstance(await reclaim("b", dead.fencing_token + 1), LaneBusy)
        outcomes = await asyncio.gather(reclaim("b", dead.fencing_token), reclaim("c", dead.fencing_token))
        winners = [outcome for outcome in outcomes if not isinstance(outcome, LaneBusy)]
        assert len(winners) == 1
        with pytest.raises(SessionExecutionLeaseExpired):
            await store.renew_lease(dead.fence(), ttl_ms=make.TTL_MS)

    async def test_a_first_claim_race_has_one_winner(self) -> None:
        stores = [self.open_store() for _ in range(4)]
        await make.create(stores[0], self.clock)
        outcomes = await asyncio.gather(
            *(
                store.try_claim_lease(S, make.owner(f"o{index}"), ttl_ms=make.TTL_MS, token=f"t{index}")
                for index, store in enumerate(stores)
            )
        )
        assert sum(not isinstance(outcome, LaneBusy) for outcome in outcomes) == 1

    async def test_renewal_extends_without_a_new_generation(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        lease = await make.take(store)
        self.clock.tick(TTL_SECONDS - 1)
        renewed = await self.open_store().renew_lease(lease.fence(), ttl_ms=make.TTL_MS)
        assert renewed.fence() == lease.fence()
        self.clock.tick(TTL_SECONDS - 1)
        assert (await store.renew_lease(lease.fence(), ttl_ms=make.TTL_MS)).fence() == lease.fence()

    async def test_a_fence_that_differs_in_any_part_proves_nothing(self) -> None:
        store, fence = await make.held(self.open_store, self.clock)
        forged = [
            LeaseFence(S, "z", fence.incarnation_id, fence.lease_token, fence.fencing_token),
            LeaseFence(S, fence.owner_id, "z", fence.lease_token, fence.fencing_token),
            LeaseFence(S, fence.owner_id, fence.incarnation_id, "z", fence.fencing_token),
            LeaseFence(S, fence.owner_id, fence.incarnation_id, fence.lease_token, fence.fencing_token + 1),
        ]
        for wrong in forged:
            with pytest.raises(SessionExecutionLeaseExpired):
                await store.renew_lease(wrong, ttl_ms=make.TTL_MS)
            assert not await store.release_lease(wrong)
        assert await store.release_lease(fence)

    async def test_a_repeated_release_does_not_touch_the_successor(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        fence = await make.fence_of(store, "a")
        assert await store.release_lease(fence)
        successor = await make.fence_of(store, "b")
        assert not await store.release_lease(fence)
        assert (await store.renew_lease(successor, ttl_ms=make.TTL_MS)).fence() == successor
