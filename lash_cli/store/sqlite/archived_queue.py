"""What waits in a queue, in and out of an archive (contract 08 §5.1 `export`, 02 §1).

A text was acknowledged and not answered yet: it goes where the session goes.
Who held it stays behind, since a claim and a running turn mean something only
where they are, so everything waits for the next turn, in its old order. The
imported queue is held: the session it came from may still be there and use the
same texts, and only a person knows which of the two is to go on.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from lash_cli.core.archive import ArchivedInput
from lash_cli.core.codec import decode, encode
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import InputState
from lash_cli.core.protocols import Ids
from lash_cli.store.sqlite.inputs import NEXT_TURN, decode_submitted, encode_submitted
from lash_cli.store.sqlite.numbered_tables import next_number

HOLD_REASON: Final = "imported"

_WAITING: Final = """
SELECT input_id, submitted_ingress, enqueued_at_ms, CAST(input AS BLOB), source_key FROM inputs
WHERE session_key = ? AND state IN ('pending_active', 'deferred_next_turn') ORDER BY enqueue_seq
"""
_IS_USED: Final = "SELECT 1 FROM inputs WHERE input_id = ?"
_INSERT: Final = f"""
INSERT INTO inputs (enqueue_seq, input_id, session_key, source_key, ingress, submitted_ingress, state, input,
    enqueued_at_ms)
VALUES ({next_number("inputs")}, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_HOLD: Final = "UPDATE sessions SET held_at_ms = ?, hold_reason = ? WHERE session_key = ?"


def read_queue(connection: sqlite3.Connection, session_key: int) -> tuple[ArchivedInput, ...]:
    """Every text of the session that no committed turn used, in order; what a turn holds now is among them."""
    return tuple(
        ArchivedInput(
            input_id,
            enqueued_at_ms,
            decode(body, TurnInput),
            source_key,
            decode_submitted(submitted),
        )
        for input_id, submitted, enqueued_at_ms, body, source_key in connection.execute(_WAITING, (session_key,))
    )


def write_queue(
    connection: sqlite3.Connection, session_key: int, inputs: tuple[ArchivedInput, ...], ids: Ids, now_ms: int
) -> None:
    """Let `inputs` wait in the session, and hold its queue. An id that is in use is replaced."""
    for item in inputs:
        is_used = connection.execute(_IS_USED, (item.input_id,)).fetchone() is not None
        values = (
            ids.new("in") if is_used else item.input_id,
            session_key,
            item.source_key,
            NEXT_TURN,
            encode_submitted(item.submitted),
            InputState.DEFERRED_NEXT_TURN.value,
            encode(item.input).decode(),
            item.enqueued_at_ms,
        )
        connection.execute(_INSERT, values)
    if inputs:
        connection.execute(_HOLD, (now_ms, HOLD_REASON, session_key))
