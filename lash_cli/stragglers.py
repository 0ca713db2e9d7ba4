"""Ending tasks whose code is not ours, which may take no notice of a cancel (contract 05 §3.4).

A task that does not end in its time goes on by itself: what it comes to is nobody's any more, and somebody is told.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

# The event loop knows its tasks only weakly, and one that is cleaning up must not be collected on the way.
_stragglers: set[asyncio.Task[Any]] = set()


async def end(task: asyncio.Task[Any], wait_s: float, log: logging.Logger, what: str) -> None:
    """Cancel `task` and wait until it has ended, or `wait_s` seconds: then `log` is told that `what` goes on."""
    if task.done():
        _forget(task)  # what ends the program has left through the event loop, which then cancels who waited for it
        return
    if task.get_loop().is_closed():
        return  # nothing of it goes on, and who waited for it is being collected
    task.cancel()
    _stragglers.add(task)
    task.add_done_callback(_forget)
    _, left = await asyncio.wait({task}, timeout=wait_s)
    if left:
        log.warning("%s goes on although it was cancelled; its result is lost", what)


def _forget(task: asyncio.Task[Any]) -> None:
    _stragglers.discard(task)
    if not task.cancelled():
        task.exception()  # asked for, so that nobody says it was not
