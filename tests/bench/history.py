"""Forking a session and moving its head, by transcript length, and what reading a fork costs.

    python tests/bench/history.py [--rounds N] [--check]

Prints, per length: a fork of the head, a fork of a node in the middle, moving
the head to the middle and back, in microseconds and as a ratio to the same at
10 messages; the bytes a fork adds to the store; loading a fork against loading
its source; and forking by copying every row in one statement, for comparison.
Lengths take turns round by round, and the tenth of the rounds that were least
disturbed is what counts, because a sync takes what other programs leave it.
With `--check` a ratio above 1.5 at 10 000 messages fails.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
from collections import defaultdict
from pathlib import Path

from measuring import clock, emit, median_us, percentile, store_bytes
from turn import new_core, seed

from lash_cli.api import LashCore, SqliteStore
from lash_cli.store.base import ReadScope
from lash_cli.store.sqlite.places import place_at, places

LENGTHS = (10, 1_000, 10_000)
LARGEST_RATIO = 1.5
LEAST_DISTURBED = 0.1
WARM_UP = 3

_COPY = """
INSERT INTO nodes (place, node_id, parent_seq, frame_ordinal, at_ms, caused_by, body, tombstoned)
SELECT ? + seq, node_id, parent_seq, frame_ordinal, at_ms, caused_by, body, tombstoned FROM nodes
WHERE place BETWEEN ? AND ?
"""


class World:
    """A store with one session of `length` messages."""

    def __init__(self, directory: Path, length: int) -> None:
        self.directory = directory
        self.length = length
        self.core: LashCore
        self.store: SqliteStore
        self.ids: list[str] = []

    async def open(self) -> None:
        """Fill the session."""
        self.core, self.store = new_core(self.directory)
        await seed(self.store, self.core, "s", self.length)
        read = await self.store.load_session("s", ReadScope.ACTIVE_PATH)
        assert read is not None
        self.ids = [node.node_id for node in read.nodes]

    @property
    def middle(self) -> str:
        """The answer nearest to the middle."""
        return self.ids[len(self.ids) // 2 | 1]

    async def round(self) -> dict[str, float]:
        """One of each, in seconds."""
        seconds = {}
        started = clock()
        await self.core.fork_session("s")
        seconds["fork_head"] = clock() - started
        started = clock()
        middle = await self.core.fork_session("s", at=self.middle)
        seconds["fork_middle"] = clock() - started
        started = clock()
        await self.core.branch_to_node("s", self.middle)
        seconds["rewind"] = clock() - started
        started = clock()
        await self.core.branch_to_node("s", self.ids[-1])
        seconds["rewind_back"] = clock() - started
        started = clock()
        await self.core.branch_to_node(middle.session_id, self.ids[1])
        seconds["rewind_in_fork"] = clock() - started
        return seconds

    async def load_us(self, session_id: str) -> float:
        """Reading a session as opening it does."""
        samples = []
        for _ in range(9):
            started = clock()
            await self.store.load_session(session_id, ReadScope.CONVERSATION)
            samples.append(clock() - started)
        return median_us(samples)


def copied_us(path: Path) -> float:
    """Copying every node of the session in one synced statement, as a fork that shares nothing would."""
    samples = []
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    (key,) = connection.execute("SELECT session_key FROM sessions WHERE session_id = 's'").fetchone()
    for number in range(3):
        started = clock()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_COPY, (place_at(1_000_000 + number, 0), *places(key)))
        connection.execute("COMMIT")
        samples.append(clock() - started)
    connection.close()
    return median_us(samples)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        worlds = [World(Path(name) / str(length), length) for length in LENGTHS]
        for world in worlds:
            await world.open()
        samples: dict[tuple[str, int], list[float]] = defaultdict(list)
        for number in range(options.rounds + WARM_UP):
            for world in worlds:
                for figure, seconds in (await world.round()).items():
                    if number >= WARM_UP:
                        samples[figure, world.length].append(seconds)
        worst = 0.0
        for (figure, length), taken in samples.items():
            least = percentile(taken, LEAST_DISTURBED)
            ratio = least / percentile(samples[figure, LENGTHS[0]], LEAST_DISTURBED)
            worst = max(worst, ratio)
            emit(f"{figure}_us", least * 1e6, "us", length=length)
            emit(f"{figure}_to_10_messages", ratio, "ratio", length=length)
        for world in worlds:
            path = world.store.db.path
            fork = await world.core.fork_session("s")
            loads = (await world.load_us("s"), await world.load_us(fork.session_id))
            emit("load_fork_to_source", loads[1] / loads[0], "ratio", length=world.length)
            world.store.db.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
            before = store_bytes(path)
            for _ in range(50):
                await world.core.fork_session("s")
            world.store.db.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
            emit("bytes_per_fork", (store_bytes(path) - before) / 50, "bytes", length=world.length)
            emit("fork_by_copy_us", copied_us(path), "us", length=world.length)
            await world.core.aclose()
    if options.check and worst > LARGEST_RATIO:
        raise SystemExit(f"a ratio is {worst:.2f}, above {LARGEST_RATIO}")


if __name__ == "__main__":
    asyncio.run(main())
