"""Connections to one SQLite file: one writer thread, inline reads, a background checkpointer (design D1, D10, D22).

All writes of a process pass through one thread that commits together what
queued up while the last commit ran. A group is one `BEGIN IMMEDIATE`; each of
several jobs runs in a savepoint, so one that raises takes only itself back.
Nobody learns a result before COMMIT. Reads use their own connections and end
their transaction before they return. The WAL is copied back by a thread of its
own, so no commit pays for it. Waiting for another process's lock is physical
waiting: it uses real time, never the injected clock, which is for records.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, TypeVar, cast

from lash_cli.core.protocols import Clock
from lash_cli.errors import LashError, NotFoundError, StoreError, StoreLocked, StoreReadOnly, StoreUnusable
from lash_cli.store.sqlite import schema

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
Synchronous = Literal["full", "normal"]

LOCK_TIMEOUT_SECONDS: Final = 15.0
_FIRST_RETRY_SECONDS: Final = 0.0001
_LONGEST_RETRY_SECONDS: Final = 0.002
_MAX_GROUP: Final = 256
_STATEMENT_CACHE: Final = 256
_WAL_PASSIVE_BYTES: Final = 4 * 1024 * 1024
_WAL_RESTART_BYTES: Final = 64 * 1024 * 1024
_GROUPS_BETWEEN_WAL_CHECKS: Final = 32
_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600

# SQLite primary result codes, https://sqlite.org/rescode.html
_LOCKED_CODES: Final = {5, 6}
_READ_ONLY_CODES: Final = {3, 8, 14, 23}
_CORRUPT_CODES: Final = {11, 26}

_BEGIN_WRITE = "BEGIN IMMEDIATE"
_BEGIN_READ = "BEGIN"
_COMMIT = "COMMIT"
_ROLLBACK = "ROLLBACK"
_SAVEPOINT = "SAVEPOINT job"
_UNDO_SAVEPOINT = "ROLLBACK TO job"
_RELEASE_SAVEPOINT = "RELEASE job"
_WAL = "PRAGMA journal_mode = WAL"
_JOURNAL_MODE = "PRAGMA journal_mode"
_PASSIVE_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
_TRUNCATE_CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"
_SYNCHRONOUS = {True: "PRAGMA synchronous = FULL", False: "PRAGMA synchronous = NORMAL"}
# `journal_size_limit` cuts the WAL back when it restarts, so its size on disk tells how much is waiting.
_WRITER_PRAGMAS = (
    "PRAGMA busy_timeout = 0",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA journal_size_limit = 1048576",
    "PRAGMA cache_size = -8000",
    "PRAGMA fullfsync = ON",
)
_READER_PRAGMAS = (
    "PRAGMA busy_timeout = 15000",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA cache_size = -8000",
    "PRAGMA query_only = ON",
)
_CHECKPOINTER_PRAGMAS = ("PRAGMA busy_timeout = 2000", "PRAGMA synchronous = NORMAL", "PRAGMA fullfsync = ON")


def map_error(error: sqlite3.Error, path: Path) -> LashError:
    """The lash error of a SQLite error; the only place that knows SQLite's codes."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary in _LOCKED_CODES:
        return StoreLocked(f"{path} stayed locked by another process for {LOCK_TIMEOUT_SECONDS:.0f} s")
    if primary in _READ_ONLY_CODES:
        return StoreReadOnly(f"{path} cannot be opened or written: {error}")
    if primary in _CORRUPT_CODES:
        return StoreUnusable(f"{path} is damaged or not a database: {error}", code="store_corrupt")
    return StoreError(f"{path}: {error}")


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise map_error(error, path) from error


