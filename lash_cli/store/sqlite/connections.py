"""SQLite connections: how they are opened, how locks are waited for, what their errors mean (design D1, D10).

The only place that knows pragmas and result codes. Waiting for another
process's lock is physical waiting: it uses real time, never the injected
clock, which is for records.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from lash_cli.core.codec import UNDECODABLE
from lash_cli.errors import (
    LashError,
    StoreClosed,
    StoreError,
    StoreLocked,
    StoreReadOnly,
    StoreUnusable,
    TooManyOpenFiles,
    UsageError,
)
from lash_cli.store.sqlite.file_names import StrPath, file_uri, is_in_the_way
from lash_cli.store.sqlite.schema import READ_USER_VERSION, SCHEMA_VERSION

LOCK_TIMEOUT_SECONDS: Final = 15.0
_FIRST_RETRY_SECONDS: Final = 0.0001
_LONGEST_RETRY_SECONDS: Final = 0.001
_STATEMENT_CACHE: Final = 256

# SQLite primary result codes, https://sqlite.org/rescode.html
# The last one is what a reader gets that lost the race for a lock for ten seconds.
_LOCKED_CODES: Final = {5, 6, 15}
_READ_ONLY_CODES: Final = {3, 8, 14, 23}
_READ_ONLY: Final = 8
_CANNOT_OPEN: Final = 14
# SQLITE_IOERR_SHMSIZE: the index of the log could not be made as large as it is to be. It grows by parts of this size.
_INDEX_TOO_SMALL: Final = 4874
_INDEX_BYTES: Final = 32_768
_CORRUPT_CODES: Final = {11, 26}
# What it says of a parameter that is neither text, nor a number, nor bytes.
_NO_VALUE: Final = "Error binding parameter"
# Our statements are tested against our schema: what they do not find was taken out of the file.
_MISSING_PARTS: Final = ("no such table", "no such column", "vtable constructor failed")
# We store text as UTF-8 and nothing else: what is none was changed in the file. SQLite goes on with what it is.
_DAMAGED_TEXT: Final = "Could not decode to UTF-8"
_WHAT_IT_IS: Final = " with text "

BEGIN_WRITE = "BEGIN IMMEDIATE"
BEGIN_READ = "BEGIN"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"
FULL = "PRAGMA synchronous = FULL"
NORMAL = "PRAGMA synchronous = NORMAL"
# `journal_size_limit` cuts a WAL that is begun again back to what is kept allocated: a longer one has frames waiting.
WAL_KEPT_BYTES: Final = 16 * 1024 * 1024
NO_WAITING = "PRAGMA busy_timeout = 0"
# A pragma may have to read a file that another process is switching to WAL, so waiting is turned off last.
WRITER_PRAGMAS = (
    NORMAL,
    "PRAGMA wal_autocheckpoint = 0",
    f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}",
    "PRAGMA cache_size = -8000",
    "PRAGMA fullfsync = ON",
    NO_WAITING,
)
READER_PRAGMAS = (
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA cache_size = -8000",
    "PRAGMA query_only = ON",
)
# Who reads many rows reads each once: a cache of that size would only fill memory that was never touched before.
BULK_READER_PRAGMAS = (*READER_PRAGMAS, "PRAGMA cache_size = -512")
BRISK_CHECKPOINT = "PRAGMA busy_timeout = 25"
PATIENT_CHECKPOINT = "PRAGMA busy_timeout = 2000"
# The size limit is the connection's that restarts the log.
CHECKPOINTER_PRAGMAS = (PATIENT_CHECKPOINT, NORMAL, "PRAGMA fullfsync = ON")


def closed_error(path: StrPath, *, is_forked: bool) -> StoreClosed:
    """What a store that can be used no more says."""
    if is_forked:
        return StoreClosed(
            f"{path} was opened before this process was forked",
            code="store_forked",
            hint="open the store again in the new process, or start it by spawn instead of fork",
        )
    return StoreClosed(f"{path} was closed")


def told_error(error: BaseException, path: StrPath) -> BaseException:
    """What a caller is told for what went wrong in its job: errors of SQLite, numbers and texts that are none to
    it, and records that are none, as ours."""
    if isinstance(error, sqlite3.ProgrammingError) and str(error).startswith(_NO_VALUE):
        # Only a program can hand one in, such as a session where its id belongs.
        return UsageError(f"an id, a key or a name is text: {str(error).partition(': ')[2]}")
    if isinstance(error, sqlite3.Error):
        return map_error(error, path)
    if isinstance(error, UNDECODABLE):
        return StoreUnusable(f"a record in {path} does not decode: {error}")
    if isinstance(error, OverflowError):
        return UsageError("a number is beyond what the database can hold: it takes 64 bits", code="number_out_of_range")
    if isinstance(error, UnicodeEncodeError):
        # Half of a surrogate pair, which only a program can hand in; it is not quoted, because it cannot be printed.
        return UsageError(
            f"an id, a key or a name is not valid Unicode at character {error.start}", code="text_not_utf8"
        )
    return error


def map_error(error: sqlite3.Error, path: StrPath) -> LashError:
    """The lash error of a SQLite error; the only place that knows SQLite's codes."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary in _LOCKED_CODES:
        return StoreLocked(f"{path} stayed locked by another process")
    if primary == _CANNOT_OPEN and not _has_descriptor_left():
        return TooManyOpenFiles(f"{path} cannot be opened: too many open files")
    if (primary == _CANNOT_OPEN or (code == _INDEX_TOO_SMALL and not _has_index(path))) and _is_full(path):
        from lash_cli.paths import unusable_path

        return unusable_path(os.fsdecode(path), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "open")
    if primary in _READ_ONLY_CODES:
        from lash_cli.paths import readable_hint

        # What reading could not do there has another one of these codes.
        elsewhere = (
            "it can only be read there: copy it to a directory that can be written"
            if code == _READ_ONLY
            else "even reading needs a directory that can be written: copy it to one"
        )
        hint = readable_hint(path) or f"{elsewhere}, and name the copy with --db FILE"
        as_effective = os.access in os.supports_effective_ids
        places = (path, os.path.dirname(os.path.realpath(path)))
        if all(os.access(place, os.W_OK, effective_ids=as_effective) for place in places):
            # SQLite does not say more: a log of somebody else, or a disk that makes no file.
            hint = "it may be written there: a file beside it is in the way, or the disk fails; see: lash doctor"
        return StoreReadOnly(f"{path} cannot be opened or written: {error}", hint=hint)
    if str(error).startswith(_MISSING_PARTS) and (version := _version(path)) > SCHEMA_VERSION:
        hint = "a newer lash brought it up to date meanwhile: start again, and should this be said again, update lash"
        return too_new(path, version, hint=hint)
    if primary in _CORRUPT_CODES or str(error).startswith((*_MISSING_PARTS, _DAMAGED_TEXT)):
        reason = str(error).partition(_WHAT_IT_IS)[0]
        return StoreUnusable(f"{path} is damaged or not a database: {reason}", code="store_corrupt")
    # That is said beside the hint: the outcome is unknown all the same, and somebody is to look first.
    return StoreError(f"{path}: {error}{'; make room there' if primary == sqlite3.SQLITE_FULL else ''}")


