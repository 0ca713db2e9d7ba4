"""Reclaiming space: tombstones, settled ingress, unreferenced blobs, old journals (contract 01 §9.6, design D5).

Only what nothing can reach any more is deleted, and a head that does not
decode aborts the sweep: never delete on doubt. Turn stamps, usage rows and
session tombstones are never pruned.
"""

from __future__ import annotations

import sqlite3

import msgspec

from lash_cli.core.codec import decode, decode_any
from lash_cli.core.frames import AgentFrame
from lash_cli.errors import StoreUnusable
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.deletion import reclaim
from lash_cli.store.sqlite.lineage import outside, shared_runs
from lash_cli.store.sqlite.sessions import key_of

_ATTACHMENT_PREFIX = "sha256:"

_DELETE_NODE = "DELETE FROM nodes WHERE session_key = ? AND seq = ?"
_HIDDEN = "SELECT session_key, seq FROM nodes INDEXED BY nodes_tombstoned WHERE session_key = ? AND tombstoned = 1"
_ALL_HIDDEN = "SELECT session_key, seq FROM nodes INDEXED BY nodes_tombstoned WHERE tombstoned = 1"
# Left by a session that was deleted, and shown by no fork any more.
_ORPHANED_CLUSTERS = """
SELECT DISTINCT session_key FROM nodes WHERE session_key NOT IN (SELECT session_key FROM sessions)
"""
_VACUUM_INPUTS = "DELETE FROM inputs WHERE session_key = ? AND state IN ('cancelled', 'completed')"
_VACUUM_ALL_INPUTS = "DELETE FROM inputs WHERE state IN ('cancelled', 'completed')"
_VACUUM_WORK = "DELETE FROM queued_work WHERE session_key = ? AND state IN ('cancelled', 'completed')"
_VACUUM_ALL_WORK = "DELETE FROM queued_work WHERE state IN ('cancelled', 'completed')"
_COMPONENTS = "SELECT session_id, components FROM sessions"
# Superseded frames are roots too: their execution state stays loadable.
_FRAME_RECORDS = "SELECT record FROM frames"
_ATTACHMENT_REFS = "SELECT DISTINCT attachment_ref FROM attachments"
_BLOB_HASHES = "SELECT hash FROM blobs"
_DELETE_BLOB = "DELETE FROM blobs WHERE hash = ?"
# D5: the journal of a committed turn has served its purpose. One scope that is no JSON must not stop the sweep.
_PRUNE_JOURNAL = """
DELETE FROM effects
WHERE CASE WHEN json_valid(scope_key) THEN json_extract(scope_key, '$.type') = 'turn' AND EXISTS (
    SELECT 1 FROM turns t
    WHERE t.session_key = effects.session_key AND t.turn_id = json_extract(effects.scope_key, '$.turn_id')
      AND t.state = 'committed'
) ELSE 0 END
"""


def _vacuum(connection: sqlite3.Connection, session_id: str | None) -> dict[str, int]:
    values: tuple[int, ...]
    if session_id is None:
        hidden, statements, values = _ALL_HIDDEN, (_VACUUM_ALL_INPUTS, _VACUUM_ALL_WORK), ()
    else:
        values = (key_of(connection, session_id),)
        hidden, statements = _HIDDEN, (_VACUUM_INPUTS, _VACUUM_WORK)
    nodes = _delete_hidden(connection, connection.execute(hidden, values).fetchall())
    if session_id is None:
        nodes += sum(reclaim(connection, key) for (key,) in connection.execute(_ORPHANED_CLUSTERS).fetchall())
    inputs, work = (connection.execute(statement, values).rowcount for statement in statements)
    return {"nodes": nodes, "inputs": inputs, "queued_work": work}


def _delete_hidden(connection: sqlite3.Connection, hidden: list[tuple[int, int]]) -> int:
    """Delete hidden nodes, except those that a fork shows; how many."""
    by_key: dict[int, list[int]] = {}
    for key, seq in hidden:
        by_key.setdefault(key, []).append(seq)
    unseen = [(key, seq) for key, seqs in by_key.items() for seq in outside(seqs, shared_runs(connection, key))]
    connection.executemany(_DELETE_NODE, unseen)
    return len(unseen)


def _roots(connection: sqlite3.Connection) -> set[str]:
    roots: set[str] = set()
    try:
        for _, components in connection.execute(_COMPONENTS):
            roots.update(decode_any(components, dict[str, str]).values())
        for (record,) in connection.execute(_FRAME_RECORDS):
            ref = decode(record, AgentFrame).execution_state_ref
            if ref is not None:
                roots.add(ref)
    except msgspec.DecodeError as error:
        raise StoreUnusable(f"a session head does not decode, nothing was deleted: {error}") from error
    roots.update(ref.removeprefix(_ATTACHMENT_PREFIX) for (ref,) in connection.execute(_ATTACHMENT_REFS))
    return roots


def _collect(connection: sqlite3.Connection) -> dict[str, int]:
    roots = _roots(connection)
    unreachable = [row for row in connection.execute(_BLOB_HASHES) if row[0] not in roots]
    connection.executemany(_DELETE_BLOB, unreachable)
    journal_rows = connection.execute(_PRUNE_JOURNAL).rowcount
    return {"roots": len(roots), "blobs": len(unreachable), "journal_rows": journal_rows}


class Maintenance:
    """Sweeps; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def vacuum(self, session_id: str | None) -> dict[str, int]:
        """See `base.SessionStore.vacuum`; counts under `nodes`, `inputs` and `queued_work`."""
        return await self._db.write(lambda connection: _vacuum(connection, session_id), durable=True)

    async def gc_unreachable(self) -> dict[str, int]:
        """See `base.SessionStore.gc_unreachable`; counts under `roots`, `blobs` and `journal_rows`."""
        return await self._db.write(_collect, durable=True)
