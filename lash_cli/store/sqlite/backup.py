"""Copies of a whole database: made while it is in use, put back only when nobody uses it (contract 08 §5.4, design D1).

A copy is made through SQLite's online backup in one read transaction, so it is
one moment of the database and holds nobody up. It is complete in one private
file, is written under another name until it is, and never replaces a file.
Putting one back replaces the content of the database in one transaction, after
the old content was set aside. Cursors of observers do not outlive that
(contract 04 §10.2): the live log begins anew.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from lash_cli.core.protocols import Clock
from lash_cli.errors import ConflictError, NotFoundError, StoreError, StoreReadOnly, StoreUnusable
from lash_cli.paths import taken_file, unusable_path
from lash_cli.store.sqlite import schema
from lash_cli.store.sqlite.connections import connect, mapped_errors
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.file_names import is_in_the_way, is_there
from lash_cli.store.sqlite.ownership import refuse_held, sole_connection
from lash_cli.system import is_gone

_FILE_MODE: Final = 0o600
# A file that was written to since may be of a process on another machine. File times are real, whatever clock records
# follow.
_ABANDONED_SECONDS: Final = 60.0
# What `_unfinished` makes, and SQLite beside it: the name of the file, the number of the process, a random one.
_LEFT: Final = re.compile(r"\..+\.([0-9]{1,9})\.[0-9a-f]{8}\.(?:partial|restoring|empty)(?:-wal|-shm|-journal)?")
# One file that is whole by itself; a database that is opened for work goes back to WAL.
_SINGLE_FILE = "PRAGMA journal_mode = DELETE"
_INTEGRITY = "PRAGMA integrity_check(1)"
_SESSIONS = "SELECT count(*) FROM sessions"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
# A directory where names may be made but not read, and a file system that syncs none: what was made there is made.
_NO_SYNC: Final = frozenset({errno.EACCES, errno.EINVAL, errno.ENOTSUP})
_READ_FAULTS: Final = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)
# What SQLite puts beside a file, and takes up with whatever file has the name then; the index says nothing of its own.
_LOGS: Final = ("-wal", "-journal")
_INDEX: Final = "-shm"
_BESIDE: Final = (*_LOGS, _INDEX)


class Copy(NamedTuple):
    """A copy of a database that was found to be sound."""

    file: Path
    bytes: int
    schema_version: int
    sessions: int


class Restored(NamedTuple):
    """What is in the database now, and where the content is that it had before; None when there was none. `beside` are
    logs of a file that was gone, put aside too."""

    copy: Copy
    kept: Path | None
    beside: tuple[Path, ...] = ()


def back_up(database: Path, target: Path) -> Copy:
    """Write one moment of `database` into the new file `target`, mode 0600.

    Raises `NotFoundError` (`store_not_found`), `ConflictError` (`file_exists`),
    what reading raises, and as `paths.unusable_path`.
    """
    if not is_there(database):
        raise NotFoundError(f"{database} does not exist", code="store_not_found")
    sweep(Path(os.path.realpath(database)).parent)
    with mapped_errors(database):
        source = connect(database, (), read_only=True)
    try:
        write_copy(source, target)
    finally:
        source.close()
    return inspect(target)


def write_copy(source: sqlite3.Connection, target: Path) -> None:
    """Write the database of an open connection into the new file `target`; raises as `back_up`."""
    with _unfinished(target) as draft:
        with mapped_errors(target):
            copy = connect(draft, ())
        try:
            # Told before it is closed, which would make room for the file that could not be opened.
            with _told_of(target):
                source.backup(copy)
                copy.execute(_SINGLE_FILE).fetchone()
        finally:
            copy.close()
        _sync(draft, target)
        _publish(draft, target)


@contextmanager
def _told_of(target: Path) -> Iterator[None]:
    """What SQLite cannot write of a copy is told of the file that was named, what it cannot read of the database."""
    try:
        with mapped_errors(target):
            yield
    except StoreError as error:
        number = getattr(error.__cause__, "sqlite_errorcode", 0)
        if number == sqlite3.SQLITE_FULL or (number & 0xFF == sqlite3.SQLITE_IOERR and number not in _READ_FAULTS):
            reason = errno.ENOSPC if number == sqlite3.SQLITE_FULL else errno.EIO
            raise unusable_path(str(target), OSError(reason, str(error.__cause__)), "write") from error
        raise


def inspect(file: Path) -> Copy:
    """Look at a copy as a whole. Raises `NotFoundError` (`backup_not_found`) and `StoreUnusable`: `backup_unusable`
    for one that is damaged, cut off or not of lash, `schema_too_new`."""
    if is_in_the_way(file):
        raise _unusable(file, "it is not a regular file")
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{file} does not exist", code="backup_not_found", details={"file": str(file)}) from None
    except OSError as error:
        raise _unusable(file, f"it cannot be read: {error.strerror}") from error
    try:
        connection = connect(file, (), read_only=True)
        try:
            (application,) = connection.execute(schema.READ_APPLICATION_ID).fetchone()
            if application != schema.APPLICATION_ID:
                raise _unusable(file, "it is not a lash database")
            (version,) = connection.execute(schema.READ_USER_VERSION).fetchone()
            if version > schema.SCHEMA_VERSION:
                message = f"{file} has schema {version}, this program knows {schema.SCHEMA_VERSION}"
                raise StoreUnusable(message, code="schema_too_new", hint="update lash")
            (verdict,) = connection.execute(_INTEGRITY).fetchone()
            if verdict != "ok":
                raise _unusable(file, str(verdict))
            (sessions,) = connection.execute(_SESSIONS).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _unusable(file, str(error)) from error
    return Copy(file, file.stat().st_size, version, sessions)


def _unusable(file: Path, reason: str) -> StoreUnusable:
    return StoreUnusable(
        f"{file} cannot be restored: {reason}",
        code="backup_unusable",
        hint="nothing was changed; choose another copy",
        details={"file": str(file)},
    )


def restore(source: Path, database: Path, aside: Path, clock: Clock) -> Restored:
    """Give `database` the content of the copy `source`; what it held goes into the new file `aside`.

    Raises what `inspect` raises for the copy, `StoreLocked` while another
    process has the database open, `SessionStillInUse` while a session is held,
    `ConflictError` (`restore_from_itself`, `file_exists`). Nothing is changed
    then, and a process that is killed in between leaves the old or the new
    content, never a mixture.
    """
    # A link is the file it leads to: what takes its place stands where that is, and the link stays.
    database = Path(os.path.realpath(database))
    if is_there(database) and os.path.exists(source) and source.samefile(database):
        raise ConflictError(f"{source} is the database itself", code="restore_from_itself")
    copy = inspect(source)
    with _unfinished(database, suffix="restoring") as draft:
        with _told_of(database):
            _prepare(source, draft, clock)
        _sync(draft, database)
        if not database.exists():
            beside = _move_away(database, aside)
            _publish(draft, database)
            return Restored(copy, None, beside)
        try:
            _replace_content(database, draft, aside, clock)
        except StoreUnusable as error:
            if error.code != StoreUnusable.default_code or aside.exists():
                raise
            # What SQLite cannot even open nobody else works with either: it can be put aside by name.
            _move_away(database, aside)
            _publish(draft, database)
    return Restored(copy, aside if aside.exists() else None)


def _prepare(source: Path, draft: Path, clock: Clock) -> None:
    """Make `draft` the content to restore, brought up to date."""
    with mapped_errors(source):
        reading = connect(source, (), read_only=True)
        try:
            writing = connect(draft, ())
            try:
                reading.backup(writing)
            finally:
                writing.close()
        finally:
            reading.close()
    _finish(draft, clock)


def _finish(draft: Path, clock: Clock) -> None:
    """Apply what migrations are missing, forget what was observed, and leave one file."""
    Database.open(draft, clock=clock).close()
    with mapped_errors(draft):
        connection = connect(draft, ())
        try:
            # A cursor from before must not find positions that are given out again.
            for statement in schema.FORGET_OBSERVED:
                connection.execute(statement)
            connection.execute(_SINGLE_FILE).fetchone()
        finally:
            connection.close()


def _replace_content(database: Path, draft: Path, aside: Path | None, clock: Clock) -> None:
    with sole_connection(database) as connection:
        (has_content,) = connection.execute(schema.HAS_ANY_TABLE).fetchone()
        if has_content:
            refuse_held(connection, clock.now_ms())
            if aside is not None:
                write_copy(connection, aside)
        fresh = connect(draft, (), read_only=True)
        try:
            fresh.backup(connection)
        finally:
            fresh.close()


def erase(database: Path, clock: Clock) -> None:
    """Take everything out of `database` for good; it is an empty one afterwards.

    Raises `StoreLocked` while another process has it open, `SessionStillInUse`
    while a session is held, `NotFoundError` (`store_not_found`).
    """
    if not is_there(database):
        raise NotFoundError(f"{database} does not exist", code="store_not_found")
    with _unfinished(database, suffix="empty") as draft:
        with _told_of(database):
            _finish(draft, clock)
        _replace_content(database, draft, None, clock)


@contextmanager
def _unfinished(target: Path, *, suffix: str = "partial") -> Iterator[Path]:
    """A private file beside `target` that is gone in the end, with whatever SQLite put beside it."""
    sweep(target.parent)
    # In a container every process may have the same number, also the one that was killed.
    draft = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.{suffix}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, _FILE_MODE))
    except OSError as error:
        raise unusable_path(str(target), error, "write") from error
    try:
        yield draft
    finally:
        for path in (draft, *(draft.with_name(draft.name + ending) for ending in _BESIDE)):
            # Mostly there is none; what cannot be removed makes nothing undone, and goes with a later copy.
            with suppress(OSError):
                path.unlink()


def sweep(directory: Path) -> None:
    """Remove what processes that were killed left in `directory`: whole copies of a database, under no name. Of any
    file: a copy that is named after its time is made once. What is closed to us is left as it is."""
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        left = _LEFT.fullmatch(name)
        with suppress(OSError):  # another process may do the same
            # What has our own number was begun by a process before us.
            if not left or (left[1] != str(os.getpid()) and not is_gone(int(left[1]))):
                continue
            path = directory / name
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def _publish(draft: Path, target: Path) -> None:
    """Give a finished file its name; raises `ConflictError` (`file_exists`) rather than replace one, or stand beside
    the log of another."""
    for beside in (target.with_name(target.name + ending) for ending in _LOGS):
        if _bytes_in(beside) and not target.exists():
            raise taken_file(beside, "name another file, or move that away")
    try:
        _link(draft, target)
    except FileExistsError:
        raise taken_file(target, "name another file") from None
    except OSError as error:
        raise unusable_path(str(target), error, "write") from error
    _sync(target.parent, target, unless=_NO_SYNC)


def _link(draft: Path, target: Path) -> None:
    try:
        os.link(draft, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without links, as on a stick: the name is taken first, and then what took it is replaced.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE_MODE))
        os.replace(draft, target)


def _move_away(database: Path, aside: Path) -> tuple[Path, ...]:
    """Put aside, byte for byte, what SQLite cannot open, or the logs of a file that is gone; the files that were made.
    Raises `StoreReadOnly` with nothing lost."""
    made = []
    for ending in (*_BESIDE, ""):
        part, kept = (path.with_name(path.name + ending) for path in (database, aside))
        if not part.exists():
            continue
        try:
            if ending == _INDEX or (ending and not _bytes_in(part)):
                part.unlink()
                continue
            with (
                open(part, "rb") as source,
                open(os.open(kept, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE_MODE), "wb") as copy,
            ):
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            part.unlink()
        except OSError as error:
            raise StoreReadOnly(f"cannot put {part} aside: {error.strerror}", details={"path": str(kept)}) from error
        made.append(kept)
    return tuple(made)


def _bytes_in(path: Path) -> int:
    """How many bytes a file has; 0 for one that is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sync(path: Path, target: Path, *, unless: frozenset[int] = frozenset()) -> None:
    """Have a file, or the names in a directory, survive a power cut; raises as `unusable_path` of `target`, unless
    it is for one of these numbers."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in unless:
            raise unusable_path(str(target), error, "write") from error
