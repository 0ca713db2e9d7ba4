"""Input rows: inserting, claiming for a turn, settling, deferring, listing (contract 01 §9.4, 02 §1, §4, §5).

A claim is columns on the row: its id, its token and the lease generation that
made it. It is live only while that generation holds the lane, so nothing has
to be cleaned up after a crash. Rows are never deleted here; terminal ones wait
for `vacuum`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from lash_cli.core.codec import decode, decode_any, encode
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import (
    ActiveTurn,
    InputDraft,
    InputState,
    NextTurn,
    PendingTurnInput,
    TurnInputClaim,
    TurnInputCompletion,
    TurnInputIngress,
    initial_state,
    is_same_submission,
)
from lash_cli.errors import (
    ConflictError,
    PendingTurnInputSourceKeyConflict,
    TurnInputClaimSuperseded,
)
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.sessions import live_generation, read_session

_NEXT_TURN = encode(NextTurn()).decode()

_INSERT_CLAIMED = """
INSERT INTO inputs (input_id, session_key, source_key, ingress, submitted_ingress, target_turn_id, state, input,
    enqueued_at_ms, turn_id, claim_id, claim_token, claim_generation)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_BY_SOURCE = """
SELECT enqueue_seq, input_id, submitted_ingress, state, input, enqueued_at_ms, turn_id, claim_generation, ingress
FROM inputs WHERE session_key = ? AND source_key = ?
"""
_CLAIM_ONE = """
UPDATE inputs SET turn_id = ?, claim_id = ?, claim_token = ?, claim_generation = ? WHERE enqueue_seq = ?
"""
# Re-drive: the inputs a turn was started from get a new token, so the dead generation's claim cannot settle them.
_REPIN_CLAIM = """
UPDATE inputs SET claim_token = ?, claim_generation = ?
WHERE session_key = ? AND claim_id = ? AND state IN ('pending_active', 'deferred_next_turn')
"""
# Re-drive: what the turn took at checkpoints keeps the token its journal knows and is hidden again.
_REPIN_TAKEN = """
UPDATE inputs SET claim_generation = ?
WHERE session_key = ? AND claim_id IS NOT NULL AND turn_id = ? AND claim_id IS NOT ?
"""
_OF_CLAIM = """
SELECT enqueue_seq, input_id, ingress, state, enqueued_at_ms, input, source_key FROM inputs
WHERE session_key = ? AND claim_id = ? AND state IN ('pending_active', 'deferred_next_turn') ORDER BY enqueue_seq
"""
# Contract 02 §5 step 5: ownership is claim id and token; the caller's fence was checked before.
_OWNED = """
SELECT input_id, enqueue_seq FROM inputs
WHERE session_key = ? AND claim_id = ? AND claim_token = ? AND state IN ('pending_active', 'deferred_next_turn')
"""
# The consuming turn stays on the row: an exact resubmission is answered with that turn (contract 02 §1.3).
_COMPLETE = """
UPDATE inputs SET state = 'completed', claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE enqueue_seq = ?
"""
# Contract 02 §5 step 9: what was addressed to a turn and not taken goes to the next turn, at its old place.
_DEFER_OF_TURN = """
UPDATE inputs SET state = 'deferred_next_turn', ingress = ?, turn_id = NULL, claim_id = NULL, claim_token = NULL,
    claim_generation = NULL
WHERE session_key = ? AND state = 'pending_active' AND target_turn_id = ?
"""
# Contract 02 §1.8: at lane start every active-turn input of a turn that does not run any more.
_DEFER_ORPHANS = """
UPDATE inputs SET state = 'deferred_next_turn', ingress = ?, turn_id = NULL, claim_id = NULL, claim_token = NULL,
    claim_generation = NULL
WHERE session_key = ? AND state = 'pending_active' AND target_turn_id IS NOT ? AND claim_generation IS NOT ?
"""
_ALL = """
SELECT enqueue_seq, input_id, ingress, state, enqueued_at_ms, input, source_key FROM inputs
WHERE session_key = ? ORDER BY enqueue_seq
"""
_PENDING = """
SELECT enqueue_seq, input_id, ingress, state, enqueued_at_ms, input, source_key FROM inputs
WHERE session_key = ? AND state IN ('pending_active', 'deferred_next_turn') AND claim_generation IS NOT ?
ORDER BY enqueue_seq
"""


class Submitted(msgspec.Struct, frozen=True):
    """What stands under a source key whose submission equals the one presented."""

    input: PendingTurnInput
    turn_id: str | None
    claim_generation: int | None


def _input_of(session_id: str, row: tuple[int, str, str, str, int, str, str | None]) -> PendingTurnInput:
    seq, input_id, ingress, state, enqueued_at_ms, body, source_key = row
    return PendingTurnInput(
        input_id,
        session_id,
        seq,
        decode_any(ingress, TurnInputIngress),
        InputState(state),
        enqueued_at_ms,
        decode(body, TurnInput),
        source_key,
    )


