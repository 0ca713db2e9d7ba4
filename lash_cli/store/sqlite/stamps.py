"""Turn stamps: the row that says that a turn is committed, with what, and what was answered (contract 01 §9.2 step 14).

With this row the completion has won the cancel gate (docs/decisions/0003). A
turn keeps its row for good, so summary and result leave out what the row or a
field beside them says already; here alone they are written and read. What an
older lash wrote leaves nothing out and is read by the same rule.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from msgspec import UNSET, UnsetType

from lash_cli.core.codec import Record, decode, encode
from lash_cli.core.commit import RuntimeCommit, RuntimeCommitResult, TurnStamp, TurnSummary
from lash_cli.core.llm import LlmCallRecord
from lash_cli.core.outcome import TurnCancellationEvidence, TurnIssue, TurnOutcome
from lash_cli.core.usage import NO_USAGE, TokenUsage
from lash_cli.store.sqlite.answers import LEFT_TO_ITS_NODE

# The running row becomes the stamp. An index that stays the same is not named, so that its b-tree is not written.
_COMPLETE = """
UPDATE turns SET state = 'committed', claim_id = NULL, work_claim_id = NULL, plan = NULL,
    started_at_ms = ?, generation = ?, content_hash = ?, summary = ?, result = ?, head_revision = ?, first_seq = ?,
    last_seq = ?, committed_at_ms = ?
WHERE session_key = ? AND turn_id = ?
"""
_REINDEX = "UPDATE turns SET turn_index = ? WHERE session_key = ? AND turn_id = ?"
# A turn that never opened a lane gets its row here.
_INSERT = """
INSERT INTO turns (session_key, turn_id, turn_index, state, origin, started_at_ms, generation, content_hash, summary,
    result, head_revision, first_seq, last_seq, committed_at_ms)
VALUES (?, ?, ?, 'committed', 'prompt', ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_RESULT = """
SELECT result, head_revision, summary, started_at_ms FROM turns WHERE session_key = ? AND turn_id = ?
"""


class StoredSummary(Record):
    """A `TurnSummary` as its row holds it.

    Left out are the start, which the row says, an `outcome` that is a message
    whose text is left to its node, and a `usage` that `llm_calls` add up to.
    """

    duration_ms: int
    outcome: TurnOutcome | None = None
    started_at_ms: int | None = None
    usage: TokenUsage | None = None
    cancellation: TurnCancellationEvidence | None = None
    llm_calls: tuple[LlmCallRecord, ...] = ()
    errors: tuple[TurnIssue, ...] = ()
    input_ids: tuple[str, ...] = ()
    tool_call_count: int = 0
    answer_node_id: str | None = None
    had_code_execution: bool = False


class StoredResult(Record):
    """A `RuntimeCommitResult` as its row holds it.

    Left out are the revision, which the row says, and a leaf that is the node
    of the answer.
    """

    checkpoint_ref: str
    head_revision: int | None = None
    leaf_node_id: str | UnsetType | None = UNSET
    component_refs: dict[str, str] = {}
    enqueued_batches: tuple[str, ...] = ()


def encode_summary(summary: TurnSummary, started_at_ms: int) -> str:
    """The summary for a row that says that its turn started at `started_at_ms`."""
    stored = StoredSummary(
        duration_ms=summary.duration_ms,
        outcome=None if summary.outcome == LEFT_TO_ITS_NODE else summary.outcome,
        started_at_ms=None if summary.started_at_ms == started_at_ms else summary.started_at_ms,
        usage=None if summary.usage == _spent(summary.llm_calls) else summary.usage,
        cancellation=summary.cancellation,
        llm_calls=summary.llm_calls,
        errors=summary.errors,
        input_ids=summary.input_ids,
        tool_call_count=summary.tool_call_count,
        answer_node_id=summary.answer_node_id,
        had_code_execution=summary.had_code_execution,
    )
    return encode(stored).decode()


def decode_summary(body: str, started_at_ms: int) -> TurnSummary:
    """The summary of a row that says that its turn started at `started_at_ms`; raises `msgspec.DecodeError`."""
    stored = decode(body, StoredSummary)
    return TurnSummary(
        outcome=LEFT_TO_ITS_NODE if stored.outcome is None else stored.outcome,
        started_at_ms=started_at_ms if stored.started_at_ms is None else stored.started_at_ms,
        duration_ms=stored.duration_ms,
        usage=_spent(stored.llm_calls) if stored.usage is None else stored.usage,
        cancellation=stored.cancellation,
        llm_calls=stored.llm_calls,
        errors=stored.errors,
        input_ids=stored.input_ids,
        tool_call_count=stored.tool_call_count,
        answer_node_id=stored.answer_node_id,
        had_code_execution=stored.had_code_execution,
    )


def encode_result(result: RuntimeCommitResult, head_revision: int, answer_node_id: str | None) -> str:
    """The result for a row of `head_revision` whose summary names `answer_node_id`."""
    stored = StoredResult(
        checkpoint_ref=result.checkpoint_ref,
        head_revision=None if result.head_revision == head_revision else result.head_revision,
        leaf_node_id=UNSET if result.leaf_node_id == answer_node_id else result.leaf_node_id,
        component_refs=result.component_refs,
        enqueued_batches=result.enqueued_batches,
    )
    return encode(stored).decode()


def decode_result(body: str, head_revision: int, answer_node_id: str | None) -> RuntimeCommitResult:
    """The result of a row of `head_revision` whose summary names `answer_node_id`; raises `msgspec.DecodeError`."""
    stored = decode(body, StoredResult)
    return RuntimeCommitResult(
        head_revision=head_revision if stored.head_revision is None else stored.head_revision,
        leaf_node_id=answer_node_id if stored.leaf_node_id is UNSET else stored.leaf_node_id,
        checkpoint_ref=stored.checkpoint_ref,
        component_refs=stored.component_refs,
        enqueued_batches=stored.enqueued_batches,
    )


def _spent(calls: Iterable[LlmCallRecord]) -> TokenUsage:
    """What all attempts of all calls cost."""
    return sum([call.usage for call in calls], NO_USAGE)


def write(
    connection: sqlite3.Connection,
    session_key: int,
    commit: RuntimeCommit,
    turn: TurnStamp,
    result: RuntimeCommitResult,
    *,
    summary: str | None,
    seqs: tuple[int | None, int | None],
    running_index: int | None,
) -> None:
    """Stamp a turn inside its commit. `summary` is encoded already, for the start it names itself; `seqs` are its
    first and last node; `running_index` is the index of its row, None without one."""
    turn_index = commit.checkpoint.turn_state.turn_index
    key = (session_key, turn.turn_id)
    done = (
        turn.summary.started_at_ms,
        commit.fence.fencing_token,
        turn.content_hash,
        summary,
        encode_result(result, result.head_revision, turn.summary.answer_node_id),
        result.head_revision,
        *seqs,
        commit.now_ms,
    )
    if running_index is None:
        connection.execute(_INSERT, (*key, turn_index, *done))
        return
    connection.execute(_COMPLETE, (*done, *key))
    if running_index != turn_index:
        connection.execute(_REINDEX, (turn_index, *key))


def read_result(connection: sqlite3.Connection, session_key: int, turn_id: str) -> RuntimeCommitResult | None:
    """What the commit of a turn answered; None for a turn that has no stamp."""
    row = connection.execute(_RESULT, (session_key, turn_id)).fetchone()
    if row is None or row[0] is None:
        return None
    body, head_revision, summary, started_at_ms = row
    return decode_result(body, head_revision, decode_summary(summary, started_at_ms).answer_node_id)
