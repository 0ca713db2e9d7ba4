"""The work line of a session: what stands at its head, and taking it (contract 02 §3.3).

`core.queued_work` selects; this module reads candidates in `enqueue_seq` order
and writes the claim, inside the caller's transaction. A batch that does not
decode is parked on the way and selection goes on behind it, so nothing blocks
the line. What waits for its time joins the line at its old place once the time
has come.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from lash_cli.core.claim_limits import MAX_CLAIMED_BATCHES
from lash_cli.core.queued_work import (
    SCAN_MARGIN,
    BatchState,
    Candidate,
    DeliveryPolicy,
    QueuedWorkBatch,
    QueuedWorkClaim,
    QueuedWorkClaimBoundary,
    QueuedWorkClass,
    Refused,
    Selected,
    select_leading_command,
    select_named,
    select_turn_work,
)
from lash_cli.errors import StoreUnusable
from lash_cli.store.sqlite import batches
from lash_cli.store.sqlite.batches import COLUMNS, BatchRow

# Whether anything waits that is addressed to a turn, or that a turn could take besides text for the next one: a part of
# statements that read `sessions s`; never 0 when there is.
ANYTHING_WAITS: Final = """
    EXISTS (SELECT 1 FROM inputs INDEXED BY inputs_active
        WHERE session_key = s.session_key AND state = 'pending_active' AND turn_id IS NULL)
    OR EXISTS (SELECT 1 FROM queued_work INDEXED BY queued_work_ready
        WHERE session_key = s.session_key AND state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL)
    OR EXISTS (SELECT 1 FROM queued_work INDEXED BY queued_work_waiting
        WHERE session_key = s.session_key AND state = 'pending' AND waits_until_ms IS NOT NULL)
"""
# All that decides whether there is anything to claim, each by one look at an index: text nobody took for a turn that
# does not run, the oldest text for the next turn, work whose time has come, and the head of the line.
_FRONT = """
SELECT
    EXISTS (SELECT 1 FROM inputs INDEXED BY inputs_active
        WHERE session_key = ?1 AND state = 'pending_active' AND turn_id IS NULL),
    (SELECT enqueued_at_ms FROM inputs INDEXED BY inputs_next
        WHERE session_key = ?1 AND state = 'deferred_next_turn' AND turn_id IS NULL AND claim_generation IS NOT ?2
        ORDER BY enqueue_seq LIMIT 1),
    EXISTS (SELECT 1 FROM queued_work INDEXED BY queued_work_waiting
        WHERE session_key = ?1 AND state = 'pending' AND waits_until_ms IS NOT NULL AND waits_until_ms <= ?3),
    (SELECT enqueue_seq FROM queued_work INDEXED BY queued_work_ready
        WHERE session_key = ?1 AND state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL
        AND claim_generation IS NOT ?2 ORDER BY enqueue_seq LIMIT 1)
"""
_HEAD = "SELECT work_class, delivery_policy, enqueued_at_ms FROM queued_work WHERE enqueue_seq = ?"
# When the first batch that only waits for its time is ready.
_FIRST_WAITING = """
SELECT min(waits_until_ms) FROM queued_work INDEXED BY queued_work_waiting
WHERE session_key = ? AND state = 'pending' AND waits_until_ms IS NOT NULL
"""
# Whether the time of anything has come: asked first, because an update that moves rows in the index it finds them by
# notes them in a table of their own, which it makes even when there are none.
_IS_ANY_DUE = """
SELECT EXISTS (SELECT 1 FROM queued_work INDEXED BY queued_work_waiting
    WHERE session_key = ? AND state = 'pending' AND waits_until_ms IS NOT NULL AND waits_until_ms <= ?)
"""
# What waited for its time joins the line, at its old place.
_JOIN_LINE = """
UPDATE queued_work INDEXED BY queued_work_waiting SET waits_until_ms = NULL
WHERE session_key = ? AND state = 'pending' AND waits_until_ms IS NOT NULL AND waits_until_ms <= ?
"""
# Contract 02 §3.3: candidates, without what this generation claimed, so that own claims never hide a later row.
_CANDIDATES = (
    COLUMNS
    + """INDEXED BY queued_work_ready
WHERE session_key = ? AND state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL AND claim_generation IS NOT ?
ORDER BY enqueue_seq LIMIT ?"""
)
_BY_ID = COLUMNS + "WHERE batch_id = ? AND session_key = ?"
_OF_CLAIM = (
    COLUMNS
    + """INDEXED BY queued_work_held
WHERE session_key = ? AND claim_id = ? AND state = 'pending' ORDER BY claim_ordinal"""
)
_CLAIM = """
UPDATE queued_work SET turn_id = ?, claim_id = ?, claim_token = ?, claim_generation = ?, claim_ordinal = ?,
    waits_until_ms = NULL, claim_fencing = claim_fencing + 1
