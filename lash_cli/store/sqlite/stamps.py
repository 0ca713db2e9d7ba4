"""Turn stamps: the row that says that a turn is committed, with what, and what was answered (contract 01 §9.2 step 14).

With this row the completion has won the cancel gate (docs/decisions/0003).
"""

from __future__ import annotations

import sqlite3

from lash_cli.core.codec import encode
from lash_cli.core.commit import RuntimeCommit, RuntimeCommitResult, TurnStamp

# The running row becomes the stamp. An index that stays the same is not named, so that its b-tree is not written.
_COMPLETE = """
UPDATE turns SET state = 'committed', claim_id = NULL, work_claim_id = NULL, plan = NULL,
    generation = ?, content_hash = ?, summary = ?, result = ?, head_revision = ?, first_seq = ?, last_seq = ?,
    committed_at_ms = ?
WHERE session_key = ? AND turn_id = ?
"""
_REINDEX = "UPDATE turns SET turn_index = ? WHERE session_key = ? AND turn_id = ?"
# A turn that never opened a lane gets its row here.
_INSERT = """
INSERT INTO turns (session_key, turn_id, turn_index, state, origin, started_at_ms, generation, content_hash, summary,
    result, head_revision, first_seq, last_seq, committed_at_ms)
VALUES (?, ?, ?, 'committed', 'prompt', ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


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
    """Stamp a turn inside its commit. `summary` is encoded already, `seqs` are its first and last node;
    `running_index` is the index of its row, None without one."""
    turn_index = commit.checkpoint.turn_state.turn_index
    key = (session_key, turn.turn_id)
    done = (
        commit.fence.fencing_token,
        turn.content_hash,
        summary,
        encode(result).decode(),
        result.head_revision,
        *seqs,
        commit.now_ms,
    )
    if running_index is None:
        connection.execute(_INSERT, (*key, turn_index, turn.summary.started_at_ms, *done))
        return
    connection.execute(_COMPLETE, (*done, *key))
    if running_index != turn_index:
        connection.execute(_REINDEX, (turn_index, *key))
