"""Ctrl-C at every place Python looks for it while a caller writes, reads or closes on its own thread (design D10).

Whatever is interrupted leaves the pen and the locks free and no transaction open; what others asked for is done once,
and they are told; the next write works.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from support.interrupts import interrupted, may_strike_between_taking_a_lock_and_its_block

from lash_cli.errors import StoreError
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite import announcing, log, writer
from lash_cli.store.sqlite.announcing import LogNews, WriterConnection
from lash_cli.store.sqlite.connections import held_here
from lash_cli.store.sqlite.database import Database, _Reader
from lash_cli.store.sqlite.writer import Request, Writer, _settle_all

_COUNT = """
INSERT INTO deleted_sessions (session_id, deleted_at_ms) VALUES (?, 1)
ON CONFLICT DO UPDATE SET deleted_at_ms = deleted_at_ms + 1
"""
WAIT_S = 30

# What is struck while it is opened is closed by being dropped, which Python remarks on.
pytestmark = [
    *[pytest.mark.filterwarnings(f"ignore:unclosed {what}:ResourceWarning") for what in ("database", "file")],
    pytest.mark.skipif(
        may_strike_between_taking_a_lock_and_its_block(),
        reason="this Python leaves a lock taken when it is interrupted",
    ),
]

Job = Callable[[sqlite3.Connection], str]


def counted(name: str) -> Job:
    """A job that counts how often it was committed, and tells observers of it."""

    def job(connection: sqlite3.Connection) -> str:
        connection.execute(_COUNT, (name,))
        if isinstance(connection, WriterConnection):
            connection.news[name] = Told(1)
        return name

    return job


def failing(name: str) -> Job:
    """A job that writes and then raises."""

    def job(connection: sqlite3.Connection) -> str:
        counted(name)(connection)
        raise ValueError(name)

    return job


class FullDisk(WriterConnection):
    """A connection that cannot commit on the thread of the test while `is_full`; the transaction is over then, as after
    some errors of SQLite, or with `keeps` still open, as after others."""

    is_full = False
    keeps = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and FullDisk.is_full and threading.current_thread() is threading.main_thread():
            if not FullDisk.keeps:
                super().execute("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *values)


class Told(LogNews):
    """What a job has to tell; a ring without it only says that there may be something."""


class Watched:
    """A database whose rings are heard: each must be for what is in the file."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        self.path = path
        self._others = set(threading.enumerate())
        self.database = Database.open(path, clock=clock, synchronous="normal")
        self.database.writer.ring = self._hear
        self._rung_for: set[str] = set()

    def _hear(self, news: Mapping[str, LogNews]) -> None:
        self._rung_for.update(name for name, told in news.items() if isinstance(told, Told))

    def counts(self) -> dict[str, int]:
        """How often each job was committed, as another process sees it."""
        with closing(sqlite3.connect(self.path)) as other:
            return dict(other.execute("SELECT session_id, deleted_at_ms FROM deleted_sessions").fetchall())

    def assert_free(self) -> None:
        """No lock of ours is held, nor one of the file."""
        for lock in (self.database.writer._lock, self.database.writer._pen):
            assert not held_here(lock)
            assert lock.acquire(blocking=False)
            lock.release()
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=WAIT_S)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")

    def close(self) -> None:
        self.database.close()
        for thread in set(threading.enumerate()) - self._others:
            # One that was interrupted before it began is listed all the same.
            if thread.name.startswith("lash-") and thread.ident is not None:
                thread.join(WAIT_S)
                assert not thread.is_alive(), "a thread was not told to end"
        assert self._rung_for <= self.counts().keys(), "a ring for what was undone"


@pytest.fixture
def watched(database_path: Path, clock: ManualClock) -> Callable[[], Watched]:
    return lambda: Watched(database_path, clock)


def settled(future: asyncio.Future[str]) -> str:
    """The result, or the name of the error."""
    error = future.exception()
    return future.result() if error is None else type(error).__name__


@pytest.mark.parametrize("fault", [None, "job", "disk is full", "disk is full, still open"])
async def test_an_interrupted_brief_write_does_what_was_put_off_once_and_holds_nothing(
    watched: Callable[[], Watched], fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "WriterConnection", FullDisk)
    monkeypatch.setattr(FullDisk, "keeps", fault == "disk is full, still open")
    is_any_failing, is_disk_full = fault == "job", fault not in (None, "job")
    world = watched()
    database = world.database
    await database.write(lambda connection: None, durable=False)
    for point in itertools.count():
        lazy = [f"{point} first", f"{point} second"]
        jobs = [counted(lazy[0]), (failing if is_any_failing else counted)(lazy[1])]
        put_off = [database.write_later(job, is_brief=lambda: True) for job in jobs]
        loop = asyncio.get_running_loop()
        brief = Request(counted(f"{point} brief"), False, loop, None, None, is_brief=lambda: True)
        is_written = None
        monkeypatch.setattr(FullDisk, "is_full", is_disk_full)
        with interrupted(Writer.write_now, point, sealed=FullDisk.execute) as strike, suppress(KeyboardInterrupt):
            is_written = database.writer.write_now(brief)
        monkeypatch.setattr(FullDisk, "is_full", False)
        world.assert_free()
        await asyncio.wait_for(asyncio.wait(put_off), WAIT_S)
        assert [settled(future) for future in put_off] == [lazy[0], "ValueError" if is_any_failing else lazy[1]]
        counts = world.counts()
        assert (counts.get(lazy[0]), counts.get(lazy[1])) == (1, None if is_any_failing else 1), strike.place
        assert counts.get(f"{point} brief", 0) <= 1
        assert await database.write_brief(counted(f"{point} next")) == f"{point} next"
        assert world.counts()[f"{point} next"] == 1
        if not strike.has_struck:
            assert is_written is (fault is None) and counts.get(f"{point} brief", 0) == (fault is None)
            break
    assert point > 30
    await database.aclose()
    world.close()


