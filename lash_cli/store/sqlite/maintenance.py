"""Reclaiming space: tombstones, what is settled, unreferenced blobs, old journals (contract 01 §9.6, 03 §3, design D5).

Only what nothing can reach any more is deleted, and a head that does not
decode aborts the sweep: never delete on doubt. Turn stamps, usage rows and
session tombstones are never pruned. `collect` is what `lash gc` does: a settled
input keeps its key from being used twice, so it stays until it is old enough.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import NamedTuple

import msgspec

from lash_cli.core.codec import decode, decode_any
from lash_cli.core.frames import AgentFrame
from lash_cli.errors import StoreUnusable
from lash_cli.store.sqlite.attachments import REF_PREFIX, forget_aged
from lash_cli.store.sqlite.connections import BEGIN_WRITE
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.deletion import reclaim
from lash_cli.store.sqlite.inputs import CANCELLED_AT_MS
from lash_cli.store.sqlite.lineage import outside, shared_runs
from lash_cli.store.sqlite.places import POSITION_BITS, place_at, sql_places
from lash_cli.store.sqlite.sessions import key_of
from lash_cli.store.sqlite.waits import sweep_waits

_DELETE_NODE = "DELETE FROM nodes WHERE place = ?"
_HIDDEN = f"""
SELECT session_key, seq FROM nodes INDEXED BY nodes_tombstoned WHERE place {sql_places("?1")} AND tombstoned = 1
"""
_ALL_HIDDEN = "SELECT session_key, seq FROM nodes INDEXED BY nodes_tombstoned WHERE tombstoned = 1"
# Left by a session that was deleted, and shown by no fork any more.
_ORPHANED_CLUSTERS = f"""
WITH RECURSIVE clusters(key) AS (
    SELECT (SELECT min(place) FROM nodes) >> {POSITION_BITS}
    UNION ALL
    SELECT (SELECT min(place) FROM nodes WHERE place >= (key + 1) << {POSITION_BITS}) >> {POSITION_BITS}
    FROM clusters WHERE key IS NOT NULL
)
SELECT key FROM clusters WHERE key IS NOT NULL AND key NOT IN (SELECT session_key FROM sessions)
"""
# What `collect` takes of them: settled before a time. The turn that used an input may have ended long after it came.
_AGED_HIDDEN = """
SELECT session_key, seq FROM nodes INDEXED BY nodes_tombstoned WHERE tombstoned = 1 AND at_ms < ?
"""
_AGED_INPUTS = f"""
DELETE FROM inputs WHERE state = 'cancelled' AND {CANCELLED_AT_MS} < ?1
OR state = 'completed' AND enqueued_at_ms < ?1 AND NOT EXISTS (
    SELECT 1 FROM turns t WHERE t.session_key = inputs.session_key AND t.turn_id = inputs.turn_id
        AND (t.state = 'running' OR t.committed_at_ms >= ?1)
)
"""
_AGED_WORK = """
DELETE FROM queued_work
WHERE state IN ('cancelled', 'completed') AND coalesce(settled_at_ms, enqueued_at_ms) < ?
"""
_BLOB_BYTES = "SELECT coalesce(sum(length(content)), 0) FROM blobs"
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
    waits = sweep_waits(connection, session_id=session_id)
    return {"nodes": nodes, "inputs": inputs, "queued_work": work, "waits": waits}


def _delete_hidden(connection: sqlite3.Connection, hidden: list[tuple[int, int]]) -> int:
    """Delete hidden nodes, except those that a fork shows; how many."""
    by_key: dict[int, list[int]] = {}
    for key, seq in hidden:
        by_key.setdefault(key, []).append(seq)
    unseen = [
        (place_at(key, seq),) for key, seqs in by_key.items() for seq in outside(seqs, shared_runs(connection, key))
    ]
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
    roots.update(ref.removeprefix(REF_PREFIX) for (ref,) in connection.execute(_ATTACHMENT_REFS))
    return roots


def prune_journal(connection: sqlite3.Connection) -> int:
    """Delete the journal rows of committed turns, inside the caller's transaction; how many."""
    return connection.execute(_PRUNE_JOURNAL).rowcount


def _collect(connection: sqlite3.Connection) -> dict[str, int]:
    roots = _roots(connection)
    unreachable = [row for row in connection.execute(_BLOB_HASHES) if row[0] not in roots]
    connection.executemany(_DELETE_BLOB, unreachable)
    journal_rows = prune_journal(connection)
    return {"roots": len(roots), "blobs": len(unreachable), "journal_rows": journal_rows}


class Collected(NamedTuple):
    """What a collection removed, or would remove; `blob_bytes` is the size of the blobs."""

    nodes: int
    inputs: int
    queued_work: int
    attachments: int
    blobs: int
    blob_bytes: int
    journal_rows: int
    waits: int


def _collect_aged(connection: sqlite3.Connection, cutoff_ms: int) -> Collected:
    nodes = _delete_hidden(connection, connection.execute(_AGED_HIDDEN, (cutoff_ms,)).fetchall())
    nodes += sum(reclaim(connection, key) for (key,) in connection.execute(_ORPHANED_CLUSTERS).fetchall())
    inputs, work = (connection.execute(text, (cutoff_ms,)).rowcount for text in (_AGED_INPUTS, _AGED_WORK))
    waits = sweep_waits(connection, before_ms=cutoff_ms)
    attachments = forget_aged(connection, cutoff_ms)
    (before,) = connection.execute(_BLOB_BYTES).fetchone()
    swept = _collect(connection)
    (after,) = connection.execute(_BLOB_BYTES).fetchone()
    swept_bytes = before - after
    return Collected(nodes, inputs, work, attachments, swept["blobs"], swept_bytes, swept["journal_rows"], waits)


def _collect_aged_of_copy(connection: sqlite3.Connection, cutoff_ms: int) -> Collected:
    # Without a name it is in memory while it is small, and in a file that nobody else sees when it is not.
    with closing(sqlite3.connect("", isolation_level=None)) as copy:
        connection.backup(copy)
        copy.execute(BEGIN_WRITE)
        return _collect_aged(copy, cutoff_ms)


class Maintenance:
    """Sweeps; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def vacuum(self, session_id: str | None) -> dict[str, int]:
        """See `base.SessionStore.vacuum`; counts under `nodes`, `inputs`, `queued_work` and `waits`."""
        return await self._db.write(lambda connection: _vacuum(connection, session_id), durable=True)

    async def gc_unreachable(self) -> dict[str, int]:
        """See `base.SessionStore.gc_unreachable`; counts under `roots`, `blobs` and `journal_rows`."""
        return await self._db.write(_collect, durable=True)

    async def collect(self, cutoff_ms: int) -> Collected:
        """Remove what nothing can reach any more and, of what is settled, hidden or was never committed, whatever is
        older than `cutoff_ms`, in one transaction.

        Raises `StoreUnusable` when a head does not decode; nothing is deleted then.
        """
        return await self._db.write(lambda connection: _collect_aged(connection, cutoff_ms), durable=True)

    async def try_collect(self, cutoff_ms: int) -> Collected:
        """What `collect` would remove, found out on a copy in temporary storage: the file is only read, and nobody who
        writes is held up. Raises as it."""
        return await self._db.read_bulk(lambda connection: _collect_aged_of_copy(connection, cutoff_ms))
