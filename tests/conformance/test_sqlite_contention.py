"""The file under pressure: locks that do not go away, commits raced by processes, a burst of writes, no permission.

Everything here is about one promise: a write either happened and is told so,
or failed under a stable code and left nothing behind (contract 01 §9.2, design
D1, D10).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from support.processes import start_process

from lash_cli.core.codec import encode
from lash_cli.core.ingress import ActiveTurn
from lash_cli.errors import LashError, StoreError, StoreLocked, StoreReadOnly, StoreUnusable
from lash_cli.store.base import ReadScope
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.queueing import CheckpointClaims
from lash_cli.store.sqlite import log as log_module
from lash_cli.store.sqlite.connections import map_error
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

NOBODY = 65_534
SHORT_S = 0.05
MIB = 1024 * 1024
WAL_LIMIT_BYTES = 80 * MIB
_INSERT = "INSERT INTO deleted_sessions (session_id, deleted_at_ms) VALUES (?, 0)"
_IDS = "SELECT session_id FROM deleted_sessions ORDER BY session_id"
_STORE_BLOB = "INSERT INTO blobs (hash, content) VALUES (?, ?)"

ROUNDS = 12
RACER = """
import asyncio, sys
from pathlib import Path
from lash_cli.core.codec import decode
from lash_cli.core.lease import LeaseFence
from lash_cli.errors import HeadRevisionConflict
from lash_cli.store.conformance import builders as make
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

async def main(path, name, fence):
    store = SqliteStore.open(Path(path), SystemClock(), SystemIds())
    index = 0
    while True:
        head = await store.head_position(fence.session_id)
        print("ready", flush=True)
        if sys.stdin.readline() != "go\\n":
            break
        delta = make.append([f"{name}{index}"], parent=head.leaf_node_id)
        index += 1
        try:
            result = await store.commit_runtime_state(
                make.commit(fence, delta, expected=head.head_revision, usage_deltas=(make.usage(),))
            )
        except HeadRevisionConflict:
            print("lost", flush=True)
        else:
            print(result.head_revision, flush=True)
    await store.aclose()