@pytest.mark.parametrize(("make_job", "is_disk_full"), [(counted, False), (failing, False), (counted, True)])
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
def test_an_interrupted_blocking_write_holds_nothing_and_is_done_once_at_most(
    watched: Callable[[], Watched],
    make_job: Callable[[str], Job],
    is_disk_full: bool,
    is_first: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(announcing, "WriterConnection", FullDisk)
    monkeypatch.setattr(FullDisk, "keeps", True)
    succeeds = make_job is counted and not is_disk_full
    # Every write finds that the log has grown, so the first starts the thread that copies it back.
    monkeypatch.setattr(log, "_WAL_RESTART_BYTES", 0)
    world = watched()
    world.database.write_sync(counted("before"), durable=True)
    here = threading.get_ident()
    for point in itertools.count():
        if is_first:
            world.close()
            world = watched()
        monkeypatch.setattr(FullDisk, "is_full", is_disk_full)
        with (
            interrupted(Database.write_sync, point, sealed=FullDisk.execute) as strike,
            suppress(KeyboardInterrupt, ValueError, StoreError),
        ):
            world.database.write_sync(make_job(f"{point}"), durable=True)
        monkeypatch.setattr(FullDisk, "is_full", False)
        world.assert_free()
        counts = world.counts()
        assert counts.get(f"{point}", 0) <= succeeds
        assert world.database.write_sync(lambda connection: threading.get_ident(), durable=True) == here, strike.place
        world.database.write_sync(counted(f"{point} next"), durable=True)
        assert world.counts()[f"{point} next"] == 1
        if not strike.has_struck:
            assert counts.get(f"{point}", 0) == succeeds
            break
    assert point > 30
    world.close()


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="descriptors cannot be listed here")
def test_an_interrupted_first_write_leaves_no_file_open_behind_its_store(watched: Callable[[], Watched]) -> None:
    for point in itertools.count():
        before = os.listdir("/dev/fd")
        world = watched()
        with interrupted(Database.write_sync, point) as strike, suppress(KeyboardInterrupt):
            world.database.write_sync(counted(f"{point}"), durable=True)
        world.close()
        place = strike.place
        # With it go the frames that were struck, and what they hold.
        del strike
        gc.collect()
        assert len(os.listdir("/dev/fd")) <= len(before), place
        if place is None:
            break
    assert point > 30


def run_through(loop: asyncio.AbstractEventLoop, work: asyncio.Future[object]) -> None:
    """Run the loop again after each interrupt, until `work` is done."""
    while not work.done():
        with suppress(KeyboardInterrupt):
            loop.run_until_complete(work)


