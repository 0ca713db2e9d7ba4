"""The lane: taking the session lease, keeping it, and noticing its loss (contract 01 §5.4, §13; design §3 step 2).

Taking the lane is one store transaction that also makes the turn's text safe.
A guard renews the lease while the turn runs. Only a verdict of the store, or
local time past the expiry, counts as loss; any other renewal error is retried,
because the 3:1 ratio of ttl and renewal exists to survive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import msgspec

from lash_cli.alarms import Alarm, alarm_after
from lash_cli.core.lease import (
    LeaseFence,
    LeaseOwnerIdentity,
    LeaseRow,
    LeaseTimings,
    LocalProcess,
    SessionExecutionLease,
    is_row_live,
    lane_lost,
)
from lash_cli.core.protocols import CancelSignal, Clock
from lash_cli.effects.host import first_of
from lash_cli.errors import LashError, LashRuntimeError, SessionExecutionBusy, SessionExecutionLeaseExpired
from lash_cli.runtime.ending import end, tidied
from lash_cli.runtime.session import ResidentSession
from lash_cli.store.base import (
    LaneBusy,
    LaneGranted,
    LaneOutcome,
    LaneRequest,
    LaneStore,
    RuntimePersistence,
    busy_error,
)
from lash_cli.system import is_definitely_dead

if TYPE_CHECKING:
    from lash_cli.runtime.host import RuntimeHost

_log = logging.getLogger("lash.lane")

BUSY_POLL_FIRST_S = 0.025
BUSY_POLL_MAX_S = 0.25
RENEW_RETRY_S = 0.5
# How long a cancelled task cleans up behind itself; where the store is locked for longer the lease runs out instead.
CLEANING_S = 1.0

# By session and holder, the event loop of this process in which a lane is held or asked for, until it is given back;
# None while the store has not yet taken back what nobody needs any more.
_LOOPS: dict[tuple[str, str, str], weakref.ref[asyncio.AbstractEventLoop] | None] = {}
if hasattr(os, "register_at_fork"):
    # What becomes of the loops of the parent is not seen in the child.
    os.register_at_fork(after_in_child=_LOOPS.clear)


def _asks_here(session_id: str, owner: LeaseOwnerIdentity) -> None:
    loop = asyncio._get_running_loop()
    if loop is not None:
        _LOOPS[session_id, owner.owner_id, owner.incarnation_id] = weakref.ref(loop)


def holds_no_more(session_id: str, owner: LeaseOwnerIdentity) -> None:
    """Forget in which event loop `owner` asked for a lane that was given back or not granted; where the loop was closed
    over it, or the store refused to take it back, nobody gave it back."""
    if not _is_left_behind(session_id, owner):
        _forget(session_id, owner.owner_id, owner.incarnation_id)


def _forget(session_id: str, owner_id: str, incarnation_id: str) -> None:
    _LOOPS.pop((session_id, owner_id, incarnation_id), None)


def _is_left_behind(session_id: str, owner: LeaseOwnerIdentity) -> bool:
    """Whether `owner` needs a lane no more that it could not give back, or holds or asked for one in an event loop of
    this process that is closed."""
    key = (session_id, owner.owner_id, owner.incarnation_id)
    if key not in _LOOPS:
        return False
    loop_of = _LOOPS[key]
    return loop_of is None or (loop := loop_of()) is None or loop.is_closed()


def is_provably_dead(session_id: str, owner: LeaseOwnerIdentity) -> bool:
    """Whether nothing of the holder of a session's lane goes on any more: it is a process of this host and boot that
    runs no more, or one of this process that is done with it or whose event loop is closed."""
    if isinstance(owner.liveness, LocalProcess) and is_definitely_dead(owner.liveness):
        return True
    return _is_left_behind(session_id, owner)


async def free_dead_lane(
    host: RuntimeHost, store: RuntimePersistence, owner: LeaseOwnerIdentity, session_id: str, lease: LeaseRow
) -> None:
    """Give back the lane of a holder that is provably dead, so that nobody waits for its expiry. When the task is
    cancelled meanwhile, the lane is not left held by `owner` instead."""
    if lease.owner is None or not is_row_live(lease, host.clock.now_ms()):
        return
    if not is_provably_dead(session_id, lease.owner):
        return
    with contextlib.suppress(SessionExecutionBusy):  # somebody else was faster
        async with claimed_lane(host, store, owner, session_id):
            pass


async def take_lane(
    store: LaneStore, clock: Clock, request: LaneRequest, *, busy_wait_ms: int = 0, cancel: CancelSignal
) -> LaneOutcome:
    """Open the lane, taking it over at once from a holder on this host that is provably dead.

    Waits up to `busy_wait_ms`, and no longer once `cancel` is set, for a live holder to finish, then answers
    `LaneBusy`, having written nothing. When the task is cancelled meanwhile, no lane is left held.
    """
    deadline = clock.monotonic() + busy_wait_ms / 1000
    delay = BUSY_POLL_FIRST_S
    dead: LeaseOwnerIdentity | None = None
    _asks_here(request.session_id, request.owner)
    while True:
        try:
            outcome = await store.open_lane(request)
        except asyncio.CancelledError:
            await free_unseen_lane(
                store, request.session_id, request.owner, ttl_ms=request.ttl_ms, token=request.lease_token
            )
            raise
        if not isinstance(outcome, LaneBusy):
            if dead is not None and isinstance(outcome, LaneGranted) and outcome.lease is not None:
                _forget(request.session_id, dead.owner_id, dead.incarnation_id)
            return outcome
        is_new_holder = request.dead_holder_fencing_token != outcome.fencing_token
        if is_new_holder and is_provably_dead(request.session_id, outcome.holder):
            request = msgspec.structs.replace(request, dead_holder_fencing_token=outcome.fencing_token)
            dead = outcome.holder
            continue
        remaining = deadline - clock.monotonic()
        if remaining <= 0 or cancel.is_set:
            return outcome
        await first_of(clock.sleep(min(delay, remaining)), cancel.wait())
        delay = min(delay * 2, BUSY_POLL_MAX_S)
        request = msgspec.structs.replace(request, now_ms=clock.now_ms())


async def free_unseen_lane(
    store: LaneStore, session_id: str, owner: LeaseOwnerIdentity, *, ttl_ms: int, token: str
) -> None:
    """Give back a lane that `owner` may have been granted without being told, because its task was cancelled.

    Writes keep their order, so the claim that was under way is decided by now, and an owner that asks again is told
    the same lease. What the store refuses here it would refuse anybody; others of this process take the lane over then,
    and for the rest the expiry frees it.
    """

    async def free() -> None:
        claimed = await store.try_claim_lease(session_id, owner, ttl_ms=ttl_ms, token=token)
        if not isinstance(claimed, LaneBusy):
            await store.release_lease(claimed.fence())
        _forget(session_id, owner.owner_id, owner.incarnation_id)

    _LOOPS[session_id, owner.owner_id, owner.incarnation_id] = None
    await tidied(free(), within_s=CLEANING_S)


async def _release(store: LaneStore, fence: LeaseFence) -> None:
    """Give a lane back, also when the task is cancelled before the write began: releasing twice does no harm.

    A store that refuses it fails nothing that was done under the lane, and hides no failure of that: it is logged, who
    asks for the lane in this process has it at once, and for the rest it runs out by itself.
    """

    async def release() -> None:
        await store.release_lease(fence)
        _forget(fence.session_id, fence.owner_id, fence.incarnation_id)

    _LOOPS[fence.session_id, fence.owner_id, fence.incarnation_id] = None
    try:
        await release()
    except asyncio.CancelledError:
        await tidied(release(), within_s=CLEANING_S)
        raise
    except LashError as error:
        _log.warning("the lane of session %s is left to its expiry: %s", fence.session_id, error)


class LaneGuard:
    """Holds one granted lease. Create it inside the running loop, `start` it, and `stop` it before the handle goes."""

    def __init__(
        self,
        store: LaneStore,
        clock: Clock,
        timings: LeaseTimings,
        lease: SessionExecutionLease,
        on_lost: Callable[[], object],
    ) -> None:
        self._store = store
        self._clock = clock
        self._timings = timings
        self._on_lost = on_lost
        #: When its holder was granted the lane last, by the clock that only counts.
        self.granted_at = self._expires_at = 0.0
        self._alarm: Alarm | None = None
        self._task: asyncio.Task[None] | None = None
        self.fence: LeaseFence = lease.fence()
        self.is_lost = False
        self.is_released = False

    def start(self) -> None:
        """Schedule renewals. A turn shorter than one interval never pays for a task."""
        self.extend()
        self._alarm = alarm_after(self._timings.renew_interval_ms / 1000, self._begin_renewing)

    def _begin_renewing(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._renew_until_lost())

    async def _renew_until_lost(self) -> None:
        while not self.is_lost and not self.is_released:
            wait = self._timings.renew_interval_ms / 1000
            expires_at = self._clock.monotonic() + self._timings.ttl_ms / 1000
            try:
                await self._store.renew_lease(self.fence, ttl_ms=self._timings.ttl_ms)
                self._expires_at = expires_at
            except SessionExecutionLeaseExpired:
                # A commit that released the lease may overtake a renewal; then nothing was lost.
                if not self.is_released:
                    self._lose()
                return
            except LashError as error:
                _log.warning("lease renewal failed, will retry: %s", error)
                if self._clock.monotonic() >= self._expires_at:
                    self._lose()
                    return
                wait = min(RENEW_RETRY_S, wait)
            await asyncio.sleep(wait)

    def _lose(self) -> None:
        self.is_lost = True
        self._on_lost()

    def check(self) -> None:
        """Raise `SessionExecutionLeaseExpired` when the lane is known to be lost."""
        if self.is_lost:
            raise lane_lost(self.fence.session_id)

    def extend(self) -> None:
        """Go on under the same lease, whose holder asked for the lane again."""
        self.granted_at = self._clock.monotonic()
        self._expires_at = self.granted_at + self._timings.ttl_ms / 1000

    def withhold(self) -> None:
        """Leave the lease to its expiry: a commit's outcome is unknown, and its stamp will decide."""
        self.is_released = True

    async def stop(self) -> None:
        """End renewals; the lease itself stays as it is."""
        if self._alarm is not None:
            self._alarm.cancel()
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    async def release(self) -> None:
        """Give the lane back unless a commit did so already or it was lost; also when the task is cancelled
        meanwhile."""
        try:
            await self.stop()
        finally:
            if not self.is_released and not self.is_lost:
                self.is_released = True
                await _release(self._store, self.fence)