def _is_locked(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF in _LOCKED_CODES


def _patiently(connection: sqlite3.Connection, statement: str, jitter: random.Random) -> Any:
    """Run a statement that takes a lock, waiting for other processes up to the lock timeout.

    The busy handler of SQLite sleeps in steps that are long against a commit and is not called at all for a change
    of the journal mode, hence the ladder of our own. Raises `sqlite3.OperationalError` when time is up.
    """
    pause = _FIRST_RETRY_SECONDS
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            return connection.execute(statement).fetchone()
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or time.monotonic() >= deadline:
                raise
        time.sleep(pause * (0.5 + jitter.random()))
        pause = min(pause * 2, _LONGEST_RETRY_SECONDS)


def _connect(path: Path, pragmas: tuple[str, ...], *, read_only: bool = False) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENT_CACHE
    )
    for pragma in pragmas:
        connection.execute(pragma)
    return connection


def _create_file(path: Path) -> None:
    """Make the directory and the empty file with modes nobody else can read, before SQLite could make them."""
    try:
        path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _FILE_MODE))
    except FileExistsError:
        if not path.parent.is_dir() or path.is_dir():
            raise StoreReadOnly(f"{path} is in the way of the database") from None
    except OSError as error:
        raise StoreReadOnly(f"{path} cannot be created: {error.strerror}") from error


