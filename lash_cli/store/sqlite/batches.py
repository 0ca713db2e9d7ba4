"""Rows of queued work: storing, listing, cancelling, failing, settling (contract 02 §3, design D20).

Nothing ever blocks the line: a batch that fails waits for its next attempt
behind the others or is parked as `dead`, and one that does not decode is parked
at once. Settled batches keep a row without payloads until `vacuum`, so a
replayed source key is answered with what became of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from lash_cli.core.codec import canonical_hash, decode_any, encode
from lash_cli.core.ingress import is_held
from lash_cli.core.queued_work import (
    BatchState,
    Candidate,
    DeliveryPolicy,
    MergeKey,
    NeverMerge,
    ProcessWake,
    QueuedWorkBatch,
    QueuedWorkBatchDraft,
    QueuedWorkClaim,
    QueuedWorkClass,
    QueuedWorkCompletion,
    QueuedWorkPayload,
    QueuedWorkReceipt,
    SlotPolicy,
    retry_at_ms,
    validate_draft,
)
from lash_cli.errors import ConflictError, QueuedWorkClaimSuperseded, StoreUnusable
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.numbered_tables import next_number
from lash_cli.store.sqlite.queue_announcing import announce
from lash_cli.store.sqlite.sessions import StoredHead, key_of, live_generation, read_session, refuse_closed

if TYPE_CHECKING:
    from lash_cli.core.protocols import Ids

_ID_ATTEMPTS: Final = 32

# A batch as callers see it, its content as the bytes that are stored, then who holds it and how often it was claimed.
COLUMNS: Final = """
SELECT enqueue_seq, batch_id, source_key, work_class, delivery_policy, slot_policy, merge_key, available_at_ms,
    enqueued_at_ms, CAST(payloads AS BLOB), state, attempts, last_error, turn_id, claim_generation, claim_fencing
FROM queued_work
"""
_INSERT = f"""
INSERT INTO queued_work (enqueue_seq, batch_id, session_key, source_key, work_class, delivery_policy, slot_policy,
    merge_key, available_at_ms, waits_until_ms, enqueued_at_ms, payloads)
