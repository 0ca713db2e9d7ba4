"""The foreground worker: drains one, several or all sessions until it is told to stop (contract 08 §5.2, 02 §6.3).

Any number of workers in any number of processes may run: the lane admits one
per session, and truth is in the rows. The worker looks only when the store
changed, when a moment it waits for has come, or when the holder of a lane has
died; otherwise it costs one cheap read every 50 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from inspect import isawaitable
from typing import Any

from lash_cli.core.activity import TurnActivity
from lash_cli.core.codec import described
from lash_cli.core.outcome import Stopped, TurnResult
from lash_cli.core.protocols import Clock
from lash_cli.errors import (
    ConfigError,
    LashError,
    LashRuntimeError,
    NotFoundError,
    SessionClosed,
    TooManyOpenFiles,
    UsageError,
)
from lash_cli.runtime.demand import PASSES_IN_A_ROW, Drainable, SessionOpener, is_passing
from lash_cli.runtime.requests import TurnOutput
from lash_cli.runtime.work_events import (
    ActivityShown,
    CommandsApplied,
    HeldAfterFailure,
    LaneGivenUp,
    OnWorkEvent,
    PassFailed,
    SessionLeft,
    SessionTaken,
    StoppedBy,
    TurnEnded,
    WorkEvent,
    WorkOptions,
    WorkReport,
)
from lash_cli.runtime.work_search import ASIDE_S, Look, WorkSearch
from lash_cli.store.base import RuntimePersistence

_log = logging.getLogger("lash.worker")

POLL_S = 0.05
CANCEL_ORIGIN = "worker"
CANCEL_REASON = "the worker was stopped"
HOLD_PREFIX = "turn_failed:"


class QueueWorker:
    """Drains queues once, from `run` to its report; made by `LashCore.worker` (contract 02 §6.3, 08 §5.2). `stop` and
    `abandon` may be called from any thread, and from a signal handler."""

    def __init__(
        self,
        store: RuntimePersistence,
        clock: Clock,
        opener: SessionOpener,
        options: WorkOptions | None = None,
        *,
        on_event: OnWorkEvent | None = None,
        is_strict: bool = False,
    ) -> None:
        """`opener` opens a session where it belongs, under its stored policy and an owner of its own. `on_event` is
        told in the order things happen, and awaited if it can be; what it raises, and with `is_strict` what else is
        raised and will not pass, ends the worker, after the turns that run, and comes out of `run`."""
        self._store = store
        self._clock = clock
        self._open = opener
        self._options = options or WorkOptions()
        self._on_event = on_event
        self._is_strict = is_strict
        self._search = WorkSearch(store, clock, self._options, ())
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._draining: dict[str, Drainable] = {}
        self._bell = asyncio.Event()
        self._running_in: asyncio.AbstractEventLoop | None = None
        self._idle_since = 0.0
        self._is_stopping = False
        self._grace_ends_at: float | None = None
        self._is_abandoned = False
        self._failure: BaseException | None = None
        self._turns = self._failed = self._errors = self._passes_under_way = 0
        self._worked: dict[str, None] = {}
        self._held: dict[str, None] = {}

    def stop(self, grace_s: float) -> None:
        """Claim nothing new and let running turns finish; those that have not after `grace_s` are cancelled, and
        committed as cancelled."""
        self._is_stopping = True
        ends_at = self._clock.monotonic() + max(0.0, grace_s)
        self._grace_ends_at = ends_at if self._grace_ends_at is None else min(self._grace_ends_at, ends_at)
        self._wake()

    def abandon(self) -> None:
        """End at once. Running turns are not committed: whoever takes their lanes finishes them."""
        self._is_abandoned = True
        self._wake()

    def _wake(self) -> None:
        """Have `run` look at what it was told. Its loop may be asleep while a signal handler of its own thread runs."""
        if self._running_in is None:
            return  # it looks before it waits
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._running_in.call_soon_threadsafe(self._bell.set)

    async def run(self, session_ids: Sequence[str] = ()) -> WorkReport:
        """Work on the named sessions, or on all, until the options or `stop` end it.

        Raises, before anything is claimed, `NotFoundError`, `SessionDeleted`,
        `SessionClosed` or `QueueHeld` for a named session that cannot be worked
        on; `ConfigError` when a named session cannot be run here; and
        `SessionDeleted` once every named session was deleted.
        """
        if isinstance(session_ids, str):
            raise UsageError("a worker is given a list of session ids, not one of them")
        self._running_in = asyncio.get_running_loop()
        self._search = WorkSearch(self._store, self._clock, self._options, tuple(dict.fromkeys(session_ids)))
        await self._search.admit()
        try:
            stopped_by = await self._loop()
        finally:
            await self._end_all()
        if self._failure is not None:
            raise self._failure
        return WorkReport(self._turns, self._failed, self._errors, tuple(self._worked), tuple(self._held), stopped_by)

    async def _loop(self) -> StoppedBy:
        self._idle_since = self._clock.monotonic()
        while True:
            self._bell.clear()
            if self._is_abandoned:
                return "abandoned"
            if self._is_stopping:
                if not self._tasks:
                    return "stopped"
                await self._finish_within_grace()
                continue
            if self._is_at_limit or len(self._tasks) >= max(1, self._options.concurrency):
                if not self._tasks:
                    return "max_turns"
                await self._bell.wait()
                continue
            if self._start():
                continue
            mark = await self._store.change_mark()
            look = await self._search.look(self._tasks.keys())
            for session_id in look.given_up:
                await self._tell(LaneGivenUp(session_id))
            self._start()
            ended = self._end_of_idle(look)
            if ended is not None:
                return ended
            if look.gone and len(look.gone) == len(self._search.named) and not self._tasks:
                raise look.gone[0]  # their ids are never used again
            await self._wait(mark, look)

    @property
    def _is_at_limit(self) -> bool:
        most = self._options.max_turns
        return most is not None and self._turns + self._passes_under_way >= most

    def _start(self) -> bool:
        """Begin to drain what was found due, as much as there are slots; whether there was any. Nothing is begun by a
        worker that was stopped while it looked."""
        if self._is_stopping:
            return False
        session_ids = self._search.take(max(1, self._options.concurrency) - len(self._tasks))
        for session_id in session_ids:
            task = asyncio.get_running_loop().create_task(self._work(session_id))
            self._tasks[session_id] = task
            task.add_done_callback(partial(self._ended, session_id))
        return bool(session_ids)

    def _ended(self, session_id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[session_id]
        self._idle_since = self._clock.monotonic()
        try:
            error = task.exception()
        except asyncio.CancelledError as cancelled:
            # By nobody here: whoever is told of the work, or does it, cancelled itself.
            error = None if task.cancelling() else cancelled
        if error is not None:
            self._fail(error)
        self._bell.set()

    def _fail(self, error: BaseException) -> None:
        """End the whole worker with `error`, after the turns that run."""
        self._failure = self._failure or error
        self._is_stopping = True
        self._bell.set()

    def _end_of_idle(self, look: Look) -> StoppedBy | None:
        """Why the worker ends after this look; None when it goes on."""
        options = self._options
        if self._tasks or self._is_stopping:
            return None
        if (options.once or options.until_empty) and not look.is_worth_waiting:
            return "once" if options.once else "empty"
        return "idle" if self._has_idled_enough else None

    @property
    def _has_idled_enough(self) -> bool:
        most_ms = self._options.idle_exit_ms
        if most_ms is None or self._tasks:
            return False
        return (self._clock.monotonic() - self._idle_since) * 1000 >= most_ms

    async def _wait(self, mark: int, look: Look) -> None:
        """Return when a session ended, somebody spoke, or another look may find something else."""
        ringing = asyncio.ensure_future(self._bell.wait())
        try:
            while not ringing.done():
                await self._sleep(POLL_S, ringing)
                if look.is_out_of_date(self._clock) or await self._store.change_mark() != mark:
                    return
                if self._has_idled_enough:
                    return
        finally:
            ringing.cancel()

    async def _sleep(self, seconds: float, ringing: asyncio.Future[Any]) -> None:
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            waits: set[asyncio.Future[Any]] = {sleep, ringing}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()

    async def _finish_within_grace(self) -> None:
        ringing = asyncio.ensure_future(self._bell.wait())
        try:
            if self._grace_ends_at is None:
                await ringing
                return
            left_s = self._grace_ends_at - self._clock.monotonic()
            if left_s > 0:
                await self._sleep(left_s, ringing)
                return
            for session in self._draining.values():
                session.cancel_running_turns(origin=CANCEL_ORIGIN, reason=CANCEL_REASON)
            await ringing
        finally:
            ringing.cancel()

    async def _end_all(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, session_id: str) -> None:
        """Drain one session until it is idle, fails, or has had its share."""
        loop = asyncio.get_running_loop()
        try:
            async with self._open(session_id) as session:
                self._draining[session_id] = session
                try:
                    await self._tell(SessionTaken(session_id))
                    await self._drain(session_id, session)
                finally:
                    del self._draining[session_id]
                await self._tell(SessionLeft(session_id))
        except Exception as error:
            if loop.is_closed():
                raise  # what is collected without its loop ends as it may, which says nothing of its session
            if isinstance(error, LashError):
                await self._pass_failed(session_id, error)
                return
            if self._is_strict:
                raise
            # A fault of one session must not end the others, and is told.
            _log.exception("draining session %s failed", session_id)
            internal = LashRuntimeError("internal", described(error))
            await self._pass_failed(session_id, TooManyOpenFiles.behind(error) or internal)

    async def _drain(self, session_id: str, session: Drainable) -> None:
        async def show(activity: TurnActivity) -> None:
            await self._tell(ActivityShown(session_id, activity))

        for number in range(PASSES_IN_A_ROW):
            if self._is_stopping or self._is_at_limit:
                return
            self._passes_under_way += 1
            try:
                output = await session.drain_once(show)
                self._turns += len(output.turns) - len(output.frames)
            finally:
                self._passes_under_way -= 1
            if not output.turns and not output.commands:
                if number == 0 or output.idle == "lane_busy":  # else it is the end of the queue
                    self._search.was_overtaken(session_id)
                return
            self._search.progressed(session_id)
            self._worked[session_id] = None
            if not await self._account(session_id, output) or output.idle is not None or self._options.once:
                return
        self._search.had_its_share(session_id)

    async def _account(self, session_id: str, output: TurnOutput) -> bool:
        """Tell what a pass did; False when its session is not to be drained on."""
        if output.commands:
            await self._tell(CommandsApplied(session_id, output.commands))
        reason: str | None = None
        for result in output.turns:
            failure = _failure_of(result)
            self._failed += failure is not None
            reason = reason or failure
            await self._tell(TurnEnded(session_id, result, failure is not None))
        if reason is None or self._options.on_failure == "continue":
            return True
        await self._hold(session_id, reason)
        return False

    async def _pass_failed(self, session_id: str, error: LashError) -> None:
        """A pass ended without a commit: try again, or leave the session to a person."""
        if isinstance(error, NotFoundError | SessionClosed):
            # A closed one is left alone until it is opened again, which may be in the next moment.
            self._search.set_aside(session_id, rest_s=0.0 if isinstance(error, SessionClosed) else ASIDE_S)
            await self._tell(PassFailed(session_id, error))
            return
        if isinstance(error, ConfigError) and self._search.named:
            self._fail(error)
            return
        rest_ms = self._search.postpone(session_id) if is_passing(error) else None
        if rest_ms is not None:
            await self._tell(PassFailed(session_id, error, rest_ms))
            return
        if self._is_strict:
            raise error
        self._errors += 1
        await self._tell(PassFailed(session_id, error))
        # What is the matter with this worker, or with the store, says nothing about the session.
        is_of_the_session = not is_passing(error) and not isinstance(error, ConfigError)
        if is_of_the_session and self._options.on_failure == "pause":
            self._search.set_aside(session_id, rest_s=0.0)  # once the hold is lifted nobody waits for us
            await self._hold(session_id, error.code)
        else:
            self._search.set_aside(session_id)

    async def _hold(self, session_id: str, reason: str) -> None:
        """Take nothing more from a session's queue, for whatever worker, until a person releases it."""
        text = HOLD_PREFIX + reason
        try:
            await self._store.set_queue_hold(session_id, held_at_ms=self._clock.now_ms(), reason=text)
        except LashError as error:
            self._search.set_aside(session_id)
            await self._tell(PassFailed(session_id, error))
            return
        self._held[session_id] = None
        await self._tell(HeldAfterFailure(session_id, text))

    async def _tell(self, event: WorkEvent) -> None:
        if self._on_event is None:
            return
        try:
            told = self._on_event(event)
            if isawaitable(told):
                await told
        except Exception as error:
            self._fail(error)
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # what it made of that: the worker ends now
                raise asyncio.CancelledError from error


def _failure_of(result: TurnResult) -> str | None:
    """Why a turn counts as failed; a cancelled one does not."""
    match result.outcome:
        case Stopped(reason=reason) if result.cancellation is None:
            return reason
    return None
