"""Waiting for code that is not ours: as long as its turn wants it, and not much longer (contract 05 §3.4, §3.5).

A tool that is cancelled has a grace; one that goes on all the same is cut off.
It may run to its end, but what it answers, raises or shows reaches nobody.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeVar

from lash_cli.alarms import alarm_after
from lash_cli.core.tools import (
    FailureClass,
    IdempotentRetry,
    RetryHint,
    ToolCallOutput,
    ToolManifest,
    cancelled,
    failure,
)
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.runtime.lane import lane_lost

_log = logging.getLogger("lash.dispatch")

# How long a call may take to return once its turn is cancelled, and once more when it is cancelled itself (contract 05
# §3.4).
CANCEL_GRACE_S = 0.05
# How long the end of a call that took too long, or whose turn is left, is waited for: what a shell needs to kill a
# command that does not stop when it is told to.
ABANDON_AFTER_S = 0.75

# Calls that outlive their attempts. The event loop knows its tasks only weakly, and one that is cleaning up must not be
# collected on the way; what it comes to is nobody's any more.
_stragglers: set[asyncio.Task[Any]] = set()

T = TypeVar("T")


async def within_limits(
    task: asyncio.Task[T], manifest: ToolManifest, cancel: CancelToken, session_id: str
) -> T | ToolCallOutput:
    """What `task` answers for a call of the tool, unless the turn is cancelled or the time of the tool is up before;
    the task does not outlive that by more than its grace.

    Raises what the task raises, and `SessionExecutionLeaseExpired` when `cancel` says that the lane was lost.
    """
    limit_ms = manifest.timeout_ms
    try:
        await until_over(task, cancel, limit_ms)
        if task.done():
            return task.result()
        if cancel.is_set:
            await asyncio.wait({task}, timeout=CANCEL_GRACE_S)
            if cancel.cause is CancelCause.LEASE_LOST:
                raise lane_lost(session_id)
            return task.result() if task.done() else cancelled()
        text = f"{manifest.name} did not finish within {limit_ms} ms."
        # What it had done by then is unknown, so only a tool that may be run again after an effect is (§3.5).
        retry = RetryHint("safe") if isinstance(manifest.retry_policy, IdempotentRetry) else None
        return failure(FailureClass.TIMEOUT, "tool_timeout", text, source="runtime", retry=retry)
    except asyncio.CancelledError as interruption:
        # What ended the program has left through the event loop, which then cancels who waited for it.
        if task.done() and not task.cancelled() and (raised := task.exception()) is not None:
            raise interruption from raised
        raise
    finally:
        await _end(task, f"tool {manifest.name}", CANCEL_GRACE_S if cancel.is_set else ABANDON_AFTER_S)


class CutOff(Exception):
    """The turn was cancelled before foreign code had answered; what it would have said is not known."""


async def within_turn(task: asyncio.Task[T], what: str, cancel: CancelToken, session_id: str) -> T:
    """What `task` answers, unless the turn is over before: then it has its grace, as a tool has.

    Raises what the task raises, `CutOff` when it had not answered by then, and
    `SessionExecutionLeaseExpired` when `cancel` says that the lane was lost.
    """
    try:
        await until_over(task, cancel)
        if not task.done():
            await asyncio.wait({task}, timeout=CANCEL_GRACE_S)
            if cancel.cause is CancelCause.LEASE_LOST:
                raise lane_lost(session_id)
            if not task.done():
                raise CutOff
        return task.result()
    finally:
        await _end(task, what, CANCEL_GRACE_S if cancel.is_set else ABANDON_AFTER_S)


async def until_over(task: asyncio.Task[Any], cancel: CancelToken, limit_ms: int | None = None) -> None:
    """Return when the task is done, the turn is cancelled, or the time is up."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    task.add_done_callback(end)
    alarm = None if limit_ms is None else alarm_after(limit_ms / 1000, end)
    try:
        with cancel.telling(end):
            await over
    finally:
        task.remove_done_callback(end)
        if alarm is not None:
            alarm.cancel()


async def _end(task: asyncio.Task[Any], what: str, wait_s: float) -> None:
    """Cancel the task with what it is for, and cut it off when it does not end within `wait_s`."""
    if task.done():
        return
    task.cancel()
    _stragglers.add(task)
    task.add_done_callback(_stragglers.discard)
    _, left = await asyncio.wait({task}, timeout=wait_s)
    if left:
        _log.warning("%s goes on although it was cancelled; its result is lost", what)
