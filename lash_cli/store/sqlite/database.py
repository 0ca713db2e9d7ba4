"""One SQLite file as the table families see it: grouped writes, inline reads (design D1, D10, D22).

One write of a process happens at a time (`writer`); reads end their transaction
before they return, so a write that was awaited is visible to the next read.
They use connections of their own, but for a look with one statement while
nobody writes. Opening creates the directory and the file with
modes nobody else can read, before SQLite could make them, and brings the
schema up to date under any number of processes doing the same.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from lash_cli.errors import NotFoundError, StoreError, StoreReadOnly, StoreUnusable, TooManyOpenFiles, UsageError
from lash_cli.store.sqlite import schema
from lash_cli.store.sqlite.connections import (
    BEGIN_READ,
    BEGIN_WRITE,
    BULK_READER_PRAGMAS,
    COMMIT,
    FULL,
    LOCK_TIMEOUT_SECONDS,
    READER_PRAGMAS,
    ROLLBACK,
    WRITER_PRAGMAS,
    busy_timeout,
    closed_error,
    connect,
    held_here,
    in_the_way,
    mapped_errors,
    patiently,
    too_new,
)
from lash_cli.store.sqlite.file_names import StrPath, is_there
from lash_cli.store.sqlite.process_forks import refuse_lost, watch
from lash_cli.store.sqlite.writer import Request, Writer
from lash_cli.system import in_a_thread

if TYPE_CHECKING:
    import asyncio

    from lash_cli.core.protocols import Clock

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
Synchronous = Literal["full", "normal"]

_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_WAL = "PRAGMA journal_mode = WAL"
# Changes with every commit of another connection; the reading connection never commits anything.
_DATA_VERSION = "PRAGMA data_version"
_JOURNAL_MODE = "PRAGMA journal_mode"


def _create_file(path: StrPath) -> None:
    """Make the directory and the empty file with modes nobody else can read, before SQLite could make them."""
    directory = os.path.dirname(path)
    try:
        if directory:
            os.makedirs(directory, mode=_DIRECTORY_MODE, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _FILE_MODE))
    except FileExistsError:
        if (directory and not os.path.isdir(directory)) or not os.path.isfile(path):
            raise in_the_way(path) from None
    except OSError as error:
        from lash_cli.paths import unusable_path  # only where something failed

        raise TooManyOpenFiles.behind(error) or unusable_path(os.fsdecode(path), error, "create") from error


def _is_current(connection: sqlite3.Connection, path: StrPath) -> bool:
    """Whether the file has today's schema; raises `StoreUnusable` when it is newer or not ours. Writes nothing."""
    (version,) = connection.execute(schema.READ_USER_VERSION).fetchone()
    (application,) = connection.execute(schema.READ_APPLICATION_ID).fetchone()
    if application != schema.APPLICATION_ID:
        if not schema.is_blank(connection):
            raise StoreUnusable(f"{path} is not a lash database", code="store_corrupt")
        return False
    if version > schema.SCHEMA_VERSION:
        raise too_new(path, version, hint="update lash")
    return bool(version == schema.SCHEMA_VERSION)


def _is_wal(connection: sqlite3.Connection) -> bool:
    """Whether the file has a write-ahead log: a copy that was made as one file has none until somebody writes to it."""
    (mode,) = connection.execute(_JOURNAL_MODE).fetchone()
    return bool(mode == "wal")


def _refuse_network(path: StrPath) -> None:
    from lash_cli.store.sqlite.filesystem import refuse_network  # asked of a new file, and of one without a log

    refuse_network(path)


def _bring_up_to_date(path: StrPath, lock_timeout_s: float) -> None:
    """Switch to WAL and apply the pending migrations, once, however many processes try at the same time."""
    connection = connect(path, WRITER_PRAGMAS)
    try:
        if not _is_wal(connection):
            _refuse_network(path)
            patiently(connection, _WAL, lock_timeout_s)
        connection.execute(FULL)
        patiently(connection, BEGIN_WRITE, lock_timeout_s)
        try:
            if not _is_current(connection, path):
                schema.migrate(connection)
            connection.execute(COMMIT)
        finally:
            if connection.in_transaction:
                connection.execute(ROLLBACK)
    finally:
        connection.close()


