"""A queue under load: producers and workers in processes of their own, workers killed at random (issue "The queue").

Every text carries a token of its own, so what happened to each can be told
from the store alone: `judge` reads it with nothing but the public records and
says what is wrong. A producer adds what it was told to and prints every
acknowledged input and every cancel outcome; nothing else counts as promised.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.cli import environment, spawn_lash
from support.processes import start_process

from lash_cli.api.queue import SessionQueue
from lash_cli.core.content import Role, is_safe_to_resume, message_text
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.ingress import ByInputId, Cancelled, InputState, SuffixOutcomes
from lash_cli.store.base import ReadScope
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

DRAIN_LIMIT_S = 300.0
CUT_SHARE = 0.05
SAID = "!text done "


@dataclass(frozen=True)
class Load:
    """How much: `producers` processes add `inputs` texts each, spread over `sessions`, while `workers` drain.

    `pause_s` between two texts of a producer keeps the queue filling for as
    long as workers are killed, one about every `kill_every_s`; every text makes
    its turn last a little.
    """

    producers: int
    inputs: int
    sessions: int
    workers: int
    kills: int
    with_cancels: bool = False
    seed: int = 1
    pause_s: float = 0.0
    kill_every_s: float = 1.0

    @property
    def session_ids(self) -> list[str]:
        """The ids of the sessions."""
        return [f"s{index:02d}" for index in range(self.sessions)]


@dataclass
class Outcome:
    """What the producers were promised, and what the store holds in the end."""

    acknowledged: dict[str, tuple[str, str]] = field(default_factory=dict)  # input id -> (session, token)
    cancelled: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    kills: int = 0
    seconds: float = 0.0
    used: int = 0


def open_store(home: Path) -> SqliteStore:
    """The store of a home, with the real clock."""
    return SqliteStore.open(home / "lash.db", clock=SystemClock(), ids=SystemIds())


async def produce(
    home: Path, sessions: list[str], count: int, seed: int, pause_s: float, *, with_cancels: bool
) -> None:
    """Add `count` texts to random sessions, now and then cut a suffix of what was added; print what was promised."""
    chance = random.Random(seed)
    store = open_store(home)
    clock, ids = SystemClock(), SystemIds()
    queues = {session_id: SessionQueue(store, clock, ids, session_id) for session_id in sessions}
    mine: list[tuple[str, str]] = []
    for index in range(count):
        session_id = chance.choice(sessions)
        token = f"p{seed}n{index}"
        stored = await queues[session_id].enqueue(f"!sleep 0.01\n{SAID}{token}", key=token)
        print(json.dumps({"input": stored.input_id, "session": session_id, "token": token}), flush=True)
        mine.append((session_id, stored.input_id))
        if with_cancels and chance.random() < CUT_SHARE:
            # Among the newest, which no worker may have been fast enough for, and at once.
            session_id, anchor = chance.choice(mine[-3:])
            outcome = await queues[session_id].cancel_suffix(ByInputId(anchor))
            assert isinstance(outcome, SuffixOutcomes)
            for row in outcome.outcomes:
                if isinstance(row, Cancelled):
                    print(json.dumps({"cancelled": row.input.input_id}), flush=True)
        await asyncio.sleep(pause_s * 2 * chance.random())
    await store.aclose()


def main() -> None:
    """The producer process."""
    home, sessions, count, seed, pause_s, with_cancels = sys.argv[1:]
    asyncio.run(
        produce(
            Path(home),
            sessions.split(","),
            int(count),
            int(seed),
            float(pause_s),
            with_cancels=with_cancels == "cancels",
        )
    )


def run_load(home: Path, load: Load) -> Outcome:
    """Run everything to its end and judge it. Raises `TimeoutError` when the queue is not drained in time."""
    asyncio.run(_make_sessions(home, load))
    started = time.monotonic()
    producers = [_producer(home, load, index) for index in range(load.producers)]
    workers = [_worker(home) for _ in range(load.workers)]
    outcome = Outcome()
    try:
        outcome.kills = _kill_at_random(workers, home, load)
        for index, producer in enumerate(producers):
            _read_promises(producer, _promises(home, index), outcome)
        _wait_until_drained(home, load)
        outcome.seconds = time.monotonic() - started
    finally:
        for process in (*producers, *workers):
            process.kill()
            process.communicate()
    asyncio.run(judge(home, load, outcome))
    return outcome


async def _make_sessions(home: Path, load: Load) -> None:
    from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
    from lash_cli.store.base import SessionCreate

    store = open_store(home)
    for session_id in load.session_ids:
        config = PersistedSessionConfig("loopback", ModelSpec("loopback"))
        await store.create_session(SessionCreate(session_id, config, SystemClock().now_ms(), cwd=str(home.parent)))
    await store.aclose()


def _promises(home: Path, index: int) -> Path:
    return home.parent / f"promises-{index}.jsonl"


def _producer(home: Path, load: Load, index: int) -> subprocess.Popen[bytes]:
    arguments = (
        str(home),
        ",".join(load.session_ids),
        str(load.inputs),
        str(load.seed * 1000 + index),
        str(load.pause_s),
        "cancels" if load.with_cancels else "plain",
    )
    # A file and not a pipe: nobody reads while workers are being killed.
    with _promises(home, index).open("wb") as promises:
        return start_process(
            [sys.executable, "-m", "support.queue_load", *arguments],
            env={**environment(home), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=promises,
        )


def _worker(home: Path) -> subprocess.Popen[bytes]:
    with open(home.parent / "workers.log", "ab") as log:
        return spawn_lash(["work", "--all", "--concurrency", "8"], home=home, stdout=log, stderr=log)


def _kill_at_random(workers: list[subprocess.Popen[bytes]], home: Path, load: Load) -> int:
    """Kill one worker after another at random moments, each replaced at once; the number that really died by it."""
    chance = random.Random(load.seed)
    killed = 0
    for _ in range(load.kills):
        time.sleep(load.kill_every_s * (0.5 + chance.random()))
        position = chance.randrange(len(workers))
        workers[position].send_signal(signal.SIGKILL)
        workers[position].communicate()
        killed += workers[position].returncode == -signal.SIGKILL
        workers[position] = _worker(home)
    return killed


def _read_promises(producer: subprocess.Popen[bytes], promises: Path, outcome: Outcome) -> None:
    producer.wait(timeout=DRAIN_LIMIT_S)
    for line in promises.read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        if "cancelled" in row:
            outcome.cancelled.add(row["cancelled"])
        else:
            outcome.acknowledged[row["input"]] = (row["session"], row["token"])
    if producer.returncode:
        outcome.problems.append(f"a producer ended with {producer.returncode}")


def _wait_until_drained(home: Path, load: Load) -> None:
    async def is_drained() -> bool:
        store = open_store(home)
        try:
            return not await store.sessions_with_demand(limit=1)
        finally:
            await store.aclose()

    deadline = time.monotonic() + DRAIN_LIMIT_S
    while not asyncio.run(is_drained()):
        if time.monotonic() > deadline:
            raise TimeoutError("the queue was not drained")
        time.sleep(0.1)


async def judge(home: Path, load: Load, outcome: Outcome) -> None:
    """Say everything that is not as it must be: each text used once or cancelled, in order, nothing left held."""
    store = open_store(home)
    promised: dict[str, dict[str, str]] = defaultdict(dict)
    for input_id, (session_id, token) in outcome.acknowledged.items():
        promised[session_id][input_id] = token
    for session_id in load.session_ids:
        await _judge_session(store, session_id, promised[session_id], outcome)
    if await store.unfinished_turns():
        outcome.problems.append("a turn is unfinished")
    await store.aclose()


async def _judge_session(store: SqliteStore, session_id: str, promised: dict[str, str], outcome: Outcome) -> None:
    say = outcome.problems.append
    rows = await store.inputs(session_id, pending_only=False)
    by_id = {row.input_id: row for row in rows}
    lost = promised.keys() - by_id.keys()
    if lost:
        say(f"{session_id}: {len(lost)} acknowledged inputs are not stored")
    for row in rows:
        is_cancelled = row.input_id in outcome.cancelled
        expected = InputState.CANCELLED if is_cancelled else InputState.COMPLETED
        if row.state is not expected:
            say(f"{session_id}: {row.input_id} is {row.state.value}, not {expected.value}")
    read = await store.load_session(session_id, ReadScope.FULL_GRAPH)
    messages = (
        [node.payload.message for node in read.nodes if isinstance(node.payload, ConversationPayload)] if read else []
    )
    if not is_safe_to_resume(messages):
        say(f"{session_id}: the transcript is not valid")
    said: list[str] = []
    for message in messages:
        if message.role is Role.USER:
            lines = message_text(message).splitlines()
            said += [line.removeprefix(SAID) for line in lines if line.startswith(SAID)]
    wanted = [promised[row.input_id] for row in rows if row.input_id in promised and row.state is InputState.COMPLETED]
    repeated = [token for token, times in Counter(said).items() if times > 1]
    if repeated:
        say(f"{session_id}: said twice: {repeated[:5]}")
    if said != wanted and not repeated:
        say(f"{session_id}: {len(said)} texts said, {len(wanted)} completed, or not in the order of the queue")
    outcome.used += len(said)


if __name__ == "__main__":
    main()
