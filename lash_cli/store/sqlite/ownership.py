"""Having a database to oneself: no other process has it open, and nobody holds a session (contract 08 §5.4, design D1).

In WAL mode every open connection keeps a shared lock on the file, so asking
for the exclusive one tells whether anybody is there. It is held until the
connection closes: whoever opens the file meanwhile waits, and then finds the
same file with its new content. That is why what replaces a database as a whole
writes into the file and never puts another one under its name, which a waiting
process would not notice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lash_cli.core.codec import decode
from lash_cli.core.lease import LeaseOwnerIdentity, LocalProcess
from lash_cli.errors import LashError, SessionStillInUse, StoreLocked, StoreUnusable
from lash_cli.store.sqlite import schema
from lash_cli.store.sqlite.connections import FULL, ROLLBACK, connect, map_error, patiently
from lash_cli.system import is_definitely_dead

# A command that only looks is gone after that.
PATIENCE_SECONDS: Final = 1.0
_PRAGMAS = ("PRAGMA busy_timeout = 0", "PRAGMA locking_mode = EXCLUSIVE", FULL, "PRAGMA fullfsync = ON")
_BEGIN_EXCLUSIVE = "BEGIN EXCLUSIVE"
# Everything is in the main file, and nothing of what was overwritten stays in the log.
EMPTY_THE_LOG = "PRAGMA wal_checkpoint(TRUNCATE)"
_HELD = """
SELECT session_id, name, lease_owner FROM sessions WHERE lease_token IS NOT NULL AND lease_expires_at_ms > ?
ORDER BY name
"""


@contextmanager
def sole_connection(path: Path) -> Iterator[sqlite3.Connection]:
    """The only connection to an existing database, outside a transaction; nobody else can read or write until it ends.

    Raises `StoreLocked` when another process has the file open, `StoreUnusable`
    when it is damaged or not ours, and lash errors for SQLite's own.
    """
    try:
        connection = connect(path, _PRAGMAS)
        try:
            patiently(connection, _BEGIN_EXCLUSIVE, PATIENCE_SECONDS)
            connection.execute(ROLLBACK)
            _refuse_foreign(connection, path)
            yield connection
            connection.execute(EMPTY_THE_LOG).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _explained(map_error(error, path), path) from error


def _explained(error: LashError, path: Path) -> LashError:
    if isinstance(error, StoreLocked):
        return StoreLocked(
            f"{path} is open in another process",
            hint="stop what uses it (see: lash doctor), then try again",
            details={"path": str(path)},
        )
    return error


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreUnusable` for a database with content that is not ours."""
    (application,) = connection.execute(schema.READ_APPLICATION_ID).fetchone()
    if application != schema.APPLICATION_ID and not schema.is_blank(connection):
        raise StoreUnusable(f"{path} is not a lash database", code="store_foreign", hint="name ours with --db FILE")


def refuse_held(connection: sqlite3.Connection, now_ms: int) -> None:
    """Raise `SessionStillInUse` while somebody holds a session whose process is not known to be dead."""
    for session_id, name, owner_text in connection.execute(_HELD, (now_ms,)):
        owner = None if owner_text is None else decode(owner_text, LeaseOwnerIdentity)
        process = owner.liveness if owner is not None and isinstance(owner.liveness, LocalProcess) else None
        if process is not None and is_definitely_dead(process):
            continue
        who = "somebody" if owner is None else f"pid {process.pid}" if process is not None else owner.owner_id
        raise SessionStillInUse(
            f"session {name} ({session_id}) is held by {who}",
            hint=f"let it finish, or: lash park {session_id} --wait",
            details={"session": session_id, "holder": who},
        )
