"""Starting a turn from the queue: what one drain pass does with a session (contract 02 §6.1).

A pass decides by reads: first on a reading connection, where an empty queue
costs no write transaction at all, then again inside the lane transaction,
before the lease is touched. In order: a held queue gives nothing; a busy lane
is left alone; an unfinished turn is finished first; session commands go before
what is younger than they are; then input, then turn work.
"""

from __future__ import annotations

import sqlite3

import msgspec

from lash_cli.core.claim_limits import MAX_CLAIMED_INPUTS
from lash_cli.core.delivery import frame_task_of
from lash_cli.core.ingress import PendingTurnInput
from lash_cli.core.lease import ClaimVerdict, judge_claim
from lash_cli.core.queued_work import ProcessWake, QueuedWorkBatch
from lash_cli.store.base import DrainSelection, LaneBusy, LaneGranted, LaneIdle, LaneOutcome, LaneRequest
from lash_cli.store.sqlite import inputs, leases, line, turn_start
from lash_cli.store.sqlite.batches import BatchRow
from lash_cli.store.sqlite.sessions import NO_GENERATION, StoredHead
from lash_cli.store.sqlite.turn_start import LaneHead

_TURN_EXISTS = "SELECT 1 FROM turns WHERE session_key = ? AND turn_id = ?"


class Taking(msgspec.Struct, frozen=True):
    """What a pass takes; neither input nor work means that an unfinished turn or session commands come first."""

    inputs: tuple[inputs.InputRow, ...] = ()
    work: tuple[tuple[BatchRow, QueuedWorkBatch], ...] = ()
    is_redrive: bool = False
    commands_due: bool = False


def look(
    connection: sqlite3.Connection, session: LaneHead, request: LaneRequest, drain: DrainSelection, now_ms: int
) -> LaneIdle | LaneBusy | None:
    """Answer a pass that has nothing to do by reads alone; None when there may be something."""
    closed = _shut(connection, session, request, now_ms)
    if closed is not None or session.has_unfinished:
        return closed
    generation = _generation_for(session, request, now_ms)
    front = line.read_front(connection, session.key, generation, now_ms)
    if drain.batch_ids:
        outcome = _judge_named(connection, session, drain, generation, front, now_ms)
        return outcome if isinstance(outcome, LaneIdle) else None
    has_input = front.has_active_inputs or front.input_enqueued_at_ms is not None
    if (has_input and drain.max_inputs > 0) or front.has_due_work or front.head_seq is not None:
        return None
    return _idle(connection, session)


def choose(
    connection: sqlite3.Connection, session: LaneHead, request: LaneRequest, drain: DrainSelection, now_ms: int
) -> LaneIdle | LaneBusy | Taking:
    """Decide what a pass takes, inside the lane transaction. Writes only what stands whatever is decided: batches
    that do not decode are parked, due ones join the line, orphaned input goes to the next turn."""
    closed = _shut(connection, session, request, now_ms)
    if closed is not None:
        return closed
    if session.has_unfinished:
        return Taking(is_redrive=True)
    generation = _generation_for(session, request, now_ms)
    front = line.read_front(connection, session.key, generation, now_ms)
    if front.has_due_work:
        line.join_due(connection, session.key, now_ms)
        front = line.read_front(connection, session.key, generation, now_ms)
    if drain.batch_ids:
        return _choose_named(connection, session, request, drain, generation, front, now_ms)
    limit = min(drain.max_inputs, MAX_CLAIMED_INPUTS)
    if front.has_active_inputs and limit > 0:
        inputs.defer_orphans(connection, session.key, turn_id=request.turn_id)
        front = line.read_front(connection, session.key, generation, now_ms)
    input_at_ms = front.input_enqueued_at_ms if limit > 0 else None
    head = line.read_head(connection, front)
    # Contract 02 §6.1 step 3: a tie goes to the input.
    if head is not None and head.is_command and (input_at_ms is None or head.enqueued_at_ms < input_at_ms):
        return Taking(commands_due=True)
    if input_at_ms is not None:
        return Taking(inputs=tuple(inputs.next_inputs(connection, session.key, generation, limit)))
    group = line.select_group(connection, session.key, session.session_id, generation, "idle", drain.max_batches)
    if group:
        return Taking(work=tuple(group))
    front = line.read_front(connection, session.key, generation, now_ms)
    head = line.read_head(connection, front)
    # A batch that was parked on the way may have stood before a command.
    return Taking(commands_due=True) if head is not None and head.is_command else _idle(connection, session)


