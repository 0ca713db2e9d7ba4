"""One `RuntimeCommit` in one transaction, in the order of contract 01 §9.2.

Everything is validated before anything is written: binding, stamp replay,
fence, head, cancel gate, claims of both families. A replayed stamp answers before the fence is
looked at, so a worker that lost its answer gets it even after its lease ended.
Encoding happens before the transaction, on the caller's thread; the work
inside is proportional to the delta, never to the transcript.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from lash_cli.core.codec import encode, sha256_hex, to_builtins
from lash_cli.core.commit import (
    COMMIT_TOO_LARGE,
    MAX_COMMIT_BYTES,
    MAX_COMMIT_NODES,
    ReplaceFull,
    RuntimeCommit,
    RuntimeCommitResult,
    Unchanged,
)
from lash_cli.core.frames import AgentFrame, FrameStatus
from lash_cli.core.protocols import Ids
from lash_cli.core.queued_work import QueuedWorkClass, validate_draft
from lash_cli.errors import (
    ConflictError,
    HeadRevisionConflict,
    MissingCheckpointComponent,
    RuntimeTurnCommitConflict,
    SessionBindingMismatch,
    TurnCancelWon,
)
from lash_cli.store.sqlite import batches, demand, graph, inputs, lanes, leases, live_commits, stamps
from lash_cli.store.sqlite.announcing import WriterConnection
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.live import read_end
from lash_cli.store.sqlite.live_rows import NEWEST, LogEnd
from lash_cli.store.sqlite.sessions import HEAD_COLUMNS, NO_GENERATION, StoredHead, read_session_as

if TYPE_CHECKING:
    from lash_cli.core.activity import TurnActivity
    from lash_cli.core.lease import LeaseFence
    from lash_cli.core.queued_work import QueuedWorkBatchDraft

# All that a commit is checked against, and behind what it is announced, in one lookup: the head of the session, the id
# of its frame, of the turn its row, the request at its cancel gate and whether it owns attachments, and the end of the
# live log.
_READ = (
    "SELECT"
    + HEAD_COLUMNS
    + f""",
    (SELECT f.frame_id FROM frames f WHERE f.session_key = s.session_key AND f.ordinal = s.frame_ordinal),
    t.state, t.turn_index, t.content_hash, c.gate,
    EXISTS (SELECT 1 FROM attachments a INDEXED BY attachments_uncommitted WHERE a.session_key = s.session_key
            AND a.owner_kind = 'turn' AND a.owner_id = ?1 AND a.committed_at_ms IS NULL),
    l.epoch, l.hole, ({NEWEST})
