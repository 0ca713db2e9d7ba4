"""The running turn row: inserted with the claims it starts from, re-pinned by whoever finishes it (design §3, 02 §4).

Everything that writes here happens inside the lane transaction, after the lease was taken.
A turn keeps its id, its index and its plan however often it is driven again;
its claims of both families move to the generation that drives it.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

from lash_cli.core.codec import decode
from lash_cli.core.head_state import TurnState
from lash_cli.core.ingress import TurnInputClaim, claim_id_of_text
from lash_cli.core.lease import SessionExecutionLease
from lash_cli.core.machine_tail import own_message_id
from lash_cli.core.queued_work import QueuedWorkClaim
from lash_cli.store.base import LaneBusy, LaneGranted, LaneRequest, TurnRecord
from lash_cli.store.sqlite import inputs, leases, line
from lash_cli.store.sqlite.lineage import find_node, segments_of
from lash_cli.store.sqlite.sessions import HEAD_COLUMNS, StoredHead, read_session_as

Origin = Literal["prompt", "queue", "wake"]

# All the lane transaction has to know of a session before it takes the lane: its head, whether a turn is unfinished,
# and whether anything waits that the start of a turn has to look at; never 0 when it does.
_READ_HEAD = f"""
SELECT {HEAD_COLUMNS},
    EXISTS (SELECT 1 FROM turns t INDEXED BY turns_running WHERE t.session_key = s.session_key AND t.state = 'running'),
    {line.ANYTHING_WAITS}
FROM sessions s WHERE s.session_id = ?
"""
# At most one in practice; the oldest first if an older program left more. The planner would walk all turns by index.
_RUNNING = """
SELECT turn_id, turn_index, started_at_ms, origin, claim_id, plan, work_claim_id FROM turns INDEXED BY turns_running
WHERE session_key = ? AND state = 'running' ORDER BY turn_index LIMIT 1
"""
_INSERT = """
INSERT INTO turns (session_key, turn_id, turn_index, state, origin, started_at_ms, generation, claim_id, plan,
    work_claim_id)
VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?, ?)
"""
_ADVANCE = "UPDATE turns SET generation = ? WHERE session_key = ? AND turn_id = ?"


class LaneHead(StoredHead, frozen=True, gc=False):
    """What `_READ_HEAD` selects; fields in the order of the columns."""

    has_unfinished: int
    has_waiting: int


def read_lane_head(connection: sqlite3.Connection, session_id: str) -> LaneHead:
    """A session as whoever opens its lane sees it; raises like `read_session`."""
    return read_session_as(LaneHead, connection, _READ_HEAD, (session_id,), session_id)


def take_lease(
    connection: sqlite3.Connection, stored: StoredHead, request: LaneRequest, now_ms: int
) -> SessionExecutionLease | LaneBusy:
    """Take or extend the lease for a request, or say who holds it."""
    return leases.take(
        connection,
        stored,
        request.owner,
        token=request.lease_token,
        ttl_ms=request.ttl_ms,
        now_ms=now_ms,
        dead_fencing_token=request.dead_holder_fencing_token,
    )


def is_refresh_due(stored: StoredHead, request: LaneRequest) -> bool:
    """Whether the request was made from another head, and its plan with it: a turn driven again under such a plan would
    not be the turn that was begun."""
    return request.known_head_revision not in (None, stored.head_revision or 0)


def is_inherited(connection: sqlite3.Connection, stored: StoredHead, turn_id: str) -> bool:
    """Whether the history that the session began with, shared with the one it was forked from or adopted from a state,
    has a turn of that id: the nodes of another one would get the same names, and be taken for them or refused."""
    segments = segments_of(connection, stored.key, stored.next_seq)
    return find_node(connection, segments, own_message_id(turn_id, 1)) is not None


def redrive(
    connection: sqlite3.Connection, stored: StoredHead, lease: SessionExecutionLease, request: LaneRequest
) -> LaneGranted | None:
    """Move an unfinished turn and its claims to our generation; None when there is none."""
    row = connection.execute(_RUNNING, (stored.key,)).fetchone()
    if row is None:
        return None
    turn_id, turn_index, started_at_ms, origin, claim_id, plan, work_claim_id = row
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
    work = line.repin(
        connection,
        stored.key,
        stored.session_id,
        turn_id=turn_id,
        claim_id=work_claim_id,
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
    return LaneGranted(lease, stored.position(), turn, claim, work, redrive=True)


def start_with_text(
    connection: sqlite3.Connection,
    stored: StoredHead,
    lease: SessionExecutionLease,
    request: LaneRequest,
    submitted: inputs.Submitted | None,
) -> LaneGranted:
    """Insert the claimed input and the running turn row."""
    assert request.draft is not None and request.turn_id is not None
    generation = lease.fencing_token
    claim_id = claim_id_of_text(request.session_id, request.turn_id, generation)
    if submitted is None:
        holder = (request.turn_id, claim_id, request.claim_token, generation)
        row = inputs.insert(connection, stored.key, request.draft, request.now_ms, holder)
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
    claim = TurnInputClaim(stored.session_id, claim_id, request.claim_token, generation, request.turn_id, (row,))
    return begin_turn(connection, stored, lease, request, turn_id=request.turn_id, origin=request.origin, claim=claim)


def begin_turn(
    connection: sqlite3.Connection,
    stored: StoredHead,
    lease: SessionExecutionLease,
    request: LaneRequest,
    *,
    turn_id: str,
    origin: Origin,
    claim: TurnInputClaim | None = None,
    work: QueuedWorkClaim | None = None,
) -> LaneGranted:
    """Insert the running row of a turn whose claims were made in this transaction."""
    turn_index = decode(stored.turn_state, TurnState).turn_index + 1
    generation = lease.fencing_token
    connection.execute(
        _INSERT,
        (
            stored.key,
            turn_id,
            turn_index,
            origin,
            request.now_ms,
            generation,
            None if claim is None else claim.claim_id,
            request.plan,
            None if work is None else work.claim_id,
        ),
    )
    turn = TurnRecord(
        stored.session_id,
        turn_id,
        "running",
        turn_index,
        request.now_ms,
        origin=origin,
        generation=generation,
    )
    return LaneGranted(lease, stored.position(), turn, claim, work)
