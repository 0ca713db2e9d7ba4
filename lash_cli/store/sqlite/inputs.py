"""Input rows: storing, claiming, re-pinning, settling, deferring (contract 01 §9.4, 02 §1, §4, §5).

A claim is columns on the row. It holds the row while its generation holds the
lane, or, once `turn_id` names the unfinished turn that took it, until that turn
commits; so nothing has to be cleaned up after a crash. Rows are never deleted
here; settled ones wait for `vacuum`. A row whose text does not decode is named
in a `StoreUnusable`, never skipped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from lash_cli.core.codec import decode, decode_any, encode
from lash_cli.core.content import TextItem, TurnInput
from lash_cli.core.ingress import (
    HOST_PREFIX,
    ActiveTurn,
    InputDraft,
    InputState,
    NextTurn,
    PendingTurnInput,
    TurnInputClaim,
    TurnInputCompletion,
    TurnInputIngress,
    claim_id_of_row,
    initial_state,
    is_same_submission,
)
from lash_cli.errors import (
    ConflictError,
    PendingTurnInputSourceKeyConflict,
    StoreUnusable,
    TurnInputClaimSuperseded,
)
from lash_cli.store.sqlite.numbered_tables import next_number

NEXT_TURN = encode(NextTurn()).decode()

# An input as callers see it, its text as the bytes that are stored, then who holds it and how often it was claimed.
COLUMNS: Final = """
SELECT enqueue_seq, input_id, ingress, state, enqueued_at_ms, CAST(input AS BLOB), source_key, turn_id, claim_id,
    claim_generation, claim_fencing
FROM inputs
"""
_INSERT = f"""
INSERT INTO inputs (enqueue_seq, input_id, session_key, source_key, ingress, submitted_ingress, target_turn_id,
    min_boundary, state, input, enqueued_at_ms)