@pytest.mark.parametrize(
    ("within", "first_place", "is_crowd", "is_fresh"),
    [
        pytest.param(Writer.submit, 0, False, True, id="a write that starts the thread"),
        pytest.param(Writer.submit, 0, False, False, id="a write"),
        pytest.param(Writer.submit, 0, True, False, id="a write in company"),
        pytest.param(Writer.submit_later, 0, False, False, id="a write that is put off"),
        # The first instant of a callback of the loop is out of reach.
        pytest.param(Writer._pass_is_over, 1, True, False, id="the end of a pass"),
        pytest.param(Writer._later_is_due, 1, False, True, id="what was put off and starts the thread"),
        pytest.param(Writer._later_is_due, 1, False, False, id="what was put off"),
        pytest.param(_settle_all, 1, True, False, id="telling"),
    ],
)
def test_an_interrupt_between_event_loop_and_thread_loses_no_write_and_doubles_none(
    watched: Callable[[], Watched],
    within: Callable[..., object],
    first_place: int,
    is_crowd: bool,
    is_fresh: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_put_off = within in (Writer._later_is_due, Writer.submit_later)
    if not is_put_off:
        # However slow the machine is, what was put off goes with the others: alone it would be a group with few places.
        monkeypatch.setattr(writer, "LAZY_SECONDS", 0.3)
    world = watched()
    loop = asyncio.new_event_loop()

    def write(name: str) -> asyncio.Future[str]:
        return asyncio.ensure_future(world.database.write(counted(name), durable=False))

    async def ask(point: int, asked: list[asyncio.Future[str]]) -> None:
        names = [f"{point} {number}" for number in range(5)]
        asked.append(world.database.write_later(counted(f"{point} lazy")))
        for name in names:
            asked.append(world.database.write_later(counted(name)) if is_put_off else write(name))

    async def make_crowd() -> None:
        # What comes while the thread is held up is one group.
        may_go_on = threading.Event()
        jobs = [lambda connection: may_go_on.wait(WAIT_S), *([lambda connection: True] * 20)]
        writes = [asyncio.ensure_future(world.database.write(job, durable=False)) for job in jobs]
        await asyncio.sleep(0)
        may_go_on.set()
        await asyncio.gather(*writes)
        assert world.database.writer._crowd > 1

    async def told(asked: list[asyncio.Future[str]]) -> None:
        await asyncio.wait_for(asyncio.wait(asked), WAIT_S)

    for point in itertools.count(first_place):
        if is_fresh:
            world.close()
            world = watched()
        else:
            loop.run_until_complete(world.database.write(lambda connection: None, durable=False))
        if is_crowd:
            loop.run_until_complete(make_crowd())
        asked: list[asyncio.Future[str]] = []
        with interrupted(within, point) as strike:
            try:
                loop.run_until_complete(ask(point, asked))
            except KeyboardInterrupt:
                # What was to end that run would end the next one.
                loop.call_soon(loop.stop)
                loop.run_forever()
            if asked:
                run_through(loop, loop.create_task(told(asked)))
        loop.run_until_complete(asyncio.wait_for(world.database.write(counted(f"{point} next"), durable=False), WAIT_S))
        counts = world.counts()
        for future in asked:
            # Who was struck itself is told by that, and its write may come with another one.
            name = settled(future)
            assert name == "KeyboardInterrupt" or counts[name] == 1, strike.place
        assert all(count == 1 for count in counts.values()), (strike.place, counts)
        assert counts[f"{point} next"] == 1
        world.assert_free()
        if not strike.has_struck:
            break
    assert point >= 8
    world.close()
    loop.close()


async def test_what_is_put_off_behind_an_interrupted_write_waits_for_no_other(watched: Callable[[], Watched]) -> None:
    world = watched()
    database, loop = world.database, asyncio.get_running_loop()
    await database.write(counted("before"), durable=False)
    for point in itertools.count():
        names = [f"{point} {which}" for which in ("lazy", "awaited", "lazy again")]
        database.write_later(counted(names[0]))
        with interrupted(Writer.submit, point) as strike, suppress(KeyboardInterrupt):
            database.writer.submit(Request(counted(names[1]), False, loop, loop.create_future(), None))
        assert await asyncio.wait_for(database.write_later(counted(names[2])), WAIT_S) == names[2], strike.place
        counts = world.counts()
        assert [counts.get(name) for name in names] in ([1, 1, 1], [1, None, 1]), strike.place
        world.assert_free()
        if not strike.has_struck:
            break
    assert point > 10
    await database.aclose()
    world.close()


def test_an_interrupted_close_is_repeated_and_ends_every_thread(
    watched: Callable[[], Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_WAL_RESTART_BYTES", 0)
    loop = asyncio.new_event_loop()
    for point in itertools.count():
        world = watched()

        async def put_off(world: Watched = world, point: int = point) -> None:
            await world.database.write(counted(f"{point} first"), durable=True)
            world.database.write_later(counted(f"{point} lazy"))

        loop.run_until_complete(put_off())
        with interrupted(Database.close, point) as strike, suppress(KeyboardInterrupt):
            world.database.close()
        world.close()
        counts = world.counts()
        assert (counts[f"{point} first"], counts[f"{point} lazy"]) == (1, 1), strike.place
        if not strike.has_struck:
            break
    assert point > 20
    loop.close()


_ALL = "SELECT session_id, deleted_at_ms FROM deleted_sessions"


def read_all(database: Database) -> dict[str, int]:
    return database.read(lambda connection: dict(connection.execute(_ALL).fetchall()))


def peek_all(database: Database) -> dict[str, int]:
    return dict(database.peek(_ALL, ()))


def peek_beside(database: Database) -> dict[str, int]:
    return dict(database._reader.peek(_ALL, ()))


@pytest.mark.parametrize(
    ("within", "look"), [(_Reader.run, read_all), (_Reader.peek, peek_beside), (Writer.peek, peek_all)]
)
def test_an_interrupted_read_leaves_no_snapshot_that_the_next_one_would_see(
    watched: Callable[[], Watched], within: Callable[..., object], look: Callable[[Database], dict[str, int]]
) -> None:
    world = watched()
    for point in itertools.count():
        with interrupted(within, point) as strike, suppress(KeyboardInterrupt):
            look(world.database)
        world.database.write_sync(counted(f"{point}"), durable=False)
        with closing(sqlite3.connect(world.path, isolation_level=None, timeout=0)) as other:
            (is_held_up, _, _) = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not is_held_up, strike.place
        assert look(world.database)[f"{point}"] == 1
        if not strike.has_struck:
            break
    assert point > 5
    world.close()