def too_new(path: StrPath, version: int, *, hint: str) -> StoreUnusable:
    """The error for a file of a schema that this program does not know."""
    message = f"{path} has schema {version}, this program knows {SCHEMA_VERSION}"
    return StoreUnusable(message, code="schema_too_new", hint=hint)


def _version(path: StrPath) -> int:
    """The schema a file has by now, 0 where it cannot be asked."""
    try:
        with contextlib.closing(connect(path, (), read_only=True)) as connection:
            (version,) = connection.execute(READ_USER_VERSION).fetchone()
    except (sqlite3.Error, LashError):
        return 0
    return int(version)


def _is_full(path: StrPath) -> bool:
    """Whether the disk has no room for the log of a database, or for the index of that: reading needs both."""
    try:
        room = os.statvfs(path)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _INDEX_BYTES or room.f_favail == 0 < room.f_files


def _has_index(path: StrPath) -> bool:
    """Whether the log has the first part of its index: without it nothing can have been written."""
    try:
        return os.stat(f"{os.path.realpath(os.fsdecode(path))}-shm").st_size >= _INDEX_BYTES
    except OSError:
        return False


def _has_descriptor_left() -> bool:
    """Asked of the system because SQLite keeps to itself why it cannot open a file."""
    try:
        # Not of the database: closing it would drop the locks that this process has on it.
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return TooManyOpenFiles.behind(error) is None
    return True


