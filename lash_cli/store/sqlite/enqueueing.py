"""The transaction of an enqueue: who takes new rows, the row, and its event (contract 02 §1.2, §1.3; design D9, D22).

Two statements read and two write. Loaded by whoever enqueues and by nobody who
only looks at a queue, because the live log comes with it (design D16).
"""

from __future__ import annotations

import sqlite3
from typing import Final

from lash_cli.core.ingress import InputDraft, PendingTurnInput, ingress_message_id
from lash_cli.core.observation import QueueChanged
from lash_cli.store.sqlite import inputs
from lash_cli.store.sqlite.announcing import WriterConnection
from lash_cli.store.sqlite.lineage import find_node, segments_of
from lash_cli.store.sqlite.live import append_behind
from lash_cli.store.sqlite.live_rows import NEWEST, change_row
from lash_cli.store.sqlite.schema import IS_OF_TODAY
from lash_cli.store.sqlite.sessions import refuse_closed, refuse_missing

# The session that a row enters, behind what its event is appended, and its next seq where a message of that id may have
# been said there: it stands there, or in a history that is shared with others. In one look.
_ADDRESSEE: Final = f"""
SELECT s.session_key, s.head_revision, s.closed_at_ms, l.epoch, l.hole, ({NEWEST}),
    CASE WHEN EXISTS (SELECT 1 FROM nodes INDEXED BY nodes_by_id
        WHERE session_key = s.session_key AND node_id = ? AND tombstoned = 0)
    OR EXISTS (SELECT 1 FROM node_origins WHERE session_key = s.session_key) THEN s.next_seq END
FROM sessions s LEFT JOIN live_log l ON l.session_key = s.session_key AND l.stamp = ?
WHERE s.session_id = ? AND {IS_OF_TODAY}
"""


def enqueue(connection: sqlite3.Connection, draft: InputDraft, now_ms: int) -> PendingTurnInput:
    """Store a draft that waits and announce it, or answer with what stands under its source key.

    Raises like `read_session`, `SessionClosed`, and `ConflictError` (`input_exists`) for the id of an input of which
    only its message is left, too. `connection` is the writer's.
    """
    assert isinstance(connection, WriterConnection)
    session_id, message_id = draft.session_id, ingress_message_id(draft.input_id)
    row = connection.execute(_ADDRESSEE, (message_id, connection.stamp, session_id)).fetchone()
    if row is None:
        refuse_missing(connection, session_id)
    key, head_revision, closed_at_ms, epoch, hole, newest, next_seq = row
    if closed_at_ms is not None:
        refuse_closed(session_id)
    submitted = inputs.find_submitted(connection, key, draft)
    if submitted is not None:
        return submitted.input
    if next_seq is not None and find_node(connection, segments_of(connection, key, next_seq), message_id) is not None:
        raise inputs.id_is_used(draft.input_id)
    stored = inputs.insert(connection, key, draft, now_ms)
    log_end = None if epoch is None else (epoch, hole, newest)
    rows = ((head_revision or 0, change_row(QueueChanged("enqueued", (draft.input_id,)))),)
    append_behind(connection, key, session_id, log_end, rows, now_ms=now_ms)
    return stored
