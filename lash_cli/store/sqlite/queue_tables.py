"""Tables and indices of durable ingress: what migrations 0002 and 0010 make of a file (contract 02 §1, §3, §4).

A pending row is held by the unfinished turn that took it (`turn_id`) or by a
claim of the live generation. Rows a turn took leave the partial indices that
claims read, so a claim, a probe or a cancel costs the same with ten rows
waiting as with a hundred thousand.
"""

from __future__ import annotations

import sqlite3

# Contract 08 §5.2: while `held_at_ms` is set nothing is taken from the queue of the session.
_SESSION_HELD = "ALTER TABLE sessions ADD COLUMN held_at_ms INTEGER"
_SESSION_HOLD_REASON = "ALTER TABLE sessions ADD COLUMN hold_reason TEXT"
# The batches a turn was started from, as `claim_id` names its inputs; goes at commit.
_TURN_WORK_CLAIM = "ALTER TABLE turns ADD COLUMN work_claim_id TEXT"
# Grows with every claim of the row and is never reset, so a claim id is never issued twice (contract 02 §3.3).
_INPUT_FENCING = "ALTER TABLE inputs ADD COLUMN claim_fencing INTEGER NOT NULL DEFAULT 0"
# Contract 02 §1.5: the boundary of an active-turn input, out of `ingress` so that a checkpoint finds its rows by index.
_INPUT_BOUNDARY = "ALTER TABLE inputs ADD COLUMN min_boundary TEXT"
_FILL_BOUNDARY = """
UPDATE inputs SET min_boundary =
    CASE WHEN json_valid(ingress) THEN coalesce(json_extract(ingress, '$.min_boundary'), 'after_work') END
WHERE state = 'pending_active'
"""
# Before, a dead claim left its turn's id on the row. Now a pending row that names a turn is held by it for good.
_FREE_UNTAKEN = """
UPDATE inputs SET turn_id = NULL, claim_id = NULL, claim_token = NULL, claim_generation = NULL
WHERE state IN ('pending_active', 'deferred_next_turn') AND turn_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM turns t
    WHERE t.session_key = inputs.session_key AND t.turn_id = inputs.turn_id AND t.state = 'running'
)
"""
_DROP_INPUTS_BY_STATE = "DROP INDEX inputs_by_state"
_DROP_INPUTS_CLAIMED = "DROP INDEX inputs_claimed"
# Listings and suffix cancels: every row of a session from a place on.
_INPUTS_BY_SESSION = "CREATE INDEX inputs_by_session ON inputs (session_key, enqueue_seq)"
# What waits for the next turn and no turn took.
_INPUTS_NEXT = """
CREATE INDEX inputs_next ON inputs (session_key, enqueue_seq)
WHERE state = 'deferred_next_turn' AND turn_id IS NULL
"""
# What waits for a named turn, by the boundary that admits it.
_INPUTS_ACTIVE = """
CREATE INDEX inputs_active ON inputs (session_key, target_turn_id, min_boundary, enqueue_seq)
WHERE state = 'pending_active' AND turn_id IS NULL
"""
# What an unfinished turn took; re-driven, settled and given back by turn.
_INPUTS_TAKEN = """
CREATE INDEX inputs_taken ON inputs (session_key, turn_id)
WHERE turn_id IS NOT NULL AND state IN ('pending_active', 'deferred_next_turn')
"""
# Claims being settled or given back, of whatever session; settled rows leave the index.
_INPUTS_CLAIMED = "CREATE INDEX inputs_claimed ON inputs (claim_id, session_key) WHERE claim_id IS NOT NULL"