@contextlib.contextmanager
def mapped_errors(path: StrPath) -> Iterator[None]:
    """Raise lash errors for the SQLite errors of the block, as `told_error`."""
    try:
        yield
    except (sqlite3.Error, *UNDECODABLE, OverflowError, UnicodeEncodeError) as error:
        raise told_error(error, path) from error


def in_the_way(path: StrPath) -> StoreReadOnly:
    """The error for a place where something else stands than a file."""
    return StoreReadOnly(f"{path} is in the way of the database", hint="name a regular file with --db FILE or LASH_DB")


def _is_locked(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF in _LOCKED_CODES


def held_here(lock: threading.RLock, other: threading.RLock | None = None) -> bool:
    """Whether the calling thread has one of them: who takes it again would wait for itself, were it not one of these.

    Both are asked at once, because each turn asks several times.
    """
    return lock._is_owned() or (other is not None and other._is_owned())  # type: ignore[attr-defined]


def patiently(connection: sqlite3.Connection, statement: str, lock_timeout_s: float = LOCK_TIMEOUT_SECONDS) -> Any:
    """Run a statement that takes a lock, waiting for other processes up to `lock_timeout_s`.

    The busy handler of SQLite sleeps in steps that are long against a commit and is not called at all for a change
    of the journal mode, hence the ladder of our own. Raises `sqlite3.OperationalError` when time is up.
    """
    pause, deadline = _FIRST_RETRY_SECONDS, 0.0
    while True:
        try:
            return connection.execute(statement).fetchone()
        except sqlite3.OperationalError as error:
            # Mostly nobody is in the way, and then nobody asks for the time.
            deadline = deadline or time.monotonic() + lock_timeout_s
            if not _is_locked(error) or time.monotonic() >= deadline:
                raise
        time.sleep(_about(pause))
        pause = min(pause * 2, _LONGEST_RETRY_SECONDS)


def _about(seconds: float) -> float:
    """Between half and one and a half of `seconds`: those who wait for one lock do not come back together."""
    return seconds * (0.5 + int.from_bytes(os.urandom(2), "big") / 0x10000)


def busy_timeout(lock_timeout_s: float) -> str:
    """The pragma with which SQLite itself waits that long; readers hardly ever have to."""
    return f"PRAGMA busy_timeout = {round(lock_timeout_s * 1000)}"


def connect(
    path: StrPath,
    pragmas: tuple[str, ...],
    *,
    read_only: bool = False,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> sqlite3.Connection:
    """A connection to an existing file, usable from any thread, transactions under our own control. It waits for locks
    like any other unless `pragmas` say otherwise, and with `read_only` writes nothing.

    Raises `StoreReadOnly` for what is no file, before it is touched, and `TooManyOpenFiles`.
    """
    if is_in_the_way(path):
        raise in_the_way(path)
    uri = f"{file_uri(path)}?mode={'ro' if read_only else 'rw'}"
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=LOCK_TIMEOUT_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        factory=factory,
        cached_statements=_STATEMENT_CACHE,
    )
    try:
        for pragma in pragmas:
            connection.execute(pragma)
    except BaseException as error:
        told = told_error(error, path)
        connection.close()
        if isinstance(told, TooManyOpenFiles):
            # Now there may be room again, and whoever asked why would be told something else.
            raise told from error
        raise
    return connection