def find_submitted(connection: sqlite3.Connection, session_key: int, draft: InputDraft) -> Submitted | None:
    """The row under the draft's source key, None without key or row.

    Raises `PendingTurnInputSourceKeyConflict` when it was another submission.
    """
    if draft.source_key is None:
        return None
    row = connection.execute(_BY_SOURCE, (session_key, draft.source_key)).fetchone()
    if row is None:
        return None
    seq, input_id, submitted_ingress, state, body, enqueued_at_ms, turn_id, generation, ingress = row
    stored_input = decode(body, TurnInput)
    submitted: TurnInputIngress = decode_any(submitted_ingress, TurnInputIngress)
    if not is_same_submission(submitted, stored_input, draft.ingress, draft.input):
        raise PendingTurnInputSourceKeyConflict(
            f"key {draft.source_key!r} was used for another text",
            details={"source_key": draft.source_key, "existing_input_id": input_id},
        )
    found = PendingTurnInput(
        input_id,
        draft.session_id,
        seq,
        decode_any(ingress, TurnInputIngress),
        InputState(state),
        enqueued_at_ms,
        stored_input,
        draft.source_key,
    )
    return Submitted(found, turn_id, generation)


def insert_claimed(
    connection: sqlite3.Connection,
    session_key: int,
    draft: InputDraft,
    now_ms: int,
    *,
    turn_id: str,
    claim_id: str,
    claim_token: str,
    generation: int,
) -> PendingTurnInput:
    """Store a draft already claimed by `turn_id`; raises `ConflictError` (`input_exists`) for a used input id."""
    ingress = encode(draft.ingress).decode()
    state = initial_state(draft.ingress)
    values = (
        draft.input_id,
        session_key,
        draft.source_key,
        ingress,
        ingress,
        draft.ingress.turn_id if isinstance(draft.ingress, ActiveTurn) else None,
        state.value,
        encode(draft.input).decode(),
        now_ms,
        turn_id,
        claim_id,
        claim_token,
        generation,
    )
    try:
        seq = connection.execute(_INSERT_CLAIMED, values).lastrowid
    except sqlite3.IntegrityError as error:
        raise ConflictError(f"input {draft.input_id!r} exists already", code="input_exists") from error
    assert seq is not None, "an insert has a rowid"
    return PendingTurnInput(
        draft.input_id, draft.session_id, seq, draft.ingress, state, now_ms, draft.input, draft.source_key
    )


def claim_one(
    connection: sqlite3.Connection, enqueue_seq: int, *, turn_id: str, claim_id: str, claim_token: str, generation: int
) -> None:
    """Claim one row for a turn; the caller checked that no live claim holds it."""
    connection.execute(_CLAIM_ONE, (turn_id, claim_id, claim_token, generation, enqueue_seq))


def repin(
    connection: sqlite3.Connection,
    session_key: int,
    session_id: str,
    *,
    turn_id: str,
    claim_id: str | None,
    claim_token: str,
    generation: int,
) -> TurnInputClaim | None:
    """Move the claims of an unfinished turn to a new generation; returns the claim the turn was started from."""
    connection.execute(_REPIN_TAKEN, (generation, session_key, turn_id, claim_id))
    if claim_id is None:
        return None
    connection.execute(_REPIN_CLAIM, (claim_token, generation, session_key, claim_id))
    rows = connection.execute(_OF_CLAIM, (session_key, claim_id)).fetchall()
    if not rows:
        return None
    inputs = tuple(_input_of(session_id, row) for row in rows)
    return TurnInputClaim(session_id, claim_id, claim_token, generation, turn_id, inputs)


def defer_orphans(connection: sqlite3.Connection, session_key: int, *, turn_id: str | None, generation: int) -> None:
    """Defer active-turn inputs of every turn but `turn_id`, except what the current generation claimed."""
    connection.execute(_DEFER_ORPHANS, (_NEXT_TURN, session_key, turn_id, generation))


def require_owned(connection: sqlite3.Connection, session_key: int, completion: TurnInputCompletion) -> tuple[int, ...]:
    """The rows of a claim, which must be exactly the inputs it settles; raises `TurnInputClaimSuperseded`."""
    owned = dict(connection.execute(_OWNED, (session_key, completion.claim_id, completion.claim_token)).fetchall())
    if owned.keys() != set(completion.input_ids):
        raise TurnInputClaimSuperseded(
            f"claim {completion.claim_id!r} no longer owns its inputs", details={"claim_id": completion.claim_id}
        )
    return tuple(owned.values())


def complete(connection: sqlite3.Connection, enqueue_seqs: Iterable[int]) -> None:
    """Settle rows that `require_owned` named in this transaction."""
    for enqueue_seq in enqueue_seqs:
        connection.execute(_COMPLETE, (enqueue_seq,))


def defer_inputs_of_turn(connection: sqlite3.Connection, session_key: int, turn_id: str) -> None:
    """Step 11 of contract 01 §9.2."""
    connection.execute(_DEFER_OF_TURN, (_NEXT_TURN, session_key, turn_id))


class Inputs:
    """Input listings; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def inputs(self, session_id: str, *, pending_only: bool) -> tuple[PendingTurnInput, ...]:
        """See `base.LaneStore.inputs`."""

        def job(connection: sqlite3.Connection) -> tuple[PendingTurnInput, ...]:
            stored = read_session(connection, session_id)
            if pending_only:
                generation = live_generation(stored.lease(), self._db.clock.now_ms())
                rows = connection.execute(_PENDING, (stored.key, generation))
            else:
                rows = connection.execute(_ALL, (stored.key,))
            return tuple(_input_of(session_id, row) for row in rows)

        return self._db.read(job)