# Contract 02 §3: a settled batch keeps its row without payloads until `vacuum`, so a replayed key is recognised.
# `available_at_ms` is what the producer or the back-off said; `waits_until_ms` is the same until that time has come and
# NULL from then on, so what waits for its time never stands in the way of what is ready. `claim_ordinal` is the place
# in its claim: a caller that names batches orders them.
_QUEUED_WORK = """
CREATE TABLE queued_work (
    enqueue_seq INTEGER PRIMARY KEY AUTOINCREMENT,
    batch_id TEXT NOT NULL UNIQUE,
    session_key INTEGER NOT NULL,
    source_key TEXT,
    work_class TEXT NOT NULL,
    delivery_policy TEXT NOT NULL,
    slot_policy TEXT NOT NULL,
    merge_key TEXT NOT NULL,
    available_at_ms INTEGER NOT NULL,
    waits_until_ms INTEGER,
    enqueued_at_ms INTEGER NOT NULL,
    payloads TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'dead', 'completed', 'cancelled')),
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    turn_id TEXT,
    claim_id TEXT,
    claim_token TEXT,
    claim_generation INTEGER,
    claim_fencing INTEGER NOT NULL DEFAULT 0,
    claim_ordinal INTEGER,
    settled_at_ms INTEGER
) STRICT
"""
_WORK_BY_SOURCE = """
CREATE UNIQUE INDEX queued_work_by_source ON queued_work (session_key, source_key) WHERE source_key IS NOT NULL
"""
# Deletion and vacuum of a session.
_WORK_BY_SESSION = "CREATE INDEX queued_work_by_session ON queued_work (session_key, enqueue_seq)"
# The line: what is ready and no turn took.
_WORK_READY = """
CREATE INDEX queued_work_ready ON queued_work (session_key, enqueue_seq)
WHERE state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL
"""
_WORK_WAITING = """
CREATE INDEX queued_work_waiting ON queued_work (session_key, waits_until_ms)
WHERE state = 'pending' AND waits_until_ms IS NOT NULL
"""
_WORK_TAKEN = """
CREATE INDEX queued_work_taken ON queued_work (session_key, turn_id) WHERE turn_id IS NOT NULL AND state = 'pending'
"""
_WORK_CLAIMED = "CREATE INDEX queued_work_claimed ON queued_work (claim_id, session_key) WHERE claim_id IS NOT NULL"
_WORK_DEAD = "CREATE INDEX queued_work_dead ON queued_work (session_key) WHERE state = 'dead'"

# Contract 02 §3.2: a wake at or below the highest sequence settled for its process is never delivered again. Outlives
# the vacuum, goes with the session.
_WAKE_FENCES = """
CREATE TABLE wake_fences (
    session_key INTEGER NOT NULL,
    process_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (session_key, process_id)
) STRICT, WITHOUT ROWID
"""

# What somebody holds, in place of one index by turn and one by claim: a turn writes each index twice, when it takes its
# text and when it settles it. By claim within the session; a session has one unfinished turn at most, so who asks for
# what its turn took looks at little else. Nothing is taken without a claim: turn and claim id are written together.
_DROP_BY_TURN_AND_BY_CLAIM = (
    "DROP INDEX inputs_taken",
    "DROP INDEX inputs_claimed",
    "DROP INDEX queued_work_taken",
    "DROP INDEX queued_work_claimed",
)
_INPUTS_HELD = """
CREATE INDEX inputs_held ON inputs (session_key, claim_id, turn_id)
WHERE claim_id IS NOT NULL AND state IN ('pending_active', 'deferred_next_turn')
"""
_WORK_HELD = """
CREATE INDEX queued_work_held ON queued_work (session_key, claim_id, turn_id)
WHERE claim_id IS NOT NULL AND state = 'pending'
"""


def create_queue_tables(connection: sqlite3.Connection) -> None:
    """Migration 0002: queued work, holds, and inputs that are claimed by index."""
    for statement in (
        _SESSION_HELD,
        _SESSION_HOLD_REASON,
        _TURN_WORK_CLAIM,
        _INPUT_FENCING,
        _INPUT_BOUNDARY,
        _FILL_BOUNDARY,
        _FREE_UNTAKEN,
        _DROP_INPUTS_BY_STATE,
        _DROP_INPUTS_CLAIMED,
        _INPUTS_BY_SESSION,
        _INPUTS_NEXT,
        _INPUTS_ACTIVE,
        _INPUTS_TAKEN,
        _INPUTS_CLAIMED,
        _QUEUED_WORK,
        _WORK_BY_SOURCE,
        _WORK_BY_SESSION,
        _WORK_READY,
        _WORK_WAITING,
        _WORK_TAKEN,
        _WORK_CLAIMED,
        _WORK_DEAD,
        _WAKE_FENCES,
    ):
        connection.execute(statement)


def index_what_is_held(connection: sqlite3.Connection) -> None:
    """Migration 0010: one index of what is held instead of two; no row changes."""
    for statement in (*_DROP_BY_TURN_AND_BY_CLAIM, _INPUTS_HELD, _WORK_HELD):
        connection.execute(statement)
