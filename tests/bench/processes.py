"""Several processes on one store, and how fast a cancel from another process lands.

    python tests/bench/processes.py [--seconds N]

Prints turns per second and the 99th percentile of four processes turning four
sessions, next to four processes that write the same rows by hand, with the
number of errors and of turns that were acknowledged and are missing, and the
time from a cancel receipt to the cancelled commit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import InstantCaller, clock, emit, percentile, user_text
from turn import RawTurns, new_core

PROCESSES = 4
CANCELS = 20


async def worker(directory: Path, session_id: str, seconds: float) -> None:
    """Turn one session until the time is over; print what was acknowledged."""
    core, _ = new_core(directory)
    samples: list[float] = []
    async with await core.open_session(session_id) as session:
        ends = clock() + seconds
        while clock() < ends:
            started = clock()
            await session.turn(user_text(len(samples))).run()
            samples.append(clock() - started)
    await core.aclose()
    print(json.dumps({"turns": len(samples), "p99": percentile(samples, 0.99)}))


def raw_worker(directory: Path, index: int, seconds: float) -> None:
    """Write the rows of turns by hand until the time is over."""
    raw = RawTurns(directory / "lash.db", 10_000_000 * (index + 1))
    raw.connection.execute("PRAGMA busy_timeout=15000")
    raw.connection.execute("PRAGMA wal_autocheckpoint=1000")
    samples: list[float] = []
    ends = clock() + seconds
    while clock() < ends:
        started = clock()
        raw.turn(10_000_000 * index + len(samples))
        samples.append(clock() - started)
    raw.connection.close()
    print(json.dumps({"turns": len(samples), "p99": percentile(samples, 0.99)}))


def four_raw_processes(seconds: float) -> float:
    """Turns per second of four processes that share one file without lash."""
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(messages_stored(Path(name)))
        command = [sys.executable, __file__, "--worker", name, "--seconds", str(seconds), "--raw"]
        running = [
            subprocess.Popen([*command, str(index)], stdout=subprocess.PIPE, text=True) for index in range(PROCESSES)
        ]
        reports = [json.loads(process.communicate()[0]) for process in running]
    turns = sum(report["turns"] for report in reports)
    emit("raw_turns_per_second", turns / seconds, "turns/s", processes=PROCESSES)
    emit("raw_turn_p99_ms", max(report["p99"] for report in reports) * 1e3, "ms", processes=PROCESSES)
    return float(turns / seconds)


async def messages_stored(directory: Path) -> list[int]:
    """Messages of each session, read after a reopen."""
    core, _ = new_core(directory)
    counts = []
    for index in range(PROCESSES):
        async with await core.open_session(f"s{index}") as session:
            counts.append(len(session.read_view().messages))
    await core.aclose()
    return counts


def four_processes(seconds: float) -> float:
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, __file__, "--worker", name, "--seconds", str(seconds), "--session"]
        running = [
            subprocess.Popen([*command, f"s{index}"], stdout=subprocess.PIPE, text=True) for index in range(PROCESSES)
        ]
        errors, turns = 0, 0
        p99: list[float] = []
        acknowledged: list[int] = []
        for process in running:
            out, _ = process.communicate()
            if process.returncode:
                errors += 1
                acknowledged.append(0)
                continue
            report = json.loads(out)
            acknowledged.append(report["turns"])
            turns += report["turns"]
            p99.append(report["p99"])
        stored = asyncio.run(messages_stored(Path(name)))
        missing = sum(max(0, 2 * count - found) for count, found in zip(acknowledged, stored, strict=True))
        emit("turns_per_second", turns / seconds, "turns/s", processes=PROCESSES, seconds=seconds)
        emit("turn_p99_ms", max(p99) * 1e3, "ms", processes=PROCESSES)
        emit("errors", errors, "processes", processes=PROCESSES)
        emit("acknowledged_messages_missing", missing, "messages", processes=PROCESSES)
        return turns / seconds


class HangingCaller(InstantCaller):
    """A model that answers only when it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()

    async def call(self, request, *, sink, cancel):  # type: ignore[no-untyped-def]
        self.entered.set()
        await cancel.wait()
        self.entered.clear()
        from lash_cli.core.llm import LlmCallRecord, LlmCallResult, NormalizedError, TerminalReason

        error = NormalizedError("cancelled", "cancelled", terminal_reason=TerminalReason.CANCELLED)
        return LlmCallResult(LlmCallRecord(request.scope.request_id), error=error)


async def cancel_latency() -> None:
    """From the receipt of a cancel on another connection to the committed turn."""
    with tempfile.TemporaryDirectory() as name:
        core, store = new_core(Path(name))
        from measuring import MODEL

        from lash_cli.api import LashCore

        caller = HangingCaller()
        hanging = LashCore(provider=caller, model=MODEL, store=store)
        samples = []
        session = await hanging.open_session("s")
        for index in range(CANCELS):
            running = asyncio.create_task(session.turn(user_text(index)).run())
            await caller.entered.wait()
            # At every phase of the watcher's interval, not always at the same one.
            await asyncio.sleep(0.06 + 0.0025 * index)
            await core.request_turn_cancel("s")
            received = clock()
            await running
            samples.append(clock() - received)
        await session.close()
        await core.aclose()
        emit("cancel_to_commit_ms", percentile(samples, 0.5) * 1e3, "ms", share=0.5)
        emit("cancel_to_commit_ms", max(samples) * 1e3, "ms", share=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--worker", type=Path)
    parser.add_argument("--session", default="s")
    parser.add_argument("--raw", type=int)
    options = parser.parse_args()
    if options.raw is not None:
        raw_worker(options.worker, options.raw, options.seconds)
        return
    if options.worker is not None:
        asyncio.run(worker(options.worker, options.session, options.seconds))
        return
    ours = four_processes(options.seconds)
    emit("turns_to_raw", ours / four_raw_processes(options.seconds), "ratio", processes=PROCESSES)
    asyncio.run(cancel_latency())


if __name__ == "__main__":
    main()
