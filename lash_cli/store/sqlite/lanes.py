"""Turn rows as callers see them, and the cancel gate (design D8; contract 01 §6.6).

The gate of a turn holds a row only once a cancel was requested; committing the
turn closes it. `opening` makes the rows of running turns, `stamps` finishes
them.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from lash_cli.core.codec import decode_any, encode
from lash_cli.core.outcome import CancelGate, CancelRequested, CompletionSealed, TurnCancellationEvidence
from lash_cli.store.base import TurnRecord
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.places import sql_place
from lash_cli.store.sqlite.sessions import read_session, refuse_missing
from lash_cli.store.sqlite.stamps import decode_summary

_TURN_COLUMNS = f"""
    s.session_id, t.turn_id, t.state, t.turn_index, t.started_at_ms, t.origin, t.summary, t.head_revision,
    (SELECT n.node_id FROM nodes n WHERE n.place = {sql_place("t.session_key", "t.first_seq")}),
    (SELECT n.node_id FROM nodes n WHERE n.place = {sql_place("t.session_key", "t.last_seq")}),
    t.generation
FROM turns t JOIN sessions s ON s.session_key = t.session_key
"""
_TURN = "SELECT" + _TURN_COLUMNS + "WHERE t.session_key = ? AND t.turn_id = ?"
_TURNS = (
    "SELECT"
    + _TURN_COLUMNS
    + "WHERE t.session_key = ? AND t.turn_index < ? ORDER BY t.turn_index DESC, t.started_at_ms DESC LIMIT ?"
)
_UNFINISHED = "SELECT" + _TURN_COLUMNS + "WHERE t.state = 'running' AND t.session_key = ? ORDER BY t.turn_index"
_ALL_UNFINISHED = "SELECT" + _TURN_COLUMNS + "WHERE t.state = 'running' ORDER BY t.started_at_ms"
# What every process with running turns looks at 20 times a second: the few rows of the index of running turns.
_REQUESTS = """
SELECT s.session_id, t.turn_id, c.gate FROM turns t INDEXED BY turns_running
JOIN turn_cancels c ON c.session_key = t.session_key AND c.turn_id = t.turn_id
JOIN sessions s ON s.session_key = t.session_key
WHERE t.state = 'running'
"""
_STANDING = """
SELECT c.gate, t.state, s.session_key FROM sessions s
LEFT JOIN turn_cancels c ON c.session_key = s.session_key AND c.turn_id = ?1
LEFT JOIN turns t ON t.session_key = s.session_key AND t.turn_id = ?1
WHERE s.session_id = ?2
"""
# First one wins; completion wins by committing the turn row (contract 01 §6.6).
_REQUEST = "INSERT INTO turn_cancels (session_key, turn_id, gate, requested_at_ms) VALUES (?, ?, ?, ?)"


def request_at(stored_gate: str) -> TurnCancellationEvidence | None:
    """The cancel request a stored gate holds."""
    gate: CancelGate = decode_any(stored_gate, CancelGate)
    return gate.cancellation if isinstance(gate, CancelRequested) else None


def _gate_of(stored_gate: str | None, state: str | None) -> CancelGate | None:
    """What stands at the gate of a turn whose row says `state`."""
    requested = None if stored_gate is None else request_at(stored_gate)
    if requested is not None:
        return CancelRequested(requested)
    return CompletionSealed() if state == "committed" else None


def write_gate(
    connection: sqlite3.Connection, session_key: int, turn_id: str, evidence: TurnCancellationEvidence, now_ms: int
) -> None:
    """Put a cancel request at a gate that is free; the caller read it in this transaction."""
    connection.execute(_REQUEST, (session_key, turn_id, encode(CancelRequested(evidence)).decode(), now_ms))


def _record(row: Any) -> TurnRecord:
    session_id, turn_id, state, turn_index, started_at_ms, origin, summary, *rest = row
    ended = None if summary is None else decode_summary(summary, started_at_ms)
    return TurnRecord(session_id, turn_id, state, turn_index, started_at_ms, origin, ended, *rest)


def read_turn(connection: sqlite3.Connection, session_key: int, turn_id: str) -> TurnRecord | None:
    """One turn row, running or committed."""
    row = connection.execute(_TURN, (session_key, turn_id)).fetchone()
    return None if row is None else _record(row)


class Lanes:
    """Turn rows and cancel gates; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def turn(self, session_id: str, turn_id: str) -> TurnRecord | None:
        """See `base.LaneStore.turn`."""
        return self._db.read(
            lambda connection: read_turn(connection, read_session(connection, session_id).key, turn_id)
        )

    async def turns(self, session_id: str, *, limit: int, before: int | None = None) -> tuple[TurnRecord, ...]:
        """See `base.LaneStore.turns`; `before` is a turn index, exclusive."""

        def job(connection: sqlite3.Connection) -> tuple[TurnRecord, ...]:
            bound = before if before is not None else 1 << 62
            key = read_session(connection, session_id).key
            return tuple(_record(row) for row in connection.execute(_TURNS, (key, bound, limit)))

        return self._db.read(job)

    async def unfinished_turns(self, session_id: str | None = None) -> tuple[TurnRecord, ...]:
        """See `base.LaneStore.unfinished_turns`."""

        def job(connection: sqlite3.Connection) -> tuple[TurnRecord, ...]:
            if session_id is None:
                rows = connection.execute(_ALL_UNFINISHED)
            else:
                rows = connection.execute(_UNFINISHED, (read_session(connection, session_id).key,))
            return tuple(_record(row) for row in rows)

        return self._db.read(job)

    async def request_turn_cancel(
        self, session_id: str, turn_id: str, evidence: TurnCancellationEvidence, now_ms: int
    ) -> CancelGate | None:
        """See `base.LaneStore.request_turn_cancel`. A turn that has not started yet can be cancelled too."""

        def job(connection: sqlite3.Connection) -> CancelGate | None:
            row = connection.execute(_STANDING, (turn_id, session_id)).fetchone()
            if row is None:
                refuse_missing(connection, session_id)
            gate, state, key = row
            standing = _gate_of(gate, state)
            if standing is None:
                write_gate(connection, key, turn_id, evidence, now_ms)
            return standing

        return await self._db.write(job, durable=True)

    async def cancel_gate(self, session_id: str, turn_id: str) -> CancelGate | None:
        """See `base.LaneStore.cancel_gate`."""
        rows = self._db.peek(_STANDING, (turn_id, session_id))
        if not rows:
            self._db.read(lambda connection: read_session(connection, session_id))
            return None
        gate, state, _ = rows[0]
        return _gate_of(gate, state)

    async def cancel_requests(self) -> tuple[tuple[str, str, TurnCancellationEvidence], ...]:
        """See `base.LaneStore.cancel_requests`."""
        found = []
        for session_id, turn_id, gate in self._db.peek(_REQUESTS, ()):
            evidence = request_at(gate)
            if evidence is not None:
                found.append((session_id, turn_id, evidence))
        return tuple(found)
