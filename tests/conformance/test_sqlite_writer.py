"""Who writes, and on which thread: one at a time, whoever asks (design D10, decision 0013)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import shutil
import sqlite3
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lash_cli.errors import StoreError
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite import announcing, log
from lash_cli.store.sqlite import database as database_module
from lash_cli.store.sqlite.connections import WAL_KEPT_BYTES, connect
from lash_cli.store.sqlite.database import Database

_INSERT = "INSERT INTO deleted_sessions (session_id, deleted_at_ms) VALUES (?, 0)"
WAIT_S = 30


def insert(name: str) -> Callable[[sqlite3.Connection], int]:
    """A job that writes one row and says on which thread."""

    def job(connection: sqlite3.Connection) -> int:
        connection.execute(_INSERT, (name,))
        return threading.get_ident()

    return job


class Held:
    """A job that stays in its transaction until it is let go."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        connection.execute(_INSERT, ("held",))
        self.has_begun.set()
        assert self.may_end.wait(WAIT_S)


@contextlib.contextmanager
def no_thread_left() -> Iterator[None]:
    """The system starts no thread meanwhile: it has not the memory for one."""
    before = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(before)


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Of the descriptors that this process may have, only `count` are free."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def names(database: Database) -> set[str]:
    return {name for (name,) in database.peek("SELECT session_id FROM deleted_sessions", ())}


def test_who_has_no_event_loop_writes_on_its_own_thread_also_when_there_is_a_writing_thread(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock)
    here = threading.get_ident()
    assert database.write_sync(insert("before"), durable=True) == here
    assert asyncio.run(database.write(insert("from a loop"), durable=True)) != here
    assert database.write_sync(insert("after"), durable=True) == here
    assert names(database) == {"before", "from a loop", "after"}
    database.close()


