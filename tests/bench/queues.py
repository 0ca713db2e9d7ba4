"""The durable queue beside other queues on SQLite: enqueue, claim and settle, with one and with four processes.

    pip install huey litequeue persist-queue        # the peers; whichever is missing is left out
    python tests/bench/queues.py [--items N] [--backlogs 10 1000 100000]

Ours is measured through the store that every turn uses: an enqueue is synced
when it returns, a drain is the lane transaction that claims up to 64 inputs for
a turn, and one synced terminal commit settles them with the head, the turn's
stamp and the release of the lane. `per_claim` 1 is the same with one input to
a turn. Every figure of a peer stands beside ours of the same run; `durability`
says what a returned call has survived.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import clock, emit, note, user_text
from queue_peers import PEERS, body, is_installed

from lash_cli.api.queue import SessionQueue
from lash_cli.core.commit import Unchanged
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import InputDraft
from lash_cli.store.base import DrainSelection, LaneGranted, LaneRequest
from lash_cli.store.conformance import builders as make
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

PROCESSES = 4
IN_FLIGHT = 64
DEEP_OPERATIONS = 200
OURS = "lash"
DURABILITY = "FULL"


class Drain:
    """Drains one session turn by turn, saying nothing: what a queue costs without a model."""

    def __init__(self, store: SqliteStore, session_id: str, per_claim: int) -> None:
        self._store = store
        self._session_id = session_id
        self._selection = DrainSelection(max_inputs=per_claim)
        self._ids = SystemIds()
        self._owner = make.owner(self._ids.token())
        self._revision: int | None = None

    async def once(self) -> int:
        """One turn; how many inputs it settled."""
        now_ms = SystemClock().now_ms()
        request = LaneRequest(
            session_id=self._session_id,
            owner=self._owner,
            ttl_ms=make.TTL_MS,
            now_ms=now_ms,
            lease_token=self._ids.token(),
            claim_token=self._ids.token(),
            turn_id=self._ids.new("t"),
            drain=self._selection,
            is_new_turn=True,
        )
        granted = await self._store.open_lane(request)
        if not isinstance(granted, LaneGranted):
            return 0
        assert granted.turn is not None and granted.claim is not None and granted.lease is not None
        commit = make.commit(
            granted.lease.fence(),
            Unchanged(None),
            expected=granted.head.head_revision,
            turn=make.stamp(granted.turn.turn_id),
            claim=granted.claim,
            release=True,
            now_ms=now_ms,
        )
        await self._store.commit_runtime_state(commit)
        return len(granted.claim.inputs)


def open_store(directory: Path) -> SqliteStore:
    """The store of a directory, at FULL."""
    return SqliteStore.open(directory / "lash.db", clock=SystemClock(), ids=SystemIds())


async def fill(store: SqliteStore, session_id: str, count: int) -> None:
    """Put `count` inputs into a queue, as many at once as the writer takes."""
    for first in range(0, count, 1_000):
        drafts = [
            InputDraft(session_id, f"in_{session_id}_{index}", TurnInput.text(user_text(index)))
            for index in range(first, min(first + 1_000, count))
        ]
        await asyncio.gather(*(store.enqueue_turn_input(draft) for draft in drafts))


# --- ours ---------------------------------------------------------------------------------------


async def our_enqueue(directory: Path, items: int) -> None:
    store = open_store(directory)
    await make.create(store, SystemClock(), "s")
    queue = SessionQueue(store, SystemClock(), SystemIds(), "s")
    started = clock()
    for index in range(items):
        await queue.enqueue(user_text(index))
    emit("enqueue_per_second", items / (clock() - started), "1/s", peer=OURS, durability=DURABILITY, in_flight=1)

    many = items * 8

    async def producer(first: int) -> None:
        for index in range(first, many, IN_FLIGHT):
            await queue.enqueue(user_text(index))

    started = clock()
    await asyncio.gather(*(producer(first) for first in range(IN_FLIGHT)))
    emit("enqueue_per_second", many / (clock() - started), "1/s", peer=OURS, durability=DURABILITY, in_flight=IN_FLIGHT)
    await store.aclose()


def our_blocking_enqueue(directory: Path, items: int) -> None:
    """From a program without an event loop, as `lash enqueue` does it."""
    store = open_store(directory)
    _finish(make.create(store, SystemClock(), "b"))
    queue = SessionQueue(store, SystemClock(), SystemIds(), "b")
    started = clock()
    for index in range(items):
        _finish(queue.enqueue(user_text(index)))
    emit(
        "enqueue_per_second", items / (clock() - started), "1/s", peer=OURS, durability=DURABILITY, in_flight="blocking"
    )
    store.close()


def _finish(work: object) -> None:
    """Run a coroutine that never suspends."""
    try:
        work.send(None)  # type: ignore[attr-defined]
    except StopIteration:
        return
    raise AssertionError("it waited")


async def our_drain(directory: Path, items: int, per_claim: int) -> None:
    store = open_store(directory)
    await make.create(store, SystemClock(), "s")
    await fill(store, "s", items)
    drain = Drain(store, "s", per_claim)
    settled = 0
    started = clock()
    while count := await drain.once():
        settled += count
    seconds = clock() - started
    await store.aclose()
    emit("claim_settle_per_second", settled / seconds, "1/s", peer=OURS, durability=DURABILITY, processes=1,
         per_claim=per_claim, lost=items - settled)  # fmt: skip


async def our_worker(directory: Path, session_id: str, per_claim: int) -> None:
    """One of several processes; drains its session once it is told to begin."""
    store = open_store(directory)
    drain = Drain(store, session_id, per_claim)
    await store.session_row(session_id)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    settled = 0
    started = clock()
    while count := await drain.once():
        settled += count
    print(json.dumps({"settled": settled, "seconds": clock() - started}), flush=True)
    await store.aclose()


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


# --- several processes --------------------------------------------------------------------------


def race(commands: list[list[str]], parameters: dict[str, object], items: int) -> None:
    """Start every command, let all begin together, and add up what they settled."""
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    reports = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    settled = sum(report["settled"] for report in reports)
    seconds = max(report["seconds"] for report in reports)
    emit("claim_settle_per_second", settled / seconds, "1/s", processes=len(commands), lost=items - settled,
         **parameters)  # fmt: skip


async def our_processes(directory: Path, items: int, per_claim: int) -> None:
    store = open_store(directory)
    share = items // PROCESSES
    for index in range(PROCESSES):
        await make.create(store, SystemClock(), f"s{index}")
        await fill(store, f"s{index}", share)
    await store.aclose()
    commands = [
        [sys.executable, __file__, "--worker", OURS, str(directory), f"s{index}", str(per_claim)]
        for index in range(PROCESSES)
    ]
    parameters = {"peer": OURS, "durability": DURABILITY, "per_claim": per_claim}
    race(commands, parameters, share * PROCESSES)


def peer_worker(name: str, directory: Path) -> None:
    make_peer = next(peer[3] for peer in PEERS if peer[0] == name)
    queue = make_peer(directory)
    print("ready", flush=True)
    sys.stdin.readline()
    settled = 0
    started = clock()
    while queue.take():
        settled += 1
    print(json.dumps({"settled": settled, "seconds": clock() - started}), flush=True)
    queue.close()


def measure_peer(name: str, durability: str, make_peer: Callable[[Path], object], items: int) -> None:
    text = [body(index, user_text(index)) for index in range(items)]
    with tempfile.TemporaryDirectory() as directory:
        queue = make_peer(Path(directory))
        started = clock()
        for item in text:
            queue.put(item)  # type: ignore[attr-defined]
        emit("enqueue_per_second", items / (clock() - started), "1/s", peer=name, durability=durability, in_flight=1)
        started = clock()
        settled = 0
        while queue.take():  # type: ignore[attr-defined]
            settled += 1
        emit("claim_settle_per_second", settled / (clock() - started), "1/s", peer=name, durability=durability,
             processes=1, per_claim=1, lost=items - settled)  # fmt: skip
        for item in text:
            queue.put(item)  # type: ignore[attr-defined]
        queue.close()  # type: ignore[attr-defined]
        command = [sys.executable, __file__, "--worker", name, directory, "", "1"]
        race([command] * PROCESSES, {"peer": name, "durability": durability, "per_claim": 1}, items)


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
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--backlogs", type=int, nargs="*", default=[10, 1_000, 100_000])
    parser.add_argument("--worker", nargs=4, metavar=("PEER", "DIRECTORY", "SESSION", "PER_CLAIM"))
    options = parser.parse_args()
    if options.worker is not None:
        name, directory, session_id, per_claim = options.worker
        if name == OURS:
            asyncio.run(our_worker(Path(directory), session_id, int(per_claim)))
        else:
            peer_worker(name, Path(directory))
        return
    with tempfile.TemporaryDirectory() as directory:
        our_blocking_enqueue(Path(directory), options.items)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(our_enqueue(Path(directory), options.items))
    for per_claim in (64, 1):
        count = options.items * (8 if per_claim > 1 else 1)
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(our_drain(Path(directory), count, per_claim))
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(our_processes(Path(directory), count, per_claim))
    for name, durability, library, make_peer, _ in PEERS:
        if is_installed(library):
            measure_peer(name, durability, make_peer, options.items)
        else:
            note(f"{name} is not installed")
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