def _is_current(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has today's schema; raises `StoreUnusable` when it is newer or not ours. Writes nothing."""
    (version,) = connection.execute(schema.READ_USER_VERSION).fetchone()
    (application,) = connection.execute(schema.READ_APPLICATION_ID).fetchone()
    if application != schema.APPLICATION_ID:
        (has_tables,) = connection.execute(schema.HAS_ANY_TABLE).fetchone()
        if application or version or has_tables:
            raise StoreUnusable(f"{path} is not a lash database", code="store_corrupt")
        return False
    if version > schema.SCHEMA_VERSION:
        raise StoreUnusable(
            f"{path} has schema {version}, this program knows {schema.SCHEMA_VERSION}",
            code="schema_too_new",
            hint="update lash",
        )
    return bool(version == schema.SCHEMA_VERSION)


def _bring_up_to_date(path: Path, jitter: random.Random) -> None:
    """Switch to WAL and apply the pending migrations, once, however many processes try at the same time."""
    connection = _connect(path, _WRITER_PRAGMAS)
    try:
        if connection.execute(_JOURNAL_MODE).fetchone()[0] != "wal":
            _patiently(connection, _WAL, jitter)
        connection.execute(_SYNCHRONOUS[True])
        _patiently(connection, _BEGIN_WRITE, jitter)
        try:
            if not _is_current(connection, path):
                schema.migrate(connection)
            connection.execute(_COMMIT)
        finally:
            if connection.in_transaction:
                connection.execute(_ROLLBACK)
    finally:
        connection.close()


@dataclass(slots=True, eq=False)
class _Request:
    """One queued job and how its caller learns the result."""

    job: Job[Any]
    durable: bool
    loop: asyncio.AbstractEventLoop | None
    future: asyncio.Future[Any] | None
    done: threading.Event | None
    result: Any = None
    error: BaseException | None = None

    @property
    def is_abandoned(self) -> bool:
        """Whether the caller went away before the job began: then nothing is written for it."""
        return self.future is not None and self.future.cancelled()

    def settle(self) -> None:
        """Hand the outcome to an awaiting future; runs on the caller's loop."""
        assert self.future is not None
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class _Checkpointer:
    """Copies the WAL back into the database on a thread and connection of its own, on request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = f"{path}-wal"
        self._wanted = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Ask for a checkpoint if the WAL grew past its mark; a `stat`, nothing more. Called by the writer only."""
        if _size(self._wal) < _WAL_PASSIVE_BYTES:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lash-checkpointer", daemon=True)
            self._thread.start()
        self._wanted.set()

    def close(self) -> None:
        """End the thread after the checkpoint it may be in."""
        self._stopping = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        connection = _connect(self._path, _CHECKPOINTER_PRAGMAS)
        try:
            while True:
                self._wanted.wait()
                self._wanted.clear()
                if self._stopping:
                    return
                is_long = _size(self._wal) > _WAL_RESTART_BYTES
                # A checkpoint that readers or writers hold up is asked for again; failing here loses nothing.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute(_TRUNCATE_CHECKPOINT if is_long else _PASSIVE_CHECKPOINT).fetchone()
        finally:
            connection.close()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


class _Writer:
    """The one thread that writes. Requests are taken in the order they arrive."""

    def __init__(self, path: Path, *, always_normal: bool, jitter: random.Random) -> None:
        self._path = path
        self._always_normal = always_normal
        self._jitter = jitter
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._checkpointer = _Checkpointer(path)
        self._groups_until_look = 0
        self._is_full: bool | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def submit(self, request: _Request) -> None:
        """Queue a request, starting the thread at the first one. Raises `StoreError` once closed."""
        with self._lock:
            if self._is_closed:
                raise StoreError(f"{self._path} was closed", code="store_closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lash-writer", daemon=True)
                self._thread.start()
            self._queue.put(request)

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        self._checkpointer.close()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        is_open = True
        try:
            while is_open:
                group, is_open = self._next_group()
                if not group:
                    continue
                try:
                    if connection is None:
                        connection = _connect(self._path, _WRITER_PRAGMAS)
                    self._commit_group(connection, group)
                except BaseException as error:  # noqa: BLE001 - whatever happened, the callers must be told
                    failure = map_error(error, self._path) if isinstance(error, sqlite3.Error) else error
                    for request in group:
                        request.error = failure
                    if connection is not None and connection.in_transaction:
                        connection.execute(_ROLLBACK)
                self._deliver(group)
        finally:
            if connection is not None:
                connection.close()

    def _next_group(self) -> tuple[list[_Request], bool]:
        """Wait for a request, then take all that queued up; the flag is False after the closing mark."""
        group: list[_Request] = []
        item = self._queue.get()
        while item is not None:
            if not item.is_abandoned:
                group.append(item)
            if len(group) == _MAX_GROUP:
                return group, True
            try:
                item = self._queue.get_nowait()
            except Empty:
                return group, True
        return group, False

    def _commit_group(self, connection: sqlite3.Connection, group: list[_Request]) -> None:
        is_full = not self._always_normal and any(request.durable for request in group)
        if is_full is not self._is_full:
            connection.execute(_SYNCHRONOUS[is_full])
            self._is_full = is_full
        _patiently(connection, _BEGIN_WRITE, self._jitter)
        if len(group) == 1:
            self._run_alone(connection, group[0])
        else:
            for request in group:
                self._run_in_savepoint(connection, request)
        if connection.in_transaction:
            connection.execute(_COMMIT)
        self._groups_until_look -= 1
        if self._groups_until_look < 0:
            self._groups_until_look = _GROUPS_BETWEEN_WAL_CHECKS
            self._checkpointer.look()

    def _run_alone(self, connection: sqlite3.Connection, request: _Request) -> None:
        try:
            request.result = request.job(connection)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
            request.error = map_error(error, self._path) if isinstance(error, sqlite3.Error) else error
            if connection.in_transaction:
                connection.execute(_ROLLBACK)

    def _run_in_savepoint(self, connection: sqlite3.Connection, request: _Request) -> None:
        connection.execute(_SAVEPOINT)
        try:
            request.result = request.job(connection)
        except BaseException as error:
            if not connection.in_transaction:
                # The error (disk full, I/O) ended the whole transaction: every job of the group is undone.
                raise
            connection.execute(_UNDO_SAVEPOINT)
            request.error = map_error(error, self._path) if isinstance(error, sqlite3.Error) else error
        connection.execute(_RELEASE_SAVEPOINT)

    def _deliver(self, group: list[_Request]) -> None:
        """Tell every caller, waking each event loop once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Request]] = {}
        for request in group:
            if request.loop is not None:
                by_loop.setdefault(request.loop, []).append(request)
            elif request.done is not None:
                request.done.set()
        for loop, requests in by_loop.items():
            # A loop that was closed meanwhile has nobody left to tell.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle_all, requests)


def _settle_all(requests: list[_Request]) -> None:
    for request in requests:
        request.settle()


class _Reader:
    """A read connection and its lock, opened at first use."""

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self._path = path
        self._read_only = read_only
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False

    def run(self, job: Job[T]) -> T:
        """Run `job` in one read transaction."""
        with self._lock, _mapped(self._path):
            if self._is_closed:
                raise StoreError(f"{self._path} was closed", code="store_closed")
            if self._connection is None:
                self._connection = _connect(self._path, _READER_PRAGMAS, read_only=self._read_only)
            connection = self._connection
            connection.execute(_BEGIN_READ)
            try:
                return job(connection)
            finally:
                if connection.in_transaction:
                    connection.execute(_ROLLBACK)

    def close(self) -> None:
        """Wait for the read under way and close."""
        with self._lock:
            self._is_closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None


class Database:
    """One SQLite file as the store's table families see it. Use from any thread or event loop."""

    def __init__(self, path: Path, *, clock: Clock, read_only: bool, synchronous: Synchronous) -> None:
        self.path = path
        self.clock = clock
        self.read_only = read_only
        self._reader = _Reader(path, read_only=read_only)
        self._bulk_reader = _Reader(path, read_only=read_only)
        self._writer = _Writer(path, always_normal=synchronous == "normal", jitter=random.Random())

    @classmethod
    def open(cls, path: Path, *, clock: Clock, read_only: bool = False, synchronous: Synchronous = "full") -> Database:
        """Open the file, creating and migrating it as needed (nothing of that with `read_only`).

        Raises `StoreUnusable` (`store_corrupt`, `schema_too_new`) and leaves such a file untouched, `StoreReadOnly`
        when file or directory cannot be used, `StoreLocked` after 15 s of waiting for another process, and
        `NotFoundError` (`store_not_found`) for a missing file with `read_only`.
        """
        if not read_only:
            _create_file(path)
        elif not path.exists():
            raise NotFoundError(f"{path} does not exist", code="store_not_found")
        database = cls(path, clock=clock, read_only=read_only, synchronous=synchronous)
        try:
            if not database.read(lambda connection: _is_current(connection, path)):
                if read_only:
                    raise StoreReadOnly(f"{path} needs a migration and was opened read-only")
                with _mapped(path):
                    _bring_up_to_date(path, random.Random())
        except BaseException:
            database.close()
            raise
        return database

    async def write(self, job: Job[T], *, durable: bool) -> T:
        """Run `job` in a write transaction and return its result after COMMIT.

        `durable` asks for a synced commit. A job that raises is undone alone and its error raised here. Cancelling
        the caller before the job began drops it; afterwards it is applied and its result is lost, so a caller that
        must know shields the call.
        """
        self._refuse_if_read_only()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._writer.submit(_Request(job, durable, loop, future, None))
        return await future

    def write_sync(self, job: Job[T], *, durable: bool) -> T:
        """`write` for callers without an event loop; blocks."""
        self._refuse_if_read_only()
        request = _Request(job, durable, None, None, threading.Event())
        self._writer.submit(request)
        assert request.done is not None
        request.done.wait()
        if request.error is not None:
            raise request.error
        return cast(T, request.result)

    def read(self, job: Job[T]) -> T:
        """Run a short `job` in one read transaction, inline; it sees every write that was awaited."""
        return self._reader.run(job)

    async def read_bulk(self, job: Job[T]) -> T:
        """Run a `job` that reads many rows, in a worker thread and on its own connection."""
        return await asyncio.to_thread(self._bulk_reader.run, job)

    async def aclose(self) -> None:
        """`close` without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Commit what is queued, end the threads, close the connections. May be repeated."""
        self._writer.close()
        self._bulk_reader.close()
        self._reader.close()

    def _refuse_if_read_only(self) -> None:
        if self.read_only:
            raise StoreReadOnly(f"{self.path} was opened read-only")
