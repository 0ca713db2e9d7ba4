"""The event loop, and the manners, of commands that watch: `tail`, `log --follow`, `ls --watch` (decision 0014).

They wake for single events, many of them at once on few cores, and most of what
a wake-up costs is the loop itself; uvloop's costs a third of asyncio's less.
Every other command runs on asyncio's loop, which it has anyway: loading another
takes 4 ms. The rule is that of the dependency in pyproject.toml, so uvloop is
there wherever this asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Final

# uvloop is made for CPython, on systems that are not Windows.
_HAS_UVLOOP: Final = sys.platform != "win32" and sys.implementation.name == "cpython"
# More than a loop of uvloop opens for itself.
_LOOP_DESCRIPTORS: Final = 10


def new_watching_loop() -> asyncio.AbstractEventLoop:
    """A loop for a process that watches; hand it to `run_async` or `asyncio.Runner`. Raises the `OSError` of a process
    that may not open enough files for it."""
    if _HAS_UVLOOP:
        from lash_cli.cli.uv_watching import WatchingLoop

        _require_descriptors(_LOOP_DESCRIPTORS)
        return WatchingLoop()
    return asyncio.new_event_loop()


def _require_descriptors(count: int) -> None:
    """Find out whether there are so many before libuv does, which aborts the process without them."""
    taken: list[int] = []
    try:
        for _ in range(count):
            taken.append(os.dup(sys.stderr.fileno()))
    finally:
        for descriptor in taken:
            os.close(descriptor)


def let_workers_go_first() -> None:
    """Have this process, which only watches, never push another one off its processor by waking up (Linux).

    A writer then rings for all of its observers before the first of them on its own processor begins, and a turn is not
    held up by those who watch it. On a processor that has nothing to do they wake as soon as ever. Call it before any
    thread is started.
    """
    if sys.platform == "linux":
        # A sandbox may forbid it, and then it is as everywhere else.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