async def test_a_thread_that_writes_for_itself_holds_up_no_event_loop_and_keeps_its_place(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock)
    held = Held()
    order: list[str] = []

    def noted(name: str) -> Callable[[sqlite3.Connection], None]:
        return lambda connection: order.append(name)

    blocking = asyncio.create_task(asyncio.to_thread(database.write_sync, held, durable=True))
    assert await asyncio.to_thread(held.has_begun.wait, WAIT_S)
    writes = [
        asyncio.create_task(database.write(noted("durable"), durable=True)),
        asyncio.create_task(database.write_brief(noted("brief"))),
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not order and not any(write.done() for write in writes)
    held.may_end.set()
    await asyncio.gather(blocking, *writes)
    assert order == ["durable", "brief"]
    await database.aclose()


def test_of_many_threads_that_write_none_is_left_out_and_each_is_told_its_own_result(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    told: dict[str, int] = {}
    running = [0]

    def job(name: str) -> Callable[[sqlite3.Connection], str]:
        def run(connection: sqlite3.Connection) -> str:
            running[0] += 1
            assert running[0] == 1, "two write at the same time"
            connection.execute(_INSERT, (name,))
            running[0] -= 1
            return name

        return run

    def write_many(first: int) -> None:
        for index in range(first, first + 25):
            assert database.write_sync(job(f"{index}"), durable=True) == f"{index}"
            told[f"{index}"] = index

    threads = [threading.Thread(target=write_many, args=(number * 25,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert names(database) == set(told) == {f"{index}" for index in range(400)}
    database.close()


def test_closing_waits_for_whoever_writes_for_itself(database_path: Path, clock: ManualClock) -> None:
    database = Database.open(database_path, clock=clock)
    held = Held()
    writing = threading.Thread(target=database.write_sync, args=(held,), kwargs={"durable": True})
    writing.start()
    assert held.has_begun.wait(WAIT_S)
    closing = threading.Thread(target=database.close)
    closing.start()
    held.may_end.set()
    for thread in (writing, closing):
        thread.join(WAIT_S)
        assert not thread.is_alive()
    with contextlib.closing(sqlite3.connect(database_path)) as other, other:
        assert other.execute("SELECT session_id FROM deleted_sessions").fetchall() == [("held",)]
    other.close()


class Spoilt(announcing.WriterConnection):
    """A connection that cannot undo a transaction."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql == "ROLLBACK":
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *values)


async def test_a_transaction_that_cannot_be_undone_costs_its_caller_and_nobody_after_it(
    database_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(database_path, clock=clock)
    monkeypatch.setattr(announcing, "WriterConnection", Spoilt)

    def failing(connection: sqlite3.Connection) -> None:
        connection.execute(_INSERT, ("undone",))
        raise ValueError("the job's own")

    with pytest.raises(ValueError, match="the job's own"):
        await asyncio.wait_for(database.write(failing, durable=True), WAIT_S)
    await asyncio.wait_for(database.write(insert("next"), durable=True), WAIT_S)
    assert names(database) == {"next"}
    await database.aclose()


async def opened(database_path: Path, clock: ManualClock) -> Database:
    """A database whose writing thread has begun and is idle."""
    database = Database.open(database_path, clock=clock, synchronous="normal")
    await database.write(lambda connection: None, durable=False)
    return database


async def test_a_brief_write_takes_along_what_its_loop_put_off(database_path: Path, clock: ManualClock) -> None:
    database = await opened(database_path, clock)
    here = threading.get_ident()
    dropped = database.write_later(insert("dropped"), is_brief=lambda: True)
    dropped.cancel()
    lazy = database.write_later(insert("lazy"), is_brief=lambda: True)
    statements: list[str] = []
    connection = database.writer._connection
    assert connection is not None
    connection.set_trace_callback(statements.append)
    assert await database.write_brief(insert("brief")) == here
    assert lazy.done() and lazy.result() == here
    assert [statement.partition(" ")[0] for statement in statements] == ["BEGIN", "INSERT", "INSERT", "COMMIT"]
    assert names(database) == {"lazy", "brief"}
    await database.aclose()


async def test_a_log_that_brief_writes_let_grow_is_looked_after_by_the_thread(
    database_path: Path, clock: ManualClock
) -> None:
    database = await opened(database_path, clock)
    here = threading.get_ident()
    for number in range(WAL_KEPT_BYTES // 50_000 + 2):
        if await database.write_brief(insert(f"{number}" + "x" * 50_000)) != here:
            break
    else:
        pytest.fail("the log grew, and nobody looked")
    assert any(thread.name == "lash-checkpointer" for thread in threading.enumerate())
    await database.aclose()


async def test_who_looks_reads_with_the_connection_that_writes_and_waits_for_no_write(
    database_path: Path, clock: ManualClock
) -> None:
    database = await opened(database_path, clock)
    await database.write_brief(insert("before"))
    statements: list[str] = []
    connection = database.writer._connection
    assert connection is not None
    connection.set_trace_callback(statements.append)
    assert names(database) == {"before"} and len(statements) == 1
    held = Held()
    writing = asyncio.create_task(database.write(held, durable=False))
    assert await asyncio.to_thread(held.has_begun.wait, WAIT_S)
    statements.clear()
    assert names(database) == {"before"} and not statements, "what is not committed was read, or waited for"
    held.may_end.set()
    await writing
    with pytest.raises(StoreError, match="no_such_thing"):
        database.peek("SELECT no_such_thing", ())
    await database.aclose()
    with pytest.raises(StoreError) as caught:
        names(database)
    assert caught.value.code == "store_closed"


async def test_who_looks_waits_for_no_thread_that_writes_for_itself(database_path: Path, clock: ManualClock) -> None:
    database = await opened(database_path, clock)
    await database.write_brief(insert("before"))
    held = Held()
    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(database.write_sync, held, durable=False)
        try:
            assert await asyncio.to_thread(held.has_begun.wait, WAIT_S)
            assert threads.submit(names, database).result(WAIT_S / 2) == {"before"}
        finally:
            held.may_end.set()
        writing.result(WAIT_S)
    assert names(database) == {"before", "held"}
    await database.aclose()


@pytest.mark.parametrize("is_brief", [None, lambda: False], ids=["never asked", "too long"])
async def test_what_is_not_brief_is_not_written_by_the_loop_and_keeps_its_place(
    database_path: Path, clock: ManualClock, is_brief: Callable[[], bool] | None
) -> None:
    database = await opened(database_path, clock)
    here = threading.get_ident()
    first = database.write_later(insert("first"), is_brief=lambda: True)
    long = database.write_later(insert("long"), is_brief=is_brief)
    assert await database.write_brief(insert("brief")) != here
    assert await first != here and await long != here
    await database.aclose()


async def test_one_of_those_taken_along_that_raises_is_undone_alone(database_path: Path, clock: ManualClock) -> None:
    database = await opened(database_path, clock)

    def failing(connection: sqlite3.Connection) -> None:
        connection.execute(_INSERT, ("undone",))
        raise ValueError("the job's own")

    good = database.write_later(insert("good"), is_brief=lambda: True)
    bad = database.write_later(failing, is_brief=lambda: True)
    await database.write_brief(insert("brief"))
    await good
    with pytest.raises(ValueError, match="the job's own"):
        await bad
    assert names(database) == {"good", "brief"}
    await database.aclose()


def test_what_another_loop_put_off_is_not_touched(
    database_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    asyncio.run(database.write(lambda connection: None, durable=False))
    others = asyncio.new_event_loop()

    async def put_off() -> asyncio.Future[int]:
        return database.write_later(insert("theirs"), is_brief=lambda: True)

    # Until ours is written nothing that was put off is due.
    monkeypatch.setattr(others, "time", lambda: 0.0)
    theirs = others.run_until_complete(put_off())
    assert asyncio.run(database.write_brief(insert("ours"))) != threading.get_ident()
    monkeypatch.undo()
    assert others.run_until_complete(theirs) != threading.get_ident()
    others.close()
    database.close()
    assert not theirs.cancelled()


async def test_where_no_thread_can_be_started_nothing_is_written_then_or_later(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    lazy = database.write_later(insert("lazy"))
    with no_thread_left():
        with pytest.raises(StoreError, match="no thread"):
            await database.write(insert("refused"), durable=False)
        with pytest.raises(StoreError, match="no thread"):
            await lazy
    await database.write(insert("written"), durable=False)
    assert names(database) == {"written"}
    await database.aclose()


@pytest.mark.parametrize("shortage", [no_thread_left, lambda: descriptors_left(1)], ids=["threads", "descriptors"])
async def test_who_cannot_look_after_the_log_fails_no_commit_and_is_asked_again(
    database_path: Path, clock: ManualClock, shortage: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    database = Database.open(database_path, clock=clock, synchronous="normal")
    log = database_path.with_name(f"{database_path.name}-wal")
    content = "x" * WAL_KEPT_BYTES
    await database.write(insert("first"), durable=False)
    with shortage():
        await database.write(insert("second" + content), durable=False)
        # What was asked for it has tried by now, in the time of another write.
        await asyncio.sleep(0.05)
    assert len(names(database)) == 2
    written, largest = 0, 0
    while largest >= written:
        await database.write(insert(f"{written}" + content), durable=False)
        written += len(content)
        largest = max(largest, os.stat(log).st_size)
        assert written < 20 * len(content), "the log is begun again, and does not hold all that was written"
        await asyncio.sleep(0.02)
    await database.aclose()


async def test_what_a_job_raises_is_told_where_its_group_is_not_committed_unless_it_saw_what_is_undone(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock)
    await database.write(insert("first"), durable=True)
    os.unlink(database_path)
    held = Held()

    def refuse(connection: sqlite3.Connection) -> None:
        raise LookupError("mine")

    asked = [asyncio.ensure_future(database.write(held, durable=False))]
    await asyncio.to_thread(held.has_begun.wait, WAIT_S)
    asked += [asyncio.ensure_future(database.write(job, durable=True)) for job in (refuse, insert("a"), refuse)]
    await asyncio.sleep(0)
    held.may_end.set()
    _, *group = await asyncio.gather(*asked, return_exceptions=True)
    assert [getattr(error, "code", str(error)) for error in group] == ["mine", "store_replaced", "store_replaced"]
    database.close()


def refuse_next_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses one sync; the system says so once, and nothing of it at the next one."""
    sync = log._sync

    def refuse(descriptor: int) -> None:
        monkeypatch.setattr(log, "_sync", sync)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(log, "_sync", refuse)


def names_without_log(path: Path, copy: Path) -> set[str]:
    """What is in the database itself, as where a power cut took the log."""
    shutil.copyfile(path, copy)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        return {name for (name,) in connection.execute("SELECT session_id FROM deleted_sessions")}


async def test_behind_a_sync_that_was_refused_nothing_is_acknowledged_that_a_gap_in_the_log_would_hide(
    database_path: Path, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(database_path, clock=clock)
    await database.write(insert("before"), durable=True)
    refuse_next_sync(monkeypatch)
    with pytest.raises(StoreError, match="could not be synced"):
        await database.write(insert("in doubt"), durable=True)
    await database.write(insert("later"), durable=True)
    assert names_without_log(database_path, tmp_path / "cut.db") >= {"before", "in doubt", "later"}
    await database.write(insert("last"), durable=True)
    assert "last" not in names_without_log(database_path, tmp_path / "cut.db"), "the log is written as before"
    assert names(database) == {"before", "in doubt", "later", "last"}
    await database.aclose()


async def test_while_somebody_reads_what_was_before_a_refused_sync_nothing_is_acknowledged(
    database_path: Path, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PATIENT_CHECKPOINT", "PRAGMA busy_timeout = 10")
    database = Database.open(database_path, clock=clock)
    await database.write(insert("before"), durable=True)
    with contextlib.closing(connect(database_path, (), read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM deleted_sessions").fetchone()
        refuse_next_sync(monkeypatch)
        for name in ("in doubt", "held up"):
            with pytest.raises(StoreError, match="could not be synced"):
                await database.write(insert(name), durable=True)
        await database.write(insert("not to be acknowledged"), durable=False)
    await database.write(insert("later"), durable=True)
    assert names_without_log(database_path, tmp_path / "cut.db") == names(database)
    await database.aclose()


@pytest.mark.parametrize("ended", ["goes on", "is closed"])
async def test_who_opens_the_log_after_a_sync_was_refused_doubts_it_too(
    database_path: Path, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    database = Database.open(database_path, clock=clock)
    with contextlib.closing(connect(database_path, (), read_only=True)) as other:
        other.execute("SELECT count(*) FROM deleted_sessions").fetchone()  # the last one to close empties the log
        refuse_next_sync(monkeypatch)
        with pytest.raises(StoreError, match="could not be synced"):
            await database.write(insert("in doubt"), durable=True)
        if ended == "is closed":
            await database.aclose()
        # Another process finds the same.
        later = Database.open(database_path, clock=clock)
        await later.write(insert("later"), durable=True)
        assert names_without_log(database_path, tmp_path / "cut.db") == {"in doubt", "later"}
        last = Database.open(database_path, clock=clock)
        await last.write(insert("last"), durable=True)
        assert "last" not in names_without_log(database_path, tmp_path / "cut.db"), "nobody doubts it any more"
        assert names(last) == {"in doubt", "later", "last"}
        for opened in (database, later, last):
            await opened.aclose()


async def test_the_log_of_a_database_that_is_executable_itself_is_in_no_doubt_for_that(
    database_path: Path, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every file is on FAT, and one that was copied from there; a log gets the mode of its database."""
    monkeypatch.setattr(log, "PATIENT_CHECKPOINT", "PRAGMA busy_timeout = 10")
    await Database.open(database_path, clock=clock).aclose()
    os.chmod(database_path, 0o700)
    with contextlib.closing(connect(database_path, (), read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM deleted_sessions").fetchone()
        database = Database.open(database_path, clock=clock)
        await database.write(insert("beside who reads"), durable=True)
        assert not names_without_log(database_path, tmp_path / "cut.db")
    await database.aclose()


async def test_a_checkpoint_that_cannot_sync_puts_the_log_in_doubt(
    database_path: Path, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may tell it to nobody else."""
    refused = threading.Event()

    def refuse(_self: object, _connection: sqlite3.Connection) -> None:
        refused.set()
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    monkeypatch.setattr(log.Checkpointer, "_copy_back", refuse)
    database = Database.open(database_path, clock=clock, synchronous="normal")
    await database.write(insert("long" + "x" * WAL_KEPT_BYTES), durable=True)
    assert await asyncio.to_thread(refused.wait, WAIT_S)
    await asyncio.to_thread(database.writer._checkpointer._caught_up.wait, WAIT_S)
    later = Database.open(database_path, clock=clock)
    await later.write(insert("later"), durable=True)
    assert "later" in names_without_log(database_path, tmp_path / "cut.db")
    await later.aclose()
    await database.aclose()


async def test_who_keeps_a_log_in_doubt_from_being_emptied_is_waited_for_once(
    database_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = "PRAGMA busy_timeout = 10"
    monkeypatch.setattr(log, "PATIENT_CHECKPOINT", patient)
    database = Database.open(database_path, clock=clock)
    waits: list[str] = []

    def watched(connection: sqlite3.Connection) -> None:
        connection.execute(_INSERT, (f"{len(waits)}",))
        connection.set_trace_callback(lambda statement: waits.append(statement) if statement == patient else None)

    with contextlib.closing(connect(database_path, (), read_only=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM deleted_sessions").fetchone()
        refuse_next_sync(monkeypatch)
        with pytest.raises(StoreError, match="could not be synced"):
            await database.write(watched, durable=True)
        for name in ("one", "two", "three"):
            with pytest.raises(StoreError, match="keeps it from being emptied"):
                await database.write(insert(name), durable=True)
        assert waits == [patient]
    await database.write(insert("acknowledged"), durable=True)
    await database.aclose()


async def test_a_write_that_is_begun_within_another_one_is_never_waited_for(
    database_path: Path, clock: ManualClock
) -> None:
    """As by what is collected there: a coroutine whose event loop was closed gives back what it holds."""
    database = Database.open(database_path, clock=clock)
    told: list[str] = []

    def collect(connection: sqlite3.Connection) -> None:
        for within in (database.write(lambda _: None, durable=True), database.write_brief(lambda _: None)):
            try:
                within.send(None)
            except StoreError as refusal:
                told.append(refusal.code)
            finally:
                within.close()
        told.append(str(database.writer.peek("SELECT 1", ())))

    async def tells(writing: Awaitable[object]) -> list[str]:
        told.clear()
        await writing
        await database.write(insert(str(len(done))), durable=True)
        done.append("again")
        return told.copy()

    done: list[str] = []
    async with asyncio.timeout(WAIT_S):
        refused = ["store_write_within"] * 2 + ["None"]
        assert await tells(database.write(collect, durable=True)) == refused, "on the thread that writes"
        assert await tells(database.write_brief(collect)) == refused, "on that of an event loop"
        assert await tells(asyncio.to_thread(database.write_sync, collect, durable=True)) == refused, "on any other"
    await database.aclose()


@pytest.mark.timeout(WAIT_S)
async def test_a_write_that_is_begun_while_another_one_is_being_queued_is_never_waited_for(
    database_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above: a pass of the event loop is asked for in the middle of queueing, and that is where things are collected
    that others left."""
    database = Database.open(database_path, clock=clock)
    await asyncio.gather(*(database.write(insert(f"company {number}"), durable=False) for number in range(4)))
    loop, told = asyncio.get_running_loop(), list[str]()
    call_soon = loop.call_soon

    def collect(callback: Callable[..., object], *arguments: Any, **options: Any) -> asyncio.Handle:
        if not told and callback == database.writer._pass_is_over:
            told.append(str(database.peek("SELECT 1", ())))
            within = database.write(insert("within"), durable=True)
            with pytest.raises(StoreError) as refusal:
                within.send(None)
            told.append(refusal.value.code)
        return call_soon(callback, *arguments, **options)

    monkeypatch.setattr(loop, "call_soon", collect)
    await asyncio.gather(*(database.write(insert(f"again {number}"), durable=True) for number in range(4)))
    monkeypatch.undo()
    assert told == ["[(1,)]", "store_write_within"]
    await database.aclose()


@pytest.mark.timeout(WAIT_S)
async def test_a_read_that_is_begun_within_another_one_is_never_waited_for(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock)
    await database.write(insert("one"), durable=True)

    with pytest.raises(StoreError, match="being read") as refusal:
        database.read(lambda _: database.change_mark())
    assert refusal.value.code == "store_read_within"
    assert database.read(lambda _: names(database)) == {"one"}, "the connection that writes is free"
    assert database.change_mark() == database.change_mark()
    await database.aclose()


def test_a_database_that_is_gone_as_it_is_opened_says_so_once(
    database_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []
    gc.collect()  # what others left has nothing to do with it
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    monkeypatch.setattr(database_module, "refuse_lost", os.remove)
    with pytest.raises(StoreError) as refusal:
        Database.open(database_path, clock=clock)
    assert refusal.value.code == "store_replaced"
    refusal.value.__traceback__ = None
    del refusal
    gc.collect()
    assert said == []
