"""Watching a session whose work happens in other processes, some of which die (contract 04 §10, §11, §12)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.cli import environment
from support.prepared import prepare
from support.watching import ONE_IN, PIECES, StreamingCaller, fold

from lash_cli.api import LashCore, ModelSpec, ObservedEvent, ObservedGap, SessionCursor, SqliteStore
from lash_cli.core.activity import ModelAttemptReset, TurnStarted
from lash_cli.core.codec import tag_of
from lash_cli.core.observation import (
    GENESIS,
    ActivityObserved,
    QueueChanged,
    SessionObservationEvent,
    StateCommitted,
)
from lash_cli.runtime.observing import RecoveringStream
from lash_cli.system import SystemClock, SystemIds

PROGRAM = Path(__file__).parent.parent / "support" / "watching.py"
PATIENCE_S = 60
LOADED = """
import sys
from lash_cli.__main__ import main
sys.argv[0] = "lash"
main(sys.argv[1:])
sys.stdout.flush()
print("\\n" + " ".join(sorted(sys.modules)), file=sys.stderr)
"""
WATCHING = {
    "lash_cli.core.observation",
    "lash_cli.core.remote",
    "lash_cli.store.live",
    "lash_cli.store.sqlite.announcing",
    "lash_cli.store.sqlite.live",
    "lash_cli.runtime.bells",
    "lash_cli.runtime.observing",
    "lash_cli.api.observable",
}
ROUNDS = 40
SEED = 20_261_126
S = "s1"
START = SessionCursor(GENESIS, 0, 0, S)
ANSWER = "".join(PIECES)


@pytest.fixture(params=["bells", "polling"])
def waking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """With bells, and where no socket's path is short enough."""
    place = tempfile.mkdtemp(prefix="lb", dir="/tmp")
    if request.param == "polling":
        shutil.rmtree(place)
        place = str(tmp_path / ("x" * 100))
        os.mkdir(place)
    monkeypatch.setenv("XDG_RUNTIME_DIR", place)
    yield
    shutil.rmtree(place)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "lash.db"


@pytest.fixture
async def core(database: Path, waking: None) -> AsyncIterator[LashCore]:
    store = SqliteStore.open(database, SystemClock(), SystemIds())
    async with LashCore(provider=StreamingCaller(), model=ModelSpec("m"), store=store, queue_driver="none") as opened:
        yield opened


started: list[asyncio.subprocess.Process] = []


async def spawn(*arguments: object) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), *map(str, arguments), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    started.append(process)
    return process


@pytest.fixture(autouse=True)
async def no_process_is_left() -> AsyncIterator[None]:
    """Ends what a failed test did not end, and reads its pipe to the end: then the loop closes it."""
    yield
    while started:
        process = started.pop()
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def events(stream: RecoveringStream, until: type) -> list[SessionObservationEvent]:
    """Events up to the first of a kind; a gap would be an error."""
    seen: list[SessionObservationEvent] = []
    async with asyncio.timeout(PATIENCE_S):
        async for item in stream:
            assert isinstance(item, ObservedEvent), item
            seen.append(item.event)
            if isinstance(item.event.payload, until):
                return seen
    raise AssertionError("the stream ended")


async def test_a_turn_of_another_process_is_seen_from_before_the_session_exists(core: LashCore, database: Path) -> None:
    stream = core.observe(S).subscribe_and_recover(START)
    writer = await spawn("turns", database, S, 2)
    for _ in range(2):
        assert fold(await events(stream, StateCommitted)) == ANSWER
    assert await writer.wait() == 0
    await stream.aclose()


async def test_two_writers_in_turn_are_one_stream(core: LashCore, database: Path) -> None:
    stream = core.observe(S).subscribe_and_recover(START)
    revisions = []
    for _ in range(2):
        writer = await spawn("turns", database, S, 1)
        revisions.append((await events(stream, StateCommitted))[-1].revision)
        await writer.wait()
        async with await core.open_session(S) as session:
            await session.turn("from here").run()
        revisions.append((await events(stream, StateCommitted))[-1].revision)
    assert revisions == [1, 2, 3, 4]
    await stream.aclose()


