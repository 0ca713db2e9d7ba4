"""What a worker remembers of the sessions it has seen, under a manual clock (contract 02 §6.3, 08 §5.2)."""

from __future__ import annotations

import pytest
from support.clock import ManualClock

from lash_cli.core.lease import LeaseOwnerIdentity, LeaseRow
from lash_cli.runtime.work_events import WorkOptions
from lash_cli.runtime.work_search import WorkSearch
from lash_cli.store.queueing import SessionDemand

S = "s"


class OneSession:
    """A queue in which something waits, and a lane that somebody elsewhere holds or not."""

    def __init__(self) -> None:
        self.is_busy = True

    async def demand(self, session_id: str) -> SessionDemand:
        held = LeaseRow(1, "token", LeaseOwnerIdentity("other", "1"), 0, 1 << 62)
        return SessionDemand(session_id, True, None, held if self.is_busy else LeaseRow())


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def session() -> OneSession:
    return OneSession()


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
