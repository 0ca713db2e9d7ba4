"""The lane transaction (design §3; contract 01 §13, 02 §1.8, §4, §6.1).

One transaction takes the lease, claims what the turn starts from (the text it
brings, or what `drain` finds in the queue) and inserts the running turn row:
from then on no crash can lose the text. An unfinished turn always comes first:
whoever takes the lane finishes it from its journal before anything new is
written.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from lash_cli.core.content import TextItem
from lash_cli.core.ingress import InputDraft, InputState
from lash_cli.core.lease import SessionExecutionLease
from lash_cli.errors import ConflictError, RuntimeTurnCommitConflict, SessionBindingMismatch, UsageError
from lash_cli.store.base import LaneBusy, LaneGranted, LaneOutcome, LaneRequest, TurnRecord
from lash_cli.store.sqlite import drain, inputs, line, turn_start
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.lanes import read_turn
from lash_cli.store.sqlite.sessions import StoredHead, refuse_closed

# A longer text takes milliseconds to encode and to write, during which the event loop is to serve others.
_BRIEF_CHARS: Final = 64 * 1024


def _committed(stored: StoredHead, turn: TurnRecord) -> LaneGranted:
    return LaneGranted(None, stored.position(), turn, committed=True)


def _already_done(
    connection: sqlite3.Connection, stored: StoredHead, request: LaneRequest
) -> tuple[LaneGranted | None, inputs.Submitted | None]:
    """What answers the request without a lane: its turn, or the turn that consumed its text, is committed."""
    if request.turn_id is not None and not request.is_new_turn:
        turn = read_turn(connection, stored.key, request.turn_id)
        if turn is not None and request.draft is not None:
            _refuse_another_text(connection, stored, turn.turn_id, request.draft)
        if turn is not None and turn.state == "committed":
            return _committed(stored, turn), None
        if turn is None and turn_start.is_inherited(connection, stored, request.turn_id):
            raise ConflictError(
                f"turn {request.turn_id!r} is one of the history this session began with",
                code="turn_inherited",
                hint="choose another turn id, or leave it out",
                details={"turn_id": request.turn_id},
            )
    if request.draft is None:
        return None, None
    submitted = inputs.find_submitted(connection, stored.key, request.draft)
    if submitted is None or submitted.input.state not in (InputState.COMPLETED, InputState.CANCELLED):
        return None, submitted
    state = submitted.input.state
    if state is InputState.COMPLETED and submitted.turn_id is not None:
        turn = read_turn(connection, stored.key, submitted.turn_id)
        if turn is not None and turn.state == "committed":
            return _committed(stored, turn), submitted
    raise ConflictError(
        f"the text under key {request.draft.source_key!r} was {state.value} before",
        code=f"input_{state.value}",
        details={"input_id": submitted.input.input_id},
    )


def _refuse_another_text(connection: sqlite3.Connection, stored: StoredHead, turn_id: str, draft: InputDraft) -> None:
    """Refuse a text under the id of a turn of another one, whose answer is none to it (contract 01 §0.3)."""
    if not inputs.is_of_turn(connection, stored.key, turn_id, draft):
        raise RuntimeTurnCommitConflict(
            f"turn {turn_id!r} was asked something else",
            hint="choose another turn id, or leave it out",
            details={"turn_id": turn_id},
        )


def _refuse_unless_free(submitted: inputs.Submitted | None, lease: SessionExecutionLease) -> None:
    """Refuse a row that the generation now holding the lane claimed before: whoever claimed it is to settle it."""
    if submitted is not None and submitted.claim_generation == lease.fencing_token:
        raise ConflictError(
            f"input {submitted.input.input_id!r} is claimed by turn {submitted.turn_id!r}", code="input_claimed"
        )


def _open(connection: sqlite3.Connection, request: LaneRequest, now_ms: int) -> LaneOutcome:
    stored = turn_start.read_lane_head(connection, request.session_id)
    if stored.closed_at_ms is not None:
        refuse_closed(request.session_id)
    done, submitted = _already_done(connection, stored, request)
    if done is not None:
        return done
    if request.drain is not None:
        return drain.start(connection, stored, request, request.drain, now_ms)
    lease = turn_start.take_lease(connection, stored, request, now_ms)
    if isinstance(lease, LaneBusy):
        return lease
    redriven = turn_start.redrive(connection, stored, lease, request) if stored.has_unfinished else None
    if redriven is not None:
        return redriven
    if stored.has_waiting:
        front = line.read_front(connection, stored.key, lease.fencing_token, now_ms)
        if front.has_active_inputs:
            inputs.defer_orphans(connection, stored.key, turn_id=request.turn_id)
        yields_to_commands = request.draft is not None and stored.held_at_ms is None
        if yields_to_commands and _does_command_lead(connection, stored, front, lease, now_ms):
            return LaneGranted(lease, stored.position(), commands_due=True)
    if request.draft is None:
        return LaneGranted(lease, stored.position())
    if turn_start.is_refresh_due(stored, request):
        return LaneGranted(lease, stored.position(), refresh_due=True)
    _refuse_unless_free(submitted, lease)
    return turn_start.start_with_text(connection, stored, lease, request, submitted)


def _does_command_lead(
    connection: sqlite3.Connection, stored: StoredHead, front: line.Front, lease: SessionExecutionLease, now_ms: int
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
    stored = turn_start.read_lane_head(connection, request.session_id)
    if stored.closed_at_ms is not None:
        refuse_closed(request.session_id)
    done, _ = _already_done(connection, stored, request)
    return done or drain.look(connection, stored, request, request.drain, now_ms)


def _is_brief(request: LaneRequest) -> bool:
    """Whether the transaction is certain to be short: a drain may claim any amount of text."""
    if request.draft is None:
        return request.drain is None
    chars = 0
    for item in request.draft.input.items:
        if isinstance(item, TextItem):
            chars += len(item.text)
    return chars <= _BRIEF_CHARS


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


class Opening:
    """Opening lanes; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def open_lane(self, request: LaneRequest) -> LaneOutcome:
        """See `base.LaneStore.open_lane`. Also raises `SessionBindingMismatch`, `UsageError`: `turn_id_missing`,
        `lane_request_ambiguous`, `RuntimeTurnCommitConflict`, and `ConflictError`: `turn_inherited`, `input_exists`,
        `input_cancelled`, `input_claimed`."""
        _validate(request)
        if request.drain is not None:
            idle = self._db.read(lambda connection: _look(connection, request, self._db.clock.now_ms()))
            if idle is not None:
                return idle

        def job(connection: sqlite3.Connection) -> LaneOutcome:
            return _open(connection, request, self._db.clock.now_ms())

        return await (self._db.write_brief(job) if _is_brief(request) else self._db.write(job, durable=False))
