"""The one thread that writes, and the one that copies the WAL back (design D10, D22).

What queued up while the last commit ran is committed together: one `BEGIN
IMMEDIATE`, each of several jobs in a savepoint, so one that raises takes only
itself back. Nobody learns a result before COMMIT.

A durable group is synced *after* its COMMIT and before its callers are told:
the commit itself runs at `synchronous=NORMAL` and the write-ahead log is synced
right behind it. What is acknowledged is as durable as at FULL, one sync per
group, but the lock that other processes wait for is free meanwhile, and their
syncs overlap with ours.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import msgspec

from lash_cli.errors import StoreError
from lash_cli.store.sqlite.connections import (
    BEGIN_WRITE,
    CHECKPOINTER_PRAGMAS,
    COMMIT,
    ROLLBACK,
    connect,
    map_error,
    patiently,
)

if TYPE_CHECKING:
    import asyncio

    from lash_cli.store.sqlite.announcing import Ring, WriterConnection

_MAX_GROUP: Final = 256
# How long a write nobody waits for may wait for company, so that it rides in the transaction of the next one.
LAZY_SECONDS: Final = 0.005
_WAL_PASSIVE_BYTES: Final = 4 * 1024 * 1024
_WAL_RESTART_BYTES: Final = 64 * 1024 * 1024
# The longest a checkpoint may hold the writer back; a reader that stays in an old snapshot can prevent it altogether.
_CATCH_UP_SECONDS: Final = 2.0

_SAVEPOINT = "SAVEPOINT job"
_UNDO_SAVEPOINT = "ROLLBACK TO job"
_RELEASE_SAVEPOINT = "RELEASE job"
_PASSIVE_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
_TRUNCATE_CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"


class Request(msgspec.Struct, eq=False):
    """One queued job and how its caller learns the result."""

    job: Callable[[sqlite3.Connection], Any]
    durable: bool
    loop: asyncio.AbstractEventLoop | None
    future: asyncio.Future[Any] | None
    done: threading.Event | None
    lazy: bool = False
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


class _Log:
    """The write-ahead log as a file to sync. It stays the same file while a connection is open.

    SQLite takes its locks on the database file, never on the log, so opening
    and closing the log here cannot drop one.
    """

    def __init__(self, path: Path) -> None:
        self._path = f"{path}-wal"
        self._descriptor: int | None = None

    def sync(self) -> None:
        """Make everything committed so far survive a power cut; raises `StoreError` when the disk refuses."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDWR)
            _sync(self._descriptor)
        except OSError as error:
            raise StoreError(f"{self._path} could not be synced: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _sync(descriptor: int) -> None:
    """Flush to the medium itself: macOS needs its own call for that."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


class _Checkpointer:
    """Copies the WAL back into the database on a thread and connection of its own, on request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = f"{path}-wal"
        self._wanted = threading.Event()
        self._caught_up = threading.Event()
        self._wait_above = _WAL_RESTART_BYTES
        self._stopping = False
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Ask for a checkpoint if the WAL grew past its mark; mostly a `stat`, nothing more. Called by the writer only.

        Past the second mark the writer waits: a checkpoint that empties the log needs the writer's lock, and a busy
        writer would never let it in.
        """
        size = _size(self._wal)
        if size < _WAL_PASSIVE_BYTES:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lash-checkpointer", daemon=True)
            self._thread.start()
        self._caught_up.clear()
        self._wanted.set()
        if size <= self._wait_above:
            return
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        while _size(self._wal) > _WAL_RESTART_BYTES and time.monotonic() < deadline:
            self._wanted.set()
            self._caught_up.wait(_CATCH_UP_SECONDS)
            self._caught_up.clear()
        # A reader that holds the log open is not waited for at every commit.
        left = _size(self._wal)
        self._wait_above = 2 * left if left > _WAL_RESTART_BYTES else _WAL_RESTART_BYTES

    def close(self) -> None:
        """End the thread after the checkpoint it may be in."""
        self._stopping = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        connection = connect(self._path, CHECKPOINTER_PRAGMAS)
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
                self._caught_up.set()
        finally:
            connection.close()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


class Writer:
    """The one thread that writes. Requests are taken in the order they arrive."""

    def __init__(self, path: Path, *, always_normal: bool, jitter: random.Random, lock_timeout_s: float) -> None:
        self._path = path
        self._always_normal = always_normal
        self._jitter = jitter
        self._lock_timeout_s = lock_timeout_s
        self._queue: SimpleQueue[Request | None] = SimpleQueue()
        self._checkpointer = _Checkpointer(path)
        self._log = _Log(path)
        self.ring: Ring | None = None
        # Sessions that lost a live preview; see `announcing.WriterConnection`.
        self.lost_previews: dict[str, object] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def submit(self, request: Request) -> None:
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
        from lash_cli.store.sqlite.announcing import open_writing

        connection: WriterConnection | None = None
        is_open = True
        try:
            while is_open:
                group, is_open = self._next_group()
                if not group:
                    continue
                try:
                    if connection is None:
                        connection = open_writing(self._path, self.lost_previews)
                    self._commit_group(connection, group)
                except BaseException as error:  # noqa: BLE001 - whatever happened, the callers must be told
                    failure = map_error(error, self._path) if isinstance(error, sqlite3.Error) else error
                    for request in group:
                        request.error = failure
                    if connection is not None:
                        if connection.in_transaction:
                            connection.execute(ROLLBACK)
                        connection.forget()
                self._deliver(group)
        finally:
            self._log.close()
            if connection is not None:
                connection.close()

    def _next_group(self) -> tuple[list[Request], bool]:
        """Wait for a request, then take all that queued up; the flag is False after the closing mark.

        A group of lazy requests only waits a moment for one that is not.
        """
        group: list[Request] = []
        is_lazy = True
        item = self._queue.get()
        deadline = time.monotonic() + LAZY_SECONDS
        while item is not None:
            if not item.is_abandoned:
                group.append(item)
                is_lazy = is_lazy and item.lazy
            if len(group) == _MAX_GROUP:
                return group, True
            try:
                left = deadline - time.monotonic() if is_lazy and group else 0.0
                item = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            except Empty:
                return group, True
        return group, False

    def _commit_group(self, connection: WriterConnection, group: list[Request]) -> None:
        patiently(connection, BEGIN_WRITE, self._jitter, self._lock_timeout_s)
        if len(group) == 1:
            self._run_alone(connection, group[0])
        else:
            for request in group:
                self._run_in_savepoint(connection, request)
        if connection.in_transaction:
            connection.execute(COMMIT)
            # Before the sync: what is committed can be read at once, and the sync would only delay who watches.
            connection.announce(self.ring, is_whole=all(request.error is None for request in group))
            if not self._always_normal and any(request.durable for request in group):
                self._log.sync()
            self._checkpointer.look()
        else:
            connection.forget()

    def _run_alone(self, connection: sqlite3.Connection, request: Request) -> None:
        try:
            request.result = request.job(connection)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
            request.error = map_error(error, self._path) if isinstance(error, sqlite3.Error) else error
            if connection.in_transaction:
                connection.execute(ROLLBACK)

    def _run_in_savepoint(self, connection: sqlite3.Connection, request: Request) -> None:
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

    def _deliver(self, group: list[Request]) -> None:
        """Tell every caller, waking each event loop once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Request]] = {}
        for request in group:
            if request.loop is not None:
                by_loop.setdefault(request.loop, []).append(request)
            elif request.done is not None:
                request.done.set()
        for loop, requests in by_loop.items():
            # A loop that was closed meanwhile has nobody left to tell.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle_all, requests)


def _settle_all(requests: list[Request]) -> None:
    for request in requests:
        request.settle()