WHERE enqueue_seq = ?
"""
# Re-drive, as with inputs: the founding claim gets a new token, what was taken at checkpoints keeps its own.
_REPIN_CLAIM = """
UPDATE queued_work INDEXED BY queued_work_held SET claim_token = ?, claim_generation = ?
WHERE session_key = ? AND claim_id = ? AND state = 'pending'
"""
_REPIN_TAKEN = """
UPDATE queued_work INDEXED BY queued_work_held SET claim_generation = ?
WHERE session_key = ? AND turn_id = ? AND claim_id IS NOT NULL AND state = 'pending' AND claim_id IS NOT ?
"""

_SETTLED: Final = (BatchState.COMPLETED, BatchState.CANCELLED)
_UNDECODABLE: Final = (ValueError, msgspec.DecodeError)


class Front(msgspec.Struct, frozen=True):
    """What stands first in a session's queue. `has_due_work` says that the head may change when due work joins."""

    has_active_inputs: bool
    input_enqueued_at_ms: int | None
    has_due_work: bool
    head_seq: int | None


class Head(msgspec.Struct, frozen=True):
    """The batch at the head of the line, by its stored words."""

    work_class: str
    delivery_policy: str
    enqueued_at_ms: int

    @property
    def is_command(self) -> bool:
        """Whether a session command leads the line."""
        return self.work_class == QueuedWorkClass.SESSION_COMMAND

    @property
    def is_turn_work(self) -> bool:
        """Whether turn work leads the line; neither of both is for a claim to find out and to park."""
        return self.work_class == QueuedWorkClass.TURN_WORK

    def is_shut_at(self, boundary: QueuedWorkClaimBoundary) -> bool:
        """Whether no claim of turn work gets past this head at `boundary`."""
        waits_for_commit = self.delivery_policy == DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT
        return self.is_command or (waits_for_commit and boundary == "active_turn_checkpoint")


def read_front(connection: sqlite3.Connection, session_key: int, generation: int, now_ms: int) -> Front:
    """The front of a queue as a claim under `generation` would find it."""
    active, input_at_ms, due, head_seq = connection.execute(_FRONT, (session_key, generation, now_ms)).fetchone()
    return Front(bool(active), input_at_ms, bool(due), head_seq)


def read_head(connection: sqlite3.Connection, front: Front) -> Head | None:
    """The head of the line that `front` found, None when the line is empty."""
    return None if front.head_seq is None else Head(*connection.execute(_HEAD, (front.head_seq,)).fetchone())


def first_waiting(connection: sqlite3.Connection, session_key: int) -> int | None:
    """When the first batch that only waits for its time is ready."""
    (available_at_ms,) = connection.execute(_FIRST_WAITING, (session_key,)).fetchone()
    return None if available_at_ms is None else int(available_at_ms)


def join_due(connection: sqlite3.Connection, session_key: int, now_ms: int) -> None:
    """Let what waited for its time join the line."""
    (is_any_due,) = connection.execute(_IS_ANY_DUE, (session_key, now_ms)).fetchone()
    if is_any_due:
        connection.execute(_JOIN_LINE, (session_key, now_ms))


def _candidates(
    connection: sqlite3.Connection, session_key: int, generation: int, limit: int
) -> tuple[list[Candidate], dict[str, BatchRow]]:
    """The first candidates with their rows; a row with unknown policies is parked and left out."""
    while True:
        read = connection.execute(_CANDIDATES, (session_key, generation, limit)).fetchall()
        found: list[Candidate] = []
        rows: dict[str, BatchRow] = {}
        for row in read:
            try:
                found.append(batches.candidate_of(row))
                rows[row[1]] = row
            except _UNDECODABLE as error:
                batches.park(connection, row[0], error)
        if found or not read:
            return found, rows


def decode_or_park(
    connection: sqlite3.Connection, session_id: str, rows: Sequence[BatchRow]
) -> list[tuple[BatchRow, QueuedWorkBatch]] | None:
    """The rows as batches; None when one did not decode, which is parked, so the caller selects again."""
    decoded = []
    for row in rows:
        try:
            decoded.append((row, batches.batch_of(session_id, row)))
        except _UNDECODABLE as error:
            batches.park(connection, row[0], error)
            return None
    return decoded


def take_leading_command(
    connection: sqlite3.Connection, session_key: int, session_id: str, generation: int, claim_token: str
) -> QueuedWorkClaim | None:
    """Claim the session command at the head of the line; due work has joined it."""
    while True:
        found, rows = _candidates(connection, session_key, generation, 1)
        batch_id = select_leading_command(found)
        if batch_id is None:
            return None
        decoded = decode_or_park(connection, session_id, [rows[batch_id]])
        if decoded is not None:
            return claim_decoded(connection, session_id, decoded, claim_token=claim_token, generation=generation)


