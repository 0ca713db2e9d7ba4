"""Inputs for whoever holds no lane: enqueue, look, cancel one, a set or a suffix (contract 02 §1.2, §1.7, §2).

What is held is told by the rows and by the lease row read in the same
transaction. A cancel judges row by row in one transaction, and no reader sees
half of it. A row can be cancelled even when its text does not decode.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from lash_cli.core.ingress import (
    AlreadyCancelled,
    AlreadyClaimed,
    AlreadyCompleted,
    AnchorNotFound,
    ByInputId,
    Cancelled,
    CancelVerdict,
    ClaimDiagnostics,
    InputDraft,
    InputNotFound,
    InputState,
    PendingTurnInput,
    PendingTurnInputCancelOutcome,
    PendingTurnInputCancelResult,
    PendingTurnInputCancelTarget,
    PendingTurnInputSuffixCancelOutcome,
    SuffixOutcomes,
    is_held,
    judge_cancel,
)
from lash_cli.store.sqlite import inputs
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.inputs import COLUMNS, NO_LIMIT, legible_input
from lash_cli.store.sqlite.sessions import StoredSession, key_of, live_generation, read_session

_BY_ID = COLUMNS + "WHERE input_id = ? AND session_key = ?"
_SESSION_OF = """
SELECT s.session_id FROM inputs i JOIN sessions s ON s.session_key = i.session_key WHERE i.input_id = ?
"""
_ID_OF_KEY = "SELECT input_id FROM inputs WHERE session_key = ? AND source_key = ?"
_ALL = COLUMNS + "WHERE session_key = ? ORDER BY enqueue_seq"
_TURNS = "SELECT input_id, turn_id FROM inputs WHERE session_key = ? AND turn_id IS NOT NULL"
_UNSETTLED = (
    COLUMNS
    + """INDEXED BY inputs_by_session
