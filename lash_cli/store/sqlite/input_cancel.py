"""Cancelling inputs: a set or a suffix, judged row by row in one transaction (contract 02 §2).

Whoever cancels holds no lane; what is held is told by the rows and by the lease
row read in the same transaction. No reader sees half of a cancel. A row can be
cancelled even when its text does not decode.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from lash_cli.core.content import TextItem, TurnInput
from lash_cli.core.ingress import (
    AlreadyCancelled,
    AlreadyClaimed,
    AlreadyCompleted,
    AnchorNotFound,
    ByInputId,
    Cancelled,
    CancelVerdict,
    ClaimDiagnostics,
    InputNotFound,
    InputState,
    NextTurn,
    PendingTurnInput,
    PendingTurnInputCancelOutcome,
    PendingTurnInputCancelResult,
    PendingTurnInputCancelTarget,
    PendingTurnInputSuffixCancelOutcome,
    SuffixOutcomes,
    is_held,
    judge_cancel,
)
from lash_cli.errors import StoreUnusable
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.inputs import input_of
from lash_cli.store.sqlite.sessions import live_generation, read_session

_COLUMNS = """
SELECT enqueue_seq, input_id, ingress, state, enqueued_at_ms, input, source_key, turn_id, claim_fencing, claim_id,
    claim_generation
FROM inputs
"""
_BY_ID = _COLUMNS + "WHERE input_id = ? AND session_key = ?"
_BY_SOURCE = _COLUMNS + "WHERE source_key = ? AND session_key = ?"
# Contract 02 §2: the suffix is every row from the anchor on, whatever its state and kind.
_SUFFIX = _COLUMNS + "INDEXED BY inputs_by_session WHERE session_key = ? AND enqueue_seq >= ? ORDER BY enqueue_seq"
# The row stays as a tombstone, its ingress as evidence of what it was for.
_CANCEL = """
UPDATE inputs SET state = 'cancelled', claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE enqueue_seq = ?
"""


def _find(connection: sqlite3.Connection, session_key: int, target: PendingTurnInputCancelTarget) -> Any:
    statement = _BY_ID if isinstance(target, ByInputId) else _BY_SOURCE
    return connection.execute(statement, (target.value, session_key)).fetchone()


def _legible(session_id: str, row: Any) -> PendingTurnInput:
    """The record of a row; one that does not decode shows what is stored as its text."""
    try:
        return input_of(session_id, row)
    except StoreUnusable:
        seq, input_id, _, state, enqueued_at_ms, body, source_key, _, _ = row
        content = TurnInput((TextItem(body),))
        return PendingTurnInput(
            input_id, session_id, seq, NextTurn(), InputState(state), enqueued_at_ms, content, source_key
        )


def _judge(connection: sqlite3.Connection, session_id: str, row: Any, generation: int) -> PendingTurnInputCancelOutcome:
    """Apply the common rule to a row just read in this transaction."""
    *of_input, claim_id, claim_generation = row
    turn_id = row[7]
    stored = _legible(session_id, of_input)
    verdict = judge_cancel(stored.state, is_held=is_held(turn_id, claim_generation, generation))
    if verdict is CancelVerdict.COMPLETED:
        return AlreadyCompleted(stored)
    if verdict is CancelVerdict.CANCELLED:
        return AlreadyCancelled(stored)
    if verdict is CancelVerdict.CLAIMED:
        return AlreadyClaimed(stored, ClaimDiagnostics(claim_id, claim_generation, turn_id))
    connection.execute(_CANCEL, (stored.enqueue_seq,))
    return Cancelled(msgspec.structs.replace(stored, state=InputState.CANCELLED))


class InputCancels:
    """Cancels; the async face of this module. Synced before they answer."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def cancel_turn_inputs(
        self, session_id: str, targets: Sequence[PendingTurnInputCancelTarget]
    ) -> tuple[PendingTurnInputCancelResult, ...]:
        """See `queueing.TurnInputStore.cancel_turn_inputs`."""

        def job(connection: sqlite3.Connection) -> tuple[PendingTurnInputCancelResult, ...]:
            session = read_session(connection, session_id)
            generation = live_generation(session.lease(), self._db.clock.now_ms())
            results = []
            for target in targets:
                row = _find(connection, session.key, target)
                outcome = InputNotFound() if row is None else _judge(connection, session_id, row, generation)
                results.append(PendingTurnInputCancelResult(target, outcome))
            return tuple(results)

        return await self._db.write(job, durable=True)

    async def cancel_turn_input_suffix(
        self, session_id: str, anchor: PendingTurnInputCancelTarget
    ) -> PendingTurnInputSuffixCancelOutcome:
        """See `queueing.TurnInputStore.cancel_turn_input_suffix`."""

        def job(connection: sqlite3.Connection) -> PendingTurnInputSuffixCancelOutcome:
            session = read_session(connection, session_id)
            first = _find(connection, session.key, anchor)
            if first is None:
                return AnchorNotFound(anchor)
            generation = live_generation(session.lease(), self._db.clock.now_ms())
            rows = connection.execute(_SUFFIX, (session.key, first[0])).fetchall()
            return SuffixOutcomes(anchor, tuple(_judge(connection, session_id, row, generation) for row in rows))

        return await self._db.write(job, durable=True)
