"""The lane transaction, turn rows and the cancel gate (design §3, D8; contract 01 §6.6, §13, 02 §1.8, §4).

One transaction takes the lease, claims what the turn starts from (the text it
brings, or what `drain` finds in the queue) and inserts the running turn row:
from then on no crash can lose the text. An unfinished turn always comes first:
whoever takes the lane finishes it from its journal before anything new is
written. The gate of a turn holds a row only once a cancel was requested;
committing the turn closes it.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from lash_cli.core.codec import decode, decode_any, encode
from lash_cli.core.commit import TurnSummary
from lash_cli.core.ingress import InputState
from lash_cli.core.lease import SessionExecutionLease
from lash_cli.core.outcome import CancelGate, CancelRequested, CompletionSealed, TurnCancellationEvidence
from lash_cli.errors import ConflictError, SessionBindingMismatch, SessionClosed, UsageError
from lash_cli.store.base import (
    LaneBusy,
    LaneGranted,
    LaneOutcome,
    LaneRequest,
    TurnRecord,
)
from lash_cli.store.sqlite import drain, inputs, line, turn_start
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.sessions import SESSION_COLUMNS, StoredSession, read_session, read_session_and

_TURN_COLUMNS = """
    s.session_id, t.turn_id, t.state, t.turn_index, t.started_at_ms, t.origin, t.summary, t.head_revision,
    (SELECT n.node_id FROM nodes n WHERE n.session_key = t.session_key AND n.seq = t.first_seq),
    (SELECT n.node_id FROM nodes n WHERE n.session_key = t.session_key AND n.seq = t.last_seq),
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
# All the lane transaction has to know of a session before it takes the lane: its row, and whether a turn is unfinished.
_READ = (
    "SELECT"
    + SESSION_COLUMNS
    + """,
    EXISTS (SELECT 1 FROM turns t INDEXED BY turns_running WHERE t.session_key = s.session_key AND t.state = 'running')
FROM sessions s WHERE s.session_id = ?
"""
)
_STATE = "SELECT state FROM turns WHERE session_key = ? AND turn_id = ?"
# What every process with running turns looks at 20 times a second: the few rows of the index of running turns.
_REQUESTS = """
SELECT s.session_id, t.turn_id, c.gate FROM turns t INDEXED BY turns_running
JOIN turn_cancels c ON c.session_key = t.session_key AND c.turn_id = t.turn_id
JOIN sessions s ON s.session_key = t.session_key
WHERE t.state = 'running'
"""
_STANDING = """
SELECT c.gate, t.state FROM sessions s
LEFT JOIN turn_cancels c ON c.session_key = s.session_key AND c.turn_id = ?1
LEFT JOIN turns t ON t.session_key = s.session_key AND t.turn_id = ?1
WHERE s.session_id = ?2
"""
_GATE = "SELECT gate FROM turn_cancels WHERE session_key = ? AND turn_id = ?"
# First one wins; completion wins by committing the turn row (contract 01 §6.6).
_REQUEST = "INSERT INTO turn_cancels (session_key, turn_id, gate, requested_at_ms) VALUES (?, ?, ?, ?)"


def read_gate(connection: sqlite3.Connection, session_key: int, turn_id: str) -> TurnCancellationEvidence | None:
    """The cancel request at the gate of a turn."""
    row = connection.execute(_GATE, (session_key, turn_id)).fetchone()
    return None if row is None else request_at(row[0])


def request_at(stored_gate: str) -> TurnCancellationEvidence | None:
    """The cancel request a stored gate holds."""
    gate: CancelGate = decode_any(stored_gate, CancelGate)
    return gate.cancellation if isinstance(gate, CancelRequested) else None


def write_gate(
    connection: sqlite3.Connection, session_key: int, turn_id: str, evidence: TurnCancellationEvidence, now_ms: int
) -> None:
    """Put a cancel request at a gate that is free; the caller read it in this transaction."""
    connection.execute(_REQUEST, (session_key, turn_id, encode(CancelRequested(evidence)).decode(), now_ms))


def _record(row: Any) -> TurnRecord:
    session_id, turn_id, state, turn_index, started_at_ms, origin, summary, revision, first, last, generation = row
    return TurnRecord(
        session_id,
        turn_id,
        state,
        turn_index,
        started_at_ms,
        origin,
        None if summary is None else decode(summary, TurnSummary),
        revision,
        first,
        last,
        generation,
    )


def _read_turn(connection: sqlite3.Connection, session_key: int, turn_id: str) -> TurnRecord | None:
    row = connection.execute(_TURN, (session_key, turn_id)).fetchone()
    return None if row is None else _record(row)


def _committed(stored: StoredSession, turn: TurnRecord) -> LaneGranted:
    return LaneGranted(None, stored.position(), turn, committed=True)


def _already_done(
    connection: sqlite3.Connection, stored: StoredSession, request: LaneRequest
) -> tuple[LaneGranted | None, inputs.Submitted | None]:
    """What answers the request without a lane: its turn, or the turn that consumed its text, is committed."""
    if request.turn_id is not None and not request.is_new_turn:
        turn = _read_turn(connection, stored.key, request.turn_id)
        if turn is not None and turn.state == "committed":
            return _committed(stored, turn), None
    if request.draft is None:
        return None, None
    submitted = inputs.find_submitted(connection, stored.key, request.draft)
    if submitted is None or submitted.input.state not in (InputState.COMPLETED, InputState.CANCELLED):
        return None, submitted
    state = submitted.input.state
    if state is InputState.COMPLETED and submitted.turn_id is not None:
        turn = _read_turn(connection, stored.key, submitted.turn_id)
        if turn is not None and turn.state == "committed":
            return _committed(stored, turn), submitted
    raise ConflictError(
        f"the text under key {request.draft.source_key!r} was {state.value} before",
        code=f"input_{state.value}",
        details={"input_id": submitted.input.input_id},
    )