VALUES ({next_number("queued_work")}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
# Contract 02 §3.2: no content check, a key stands for what was stored under it first.
_BY_SOURCE = "SELECT batch_id, state FROM queued_work WHERE session_key = ? AND source_key = ?"
_BY_ID = COLUMNS + "WHERE batch_id = ? AND session_key = ?"
_SESSION_OF = """
SELECT s.session_id FROM queued_work q JOIN sessions s ON s.session_key = q.session_key WHERE q.batch_id = ?
"""
_WAKE_FENCE = "SELECT sequence FROM wake_fences WHERE session_key = ? AND process_id = ?"
_MOVE_WAKE_FENCE = """
INSERT INTO wake_fences (session_key, process_id, sequence) VALUES (?, ?, ?)
ON CONFLICT (session_key, process_id) DO UPDATE SET sequence = max(sequence, excluded.sequence)
"""
# Listings by index, so that tombstones cost nothing; the caller sorts. What nobody holds ...
_READY = (
    COLUMNS
    + """INDEXED BY queued_work_ready
WHERE session_key = ? AND state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL
    AND claim_generation IS NOT ?"""
)
_WAITING = (
    COLUMNS
    + "INDEXED BY queued_work_waiting WHERE session_key = ? AND state = 'pending' AND waits_until_ms IS NOT NULL"
)
# ... and what somebody holds, or failed for good.
_CLAIMED_OUTSIDE_A_TURN = (
    COLUMNS
    + """INDEXED BY queued_work_ready
WHERE session_key = ? AND state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL AND claim_generation = ?"""
)
_TAKEN = (
    COLUMNS
    + """INDEXED BY queued_work_held
WHERE session_key = ? AND turn_id IS NOT NULL AND claim_id IS NOT NULL AND state = 'pending'"""
)
_DEAD = COLUMNS + "INDEXED BY queued_work_dead WHERE session_key = ? AND state = 'dead'"
# A tombstone: what it was, without its content.
_CANCEL = """
UPDATE queued_work SET state = 'cancelled', payloads = '[]', waits_until_ms = NULL, claim_id = NULL,
    claim_token = NULL, claim_generation = NULL, settled_at_ms = ?
WHERE enqueue_seq = ?
"""
# Contract 02 §5 step 5: ownership is claim id and token, as with inputs; and as with inputs, each row is settled by its
# number, because SQLite notes in a table of its own what it finds by an index that it changes.
_OWNED = """
SELECT batch_id, CAST(payloads AS BLOB), enqueue_seq, attempts FROM queued_work INDEXED BY queued_work_held
WHERE session_key = ? AND claim_id = ? AND claim_token = ? AND state = 'pending'
"""
_COMPLETE = """
UPDATE queued_work SET state = 'completed', payloads = '[]', claim_id = NULL, claim_token = NULL,
    claim_generation = NULL, settled_at_ms = ?
WHERE enqueue_seq = ?
"""
# Design D20: the next attempt waits for its time; without one the batch is dead.
_FAIL = """
UPDATE queued_work SET state = ?, attempts = ?, last_error = ?, available_at_ms = coalesce(?, available_at_ms),
    waits_until_ms = ?, turn_id = NULL, claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE enqueue_seq = ?
"""
_PARK = """
UPDATE queued_work SET state = 'dead', attempts = attempts + 1, last_error = ?, waits_until_ms = NULL, turn_id = NULL,
    claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE enqueue_seq = ?
"""
_GIVE_BACK_TAKEN = """
UPDATE queued_work INDEXED BY queued_work_held
SET turn_id = NULL, claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE session_key = ? AND turn_id = ? AND claim_id IS NOT NULL AND state = 'pending'
RETURNING batch_id
"""
# Whoever drives an unfinished turn again owns its claims under a new generation; the dead one gives nothing back.
_GIVE_BACK_CLAIM = """
UPDATE queued_work INDEXED BY queued_work_held
SET turn_id = NULL, claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE session_key = ? AND claim_id = ? AND claim_token = ? AND claim_generation = ? AND state = 'pending'
RETURNING batch_id
"""

BatchRow = Sequence[Any]


class Owned(msgspec.Struct, frozen=True, gc=False):
    """What a claim owns that is to be settled: its rows, and the wakes in them."""

    enqueue_seqs: tuple[int, ...]
    wakes: tuple[ProcessWake, ...]


def candidate_of(row: BatchRow) -> Candidate:
    """What selection looks at; raises `ValueError` or `msgspec.DecodeError` for a policy of another program."""
    return Candidate(
        row[1],
        QueuedWorkClass(row[3]),
        DeliveryPolicy(row[4]),
        SlotPolicy(row[5]),
        decode_any(row[6], MergeKey),
    )


def batch_of(session_id: str, row: BatchRow) -> QueuedWorkBatch:
    """The record of a row; raises like `candidate_of`."""
    candidate = candidate_of(row)
    return QueuedWorkBatch(
        candidate.batch_id,
        session_id,
        row[0],
        candidate.work_class,
        candidate.delivery_policy,
        candidate.slot_policy,
        candidate.merge_key,
        row[7],
        row[8],
        decode_any(row[9], tuple[QueuedWorkPayload, ...]),
        row[2],
        BatchState(row[10]),
        row[11],
        row[12],
    )


def legible_batch(session_id: str, row: BatchRow) -> QueuedWorkBatch:
    """The record of a row for people. One that does not decode, and is or will be parked, is shown without content."""
    try:
        return batch_of(session_id, row)
    except (ValueError, msgspec.DecodeError) as error:
        is_command = row[3] == QueuedWorkClass.SESSION_COMMAND
        return QueuedWorkBatch(
            row[1],
            session_id,
            row[0],
            QueuedWorkClass.SESSION_COMMAND if is_command else QueuedWorkClass.TURN_WORK,
            DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT,
            SlotPolicy.EXCLUSIVE,
            NeverMerge(),
            row[7],
            row[8],
            (),
            row[2],
            BatchState(row[10]),
            row[11],
            row[12] or _reason(error),
        )


def _reason(error: Exception) -> str:
    return f"the batch does not decode: {error}"


def park(connection: sqlite3.Connection, enqueue_seq: int, error: Exception) -> None:
    """Park a batch that does not decode: nobody could ever use it (design D20)."""
    connection.execute(_PARK, (_reason(error), enqueue_seq))


def _fresh_payloads(
    connection: sqlite3.Connection, session_key: int, payloads: tuple[QueuedWorkPayload, ...]
) -> tuple[QueuedWorkPayload, ...]:
    """The payloads without wakes that were settled, or that a later one of their process overtook."""

    def is_fresh(payload: QueuedWorkPayload) -> bool:
        if not isinstance(payload, ProcessWake):
            return True
        row = connection.execute(_WAKE_FENCE, (session_key, payload.process_id)).fetchone()
        return row is None or payload.sequence > row[0]

    return tuple(payload for payload in payloads if is_fresh(payload))


def _new_id(draft: QueuedWorkBatchDraft, ids: Ids) -> str:
    return "qwb:" + canonical_hash((draft.session_id, draft.source_key, ids.token()))


def insert(
    connection: sqlite3.Connection,
    session: StoredHead,
    draft: QueuedWorkBatchDraft,
    work_class: QueuedWorkClass,
    ids: Ids,
    now_ms: int,
) -> QueuedWorkReceipt:
    """Store a validated draft, or answer with what stands under its source key."""
    if draft.source_key is not None:
        row = connection.execute(_BY_SOURCE, (session.key, draft.source_key)).fetchone()
        if row is not None:
            return QueuedWorkReceipt(row[0], draft.source_key, row[1] in (BatchState.COMPLETED, BatchState.CANCELLED))
    payloads = _fresh_payloads(connection, session.key, draft.payloads)
    if not payloads:
        return QueuedWorkReceipt(_new_id(draft, ids), draft.source_key, already_settled=True)
    for _ in range(_ID_ATTEMPTS):
        batch_id = _new_id(draft, ids)
        values = (
            batch_id,
            session.key,
            draft.source_key,
            work_class.value,
            draft.delivery_policy.value,
            draft.slot_policy.value,
            encode(draft.merge_key).decode(),
            draft.available_at_ms,
            draft.available_at_ms if draft.available_at_ms > now_ms else None,
            now_ms,
            encode(payloads).decode(),
        )
        try:
            connection.execute(_INSERT, values)
        except sqlite3.IntegrityError:
            # Two id factories counted alike; the next number is free.
            continue
        announce(connection, session, "enqueued", [batch_id], now_ms)
        return QueuedWorkReceipt(batch_id, draft.source_key)
    raise ConflictError("no free batch id was found", code="batch_exists")


def require_owned(connection: sqlite3.Connection, session_key: int, completion: QueuedWorkCompletion) -> Owned:
    """What a claim owns, which must be exactly the batches it settles. Raises `QueuedWorkClaimSuperseded`."""
    owned = connection.execute(_OWNED, (session_key, completion.claim_id, completion.claim_token)).fetchall()
    if {row[0] for row in owned} != set(completion.batch_ids):
        raise QueuedWorkClaimSuperseded(
            f"claim {completion.claim_id!r} no longer owns its batches", details={"claim_id": completion.claim_id}
        )
    try:
        payloads = [payload for row in owned for payload in decode_any(row[1], tuple[QueuedWorkPayload, ...])]
    except msgspec.DecodeError as error:
        raise StoreUnusable(f"a batch of claim {completion.claim_id!r} does not decode: {error}") from error
    return Owned(
        tuple(row[2] for row in owned), tuple(payload for payload in payloads if isinstance(payload, ProcessWake))
    )


def complete(connection: sqlite3.Connection, session_key: int, owned: Owned, now_ms: int) -> None:
    """Settle what `require_owned` found in this transaction."""
    for enqueue_seq in owned.enqueue_seqs:
        connection.execute(_COMPLETE, (now_ms, enqueue_seq))
    _move_fences(connection, session_key, owned.wakes)


def _move_fences(connection: sqlite3.Connection, session_key: int, wakes: Iterable[ProcessWake]) -> None:
    """Note that wakes are settled, used or cancelled, so that none is delivered again (contract 02 §3.2)."""
    for wake in wakes:
        connection.execute(_MOVE_WAKE_FENCE, (session_key, wake.process_id, wake.sequence))


def fail(
    connection: sqlite3.Connection, session_key: int, claim: QueuedWorkClaim, error: str, now_ms: int
) -> tuple[list[str], list[str]]:
    """Give a claim's batches back after a failure; the ids given back and those of them parked."""
    owned = connection.execute(_OWNED, (session_key, claim.claim_id, claim.claim_token)).fetchall()
    parked = []
    for batch_id, _, enqueue_seq, attempts in owned:
        again_at_ms = retry_at_ms(attempts + 1, now_ms)
        state = BatchState.DEAD if again_at_ms is None else BatchState.PENDING
        connection.execute(_FAIL, (state.value, attempts + 1, error, again_at_ms, again_at_ms, enqueue_seq))
        if again_at_ms is None:
            parked.append(batch_id)
    return [row[0] for row in owned], parked


def give_back_taken(connection: sqlite3.Connection, session_key: int, turn_id: str) -> list[str]:
    """Free every row that `turn_id` took and did not settle; their ids."""
    return [batch_id for (batch_id,) in connection.execute(_GIVE_BACK_TAKEN, (session_key, turn_id)).fetchall()]


def give_back_claim(
    connection: sqlite3.Connection, session_key: int, claim_id: str, claim_token: str, *, generation: int
) -> list[str]:
    """Free every row the claim still owns under its generation; their ids."""
    rows = connection.execute(_GIVE_BACK_CLAIM, (session_key, claim_id, claim_token, generation)).fetchall()
    return [batch_id for (batch_id,) in rows]


def _read(connection: sqlite3.Connection, session_id: str, batch_id: str) -> QueuedWorkBatch | None:
    row = connection.execute(_BY_ID, (batch_id, key_of(connection, session_id))).fetchone()
    return None if row is None else legible_batch(session_id, row)


class Batches:
    """Queued work without a lane; the async face of this module."""

    def __init__(self, db: Database, ids: Ids) -> None:
        self._db = db
        self._ids = ids

    async def enqueue_queued_work(self, draft: QueuedWorkBatchDraft) -> QueuedWorkReceipt:
        """See `queueing.QueuedWorkStore.enqueue_queued_work`."""
        work_class = validate_draft(draft)

        def job(connection: sqlite3.Connection) -> QueuedWorkReceipt:
            session = read_session(connection, draft.session_id)
            if session.closed_at_ms is not None:
                refuse_closed(draft.session_id)
            return insert(connection, session, draft, work_class, self._ids, self._db.clock.now_ms())

        return await self._db.write(job, durable=True)

    async def queued_work(self, session_id: str, *, pending_only: bool) -> tuple[QueuedWorkBatch, ...]:
        """See `queueing.QueuedWorkStore.queued_work`."""

        def job(connection: sqlite3.Connection) -> tuple[QueuedWorkBatch, ...]:
            session = read_session(connection, session_id)
            generation = live_generation(session.lease(), self._db.clock.now_ms())
            rows = connection.execute(_READY, (session.key, generation)).fetchall()
            rows += connection.execute(_WAITING, (session.key,)).fetchall()
            if not pending_only:
                rows += connection.execute(_CLAIMED_OUTSIDE_A_TURN, (session.key, generation)).fetchall()
                rows += connection.execute(_TAKEN, (session.key,)).fetchall()
                rows += connection.execute(_DEAD, (session.key,)).fetchall()
            rows.sort()
            return tuple(legible_batch(session_id, row) for row in rows)

        return self._db.read(job)

    async def queued_work_batch(self, session_id: str, batch_id: str) -> QueuedWorkBatch | None:
        """See `queueing.QueuedWorkStore.queued_work_batch`."""

        return self._db.read(lambda connection: _read(connection, session_id, batch_id))

    async def find_batch(self, batch_id: str) -> QueuedWorkBatch | None:
        """See `queueing.QueuedWorkStore.find_batch`."""

        def job(connection: sqlite3.Connection) -> QueuedWorkBatch | None:
            row = connection.execute(_SESSION_OF, (batch_id,)).fetchone()
            return None if row is None else _read(connection, row[0], batch_id)

        return self._db.read(job)

    async def cancel_queued_work_batch(self, session_id: str, batch_id: str) -> QueuedWorkBatch | None:
        """See `queueing.QueuedWorkStore.cancel_queued_work_batch`."""

        def job(connection: sqlite3.Connection) -> QueuedWorkBatch | None:
            session = read_session(connection, session_id)
            now_ms = self._db.clock.now_ms()
            row = connection.execute(_BY_ID, (batch_id, session.key)).fetchone()
            if row is None or row[10] in (BatchState.COMPLETED, BatchState.CANCELLED):
                return None
            if is_held(row[13], row[14], live_generation(session.lease(), now_ms)):
                return None
            cancelled = legible_batch(session_id, row)
            connection.execute(_CANCEL, (now_ms, row[0]))
            _move_fences(
                connection, session.key, [wake for wake in cancelled.payloads if isinstance(wake, ProcessWake)]
            )
            announce(connection, session, "cancelled", [batch_id], now_ms)
            return cancelled

        return await self._db.write(job, durable=True)
