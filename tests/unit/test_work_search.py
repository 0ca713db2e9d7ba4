"""Where a worker looks for work: what ends a look, and whom it gives up (contract 02 §6.3, 08 §5.2)."""

from __future__ import annotations

import asyncio

from support.clock import LIMIT_S, ManualClock

from lash_cli.core.lease import LeaseOwnerIdentity, LeaseRow
from lash_cli.runtime.work_events import WorkOptions
from lash_cli.runtime.work_search import LOOK_LIMIT, WorkSearch
from lash_cli.store.queueing import SessionDemand

FREE = LeaseRow()


class Store:
    """Sessions that have work, in pages; `held` ones have a lane that somebody else holds."""

    def __init__(self, clock: ManualClock, *names: str) -> None:
        self.clock = clock
        self.names = names
        self.held = set(names)
        self.looks = 0

    async def sessions_with_demand(self, *, limit: int) -> tuple[SessionDemand, ...]:
        self.looks += 1
        await asyncio.sleep(0)
        return tuple(self._demand(name) for name in self.names[:limit])

    def _demand(self, name: str) -> SessionDemand:
        taken = LeaseRow(1, "token", LeaseOwnerIdentity("other", "1"), 0, self.clock.now_ms() + 1_000_000)
        return SessionDemand(name, True, None, taken if name in self.held else FREE)


def search_of(store: Store, **options: int) -> WorkSearch:
    return WorkSearch(store, store.clock, WorkOptions(**options), ())  # type: ignore[arg-type]


async def test_a_look_ends_when_a_page_brings_nobody_new() -> None:
    store = Store(ManualClock(), *map(str, range(LOOK_LIMIT)))
    look = await asyncio.wait_for(search_of(store).look(()), LIMIT_S)
    assert (store.looks, look.due, len(look.holders)) == (2, [], LOOK_LIMIT)


async def test_a_lane_is_waited_for_anew_once_it_was_free_in_between() -> None:
    clock = ManualClock()
    store = Store(clock, "a")
    search = search_of(store, lease_wait_ms=1_000)
    assert (await search.look(())).given_up == []
    clock.tick(0.9)
    store.held.clear()
    assert (await search.look(())).due == ["a"]
    store.held.add("a")
    clock.tick(0.9)
    assert (await search.look(())).given_up == []
    clock.tick(1.0)
    assert (await search.look(())).given_up == ["a"]
    assert (await search.look(())).given_up == [], "it is told once"


async def test_what_was_found_due_a_while_ago_is_not_begun_any_more() -> None:
    clock = ManualClock()
    store = Store(clock, "a", "b")
    store.held.clear()
    search = search_of(store)
    await search.look(())
    assert search.take(1) == ["a"]
    clock.tick(1.0)
    assert search.take(1) == []
