"""Runs `lash` and kills it with SIGKILL at a named point of a turn.

    python tests/support/crashing.py POINT[#N] ARGS...

POINT is one of the names the runtime reaches (`before:lane`, `after:commit`,
`after:tool_started`, …), `#N` its N-th occurrence. With `stop:` before the
name the process is stopped (SIGSTOP) instead of killed, once everything it has
handed to its store is committed: a process that stands still inside a
transaction keeps everybody else out of the file. A warm command is given to it
by `spawn_lash(…, first=begin("crashing", POINT))`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import lash_cli.api.core


def begin(wanted: str) -> None:
    """Have this process come to its end, or stand still, where `wanted` says."""
    deadly = signal.SIGKILL
    if wanted.startswith("stop:"):
        deadly = signal.SIGSTOP
        wanted = wanted.removeprefix("stop:")
    name, _, occurrence = wanted.partition("#")
    left = int(occurrence or 1)
    cores: list[lash_cli.api.core.LashCore] = []

    def leave_the_store_free() -> None:
        """Return when the thread that writes has nothing left to do; this one gives it nothing more."""
        for core in cores:
            core.store.finish_writes()

    def reach(point: str) -> None:
        nonlocal left
        if point != name:
            return
        left -= 1
        if left == 0:
            if deadly == signal.SIGSTOP:
                leave_the_store_free()
            os.kill(os.getpid(), deadly)

    original = lash_cli.api.core.LashCore.__init__

    def with_crash_point(self: lash_cli.api.core.LashCore, **options: Any) -> None:
        original(self, **{**options, "crash_point": reach})
        cores.append(self)

    lash_cli.api.core.LashCore.__init__ = with_crash_point  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    from lash_cli.__main__ import main

    begin(sys.argv[1])
    sys.argv = ["lash", *sys.argv[2:]]
    sys.exit(main())
