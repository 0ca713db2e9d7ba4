"""Where a worker looks for work, and what it remembers of the sessions it has seen (contract 02 §6.3, 08 §5.2).

One look answers: which sessions can be drained now, what keeps the others, and
when it is worth looking again. It never claims anything. What a look costs does
not grow with the sessions that wait or were drained: it ends at the first page
on which something is due, and only what still matters is remembered.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection

import msgspec

from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.protocols import Clock
from lash_cli.errors import NotFoundError, QueueHeld, SessionClosed
from lash_cli.runtime.demand import MAX_ATTEMPTS, Standing, backoff_s, is_lane_taken, standing_of
from lash_cli.runtime.lane import is_provably_dead
from lash_cli.runtime.work_events import WorkOptions
from lash_cli.store.queueing import QueuedWorkStore, SessionDemand

# A session whose passes fail for good is looked at again after this long.
ASIDE_S = 60.0
# How many sessions one page of a look holds.
LOOK_LIMIT = 64
# How long what a look found due is worth starting without another look.
FRESH_S = 0.05


class SeenSession(msgspec.Struct):
    """What a worker remembers of a session while that matters. Its own waits are monotonic seconds, so that a wall
    clock that is set back prolongs none."""

    attempts: int = 0
    overtaken: int = 0
    not_before: float = 0.0
    is_aside: bool = False
    busy_since: float | None = None
    is_given_up: bool = False
    is_served: bool = False
    shares: int = 0


class Look(msgspec.Struct):
    """What one look came to. `is_worth_waiting` says that something can be drained soon, though not now; `gone` are
    the named sessions that were deleted."""

    due: list[str] = msgspec.field(default_factory=list)
    given_up: list[str] = msgspec.field(default_factory=list)
    is_worth_waiting: bool = False
    next_at_ms: int | None = None
    next_at: float = math.inf
    holders: list[tuple[str, LeaseOwnerIdentity]] = msgspec.field(default_factory=list)
    gone: list[NotFoundError] = msgspec.field(default_factory=list)

    def again_at_ms(self, at_ms: int) -> None:
        """Look again at the stored moment `at_ms`, if not before."""
        self.next_at_ms = at_ms if self.next_at_ms is None else min(self.next_at_ms, at_ms)

    def again_at(self, at: float) -> None:
        """Look again at `at` by the monotonic clock, if not before."""
        self.next_at = min(self.next_at, at)

    def is_out_of_date(self, clock: Clock) -> bool:
        """Whether a moment this look waited for has come, or the holder of a lane has died since."""
        if clock.monotonic() >= self.next_at or (self.next_at_ms is not None and clock.now_ms() >= self.next_at_ms):
            return True
        return any(is_provably_dead(session_id, holder) for session_id, holder in self.holders)


class WorkSearch:
    """Looks over the named sessions, or over all."""

    def __init__(self, store: QueuedWorkStore, clock: Clock, options: WorkOptions, named: tuple[str, ...]) -> None:
        self._store = store
        self._clock = clock
        self._options = options
        self._named = named
        self._seen: dict[str, SeenSession] = {}
        self._shares = 0
        self._due: list[str] = []
        self._fresh_until = 0.0

    @property
    def named(self) -> tuple[str, ...]:
        """The sessions asked for; none means all."""
        return self._named

    async def admit(self) -> None:
        """Check the named sessions before anything is claimed.

        Raises `NotFoundError`, `SessionDeleted`, `SessionClosed` or `QueueHeld`.
        """
        for session_id in self._named:
            demand = await self._store.demand(session_id)
            details = {"session": session_id}
            if demand.is_closed:
                raise SessionClosed(f"session {session_id!r} is closed", details=details)
            if demand.is_held:
                raise QueueHeld(f"the queue of session {session_id!r} is held", details=details)

    async def look(self, running: Collection[str]) -> Look:
        """Look once; sessions that are being drained already are left out. What is due is also there to `take`."""
        look = Look()
        now_ms = self._clock.now_ms()
        async for demand in self._demands(look):
            if demand.session_id not in running:
                self._judge(demand, look, now_ms)
        look.due.sort(key=self._shares_of)
        self._due, self._fresh_until = list(look.due), self._clock.monotonic() + FRESH_S
        return look

    def take(self, count: int) -> list[str]:
        """At most `count` sessions the last look found due, each once; none when that look is too long ago."""
        if self._clock.monotonic() > self._fresh_until:
            self._due.clear()
        taken, self._due = self._due[:count], self._due[count:]
        return taken

    async def _demands(self, look: Look) -> AsyncIterator[SessionDemand]:
        """The sessions to judge. Of all there are only the page that made something due, or every page, each once."""
        if self._named:
            for session_id in self._named:
                try:
                    demand = await self._store.demand(session_id)
                except NotFoundError as error:
                    look.gone.append(error)
                else:
                    yield demand
            return
        met: set[str] = set()
        while True:
            page = await self._store.sessions_with_demand(limit=LOOK_LIMIT)
            fresh = [demand for demand in page if demand.session_id not in met]
            met.update(demand.session_id for demand in fresh)
            for demand in fresh:
                yield demand
            if look.due or len(fresh) < LOOK_LIMIT:
                return

    def _judge(self, demand: SessionDemand, look: Look, now_ms: int) -> None:
        seen = self._seen.get(demand.session_id, SeenSession())
        standing = standing_of(demand, now_ms)
        if demand.available_at_ms is not None and not (demand.is_held or demand.is_closed):
            look.again_at_ms(demand.available_at_ms)
        if demand.lease.owner is not None and is_lane_taken(demand, now_ms):
            look.holders.append((demand.session_id, demand.lease.owner))
            look.again_at_ms(demand.lease.expires_at_ms)
        if standing is Standing.CONTENDED:
            self._judge_contended(demand.session_id, self._remembered(demand.session_id), look)
            return
        seen.busy_since, seen.is_given_up = None, False
        if standing is Standing.NOTHING or seen.is_served:
            return
        if self._clock.monotonic() < seen.not_before:
            look.again_at(seen.not_before)
            look.is_worth_waiting |= not seen.is_aside
        else:
            look.due.append(demand.session_id)

    def _judge_contended(self, session_id: str, seen: SeenSession, look: Look) -> None:
        if seen.is_served or seen.is_given_up:
            return
        now = self._clock.monotonic()
        if seen.busy_since is None:
            seen.busy_since = now
        wait_ms = self._options.lease_wait_ms
        if wait_ms is None:
            look.is_worth_waiting = True
        elif now < (until := seen.busy_since + wait_ms / 1000):
            look.is_worth_waiting = True
            look.again_at(until)
        else:
            seen.is_given_up = True
            look.given_up.append(session_id)

    def _remembered(self, session_id: str) -> SeenSession:
        return self._seen.setdefault(session_id, SeenSession())

    def _shares_of(self, session_id: str) -> int:
        return self._seen[session_id].shares if session_id in self._seen else 0

    def progressed(self, session_id: str) -> None:
        """A pass ended well: earlier failures do not count any more."""
        if self._options.once:
            self._seen[session_id] = SeenSession(is_served=True)
        else:
            self._seen.pop(session_id, None)

    def had_its_share(self, session_id: str) -> None:
        """A session that was drained for a while and is not empty yet: the next slots are for others."""
        self._shares += 1
        self._remembered(session_id).shares = self._shares

    def postpone(self, session_id: str) -> int | None:
        """Let a session rest after a pass that failed; for how many milliseconds, None when it has had all
        its attempts and was set aside."""
        seen = self._remembered(session_id)
        seen.attempts += 1
        if seen.attempts >= MAX_ATTEMPTS:
            self.set_aside(session_id)
            return None
        rest_s = backoff_s(seen.attempts)
        seen.not_before = self._clock.monotonic() + rest_s
        return round(rest_s * 1000)

    def was_overtaken(self, session_id: str) -> None:
        """Let a session rest whose lane, or whatever a look saw, somebody else took first: however often that happens
        in a row, it is no failure of anybody."""
        seen = self._remembered(session_id)
        seen.overtaken += 1
        seen.not_before = self._clock.monotonic() + backoff_s(seen.overtaken)

    def set_aside(self, session_id: str, *, rest_s: float = ASIDE_S) -> None:
        """Leave a session alone for a good while; nobody waits for it."""
        seen = self._remembered(session_id)
        seen.attempts = 0
        seen.is_aside = True
        seen.is_served = self._options.once
        seen.not_before = self._clock.monotonic() + rest_s
