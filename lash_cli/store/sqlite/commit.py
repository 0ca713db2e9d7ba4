"""One `RuntimeCommit` in one transaction, in the order of contract 01 §9.2.

Everything is validated before anything is written: binding, stamp replay,
fence, head, cancel gate, claims. A replayed stamp answers before the fence is
looked at, so a worker that lost its answer gets it even after its lease ended.
Encoding happens before the transaction, on the caller's thread; the work
inside is proportional to the delta, never to the transcript.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from lash_cli.core.codec import canonical_hash, decode, encode, sha256_hex, to_builtins
from lash_cli.core.commit import (
    MAX_COMMIT_BYTES,
    MAX_COMMIT_NODES,
    Append,
    ReplaceFull,
    RuntimeCommit,
    RuntimeCommitResult,
    TurnStamp,
    Unchanged,
)
from lash_cli.core.frames import AgentFrame, FrameStatus
from lash_cli.errors import (
    ConflictError,
    HeadRevisionConflict,
    MissingCheckpointComponent,
    RuntimeTurnCommitConflict,
    SessionBindingMismatch,
    TurnCancelWon,
)
from lash_cli.store.sqlite import attachments, graph, inputs, lanes, leases, live_commits
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.sessions import StoredSession, read_session

_STAMP = "SELECT state, content_hash, result FROM turns WHERE session_key = ? AND turn_id = ?"
_KEEP_BLOB = "INSERT OR IGNORE INTO blobs (hash, content) VALUES (?, ?)"
_INSERT_USAGE = """
INSERT INTO usage_deltas (session_key, revision, ordinal, source, model, input_tokens, output_tokens,
    cache_read_input_tokens, cache_write_input_tokens, reasoning_output_tokens, turn_id, at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_WRITE_FRAME = """
INSERT INTO frames (session_key, ordinal, frame_id, first_seq, record) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (session_key, ordinal) DO UPDATE SET first_seq = excluded.first_seq, record = excluded.record
"""
_CHANGE_FRAME = "UPDATE frames SET record = ? WHERE session_key = ? AND ordinal = ?"
_DROP_FRAME = "DELETE FROM frames WHERE session_key = ? AND ordinal = ?"
# Steps 9 and 15: a commit is activity and ends parking; the lease part is cleared by `leases.release`.
_WRITE_HEAD = """
UPDATE sessions SET head_revision = ?, leaf_seq = ?, next_seq = ?, config = ?, turn_state = ?, components = ?,
    checkpoint_ref = ?, frame_ordinal = ?, last_activity_at_ms = ?, last_commit_at_ms = ?, parked_at_ms = NULL
WHERE session_key = ?
"""
# Step 14: the running row becomes the stamp; a turn that never opened a lane gets its row here.
_WRITE_STAMP = """
INSERT INTO turns (session_key, turn_id, turn_index, state, origin, started_at_ms, generation, content_hash, summary,
    result, head_revision, first_seq, last_seq, committed_at_ms)
VALUES (?, ?, ?, 'committed', 'prompt', ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (session_key, turn_id) DO UPDATE SET turn_index = excluded.turn_index, state = 'committed',
    claim_id = NULL, plan = NULL, generation = excluded.generation, content_hash = excluded.content_hash,
    summary = excluded.summary, result = excluded.result, head_revision = excluded.head_revision,
    first_seq = excluded.first_seq, last_seq = excluded.last_seq, committed_at_ms = excluded.committed_at_ms
"""

_COMMIT_TOO_LARGE: Final = "commit_too_large"


class _Prepared(msgspec.Struct, frozen=True):
    """A commit with everything encoded that does not depend on the stored head."""

    commit: RuntimeCommit
    config: str
    turn_state: str
    nodes: tuple[graph.PreparedNode, ...]
    frames: tuple[tuple[AgentFrame, str], ...] | None
    bodies: dict[str, tuple[str, bytes]]
    summary: str | None
    live: live_commits.PreparedCommit


class _Graph(msgspec.Struct, frozen=True):
    """What the graph delta did: the new leaf, the next free seq and the range appended."""

    leaf_seq: int | None
    leaf_node_id: str | None
    next_seq: int
    first_seq: int | None = None
    last_seq: int | None = None


def prepare(commit: RuntimeCommit) -> _Prepared:
    """Encode a commit and check its size and binding before any transaction.

    Raises `ConflictError` (`commit_too_large`) and `SessionBindingMismatch`.
    """
    if commit.fence.session_id != commit.session_id or any(
        frame.session_id != commit.session_id for frame in commit.frames or ()
    ):
        raise SessionBindingMismatch(f"the commit of session {commit.session_id!r} carries parts of another session")
    nodes = () if isinstance(commit.graph, Unchanged) else commit.graph.nodes
    if len(nodes) > MAX_COMMIT_NODES:
        raise ConflictError(
            f"a commit holds at most {MAX_COMMIT_NODES} nodes, not {len(nodes)}", code=_COMMIT_TOO_LARGE
        )
    prepared_nodes = graph.prepare_nodes(nodes)
    bodies = {
        name: (sha256_hex(component.body), component.body)
        for name, component in commit.checkpoint.components.items()
        if component.body is not None
    }
    size = sum(len(node.body) for node in prepared_nodes) + sum(len(body) for _, body in bodies.values())
    if size > MAX_COMMIT_BYTES:
        raise ConflictError(f"a commit holds at most {MAX_COMMIT_BYTES} bytes, not {size}", code=_COMMIT_TOO_LARGE)
    return _Prepared(
        commit,
        encode(commit.config).decode(),
        encode(commit.checkpoint.turn_state).decode(),
        prepared_nodes,
        None if commit.frames is None else tuple((frame, encode(frame).decode()) for frame in commit.frames),
        bodies,
        None if commit.turn is None else encode(commit.turn.summary).decode(),
        live_commits.prepare_commit(commit),
    )


def apply(connection: sqlite3.Connection, prepared: _Prepared, now_ms: int) -> RuntimeCommitResult:
    """Run the fifteen steps inside the caller's transaction; any error means the caller rolls back.

    `now_ms` is the store's time and judges liveness only; stamps carry the commit's own.
    """
    commit = prepared.commit
    stored = read_session(connection, commit.session_id)
    replayed = _replay(connection, stored, commit)
    if replayed is not None:
        return replayed
    leases.require_live(stored, commit.fence, now_ms)
    _require_head(stored, commit)
    _pass_gate(connection, stored, commit)
    for completion in commit.completed_inputs:
        inputs.require_owned(connection, stored.key, completion)

    components = _write_components(connection, stored, prepared)
    checkpoint_ref = canonical_hash((commit.checkpoint.turn_state, components))
    revision = (stored.head_revision or 0) + 1
    _write_usage(connection, stored, commit, revision)
    ordinals, frame_ordinal = _write_frames(connection, stored, prepared)
    written = _write_graph(connection, stored, prepared, ordinals)
    connection.execute(
        _WRITE_HEAD,
        (
            revision,
            written.leaf_seq,
            written.next_seq,
            prepared.config,
            prepared.turn_state,
            encode(components).decode(),
            checkpoint_ref,
            frame_ordinal,
            commit.now_ms,
            commit.now_ms,
            stored.key,
        ),
    )
    for completion in commit.completed_inputs:
        inputs.complete(connection, stored.key, completion)
    if commit.defer_inputs_of_turn is not None:
        inputs.defer_inputs_of_turn(connection, stored.key, commit.defer_inputs_of_turn)
    turn_id = None if commit.turn is None else commit.turn.turn_id
    attachments.commit_refs(connection, stored.key, commit.committed_attachment_ids, turn_id, commit.now_ms)
    result = RuntimeCommitResult(revision, written.leaf_node_id, checkpoint_ref, components)
    if commit.turn is not None:
        _write_stamp(connection, stored, prepared, commit.turn, result, written)
    live_commits.append_commit(
        connection, stored, prepared.live, revision=revision, frame_ordinal=frame_ordinal, now_ms=now_ms
    )
    if commit.release_lease:
        leases.release(connection, stored, commit.fence)
    return result


def _replay(connection: sqlite3.Connection, stored: StoredSession, commit: RuntimeCommit) -> RuntimeCommitResult | None:
    """Step 2: the stored result of a turn committed before, and the release that was asked for."""
    if commit.turn is None:
        return None
    row = connection.execute(_STAMP, (stored.key, commit.turn.turn_id)).fetchone()
    if row is None or row[0] != "committed":
        return None
    _, content_hash, result = row
    if content_hash != commit.turn.content_hash:
        raise RuntimeTurnCommitConflict(
            f"turn {commit.turn.turn_id!r} was committed with another content",
            details={"turn_id": commit.turn.turn_id, "stored_hash": content_hash, "hash": commit.turn.content_hash},
        )
    if commit.release_lease:
        leases.release(connection, stored, commit.fence)
    return msgspec.structs.replace(decode(result, RuntimeCommitResult), replayed=True)


def _require_head(stored: StoredSession, commit: RuntimeCommit) -> None:
    """Step 4: compare and set; no expectation is legal only for an absent head or a full replacement."""
    expected, actual = commit.expected_head_revision, stored.head_revision
    is_unconditional = expected is None and (actual is None or isinstance(commit.graph, ReplaceFull))
    if not is_unconditional and expected != actual:
        raise HeadRevisionConflict(expected, actual)


def _pass_gate(connection: sqlite3.Connection, stored: StoredSession, commit: RuntimeCommit) -> None:
    """Contract 01 §6.6: cancel or completion, whichever reached the gate first; evidence and outcome must agree."""
    if commit.turn is None:
        return
    presented = commit.turn.summary.cancellation
    standing = lanes.read_gate(connection, stored.key, commit.turn.turn_id)
    if standing is None:
        if presented is not None:
            lanes.write_gate(connection, stored.key, commit.turn.turn_id, presented, commit.now_ms)
    elif presented != standing:
        raise TurnCancelWon(
            f"turn {commit.turn.turn_id!r} was cancelled by request {standing.request_id!r}",
            details={"evidence": to_builtins(standing)},
        )


def _write_components(connection: sqlite3.Connection, stored: StoredSession, prepared: _Prepared) -> dict[str, str]:
    """Step 6: new bytes are stored by hash, a reference is kept, an empty component is cleared."""
    refs = stored.component_refs()
    for name, component in prepared.commit.checkpoint.components.items():
        if name in prepared.bodies:
            refs[name], body = prepared.bodies[name]
            connection.execute(_KEEP_BLOB, (refs[name], body))
        elif component.ref is None:
            refs.pop(name, None)
        elif component.ref != refs.get(name):
            if not graph.has_blob(connection, component.ref):
                raise MissingCheckpointComponent(
                    f"{name} {component.ref} is not stored", details={"ref": component.ref}
                )
            refs[name] = component.ref
    return refs


def _write_usage(connection: sqlite3.Connection, stored: StoredSession, commit: RuntimeCommit, revision: int) -> None:
    """Step 7."""
    turn_id = None if commit.turn is None else commit.turn.turn_id
    connection.executemany(
        _INSERT_USAGE,
        [
            (
                stored.key,
                revision,
                ordinal,
                entry.source,
                entry.model,
                entry.usage.input_tokens,
                entry.usage.output_tokens,
                entry.usage.cache_read_input_tokens,
                entry.usage.cache_write_input_tokens,
                entry.usage.reasoning_output_tokens,
                turn_id,
                commit.now_ms,
            )
            for ordinal, entry in enumerate(commit.usage_deltas)
        ],
    )


def _write_frames(
    connection: sqlite3.Connection, stored: StoredSession, prepared: _Prepared
) -> tuple[dict[str, int], int | None]:
    """Store what changed of the frames; returns ordinals by id and the ordinal of the active one.

    Frames not named stay, except in a full replacement, which starts the session's history anew.
    """
    if prepared.frames is None:
        return {}, stored.frame_ordinal
    is_replaced = isinstance(prepared.commit.graph, ReplaceFull)
    known = {frame_id: (ordinal, record) for ordinal, frame_id, _, record in graph.read_frames(connection, stored.key)}
    next_ordinal = max((ordinal for ordinal, _ in known.values()), default=0) + 1
    ordinals: dict[str, int] = {}
    active: int | None = None
    for frame, record in prepared.frames:
        ordinal, stored_record = known.get(frame.frame_id, (next_ordinal, None))
        if stored_record is None:
            next_ordinal += 1
        if stored_record is None or is_replaced:
            connection.execute(_WRITE_FRAME, (stored.key, ordinal, frame.frame_id, stored.next_seq, record))
        elif stored_record != record:
            connection.execute(_CHANGE_FRAME, (record, stored.key, ordinal))
        ordinals[frame.frame_id] = ordinal
        if frame.status is FrameStatus.ACTIVE:
            active = ordinal
    if is_replaced:
        connection.executemany(
            _DROP_FRAME, [(stored.key, ordinal) for frame_id, (ordinal, _) in known.items() if frame_id not in ordinals]
        )
    if active is None:
        raise ConflictError("a session has exactly one active frame, the commit names none", code="agent_frame_missing")
    return ordinals, active


def _write_graph(
    connection: sqlite3.Connection, stored: StoredSession, prepared: _Prepared, ordinals: dict[str, int]
) -> _Graph:
    """Step 8: append or replace, then move the leaf."""
    delta = prepared.commit.graph
    known: dict[str, int] = {}
    if isinstance(delta, ReplaceFull):
        graph.hide_all_nodes(connection, stored.key)
    elif stored.leaf_node_id is not None and stored.leaf_seq is not None:
        known[stored.leaf_node_id] = stored.leaf_seq
    next_seq = stored.next_seq
    if isinstance(delta, Append | ReplaceFull):
        next_seq = graph.append_nodes(connection, stored, prepared.nodes, ordinals, known=known)
    leaf = delta.leaf_node_id
    leaf_seq = None if leaf is None else known.get(leaf)
    if leaf is not None and leaf_seq is None:
        leaf_seq = graph.seq_of(connection, stored.key, leaf)
    if next_seq == stored.next_seq:
        return _Graph(leaf_seq, leaf, next_seq)
    return _Graph(leaf_seq, leaf, next_seq, stored.next_seq, next_seq - 1)


def _write_stamp(
    connection: sqlite3.Connection,
    stored: StoredSession,
    prepared: _Prepared,
    turn: TurnStamp,
    result: RuntimeCommitResult,
    written: _Graph,
) -> None:
    """Step 14: with this row the completion has won the gate."""
    connection.execute(
        _WRITE_STAMP,
        (
            stored.key,
            turn.turn_id,
            prepared.commit.checkpoint.turn_state.turn_index,
            turn.summary.started_at_ms,
            prepared.commit.fence.fencing_token,
            turn.content_hash,
            prepared.summary,
            encode(result).decode(),
            result.head_revision,
            written.first_seq,
            written.last_seq,
            prepared.commit.now_ms,
        ),
    )


class Commits:
    """Runtime commits; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def commit_runtime_state(self, commit: RuntimeCommit) -> RuntimeCommitResult:
        """See `base.SessionStore.commit_runtime_state`. Also raises `ConflictError`: `commit_too_large`,
        `node_unknown`, `node_exists`, `agent_frame_unknown`, `agent_frame_missing`. Synced before it returns."""
        prepared = prepare(commit)
        return await self._db.write(
            lambda connection: apply(connection, prepared, self._db.clock.now_ms()), durable=True
        )