WHERE session_key = ? AND enqueue_seq >= ? AND state IN ('pending_active', 'deferred_next_turn') ORDER BY enqueue_seq"""
)
# Contract 02 §1.7: what waits for named turns, in the order of the turns.
_PENDING_ACTIVE = (
    COLUMNS + "INDEXED BY inputs_active WHERE session_key = ? AND state = 'pending_active' AND turn_id IS NULL"
)
_BY_SOURCE = COLUMNS + "WHERE source_key = ? AND session_key = ?"
# Contract 02 §2: the suffix is every row from the anchor on, whatever its state and kind.
_SUFFIX = COLUMNS + "INDEXED BY inputs_by_session WHERE session_key = ? AND enqueue_seq >= ? ORDER BY enqueue_seq"
# The row stays as a tombstone, its ingress as evidence of what it was for. Nobody claims it any more, so where the
# claim stood is who cancelled it, if that was said, and where its generation stood is when (`inputs.CANCELLED_AT_MS`).
_CANCEL = """
UPDATE inputs SET state = 'cancelled', claim_id = ?, claim_token = NULL, claim_generation = ?
WHERE enqueue_seq = ?
"""
# For whoever puts back what an interrupted edit took out: once in a while, all of a session is looked through.
_CANCELLED_BY = """
SELECT input_id FROM inputs INDEXED BY inputs_by_session WHERE claim_id = ? AND session_key = ? AND state = 'cancelled'
"""


def _find(connection: sqlite3.Connection, session_key: int, target: PendingTurnInputCancelTarget) -> Any:
    statement = _BY_ID if isinstance(target, ByInputId) else _BY_SOURCE
    return connection.execute(statement, (target.value, session_key)).fetchone()


def _judge(
    connection: sqlite3.Connection, session: StoredSession, row: Any, now_ms: int, by: str | None = None
) -> PendingTurnInputCancelOutcome:
    """Apply the common rule to a row just read in this transaction."""
    *_, turn_id, claim_id, claim_generation, fencing_token = row
    stored = legible_input(session.session_id, row)
    lease = session.lease()
    verdict = judge_cancel(stored.state, is_held=is_held(turn_id, claim_generation, live_generation(lease, now_ms)))
    if verdict is CancelVerdict.COMPLETED:
        return AlreadyCompleted(stored)
    if verdict is CancelVerdict.CANCELLED:
        return AlreadyCancelled(stored)
    if verdict is CancelVerdict.CLAIMED:
        owner = lease.owner if lease.fencing_token == claim_generation else None
        diagnostics = ClaimDiagnostics(claim_id, claim_generation, turn_id, owner, fencing_token, stored.state)
        return AlreadyClaimed(stored, diagnostics)
    connection.execute(_CANCEL, (by, now_ms, stored.enqueue_seq))
    return Cancelled(msgspec.structs.replace(stored, state=InputState.CANCELLED))


def _cancelled_ids(outcomes: Iterable[PendingTurnInputCancelOutcome]) -> list[str]:
    return [outcome.input.input_id for outcome in outcomes if isinstance(outcome, Cancelled)]


def _read(connection: sqlite3.Connection, session_id: str, input_id: str) -> tuple[PendingTurnInput, str | None] | None:
    row = connection.execute(_BY_ID, (input_id, key_of(connection, session_id))).fetchone()
    return None if row is None else (inputs.input_of(session_id, row), row[7])


def _session_of(connection: sqlite3.Connection, input_id: str) -> str | None:
    row = connection.execute(_SESSION_OF, (input_id,)).fetchone()
    return None if row is None else str(row[0])


class PendingInputs:
    """The async face of this module. Enqueue and cancel are synced before they answer."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def enqueue_turn_input(self, draft: InputDraft) -> PendingTurnInput:
        """See `queueing.TurnInputStore.enqueue_turn_input`."""
        from lash_cli.store.sqlite.enqueueing import enqueue  # who only looks at a queue does without the live log

        clock = self._db.clock
        return await self._db.write(lambda connection: enqueue(connection, draft, clock.now_ms()), durable=True)

    async def enqueue_turn_inputs(self, drafts: Sequence[InputDraft]) -> tuple[PendingTurnInput, ...]:
        """See `queueing.TurnInputStore.enqueue_turn_inputs`."""
        from lash_cli.store.sqlite.enqueueing import enqueue  # who only looks at a queue does without the live log

        def job(connection: sqlite3.Connection) -> tuple[PendingTurnInput, ...]:
            now_ms = self._db.clock.now_ms()
            return tuple(enqueue(connection, draft, now_ms) for draft in drafts)

        return await self._db.write(job, durable=True)

    async def turn_input(self, session_id: str, input_id: str) -> tuple[PendingTurnInput, str | None] | None:
        """See `queueing.TurnInputStore.turn_input`."""

        return self._db.read(lambda connection: _read(connection, session_id, input_id))

    async def find_input(self, input_id: str) -> tuple[PendingTurnInput, str | None] | None:
        """See `queueing.TurnInputStore.find_input`."""

        def job(connection: sqlite3.Connection) -> tuple[PendingTurnInput, str | None] | None:
            session_id = _session_of(connection, input_id)
            return None if session_id is None else _read(connection, session_id, input_id)

        return self._db.read(job)

    async def session_of_input(self, input_id: str) -> str | None:
        """See `queueing.TurnInputStore.session_of_input`."""
        return self._db.read(lambda connection: _session_of(connection, input_id))

    async def input_of_key(self, session_id: str, source_key: str) -> str | None:
        """See `queueing.TurnInputStore.input_of_key`."""

        def job(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(_ID_OF_KEY, (key_of(connection, session_id), source_key)).fetchone()
            return None if row is None else str(row[0])

        return self._db.read(job)

    async def inputs(self, session_id: str, *, pending_only: bool) -> tuple[PendingTurnInput, ...]:
        """See `queueing.TurnInputStore.inputs`."""

        def job(connection: sqlite3.Connection) -> tuple[PendingTurnInput, ...]:
            stored = read_session(connection, session_id)
            rows: list[Any]
            if pending_only:
                generation = live_generation(stored.lease(), self._db.clock.now_ms())
                rows = inputs.next_inputs(connection, stored.key, generation, NO_LIMIT)
                rows += connection.execute(_PENDING_ACTIVE, (stored.key,)).fetchall()
                rows.sort()
            else:
                rows = connection.execute(_ALL, (stored.key,)).fetchall()
            return inputs.inputs_of(session_id, rows)

        return self._db.read(job)

    async def turns_of_inputs(self, session_id: str) -> dict[str, str]:
        """See `queueing.TurnInputStore.turns_of_inputs`."""

        def job(connection: sqlite3.Connection) -> dict[str, str]:
            return dict(connection.execute(_TURNS, (key_of(connection, session_id),)).fetchall())

        return self._db.read(job)

    async def unsettled_inputs(self, session_id: str, *, from_seq: int) -> tuple[PendingTurnInput, ...]:
        """See `queueing.TurnInputStore.unsettled_inputs`."""

        def job(connection: sqlite3.Connection) -> tuple[PendingTurnInput, ...]:
            rows = connection.execute(_UNSETTLED, (key_of(connection, session_id), from_seq)).fetchall()
            return inputs.inputs_of(session_id, rows)

        return self._db.read(job)

    async def cancel_turn_inputs(
        self, session_id: str, targets: Sequence[PendingTurnInputCancelTarget], *, by: str | None = None
    ) -> tuple[PendingTurnInputCancelResult, ...]:
        """See `queueing.TurnInputStore.cancel_turn_inputs`."""
        from lash_cli.store.sqlite.queue_announcing import announce  # who enqueues announces without it

        def job(connection: sqlite3.Connection) -> tuple[PendingTurnInputCancelResult, ...]:
            session = read_session(connection, session_id)
            now_ms = self._db.clock.now_ms()
            results = []
            for target in targets:
                row = _find(connection, session.key, target)
                outcome = InputNotFound() if row is None else _judge(connection, session, row, now_ms, by)
                results.append(PendingTurnInputCancelResult(target, outcome))
            cancelled = _cancelled_ids(result.outcome for result in results)
            announce(connection, session, "cancelled", cancelled, now_ms)
            return tuple(results)

        return await self._db.write(job, durable=True)

    async def inputs_cancelled_by(self, session_id: str, by: str) -> frozenset[str]:
        """See `queueing.TurnInputStore.inputs_cancelled_by`."""

        def job(connection: sqlite3.Connection) -> frozenset[str]:
            found = connection.execute(_CANCELLED_BY, (by, key_of(connection, session_id)))
            return frozenset(input_id for (input_id,) in found)

        return self._db.read(job)

    async def cancel_turn_input_suffix(
        self, session_id: str, anchor: PendingTurnInputCancelTarget
    ) -> PendingTurnInputSuffixCancelOutcome:
        """See `queueing.TurnInputStore.cancel_turn_input_suffix`."""
        from lash_cli.store.sqlite.queue_announcing import announce

        def job(connection: sqlite3.Connection) -> PendingTurnInputSuffixCancelOutcome:
            session = read_session(connection, session_id)
            first = _find(connection, session.key, anchor)
            if first is None:
                return AnchorNotFound(anchor)
            now_ms = self._db.clock.now_ms()
            rows = connection.execute(_SUFFIX, (session.key, first[0])).fetchall()
            outcomes = tuple(_judge(connection, session, row, now_ms) for row in rows)
            announce(connection, session, "cancelled", _cancelled_ids(outcomes), now_ms)
            return SuffixOutcomes(anchor, outcomes)

        return await self._db.write(job, durable=True)