async def test_a_change_of_the_queue_by_a_third_process_appears(core: LashCore, database: Path) -> None:
    async with await core.open_session(S):
        stream = core.observe(S).subscribe_and_recover(START)
        third = await spawn("enqueue", database, S, "in_7")
        (event,) = await events(stream, QueueChanged)
        assert event.payload == QueueChanged("enqueued", ("in_7",))
        await third.wait()
        await stream.aclose()


@pytest.mark.parametrize("point", ["mid-turn", "before-commit", "before-ring"])
async def test_a_killed_writer_is_seen_exactly_as_far_as_it_committed(
    core: LashCore, database: Path, point: str
) -> None:
    stream = core.observe(S).subscribe_and_recover(START)
    writer = await spawn("turns", database, S, 1, point)
    assert await writer.wait() == -signal.SIGKILL
    if point == "before-ring":
        # Nobody was told; the log says it all the same, and once.
        seen = await events(stream, StateCommitted)
        assert fold(seen) == ANSWER
        async with await core.open_session(S) as session:
            assert (await session.redrive().run()).result is None
    else:
        async with await core.open_session(S) as session:
            assert (await session.redrive().run()).result.assistant_message() == ANSWER
        seen = await events(stream, StateCommitted)
        redriven = next(
            number
            for number, event in enumerate(seen)
            if isinstance(event.payload, ActivityObserved)
            and isinstance(event.payload.activity.event, TurnStarted)
            and event.payload.activity.event.redriven
        )
        shown = [event for event in seen[:redriven] if fold([event])]
        if shown:
            reset = seen[redriven - 1].payload
            assert isinstance(reset, ActivityObserved) and isinstance(reset.activity.event, ModelAttemptReset)
            assert fold(seen[:redriven]) == ""
        assert shown or point == "before-commit"
        assert fold(seen) == ANSWER
        assert len({event.turn_id for event in seen}) == 1
    assert [event.revision for event in seen if isinstance(event.payload, StateCommitted)] == [1]
    whole = await core.observe(S).resume_from_cursor(START)
    assert list(whole.events[: len(seen)]) == seen
    await stream.aclose()


async def test_a_tail_killed_forty_times_neither_skips_nor_repeats(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tempfile.mkdtemp(prefix="lb", dir="/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", place)
    store = SqliteStore.open(database, SystemClock(), SystemIds())
    async with LashCore(provider=StreamingCaller(), model=ModelSpec("m"), store=store) as core:
        unbroken: list[str] = []
        stream = core.observe(S).subscribe_and_recover(START)

        async def watch() -> None:
            async for item in stream:
                assert not isinstance(item, ObservedGap)
                unbroken.append(f"{item.event.cursor} {tag_of(item.event.payload)}")

        watching = asyncio.ensure_future(watch())
        tails = await spawn("tails", database, S, ROUNDS, SEED)
        lines: list[str] = []
        is_last = asyncio.Event()

        async def read() -> None:
            assert tails.stdout is not None
            async for line in tails.stdout:
                lines.append(line.decode().rstrip("\n"))
                if lines[-1] == "last":
                    is_last.set()

        reading = asyncio.ensure_future(read())
        async with await core.open_session(S) as session, asyncio.timeout(PATIENCE_S):
            while not is_last.is_set():
                await session.turn("more").run()
        await core.delete_session(S)
        await asyncio.wait_for(reading, PATIENCE_S)
        await tails.wait()
        with pytest.raises(Exception, match="deleted"):
            await watching
    assert lines.pop() == "closed"
    lines.remove("last")
    assert len(lines) >= ROUNDS // ONE_IN and lines == unbroken[: len(lines)]
    shutil.rmtree(place, ignore_errors=True)


def test_a_look_loads_nothing_that_only_watching_needs(tmp_path: Path) -> None:
    """Of `ls` and `show` for a program, `tests/cli/test_startup.py` lists every module."""
    home = prepare(tmp_path / "home", ("open", S))
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "--version"],
        env=environment(home),
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    loaded = set(done.stderr.decode().splitlines()[-1].split())
    assert "lash_cli.__main__" in loaded and not loaded & WATCHING
