"""What a worker remembers of the sessions it has seen, under a manual clock (contract 02 §6.3, 08 §5.2)."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import LIMIT_S, ManualClock

from lash_cli.core.lease import LeaseOwnerIdentity, LeaseRow
from lash_cli.runtime.work_events import WorkOptions
from lash_cli.runtime.work_search import LOOK_LIMIT, WorkSearch
from lash_cli.store.queueing import SessionDemand

S = "s"
LEASE_MS = 30_000


class OneSession:
    """A queue in which something waits, and a lane that somebody elsewhere holds or not."""

    def __init__(self, clock: ManualClock) -> None:
        self.is_busy = True
        self.has_claimable = True
        self.unfinished_turn_id: str | None = None
        self.available_at_ms: int | None = None
        self.is_held = False
        self._expires_at_ms = clock.now_ms() + LEASE_MS
        self.pages = 0

    async def sessions_with_demand(self, *, limit: int) -> tuple[SessionDemand, ...]:
        """As many of its like as there is room for, the same on every page."""
        self.pages += 1
        await asyncio.sleep(0)
        return tuple([await self.demand(str(number)) for number in range(limit)])

    async def demand(self, session_id: str) -> SessionDemand:
        held = LeaseRow(1, "token", LeaseOwnerIdentity("other", "1"), 0, self._expires_at_ms)
        lease = held if self.is_busy else LeaseRow()
        turn_id, due = self.unfinished_turn_id, self.available_at_ms
        return SessionDemand(session_id, self.has_claimable, turn_id, lease, available_at_ms=due, is_held=self.is_held)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def session(clock) -> OneSession:
    return OneSession(clock)


@pytest.fixture
def search(session, clock) -> WorkSearch:
    return WorkSearch(session, clock, WorkOptions(lease_wait_ms=1000), (S,))


async def test_the_wait_for_a_lane_begins_anew_when_it_was_free_meanwhile(session, search, clock) -> None:
    assert (await search.look(())).is_worth_waiting
    await clock.advance(0.9)
    session.is_busy = False
    assert (await search.look(())).due == [S]
    session.is_busy = True
    await clock.advance(0.9)
    look = await search.look(())
    assert (look.is_worth_waiting, look.given_up) == (True, [])


async def test_a_lane_that_was_given_up_and_freed_is_waited_for_again(session, search, clock) -> None:
    await search.look(())
    await clock.advance(1)
    look = await search.look(())
    assert (look.is_worth_waiting, look.given_up) == (False, [S])
    assert (await search.look(())).given_up == [], "that is told once"
    session.is_busy = False
    assert (await search.look(())).due == [S]
    session.is_busy = True
    assert (await search.look(())).is_worth_waiting


@pytest.mark.parametrize("claimable", [True, False], ids=["work_waits", "only_its_turn"])
async def test_who_holds_a_lane_and_stands_still_is_looked_at_again_when_the_lease_runs_out(
    session, clock, claimable: bool
) -> None:
    """A frozen process is alive, and writes nothing that anybody could notice."""
    session.has_claimable, session.unfinished_turn_id = claimable, "t1"
    search = WorkSearch(session, clock, WorkOptions(), (S,))
    look = await search.look(())
    await clock.advance(LEASE_MS / 1000 - 1)
    assert (look.due, look.is_out_of_date(clock)) == ([], False)
    await clock.advance(1)
    assert look.is_out_of_date(clock)
    assert (await search.look(())).due == [S]


@pytest.mark.parametrize("held", [False, True])
async def test_what_only_waits_for_its_time_is_looked_at_again_then(session, search, clock, held: bool) -> None:
    session.is_busy = session.has_claimable = False
    session.available_at_ms, session.is_held = clock.now_ms() + 5000, held
    look = await search.look(())
    await clock.advance(4)
    assert not look.is_out_of_date(clock)
    await clock.advance(1)
    assert look.is_out_of_date(clock) is not held


async def test_a_look_over_all_ends_with_the_page_that_brings_nobody_new(session, clock) -> None:
    async with asyncio.timeout(LIMIT_S):
        look = await WorkSearch(session, clock, WorkOptions(), ()).look(())
    assert (session.pages, look.due, len(look.holders)) == (2, [], LOOK_LIMIT)


async def test_what_was_found_due_a_while_ago_is_not_begun_any_more(session, clock) -> None:
    session.is_busy = False
    search = WorkSearch(session, clock, WorkOptions(), ())
    await search.look(())
    assert search.take(2) == ["0", "1"]
    await clock.advance(1)
    assert search.take(1) == []