class _Reader:
    """A read connection and its lock, opened at first use."""

    def __init__(self, path: StrPath, pragmas: tuple[str, ...], *, read_only: bool, lock_timeout_s: float) -> None:
        self._path = path
        self._read_only = read_only
        self._pragmas = (busy_timeout(lock_timeout_s), *pragmas)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False
        self._is_forked = False
        self._is_resting = False
        # How often it was opened: a connection counts the commits of others from its own beginning.
        self.openings = 0

    def run(self, job: Job[T]) -> T:
        """Run `job` in one read transaction. Raises `StoreError` (`store_read_within`) in the middle of another read of
        this thread, where something that is collected may begin one."""
        self._refuse_within()
        with self._lock, mapped_errors(self._path):
            connection = self._opened()
            try:
                connection.execute(BEGIN_READ)
                return job(connection)
            finally:
                if connection.in_transaction:
                    connection.execute(ROLLBACK)

    def peek(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        """All rows of one SELECT, which is a read transaction of its own. Raises as `run`."""
        self._refuse_within()
        with self._lock, mapped_errors(self._path):
            return self._opened().execute(statement, values).fetchall()

    def _refuse_within(self) -> None:
        if held_here(self._lock):
            raise StoreError(f"{self._path} is being read by this thread", code="store_read_within")

    def _opened(self) -> sqlite3.Connection:
        if self._is_closed:
            raise closed_error(self._path, is_forked=self._is_forked)
        if self._connection is None:
            self._connection = connect(self._path, self._pragmas, read_only=self._read_only)
            self.openings += 1
        return self._connection

    def rest(self, deadline: float) -> bool:
        """See `process_forks.Forkable`."""
        if held_here(self._lock):
            return False
        self._is_resting = self._lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        if not self._is_resting:
            return False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        return True

    def go_on(self) -> None:
        """See `process_forks.Forkable`."""
        if self._is_resting:
            self._is_resting = False
            self._lock.release()

    def lose(self) -> sqlite3.Connection | None:
        """Be closed in the child of a fork; its connection, which is the parent's."""
        self._lock, self._is_resting = threading.RLock(), False
        self._is_closed = self._is_forked = True
        connection, self._connection = self._connection, None
        return connection

    def close(self) -> None:
        """Wait for the read under way and close."""
        with self._lock:
            self._is_closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None


class Database:
    """One SQLite file as the store's table families see it. Use from any thread or event loop."""

    def __init__(
        self, path: StrPath, *, clock: Clock, read_only: bool, synchronous: Synchronous, lock_timeout_s: float
    ) -> None:
        self.path = path
        self.clock = clock
        self.read_only = read_only
        self._reader = _Reader(path, READER_PRAGMAS, read_only=read_only, lock_timeout_s=lock_timeout_s)
        self._bulk_reader = _Reader(path, BULK_READER_PRAGMAS, read_only=read_only, lock_timeout_s=lock_timeout_s)
        is_normal = synchronous == "normal"
        self.writer = Writer(path, always_normal=is_normal, lock_timeout_s=lock_timeout_s)

    def __del__(self) -> None:
        # Dropped without being closed: its threads would keep what they use for as long as the process runs. There is
        # no writer where the file was gone as it was opened.
        if hasattr(self, "writer"):
            self.writer.forsake()

    @property
    def identity(self) -> str:
        """The file itself, whatever path it was opened by."""
        status = os.stat(self.path)
        return f"{status.st_dev:x}.{status.st_ino:x}"

    @classmethod
    def open(
        cls,
        path: StrPath,
        *,
        clock: Clock,
        read_only: bool = False,
        synchronous: Synchronous = "full",
        lock_timeout_s: float = LOCK_TIMEOUT_SECONDS,
    ) -> Database:
        """Open the file, creating and migrating it as needed (nothing of that with `read_only`). A link is the file it
        leads to, and a relative name is one of the current directory of now.

        Raises `StoreUnusable` (`store_corrupt`, `schema_too_new`) and leaves such a file untouched, `StoreReadOnly`
        when file or directory cannot be used (`network_filesystem`: it would be damaged there), as
        `paths.unusable_path` when the file cannot be created, `TooManyOpenFiles`,
        `StoreLocked` after `lock_timeout_s` of waiting for another process, `StoreError` (`store_forked`) in the child
        of a process that could not let go of the file as it forked, `NotFoundError` (`store_not_found`) for a missing
        file with `read_only`, and `UsageError` for `:memory:`, which other programs take for no file.
        """
        if os.path.basename(os.fsdecode(path)) == ":memory:":
            raise UsageError(
                "a database is a file, and ':memory:' would be the name of one",
                hint="what is not to be kept needs none: a LashCore without a store, or lash turn --ephemeral",
            )
        if not read_only:
            if not is_there(path):
                _refuse_network(path)
            _create_file(path)
        elif not is_there(path):
            raise NotFoundError(f"{path} does not exist", code="store_not_found")
        # SQLite puts the log beside the file itself, not beside a link to it; and connections are opened later too,
        # when the process may be somewhere else.
        path = os.path.realpath(path)
        refuse_lost(path)
        database = cls(path, clock=clock, read_only=read_only, synchronous=synchronous, lock_timeout_s=lock_timeout_s)
        watch(database)
        try:
            is_current, is_wal = database.read(lambda connection: (_is_current(connection, path), _is_wal(connection)))
            if not is_current and read_only:
                raise StoreReadOnly(f"{path} needs a migration and was opened read-only")
            if not read_only and not (is_current and is_wal):
                with mapped_errors(path):
                    _bring_up_to_date(path, lock_timeout_s)
        except BaseException:
            database.close()
            raise
        return database

    async def write_brief(self, job: Job[T]) -> T:
        """`write` without a sync for a `job` of well under a millisecond, in its place in the order of writes.

        Done at once, on this thread, where nobody has to be waited for (decision 0013); a write that goes on another
        thread is in the file by then, but its caller may be told later than this one. Raises what the job raises.
        """
        loop = running_loop()
        if loop is not None:
            self._refuse_if_read_only()
            request = Request(job, False, loop, None, None)
            if self.writer.write_now(request):
                result: T = request.result
                return result
        return await self.write(job, durable=False)

    def write_at_once(self, job: Job[object], *, is_brief: Callable[[], bool]) -> bool:
        """Do a write nobody waits for and nothing syncs on this thread, which runs an event loop, where that holds up
        nobody (decision 0013); False, and nothing written or told, where it is to be queued instead.

        `is_brief` is asked right before, where nothing else is in the way. Should it or the job raise, the answer is
        False: where it is queued it is told. Raises `StoreError` once closed.
        """
        self._refuse_if_read_only()
        return self.writer.write_now(Request(job, False, running_loop(), None, None, is_brief=is_brief))

    async def write(self, job: Job[T], *, durable: bool) -> T:
        """Run `job` in a write transaction and return its result after COMMIT.

        `durable` asks for a synced commit. A job that raises is undone alone and its error raised here. Cancelling
        the caller before the job began drops it; afterwards it is applied and its result is lost, so a caller that
        must know shields the call.
        Without an event loop there is nobody to hold up, and it is done here and now as `write_sync` does.
        Raises `StoreError` (`store_write_within`) in the middle of another write of this thread, where something that
        is collected may begin one.
        """
        loop = running_loop()
        if loop is None:
            return self.write_sync(job, durable=durable)
        self._refuse_if_read_only()
        future: asyncio.Future[T] = loop.create_future()
        self.writer.submit(Request(job, durable, loop, future, None))
        return await future

    def write_later(
        self, job: Job[T], *, waits_for_company: bool = True, is_brief: Callable[[], bool] | None = None
    ) -> asyncio.Future[T]:
        """Queue a `job` nobody waits for: within 5 ms, or in the transaction of whatever is written before that.

        Without `waits_for_company` it is written as soon as the writer is free. `is_brief` is asked when a
        `write_brief` comes before that, whether both may be done on the thread of the event loop.
        Writes keep their order, so once a later write was awaited this one is settled too. Not synced by itself. A
        failure nobody asks for is not reported by the event loop. Cancelling the future before the job began drops it,
        and then it cost next to nothing.
        """
        import asyncio

        self._refuse_if_read_only()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        request = Request(job, False, loop, future, None, is_unwatched=True, is_brief=is_brief)
        if waits_for_company:
            self.writer.submit_later(request)
        else:
            self.writer.submit(request)
        return future

    def write_sync(self, job: Job[T], *, durable: bool) -> T:
        """`write` for callers without an event loop; blocks."""
        self._refuse_if_read_only()
        request = Request(job, durable, None, None, None)
        if not self.writer.write_here(request):
            done = request.done = threading.Event()
            self.writer.submit(request)
            done.wait()
        if request.error is not None:
            raise request.error
        result: T = request.result
        return result

    def read(self, job: Job[T]) -> T:
        """Run a short `job` in one read transaction, inline; it sees every write that was awaited."""
        return self._reader.run(job)

    def change_mark(self) -> int:
        """A number that stays the same until any connection to the file commits. Raises as `Writer.require_place`: in
        a file that was replaced it would never change."""
        (mark,) = self._reader.run(lambda connection: connection.execute(_DATA_VERSION).fetchone())
        self.writer.require_place()
        return int(mark) + (self._reader.openings << 32)

    def peek(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        """All rows of one SELECT, inline: a single statement needs no transaction around it. It sees every write that
        was awaited."""
        rows = self.writer.peek(statement, values)
        return self._reader.peek(statement, values) if rows is None else rows

    async def read_bulk(self, job: Job[T]) -> T:
        """Run a `job` that reads many rows, in a worker thread and on its own connection.

        Without an event loop there is nobody to hold up, and it runs here and now as `read` does.
        """
        if running_loop() is None:
            return self.read(job)
        import asyncio

        return await asyncio.to_thread(self._bulk_reader.run, job)

    async def aclose(self) -> None:
        """`close` without blocking the event loop, if there is one."""
        if running_loop() is None:
            self.close()
            return
        await in_a_thread(self.close)

    def close(self) -> None:
        """Commit what is queued, end the threads, close the connections. May be repeated, and is to be when it was
        interrupted."""
        try:
            self.writer.close()
        finally:
            self._bulk_reader.close()
            self._reader.close()

    def rest(self, deadline: float) -> bool:
        """See `process_forks.Forkable`."""
        return all(part.rest(deadline) for part in self._parts)

    def go_on(self) -> None:
        """See `process_forks.Forkable`."""
        for part in self._parts:
            part.go_on()

    def lose(self) -> list[sqlite3.Connection]:
        """See `process_forks.Forkable`."""
        return [connection for part in self._parts if (connection := part.lose()) is not None]

    @property
    def _parts(self) -> tuple[Writer | _Reader, ...]:
        return self.writer, self._bulk_reader, self._reader

    def _refuse_if_read_only(self) -> None:
        if self.read_only:
            raise StoreReadOnly(f"{self.path} was opened read-only")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop this thread runs, if any; where asyncio was never imported there is none, and it stays so.

    The import costs a command that only reads more than its reading does (design D16).
    """
    if "asyncio" not in sys.modules:
        return None
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
