"""Sessions as archives: read as of one moment, made again in one transaction (contract 08 §5.1 `export`, `import`).

Seqs are given anew in the order the nodes came, so a parent keeps a lower seq
than its child; ids of nodes, frames and turns stay, which is what requests,
branches and replays go by. Only the id of the session may be another: the
frames are told so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from lash_cli.core.archive import (
    ArchivedAttachment,
    ArchivedHead,
    ArchivedInput,
    ArchivedTurn,
    ArchivedUsage,
    SessionArchive,
    blob_refs,
    check_archive,
    input_refs,
    invalid_archive,
)
from lash_cli.core.codec import decode, encode
from lash_cli.core.frames import FrameStatus, frame_of_session
from lash_cli.core.graph import refs_of
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.core.protocols import Ids
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
from lash_cli.errors import ConflictError
from lash_cli.store.base import ReadScope, SessionMeta
from lash_cli.store.sqlite import graph
from lash_cli.store.sqlite.archived_queue import read_queue, write_queue
from lash_cli.store.sqlite.attachments import REF_PREFIX
from lash_cli.store.sqlite.commit import INSERT_USAGE, KEEP_BLOB, WRITE_FRAME, checkpoint_ref_of
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.lineage import segments_of
from lash_cli.store.sqlite.places import sql_place
from lash_cli.store.sqlite.sessions import StoredSession, find_session, name_is_taken, read_session, usable_name
from lash_cli.store.sqlite.stamps import decode_result, decode_summary, encode_result, encode_summary

_TURNS: Final = f"""
SELECT turn_id, turn_index, started_at_ms, committed_at_ms, content_hash, summary, result, head_revision, origin,
    generation,
    (SELECT n.node_id FROM nodes n WHERE n.place = {sql_place("t.session_key", "t.first_seq")}),
    (SELECT n.node_id FROM nodes n WHERE n.place = {sql_place("t.session_key", "t.last_seq")})
FROM turns t WHERE session_key = ? AND state = 'committed' ORDER BY turn_index, started_at_ms, turn_id
"""
_USAGE: Final = """
SELECT revision, at_ms, source, model, input_tokens, output_tokens, cache_read_input_tokens, cache_write_input_tokens,
    reasoning_output_tokens, turn_id
