"""The in-process driver: drains sessions of one core when told that something waits (contract 02 §6.3).

A trigger, not a truth: losing a notification, or following one twice, is
harmless, because what waits stands in rows. Per session there is at most one
running drive and one remembered rerun. A driver opens its own runtime, so it
competes for the lane like any other owner, and it never cancels a turn: when
it closes, an unfinished one is left to whoever drains next.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator
from enum import StrEnum
from functools import partial
from typing import Protocol

from lash_cli.core.protocols import Clock
from lash_cli.errors import LashError, NotFoundError, SessionClosed
from lash_cli.runtime.demand import (
    MAX_ATTEMPTS,
    PASSES_IN_A_ROW,
    Drainable,
    SessionOpener,
    Standing,
    backoff_s,
    is_passing,
    standing_of,
)
from lash_cli.runtime.requests import unseen
from lash_cli.store.queueing import QueuedWorkStore

_log = logging.getLogger("lash.driver")

DEFAULT_CONCURRENCY = 64
WARN_EVERY_S = 30.0
LONGEST_WAIT_S = 3600.0

# Signals that the lane has just become free: only these cut a rest on a busy lane short.
LANE_FREED = frozenset({"turn_completed", "session_changed"})

_PAUSED = "paused"


class Driver(Protocol):
    """Whoever drives the queues of a core; a host may bring its own (contract 02 §6.3)."""

    def notify(self, session_id: str, reason: str) -> None:
        """Something may wait in a session. Never blocks and never fails."""
        ...

    async def aclose(self) -> None:
        """Stop driving; rows stay."""
        ...


class _Found(StrEnum):
    """What one attempt came to."""

    NOTHING = "nothing"
    EMPTY = "empty"
    CONTENDED = "contended"
    PROGRESS = "progress"


class _Wake:
    """The drive of one session: why it runs, why it must run again, and what ends its rest."""

    def __init__(self, reason: str) -> None:
        self.reasons: dict[str, None] = {reason: None}
        self.again: dict[str, None] = {}
        self.signal = asyncio.Event()
        self.freed = asyncio.Event()
        self.available_at_ms: int | None = None
        self.has_progressed = False

    def add(self, reason: str) -> None:
        """Remember one rerun, whatever the number of signals."""
        self.again[reason] = None
        self.signal.set()
        if reason in LANE_FREED:
            self.freed.set()

    @property
    def reason(self) -> str:
        """The merged reasons."""
        return ",".join(self.reasons)


class _Here:
    """What a driver has in one event loop, to which whatever waits in it belongs."""

    def __init__(self, concurrency: int) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.wakes: dict[str, _Wake] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.passes: dict[str, asyncio.Event] = {}
        self.paused: Counter[str] = Counter()
        self.resumed = asyncio.Condition()


class QueueDriver:
    """Drives the queues of one core: what `LashCore(queue_driver="inline")` makes (contract 02 §6.3). Each session is
    driven in the event loop that told of it; of several loops the lane admits one."""

    def __init__(
        self,
        store: QueuedWorkStore,
        clock: Clock,
        opener: SessionOpener,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        is_strict: bool = False,
    ) -> None:
        """`opener` opens a session with an owner of its own. At most `concurrency` (≥ 1) sessions are open at once.
        With `is_strict` what is raised and will not pass is told at once, and the first of it raised by `aclose`."""
        self._store = store
        self._clock = clock
        self._open = opener
        self._concurrency = max(1, concurrency)
        self._loops: dict[asyncio.AbstractEventLoop, _Here] = {}
        self._is_closed = False
        self._is_strict = is_strict
        self._failure: Exception | None = None

    def _here(self) -> _Here:
        """What belongs to the running loop. What closed loops left is forgotten: nothing of it goes on."""
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            for closed in [known for known in self._loops if known.is_closed()]:
                del self._loops[closed]
            here = self._loops[loop] = _Here(self._concurrency)
        return here

    def notify(self, session_id: str, reason: str) -> None:
        """Something may wait in a session: drive it, or once more after the drive under way."""
        if self._is_closed:
            return
        here = self._here()
        wake = here.wakes.get(session_id)
        if wake is not None:
            wake.add(reason)
            return
        here.wakes[session_id] = wake = _Wake(reason)
        task = asyncio.get_running_loop().create_task(self._drive(session_id, wake))
        here.tasks.add(task)
        task.add_done_callback(partial(self._ended, here))

    def _ended(self, here: _Here, task: asyncio.Task[None]) -> None:
        here.tasks.discard(task)
        # What ends the program has left through the event loop already: asking for it keeps that from complaining.
        if not task.cancelled() and isinstance(raised := task.exception(), Exception):
            self._failure = self._failure or raised

    async def aclose(self) -> None:
        """End every drive of this loop where it stands. A turn under way is not committed; its rows wait for the next
        owner. A drive in another loop ends after its attempt. Raises, once, what a strict driver has kept."""
        self._is_closed = True
        tasks = list(self._here().tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def settled(self) -> None:
        """Return once nothing is driven any more in this loop."""
        here = self._here()
        while here.tasks:
            await asyncio.wait(list(here.tasks))

    @contextlib.asynccontextmanager
    async def paused(self, session_id: str) -> AsyncIterator[None]:
        """Keep the driver out of a session: the pass under way ends first, none begins inside the block."""
        here = self._here()
        here.paused[session_id] += 1
        try:
            while (running := here.passes.get(session_id)) is not None:
                await running.wait()
            yield
        finally:
            here.paused[session_id] -= 1
            if not here.paused[session_id]:
                del here.paused[session_id]
            async with here.resumed:
                here.resumed.notify_all()

    async def _drive(self, session_id: str, wake: _Wake) -> None:
        here = self._here()
        try:
            while True:
                await self._until_idle(session_id, wake)
                if not wake.again:
                    return
                wake.reasons, wake.again = wake.again, {}
        finally:
            # Nothing is awaited since the last look at `again`: no signal falls between the two.
            del here.wakes[session_id]

    async def _until_idle(self, session_id: str, wake: _Wake) -> None:
        """Attempt until the queue is idle, the errors are exhausted or one is terminal, or the driver is closed."""
        errors = busy = empty = 0
        warned_at = self._clock.monotonic()
        # A pass that is cancelled may fail as it cleans up, and then the cancellation that closes us is not heard of.
        while not self._is_closed:
            wake.signal.clear()
            wake.freed.clear()
            wake.has_progressed = False
            try:
                found = await self._attempt(session_id, wake)
            except LashError as error:
                errors = 1 if wake.has_progressed else errors + 1
                if not is_passing(error):
                    self._tell_terminal(session_id, wake, error)
                    if self._is_strict and not isinstance(error, NotFoundError | SessionClosed):
                        raise
                    return
                if errors >= MAX_ATTEMPTS:
                    _log.warning("wake_exhausted %s (%s): %s", session_id, wake.reason, error)
                    return
                await self._rest(wake.freed, backoff_s(errors))
                continue
            except Exception:
                # A fault of one session must not end the others, and is told.
                _log.exception("wake_terminal %s (%s)", session_id, wake.reason)
                if self._is_strict:
                    raise
                return
            match found:
                case _Found.PROGRESS:
                    errors = busy = empty = 0
                case _Found.CONTENDED:
                    busy += 1
                    if self._clock.monotonic() - warned_at >= WARN_EVERY_S:
                        _log.warning("wake_contended %s (%s): the lane stays busy", session_id, wake.reason)
                        warned_at = self._clock.monotonic()
                    await self._rest(wake.freed, backoff_s(busy))
                case _Found.EMPTY:
                    # The look is conservative: after one more it is believed no longer.
                    empty += 1
                    if empty > 1:
                        return
                case _Found.NOTHING:
                    if wake.available_at_ms is None:
                        return
                    left_s = (wake.available_at_ms - self._clock.now_ms()) / 1000
                    if left_s > 0:
                        await self._rest(wake.signal, min(left_s, LONGEST_WAIT_S))

    def _tell_terminal(self, session_id: str, wake: _Wake, error: LashError) -> None:
        if isinstance(error, NotFoundError | SessionClosed):
            _log.debug("session %s is gone: %s", session_id, error)
        else:
            _log.warning("wake_terminal %s (%s): %s", session_id, wake.reason, error)

    async def _attempt(self, session_id: str, wake: _Wake) -> _Found:
        """Look; when something is due, open the session and drain until a pass is empty. A session that is paused is
        looked at after that."""
        here = self._here()
        async with here.resumed:
            await here.resumed.wait_for(lambda: not here.paused[session_id])
        demand = await self._store.demand(session_id)
        wake.available_at_ms = None if demand.is_held or demand.is_closed else demand.available_at_ms
        match standing_of(demand, self._clock.now_ms()):
            case Standing.NOTHING:
                return _Found.NOTHING
            case Standing.CONTENDED:
                return _Found.CONTENDED
        async with here.slots, self._told_when_slow(session_id, wake), self._open(session_id) as session:
            return await self._drain(session_id, session, wake)

    async def _drain(self, session_id: str, session: Drainable, wake: _Wake) -> _Found:
        slots = self._here().slots
        for number in itertools.count(1):
            idle = await self._pass(session_id, session)
            if idle in ("lane_busy", _PAUSED) and not wake.has_progressed:
                return _Found.CONTENDED
            if idle is None or idle == "commands_only":
                wake.has_progressed = True
            if idle is not None:
                return _Found.PROGRESS if wake.has_progressed else _Found.EMPTY
            if number >= PASSES_IN_A_ROW and slots.locked():
                break  # somebody may wait for our slot
        return _Found.PROGRESS

    async def _pass(self, session_id: str, session: Drainable) -> str | None:
        """One pass; why it ran no turn, None when it ran one. None begins in a session that is paused: whoever waits
        for the end of that has no slot meanwhile."""
        here = self._here()
        if here.paused[session_id]:
            return _PAUSED
        here.passes[session_id] = ended = asyncio.Event()
        try:
            output = await session.drain_once(unseen)
        finally:
            del here.passes[session_id]
            ended.set()
        return output.idle

    @contextlib.asynccontextmanager
    async def _told_when_slow(self, session_id: str, wake: _Wake) -> AsyncIterator[None]:
        """Warn, again and again, while one attempt does not end."""

        async def tell() -> None:
            while True:
                await self._clock.sleep(WARN_EVERY_S)
                _log.warning("wake_slow %s (%s): the drain has not ended yet", session_id, wake.reason)

        watcher = asyncio.ensure_future(tell())
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _rest(self, until: asyncio.Event, seconds: float) -> None:
        """Sleep, at most until `until` is set."""
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        signal = asyncio.ensure_future(until.wait())
        try:
            await asyncio.wait({sleep, signal}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            signal.cancel()
            await asyncio.gather(sleep, signal, return_exceptions=True)