def select_group(
    connection: sqlite3.Connection,
    session_key: int,
    session_id: str,
    generation: int,
    boundary: QueuedWorkClaimBoundary,
    max_batches: int,
) -> list[tuple[BatchRow, QueuedWorkBatch]]:
    """The turn work at the head of the line that may be claimed together, decoded; due work has joined the line.

    Only a head that joins others makes more than one row be read.
    """
    limit = min(max_batches, MAX_CLAIMED_BATCHES)
    wanted = 1
    while True:
        found, rows = _candidates(connection, session_key, generation, wanted)
        selection = select_turn_work(found, boundary, limit)
        if isinstance(selection, Refused):
            return []
        if wanted == 1 and found[0].slot_policy == "join":
            wanted = limit + SCAN_MARGIN
            continue
        decoded = decode_or_park(connection, session_id, [rows[batch_id] for batch_id in selection.batch_ids])
        if decoded is not None:
            return decoded


class Named(msgspec.Struct, frozen=True):
    """What became of batches a caller named: the rows to claim, or why not."""

    rows: tuple[BatchRow, ...] = ()
    are_settled: bool = False
    available_at_ms: int | None = None


def select_by_id(
    connection: sqlite3.Connection,
    session_key: int,
    batch_ids: Sequence[str],
    generation: int,
    boundary: QueuedWorkClaimBoundary,
    max_batches: int,
    now_ms: int,
) -> Named:
    """Look at named batches by reads alone; they may stand anywhere in the line."""
    rows = [connection.execute(_BY_ID, (batch_id, session_key)).fetchone() for batch_id in batch_ids]
    if all(row is not None and row[10] in _SETTLED for row in rows):
        return Named(are_settled=True)
    candidates: list[Candidate | None] = []
    waits_until: list[int] = []
    for row in rows:
        candidate = None
        if row is not None and row[10] == BatchState.PENDING and row[13] is None and row[14] != generation:
            if row[7] > now_ms:
                waits_until.append(row[7])
            else:
                candidate = _known_candidate(row)
        candidates.append(candidate)
    selection = select_named(candidates, boundary, min(max_batches, MAX_CLAIMED_BATCHES))
    if isinstance(selection, Selected):
        return Named(tuple(rows))
    return Named(available_at_ms=max(waits_until, default=None))


def _known_candidate(row: BatchRow) -> Candidate | None:
    """What selection looks at, None for policies of another program: such a batch is parked when it leads the line."""
    try:
        return batches.candidate_of(row)
    except _UNDECODABLE:
        return None


def claim_decoded(
    connection: sqlite3.Connection,
    session_id: str,
    decoded: Sequence[tuple[BatchRow, QueuedWorkBatch]],
    *,
    claim_token: str,
    generation: int,
    turn_id: str | None = None,
    claim_id: str | None = None,
) -> QueuedWorkClaim:
    """Claim batches just read in this transaction, at least one; `claim_id` None makes one of the first."""
    head, _ = decoded[0]
    fencing_token = head[15] + 1
    claim_id = claim_id or f"qwc:{head[0]}:{fencing_token}"
    connection.executemany(
        _CLAIM,
        [
            (turn_id, claim_id, claim_token, generation, ordinal, batch.enqueue_seq)
            for ordinal, (_, batch) in enumerate(decoded)
        ],
    )
    claimed = tuple(batch for _, batch in decoded)
    return QueuedWorkClaim(session_id, claim_id, claim_token, generation, turn_id, claimed, fencing_token)


def rows_of_claim(connection: sqlite3.Connection, session_key: int, claim_id: str) -> list[BatchRow]:
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
) -> QueuedWorkClaim | None:
    """As `inputs.repin`, for batches."""
    connection.execute(_REPIN_TAKEN, (generation, session_key, turn_id, claim_id))
    if claim_id is None:
        return None
    connection.execute(_REPIN_CLAIM, (claim_token, generation, session_key, claim_id))
    rows = rows_of_claim(connection, session_key, claim_id)
    if not rows:
        return None
    return QueuedWorkClaim(
        session_id, claim_id, claim_token, generation, turn_id, batches_of(session_id, rows), rows[0][15]
    )


def batches_of(session_id: str, rows: Sequence[BatchRow]) -> tuple[QueuedWorkBatch, ...]:
    """The batches of a claim; raises `StoreUnusable` (`store_corrupt`) when one no longer decodes."""
    try:
        return tuple(batches.batch_of(session_id, row) for row in rows)
    except _UNDECODABLE as error:
        ids = [row[1] for row in rows]
        raise StoreUnusable(f"a claimed batch does not decode: {error}", details={"batch_ids": ids}) from error