VALUES ({next_number("inputs")}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_CLAIMED = f"""
INSERT INTO inputs (enqueue_seq, input_id, session_key, source_key, ingress, submitted_ingress, target_turn_id,
    min_boundary, state, input, enqueued_at_ms, turn_id, claim_id, claim_token, claim_generation, claim_fencing)
VALUES ({next_number("inputs")}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)
"""
_BY_SOURCE = """
SELECT enqueue_seq, input_id, submitted_ingress, state, CAST(input AS BLOB), enqueued_at_ms, turn_id,
    claim_generation, ingress
FROM inputs WHERE session_key = ? AND source_key = ?
"""
# What a turn took, to compare with a text that comes again under its id: hardly ever asked for, so without an index.
_OF_TURN = """
SELECT input_id, submitted_ingress, CAST(input AS BLOB) FROM inputs WHERE session_key = ? AND turn_id = ?
"""
# Contract 02 §3.3: the row's own fencing number grows with every claim, whoever makes it.
_CLAIM_ONE = """
UPDATE inputs SET turn_id = ?, claim_id = ?, claim_token = ?, claim_generation = ?, claim_fencing = claim_fencing + 1
WHERE enqueue_seq = ?
"""
# Re-drive: the inputs a turn was started from get a new token, so the dead generation's claim cannot settle them.
_REPIN_CLAIM = """
UPDATE inputs INDEXED BY inputs_held SET claim_token = ?, claim_generation = ?
WHERE session_key = ? AND claim_id = ? AND state IN ('pending_active', 'deferred_next_turn')
"""
# Re-drive: what the turn took at checkpoints keeps the token its journal knows and is hidden again.
_REPIN_TAKEN = """
UPDATE inputs INDEXED BY inputs_held SET claim_generation = ?
WHERE session_key = ? AND turn_id = ? AND claim_id IS NOT NULL AND state IN ('pending_active', 'deferred_next_turn')
    AND claim_id IS NOT ?
"""
_OF_CLAIM = (
    COLUMNS
    + """INDEXED BY inputs_held
WHERE session_key = ? AND claim_id = ? AND state IN ('pending_active', 'deferred_next_turn')
ORDER BY enqueue_seq"""
)
# Contract 02 §5 step 5: ownership is claim id and token; the caller's fence was checked before.
_OWNED = """
SELECT input_id, enqueue_seq FROM inputs INDEXED BY inputs_held
WHERE session_key = ? AND claim_id = ? AND claim_token = ? AND state IN ('pending_active', 'deferred_next_turn')
"""
# The consuming turn stays on the row: an exact resubmission is answered with that turn (contract 02 §1.3).
_COMPLETE = """
UPDATE inputs SET state = 'completed', claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE enqueue_seq = ?
"""
# A turn that ends gives back what it took and did not settle: it holds nothing any more.
_GIVE_BACK_TAKEN = """
UPDATE inputs INDEXED BY inputs_held SET turn_id = NULL, claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE session_key = ? AND turn_id = ? AND claim_id IS NOT NULL AND state IN ('pending_active', 'deferred_next_turn')
RETURNING input_id
"""
# Whoever drives an unfinished turn again owns its claims under a new generation; the dead one gives nothing back.
_GIVE_BACK_CLAIM = """
UPDATE inputs INDEXED BY inputs_held SET turn_id = NULL, claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE session_key = ? AND claim_id = ? AND claim_token = ? AND claim_generation = ?
    AND state IN ('pending_active', 'deferred_next_turn')
RETURNING input_id
"""
# Contract 02 §5 step 9: what was addressed to a turn and not taken goes to the next turn, at its old place. Nobody
# claims it without taking it.
_DEFER_OF_TURN = """
UPDATE inputs INDEXED BY inputs_active SET state = 'deferred_next_turn', ingress = ?
WHERE session_key = ? AND state = 'pending_active' AND turn_id IS NULL AND target_turn_id = ?
"""
# Contract 02 §1.8: at lane start every active-turn input of a turn that does not run any more.
_DEFER_ORPHANS = """
UPDATE inputs INDEXED BY inputs_active SET state = 'deferred_next_turn', ingress = ?
WHERE session_key = ? AND state = 'pending_active' AND turn_id IS NULL AND target_turn_id IS NOT ?
"""
# Contract 02 §1.6, §1.7: what nobody holds and no turn is named for.
_PENDING_NEXT = (
    COLUMNS
    + """INDEXED BY inputs_next
WHERE session_key = ? AND state = 'deferred_next_turn' AND turn_id IS NULL AND claim_generation IS NOT ?
ORDER BY enqueue_seq LIMIT ?"""
)
# Contract 02 §1.5: what one boundary admits into a running turn.
_ADMITTED = (
    COLUMNS
    + """INDEXED BY inputs_active
WHERE session_key = ? AND state = 'pending_active' AND turn_id IS NULL AND target_turn_id = ? AND min_boundary = ?
ORDER BY enqueue_seq LIMIT ?"""
)

# When a cancelled input was cancelled: nobody claims it any more, so that stands in the place of a generation. One that
# an older program cancelled has nothing there.
CANCELLED_AT_MS: Final = "coalesce(inputs.claim_generation, inputs.enqueued_at_ms)"

# For listings, which share their statement with claims.
NO_LIMIT: Final = -1
InputRow = tuple[int, str, str, str, int, bytes, str | None, str | None, str | None, int | None, int]


# Who claims a row: the turn, the id and the token of the claim, and its generation.
ClaimColumns = tuple[str, str, str, int]
# What a row says of its ingress: as it is now, as it was submitted, the turn and the boundary it is for, and its state.
_FOR_NEXT_TURN: Final = (NEXT_TURN, "", None, None, InputState.DEFERRED_NEXT_TURN.value)


class Submitted(msgspec.Struct, frozen=True):
    """What stands under a source key whose submission equals the one presented."""

    input: PendingTurnInput
    turn_id: str | None
    claim_generation: int | None


def encode_submitted(ingress: TurnInputIngress) -> str:
    """What `submitted_ingress` holds: nothing for the next turn, which is never rewritten and what most are for."""
    return "" if isinstance(ingress, NextTurn) else encode(ingress).decode()


def decode_submitted(stored: str) -> TurnInputIngress:
    """The ingress an input was submitted with; raises `msgspec.DecodeError`."""
    ingress: TurnInputIngress = decode_any(stored, TurnInputIngress) if stored else NextTurn()
    return ingress


def input_of(session_id: str, row: InputRow) -> PendingTurnInput:
    """The record of a row; raises `StoreUnusable` (`store_corrupt`) naming an input that does not decode."""
    seq, input_id, ingress, state, enqueued_at_ms, body, source_key, _, claim_id, *_ = row
    try:
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
    except msgspec.DecodeError as error:
        raise _does_not_decode(input_id, error, claim_id) from error


def legible_input(session_id: str, row: InputRow) -> PendingTurnInput:
    """The record of a row that is to be taken out of the way; one that does not decode shows what is stored as text."""
    try:
        return input_of(session_id, row)
    except StoreUnusable:
        seq, input_id, _, state, enqueued_at_ms, body, source_key, *_ = row
        content = TurnInput((TextItem(body.decode(errors="replace")),))
        return PendingTurnInput(
            input_id, session_id, seq, NextTurn(), InputState(state), enqueued_at_ms, content, source_key
        )


def inputs_of(session_id: str, rows: Sequence[InputRow]) -> tuple[PendingTurnInput, ...]:
    """The records of rows; raises like `input_of`."""
    return tuple(input_of(session_id, row) for row in rows)


def _does_not_decode(input_id: str, error: Exception, claim_id: str | None = None) -> StoreUnusable:
    take_out = f"take it out of the queue with: lash queue cancel {input_id}"
    # What an unfinished turn holds is cancelled by nobody, and that turn can neither end nor be cancelled.
    drop = ""
    if claim_id is not None:
        from shlex import quote  # a turn may be called anything; nothing else here needs it

        drop = f"drop the turn that holds it with: lash queue abandon {quote(claim_id)}; then "
    return StoreUnusable(
        f"input {input_id!r} does not decode: {error}",
        hint=drop + take_out,
        details={"input_id": input_id},
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
    try:
        stored_input = decode(body, TurnInput)
        submitted = decode_submitted(submitted_ingress)
        stored_ingress: TurnInputIngress = decode_any(ingress, TurnInputIngress)
    except msgspec.DecodeError as error:
        raise _does_not_decode(input_id, error) from error
    if not is_same_submission(submitted, stored_input, draft.ingress, draft.input):
        is_same_text = encode(stored_input) == encode(draft.input)
        used_for = "the same text, on another way into the session" if is_same_text else "another text"
        raise PendingTurnInputSourceKeyConflict(
            f"key {draft.source_key.removeprefix(HOST_PREFIX)!r} was used for {used_for}",
            hint=f"see what became of it: lash queue show {input_id}" if is_same_text else None,
            details={
                "session": draft.session_id,
                "source_key": draft.source_key,
                "existing_input_id": input_id,
            },
        )
    found = PendingTurnInput(
        input_id,
        draft.session_id,
        seq,
        stored_ingress,
        InputState(state),
        enqueued_at_ms,
        stored_input,
        draft.source_key,
    )
    return Submitted(found, turn_id, generation)


def is_of_turn(connection: sqlite3.Connection, session_key: int, turn_id: str, draft: InputDraft) -> bool:
    """Whether `draft` was submitted for the turn, or nobody knows any more what was."""
    rows = connection.execute(_OF_TURN, (session_key, turn_id)).fetchall()
    for input_id, submitted_ingress, body in rows:
        try:
            submitted, stored_input = decode_submitted(submitted_ingress), decode(body, TurnInput)
        except msgspec.DecodeError as error:
            raise _does_not_decode(input_id, error) from error
        if is_same_submission(submitted, stored_input, draft.ingress, draft.input):
            return True
    return not rows


def insert(
    connection: sqlite3.Connection,
    session_key: int,
    draft: InputDraft,
    now_ms: int,
    claim: ClaimColumns | None = None,
) -> PendingTurnInput:
    """Store a draft, which waits or is `claim`ed already; raises `ConflictError` (`input_exists`) for a used input
    id."""
    address = _FOR_NEXT_TURN if isinstance(draft.ingress, NextTurn) else _address_of(draft.ingress)
    values = (draft.input_id, session_key, draft.source_key, *address, encode(draft.input).decode(), now_ms)
    try:
        if claim is None:
            seq = connection.execute(_INSERT, values).lastrowid
        else:
            seq = connection.execute(_INSERT_CLAIMED, values + claim).lastrowid
    except sqlite3.IntegrityError as error:
        raise id_is_used(draft.input_id) from error
    assert seq is not None, "an insert has a rowid"
    state = initial_state(draft.ingress)
    return PendingTurnInput(
        draft.input_id, draft.session_id, seq, draft.ingress, state, now_ms, draft.input, draft.source_key
    )


def id_is_used(input_id: str) -> ConflictError:
    """What is raised for an input that asks for the id of another one."""
    return ConflictError(f"input {input_id!r} exists already", code="input_exists")


def _address_of(ingress: ActiveTurn) -> tuple[str, str, str, str, str]:
    encoded = encode(ingress).decode()
    return encoded, encoded, ingress.turn_id, ingress.min_boundary, InputState.PENDING_ACTIVE.value


def claim_one(
    connection: sqlite3.Connection, enqueue_seq: int, *, turn_id: str, claim_id: str, claim_token: str, generation: int
) -> None:
    """Claim one row for a turn; the caller checked that nobody holds it."""
    connection.execute(_CLAIM_ONE, (turn_id, claim_id, claim_token, generation, enqueue_seq))


def next_inputs(connection: sqlite3.Connection, session_key: int, generation: int, limit: int) -> list[InputRow]:
    """What waits for the next turn, oldest first, without what `generation` claimed."""
    return connection.execute(_PENDING_NEXT, (session_key, generation, limit)).fetchall()


def admitted_inputs(
    connection: sqlite3.Connection, session_key: int, turn_id: str, boundaries: Sequence[str], limit: int
) -> list[InputRow]:
    """What waits for the running turn `turn_id` and one of `boundaries` admits, oldest first."""
    rows = [
        row for boundary in boundaries for row in connection.execute(_ADMITTED, (session_key, turn_id, boundary, limit))
    ]
    return sorted(rows)[:limit]


def claim_rows(
    connection: sqlite3.Connection,
    session_id: str,
    rows: Sequence[InputRow],
    *,
    claim_token: str,
    generation: int,
    turn_id: str | None = None,
    claim_id: str | None = None,
    decoded: tuple[PendingTurnInput, ...] | None = None,
) -> TurnInputClaim:
    """Claim rows just read in this transaction, at least one; `claim_id` None makes one of the first row."""
    fencing_token = rows[0][-1] + 1
    claim_id = claim_id or claim_id_of_row(rows[0][0], fencing_token)
    inputs = decoded or inputs_of(session_id, rows)
    connection.executemany(_CLAIM_ONE, [(turn_id, claim_id, claim_token, generation, row[0]) for row in rows])
    return TurnInputClaim(session_id, claim_id, claim_token, generation, turn_id, inputs, fencing_token)


def rows_of_claim(connection: sqlite3.Connection, session_key: int, claim_id: str) -> list[InputRow]:
    """What a claim holds, oldest first."""
    return connection.execute(_OF_CLAIM, (session_key, claim_id)).fetchall()


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
    rows = rows_of_claim(connection, session_key, claim_id)
    if not rows:
        return None
    inputs = inputs_of(session_id, rows)
    return TurnInputClaim(session_id, claim_id, claim_token, generation, turn_id, inputs, rows[0][-1])


def defer_orphans(connection: sqlite3.Connection, session_key: int, *, turn_id: str | None) -> int:
    """Defer active-turn inputs nobody took, of every turn but `turn_id`; how many there were."""
    return connection.execute(_DEFER_ORPHANS, (NEXT_TURN, session_key, turn_id)).rowcount


def require_owned(connection: sqlite3.Connection, session_key: int, completion: TurnInputCompletion) -> Collection[int]:
    """The rows of a claim, which must be exactly the inputs it settles; raises `TurnInputClaimSuperseded`."""
    owned = dict(connection.execute(_OWNED, (session_key, completion.claim_id, completion.claim_token)))
    if owned.keys() != set(completion.input_ids):
        raise TurnInputClaimSuperseded(
            f"claim {completion.claim_id!r} no longer owns its inputs", details={"claim_id": completion.claim_id}
        )
    return owned.values()


def complete(connection: sqlite3.Connection, enqueue_seqs: Iterable[int]) -> None:
    """Settle rows that `require_owned` named in this transaction."""
    for enqueue_seq in enqueue_seqs:
        connection.execute(_COMPLETE, (enqueue_seq,))


def defer_inputs_of_turn(connection: sqlite3.Connection, session_key: int, turn_id: str) -> int:
    """Step 11 of contract 01 §9.2; how many there were."""
    return connection.execute(_DEFER_OF_TURN, (NEXT_TURN, session_key, turn_id)).rowcount


def give_back_taken(connection: sqlite3.Connection, session_key: int, turn_id: str) -> list[str]:
    """Free every row that `turn_id` took and did not settle; their ids."""
    return [input_id for (input_id,) in connection.execute(_GIVE_BACK_TAKEN, (session_key, turn_id)).fetchall()]


def give_back_claim(
    connection: sqlite3.Connection, session_key: int, claim_id: str, claim_token: str, *, generation: int
) -> list[str]:
    """Free every row the claim still owns under its generation; their ids."""
    rows = connection.execute(_GIVE_BACK_CLAIM, (session_key, claim_id, claim_token, generation)).fetchall()
    return [input_id for (input_id,) in rows]
