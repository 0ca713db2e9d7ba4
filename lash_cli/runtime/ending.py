"""Ending a task one started, so that no cancellation is lost on the way: neither the task's nor that of who ends it.

`await task` with its `CancelledError` suppressed does lose one: that of the
caller looks the same. What must not be cut in two, such as a commit and what
memory learns of it, is seen through in a task of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from lash_cli.errors import LashError

T = TypeVar("T")


async def outlast(task: asyncio.Task[Any]) -> asyncio.CancelledError | None:
    """Wait until `task` is over, however often the caller is cancelled meanwhile; that is to be raised then."""
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            interruption = error
    return interruption


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and wait until it is over, however long it takes to clean up. Raises what it failed with.

    When the caller is cancelled meanwhile, that is raised once the task is over, which is not cancelled again for it.
    """
    task.cancel()
    interruption = await outlast(task)
    failure = None if task.cancelled() else task.exception()
    if interruption is not None:
        raise interruption from failure
    if failure is not None:
        raise failure


async def seen_through(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end, however often the caller is cancelled meanwhile; that is raised then, from what `work`
    raised. Without an event loop, where nobody can cancel, `work` is awaited as it is."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return await work
    task = loop.create_task(work)
    interruption = await outlast(task)
    if interruption is not None:
        raise interruption from None if task.cancelled() else task.exception()
    return task.result()


async def tidied(work: Coroutine[Any, Any, object], *, within_s: float) -> None:
    """What a cancelled task does for others before it goes: `work`, however often the task is cancelled meanwhile, for
    at most `within_s` seconds. A `LashError` of it is nobody's any more; who is cancelled is told of it as by
    `seen_through`."""

    async def tidy() -> None:
        with contextlib.suppress(LashError, TimeoutError):
            async with asyncio.timeout(within_s):
                await work

    try:
        await seen_through(tidy())
    finally:
        work.close()  # never begun where everything is cancelled, as an event loop does that is shut down
