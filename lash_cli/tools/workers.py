"""Scripts that do in a process of their own what cannot be stopped in ours (contract 05 §6)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lash_cli.core.protocols import CancelSignal
from lash_cli.tools.process_group import ProcessGroups

# Takes no more memory than that, or less where no more is allowed; macOS has no such bound, and the time is one.
_BOUNDED = 'ulimit -v "$1" 2>/dev/null; shift; exec "$@"'


async def run_worker(
    groups: ProcessGroups,
    script: Path,
    arguments: Sequence[str],
    stdin: bytes,
    cancel: CancelSignal,
    seconds: float,
    *,
    memory_bytes: int,
    options: Sequence[str] = (),
) -> bytes | None:
    """Run a script of ours to its end in so much time and memory: what it printed, None when cancelled.

    `options` are further ones of Python. Raises `TimeoutError` when the time was over, `ToolFault` when it cannot be
    started.
    """
    import resource  # the system has it, and few turns need it

    received = bytearray()
    # The command below would raise a limit that the user put on us.
    held, _ = resource.getrlimit(resource.RLIMIT_AS)
    allowed_bytes = memory_bytes if held == resource.RLIM_INFINITY else min(memory_bytes, held)
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    if (libraries := os.environ.get("LD_LIBRARY_PATH")) is not None:
        environment["LD_LIBRARY_PATH"] = libraries  # without it a Python that environment modules bring does not start
    process = await groups.start(
        # What Python warns of is no part of the answer.
        (
            *("/bin/sh", "-c", _BOUNDED, "lash-worker", str(allowed_bytes // 1024)),
            *(sys.executable, "-I", "-W", "ignore", *options, str(script), *arguments),
        ),
        sink=received.extend,
        environment=environment,
        directory=Path("/"),
        stdin=stdin,
    )
    try:
        ending = await process.first_of(cancel, seconds)
        if ending == "cancelled":
            return None
        if ending == "timed_out":
            raise TimeoutError(f"{script.name} took longer than {seconds} s")
        await process.finish()
    finally:
        process.kill()
    return bytes(received)