class LaneHolder(msgspec.Struct, eq=False):
    """Holds at most one lane over several grants: session commands, a turn, and the turns of the frames after it."""

    _store: LaneStore
    _clock: Clock
    _timings: LeaseTimings
    _on_lost: Callable[[], object]
    _guard: LaneGuard | None = None

    @property
    def guard(self) -> LaneGuard:
        """The guard of the lane granted last, of which there must be one."""
        assert self._guard is not None, "no lane was granted yet"
        return self._guard

    async def take(self, lease: SessionExecutionLease | None) -> LaneGuard:
        """The guard of a granted lease; the one before goes on when the lease is still the same.

        Raises `LashRuntimeError` (`lane_without_lease`) for a grant that brings none: a fault of the store.
        """
        if lease is None:
            raise LashRuntimeError("lane_without_lease", "the store granted a lane without a lease")
        guard = self._guard
        if guard is not None and guard.fence == lease.fence() and not guard.is_released and not guard.is_lost:
            guard.extend()
            return guard
        # Held before anything can raise and the one before is stopped: who is cancelled there gives back what it was
        # granted.
        self._guard = granted = LaneGuard(self._store, self._clock, self._timings, lease, self._on_lost)
        granted.start()
        if guard is not None:
            await guard.stop()
        return granted

    async def give_back(self) -> None:
        """Release what is still held, unless a commit's outcome is unknown."""
        if self._guard is not None:
            await self._guard.release()