def start(
    connection: sqlite3.Connection,
    stored: LaneHead,
    request: LaneRequest,
    selection: DrainSelection,
    now_ms: int,
) -> LaneOutcome:
    """Start a turn from the queue, or say why there is none; the lease is taken only for what there is."""
    taking = choose(connection, stored, request, selection, now_ms)
    if isinstance(taking, LaneIdle | LaneBusy):
        return taking
    lease = turn_start.take_lease(connection, stored, request, now_ms)
    if isinstance(lease, LaneBusy):
        return lease
    if taking.is_redrive:
        redriven = turn_start.redrive(connection, stored, lease, request)
        assert redriven is not None, "read in this transaction"
        return redriven
    if taking.commands_due:
        return LaneGranted(lease, stored.position(), commands_due=True)
    if turn_start.is_refresh_due(stored, request):
        return LaneGranted(lease, stored.position(), refresh_due=True)
    assert request.turn_id is not None
    if taking.inputs:
        decoded = inputs.inputs_of(stored.session_id, taking.inputs)
        turn_id = _turn_id_of(connection, stored, decoded) or request.turn_id
        claim = inputs.claim_rows(
            connection,
            stored.session_id,
            taking.inputs,
            turn_id=turn_id,
            claim_token=request.claim_token,
            generation=lease.fencing_token,
            decoded=decoded,
        )
        return turn_start.begin_turn(connection, stored, lease, request, turn_id=turn_id, origin="queue", claim=claim)
    turn_id = _turn_id_behind(connection, stored, taking.work) or request.turn_id
    work = line.claim_decoded(
        connection,
        stored.session_id,
        taking.work,
        turn_id=turn_id,
        claim_token=request.claim_token,
        generation=lease.fencing_token,
    )
    is_wake = all(isinstance(payload, ProcessWake) for batch in work.batches for payload in batch.payloads)
    return turn_start.begin_turn(
        connection,
        stored,
        lease,
        request,
        turn_id=turn_id,
        origin="wake" if is_wake else "queue",
        work=work,
    )


def _turn_id_of(connection: sqlite3.Connection, stored: StoredHead, rows: tuple[PendingTurnInput, ...]) -> str | None:
    """The turn id the inputs ask for, unless a turn has it already."""
    return _unless_used(
        connection, stored, next((row.input.trace_turn_id for row in rows if row.input.trace_turn_id), None)
    )


def _turn_id_behind(
    connection: sqlite3.Connection, stored: StoredHead, work: tuple[tuple[BatchRow, QueuedWorkBatch], ...]
) -> str | None:
    """The id of the turn that a handoff leads to, unless a turn has it already: by it whoever asks for the turn that
    switched finds the end of it."""
    task = frame_task_of(batch for _, batch in work)
    return None if task is None else _unless_used(connection, stored, task.turn_id)


def _unless_used(connection: sqlite3.Connection, stored: StoredHead, turn_id: str | None) -> str | None:
    if turn_id is None or connection.execute(_TURN_EXISTS, (stored.key, turn_id)).fetchone() is not None:
        return None
    return None if turn_start.is_inherited(connection, stored, turn_id) else turn_id


def _shut(
    connection: sqlite3.Connection, session: StoredHead, request: LaneRequest, now_ms: int
) -> LaneIdle | LaneBusy | None:
    if session.held_at_ms is not None:
        return LaneIdle("held")
    row = session.lease()
    verdict = judge_claim(row, request.owner, now_ms, request.dead_holder_fencing_token)
    return leases.busy(connection, session, row) if verdict is ClaimVerdict.BUSY else None


def _generation_for(session: StoredHead, request: LaneRequest, now_ms: int) -> int:
    """The generation whose claims are ours already: the one an extended lease keeps."""
    row = session.lease()
    verdict = judge_claim(row, request.owner, now_ms, request.dead_holder_fencing_token)
    return row.fencing_token if verdict is ClaimVerdict.EXTEND else NO_GENERATION


def _idle(connection: sqlite3.Connection, session: StoredHead) -> LaneIdle:
    available_at_ms = line.first_waiting(connection, session.key)
    return LaneIdle("empty") if available_at_ms is None else LaneIdle("not_yet_available", available_at_ms)


def _judge_named(
    connection: sqlite3.Connection,
    session: StoredHead,
    drain: DrainSelection,
    generation: int,
    front: line.Front,
    now_ms: int,
) -> LaneIdle | line.Named | None:
    """What becomes of the batches a caller named; None when commands lead the line and go first."""
    named = line.select_by_id(connection, session.key, drain.batch_ids, generation, "idle", drain.max_batches, now_ms)
    if named.are_settled:
        return LaneIdle("already_satisfied")
    head = line.read_head(connection, front)
    if front.has_due_work or (head is not None and head.is_command):
        return None
    if named.rows:
        return named
    if named.available_at_ms is not None:
        return LaneIdle("not_yet_available", named.available_at_ms)
    return LaneIdle("unclaimable_together")


def _choose_named(
    connection: sqlite3.Connection,
    session: StoredHead,
    request: LaneRequest,
    drain: DrainSelection,
    generation: int,
    front: line.Front,
    now_ms: int,
) -> LaneIdle | Taking:
    outcome = _judge_named(connection, session, drain, generation, front, now_ms)
    if outcome is None:
        return Taking(commands_due=True)
    if isinstance(outcome, LaneIdle):
        return outcome
    decoded = line.decode_or_park(connection, session.session_id, outcome.rows)
    if decoded is None:
        return LaneIdle("unclaimable_together")
    inputs.defer_orphans(connection, session.key, turn_id=request.turn_id)
    return Taking(work=tuple(decoded))
