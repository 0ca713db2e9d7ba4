"""Deleting a session: everything it owns goes in one transaction, a tombstone stays (contract 01 §1.4, design D7).

Nodes that a fork shares, and the attachments they name, outlive it: they go
with the last session that shows them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

from lash_cli.core.effect import QueueDrainScope, SessionDeleteScope, TurnScope, scope_key
from lash_cli.core.lease import is_row_live
from lash_cli.errors import SessionDeleted
from lash_cli.store.base import busy_error
from lash_cli.store.sqlite import live
from lash_cli.store.sqlite.leases import busy
from lash_cli.store.sqlite.lineage import disinherit, outside, shared_runs
from lash_cli.store.sqlite.places import place_at, places
from lash_cli.store.sqlite.sessions import find_session
from lash_cli.store.sqlite.waits import revoke_waits

# Tables whose rows belong to a session and go with it. Nodes and attachments may outlive theirs for the sake of a fork.
OWNED: Final = ("frames", "turns", "turn_cancels", "usage_deltas", "inputs", "queued_work", "wake_fences", "live_log")
_DELETE_BY_KEY = tuple(f"DELETE FROM {table} WHERE session_key = ?" for table in (*OWNED, "sessions"))
_DELETE_NODES = "DELETE FROM nodes WHERE place BETWEEN ? AND ?"
_DELETE_NODE = "DELETE FROM nodes WHERE place = ?"
_NODE_SEQS = "SELECT seq FROM nodes WHERE place BETWEEN ? AND ?"
# What the nodes that are left do not name; without nodes that is all of it.
_DELETE_ATTACHMENTS = """
DELETE FROM attachments WHERE session_key = ? AND NOT EXISTS (
    SELECT 1 FROM nodes WHERE nodes.place BETWEEN ? AND ? AND instr(nodes.body, attachments.attachment_ref) > 0
)
"""
_EXISTS = "SELECT 1 FROM sessions WHERE session_key = ?"
# Journal rows are clustered by the JSON of their scope; all scopes of a session and kind share a prefix.
_DELETE_EFFECTS = "DELETE FROM effects WHERE scope_key >= ? AND scope_key < ?"


def _journal_ranges(session_id: str) -> Iterator[tuple[str, str]]:
    """Bounds of the scope keys that name the session; "-" follows "," in byte order."""
    exact = scope_key(SessionDeleteScope(session_id))
    yield exact, f"{exact}\0"
    for key, following_field in (
        (scope_key(TurnScope(session_id, "-")), ',"turn_id":'),
        (scope_key(QueueDrainScope(session_id, "-")), ',"drain_id":'),
    ):
        prefix = key.partition(following_field)[0]
        yield f"{prefix},", f"{prefix}-"


def delete(connection: sqlite3.Connection, session_id: str, deleted_at_ms: int, now_ms: int) -> bool:
    """Remove a session with everything it owns; False when it never existed, True too when it was deleted before.

    Raises `SessionExecutionBusy` while its lane is held.
    """
    try:
        stored = find_session(connection, session_id)
    except SessionDeleted:
        return True
    if stored is None:
        return False
    lease = stored.lease()
    if is_row_live(lease, now_ms):
        raise busy_error(session_id, busy(connection, stored, lease))
    revoke_waits(connection, session_id, deleted_at_ms)
    live.delete_in(connection, stored.key, session_id)
    for bounds in _journal_ranges(session_id):
        connection.execute(_DELETE_EFFECTS, bounds)
    for statement in _DELETE_BY_KEY:
        connection.execute(statement, (stored.key,))
    for key in (stored.key, *disinherit(connection, stored.key)):
        reclaim(connection, key)
    return True


def reclaim(connection: sqlite3.Connection, session_key: int) -> int:
    """Delete the nodes of a deleted session that no fork shows, and the attachments none of the others names; how
    many nodes. Those of a session that exists stay."""
    if connection.execute(_EXISTS, (session_key,)).fetchone() is not None:
        return 0
    shared = shared_runs(connection, session_key)
    if shared:
        seqs = outside((seq for (seq,) in connection.execute(_NODE_SEQS, places(session_key))), shared)
        connection.executemany(_DELETE_NODE, [(place_at(session_key, seq),) for seq in seqs])
        removed = len(seqs)
    else:
        removed = connection.execute(_DELETE_NODES, places(session_key)).rowcount
    connection.execute(_DELETE_ATTACHMENTS, (session_key, *places(session_key)))
    return removed
