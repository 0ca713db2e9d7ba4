"""Opening and resuming a session, by transcript length, in this process and in a new one.

    python tests/bench/open_resume.py

Prints the time from `open_session` until a turn could start, the wall and the
processor time of a new process that opens the session and runs one turn, what
of it is reading, and the same for a bare interpreter, for one that runs an
event loop, and for reading the stored rows by hand. The new process finds
compiled modules, as an installed one does.
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

ROUNDS = 6

# Both print how long the reading took, in milliseconds of processor time. The program is what one that embeds lash
# has to be: the tools of the benchmarks would be imported at its cost.
_OPENED = """
import asyncio, sys, time
from lash_cli.api import LashCore, SqliteStore
from lash_cli.core.content import ProsePart
from lash_cli.core.llm import AttemptRecord, LlmCallRecord, LlmCallResult, LlmResponse
from lash_cli.core.policy import ModelSpec
from lash_cli.core.usage import TokenUsage

class Instant:
    provider_id = "instant"

    async def call(self, request, *, sink, cancel):
        attempt = AttemptRecord(1, 0, 0, "completed", "terminal_observed")
        response = LlmResponse((ProsePart("a" * 800),), TokenUsage(100, 200))
        return LlmCallResult(LlmCallRecord(request.scope.request_id, (attempt,)), response=response)

    async def aclose(self):
        pass

async def main():
    store = SqliteStore.open({directory!r} + "/lash.db")
    core = LashCore(provider=Instant(), model=ModelSpec("instant-1"), store=store)
    before = time.process_time()
    session = await core.open_session("s")
    assert len(session.read_view().messages) >= {length}
    print((time.process_time() - before) * 1e3)
    await session.turn("hello").run()
    await session.close()
    await core.aclose()

asyncio.run(main())
"""
_ROWS = """
import sqlite3, time
connection = sqlite3.connect({directory!r} + "/lash.db")
before = time.process_time()
statement = "SELECT seq, body FROM nodes WHERE place BETWEEN 1 << 40 AND (2 << 40) - 1 ORDER BY place"
rows = connection.execute(statement).fetchall()
print((time.process_time() - before) * 1e3)
"""
_LOOP = """
import asyncio
async def main(): pass
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


class Runs:
    """The best of several runs of a program in a new process, in milliseconds."""

    def __init__(self, *command: str) -> None:
        self._command = [sys.executable, *command]
        self.wall = self.processor = self.reading = float("inf")

    def run(self) -> None:
        """Run it once more."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        started = clock()
        with subprocess.Popen(self._command, stdout=subprocess.PIPE, env=environment, text=True) as child:
            assert child.stdout is not None
            said = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        self.wall = min(self.wall, (clock() - started) * 1e3)
        self.processor = min(self.processor, (usage.ru_utime + usage.ru_stime) * 1e3)
        if said:
            self.reading = min(self.reading, float(said))


async def main() -> None:
    bare, loop = Runs("-I", "-c", "pass"), Runs("-I", "-c", _LOOP)
    with tempfile.TemporaryDirectory() as name:
        programs: dict[int, tuple[str, str]] = {}
        for length in LENGTHS:
            directory = Path(name) / str(length)
            directory.mkdir()
            core, store = new_core(directory)
            await seed(store, core, "s", length)
            await core.aclose()
            emit("open_ms", await in_process(directory), "ms", length=length)
            places = {"directory": str(directory), "length": length}
            programs[length] = (_OPENED.format(**places), _ROWS.format(**places))
            Runs("-c", programs[length][0]).run()  # compiles what it imports
        # The lengths take turns: a machine that was busy with filling a store is slower for a while.
        measured = {length: tuple(Runs("-c", program) for program in pair) for length, pair in programs.items()}
        for _ in range(ROUNDS):
            for runs in (bare, loop, *(each for pair in measured.values() for each in pair)):
                runs.run()
    for length, (opened, rows) in measured.items():
        emit("resume_new_process_ms", opened.wall, "ms", length=length)
        emit("resume_processor_ms", opened.processor, "ms", length=length)
        emit("resume_reading_processor_ms", opened.reading, "ms", length=length)
        emit("rows_by_hand_processor_ms", rows.reading, "ms", length=length)
        emit("resume_to_bare_interpreter", opened.wall / bare.wall, "ratio", length=length)
    emit("bare_interpreter_ms", bare.wall, "ms", processor=round(bare.processor, 1))
    emit("event_loop_interpreter_ms", loop.wall, "ms", processor=round(loop.processor, 1))


if __name__ == "__main__":
    asyncio.run(main())
