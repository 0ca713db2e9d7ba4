"""The lane transaction, turn rows and the cancel gate (design §3, D8; contract 01 §6.6, §13, 02 §1.8, §4).

One transaction takes the lease, stores the text claimed by its turn and
inserts the running turn row: from then on no crash can lose the text. An
unfinished turn always comes first: whoever takes the lane finishes it from its
journal before anything new is written. The gate of a turn holds a row only
once a cancel was requested; committing the turn closes it.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from lash_cli.core.codec import decode, decode_any, encode
from lash_cli.core.commit import TurnState, TurnSummary
from lash_cli.core.ingress import InputState, TurnInputClaim, is_claim_live
from lash_cli.core.lease import SessionExecutionLease
from lash_cli.core.outcome import CancelGate, CancelRequested, CompletionSealed, TurnCancellationEvidence
from lash_cli.errors import ConflictError, SessionBindingMismatch, SessionClosed, UsageError
from lash_cli.store.base import LaneBusy, LaneGranted, LaneOutcome, LaneRequest, TurnRecord
from lash_cli.store.sqlite import inputs, leases
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
# All the lane transaction has to know of a session: its row, whether a turn is unfinished, whether text waits for one.
_READ = (
    "SELECT"
    + SESSION_COLUMNS
    + """,
    EXISTS (SELECT 1 FROM turns t INDEXED BY turns_running WHERE t.session_key = s.session_key AND t.state = 'running'),
    EXISTS (SELECT 1 FROM inputs i WHERE i.session_key = s.session_key AND i.state = 'pending_active')
FROM sessions s WHERE s.session_id = ?
"""
)
# At most one in practice; the oldest first if an older program left more. The planner would walk all turns by index.
_RUNNING = """
SELECT turn_id, turn_index, started_at_ms, origin, claim_id, plan FROM turns INDEXED BY turns_running
WHERE session_key = ? AND state = 'running' ORDER BY turn_index LIMIT 1
"""
_INSERT = """
INSERT INTO turns (session_key, turn_id, turn_index, state, origin, started_at_ms, generation, claim_id, plan)
VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?)
"""
_ADVANCE = "UPDATE turns SET generation = ? WHERE session_key = ? AND turn_id = ?"
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


def _redrive(
    connection: sqlite3.Connection, stored: StoredSession, lease: SessionExecutionLease, request: LaneRequest
) -> LaneGranted | None:
    """Move an unfinished turn and its claims to our generation; None when there is none."""
    row = connection.execute(_RUNNING, (stored.key,)).fetchone()
    if row is None:
        return None
    turn_id, turn_index, started_at_ms, origin, claim_id, plan = row
    generation = lease.fencing_token
    connection.execute(_ADVANCE, (generation, stored.key, turn_id))
    claim = inputs.repin(
        connection,
        stored.key,
        stored.session_id,
        turn_id=turn_id,
        claim_id=claim_id,
        claim_token=request.claim_token,
        generation=generation,
    )
    turn = TurnRecord(
        stored.session_id,
        turn_id,
        "running",
        turn_index,
        started_at_ms,
        origin=origin,
        generation=generation,
        plan=plan,
    )
    return LaneGranted(lease, stored.position(), turn, claim, redrive=True)


def _start_turn(
    connection: sqlite3.Connection,
    stored: StoredSession,
    lease: SessionExecutionLease,
    request: LaneRequest,
    submitted: inputs.Submitted | None,
) -> LaneGranted:
    """Insert the claimed input and the running turn row."""
    assert request.draft is not None and request.turn_id is not None
    generation = lease.fencing_token
    claim_id = f"tic:{request.turn_id}:{generation}"
    if submitted is None:
        row = inputs.insert_claimed(
            connection,
            stored.key,
            request.draft,
            request.now_ms,
            turn_id=request.turn_id,
            claim_id=claim_id,
            claim_token=request.claim_token,
            generation=generation,
        )
    else:
        row = submitted.input
        inputs.claim_one(
            connection,
            row.enqueue_seq,
            turn_id=request.turn_id,
            claim_id=claim_id,
            claim_token=request.claim_token,
            generation=generation,
        )
    turn_index = decode(stored.turn_state, TurnState).turn_index + 1
    connection.execute(
        _INSERT,
        (stored.key, request.turn_id, turn_index, request.origin, request.now_ms, generation, claim_id, request.plan),
    )
    turn = TurnRecord(
        stored.session_id,
        request.turn_id,
        "running",
        turn_index,
        request.now_ms,
        origin=request.origin,
        generation=generation,
    )
    claim = TurnInputClaim(stored.session_id, claim_id, request.claim_token, generation, request.turn_id, (row,))
    return LaneGranted(lease, stored.position(), turn, claim)


def _refuse_unless_free(
    submitted: inputs.Submitted | None, stored: StoredSession, lease: SessionExecutionLease, now_ms: int
) -> None:
    """Refuse a row that the generation now holding the lane claimed before: its own turn is still to settle it."""
    if submitted is None or submitted.claim_generation != lease.fencing_token:
        return
    if is_claim_live(submitted.claim_generation, stored.lease(), now_ms):
        raise ConflictError(
            f"input {submitted.input.input_id!r} is claimed by turn {submitted.turn_id!r}", code="input_claimed"
        )


def _open(connection: sqlite3.Connection, request: LaneRequest, now_ms: int) -> LaneOutcome:
    stored, (has_unfinished, has_active_inputs) = read_session_and(
        connection, _READ, (request.session_id,), request.session_id
    )
    if stored.closed_at_ms is not None:
        raise SessionClosed(f"session {request.session_id!r} is closed")
    done, submitted = _already_done(connection, stored, request)
    if done is not None:
        return done
    lease = leases.take(
        connection,
        stored,
        request.owner,
        token=request.lease_token,
        ttl_ms=request.ttl_ms,
        now_ms=now_ms,
        dead_fencing_token=request.dead_holder_fencing_token,
    )
    if isinstance(lease, LaneBusy):
        return lease
    redriven = _redrive(connection, stored, lease, request) if has_unfinished else None
    if redriven is not None:
        return redriven
    if has_active_inputs:
        inputs.defer_orphans(connection, stored.key, turn_id=request.turn_id, generation=lease.fencing_token)
    if request.draft is None:
        return LaneGranted(lease, stored.position())
    _refuse_unless_free(submitted, stored, lease, now_ms)
    return _start_turn(connection, stored, lease, request, submitted)


def _validate(request: LaneRequest) -> None:
    if request.draft is None:
        return
    if request.turn_id is None:
        raise UsageError("a lane request with text names its turn", code="turn_id_missing")
    if request.draft.session_id != request.session_id:
        raise SessionBindingMismatch(f"the text belongs to session {request.draft.session_id!r}")


class Lanes:
    """Lanes, turn rows and cancel gates; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def open_lane(self, request: LaneRequest) -> LaneOutcome:
        """See `base.LaneStore.open_lane`. Also raises `SessionBindingMismatch`, `UsageError` (`turn_id_missing`) and
        `ConflictError`: `input_exists`, `input_cancelled`, `input_claimed`."""
        _validate(request)
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
