"""Opening and resuming a session, by transcript length, in this process and in a new one.

    python tests/bench/open_resume.py

Prints the time from `open_session` until a turn could start, and the wall time
of a new process that opens the session and runs one turn, against a bare
interpreter. The new process finds compiled modules, as an installed one does.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import LENGTHS, clock, emit
from turn import new_core, seed

_CHILD = """
import asyncio, sys
sys.path.insert(0, {bench!r})
from pathlib import Path
from turn import new_core
async def main():
    core, _ = new_core(Path({directory!r}))
    session = await core.open_session("s")
    await session.turn("hello").run()
    await session.close()
    await core.aclose()
asyncio.run(main())
"""


async def in_process(directory: Path) -> float:
    core, _ = new_core(directory)
    samples = []
    for _ in range(15):
        started = clock()
        session = await core.open_session("s")
        samples.append(clock() - started)
        await session.close()
    await core.aclose()
    return statistics.median(samples) * 1e3


def wall_ms(command: list[str]) -> float:
    """Best of five runs of a whole process, after one that compiles what it imports."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    samples = []
    for _ in range(6):
        started = clock()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        samples.append(clock() - started)
    return min(samples[1:]) * 1e3


async def main() -> None:
    bare = wall_ms([sys.executable, "-I", "-c", "pass"])
    for length in LENGTHS:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            core, store = new_core(directory)
            await seed(store, core, "s", length)
            await core.aclose()
            emit("open_ms", await in_process(directory), "ms", length=length)
            child = _CHILD.format(bench=str(Path(__file__).parent), directory=name)
            resumed = wall_ms([sys.executable, "-c", child])
            emit("resume_new_process_ms", resumed, "ms", length=length)
            emit("resume_to_bare_interpreter", resumed / bare, "ratio", length=length)


if __name__ == "__main__":
    asyncio.run(main())
