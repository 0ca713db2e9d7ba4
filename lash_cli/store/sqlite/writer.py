"""The one thread that writes (design D10, D22).

What queued up while the last commit ran is committed together under one `BEGIN
IMMEDIATE`. Jobs hardly ever raise, so they run side by side without savepoints
(a savepoint copies every page that is changed in it); when one does raise, the
transaction is taken back and all run again, each in a savepoint, so that only
the one that raises is undone. A job may therefore run twice and must not change
anything but the database. Nobody learns a result before COMMIT.

A durable group is synced *after* its COMMIT and before its callers are told:
the commit itself runs at `synchronous=NORMAL` and the write-ahead log is synced
right behind it. What is acknowledged is as durable as at FULL, one sync per
group, but the lock that other processes wait for is free meanwhile, and their
syncs overlap with ours.

While this thread has nothing to do, a caller may write on its own: who has no
event loop any write, because it would only wait; an event loop what is brief and
not synced. The pen is what one writes with: there is one, so there is still one
writer at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import msgspec

from lash_cli.store.sqlite.connections import (
    BEGIN_WRITE,
    COMMIT,
    ROLLBACK,
    closed_error,
    patiently,
    told_error,
)
from lash_cli.store.sqlite.file_names import StrPath
from lash_cli.store.sqlite.log import Checkpointer, Log

if TYPE_CHECKING:
    import asyncio

    from lash_cli.store.sqlite.announcing import Ring, WriterConnection

_MAX_GROUP: Final = 256
# How long a write nobody waits for may wait for company, so that it rides in the transaction of the next one.
LAZY_SECONDS: Final = 0.005

_SAVEPOINT = "SAVEPOINT job"
_UNDO_SAVEPOINT = "ROLLBACK TO job"
_RELEASE_SAVEPOINT = "RELEASE job"


class Request(msgspec.Struct, eq=False):
    """One queued job and how its caller learns the result."""

    job: Callable[[sqlite3.Connection], Any]
    durable: bool
    loop: asyncio.AbstractEventLoop | None
    future: asyncio.Future[Any] | None
    done: threading.Event | None
    is_unwatched: bool = False
    # Asked when an event loop would write it together with a brief write of its own; None for never.
    is_brief: Callable[[], bool] | None = None
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
            if self.is_unwatched:
                # Asking for it is what keeps the event loop from reporting it.
                self.future.exception()
        else:
            self.future.set_result(self.result)


class Writer:
    """The one thread that writes. Requests are taken in the order they arrive."""

    def __init__(self, path: StrPath, *, always_normal: bool, lock_timeout_s: float) -> None:
        self._path = path
        self._always_normal = always_normal
        self._lock_timeout_s = lock_timeout_s
        self._queue: SimpleQueue[list[Request] | None] = SimpleQueue()
        self._log = Log(path)
        self._checkpointer = Checkpointer(path, self._log)
        self.ring: Ring | None = None
        # Sessions that lost a live preview; see `announcing.WriterConnection`.
        self.lost_previews: dict[str, object] = {}
        # Held for moments only: whoever waits for the pen does so without it.
        self._lock = threading.Lock()
        # Held by whoever writes, from the beginning of its transaction until it is synced.
        self._pen = threading.Lock()
        # What arrived and was not handed to the thread yet, in order; and the loops that will see to that.
        self._arrived: list[Request] = []
        self._soon_loop: asyncio.AbstractEventLoop | None = None
        self._later_loop: asyncio.AbstractEventLoop | None = None
        # How many writes that somebody waits for came together of late: the last group, or half of what it was before.
        self._crowd = 0
        # Whether the thread has done all it was handed.
        self._is_idle = True
        self._is_closed = False
        self._is_forked = False
        self._thread: threading.Thread | None = None
        # Of whoever holds the pen.
        self._connection: WriterConnection | None = None

    def submit(self, request: Request) -> None:
        """Queue a request, starting the thread at the first one. Raises `StoreError` once closed.

        While writes come in company, what the tasks of an event loop ask for in one pass is handed over together when
        the pass is over: the thread then finds a group and a loop that is about to wait, instead of a busy one to share
        the interpreter with. A write that comes alone is handed over at once.
        """
        loop = request.loop
        with self._lock:
            self._refuse_if_closed()
            self._arrived.append(request)
            if loop is None or self._crowd <= 1:
                self._hand_over()
            elif self._soon_loop is not loop:
                self._soon_loop = loop
                loop.call_soon(self._pass_is_over, loop)

    def write_here(self, request: Request) -> bool:
        """Write on the calling thread, which has no event loop; False, and nothing done, while another one writes.

        Who has no event loop would only wait for the writing thread, and the two changes of thread cost as much as the
        transaction. What arrives meanwhile goes to that thread, which waits for the pen. Raises `StoreError` once
        closed.
        """
        has_pen = False
        try:
            with self._lock:
                self._refuse_if_closed()
                if not self._is_idle or self._arrived or self._pen.locked():
                    return False
                # While there is nothing to do nobody takes it without the lock. Known before it is taken, so that
                # Ctrl-C right behind finds what to give back.
                has_pen = True
                self._pen.acquire()
            self._write([request])
            return True
        finally:
            if has_pen:
                self._pen.release()

    def write_now(self, request: Request) -> bool:
        """Write on the calling thread, which is that of an event loop, when nobody has to wait for it: the writing
        thread is idle and no other process holds the lock. False, and nothing done, otherwise.

        For a brief write that is not synced: handing it to the other thread and back costs as much as the transaction.
        What this loop put off goes before it, in the same transaction, when it is brief too; should one of them raise,
        the thread finds out which. While writes come in company they go together instead, and a log that has grown is
        left to the next write of the thread, because that may have to wait. Raises `StoreError` once closed.
        """
        assert not request.durable
        with self._lock:
            self._refuse_if_closed()
            connection = self._connection
            if connection is None or not self._is_idle or self._crowd > 1 or self._pen.locked():
                return False
            put_off = [waiting for waiting in self._arrived if not waiting.is_abandoned]
            if not all(_is_brief_of(waiting, request.loop) for waiting in put_off):
                return False
            group = [*put_off, request]
            with self._pen:
                try:
                    if not _begins(connection) or (put_off and not self._run_together(connection, group)):
                        return False
                    self._write(group, is_begun=True, is_run=bool(put_off))
                except BaseException:
                    # Ctrl-C between two steps: every other process would wait for a transaction that nobody ends.
                    _take_back(connection)
                    raise
            self._arrived.clear()
        _settle_all(put_off)
        return True

    def submit_later(self, request: Request) -> None:
        """Queue a request nobody waits for: before the next one, or after `LAZY_SECONDS` of its event loop.

        One that is abandoned until then never wakes the thread. Raises `StoreError` once closed.
        """
        loop = request.loop
        assert loop is not None
        with self._lock:
            self._refuse_if_closed()
            self._arrived.append(request)
            if self._later_loop is not loop:
                self._later_loop = loop
                loop.call_later(LAZY_SECONDS, self._later_is_due, loop)

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        with self._lock:
            if self._is_closed:
                return
            self._hand_over()
            self._is_closed = True
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()
        else:
            self._let_go()
        self._checkpointer.close()

    def lose(self) -> sqlite3.Connection | None:
        """Be closed in the child of a fork, where the thread does not run and whoever held a lock is not; its
        connection, which is the parent's."""
        self._lock, self._pen = threading.Lock(), threading.Lock()
        self._is_closed = self._is_forked = True
        self._thread, connection, self._connection = None, self._connection, None
        return connection

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise closed_error(self._path, is_forked=self._is_forked)

    def _hand_over(self) -> None:
        arrived = [request for request in self._arrived if not request.is_abandoned]
        self._arrived.clear()
        if arrived and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lash-writer", daemon=True)
            self._thread.start()
        for start in range(0, len(arrived), _MAX_GROUP):
            self._is_idle = False
            self._queue.put(arrived[start : start + _MAX_GROUP])

    def _pass_is_over(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._soon_loop is loop:
                self._soon_loop = None
            self._hand_over()

    def _later_is_due(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._later_loop is loop:
                self._later_loop = None
            self._hand_over()

    def _run(self) -> None:
        is_open = True
        try:
            while is_open:
                group, is_open = self._next_group()
                if group:
                    self._crowd = max(sum(not request.is_unwatched for request in group), self._crowd // 2)
                    with self._pen:
                        self._write(group)
                with self._lock:
                    self._is_idle = self._queue.empty()
                self._deliver(group)
        finally:
            self._let_go()

    def _write(self, group: list[Request], *, is_begun: bool = False, is_run: bool = False) -> None:
        """Commit a group and leave with each request what became of it; never raises.

        `is_begun` says that a transaction is open already, and that nothing may be waited for; `is_run` that the jobs
        were done in it.
        """
        try:
            if self._connection is None:
                from lash_cli.store.sqlite.announcing import open_writing

                self._connection = open_writing(self._path, self.lost_previews)
            if not is_begun:
                patiently(self._connection, BEGIN_WRITE, self._lock_timeout_s)
            if not is_run:
                self._run_group(self._connection, group)
            self._commit(self._connection, group)
            if not is_begun:
                self._checkpointer.look()
        except BaseException as error:  # noqa: BLE001 - whatever happened, the callers must be told
            failure = told_error(error, self._path)
            for request in group:
                request.error = failure
            if self._connection is not None:
                _take_back(self._connection)

    def _let_go(self) -> None:
        with self._pen:
            self._log.close()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _next_group(self) -> tuple[list[Request], bool]:
        """Wait for a request, then take all that queued up; the flag is False after the closing mark."""
        group: list[Request] = []
        batch = self._queue.get()
        while batch is not None:
            group += [request for request in batch if not request.is_abandoned]
            if len(group) >= _MAX_GROUP or self._queue.empty():
                return group, True
            batch = self._queue.get()
        return group, False

    def _run_group(self, connection: WriterConnection, group: list[Request]) -> None:
        """Run a group in the transaction that is open."""
        if len(group) == 1:
            self._run_alone(connection, group[0])
        elif not self._run_together(connection, group):
            patiently(connection, BEGIN_WRITE, self._lock_timeout_s)
            for request in group:
                self._run_in_savepoint(connection, request)

    def _commit(self, connection: WriterConnection, group: list[Request]) -> None:
        """Commit what a group did, tell who watches, and sync it if one of them asked for that."""
        if connection.in_transaction:
            connection.execute(COMMIT)
            # Before the sync: what is committed can be read at once, and the sync would only delay who watches.
            connection.announce(self.ring, is_whole=all(request.error is None for request in group))
            if not self._always_normal and any(request.durable for request in group):
                self._log.sync()
        else:
            connection.forget()

    def _run_together(self, connection: WriterConnection, group: list[Request]) -> bool:
        """Run all jobs side by side; when one raises, everything is taken back and the answer is False."""
        try:
            for request in group:
                request.result = request.job(connection)
        except BaseException:  # noqa: BLE001 - whoever raised does so again in its savepoint, and is told there
            _take_back(connection)
            for request in group:
                request.result = None
            return False
        return True

    def _run_alone(self, connection: sqlite3.Connection, request: Request) -> None:
        try:
            request.result = request.job(connection)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
            request.error = told_error(error, self._path)
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
            request.error = told_error(error, self._path)
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


def _begins(connection: WriterConnection) -> bool:
    """Begin a write transaction; False when that is not possible at once. Whoever then waits for it learns why."""
    try:
        connection.execute(BEGIN_WRITE)
    except sqlite3.Error:
        return False
    return True


def _take_back(connection: WriterConnection) -> None:
    """Undo the transaction that may be open, and what it was going to tell."""
    if connection.in_transaction:
        connection.execute(ROLLBACK)
    connection.forget()


def _is_brief_of(request: Request, loop: asyncio.AbstractEventLoop | None) -> bool:
    """Whether `loop` may write what it put off itself."""
    return request.is_brief is not None and request.loop is loop and request.is_brief()


def _settle_all(requests: list[Request]) -> None:
    for request in requests:
        request.settle()
