"""Waiting for code that is not ours: as long as its turn wants it, and not much longer (contract 05 §3.4, §3.5).

A tool that is cancelled has a grace; one that goes on all the same is cut off.
It may run to its end, but what it answers, raises or shows reaches nobody. So
where a cancellation does reach somebody, the code has cancelled itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeVar

from lash_cli.alarms import alarm_after
from lash_cli.core.lease import lane_lost
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
from lash_cli.stragglers import end

_log = logging.getLogger("lash.dispatch")

# How long a call may take to return once its turn is cancelled, and once more when it is cancelled itself (contract 05
# §3.4).
CANCEL_GRACE_S = 0.05
# How long the end of a call that took too long, or whose turn is left, is waited for: what a shell needs to kill a
# command that does not stop when it is told to.
ABANDON_AFTER_S = 0.75

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
    finally:
        await end(task, CANCEL_GRACE_S if cancel.is_set else ABANDON_AFTER_S, _log, f"tool {manifest.name}")


class CutOff(Exception):
    """The turn was cancelled before foreign code had answered; what it would have said is not known."""


async def within_turn(
    task: asyncio.Task[T], what: str, cancel: CancelToken, session_id: str, *, grace_s: float = CANCEL_GRACE_S
) -> T:
    """What `task` answers, unless the turn is over before: then it has its grace, as a tool has, and is cancelled.

    Raises what the task raises, `CutOff` when it had not answered by then, and
    `SessionExecutionLeaseExpired` when `cancel` says that the lane was lost.
    """
    try:
        await until_over(task, cancel)
        if not task.done():
            await asyncio.wait({task}, timeout=grace_s)
            if cancel.cause is CancelCause.LEASE_LOST:
                raise lane_lost(session_id)
            if not task.done():
                raise CutOff
        return task.result()
    finally:
        await end(task, grace_s if cancel.is_set else ABANDON_AFTER_S, _log, what)


async def until_over(task: asyncio.Task[Any], cancel: CancelToken, limit_ms: int | None = None) -> None:
    """Return when the task is done, the turn is cancelled, or the time is up."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    task.add_done_callback(stop)
    alarm = None if limit_ms is None else alarm_after(limit_ms / 1000, stop)
    try:
        with cancel.telling(stop):
            await over
    finally:
        task.remove_done_callback(stop)
        if alarm is not None:
            alarm.cancel()
