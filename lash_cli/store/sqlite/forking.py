"""Forking a session: a new head over the nodes of another (contract 08 §5.1 `fork`, 01 §8.2, design D6).

One transaction that writes a row for the session, one for each frame on the
path and one for each session whose nodes it reads. No node is read or copied.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

import msgspec

from lash_cli.core.codec import decode, encode
from lash_cli.core.frames import AgentFrame, FrameStatus, frame_of_session
from lash_cli.core.head_state import TurnState
from lash_cli.core.protocols import Ids
from lash_cli.errors import ConflictError, CorruptNode
from lash_cli.store.base import SessionFork, SessionMeta
from lash_cli.store.sqlite import graph
from lash_cli.store.sqlite.commit import WRITE_FRAME, checkpoint_ref_of
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.lineage import Place, inherit, segments_of
from lash_cli.store.sqlite.places import place_at
from lash_cli.store.sqlite.sessions import StoredSession, find_session, read_session, usable_name

_INSERT: Final = """
INSERT INTO sessions (session_id, name, created_at_ms, cwd, parent_session_id, labels, last_activity_at_ms, config,
    last_commit_at_ms, head_revision, leaf_seq, leaf_key, next_seq, turn_state, components, checkpoint_ref,
    frame_ordinal)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_FRAME_OF_NODE: Final = "SELECT frame_ordinal FROM nodes WHERE place = ?"
_FIRST_REVISION: Final = 1


class _Start(NamedTuple):
    """Where a fork begins: the node it goes on from, if any, and the frame that is current there."""

    place: Place | None
    frame_ordinal: int | None


def _start(connection: sqlite3.Connection, source: StoredSession, node_id: str | None) -> _Start:
    if node_id is not None:
        place = graph.place_of(connection, source, node_id)
        return _Start(place, connection.execute(_FRAME_OF_NODE, (place_at(place.key, place.seq),)).fetchone()[0])
    if source.leaf_seq is None:
        return _Start(None, source.frame_ordinal)
    return _Start(Place(source.leaf_key or source.key, source.leaf_seq), source.frame_ordinal)


def _frames_of_path(
    connection: sqlite3.Connection, source: StoredSession, ordinal: int | None, session_id: str, next_seq: int
) -> list[tuple[int, str, int, str]]:
    """The rows of the frames that lead to the one at `ordinal`, as frames of the new session, that one active. None
    begins later than the first node of the session itself, at `next_seq`, which may be the first of its frame."""
    rows = graph.read_frames(connection, source.key)
    by_id = {frame_id: (row_ordinal, first_seq, record) for row_ordinal, frame_id, first_seq, record in rows}
    wanted = next((frame_id for row_ordinal, frame_id, _, _ in rows if row_ordinal == ordinal), None)
    status = FrameStatus.ACTIVE
    path = []
    while wanted is not None:
        found = by_id.pop(wanted, None)
        if found is None:
            raise CorruptNode(f"frame {wanted!r} of session {source.session_id!r} is missing or follows itself")
        row_ordinal, first_seq, record = found
        frame = msgspec.structs.replace(frame_of_session(decode(record, AgentFrame), session_id), status=status)
        path.append((row_ordinal, wanted, min(first_seq, next_seq), encode(frame).decode()))
        wanted, status = frame.previous_frame_id, FrameStatus.SUPERSEDED
    return path


def _turn_state(source: StoredSession, *, is_at_head: bool) -> TurnState:
    """No turns yet. How full the context is was measured at the head, and is unknown anywhere else."""
    state = decode(source.turn_state, TurnState)
    return msgspec.structs.replace(state if is_at_head else state.elsewhere(), turn_index=0)


def _fork(connection: sqlite3.Connection, request: SessionFork, ids: Ids) -> SessionMeta:
    source = read_session(connection, request.source_session_id)
    if find_session(connection, request.session_id) is not None:
        raise ConflictError(f"session {request.session_id!r} exists", code="session_exists")
    name = usable_name(connection, ids, request.name)
    start = _start(connection, source, request.at_node_id)
    is_at_head = start.place is None or start.place.seq == source.leaf_seq
    turn_state = encode(_turn_state(source, is_at_head=is_at_head)).decode()
    has_head = source.head_revision is not None
    cwd = request.cwd if request.cwd is not None else source.cwd
    seq = None if start.place is None else start.place.seq
    next_seq = 1 if seq is None else seq + 1
    inserted = connection.execute(
        _INSERT,
        (
            request.session_id,
            name,
            request.now_ms,
            cwd,
            source.session_id,
            encode(request.labels).decode(),
            request.now_ms,
            source.config,
            request.now_ms if has_head else None,
            _FIRST_REVISION if has_head else None,
            seq,
            None if start.place is None else start.place.key,
            next_seq,
            turn_state,
            source.components,
            checkpoint_ref_of(turn_state, source.components) if has_head else None,
            start.frame_ordinal,
        ),
    )
    key = inserted.lastrowid
    assert key is not None, "an insert into a table with an integer key"
    if has_head:
        inherit(connection, key, segments_of(connection, source.key, source.next_seq), seq)
        frames = _frames_of_path(connection, source, start.frame_ordinal, request.session_id, next_seq)
        connection.executemany(WRITE_FRAME, [(key, *frame) for frame in frames])
    return SessionMeta(request.session_id, name, request.now_ms, cwd, source.session_id, request.labels)


class Forks:
    """Forks; the async face of this module."""

    def __init__(self, db: Database, ids: Ids) -> None:
        self._db = db
        self._ids = ids

    async def fork_session(self, request: SessionFork) -> SessionMeta:
        """See `base.SessionStore.fork_session`. Synced before it returns."""
        return await self._db.write(lambda connection: _fork(connection, request, self._ids), durable=True)
