"""How long `lash` takes to start, as a ratio to the bare interpreter (design D16 and §5).

    python tests/bench/startup.py            one JSON line per figure
    python tests/bench/startup.py --check    also fail when a figure is over its budget

Ratios of the minimum of many runs, taken in turn with the bare interpreter, so
that the load of the machine falls on both sides alike. `ratio` is of the time
that passes, which budgets are about; `cpu_ratio` is of processor time, which
hardly changes with what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

RUNS = 20
# With so few a check ends early when all is well; the rest is for when it isn't.
FEWEST = 7
TOLERANCE = 1.5
BARE = [sys.executable, "-I", "-c", "pass"]
# What a console script does, for a tree that is not installed.
UNINSTALLED = [sys.executable, "-c", "import sys; from lash_cli.__main__ import main; sys.exit(main())"]
# The one session that has turns.
TALK = "talk"
TURNS = 5
# The design allows looks six times the interpreter; what they came down to is held here, with the noise of a quiet
# machine on top.
BUDGETS = (
    (("--version",), 2.0, 0),
    (("__complete", "--", "show", ""), 2.0, 0),
    (("__complete", "--", "show", ""), 2.0, 10_000),
    (("__complete", "--", "queue", "cancel", ""), 2.0, 10_000),
    (("ls", "-o", "json"), 4.0, 10),
    (("ls", "-o", "json"), 4.0, 10_000),
    (("show", TALK, "-o", "json"), 5.0, 10),
    (("show", TALK, "-o", "json"), 5.0, 10_000),
    (("show", TALK), 5.5, 10),
    (("log", TALK, "-o", "json"), 5.5, 10),
    (("log", TALK, "-o", "json"), 5.5, 10_000),
    (("queue", "ls", TALK, "-o", "json"), 5.5, 10),
    (("enqueue", TALK, "next", "-q"), 7.5, 10),
    (("enqueue", TALK, "next", "-q"), 7.5, 10_000),
)


def lash_command() -> list[str]:
    """The installed console script of this interpreter, else its equivalent."""
    script = Path(sys.executable).with_name("lash")
    return [str(script)] if script.exists() else UNINSTALLED


class Spent(NamedTuple):
    """The seconds one run took, and those of a processor."""

    elapsed: float
    processor: float


def spent(command: list[str], environment: dict[str, str]) -> Spent:
    """What one run took; raises when it fails."""
    before, start = _processor_seconds(), time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return Spent(time.perf_counter() - start, _processor_seconds() - before)


def _processor_seconds() -> float:
    """What all ended children have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_sessions(home: Path, count: int) -> None:
    """A database with `count` sessions, made by the store and then multiplied by SQL."""
    import asyncio
    import sqlite3

    from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
    from lash_cli.paths import resolve_paths
    from lash_cli.store.base import SessionCreate
    from lash_cli.wiring import open_store

    async def first() -> None:
        store = open_store(resolve_paths({"LASH_HOME": str(home)}))
        config = PersistedSessionConfig("loopback", ModelSpec("loopback"))
        await store.create_session(SessionCreate("s_0", config, 1, name="n0"))
        await store.aclose()

    asyncio.run(first())
    connection = sqlite3.connect(home / "lash.db")
    with connection:
        connection.executemany(
            "INSERT INTO sessions (session_id, name, created_at_ms, labels, last_activity_at_ms, config) "
            "SELECT ?, ?, ?, labels, ?, config FROM sessions WHERE session_id = 's_0'",
            ((f"s_{number}", f"n{number}", number, number) for number in range(1, count)),
        )
    connection.close()


def talk(home: Path) -> None:
    """Add the session with a few turns, by the command itself."""
    environment = environment_of(home)
    for arguments in (["open", TALK, "-q"], *(["turn", TALK, f"question {number}", "-q"] for number in range(TURNS))):
        spent([*lash_command(), *arguments], environment)


def environment_of(home: Path) -> dict[str, str]:
    """What a measured command sees: nothing of the machine's own configuration."""
    environment = {"PATH": os.environ["PATH"], "LASH_HOME": str(home), "HOME": str(home), "LANG": "C.UTF-8"}
    if lash_command() == UNINSTALLED:
        environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    return environment


def measure(arguments: tuple[str, ...], home: Path, runs: int, enough: float = 0.0) -> tuple[Spent, Spent]:
    """The least that the command and the bare interpreter took.

    After `FEWEST` runs a ratio of at most `enough` ends it: what more runs could find is a command still faster.
    """
    environment = environment_of(home)
    command = [*lash_command(), *arguments]
    spent(command, environment)
    pairs: list[tuple[Spent, Spent]] = []
    while True:
        pairs.append((spent(command, environment), spent(BARE, environment)))
        ours, bare = _least([ours for ours, _ in pairs]), _least([bare for _, bare in pairs])
        if len(pairs) >= runs or (len(pairs) >= FEWEST and ours.elapsed <= enough * bare.elapsed):
            return ours, bare


def judged(arguments: tuple[str, ...], home: Path, runs: int, limit: float, enough: float) -> tuple[Spent, Spent]:
    """As `measure`, and measured once more when the ratio is over `limit`: a busy moment of the machine is no
    regression, which is still there a moment later."""
    ours, bare = measure(arguments, home, runs, enough)
    return (ours, bare) if ours.elapsed <= limit * bare.elapsed else measure(arguments, home, runs, enough)


def _least(runs: list[Spent]) -> Spent:
    return Spent(min(run.elapsed for run in runs), min(run.processor for run in runs))


def main() -> int:
    """Measure every figure; 1 with `--check` when one is over budget times tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    failed = False
    with tempfile.TemporaryDirectory(prefix="lash-startup-") as directory:
        homes = prepared(Path(directory), {sessions for _, _, sessions in BUDGETS})
        for arguments, budget, sessions in BUDGETS:
            enough = budget if options.check else 0.0
            ours, bare = judged(arguments, homes[sessions], options.runs, budget * TOLERANCE, enough)
            figure = figure_of(arguments, budget, sessions, ours, bare)
            failed = failed or not figure["ok"]
            print(json.dumps(figure), flush=True)
    return 1 if failed and options.check else 0


def prepared(directory: Path, sizes: set[int]) -> dict[int, Path]:
    """A home for each count of sessions, empty for none, below `directory`.

    Commands that write share it with those that look: none of them leaves what another one is slower by.
    """
    homes = {size: directory / str(size) for size in sizes}
    for size, home in homes.items():
        home.mkdir()
        if size:
            make_sessions(home, size)
            talk(home)
    return homes


def figure_of(arguments: tuple[str, ...], budget: float, sessions: int, ours: Spent, bare: Spent) -> dict[str, object]:
    """The line that is printed of one command."""
    ratio = ours.elapsed / bare.elapsed
    return {
        "command": "lash " + " ".join(arguments),
        "sessions": sessions,
        "ms": round(ours.elapsed * 1000, 1),
        "bare_ms": round(bare.elapsed * 1000, 1),
        "ratio": round(ratio, 2),
        "cpu_ratio": round(ours.processor / bare.processor, 2),
        "budget": budget,
        "limit": budget * TOLERANCE,
        "ok": ratio <= budget * TOLERANCE,
    }


if __name__ == "__main__":
    sys.exit(main())
