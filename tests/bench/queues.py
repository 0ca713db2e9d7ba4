"""The durable queue beside other queues on SQLite: enqueue, claim and settle, with one and with four processes.

    pip install huey litequeue persist-queue        # the peers; whichever is missing is left out
    python tests/bench/queues.py [--items N] [--rounds N] [--only WORD] [--backlogs 10 1000 100000]

Every comparison is a heat: each queue in processes of its own (`queue_contender`)
that work in short turns, forwards and backwards, so that whatever else the
machine does falls on all of them. A rate is the median of the rounds. Ours is
measured through the store that every turn uses: an enqueue is synced when it
returns, a drain is the lane transaction that claims up to `per_claim` inputs for
a turn, and one synced terminal commit settles them with the head, the turn's
stamp and the release of the lane. Others may use as many threads as they like;
`ratio` is the best of ours to the best of the libraries, and to rows by hand, at
the same durability.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from measuring import clock, emit, note, user_text
from queue_contender import OURS, Drain, fill, open_store
from queue_peers import PEERS, body, is_installed

from lash_cli.api.queue import SessionQueue
from lash_cli.store.conformance import builders as make
from lash_cli.system import SystemClock, SystemIds

PROCESSES = 4
DEEP_OPERATIONS = 200
DURABILITY = "FULL"
BY_HAND = "by_hand_full"
_CONTENDER = Path(__file__).with_name("queue_contender.py")


class Entry(NamedTuple):
    """A queue as one heat calls it."""

    name: str
    durability: str
    style: str
    width: int


class Heat(NamedTuple):
    """What is compared: `is_claiming` whether to claim and settle, or else to enqueue; `items` a round."""

    name: str
    processes: int
    is_claiming: bool
    items: int
    ours: tuple[tuple[str, int], ...]
    others: tuple[tuple[str, int], ...]

    @property
    def figure(self) -> str:
        """What a round says."""
        return "claim_settle_per_second" if self.is_claiming else "enqueue_per_second"

    def entries(self) -> list[Entry]:
        """Everyone who takes part."""
        return [Entry(OURS, DURABILITY, style, width) for style, width in self.ours] + [
            Entry(name, durability, style, width)
            for name, durability, library, _, _ in PEERS
            if is_installed(library)
            for style, width in self.others
        ]


def heats(items: int) -> tuple[Heat, ...]:
    """All comparisons, `items` small pieces of work to a round and process."""
    many = items * 4
    one = (("blocking", 1),)
    return (
        Heat("enqueue, blocking, one at a time", 1, False, items, one, one),
        Heat("enqueue, from an event loop, one at a time", 1, False, items, (("loop", 1),), (("loop", 1),)),
        Heat(
            "enqueue, 64 in flight",
            1,
            False,
            many,
            (("loop", 64), ("blocking", 64)),
            (*one, ("blocking", 8), ("blocking", 64)),
        ),
        Heat("enqueue, blocking, one at a time in each", PROCESSES, False, items, one, one),
        Heat("enqueue, 16 in flight in each", PROCESSES, False, many, (("loop", 16),), (*one, ("blocking", 16))),
        Heat("claim and settle, as many as a turn takes", 1, True, many, (("loop", 64),), one),
        Heat("claim and settle, one to a turn", 1, True, items, (("loop", 1), ("blocking", 1)), one),
        Heat("claim and settle, as many as a turn takes", PROCESSES, True, many, (("loop", 64),), one),
        Heat("claim and settle, one to a turn", PROCESSES, True, items, (("loop", 1), ("blocking", 1)), one),
    )


class Team:
    """The processes of one entry, which work on one file at the same time."""

    def __init__(self, entry: Entry, heat: Heat, running: list[subprocess.Popen[str]]) -> None:
        self.entry = entry
        self._heat = heat
        self._running = running
        self.rates: list[float] = []
        self.lost = 0
        for process in running:
            self._answer(process)

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    def _tell(self, order: str) -> list[dict[str, float]]:
        for process in self._running:
            assert process.stdin is not None
            process.stdin.write(order + "\n")
            process.stdin.flush()
        return [json.loads(self._answer(process)) for process in self._running]

    def work(self) -> None:
        """One round."""
        heat = self._heat
        if heat.is_claiming:
            self._tell(f"fill {heat.items}")
        done = self._tell("drain" if heat.is_claiming else f"put {heat.items}")
        items = sum(int(one["items"]) for one in done)
        self.lost += heat.items * len(done) - items
        self.rates.append(items / max(one["seconds"] for one in done))

    def rate(self) -> float:
        """The median of all rounds but the first."""
        return statistics.median(self.rates[1:] or self.rates)


@contextmanager
def team(entry: Entry, heat: Heat) -> Iterator[Team]:
    """Start the processes of an entry, and end them."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        running = []
        for index in range(heat.processes):
            command = [sys.executable, str(_CONTENDER), entry.name, entry.style, str(entry.width), directory]
            process = subprocess.Popen(
                [*command, f"s{index}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            running.append(stack.enter_context(process))
        yield Team(entry, heat, running)
        for process in running:
            process.communicate(timeout=60)


def run_heat(heat: Heat, rounds: int) -> None:
    """All entries in turns, then their figures and what ours is of the best of the others."""
    with ExitStack() as stack:
        teams = [stack.enter_context(team(entry, heat)) for entry in heat.entries()]
        for number in range(rounds + 1):
            for one in teams if number % 2 else reversed(teams):
                one.work()
        for one in teams:
            emit(
                heat.figure, one.rate(), "1/s", heat=heat.name, processes=heat.processes, peer=one.entry.name,
                durability=one.entry.durability, style=one.entry.style,
                **{"per_claim" if heat.is_claiming else "in_flight": one.entry.width, "lost": one.lost},
            )  # fmt: skip

    def best(belongs: Callable[[Entry], bool]) -> Team | None:
        members = [one for one in teams if belongs(one.entry)]
        return max(members, key=Team.rate) if members else None

    ours = best(lambda entry: entry.name == OURS)
    assert ours is not None
    for against in (
        best(lambda entry: entry.durability == DURABILITY and entry.name not in (OURS, BY_HAND)),
        best(lambda entry: entry.name == BY_HAND),
    ):
        if against is not None:
            emit(
                f"{heat.figure.removesuffix('_per_second')}_ratio", ours.rate() / against.rate(), "ratio",
                heat=heat.name, processes=heat.processes, peer=against.entry.name, width_of_peer=against.entry.width,
            )  # fmt: skip


async def our_backlog(directory: Path, backlog: int) -> float:
    """Microseconds to claim and settle one input while `backlog` others wait."""
    store = open_store(directory)
    await make.create(store, SystemClock(), "s")
    await fill(store, "s", backlog + DEEP_OPERATIONS)
    drain = Drain(store, "s", 1)
    started = clock()
    for _ in range(DEEP_OPERATIONS):
        await drain.once()
    took = (clock() - started) / DEEP_OPERATIONS * 1e6
    queue = SessionQueue(store, SystemClock(), SystemIds(), "s")
    started = clock()
    for index in range(DEEP_OPERATIONS):
        await queue.enqueue(user_text(index))
    enqueue = (clock() - started) / DEEP_OPERATIONS * 1e6
    await store.aclose()
    emit("claim_settle_us", took, "us", peer=OURS, durability=DURABILITY, backlog=backlog)
    emit("enqueue_us", enqueue, "us", peer=OURS, durability=DURABILITY, backlog=backlog)
    return took


def peer_backlog(name: str, durability: str, make_peer: Callable[[Path], object], backlog: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        queue = make_peer(Path(directory))
        queue.fill([body(index, user_text(index)) for index in range(backlog + DEEP_OPERATIONS)])  # type: ignore[attr-defined]
        started = clock()
        for _ in range(DEEP_OPERATIONS):
            queue.take()  # type: ignore[attr-defined]
        took = (clock() - started) / DEEP_OPERATIONS * 1e6
        queue.close()  # type: ignore[attr-defined]
    emit("claim_settle_us", took, "us", peer=name, durability=durability, backlog=backlog)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100, help="a round and process")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="heats whose name has this word")
    parser.add_argument("--backlogs", type=int, nargs="*", default=[10, 1_000, 100_000])
    options = parser.parse_args()
    for name, _, library, _, _ in PEERS:
        if not is_installed(library):
            note(f"{name} is not installed")
    for heat in heats(options.items):
        if options.only in heat.name:
            run_heat(heat, options.rounds)
    base: float | None = None
    for backlog in options.backlogs:
        with tempfile.TemporaryDirectory() as directory:
            took = asyncio.run(our_backlog(Path(directory), backlog))
        base = base or took
        emit("claim_settle_growth", took / base, "ratio", peer=OURS, backlog=backlog)
        for name, durability, library, make_peer, is_quick in PEERS:
            if is_installed(library) and (is_quick or backlog <= 1_000):
                peer_backlog(name, durability, make_peer, backlog)


if __name__ == "__main__":
    main()