FROM sessions s
LEFT JOIN turns t ON t.session_key = s.session_key AND t.turn_id = ?1
LEFT JOIN turn_cancels c ON c.session_key = s.session_key AND c.turn_id = ?1
LEFT JOIN live_log l ON l.session_key = s.session_key AND l.stamp = ?3
WHERE s.session_id = ?2
"""
)
KEEP_BLOB = "INSERT OR IGNORE INTO blobs (hash, content) VALUES (?, ?)"
INSERT_USAGE = """
INSERT INTO usage_deltas (session_key, revision, ordinal, source, model, input_tokens, output_tokens,
    cache_read_input_tokens, cache_write_input_tokens, reasoning_output_tokens, turn_id, at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
WRITE_FRAME = """
INSERT INTO frames (session_key, ordinal, frame_id, first_seq, record) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (session_key, ordinal) DO UPDATE SET first_seq = excluded.first_seq, record = excluded.record
"""
_CHANGE_FRAME = "UPDATE frames SET record = ? WHERE session_key = ? AND ordinal = ?"
_DROP_FRAME = "DELETE FROM frames WHERE session_key = ? AND ordinal = ?"
# Steps 9 and 15: a commit is activity and ends parking. The fence was checked in this transaction, so a lease that is
# given back is cleared in the same write as `leases.release` would do.
_WRITE_HEAD = """
UPDATE sessions SET head_revision = ?, leaf_seq = ?, leaf_key = ?, next_seq = ?, config = ?, turn_state = ?,
    components = ?, checkpoint_ref = ?, frame_ordinal = ?, last_activity_at_ms = ?, last_commit_at_ms = ?,
    parked_at_ms = NULL
WHERE session_key = ?
"""
_WRITE_HEAD_AND_RELEASE = """
UPDATE sessions SET head_revision = ?, leaf_seq = ?, leaf_key = ?, next_seq = ?, config = ?, turn_state = ?,
    components = ?, checkpoint_ref = ?, frame_ordinal = ?, last_activity_at_ms = ?, last_commit_at_ms = ?,
    parked_at_ms = NULL,
    lease_token = NULL, lease_owner = NULL, lease_claimed_at_ms = 0, lease_expires_at_ms = 0
WHERE session_key = ?
"""


class _Prepared(msgspec.Struct, frozen=True):
    """A commit with everything encoded that does not depend on the stored head."""

    commit: RuntimeCommit
    config: str
    turn_state: str
    nodes: Sequence[graph.PreparedNode]
    frames: tuple[tuple[AgentFrame, str], ...] | None
    bodies: dict[str, tuple[str, bytes]]
    summary: str | None
    outbox: tuple[tuple[QueuedWorkBatchDraft, QueuedWorkClass], ...]
    live: live_commits.PreparedCommit


class _Found(StoredHead, frozen=True, gc=False):
    """What `_READ` selects; fields in the order of the columns. State, index and hash are those of the turn's row."""

    frame_id: str | None
    turn_row_state: str | None
    turn_index: int | None
    content_hash: str | None
    gate: str | None
    owns_attachments: int
    log_epoch: str | None
    log_hole: int | None
    log_newest: int | None

    def log_end(self) -> LogEnd | None:
        """Behind what the first event of this transaction is appended."""
        if self.log_epoch is None or self.log_hole is None:
            return None
        return self.log_epoch, self.log_hole, self.log_newest


def prepare(commit: RuntimeCommit, shown: Sequence[TurnActivity] = ()) -> _Prepared:
    """Encode a commit, and what its turn has shown, and check its size and binding before any transaction.

    Raises `ConflictError` (`commit_too_large`, `agent_frame_missing`), `InvalidQueuedWorkBatch` and
    `SessionBindingMismatch`.
    """
    parts: tuple[LeaseFence | AgentFrame | QueuedWorkBatchDraft, ...]
    parts = (commit.fence, *(commit.frames or ()), *commit.outbox)
    for part in parts:
        if part.session_id != commit.session_id:
            raise SessionBindingMismatch(
                f"the commit of session {commit.session_id!r} carries parts of another session"
            )
    if commit.frames is not None:
        _require_one_active(commit.frames)
    nodes = () if isinstance(commit.graph, Unchanged) else commit.graph.nodes
    if len(nodes) > MAX_COMMIT_NODES:
        raise ConflictError(f"a commit holds at most {MAX_COMMIT_NODES} nodes, not {len(nodes)}", code=COMMIT_TOO_LARGE)
    prepared_nodes = graph.prepare_nodes(nodes)
    size = sum([len(node.body) for node in prepared_nodes])
    bodies = {}
    for name, component in commit.checkpoint.components.items():
        if component.body is not None:
            bodies[name] = (sha256_hex(component.body), component.body)
            size += len(component.body)
    if size > MAX_COMMIT_BYTES:
        raise ConflictError(f"a commit holds at most {MAX_COMMIT_BYTES} bytes, not {size}", code=COMMIT_TOO_LARGE)
    return _Prepared(
        commit,
        encode(commit.config).decode(),
        encode(commit.checkpoint.turn_state).decode(),
        prepared_nodes,
        None if commit.frames is None else tuple((frame, encode(frame).decode()) for frame in commit.frames),
        bodies,
        None if commit.turn is None else stamps.encode_summary(commit.turn.summary, commit.turn.summary.started_at_ms),
        tuple([(draft, validate_draft(draft)) for draft in commit.outbox]),
        live_commits.prepare_commit(commit, shown),
    )


def apply(connection: sqlite3.Connection, prepared: _Prepared, now_ms: int, ids: Ids) -> RuntimeCommitResult:
    """Run the fifteen steps inside the caller's transaction; any error means the caller rolls back.

    `now_ms` is the store's time and judges liveness only; stamps carry the commit's own.
    """
    assert isinstance(connection, WriterConnection)
    commit = prepared.commit
    turn_id = None if commit.turn is None else commit.turn.turn_id
    values = (turn_id, commit.session_id, connection.stamp)
    stored = read_session_as(_Found, connection, _READ, values, commit.session_id)
    if stored.turn_row_state == "committed":
        replayed = _replay(connection, stored, commit)
        if replayed is not None:
            return replayed
    leases.require_live(stored, commit.fence, now_ms)
    _require_head(stored, commit)
    _pass_gate(connection, stored, commit)
    settled_inputs: list[int] = []
    for claim in commit.completed_inputs:
        settled_inputs += inputs.require_owned(connection, stored.key, claim)
    settled_work = [batches.require_owned(connection, stored.key, work) for work in commit.completed_work]

    components = _write_components(connection, stored, prepared)
    components_json = encode(components).decode()
    checkpoint_ref = checkpoint_ref_of(prepared.turn_state, components_json)
    revision = (stored.head_revision or 0) + 1
    _write_usage(connection, stored, commit, revision, turn_id)
    ordinals, frame_ordinal = _write_frames(connection, stored, prepared)
    next_seq, leaf_seq, leaf_key = _write_graph(connection, stored, prepared, ordinals)
    connection.execute(
        _WRITE_HEAD_AND_RELEASE if commit.release_lease else _WRITE_HEAD,
        (
            revision,
            leaf_seq,
            leaf_key,
            next_seq,
            prepared.config,
            prepared.turn_state,
            components_json,
            checkpoint_ref,
            frame_ordinal,
            commit.now_ms,
            commit.now_ms,
            stored.key,
        ),
    )
    inputs.complete(connection, settled_inputs)
    for work in settled_work:
        batches.complete(connection, stored.key, work, commit.now_ms)
    has_waiting = _leave_queue(connection, stored, commit, turn_id)
    if stored.owns_attachments or commit.committed_attachment_ids:
        from lash_cli.store.sqlite import attachments  # few sessions have any

        attachments.commit_refs(connection, stored.key, commit.committed_attachment_ids, turn_id, commit.now_ms)
    live, end = prepared.live, stored.log_end()
    enqueued: tuple[str, ...] = ()
    if prepared.outbox:
        # What is enqueued is announced too: behind what led to it, and before the commit that enqueues it.
        live = live_commits.append_shown(connection, stored, live, end, now_ms=now_ms)
        enqueued = _enqueue(connection, stored, prepared, revision, ids)
        end = read_end(connection, stored.key)
    result = RuntimeCommitResult(revision, commit.graph.leaf_node_id, checkpoint_ref, components, enqueued)
    if commit.turn is not None:
        stamps.write(
            connection,
            stored.key,
            commit,
            commit.turn,
            result,
            summary=prepared.summary,
            seqs=(stored.next_seq, next_seq - 1) if next_seq > stored.next_seq else (None, None),
            running_index=stored.turn_index,
        )
    live_commits.append_commit(
        connection, stored, live, end, revision=revision, frame_ordinal=frame_ordinal, now_ms=now_ms
    )
    return msgspec.structs.replace(result, has_waiting=True) if has_waiting or enqueued else result


def _leave_queue(
    connection: sqlite3.Connection, stored: StoredHead, commit: RuntimeCommit, turn_id: str | None
) -> bool:
    """Step 11: a turn that ends holds nothing any more, and what was addressed to it goes to the next turn.

    Returns whether input or work waits. One look tells that there is nothing to do, which is what a plain turn pays.
    """
    generation = NO_GENERATION if commit.release_lease else commit.fence.fencing_token
    left = demand.read_left(connection, stored.key, turn_id, generation)
    if left.has_taken and turn_id is not None:
        inputs.give_back_taken(connection, stored.key, turn_id)
        batches.give_back_taken(connection, stored.key, turn_id)
    if commit.defer_inputs_of_turn is not None and (left.has_active_inputs or left.has_taken):
        inputs.defer_inputs_of_turn(connection, stored.key, commit.defer_inputs_of_turn)
    return left.has_waiting or bool(left.has_taken)


def _enqueue(
    connection: sqlite3.Connection, stored: StoredHead, prepared: _Prepared, revision: int, ids: Ids
) -> tuple[str, ...]:
    """Step 13: the outbox goes into the queue as of the revision this commit makes; the ids of its batches."""
    session = msgspec.structs.replace(stored, head_revision=revision)
    now_ms = prepared.commit.now_ms
    return tuple(
        batches.insert(connection, session, draft, work_class, ids, now_ms).batch_id
        for draft, work_class in prepared.outbox
    )


def checkpoint_ref_of(turn_state: str, components: str) -> str:
    """`canonical_hash` of turn state and components, both of which are canonical JSON already."""
    return sha256_hex(f"[{turn_state},{components}]".encode())


def _replay(connection: sqlite3.Connection, stored: _Found, commit: RuntimeCommit) -> RuntimeCommitResult | None:
    """Step 2: the stored result of a turn committed before, and the release that was asked for."""
    assert commit.turn is not None, "the row of its turn was found"
    result = stamps.read_result(connection, stored.key, commit.turn.turn_id)
    if result is None:
        return None
    if stored.content_hash != commit.turn.content_hash:
        raise RuntimeTurnCommitConflict(
            f"turn {commit.turn.turn_id!r} was committed with another content",
            details={
                "turn_id": commit.turn.turn_id,
                "stored_hash": stored.content_hash,
                "hash": commit.turn.content_hash,
            },
        )
    if commit.release_lease:
        leases.release(connection, stored, commit.fence)
    left = demand.read_left(connection, stored.key, None, NO_GENERATION)
    return msgspec.structs.replace(result, replayed=True, has_waiting=left.has_waiting)


def _require_head(stored: StoredHead, commit: RuntimeCommit) -> None:
    """Step 4: compare and set; no expectation is legal only for an absent head or a full replacement."""
    expected, actual = commit.expected_head_revision, stored.head_revision
    if expected != actual and not (expected is None and isinstance(commit.graph, ReplaceFull)):
        raise HeadRevisionConflict(expected, actual)


def _pass_gate(connection: sqlite3.Connection, stored: _Found, commit: RuntimeCommit) -> None:
    """Contract 01 §6.6: cancel or completion, whichever reached the gate first; evidence and outcome must agree."""
    if commit.turn is None:
        return
    presented = commit.turn.summary.cancellation
    standing = None if stored.gate is None else lanes.request_at(stored.gate)
    if standing is None:
        if presented is not None:
            lanes.write_gate(connection, stored.key, commit.turn.turn_id, presented, commit.now_ms)
    elif presented != standing:
        raise TurnCancelWon(
            f"turn {commit.turn.turn_id!r} was cancelled by request {standing.request_id!r}",
            details={"evidence": to_builtins(standing)},
        )


def _write_components(connection: sqlite3.Connection, stored: StoredHead, prepared: _Prepared) -> dict[str, str]:
    """Step 6: new bytes are stored by hash, a reference is kept, an empty component is cleared."""
    refs = stored.component_refs()
    for name, component in prepared.commit.checkpoint.components.items():
        if name in prepared.bodies:
            refs[name], body = prepared.bodies[name]
            connection.execute(KEEP_BLOB, (refs[name], body))
        elif component.ref is None:
            refs.pop(name, None)
        elif component.ref != refs.get(name):
            if not graph.has_blob(connection, component.ref):
                raise MissingCheckpointComponent(
                    f"{name} {component.ref} is not stored", details={"ref": component.ref}
                )
            refs[name] = component.ref
    return refs


def _write_usage(
    connection: sqlite3.Connection, stored: StoredHead, commit: RuntimeCommit, revision: int, turn_id: str | None
) -> None:
    """Step 7."""
    for ordinal, entry in enumerate(commit.usage_deltas):
        counters = msgspec.structs.astuple(entry.usage)
        connection.execute(
            INSERT_USAGE,
            (stored.key, revision, ordinal, entry.source, entry.model, *counters, turn_id, commit.now_ms),
        )


def _write_frames(
    connection: sqlite3.Connection, stored: _Found, prepared: _Prepared
) -> tuple[dict[str, int], int | None]:
    """Store what changed of the frames; returns ordinals by id, as far as known, and the ordinal of the active one.

    Frames not named stay, except in a full replacement, which starts the session's history anew.
    """
    if prepared.frames is None:
        if stored.frame_id is None or stored.frame_ordinal is None:
            raise _frames_unsound("there is none yet, and the commit names none")
        return {stored.frame_id: stored.frame_ordinal}, stored.frame_ordinal
    is_replaced = isinstance(prepared.commit.graph, ReplaceFull)
    known = {frame_id: (ordinal, record) for ordinal, frame_id, _, record in graph.read_frames(connection, stored.key)}
    next_ordinal = max((ordinal for ordinal, _ in known.values()), default=0) + 1
    ordinals: dict[str, int] = {}
    active: int | None = None
    begins: dict[str, int] = {}
    behind = stored.next_seq
    if is_replaced:
        # Everything is written anew: a frame begins with the first node of its own, one that has none behind all.
        for prepared_node in prepared.nodes:
            begins.setdefault(prepared_node.node.agent_frame_id, behind)
            behind += 1
    for frame, record in prepared.frames:
        ordinal, stored_record = known.get(frame.frame_id, (next_ordinal, None))
        if stored_record is None:
            next_ordinal += 1
        if stored_record is None or is_replaced:
            connection.execute(
                WRITE_FRAME, (stored.key, ordinal, frame.frame_id, begins.get(frame.frame_id, behind), record)
            )
        elif stored_record != record:
            connection.execute(_CHANGE_FRAME, (record, stored.key, ordinal))
        ordinals[frame.frame_id] = ordinal
        if frame.status is FrameStatus.ACTIVE:
            active = ordinal
    if is_replaced:
        connection.executemany(
            _DROP_FRAME, [(stored.key, ordinal) for frame_id, (ordinal, _) in known.items() if frame_id not in ordinals]
        )
    if not is_replaced and stored.frame_id is not None and stored.frame_id not in ordinals:
        raise _frames_unsound(f"what becomes of the current one, {stored.frame_id!r}, is not said")
    return ordinals, active


def _require_one_active(frames: Sequence[AgentFrame]) -> None:
    """Refuse frames that would leave the session without a current one, or with two: nobody could open it again."""
    if len({frame.frame_id for frame in frames}) != len(frames):
        raise _frames_unsound("the commit names one twice")
    active = sum(frame.status is FrameStatus.ACTIVE for frame in frames)
    if active != 1:
        raise _frames_unsound(f"the commit names {active or 'none'}")


def _frames_unsound(problem: str) -> ConflictError:
    return ConflictError(f"a session has exactly one active frame: {problem}", code="agent_frame_missing")


def _write_graph(
    connection: sqlite3.Connection, stored: StoredHead, prepared: _Prepared, ordinals: dict[str, int]
) -> tuple[int, int | None, int | None]:
    """Step 8: append or replace, then move the leaf; returns the next free seq, and seq and key of the leaf."""
    delta = prepared.commit.graph
    known: dict[str | None, int | None] = {}
    if isinstance(delta, ReplaceFull):
        graph.hide_all_nodes(connection, stored.key)
    elif stored.leaf_node_id is not None:
        known[stored.leaf_node_id] = stored.leaf_seq
    next_seq = stored.next_seq
    if prepared.nodes:
        next_seq = graph.append_nodes(connection, stored, prepared.nodes, ordinals, known=known)
    return next_seq, *_leaf_place(connection, stored, delta.leaf_node_id, known)


def _leaf_place(
    connection: sqlite3.Connection, stored: StoredHead, leaf: str | None, known: dict[str | None, int | None]
) -> tuple[int | None, int | None]:
    """The seq of the new leaf, and whose row it is: None for the session's own."""
    if leaf is None:
        return None, None
    seq = known.get(leaf)
    if seq is not None and seq >= stored.next_seq:
        return seq, None
    if seq is not None and seq == stored.leaf_seq:
        return seq, stored.leaf_key
    place = graph.place_of(connection, stored, leaf)
    return place.seq, None if place.key == stored.key else place.key


class Commits:
    """Runtime commits; the async face of this module."""

    def __init__(self, db: Database, ids: Ids) -> None:
        self._db = db
        self._ids = ids

    async def commit_runtime_state(
        self, commit: RuntimeCommit, shown: Sequence[TurnActivity] = ()
    ) -> RuntimeCommitResult:
        """See `base.SessionStore.commit_runtime_state`. Also raises `ConflictError`: `commit_too_large`,
        `node_unknown`, `node_exists`, `agent_frame_unknown`, `agent_frame_missing`. Synced before it returns."""
        prepared = prepare(commit, shown)
        return await self._db.write(
            lambda connection: apply(connection, prepared, self._db.clock.now_ms(), self._ids), durable=True
        )