FROM usage_deltas WHERE session_key = ? ORDER BY revision, ordinal
"""
_ATTACHMENTS: Final = """
SELECT a.attachment_ref, a.media_type, a.committed_at_ms, a.label, b.content
FROM attachments a JOIN blobs b ON b.hash = substr(a.attachment_ref, 8)
WHERE a.session_key = ? AND a.committed_at_ms IS NOT NULL ORDER BY a.intent_at_ms, a.attachment_ref
"""
# One that a message names and another session owns, or that was never committed by itself.
_ATTACHMENT: Final = """
SELECT a.attachment_ref, a.media_type, a.intent_at_ms, a.label, b.content
FROM attachments a JOIN blobs b ON b.hash = substr(a.attachment_ref, 8)
WHERE a.session_key = ? AND a.attachment_ref = ?
"""
_INSERT_SESSION: Final = """
INSERT INTO sessions (session_id, name, created_at_ms, cwd, parent_session_id, labels, closed_at_ms, parked_at_ms,
    last_activity_at_ms, last_commit_at_ms, config, head_revision, leaf_seq, next_seq, turn_state, components,
    checkpoint_ref, frame_ordinal, imported_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_TURN: Final = """
INSERT INTO turns (session_key, turn_id, turn_index, state, origin, started_at_ms, generation, content_hash, summary,
    result, head_revision, first_seq, last_seq, committed_at_ms)
VALUES (?, ?, ?, 'committed', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_ATTACHMENT: Final = """
INSERT INTO attachments (session_key, attachment_ref, media_type, byte_len, label, intent_at_ms, committed_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""


def _export(connection: sqlite3.Connection, session_id: str) -> SessionArchive:
    stored = read_session(connection, session_id)
    meta = stored.meta()
    head = _head(connection, stored)
    inputs = read_queue(connection, stored.key)
    return SessionArchive(
        session_id=meta.session_id,
        name=meta.name,
        created_at_ms=meta.created_at_ms,
        config=decode(stored.config, PersistedSessionConfig),
        head=head,
        cwd=meta.cwd,
        parent_session_id=meta.parent_session_id,
        labels=meta.labels,
        closed_at_ms=meta.closed_at_ms,
        parked_at_ms=meta.parked_at_ms,
        last_commit_at_ms=stored.last_commit_at_ms,
        turns=() if head is None else _turns(connection, stored.key, head),
        usage=_usage(connection, stored.key),
        attachments=_attachments(connection, stored, head, inputs),
        inputs=inputs,
    )


def _head(connection: sqlite3.Connection, stored: StoredSession) -> ArchivedHead | None:
    read = graph.load_in(connection, stored.session_id, ReadScope.FULL_GRAPH)
    if read is None:
        return None
    refs = blob_refs(read.component_refs, read.frames)
    return ArchivedHead(
        read.head_revision,
        read.leaf_node_id,
        read.turn_state,
        read.frames,
        read.nodes,
        read.component_refs,
        {ref: graph.load_component(connection, ref) for ref in refs},
        read.cut_off,
    )


def _turns(connection: sqlite3.Connection, session_key: int, head: ArchivedHead) -> tuple[ArchivedTurn, ...]:
    """Committed turns; one whose nodes were hidden or removed keeps its stamp and names none."""
    known = {node.node_id for node in head.nodes}
    turns = []
    for row in connection.execute(_TURNS, (session_key,)):
        turn_id, index, started, committed, content_hash, summary, result, revision, origin, generation, *ends = row
        first, last = ends if set(ends) <= known else (None, None)
        ended = decode_summary(summary, started)
        turns.append(
            ArchivedTurn(
                turn_id,
                index,
                started,
                committed,
                content_hash,
                ended,
                decode_result(result, revision, ended.answer_node_id),
                revision,
                origin,
                generation,
                first,
                last,
            )
        )
    return tuple(turns)


def _usage(connection: sqlite3.Connection, session_key: int) -> tuple[ArchivedUsage, ...]:
    return tuple(
        ArchivedUsage(revision, at_ms, TokenLedgerEntry(source, model, TokenUsage(*counters)), turn_id)
        for revision, at_ms, source, model, *counters, turn_id in connection.execute(_USAGE, (session_key,))
    )


def _attachments(
    connection: sqlite3.Connection, stored: StoredSession, head: ArchivedHead | None, inputs: tuple[ArchivedInput, ...]
) -> tuple[ArchivedAttachment, ...]:
    """What the session has committed, and whatever its messages and its queue name that can be found."""
    rows = {row[0]: row for row in connection.execute(_ATTACHMENTS, (stored.key,))}
    keys = [segment.key for segment in segments_of(connection, stored.key, stored.next_seq)]
    named = refs_of(() if head is None else head.nodes) | input_refs(inputs)
    for ref in sorted(named - rows.keys()):
        for key in keys:
            row = connection.execute(_ATTACHMENT, (key, ref)).fetchone()
            if row is not None:
                rows[ref] = row
                break
    return tuple(
        ArchivedAttachment(ref, media_type, at_ms, label, bytes(data))
        for ref, media_type, at_ms, label, data in rows.values()
    )


def _import(
    connection: sqlite3.Connection, archive: SessionArchive, session_id: str, ids: Ids, now_ms: int
) -> SessionMeta:
    if find_session(connection, session_id) is not None:
        raise ConflictError(
            f"session {session_id!r} exists",
            code="session_exists",
            hint="give it another id: lash import FILE --id NEW",
            details={"session": session_id},
        )
    name = usable_name(connection, ids, None if name_is_taken(connection, archive.name) else archive.name)
    head = archive.head
    seqs = {} if head is None else {node.node_id: seq for seq, node in enumerate(head.nodes, start=1)}
    turn_state = "{}" if head is None else encode(head.turn_state).decode()
    components = "{}" if head is None else encode(head.components).decode()
    inserted = connection.execute(
        _INSERT_SESSION,
        (
            session_id,
            name,
            archive.created_at_ms,
            archive.cwd,
            archive.parent_session_id,
            encode(archive.labels).decode(),
            archive.closed_at_ms,
            archive.parked_at_ms,
            archive.last_commit_at_ms or archive.created_at_ms,
            archive.last_commit_at_ms,
            encode(archive.config).decode(),
            None if head is None else head.head_revision,
            None if head is None or head.leaf_node_id is None else seqs[head.leaf_node_id],
            len(seqs) + 1,
            turn_state,
            components,
            None if head is None else checkpoint_ref_of(turn_state, components),
            None if head is None else _active_ordinal(head),
            now_ms,
        ),
    )
    key = inserted.lastrowid
    assert key is not None, "an insert into a table with an integer key"
    if head is not None:
        _write_head(connection, key, session_id, head, seqs)
    _write_turns(connection, key, archive, seqs)
    _write_usage(connection, key, archive)
    for attachment in archive.attachments:
        assert attachment.data is not None, "check_archive refuses one without its bytes"
        _write_attachment(connection, key, attachment, attachment.data)
    write_queue(connection, key, archive.inputs, ids, now_ms)
    return read_session(connection, session_id).meta()


def _active_ordinal(head: ArchivedHead) -> int:
    return next(ordinal for ordinal, frame in enumerate(head.frames, start=1) if frame.status is FrameStatus.ACTIVE)


def _write_head(
    connection: sqlite3.Connection, key: int, session_id: str, head: ArchivedHead, seqs: dict[str, int]
) -> None:
    connection.executemany(KEEP_BLOB, list(head.blobs.items()))
    ordinals = {frame.frame_id: ordinal for ordinal, frame in enumerate(head.frames, start=1)}
    # A frame begins at its first node; one that has none yet, behind all of them.
    first_seqs: dict[str, int] = {}
    for node in head.nodes:
        first_seqs.setdefault(node.agent_frame_id, seqs[node.node_id])
    for frame in head.frames:
        record = frame_of_session(frame, session_id)
        first = first_seqs.get(frame.frame_id, len(seqs) + 1)
        connection.execute(WRITE_FRAME, (key, ordinals[frame.frame_id], frame.frame_id, first, encode(record).decode()))
    stored = read_session(connection, session_id)
    graph.append_nodes(
        connection, msgspec.structs.replace(stored, next_seq=1), graph.prepare_nodes(head.nodes), ordinals, known={}
    )


def _write_turns(connection: sqlite3.Connection, key: int, archive: SessionArchive, seqs: dict[str, int]) -> None:
    connection.executemany(
        _INSERT_TURN,
        [
            (
                key,
                turn.turn_id,
                turn.turn_index,
                turn.origin,
                turn.started_at_ms,
                turn.generation,
                turn.content_hash,
                encode_summary(turn.summary, turn.started_at_ms),
                encode_result(turn.result, turn.head_revision, turn.summary.answer_node_id),
                turn.head_revision,
                None if turn.first_node_id is None else seqs[turn.first_node_id],
                None if turn.last_node_id is None else seqs[turn.last_node_id],
                turn.committed_at_ms,
            )
            for turn in archive.turns
        ],
    )


def _write_usage(connection: sqlite3.Connection, key: int, archive: SessionArchive) -> None:
    connection.executemany(
        INSERT_USAGE,
        [
            (
                *(key, row.revision, ordinal, row.entry.source, row.entry.model),
                *msgspec.structs.astuple(row.entry.usage),
                *(row.turn_id, row.at_ms),
            )
            for ordinal, row in enumerate(archive.usage)
        ],
    )


def _write_attachment(connection: sqlite3.Connection, key: int, attachment: ArchivedAttachment, data: bytes) -> None:
    ref, at_ms = attachment.attachment_ref, attachment.at_ms
    connection.execute(KEEP_BLOB, (ref.removeprefix(REF_PREFIX), data))
    connection.execute(_INSERT_ATTACHMENT, (key, ref, attachment.media_type, len(data), attachment.label, at_ms, at_ms))


class Archives:
    """Exports and imports; the async face of this module."""

    def __init__(self, db: Database, ids: Ids) -> None:
        self._db = db
        self._ids = ids

    async def export_session(self, session_id: str) -> SessionArchive:
        """See `shelf.ShelfStore.export_session`."""
        return await self._db.read_bulk(lambda connection: _export(connection, session_id))

    async def import_sessions(self, archives: Sequence[tuple[SessionArchive, str]]) -> tuple[SessionMeta, ...]:
        """See `shelf.ShelfStore.import_sessions`. Synced before it returns."""
        for archive, _ in archives:
            check_archive(archive)
        now_ms = self._db.clock.now_ms()

        def job(connection: sqlite3.Connection) -> tuple[SessionMeta, ...]:
            try:
                return tuple(
                    _import(connection, archive, session_id, self._ids, now_ms) for archive, session_id in archives
                )
            except OverflowError as error:
                raise invalid_archive("a number in it is greater than any of ours") from error

        return await self._db.write(job, durable=True)