asyncio.run(main(sys.argv[1], sys.argv[2], decode(sys.argv[3], LeaseFence)))
"""


def insert(session_id: str) -> Callable[[sqlite3.Connection], Any]:
    return lambda connection: connection.execute(_INSERT, (session_id,)).rowcount


def size_of(path: Path) -> int:
    return path.stat().st_size


def ids_in(database: Database) -> list[str]:
    return [row[0] for row in database.read(lambda connection: connection.execute(_IDS).fetchall())]


@contextlib.contextmanager
def held(path: Path, statement: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Somebody else's lock on the file."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(statement)
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


async def test_a_lock_that_stays_is_an_error_after_the_timeout_and_nothing_was_written(
    database_path: Path, clock: ManualClock
) -> None:
    database = Database.open(database_path, clock=clock, lock_timeout_s=SHORT_S)
    await database.write(insert("before"), durable=True)
    with held(database_path):
        outcomes = await asyncio.gather(
            *(database.write(insert(f"during-{index}"), durable=True) for index in range(3)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [StoreLocked] * 3
        assert ids_in(database) == ["before"], "a reader never waits for a writer"
    error = outcomes[0]
    assert isinstance(error, StoreLocked)
    assert (error.code, error.exit_status, error.retryable, error.ambiguous) == ("store_locked", 75, True, False)
    await database.write(insert("later"), durable=True)
    assert ids_in(database) == ["before", "later"]
    await database.aclose()


@pytest.mark.parametrize("what", ["a command", "what steers a turn"])
async def test_a_queue_that_is_held_between_the_look_at_it_and_the_taking_keeps_what_it_has(
    open_store: Callable[[], SqliteStore], clock: ManualClock, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    store, running = await make.running(open_store, clock)
    await make.put(store, make.command())
    await make.enqueue(store, "steer", ingress=ActiveTurn("t1"))
    fence = make.fence_of_lane(running)
    other, write = open_store(), store.db.write

    async def held_first(*arguments: Any, **options: Any) -> Any:
        await other.set_queue_hold(make.SESSION, held_at_ms=clock.now_ms())
        return await write(*arguments, **options)

    monkeypatch.setattr(store.db, "write", held_first)
    if what == "a command":
        assert await store.claim_leading_session_command(fence, claim_token="c") is None
    else:
        assert await store.claim_checkpoint_work(fence, make.checkpoint_request()) == CheckpointClaims()


async def test_a_lock_that_goes_away_in_time_is_waited_for(database_path: Path, clock: ManualClock) -> None:
    database = Database.open(database_path, clock=clock)
    with held(database_path):
        writing = asyncio.create_task(database.write(insert("patient"), durable=True))
        await asyncio.sleep(SHORT_S)
        assert not writing.done()
    assert await writing == 1
    await database.aclose()


def test_a_first_open_that_meets_a_lock_gives_up_and_can_be_repeated(database_path: Path, clock: ManualClock) -> None:
    database_path.parent.mkdir()
    database_path.touch(mode=0o600)
    for statement in ("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"):
        with held(database_path, statement), pytest.raises(StoreLocked):
            SqliteStore.open(database_path, clock, SystemIds(), lock_timeout_s=SHORT_S)
    SqliteStore.open(database_path, clock, SystemIds(), lock_timeout_s=SHORT_S).close()


class Racer:
    """A process that commits when it is told to."""

    def __init__(self, path: Path, name: str, fence: str) -> None:
        self._process = start_process(
            [sys.executable, "-c", RACER, str(path), name, fence],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def end(self) -> int:
        self._process.communicate(timeout=60)
        return self._process.returncode


async def test_each_revision_raced_by_two_processes_is_won_by_exactly_one(database_path: Path) -> None:
    clock = SystemClock()
    store = SqliteStore.open(database_path, clock, SystemIds())
    await make.create(store, clock)
    fence = encode(await make.fence_of(store)).decode()
    racers = [Racer(database_path, name, fence) for name in ("a", "b")]
    for expected in range(1, ROUNDS + 1):
        assert [racer.hear() for racer in racers] == ["ready", "ready"]
        for racer in racers:
            racer.tell("go")
        assert sorted(racer.hear() for racer in racers) == sorted([str(expected), "lost"])
    for racer in racers:
        assert racer.hear() == "ready"
        racer.tell("stop")
    assert [racer.end() for racer in racers] == [0, 0]
    read = await store.load_session(make.SESSION, ReadScope.FULL_GRAPH)
    assert read is not None
    assert (read.head_revision, len(read.nodes)) == (ROUNDS, ROUNDS)
    assert sum(entry.usage.input_tokens for entry in read.token_ledger) == ROUNDS, "a loser books nothing"
    path = await store.load_session(make.SESSION, ReadScope.ACTIVE_PATH)
    assert path is not None and len(path.nodes) == ROUNDS, "every winner built on the one before"
    await store.aclose()


@pytest.mark.parametrize(("at_once", "size"), [(1, MIB // 4), (8, MIB // 4), (64, 32 * 1024)])
async def test_the_log_stays_bounded_under_a_burst_of_writes_and_nothing_is_lost(
    database_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, at_once: int, size: int
) -> None:
    # However long the disk takes to copy it back.
    monkeypatch.setattr(log_module, "_CATCH_UP_SECONDS", 120.0)
    database = Database.open(database_path, clock=clock, synchronous="normal")
    log = Path(f"{database_path}-wal")
    largest = 0
    total = 5 * WAL_LIMIT_BYTES // 4 // size

    def put(index: int) -> Callable[[sqlite3.Connection], Any]:
        return lambda connection: connection.execute(_STORE_BLOB, (f"{index:08d}", bytes(size))).rowcount

    for first in range(0, total, at_once):
        last = min(first + at_once, total)
        await asyncio.gather(*(database.write(put(index), durable=False) for index in range(first, last)))
        largest = max(largest, size_of(log))
    assert largest < WAL_LIMIT_BYTES
    await database.aclose()
    reopened = Database.open(database_path, clock=clock)
    counted = reopened.read(lambda connection: connection.execute("SELECT count(*), sum(length(content)) FROM blobs"))
    assert counted.fetchone() == (total, total * size)
    assert reopened.read(lambda connection: connection.execute("PRAGMA quick_check").fetchall()) == [("ok",)]
    reopened.close()


@pytest.fixture
def private(tmp_path: Path, clock: ManualClock) -> Iterator[Path]:
    """A directory of an ordinary user; a test of root becomes that user, because root may write everywhere."""
    # What is imported once a database is made and written may be out of reach of that user.
    made = Database.open(tmp_path / "made.db", clock=clock)
    made.write_sync(insert("any"), durable=True)
    made.close()
    directory = Path(tempfile.mkdtemp(prefix="lash-"))
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.chown(directory, NOBODY, NOBODY)
            try:
                # The effective user of every thread of this process: file access is judged by it.
                os.seteuid(NOBODY)
            except PermissionError:
                pytest.skip("root of this container may not become another user")
            if not os.access(directory, os.W_OK, effective_ids=True):
                pytest.skip("temporary files are out of reach of ordinary users here")
        yield directory
    finally:
        if is_root:
            os.seteuid(0)
        directory.chmod(0o700)
        shutil.rmtree(directory)


def test_a_log_that_the_disk_has_no_file_for_is_no_matter_of_permissions(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lash.db"
    Database.open(path, clock=clock).close()
    (tmp_path / "lash.db-wal").mkdir()
    room = os.statvfs(path)
    full = os.statvfs_result((*room[:5], 1000, 0, 0, *room[8:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(LashError) as caught:
        Database.open(path, clock=clock, read_only=True)
    assert (caught.value.code, caught.value.hint) == ("output_not_written", "make room there, then try again")


def test_an_index_of_the_log_that_a_full_disk_does_not_take_is_told_as_that(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on every disk that filled up while nobody had the database open, also for who only reads."""
    path = tmp_path / "lash.db"
    Database.open(path, clock=clock).close()
    room = os.statvfs(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(StoreError, match="disk I/O error"):
            Database.open(path, clock=clock, read_only=True)
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*room[:4], 7, *room[5:])))
        with pytest.raises(LashError) as caught:
            Database.open(path, clock=clock, read_only=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.code, caught.value.ambiguous) == ("output_not_written", False)
    assert caught.value.hint == "make room there, then try again" and os.strerror(errno.ENOSPC) in caught.value.message


