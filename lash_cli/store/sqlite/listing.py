"""The listing of sessions as plain rows, with nothing but the standard library (contract 08 §9, design D16).

`SessionTable.list_sessions` answers with records; importing those costs a
status bar many times its query. This is the first page of the same listing for
such a caller: one statement, undecoded columns, and no answer at all (None)
from a file that is not exactly of today's schema. A test holds it against the
store.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from lash_cli.store.sqlite import schema
from lash_cli.store.sqlite.file_names import file_uri, is_in_the_way

# Whoever asks this way has another way to ask, so nobody waits here for a lock.
_BUSY_SECONDS: Final = 0.15

# As `sessions._PAGE`, `_RUNNING_TURN`, `_PENDING_COUNTS` and `_IS_WAITING` together: the running turn by its partial
# index, what waits without being held, and whether that turn waits itself.
_FIRST_PAGE = """
SELECT s.session_key, s.session_id, s.name, s.created_at_ms, s.cwd, s.parent_session_id, s.labels, s.closed_at_ms,
    s.parked_at_ms, s.last_activity_at_ms, s.last_commit_at_ms, s.config, s.head_revision, s.turn_state,
    s.lease_fencing_token, s.lease_token, s.lease_owner, s.lease_claimed_at_ms, s.lease_expires_at_ms,
    (SELECT t.turn_id FROM turns t INDEXED BY turns_running
        WHERE t.session_key = s.session_key AND t.state = 'running' ORDER BY t.turn_index LIMIT 1),
    (SELECT count(*) FROM inputs i INDEXED BY inputs_next
        WHERE i.session_key = s.session_key AND i.state = 'deferred_next_turn' AND i.turn_id IS NULL
        AND i.claim_generation IS NOT
            (CASE WHEN s.lease_token IS NOT NULL AND :now < s.lease_expires_at_ms
                THEN s.lease_fencing_token ELSE -1 END))
    + (SELECT count(*) FROM inputs i INDEXED BY inputs_active
        WHERE i.session_key = s.session_key AND i.state = 'pending_active' AND i.turn_id IS NULL),
    (SELECT count(*) FROM queued_work q INDEXED BY queued_work_ready
        WHERE q.session_key = s.session_key AND q.state = 'pending' AND q.turn_id IS NULL AND q.waits_until_ms IS NULL
        AND q.claim_generation IS NOT
            (CASE WHEN s.lease_token IS NOT NULL AND :now < s.lease_expires_at_ms
                THEN s.lease_fencing_token ELSE -1 END))
    + (SELECT count(*) FROM queued_work q INDEXED BY queued_work_waiting
        WHERE q.session_key = s.session_key AND q.state = 'pending' AND q.waits_until_ms IS NOT NULL),
    s.held_at_ms, s.hold_reason,
    EXISTS (SELECT 1 FROM waits w INDEXED BY waits_by_session CROSS JOIN turns t INDEXED BY turns_running
        WHERE w.session_id = s.session_id AND w.state = 'pending'
        AND t.session_key = s.session_key AND t.state = 'running'
        AND json_extract(w.scope, '$.turn_id') = t.turn_id)
FROM sessions s ORDER BY s.last_activity_at_ms DESC, s.session_key DESC LIMIT :limit
"""


class ListedSession(NamedTuple):
    """One session as stored; `labels`, `config`, `turn_state` and `lease_owner` are JSON text."""

    key: int
    session_id: str
    name: str
    created_at_ms: int
    cwd: str | None
    parent_session_id: str | None
    labels: str
    closed_at_ms: int | None
    parked_at_ms: int | None
    last_activity_at_ms: int
    last_commit_at_ms: int | None
    config: str
    head_revision: int | None
    turn_state: str
    lease_fencing_token: int
    lease_token: str | None
    lease_owner: str | None
    lease_claimed_at_ms: int
    lease_expires_at_ms: int
    running_turn_id: str | None
    pending_inputs: int
    pending_batches: int
    held_at_ms: int | None
    hold_reason: str | None
    is_waiting: int

    @property
    def cursor(self) -> str:
        """The cursor of `SessionTable.list_sessions` that goes on behind this session."""
        return f"{self.last_activity_at_ms}.{self.key}"


def first_page(path: str, *, limit: int, now_ms: int) -> list[ListedSession] | None:
    """The first `limit` sessions, newest activity first, of the database at `path`.

    None when the file cannot answer at once: it is locked, damaged, no database of ours or of another schema.
    """
    if is_in_the_way(path):
        return None
    try:
        connection = sqlite3.connect(f"{file_uri(path)}?mode=ro", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            (application,) = connection.execute(schema.READ_APPLICATION_ID).fetchone()
            (version,) = connection.execute(schema.READ_USER_VERSION).fetchone()
            if (application, version) != (schema.APPLICATION_ID, schema.SCHEMA_VERSION):
                return None
            rows = connection.execute(_FIRST_PAGE, {"limit": limit, "now": now_ms})
            return [ListedSession(*row) for row in rows]
        finally:
            connection.close()
    except sqlite3.Error:
        return None
