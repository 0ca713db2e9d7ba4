"""What is in a database file: sizes, schema, tables; and giving unused space back (contract 08 §5.4, design D11).

Looking works on a file of any schema, also on one this program is too old or
too new for, and writes nothing. sqlite-utils is imported here and only when
somebody looks.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from lash_cli.core.protocols import Clock
from lash_cli.errors import NotFoundError, StoreUnusable
from lash_cli.store.sqlite import schema
from lash_cli.store.sqlite.connections import BEGIN_READ, FULL, connect, mapped_errors
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.file_names import is_there
from lash_cli.store.sqlite.ownership import EMPTY_THE_LOG
from lash_cli.store.sqlite.search_tables import forget_deleted_words

_PRAGMAS: Final = ("page_size", "page_count", "freelist_count", "journal_mode")
_VACUUM = "VACUUM"
_SESSIONS = "SELECT count(*) FROM sessions"
_DELETED = "SELECT count(*) FROM deleted_sessions"


class Facts(NamedTuple):
    """A database file as it is. `tables` are the rows of each table; `bytes` is the file without its log."""

    bytes: int
    log_bytes: int
    page_size: int
    free_pages: int
    journal_mode: str
    schema_version: int
    migrations: tuple[str, ...]
    sessions: int
    deleted_sessions: int
    tables: dict[str, int]


@contextmanager
def looking(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, inside one read transaction.

    Raises `NotFoundError` (`store_not_found`, also for one whose making was cut
    off), `StoreUnusable` (`store_foreign` for a database that is not ours) and
    lash errors for SQLite's own.
    """
    if not is_there(database):
        raise _none_yet(f"{database} does not exist")
    with mapped_errors(database):
        connection = connect(database, (), read_only=True)
        try:
            connection.execute(BEGIN_READ)
            (application,) = connection.execute(schema.READ_APPLICATION_ID).fetchone()
            if application != schema.APPLICATION_ID:
                if schema.is_blank(connection):
                    raise _none_yet(f"{database} is empty")
                raise StoreUnusable(
                    f"{database} is not a lash database", code="store_foreign", hint="name ours with --db FILE"
                )
            yield connection
        finally:
            connection.close()


def _none_yet(message: str) -> NotFoundError:
    return NotFoundError(message, code="store_not_found", hint="make a first session with: lash open")


def schema_version(connection: sqlite3.Connection) -> int:
    """How many migrations the file has."""
    (version,) = connection.execute(schema.READ_USER_VERSION).fetchone()
    return int(version)


def facts(connection: sqlite3.Connection, database: Path) -> Facts:
    """Everything `lash db info` tells."""
    import sqlite_utils

    tables = sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)
    values = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _PRAGMAS}
    version = schema_version(connection)
    return Facts(
        bytes=database.stat().st_size,
        log_bytes=_log_bytes(database),
        page_size=values["page_size"],
        free_pages=values["freelist_count"],
        journal_mode=values["journal_mode"],
        schema_version=version,
        migrations=tuple(name for name, _ in schema.MIGRATIONS[:version]),
        sessions=connection.execute(_SESSIONS).fetchone()[0],
        deleted_sessions=connection.execute(_DELETED).fetchone()[0],
        tables={
            name: tables.table(name).count
            for name in sorted(tables.table_names())
            if not name.startswith(("sqlite_", "_sqlite_")) and tables.table(name).virtual_table_using is None
        },
    )


def pending_migrations(version: int) -> tuple[str, ...]:
    """The migrations a file of that version has not had."""
    return tuple(name for name, _ in schema.MIGRATIONS[version:])


def migrate(database: Path, clock: Clock) -> None:
    """Bring an existing file up to date; raises as `Database.open`."""
    Database.open(database, clock=clock).close()


def compact(database: Path) -> tuple[int, int]:
    """Rewrite the file without its unused pages and what they held; its size before and after.

    Others may go on reading. Raises `StoreLocked` when one of them writes for
    too long, `StoreError` when there is no room for the second copy.
    """
    before = os.path.getsize(database)
    with mapped_errors(database):
        connection = connect(database, (FULL,))
        try:
            forget_deleted_words(connection)
            connection.execute(_VACUUM)
            connection.execute(EMPTY_THE_LOG).fetchone()
        finally:
            connection.close()
    return before, os.path.getsize(database)


def empty_log(database: Path) -> None:
    """Have what the log holds take the place of what the file has from before, if there is a log and as far as nobody
    reads it. Raises lash errors for SQLite's own."""
    if _log_bytes(database):
        with mapped_errors(database):
            connection = connect(database, (FULL,))
            try:
                connection.execute(EMPTY_THE_LOG).fetchone()
            finally:
                connection.close()


def _log_bytes(database: Path) -> int:
    try:
        return os.stat(f"{os.path.realpath(database)}-wal").st_size
    except FileNotFoundError:
        return 0