@pytest.mark.parametrize("has_index", [True, False])
def test_an_index_that_cannot_grow_says_nothing_of_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_index: bool
) -> None:
    path = tmp_path / "lash.db"
    path.touch()
    (tmp_path / "lash.db-shm").write_bytes(bytes(32_768 if has_index else 0))
    room = os.statvfs(path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*room[:4], 7, *room[5:])))
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert map_error(error, path).ambiguous == has_index


def test_a_new_database_that_the_disk_has_no_room_for_is_no_matter_of_permissions(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(LashError) as caught:
        Database.open(tmp_path / "lash.db", clock=clock)
    assert (caught.value.code, caught.value.hint) == ("output_not_written", "make room there, then try again")


def test_a_read_only_directory_without_a_database_is_refused_and_stays_empty(private: Path, clock: ManualClock) -> None:
    private.chmod(0o500)
    for path in (private / "lash.db", private / "deeper" / "lash.db"):
        with pytest.raises(StoreReadOnly) as caught:
            Database.open(path, clock=clock)
        assert (caught.value.code, caught.value.exit_status) == ("permissions_unsafe", 5)
    assert list(private.iterdir()) == []


def test_a_read_only_directory_around_a_closed_database_is_a_permission_error(
    private: Path, clock: ManualClock
) -> None:
    database = Database.open(private / "lash.db", clock=clock)
    database.write_sync(insert("kept"), durable=True)
    database.close()
    private.chmod(0o500)
    with pytest.raises(StoreReadOnly) as caught:
        again = Database.open(private / "lash.db", clock=clock)
        try:
            again.write_sync(insert("refused"), durable=True)
        finally:
            again.close()
    assert caught.value.exit_status == 5
    private.chmod(0o700)
    again = Database.open(private / "lash.db", clock=clock)
    assert ids_in(again) == ["kept"]
    again.close()


def test_a_read_only_file_can_be_read_and_refuses_a_write(private: Path, clock: ManualClock) -> None:
    path = private / "lash.db"
    database = Database.open(path, clock=clock)
    database.write_sync(insert("kept"), durable=True)
    database.close()
    path.chmod(0o400)
    database = Database.open(path, clock=clock)
    with pytest.raises(StoreReadOnly) as caught:
        database.write_sync(insert("refused"), durable=True)
    assert caught.value.exit_status == 5
    assert caught.value.hint is not None and caught.value.hint.startswith("it can only be read there")
    assert ids_in(database) == ["kept"]
    database.close()


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_in_the_place_of_a_directory_is_a_permission_error_for_root_too(
    tmp_path: Path, clock: ManualClock, nested: bool
) -> None:
    (tmp_path / "home").write_text("a file")
    path = tmp_path / "home" / ("deeper/lash.db" if nested else "lash.db")
    with pytest.raises(StoreReadOnly) as caught:
        Database.open(path, clock=clock)
    assert caught.value.exit_status == 5
    assert (tmp_path / "home").read_text() == "a file"


def test_a_directory_in_the_place_of_the_database_is_a_permission_error(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "lash.db").mkdir()
    with pytest.raises(StoreReadOnly):
        Database.open(tmp_path / "lash.db", clock=clock)
    assert list((tmp_path / "lash.db").iterdir()) == []


@pytest.mark.parametrize("synchronous", ["full", "normal"])
@pytest.mark.parametrize("what", ["replaced", "removed"])
async def test_nothing_is_acknowledged_once_the_file_is_another_one_or_gone(
    database_path: Path, clock: ManualClock, what: str, synchronous: Literal["full", "normal"]
) -> None:
    store = SqliteStore.open(database_path, clock, synchronous=synchronous)
    await make.create(store, clock)
    before = _taken_away(database_path, clock, what)
    for _ in range(2):
        with pytest.raises(StoreUnusable) as caught:
            await make.enqueue(store, "a")
        assert (caught.value.code, caught.value.ambiguous) == ("store_replaced", False)
    # Nor does what nobody is told get into the other file, however much of it there is.
    for index in range(6):
        values = (f"{index:064}", bytes(MIB))
        await store.db.write(lambda connection, values=values: connection.execute(_STORE_BLOB, values), durable=False)
    await store.aclose()
    assert _content(database_path) == before


@pytest.mark.parametrize("what", ["replaced", "removed"])
async def test_nor_where_that_happened_before_anything_was_written(
    database_path: Path, clock: ManualClock, what: str
) -> None:
    store = SqliteStore.open(database_path, clock)
    assert await store.session_row("s") is None
    before = _taken_away(database_path, clock, what)
    for _ in range(2):
        with pytest.raises(StoreUnusable) as caught:
            await make.create(store, clock)
        assert (caught.value.code, caught.value.ambiguous) == ("store_replaced", False)
    await store.aclose()
    assert _content(database_path) == before


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("what", ["replaced", "removed"])
async def test_nor_does_who_watches_wait_on_a_file_that_nobody_writes_any_more(
    database_path: Path, clock: ManualClock, what: str, read_only: bool
) -> None:
    made = SqliteStore.open(database_path, clock)
    await make.create(made, clock)
    await made.aclose()
    store = SqliteStore.open(database_path, clock, read_only=read_only)
    cursor = (await store.live.cut(make.SESSION, ReadScope.HEAD)).cursor
    await store.change_mark()
    _taken_away(database_path, clock, what)
    for look in (store.change_mark, lambda: store.live.replay(cursor)):
        with pytest.raises(StoreUnusable) as caught:
            await look()
        assert caught.value.code == "store_replaced"
    await store.aclose()


def test_a_place_that_may_not_be_looked_at_is_no_database_that_was_replaced(private: Path, clock: ManualClock) -> None:
    database = Database.open(private / "lash.db", clock=clock)
    database.write_sync(insert("before"), durable=True)
    private.chmod(0o000)
    with pytest.raises(StoreReadOnly) as caught:
        database.write_sync(insert("refused"), durable=True)
    assert (caught.value.code, caught.value.ambiguous) == ("permissions_unsafe", False)
    private.chmod(0o700)
    database.write_sync(insert("later"), durable=True)
    assert ids_in(database) == ["before", "later"]
    database.close()


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _taken_away(database: Path, clock: ManualClock, what: str) -> bytes | None:
    """Have another database stand under its name, or none; the bytes that stand there now."""
    if what == "replaced":
        other = database.with_name("other.db")
        SqliteStore.open(other, clock).close()
        os.replace(other, database)
    else:
        os.unlink(database)
    return _content(database)