@contextlib.asynccontextmanager
async def claimed_lane(
    host: RuntimeHost, store: RuntimePersistence, owner: LeaseOwnerIdentity, session_id: str
) -> AsyncIterator[SessionExecutionLease]:
    """A lane outside a turn (contract 01 §13). Raises `SessionExecutionBusy` while another owner holds it.

    Whatever happens inside the block, the lease is not left held; a commit that releases it first is welcome.
    """
    ttl_ms, token = host.timings.ttl_ms, host.ids.token()
    _asks_here(session_id, owner)
    try:
        try:
            claimed = await store.try_claim_lease(session_id, owner, ttl_ms=ttl_ms, token=token)
            if isinstance(claimed, LaneBusy) and is_provably_dead(session_id, dead := claimed.holder):
                claimed = await store.reclaim_lease(
                    session_id,
                    owner,
                    observed_fencing_token=claimed.fencing_token,
                    ttl_ms=ttl_ms,
                    token=token,
                )
                if not isinstance(claimed, LaneBusy):
                    _forget(session_id, dead.owner_id, dead.incarnation_id)
        except asyncio.CancelledError:
            await free_unseen_lane(store, session_id, owner, ttl_ms=ttl_ms, token=token)
            raise
        if isinstance(claimed, LaneBusy):
            raise busy_error(session_id, claimed)
        try:
            yield claimed
        finally:
            await _release(store, claimed.fence())
    finally:
        holds_no_more(session_id, owner)


@contextlib.asynccontextmanager
async def borrowed_lane(
    host: RuntimeHost, store: RuntimePersistence, owner: LeaseOwnerIdentity, session: ResidentSession
) -> AsyncIterator[LeaseFence]:
    """A lane for one commit outside a turn: claim, refresh, commit with release (contract 01 §13).

    The session is up to date inside the block. Raises `SessionExecutionBusy`
    while another owner holds the lane. The commit is expected to release the
    lease; whatever happens, it is not left held.
    """
    async with claimed_lane(host, store, owner, session.session_id) as lease:
        await session.catch_up()
        yield lease.fence()
