"""Keeping a lane: what is no loss is tried again, and what is one is told once (contract 01 §13)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.clock import LIMIT_S, ManualClock

from lash_cli.core.lease import LeaseOwnerIdentity, LeaseTimings, SessionExecutionLease
from lash_cli.errors import SessionExecutionLeaseExpired, StoreLocked
from lash_cli.runtime.lane import LaneGuard

# Waits of a guard are those of the loop, so they are short; the time it goes by is moved by the store.
TIMINGS = LeaseTimings(30, 10)
LEASE = SessionExecutionLease("s", LeaseOwnerIdentity("o", "i"), "token", 1, 0, 30)


class Store:
    """A store whose renewals do what is written down, the last one again and again; it counts them, and tells when it
    was asked for one after the last that is written down."""

    def __init__(self, *renewals: Callable[[], None]) -> None:
        self._renewals = list(renewals)
        self.asked = 0
        self.has_done_all = asyncio.Event()
        self.is_told = asyncio.Event()

    async def renew_lease(self, *_: Any, **__: Any) -> None:
        if len(self._renewals) == 1 and self.asked:
            self.has_done_all.set()
        self.asked += 1
        renewal = self._renewals.pop(0) if len(self._renewals) > 1 else self._renewals[0]
        renewal()

    def lose(self) -> None:
        assert not self.is_told.is_set(), "a loss is told once"
        self.is_told.set()


def refuses(error: Exception, clock: ManualClock | None = None, took_s: float = 0.0) -> Callable[[], None]:
    def refuse() -> None:
        if clock is not None:
            clock.tick(took_s)
        raise error

    return refuse


def guard_of(store: Store, clock: ManualClock) -> LaneGuard:
    guard = LaneGuard(store, clock, TIMINGS, LEASE, store.lose)  # type: ignore[arg-type]
    guard.start()
    return guard


async def test_a_renewal_that_fails_is_tried_again_and_loses_nothing() -> None:
    store = Store(refuses(StoreLocked("busy")), refuses(StoreLocked("busy")), lambda: None)
    guard = guard_of(store, ManualClock())
    await asyncio.wait_for(store.has_done_all.wait(), LIMIT_S)
    guard.check()
    assert not store.is_told.is_set()
    await guard.stop()


async def test_the_verdict_of_the_store_ends_the_lane_at_once() -> None:
    store = Store(refuses(SessionExecutionLeaseExpired("taken over")))
    guard = guard_of(store, ManualClock())
    await asyncio.wait_for(store.is_told.wait(), LIMIT_S)
    assert store.asked == 1
    with pytest.raises(SessionExecutionLeaseExpired):
        guard.check()
    await guard.stop()


async def test_a_lane_that_a_commit_releases_as_it_is_renewed_is_not_lost() -> None:
    over = asyncio.Event()

    def overtaken() -> None:
        guard.is_released = True
        over.set()
        raise SessionExecutionLeaseExpired("released")

    store = Store(overtaken)
    guard = guard_of(store, ManualClock())
    await asyncio.wait_for(over.wait(), LIMIT_S)
    await asyncio.sleep(0)
    await guard.stop()
    guard.check()
    assert not store.is_told.is_set()


async def test_a_lane_that_cannot_be_renewed_is_lost_when_the_last_renewal_has_run_out() -> None:
    """Which counts from when it was asked for, however long the store took: so the row counts."""
    clock = ManualClock()
    failing = refuses(StoreLocked("busy"), clock, 0.011)
    # The second is asked for after 20 ms and takes ten: the lane runs out after 50, and not after 30 or 60.
    store = Store(lambda: clock.tick(0.020), lambda: clock.tick(0.010), failing)
    guard = guard_of(store, clock)
    await asyncio.wait_for(store.is_told.wait(), LIMIT_S)
    assert store.asked == 4
    with pytest.raises(SessionExecutionLeaseExpired):
        guard.check()
    await guard.stop()
