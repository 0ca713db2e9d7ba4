"""What watching costs, and how soon a commit is in an observer's hands in another process.

    python tests/bench/observe.py [--events N] [--turns N] [--idle SECONDS]

Prints commit → observer at 100 events a second with 1 and 16 tails, the CPU an
idle tail takes, what a streamed answer of 1 000 pieces costs its writer with
and without a live log, unobserved and observed, and the same with a tail that
was stopped. Latency is from the return of COMMIT on the writer's thread to the
event being delivered by the stream, on the system-wide monotonic clock. A tail
is a process of its own on the loop that `lash tail` runs on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from measuring import MODEL, emit, note, percentile

sys.path.insert(0, str(Path(__file__).parent.parent))
from support.watching import StreamingCaller

from lash_cli.api import LashCore, LashSession, SessionCursor, SqliteStore
from lash_cli.cli.watching_loop import let_workers_go_first, new_watching_loop
from lash_cli.core.observation import GENESIS, QueueChanged
from lash_cli.errors import LiveReplayClosed
from lash_cli.runtime.previews import PreviewPublisher
from lash_cli.store.sqlite import live
from lash_cli.system import SystemClock, SystemIds

S = "s"
RATE_S = 0.01
SETTLE_S = 1.0
PIECES = tuple(f"token {number} " for number in range(1_000))
TICKS = os.sysconf("SC_CLK_TCK")


async def tail(database: str, into: str) -> None:
    """Write down when each event came, until the session is deleted."""
    store = SqliteStore.open(Path(database), SystemClock(), SystemIds(), read_only=True)
    core = LashCore(provider=StreamingCaller(), model=MODEL, store=store)
    observed = core.observe(S)
    stream = observed.subscribe_and_recover((await observed.current_observation()).cursor)
    came: list[tuple[str, int]] = []
    print("ready", flush=True)
    try:
        async for item in stream:
            now = time.monotonic_ns()
            payload = getattr(getattr(item, "event", None), "payload", None)
            if isinstance(payload, QueueChanged) and payload.batch_ids:
                came.append((payload.batch_ids[0], now))
    except LiveReplayClosed:
        with open(into, "w") as file:  # noqa: ASYNC230 - nothing else runs any more
            file.write("\n".join(f"{name} {at}" for name, at in came))


class Tails:
    """Processes that watch."""

    def __init__(self, database: Path, count: int) -> None:
        self.files = [database.with_name(f"tail-{number}") for number in range(count)]
        self.processes = [
            subprocess.Popen([sys.executable, __file__, "--tail", str(database), str(file)], stdout=subprocess.PIPE)
            for file in self.files
        ]
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        # The first pull hangs the bell.
        time.sleep(0.5)

    def cpu_s(self) -> float:
        """CPU seconds of the first tail so far."""
        fields = Path(f"/proc/{self.processes[0].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def end(self) -> list[dict[str, int]]:
        """When each saw each event; the session was deleted before."""
        for process in self.processes:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        return [
            {name: int(at) for name, at in (line.split() for line in file.read_text().splitlines())}
            for file in self.files
        ]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def new_core(directory: Path, caller: StreamingCaller) -> LashCore:
    store = SqliteStore.open(directory / "lash.db", clock=SystemClock(), ids=SystemIds())
    return LashCore(provider=caller, model=MODEL, store=store)


async def latency(directory: Path, tails: int, events: int) -> None:
    core = new_core(directory, StreamingCaller())
    store = core.store
    assert isinstance(store, SqliteStore)
    session = await core.open_session(S)
    await session.close()
    watching = Tails(directory / "lash.db", tails)
    ring = store.db.writer.ring
    assert ring is not None
    committed_ns: list[int] = []

    def timed(changed: Mapping[str, int]) -> None:
        committed_ns.append(time.monotonic_ns())
        ring(changed)

    store.live.ring_with(timed)
    rings: list[float] = []
    for number in range(events):
        event = QueueChanged("enqueued", (str(number),))

        def job(connection: sqlite3.Connection, event: QueueChanged = event) -> None:
            live.announce_in(connection, S, event, store.db.clock.now_ms())

        started = time.perf_counter()
        await store.db.write(job, durable=False)
        rings.append(time.perf_counter() - started)
        await asyncio.sleep(max(0.0, RATE_S - rings[-1]))
    # A tail that is behind must not be told first that there is nothing to watch any more.
    await asyncio.sleep(SETTLE_S)
    await core.delete_session(S)
    seen = watching.end()
    await core.aclose()
    lost = sum(events - len(one) for one in seen)
    late = [(one[str(number)] - committed_ns[number]) / 1e6 for one in seen for number in range(events)]
    parameters = {"tails": tails, "events": events, "lost": lost}
    emit("commit_to_observer_p50_ms", percentile(late, 0.5), "ms", **parameters)
    emit("commit_to_observer_p99_ms", percentile(late, 0.99), "ms", **parameters)
    emit("write_with_ring_p50_us", percentile(rings, 0.5) * 1e6, "us", tails=tails)


async def idle(directory: Path, seconds: float) -> None:
    core = new_core(directory, StreamingCaller())
    session = await core.open_session(S)
    await session.turn("hi").run()
    watching = Tails(directory / "lash.db", 1)
    before, started = watching.cpu_s(), time.monotonic()
    await asyncio.sleep(seconds)
    emit("idle_tail_cpu", 100 * (watching.cpu_s() - before) / (time.monotonic() - started), "% of one core")
    watching.kill()
    await session.close()
    await core.aclose()


async def one_turn(session: LashSession) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    await session.turn("hi").run()
    return time.process_time() - cpu, time.perf_counter() - wall


async def streaming(directory: Path, turns: int, pause_s: float) -> None:
    """The same turns without a live log, unobserved, observed, and observed by a tail that was stopped; mixed, so
    that what the machine does meanwhile falls on all of them."""
    publish = PreviewPublisher.publish
    cores = {name: new_core(directory / name, StreamingCaller(PIECES, pause_s=pause_s)) for name in KINDS}
    sessions = {name: await core.open_session(S) for name, core in cores.items()}
    for session in sessions.values():
        await session.turn("warm up").run()
    watching = {name: Tails(directory / name / "lash.db", 1) for name in ("observed", "stopped")}
    watching["stopped"].processes[0].send_signal(signal.SIGSTOP)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    for _ in range(turns):
        for name, session in sessions.items():
            PreviewPublisher.publish = (lambda *_: None) if name == "no_log" else publish  # type: ignore[method-assign]
            samples[name].append(await one_turn(session))
    PreviewPublisher.publish = publish  # type: ignore[method-assign]
    for one in watching.values():
        one.kill()
    for name, core in cores.items():
        await sessions[name].close()
        await core.aclose()
    cpu = {name: statistics.median(sample[0] for sample in found) for name, found in samples.items()}
    wall = {name: statistics.median(sample[1] for sample in found) for name, found in samples.items()}
    for name in KINDS:
        emit("streamed_turn_cpu_ms", cpu[name] * 1e3, "ms", kind=name, pieces=len(PIECES), pause_ms=pause_s * 1e3)
        emit("streamed_turn_wall_ms", wall[name] * 1e3, "ms", kind=name, pieces=len(PIECES), pause_ms=pause_s * 1e3)
    for name in ("observed", "stopped"):
        for what, figures in (("cpu", cpu), ("wall", wall)):
            ratio = figures[name] / figures["unobserved"]
            emit(f"streamed_turn_{what}_{name}_to_unobserved", ratio, "ratio", pause_ms=pause_s * 1e3)


KINDS = ("no_log", "unobserved", "observed", "stopped")


async def replay(directory: Path) -> None:
    """Reading the whole ring at once, and one look that finds nothing."""
    core = new_core(directory, StreamingCaller(PIECES, pause_s=0.0))
    session = await core.open_session(S)
    store = core.store
    assert isinstance(store, SqliteStore)

    def fill(connection: sqlite3.Connection) -> None:
        for _ in range(2_048):
            live.announce_in(connection, S, QueueChanged("enqueued", ("in_1",)), store.db.clock.now_ms())

    await store.db.write(fill, durable=False)
    observed = core.observe(S)
    start = SessionCursor(GENESIS, 0, 0, S)
    samples = []
    for _ in range(20):
        started = time.perf_counter()
        found = await observed.resume_from_cursor(start)
        samples.append(time.perf_counter() - started)
    assert len(getattr(found, "events", ())) == 2_048
    emit("replay_2048_events_ms", statistics.median(samples) * 1e3, "ms")
    tail_cursor = (await observed.current_observation()).cursor
    samples = []
    for _ in range(2_000):
        started = time.perf_counter()
        await store.live.replay(tail_cursor)
        samples.append(time.perf_counter() - started)
    emit("empty_look_us", statistics.median(samples) * 1e6, "us")
    await session.close()
    await core.aclose()


async def main(options: argparse.Namespace) -> None:
    runtime = tempfile.mkdtemp(prefix="lb", dir="/tmp")
    os.environ["XDG_RUNTIME_DIR"] = runtime
    try:
        for tails in (1, 16):
            with tempfile.TemporaryDirectory() as directory:
                await latency(Path(directory), tails, options.events)
        with tempfile.TemporaryDirectory() as directory:
            await idle(Path(directory), options.idle)
        with tempfile.TemporaryDirectory() as directory:
            await streaming(Path(directory), options.turns, 0.0)
        with tempfile.TemporaryDirectory() as directory:
            await streaming(Path(directory), max(1, options.turns // 10), 0.001)
        with tempfile.TemporaryDirectory() as directory:
            await replay(Path(directory))
    finally:
        shutil.rmtree(runtime, ignore_errors=True)
    note("read ratios: absolute times belong to one machine on one day")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--idle", type=float, default=20.0)
    parser.add_argument("--tail", nargs=2, metavar=("DATABASE", "FILE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.tail:
        let_workers_go_first()
        with asyncio.Runner(loop_factory=new_watching_loop) as runner:
            runner.run(tail(*chosen.tail))
    else:
        asyncio.run(main(chosen))
