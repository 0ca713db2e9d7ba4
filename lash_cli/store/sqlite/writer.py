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
not synced; and both may look with the connection that writes. The pen is what one
writes with: there is one, so there is still one writer at a time.

Ctrl-C strikes callers, never the thread: where Python looks for signals, on
entering a function, behind a call and at the end of a pass through a loop. What
must not come apart is therefore done without a call in between, and whatever is
interrupted leaves pen and lock free, no transaction open, and each write of
somebody else done once. Two things are out of reach: a callback of the event loop
that is struck as it begins is lost with what it was to hand over, which waits for
the next write then, or to tell; and a future struck while it is settled wakes nobody.
Python 3.14 adds a third: it looks for signals between taking a lock and the block of
its `with` too, and the lock stays taken then.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import msgspec

from lash_cli.errors import StoreError
from lash_cli.store.sqlite.connections import (
    BEGIN_WRITE,
    COMMIT,
    ROLLBACK,
    closed_error,
    held_here,
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
    # Asked when an event loop would write it together with a brief write of its own, None for never; and before an
    # event loop writes it alone, None for always.
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
        self._lock = threading.RLock()
        # Held by whoever writes, from the beginning of its transaction until it is synced. Both locks know whose they
        # are, and nobody takes one twice: what is collected in the middle of a write may begin one itself.
        self._pen = threading.RLock()
        # What arrived and was not handed to the thread yet, in order; and the loops that will see to that.
        self._arrived: list[Request] = []
        self._soon_loop: asyncio.AbstractEventLoop | None = None
        self._later_loop: asyncio.AbstractEventLoop | None = None
        self._later: asyncio.TimerHandle | None = None
        # How many writes that somebody waits for came together of late: the last group, or half of what it was before.
        self._crowd = 0
        # Whether the thread has done all it was handed.
        self._is_idle = True
        # Whether a thread without an event loop writes for itself, or is about to.
        self._is_taken = False
        self._is_closed = False
        self._is_forked = False
        # While the process forks the pen is held by who forks.
        self._is_resting = False
        self._thread: threading.Thread | None = None
        # Of whoever holds the pen.
        self._connection: WriterConnection | None = None

    def _refuse_within(self) -> None:
        """Raise `StoreError` where the calling thread has the lock or the pen: it would wait for itself."""
        if held_here(self._lock, self._pen):
            raise StoreError(f"{self._path} is being written by this thread", code="store_write_within")

    def submit(self, request: Request) -> None:
        """Queue a request, starting the thread at the first one. Raises `StoreError` once closed.

        While writes come in company, what the tasks of an event loop ask for in one pass is handed over together when
        the pass is over: the thread then finds a group and a loop that is about to wait, instead of a busy one to share
        the interpreter with. A write that comes alone is handed over at once.
        """
        self._refuse_within()
        loop = request.loop
        with self._lock:
            self._refuse_if_closed()
            self._arrived.append(request)
            if loop is None or self._crowd <= 1:
                self._hand_over()
                if self._later is not None and self._later_loop is loop:
                    # It would wake the event loop for nothing. Forgotten before that: while one is known, no other is
                    # set.
                    later, self._later, self._later_loop = self._later, None, None
                    later.cancel()
            elif self._soon_loop is not loop:
                # Noted behind it: to be handed over twice does no harm, and never would be waited for without end.
                loop.call_soon(self._pass_is_over, loop)
                self._soon_loop = loop

    def write_here(self, request: Request) -> bool:
        """Write on the calling thread, which has no event loop; False, and nothing done, while another one writes.

        Who has no event loop would only wait for the writing thread, and the two changes of thread cost as much as the
        transaction. What arrives meanwhile goes to that thread, and whichever of the two is later waits for the pen.
        Raises `StoreError` once closed.
        """
        self._refuse_within()
        is_ours = False
        try:
            with self._lock:
                self._refuse_if_closed()
                if not self._is_idle or self._arrived or self._is_taken:
                    return False
                is_ours = self._is_taken = True
            with self._pen:
                # Who closes lets go of everything, with the pen.
                self._refuse_if_closed()
                try:
                    self._write([request])
                except BaseException:
                    # Ctrl-C while a failure was told.
                    self._take_back()
                    raise
            return True
        finally:
            if is_ours:
                self._is_taken = False

    def write_now(self, request: Request) -> bool:
        """Write on the calling thread, which is that of an event loop, when nobody has to wait for it: the writing
        thread is idle and no other process holds the lock. False, and nothing done, otherwise.

        For a brief write that is not synced: handing it to the other thread and back costs as much as the transaction.
        What this loop put off goes before it, in the same transaction, when it is brief too. Should any of them raise,
        all are left to the thread, which finds out whose error it is; a request that turns out not to be brief too.
        While writes come in company they go together instead, and when the log has grown the thread writes and looks
        after it, because that may have to wait. Raises `StoreError` once closed.
        """
        assert not request.durable
        self._refuse_within()
        with self._lock:
            self._refuse_if_closed()
            connection = self._connection
            if connection is None or not self._is_idle or self._crowd > 1 or self._is_taken:
                return False
            put_off: list[Request] = []
            if self._arrived:
                put_off = [waiting for waiting in self._arrived if not waiting.is_abandoned]
                if not all(_is_brief_of(waiting, request.loop) for waiting in put_off):
                    return False
            with self._pen:
                return not self._checkpointer.is_due() and self._write_at_once(connection, put_off, request)

    def _write_at_once(self, connection: WriterConnection, put_off: list[Request], request: Request) -> bool:
        """Commit all of them together, or nothing, and then nobody is told anything; whether they are committed."""
        are_done = False
        try:
            try:
                if request.is_brief is not None and not request.is_brief():
                    return False
                connection.execute(BEGIN_WRITE)
                for waiting in put_off:
                    waiting.result = waiting.job(connection)
                request.result = request.job(connection)
                are_done = True
                connection.execute(COMMIT)
            except Exception:  # noqa: BLE001 - whoever raised does so again on the thread, and is told there
                are_done = False
                self._take_back()
                return False
            connection.announce(self.ring, is_whole=True)
            if self._arrived:
                self._arrived.clear()
                _settle_all(put_off)
        except BaseException:
            # Ctrl-C between two steps. What is committed must not be done again; an open transaction would keep every
            # other process waiting.
            if are_done and not connection.in_transaction:
                self._arrived.clear()
                _settle_all(put_off)
            self._take_back()
            raise
        return True

    def peek(self, statement: str, values: tuple[Any, ...]) -> list[Any] | None:
        """All rows of one SELECT with the connection that writes, while nobody does; None when somebody does, or when
        the file cannot be read just now.

        It has the pages at hand which it wrote; any other connection reads them again after every commit.
        """
        if held_here(self._lock, self._pen):
            return None
        with self._lock:
            connection = self._connection
            if connection is None or not self._is_idle or self._is_taken:
                return None
            with self._pen:
                try:
                    return connection.execute(statement, values).fetchall()
                except (sqlite3.Error, UnicodeEncodeError, OverflowError):
                    # This connection waits for nobody. Who reads with another one waits, and is told what is wrong.
                    return None

    def submit_later(self, request: Request) -> None:
        """Queue a request nobody waits for: before the next one, or after `LAZY_SECONDS` of its event loop.

        One that is abandoned until then never wakes the thread. Raises `StoreError` once closed.
        """
        loop = request.loop
        assert loop is not None
        self._refuse_within()
        with self._lock:
            self._refuse_if_closed()
            self._arrived.append(request)
            if self._later_loop is not loop:
                self._later = loop.call_later(LAZY_SECONDS, self._later_is_due, loop)
                self._later_loop = loop

    def close(self) -> None:
        """Commit what is queued and end the threads. To be repeated when it was interrupted."""
        if self._is_forked:
            return
        with self._lock:
            if not self._is_closed:
                self._hand_over()
                self._is_closed = True
                self._queue.put(None)
        try:
            if self._thread is not None:
                self._thread.join()
            else:
                self._let_go()
        finally:
            self._checkpointer.close()

    def require_place(self) -> None:
        """Raise `StoreUnusable` (`store_replaced`) where another file or none stands under the name of the database,
        which nobody writes any more then, and `StoreReadOnly` where that cannot be looked at."""
        self._log.require_place()

    def forsake(self) -> None:
        """Have the threads end by themselves: nobody has the store any more. Called by the garbage collector in the
        middle of anything, so it takes no lock and waits for nobody."""
        self._queue.put(None)

    def rest(self, deadline: float) -> bool:
        """See `process_forks.Forkable`. Who holds the pen may wait for the checkpointer, and never the other way."""
        if held_here(self._pen):
            return False
        self._is_resting = self._pen.acquire(timeout=max(0.0, deadline - time.monotonic()))
        if not self._is_resting or not self._checkpointer.rest(deadline):
            return False
        self._log.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        return True

    def go_on(self) -> None:
        """See `process_forks.Forkable`."""
        self._checkpointer.go_on()
        if self._is_resting:
            self._is_resting = False
            self._pen.release()

    def lose(self) -> sqlite3.Connection | None:
        """Be closed in the child of a fork, where the thread does not run and whoever held a lock is not; its
        connection, which is the parent's."""
        self._lock, self._pen, self._is_resting = threading.RLock(), threading.RLock(), False
        self._is_closed = self._is_forked = True
        self._log.close()
        self._checkpointer = Checkpointer(self._path, self._log)
        self._thread, connection, self._connection = None, self._connection, None
        return connection

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise closed_error(self._path, is_forked=self._is_forked)

    def _hand_over(self) -> None:
        """Give the thread what arrived, starting it at the first time. May be repeated when it was interrupted: what
        was not given yet is still here."""
        self._arrived = [request for request in self._arrived if not request.is_abandoned]
        if self._arrived and self._thread is None:
            thread = threading.Thread(target=self._run, name="lash-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._refuse_arrived(error)
                return
            self._thread = thread
        while self._arrived:
            batch, left = self._arrived[:_MAX_GROUP], self._arrived[_MAX_GROUP:]
            self._is_idle = False
            self._arrived = left
            self._queue.put(batch)

    def _refuse_arrived(self, error: RuntimeError) -> None:
        """Tell all who wait for a thread that the system has none: nothing of theirs is written, now or later."""
        refused, self._arrived = self._arrived, []
        for request in refused:
            request.error = StoreError(f"nothing was written to {self._path}: no thread can be started for it")
            request.error.__cause__ = error
        self._deliver(refused)

    def _pass_is_over(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            try:
                self._hand_over()
            except BaseException:
                # Ctrl-C: nobody else would do it for those who asked before.
                self._hand_over()
                raise
            finally:
                if self._soon_loop is loop:
                    self._soon_loop = None

    def _later_is_due(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            try:
                self._hand_over()
            except BaseException:
                # As above.
                self._hand_over()
                raise
            finally:
                if self._later_loop is loop:
                    self._later = self._later_loop = None

    def _is_known(self) -> bool:
        """Whether this is the writing thread. Who is interrupted while it starts one cannot know whether it runs, and
        the next one starts another; which of them is the first to be known stays."""
        this = threading.current_thread()
        with self._lock:
            if self._thread is None:
                self._thread = this
            return self._thread is this

    def _run(self) -> None:
        if not self._is_known():
            return
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
                # Not kept until the next one: what a job was made of may be a whole store that nobody has any more.
                del group
        finally:
            self._let_go()
            self._checkpointer.end()

    def _write(self, group: list[Request]) -> None:
        """Commit a group and leave with each request what became of it; never raises, but for Ctrl-C while a failure is
        told."""
        try:
            if self._connection is None:
                from lash_cli.store.sqlite.announcing import open_writing

                self._log.begin()
                self._connection = open_writing(self._path, self.lost_previews)
            patiently(self._connection, BEGIN_WRITE, self._lock_timeout_s)
            self._run_group(self._connection, group)
            self._commit(self._connection, group)
            self._checkpointer.look()
        except BaseException as error:  # noqa: BLE001 - whatever happened, the callers must be told
            failure = told_error(error, self._path)
            has_seen_lost = False
            for request in group:
                # What a job raised by itself stands, unless it came of what a job before it did: that is undone now.
                has_seen_lost = has_seen_lost or request.error is None
                if has_seen_lost:
                    request.error = failure
            self._take_back()

    def _take_back(self) -> None:
        """Undo the transaction that may be open, and what it was going to tell."""
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute(ROLLBACK)
        except sqlite3.Error:
            # Closing it undoes it too, and the next write opens another.
            self._connection = None
            connection.close()
        finally:
            connection.forget()

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
            is_acknowledged = True in [request.durable for request in group]
            if is_acknowledged:
                # Who cannot open it has committed nothing.
                self._log.open()
            connection.execute(COMMIT)
            # Before the sync: what is committed can be read at once, and the sync would only delay who watches.
            connection.announce(self.ring, is_whole=all(request.error is None for request in group))
            if is_acknowledged and not self._always_normal:
                self._log.sync(connection)
        else:
            connection.forget()

    def _run_together(self, connection: WriterConnection, group: list[Request]) -> bool:
        """Run all jobs side by side; when one raises, everything is taken back and the answer is False."""
        try:
            for request in group:
                request.result = request.job(connection)
        except BaseException:  # noqa: BLE001 - whoever raised does so again in its savepoint, and is told there
            self._take_back()
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
            try:
                loop.call_soon_threadsafe(_settle_all, requests)
            except RuntimeError:
                # One that was closed meanwhile has nobody left to tell.
                continue


def _is_brief_of(request: Request, loop: asyncio.AbstractEventLoop | None) -> bool:
    """Whether `loop` may write what it put off itself."""
    return request.is_brief is not None and request.loop is loop and request.is_brief()


def _settle_all(requests: list[Request]) -> None:
    try:
        for request in requests:
            request.settle()
    except BaseException:
        # Ctrl-C: who waits for the others would wait without end. Who is settled stays so.
        for request in requests:
            request.settle()
        raise
