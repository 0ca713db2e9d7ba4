"""The write-ahead log: synced by the writer, copied back and begun again by a thread of its own (design D10, D22).

The log is synced behind a commit, not inside it (docs/decisions/0001), and
written over instead of appended to (0006).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import sys
import threading
import time
from io import FileIO
from typing import Final

from lash_cli.errors import LashError, StoreError, StoreReadOnly, StoreUnusable, TooManyOpenFiles
from lash_cli.store.sqlite.connections import (
    BRISK_CHECKPOINT,
    CHECKPOINTER_PRAGMAS,
    NO_WAITING,
    PATIENT_CHECKPOINT,
    WAL_KEPT_BYTES,
    connect,
)
from lash_cli.store.sqlite.file_names import StrPath

# Past this size the log is copied back and begun again from its start: writing over blocks that are allocated makes a
# sync half as dear as appending. When that fails it is tried again after as much growth, not at every commit.
_WAL_RESTART_BYTES: Final = WAL_KEPT_BYTES
# Past this size the writer waits until the log is emptied.
_WAL_TRUNCATE_BYTES: Final = 64 * 1024 * 1024
# The longest a checkpoint may hold the writer back; a reader that stays in an old snapshot can prevent it altogether.
_CATCH_UP_SECONDS: Final = 2.0

# What marks a log of which the system could not write everything, for whoever opens it later: no log is ever run as a
# program. Being its own mode it needs no room on the disk, and is gone with the log.
_MARK_OF_DOUBT: Final = stat.S_IXUSR

_PASSIVE_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
_RESTART_CHECKPOINT = "PRAGMA wal_checkpoint(RESTART)"
_TRUNCATE_CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"


class Log:
    """The write-ahead log as a file to sync and to measure. It stays the same file while a connection is open.

    Made for a database that is there, and raises as `require_place` where it is not.

    SQLite takes its locks on the database file, never on the log, so opening
    and closing the log here cannot drop one.
    """

    def __init__(self, path: StrPath) -> None:
        self._database = path
        self._path = f"{path}-wal"
        # Not its number: what is interrupted between opening and keeping closes itself.
        self._file: FileIO | None = None
        # Which file the database was as it was opened: what is read, and written later, is to be the same one.
        self._place = self._standing()
        # Whether the system could not write everything that was written, and who reads kept the log from being emptied
        # since.
        self._is_in_doubt = self._is_held_up = False

    def begin(self) -> None:
        """The connection that writes is opened next, and may begin another log. Raises as `require_place`."""
        self.close()
        self.require_place()

    def open(self) -> None:
        """Be ready to sync: asked before anything is committed that is to be acknowledged.

        Raises `StoreUnusable` (`store_replaced`) where another file or none stands under the name of the database:
        what is committed into the old one nobody would find again. `TooManyOpenFiles`, `StoreReadOnly` where who found
        nothing to write may not write, and `StoreError`.
        """
        self.require_place()
        if self._file is None:
            self._opened()

    def require_place(self) -> None:
        """Raise `StoreUnusable` (`store_replaced`), as `open`, and `StoreReadOnly`."""
        if self._standing() != self._place:
            raise self._replaced("is another file by now")

    def _standing(self) -> tuple[int, int]:
        try:
            status = os.stat(self._database)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._replaced(f"cannot be found any more ({error.strerror})") from error
        except OSError as error:
            # Which file it is by now nobody can tell, and may be told later.
            raise StoreReadOnly(f"{self._database} cannot be looked at: {error.strerror}") from error
        return status.st_dev, status.st_ino

    def _replaced(self, what: str) -> StoreUnusable:
        return StoreUnusable(
            f"{self._database} {what}, and this process has the old one open: nothing was written",
            code="store_replaced",
            hint="start again; to put a copy back while others work, stop them first: lash db restore FILE",
        )

    def _opened(self) -> FileIO:
        try:
            file = FileIO(self._path, "r+")
            # The system tells a failure to who had the log open, and once at most to who opens it then.
            if os.fstat(file.fileno()).st_mode & _MARK_OF_DOUBT and not self._is_unmarkable():
                self._is_in_doubt = True
            self._file = file
        except PermissionError as error:
            raise StoreReadOnly(f"{self._path} cannot be written: {error.strerror}") from error
        except OSError as error:
            unopened = StoreError(f"{self._path} cannot be opened: {error.strerror}")
            raise TooManyOpenFiles.behind(error) or unopened from error
        return file

    def _is_unmarkable(self) -> bool:
        """Whether the database has the bit of the mark itself, as every file has on FAT: a log gets its mode from it,
        and would be doubted by everybody who opens it."""
        return bool(os.stat(self._database).st_mode & _MARK_OF_DOUBT)

    def sync(self, connection: sqlite3.Connection) -> None:
        """Make everything committed so far survive a power cut; raises `StoreError` when the disk refuses, and what
        opening it raises. `connection` is the one that writes, outside a transaction."""
        file = self._file or self._opened()
        try:
            if self._is_in_doubt:
                self._empty(connection)
                self._is_in_doubt = False
                self._mark(is_in_doubt=False)
            _sync(file.fileno())
        except OSError as error:
            self.doubt()
            raise StoreError(f"{self._path} could not be synced: {error.strerror}") from error

    def doubt(self) -> None:
        """A sync was refused. The system forgets what it could not write: the next sync would say nothing of it, and
        behind a gap in the log nothing is found again."""
        self._is_in_doubt = True
        self._mark(is_in_doubt=True)

    def _mark(self, *, is_in_doubt: bool) -> None:
        """Tell who opens the log later. Where its mode cannot be changed, because it is of somebody else, only who had
        it open knows of the doubt, and whoever opens it once it was marked empties it once more. Where the mark means
        nothing (`_is_unmarkable`), only who had it open knows."""
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(os.stat(self._path).st_mode)
            os.chmod(self._path, mode | _MARK_OF_DOUBT if is_in_doubt else mode & ~_MARK_OF_DOUBT)

    def _empty(self, connection: sqlite3.Connection) -> None:
        """Put all that the log holds into the database; raises `StoreError` while somebody reads what was before. Who
        still does at the next time is not waited for again as long."""
        connection.execute(BRISK_CHECKPOINT if self._is_held_up else PATIENT_CHECKPOINT)
        try:
            self._is_held_up, *_ = connection.execute(_TRUNCATE_CHECKPOINT).fetchone()
        finally:
            connection.execute(NO_WAITING)
        if self._is_held_up:
            raise StoreError(
                f"{self._path} could not be synced before, and somebody who reads keeps it from being emptied"
            )

    def size(self) -> int:
        """Its length in bytes; 0 when it cannot be asked for.

        Not by `stat`: that also asks when the file was written last, and Linux since 6.13 then gives the next write a
        time of its own, which makes its sync a third dearer.
        """
        try:
            return (self._file or self._opened()).seek(0, os.SEEK_END)
        except (OSError, LashError):
            return 0

    def close(self) -> None:
        """Let go of the file. May be repeated, also after an interrupt."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _sync(descriptor: int) -> None:
    """Flush to the medium itself: macOS needs its own call for that."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


class Checkpointer:
    """Copies the WAL back into the database on a thread and connection of its own, on request."""

    def __init__(self, path: StrPath, log: Log) -> None:
        self._path = path
        self._log = log
        self._wal = f"{path}-wal"
        self._wanted = threading.Event()
        self._caught_up = threading.Event()
        self._ask_above = _WAL_RESTART_BYTES
        self._wait_above = _WAL_TRUNCATE_BYTES
        self._stopping = False
        self._thread: threading.Thread | None = None
        # Held while the connection is used; by who forks, while the process forks.
        self._lock = threading.Lock()
        self._is_resting = False
        self._connection: sqlite3.Connection | None = None

    def is_due(self) -> bool:
        """Whether the WAL grew past its mark, so that a look may take time; one `lseek`. Asked by who has the pen."""
        size = self._log.size()
        if size > self._ask_above:
            return True
        if size <= _WAL_RESTART_BYTES:
            self._ask_above = _WAL_RESTART_BYTES
        return False

    def look(self) -> None:
        """Ask for a checkpoint if the WAL grew past its mark; mostly one `lseek`. Called by the writer only.

        Past the last mark the writer waits: a checkpoint that empties the log needs the writer's lock, and a busy
        writer would never let it in.
        """
        if not self.is_due():
            return
        size = self._log.size()
        self._ask_above = size + _WAL_RESTART_BYTES
        if self._thread is None:
            # Interrupted meanwhile, nobody can know whether it runs: the next look starts another, and both are told
            # to end.
            thread = threading.Thread(target=self._run, name="lash-checkpointer", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system has none left. What was just committed stays so; the next mark asks again.
                return
            self._thread = thread
        self._caught_up.clear()
        self._wanted.set()
        if size <= self._wait_above:
            return
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        while self._log.size() > _WAL_TRUNCATE_BYTES and time.monotonic() < deadline:
            self._wanted.set()
            self._caught_up.wait(_CATCH_UP_SECONDS)
            self._caught_up.clear()
        # A reader that holds the log open is not waited for at every commit.
        left = self._log.size()
        self._wait_above = 2 * left if left > _WAL_TRUNCATE_BYTES else _WAL_TRUNCATE_BYTES

    def end(self) -> None:
        """Have the thread end after the checkpoint it may be in."""
        self._stopping = True
        self._wanted.set()

    def close(self) -> None:
        """End the thread, and wait until it has."""
        self.end()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._wanted.wait()
                self._wanted.clear()
                if self._stopping:
                    self._wanted.set()  # for another one
                    return
                # A checkpoint that readers, writers or a lack of descriptors hold up is asked for again; failing here
                # loses nothing. Only a refused sync may be told to nobody else.
                with self._lock, contextlib.suppress(LashError):
                    try:
                        if self._connection is None:
                            # Another file must not get what this log holds.
                            self._log.require_place()
                            self._connection = connect(self._path, CHECKPOINTER_PRAGMAS)
                        self._copy_back(self._connection)
                    except sqlite3.Error as error:
                        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_FSYNC:
                            self._log.doubt()
                self._caught_up.set()
        finally:
            with self._lock:
                self._let_go()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def rest(self, deadline: float) -> bool:
        """See `process_forks.Forkable`."""
        self._is_resting = self._lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        if self._is_resting:
            self._let_go()
        return self._is_resting

    def go_on(self) -> None:
        """See `process_forks.Forkable`."""
        if self._is_resting:
            self._is_resting = False
            self._lock.release()

    def _copy_back(self, connection: sqlite3.Connection) -> None:
        """Copy what is there without holding anybody up; then the little that came meanwhile, under the write lock.

        That lock is held while readers of the log are waited for, so the wait is short unless the log has become long.
        """
        is_long = _size(self._wal) > _WAL_TRUNCATE_BYTES
        connection.execute(_PASSIVE_CHECKPOINT).fetchone()
        connection.execute(PATIENT_CHECKPOINT if is_long else BRISK_CHECKPOINT)
        connection.execute(_TRUNCATE_CHECKPOINT if is_long else _RESTART_CHECKPOINT).fetchone()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