def _refuse_unless_free(submitted: inputs.Submitted | None, lease: SessionExecutionLease) -> None:
    """Refuse a row that the generation now holding the lane claimed before: whoever claimed it is to settle it."""
    if submitted is not None and submitted.claim_generation == lease.fencing_token:
        raise ConflictError(
            f"input {submitted.input.input_id!r} is claimed by turn {submitted.turn_id!r}", code="input_claimed"
        )


def _open(connection: sqlite3.Connection, request: LaneRequest, now_ms: int) -> LaneOutcome:
    stored, (has_unfinished,) = read_session_and(connection, _READ, (request.session_id,), request.session_id)
    if stored.closed_at_ms is not None:
        raise SessionClosed(f"session {request.session_id!r} is closed")
    done, submitted = _already_done(connection, stored, request)
    if done is not None:
        return done
    if request.drain is not None:
        return drain.start(connection, stored, request, request.drain, now_ms)
    lease = turn_start.take_lease(connection, stored, request, now_ms)
    if isinstance(lease, LaneBusy):
        return lease
    redriven = turn_start.redrive(connection, stored, lease, request) if has_unfinished else None
    if redriven is not None:
        return redriven
    front = line.read_front(connection, stored.key, lease.fencing_token, now_ms)
    if front.has_active_inputs:
        inputs.defer_orphans(connection, stored.key, turn_id=request.turn_id)
    if request.draft is None:
        return LaneGranted(lease, stored.position())
    if stored.held_at_ms is None and _does_command_lead(connection, stored, front, lease, now_ms):
        return LaneGranted(lease, stored.position(), commands_due=True)
    _refuse_unless_free(submitted, lease)
    return turn_start.start_with_text(connection, stored, lease, request, submitted)


def _does_command_lead(
    connection: sqlite3.Connection, stored: StoredSession, front: line.Front, lease: SessionExecutionLease, now_ms: int
) -> bool:
    """Whether session commands go before the text of a foreground turn (contract 02 §6.1)."""
    if front.has_due_work:
        line.join_due(connection, stored.key, now_ms)
        front = line.read_front(connection, stored.key, lease.fencing_token, now_ms)
    head = line.read_head(connection, front)
    return head is not None and head.is_command


def _look(connection: sqlite3.Connection, request: LaneRequest, now_ms: int) -> LaneOutcome | None:
    """Answer a drain by reads alone; None when there may be something to do."""
    assert request.drain is not None
    stored = read_session(connection, request.session_id)
    if stored.closed_at_ms is not None:
        raise SessionClosed(f"session {request.session_id!r} is closed")
    done, _ = _already_done(connection, stored, request)
    return done or drain.look(connection, stored, request, request.drain, now_ms)


def _validate(request: LaneRequest) -> None:
    if request.draft is None and request.drain is None:
        return
    if request.turn_id is None:
        raise UsageError("a lane request that starts a turn names it", code="turn_id_missing")
    if request.draft is None:
        return
    if request.drain is not None:
        raise UsageError("a turn starts from a text or from the queue, not from both", code="lane_request_ambiguous")
    if request.draft.session_id != request.session_id:
        raise SessionBindingMismatch(f"the text belongs to session {request.draft.session_id!r}")


class Lanes:
    """Lanes, turn rows and cancel gates; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def open_lane(self, request: LaneRequest) -> LaneOutcome:
        """See `base.LaneStore.open_lane`. Also raises `SessionBindingMismatch`, `UsageError`: `turn_id_missing`,
        `lane_request_ambiguous`, and `ConflictError`: `input_exists`, `input_cancelled`, `input_claimed`."""
        _validate(request)
        if request.drain is not None:
            idle = self._db.read(lambda connection: _look(connection, request, self._db.clock.now_ms()))
            if idle is not None:
                return idle
        return await self._db.write(
            lambda connection: _open(connection, request, self._db.clock.now_ms()), durable=False
        )

    async def turn(self, session_id: str, turn_id: str) -> TurnRecord | None:
        """See `base.LaneStore.turn`."""
        return self._db.read(
            lambda connection: _read_turn(connection, read_session(connection, session_id).key, turn_id)
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
            key = read_session(connection, session_id).key
            standing = _gate(connection, key, turn_id)
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
        gate, state = rows[0]
        requested = None if gate is None else request_at(gate)
        if requested is not None:
            return CancelRequested(requested)
        return CompletionSealed() if state == "committed" else None

    async def cancel_requests(self) -> tuple[tuple[str, str, TurnCancellationEvidence], ...]:
        """See `base.LaneStore.cancel_requests`."""
        found = []
        for session_id, turn_id, gate in self._db.peek(_REQUESTS, ()):
            evidence = request_at(gate)
            if evidence is not None:
                found.append((session_id, turn_id, evidence))
        return tuple(found)


def _gate(connection: sqlite3.Connection, session_key: int, turn_id: str) -> CancelGate | None:
    requested = read_gate(connection, session_key, turn_id)
    if requested is not None:
        return CancelRequested(requested)
    row = connection.execute(_STATE, (session_key, turn_id)).fetchone()
    return CompletionSealed() if row is not None and row[0] == "committed" else None
