"""Laws of demand: the truth table of what a driver is told, and of all sessions at once (contract 02 §6.3)."""

from __future__ import annotations

import pytest

from lash_cli.core.ingress import ActiveTurn
from lash_cli.errors import NotFoundError, SessionDeleted
from lash_cli.store.base import RuntimePersistence
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.factory import StoreLaws
from lash_cli.store.queueing import SessionDemand

S = make.SESSION
TTL_SECONDS = make.TTL_MS / 1000
LATER_MS = 10_000


async def names(store: RuntimePersistence, limit: int = 50) -> list[str]:
    """The sessions with demand, in the order told."""
    return [demand.session_id for demand in await store.sessions_with_demand(limit=limit)]


class DemandLaws(StoreLaws):
    @pytest.mark.parametrize(
        ("what", "claimable", "unfinished", "later"),
        [
            ("nothing", False, None, False),
            ("next input", True, None, False),
            ("orphan", True, None, False),
            ("work", True, None, False),
            ("command", True, None, False),
            ("later work", False, None, True),
            ("due work", True, None, False),
            ("later work and input", True, None, True),
            ("settled", False, None, False),
            ("dead turn", False, "t1", False),
            ("running turn", False, "t1", False),
            ("running turn with steer", False, "t1", False),
            ("running turn with steer of another", True, "t1", False),
            ("own claims", False, None, False),
            ("dead claims", True, None, False),
        ],
    )
    async def test_the_truth_table_of_one_session(
        self,
        what: str,
        claimable: bool,
        unfinished: str | None,
        later: bool,
    ) -> None:
        store = await make.opened(self.open_store, self.clock)
        soon = self.clock.now_ms() + LATER_MS
        await self._arrange(store, what, soon)
        demand = await self.open_store().demand(S)
        row = await store.session_row(S)
        assert row is not None
        assert demand == SessionDemand(S, claimable, unfinished, row.lease, available_at_ms=soon if later else None)
        has_demand = claimable or unfinished is not None or later
        assert await store.sessions_with_demand(limit=5) == ((demand,) if has_demand else ())

    async def _arrange(self, store: RuntimePersistence, what: str, soon: int) -> None:
        if "input" in what or what == "settled":
            await make.enqueue(store, "i1")
        if what == "orphan":
            await make.enqueue(store, "i1", ingress=ActiveTurn("t0"))
        if what == "work" or what.endswith("claims"):
            await make.put(store, make.wake())
        if what == "command":
            await make.put(store, make.command())
        if what.startswith(("later", "due")):
            await make.put(store, make.work("later", available_at_ms=soon))
        if what == "due work":
            self.clock.tick(LATER_MS / 1000)
        if what == "settled":
            lane = make.granted(await store.open_lane(make.drain_request(self.clock)))
            await store.commit_runtime_state(make.ending(lane, release=True))
        if "turn" in what:
            await make.start(store, self.clock, "t1")
        if "steer" in what:
            await make.enqueue(store, "steer", ingress=ActiveTurn("t0" if "another" in what else "t1"))
        if what == "dead turn":
            self.clock.tick(TTL_SECONDS)
        if what.endswith("claims"):
            fence = await make.fence_of(store)
            assert await store.claim_ready_queued_work(fence, "idle", claim_token="ct") is not None
        if what == "dead claims":
            self.clock.tick(TTL_SECONDS)

    async def test_holds_and_closings_are_told_and_keep_a_session_from_the_list(self) -> None:
        store = self.open_store()
        for session_id in ("held", "closed", "open"):
            await make.create(store, self.clock, session_id)
            await make.enqueue(store, f"i-{session_id}", session_id=session_id)
        await store.set_queue_hold("held", held_at_ms=1)
        await store.set_session_flags("closed", closed_at_ms=1, parked_at_ms=None)
        flags = {name: await store.demand(name) for name in ("held", "closed", "open")}
        assert {name: (one.is_held, one.is_closed, one.has_claimable) for name, one in flags.items()} == {
            "held": (True, False, True),
            "closed": (False, True, True),
            "open": (False, False, True),
        }
        assert await names(store) == ["open"]

    async def test_an_absent_or_deleted_session_has_no_demand(self) -> None:
        store = await make.opened(self.open_store, self.clock)
        await store.delete_session(S, 1)
        with pytest.raises(SessionDeleted):
            await store.demand(S)
        with pytest.raises(NotFoundError):
            await store.demand("no")

    async def test_free_lanes_come_first_oldest_demand_first_then_busy_ones_then_what_waits_for_its_time(self) -> None:
        store = self.open_store()
        now = self.clock.now_ms()
        for session_id in ("later2", "busy", "young", "later1", "old", "idle", "due"):
            await make.create(store, self.clock, session_id)
        await make.put(store, make.work("a", session_id="later1", available_at_ms=now + 70_000))
        await make.put(store, make.work("a", session_id="later2", available_at_ms=now + 80_000))
        await make.put(store, make.work("a", session_id="due", available_at_ms=now + 2_000))
        self.clock.tick(1)
        await make.enqueue(store, "o", session_id="old")
        self.clock.tick(2)
        await make.put(store, make.wake(session_id="young"))
        self.clock.tick(1)
        await make.start(store, self.clock, "t1", session_id="busy")
        assert await names(store) == ["old", "due", "young", "busy", "later1", "later2"]
        assert await names(store, limit=4) == ["old", "due", "young", "busy"]
        assert await store.sessions_with_demand(limit=0) == ()
        self.clock.tick(TTL_SECONDS)
        assert await names(store) == ["old", "due", "young", "busy", "later1", "later2"]
        assert (await store.demand("busy")).unfinished_turn_id == "t1"

    async def test_more_sessions_than_asked_for_take_turns(self) -> None:
        store = self.open_store()
        expected = {f"s{index}" for index in range(10)}
        for session_id in sorted(expected):
            await make.create(store, self.clock, session_id)
            await make.enqueue(store, f"i-{session_id}", session_id=session_id)
        seen: list[str] = []
        for _ in range(4):
            page = await names(store, limit=3)
            assert len(page) == 3
            seen += page
        assert set(seen) == expected, "none starves behind those before it"
