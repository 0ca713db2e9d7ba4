"""The session graph in rows: loading, appending, hiding (contract 01 §8, §9.6, §10, design D6, D23).

Nodes are clustered by session and seq (`places`) and a parent always has a lower seq
than its child, so the active path is a few range reads, one for each run of
`lineage`, that end at the current frame's `first_seq`; superseded frames and
other branches are not touched. A row that does not decode, or a path that
breaks, raises `CorruptNode`: nothing is skipped silently. What is beside the
path and leads to no root is brought apart from the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from operator import attrgetter

import msgspec

from lash_cli.core.codec import UNDECODABLE, decode, decoder, encode
from lash_cli.core.content import Message
from lash_cli.core.frames import AgentFrame
from lash_cli.core.graph import CausalRef, ConversationPayload, NodePayload, SessionNode, messages_on
from lash_cli.core.head_state import TurnState
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
from lash_cli.errors import ConflictError, CorruptNode, MissingCheckpointComponent, SessionNotFound
from lash_cli.store.base import PersistedSessionRead, ReadScope
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.lineage import (
    Place,
    Run,
    Segment,
    disinherit,
    find_node,
    inherited_runs,
    key_at,
    leads_to_root,
    runs_to_root,
    segments_of,
)
from lash_cli.store.sqlite.places import place_at, places
from lash_cli.store.sqlite.sessions import StoredHead, find_session, read_session

# One run of a path, oldest first; bodies as the bytes that are stored, which may be no text any more. Rows that another
# session owns are read whether or not it hides them.
_RUN = """
SELECT seq, node_id, parent_seq, frame_ordinal, at_ms, caused_by, CAST(body AS BLOB), tombstoned FROM nodes
WHERE place BETWEEN ? AND ? ORDER BY place
"""
# The same for a session that goes on: only what has to be looked at, as the bytes that are stored.
_RUN_BODIES = """
SELECT CAST(body AS BLOB) FROM nodes
WHERE place BETWEEN ? AND ? AND frame_ordinal = ? AND tombstoned <= ? ORDER BY place
"""
# Every live node in insertion order.
_ALL_NODES = """
SELECT seq, node_id, parent_seq, frame_ordinal, at_ms, caused_by, CAST(body AS BLOB), tombstoned FROM nodes
WHERE place BETWEEN ? AND ? AND tombstoned = 0 ORDER BY place
"""
_ONE_NODE = """
SELECT seq, node_id, parent_seq, frame_ordinal, at_ms, caused_by, CAST(body AS BLOB), tombstoned FROM nodes
WHERE place = ?
"""
_NODE_ID = "SELECT node_id FROM nodes WHERE place = ?"
_LIVE_PARENTS = """
SELECT seq, node_id, parent_seq FROM nodes WHERE place BETWEEN ? AND ? AND tombstoned = 0 ORDER BY place
"""
_INSERT_NODE = """
INSERT INTO nodes (place, node_id, parent_seq, frame_ordinal, at_ms, caused_by, body) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_HIDE_NODE = "UPDATE nodes SET tombstoned = 1 WHERE place = ?"
# D6: a full replacement hides what it replaces and deletes nothing.
_HIDE_ALL = "UPDATE nodes SET tombstoned = 1 WHERE place BETWEEN ? AND ? AND tombstoned = 0"
_FRAMES = "SELECT ordinal, frame_id, first_seq, record FROM frames WHERE session_key = ? ORDER BY ordinal"
_FRAME_ORDINAL = "SELECT ordinal FROM frames WHERE session_key = ? AND frame_id = ?"
# Contract 01 §12: the ledger is the sum of its rows.
_LEDGER = """
SELECT source, model, sum(input_tokens), sum(output_tokens), sum(cache_read_input_tokens),
       sum(cache_write_input_tokens), sum(reasoning_output_tokens)
FROM usage_deltas WHERE session_key = ? GROUP BY source, model ORDER BY source, model
"""
_BLOB = "SELECT content FROM blobs WHERE hash = ?"
_HAS_BLOB = "SELECT 1 FROM blobs WHERE hash = ?"

# Few enough that their bytes are decoded while they are in the processor's cache, which halves the time; one array
# costs less to decode than its elements one by one.
_ROWS_AT_ONCE = 32

# A conversation of at most so many nodes and bytes is read where it is asked for: a worker thread costs more.
_BRIEF_NODES = 64
_BRIEF_BYTES = 128 * 1024

_ID_OF = attrgetter("id")
_ORIGIN_OF = attrgetter("origin")

NodeRow = tuple[int, str, int | None, int, int, str | None, bytes, int]


class _NotBrief(Exception):
    """A conversation is too long to be read on the thread of an event loop."""


class PreparedNode(msgspec.Struct, frozen=True, gc=False):
    """A node with its payload encoded before the transaction starts."""

    node: SessionNode
    caused_by: str | None
    body: str


def prepare_nodes(nodes: Sequence[SessionNode]) -> list[PreparedNode]:
    """The rows of `nodes`, encoded outside the writer thread."""
    return [
        PreparedNode(
            node,
            None if node.caused_by is None else encode(node.caused_by).decode(),
            encode(node.payload).decode(),
        )
        for node in nodes
    ]


def place_of(connection: sqlite3.Connection, stored: StoredHead, node_id: str) -> Place:
    """Where a live node is stored; raises `ConflictError` (`node_unknown`)."""
    segments = segments_of(connection, stored.key, stored.next_seq)
    place = find_node(connection, segments, node_id)
    if place is None:
        raise ConflictError(f"node {node_id!r} is not in the graph", code="node_unknown")
    return place


def append_nodes(
    connection: sqlite3.Connection,
    stored: StoredHead,
    nodes: Sequence[PreparedNode],
    ordinals: dict[str, int],
    *,
    known: dict[str | None, int | None],
) -> int:
    """Insert `nodes` from `stored.next_seq` on and return the next free seq.

    `known` maps node ids to seqs and is extended; `ordinals` maps frame ids.
    Raises `ConflictError`: `node_unknown` for a missing parent,
    `agent_frame_unknown`, `node_exists`.
    """
    first_place = place_at(stored.key, 0)
    rows = []
    for seq, prepared in enumerate(nodes, stored.next_seq):
        node = prepared.node
        parent, frame = node.parent_node_id, node.agent_frame_id
        if parent not in known:
            known[parent] = None if parent is None else place_of(connection, stored, parent).seq
        if frame not in ordinals:
            ordinals[frame] = _ordinal_of(connection, stored.key, frame)
        place = first_place + seq
        rows.append(
            (place, node.node_id, known[parent], ordinals[frame], node.at_ms, prepared.caused_by, prepared.body)
        )
        known[node.node_id] = seq
    try:
        connection.executemany(_INSERT_NODE, rows)
    except sqlite3.IntegrityError as error:
        raise ConflictError("a node of this commit is in the graph already", code="node_exists") from error
    return stored.next_seq + len(nodes)


def _ordinal_of(connection: sqlite3.Connection, session_key: int, frame_id: str) -> int:
    row = connection.execute(_FRAME_ORDINAL, (session_key, frame_id)).fetchone()
    if row is None:
        raise ConflictError(f"agent frame {frame_id!r} is not in the session", code="agent_frame_unknown")
    return int(row[0])


def hide_all_nodes(connection: sqlite3.Connection, session_key: int) -> None:
    """Hide every node, and let go of those of another session: the first half of a full replacement."""
    connection.execute(_HIDE_ALL, places(session_key))
    disinherit(connection, session_key)


def read_frames(connection: sqlite3.Connection, session_key: int) -> list[tuple[int, str, int, str]]:
    """Rows `(ordinal, frame_id, first_seq, record)` in order of opening."""
    return connection.execute(_FRAMES, (session_key,)).fetchall()


def has_blob(connection: sqlite3.Connection, blob_hash: str) -> bool:
    """Whether a blob of that hash is stored."""
    return connection.execute(_HAS_BLOB, (blob_hash,)).fetchone() is not None


def _conversation(
    connection: sqlite3.Connection, stored: StoredHead, runs: Sequence[Run], *, is_brief: bool
) -> tuple[Message, ...] | None:
    """The messages of the current frame's path, for `runs` leaf first; None for a path that is not an ordinary one.

    Raises `_NotBrief` for a longer one than `is_brief` allows.
    """
    if is_brief and sum(run.high - run.low + 1 for run in runs) > _BRIEF_NODES:
        raise _NotBrief
    size = 0
    messages: list[Message] = []
    decode_bodies = decoder(list[NodePayload]).decode
    for run in reversed(runs):
        hidden = 0 if run.key == stored.key else 1
        bodies = connection.execute(_RUN_BODIES, (*run.places, stored.frame_ordinal, hidden))
        found = 0
        while rows := bodies.fetchmany(_ROWS_AT_ONCE):
            together = b"[%b]" % b",".join([body for (body,) in rows])
            size += len(together)
            if is_brief and size > _BRIEF_BYTES:
                raise _NotBrief
            try:
                payloads = decode_bodies(together)
            except UNDECODABLE:
                return None
            if len(payloads) != len(rows):
                return None
            found += len(rows)
            messages.extend([payload.message for payload in payloads if type(payload) is ConversationPayload])
        # Each row of a run has a seq of its own, so as many rows as numbers are all of them.
        if found != run.high - run.low + 1:
            return None
    if any(map(_ORIGIN_OF, messages)) and any(message.is_transient for message in messages):
        return None
    if len(set(map(_ID_OF, messages))) != len(messages):
        return None
    return tuple(messages)


def _nodes_of(
    rows: Sequence[NodeRow], parent_ids: dict[int, str], frame_ids: dict[int, str]
) -> tuple[SessionNode, ...]:
    nodes = []
    decode_body = decoder(NodePayload).decode
    try:
        for _, node_id, parent_seq, ordinal, at_ms, caused_by, body, _ in rows:
            try:
                payload = decode_body(body)
            except UNDECODABLE as error:
                raise CorruptNode(f"node {node_id!r} does not decode: {error}", details={"node_id": node_id}) from error
            nodes.append(
                SessionNode(
                    node_id,
                    None if parent_seq is None else parent_ids[parent_seq],
                    frame_ids[ordinal],
                    at_ms,
                    payload,
                    None if caused_by is None else decode(caused_by, CausalRef),
                )
            )
    except (KeyError, msgspec.DecodeError) as error:
        raise CorruptNode(
            f"node {node_id!r} names an unknown parent, frame or cause", details={"node_id": node_id}
        ) from error
    return tuple(nodes)


def _rows_of(connection: sqlite3.Connection, session_key: int, runs: Sequence[Run]) -> list[NodeRow]:
    """The rows of a path, for `runs` leaf first, root first; raises `CorruptNode` for one that is missing."""
    rows: list[NodeRow] = []
    for run in reversed(runs):
        found = connection.execute(_RUN, run.places).fetchall()
        if len(found) != run.high - run.low + 1:
            present = {row[0] for row in found}
            missing = next(seq for seq in range(run.low, run.high + 1) if seq not in present)
            raise CorruptNode(f"node {missing} of the path is missing", details={"seq": missing})
        for row in found:
            if row[7] and run.key == session_key:
                raise CorruptNode(f"node {row[1]!r} is hidden but on the path", details={"node_id": row[1]})
        rows.extend(found)
    return rows


def _frame_path(
    connection: sqlite3.Connection,
    stored: StoredHead,
    segments: Sequence[Segment],
    runs: Sequence[Run],
    frame_ids: dict[int, str],
) -> tuple[SessionNode, ...]:
    """Root to leaf of the current frame."""
    path = _rows_of(connection, stored.key, runs)
    start = next((index for index in reversed(range(len(path))) if path[index][3] != stored.frame_ordinal), -1)
    path = path[start + 1 :]
    parent_ids = {row[0]: row[1] for row in path}
    if path and path[0][2] is not None:
        parent_ids.update(_ids_at(connection, segments, path[0][2]))
    return _nodes_of(path, parent_ids, frame_ids)


def _ids_at(connection: sqlite3.Connection, segments: Sequence[Segment], seq: int) -> dict[int, str]:
    """The id of the node at `seq`, by it; empty when there is none."""
    row = connection.execute(_NODE_ID, (place_at(key_at(segments, seq), seq),)).fetchone()
    return {} if row is None else {seq: row[0]}


def _whole_graph(
    connection: sqlite3.Connection, stored: StoredHead, segments: Sequence[Segment], frame_ids: dict[int, str]
) -> tuple[tuple[SessionNode, ...], tuple[SessionNode, ...]]:
    """Every node, the path that a fork shares and then those of the session itself, in the order they came: those that
    lead to a root, and those that do not. Raises `CorruptNode` when the head is one of the latter."""
    rows = _shared_rows(connection, stored, segments)
    rows.extend(connection.execute(_ALL_NODES, places(stored.key)))
    rooted: dict[int, str] = {}
    cut_off: dict[int, str] = {}
    kept, lost = [], []
    # A parent is older than its child, so it stands before it.
    for row in rows:
        if row[2] is None or row[2] in rooted:
            rooted[row[0]] = row[1]
            kept.append(row)
        else:
            lost.append((*row[:2], row[2] if row[2] in cut_off else None, *row[3:]))
            cut_off[row[0]] = row[1]
    if stored.leaf_node_id is not None and stored.leaf_seq not in rooted:
        raise CorruptNode(
            f"the path of node {stored.leaf_node_id!r} leads to no root",
            details={"node_id": stored.leaf_node_id},
        )
    return _nodes_of(kept, rooted, frame_ids), _nodes_of(lost, cut_off, frame_ids)


def _shared_rows(connection: sqlite3.Connection, stored: StoredHead, segments: Sequence[Segment]) -> list[NodeRow]:
    """The rows of the path a fork shares, root first; empty for any other session."""
    try:
        return _rows_of(connection, stored.key, inherited_runs(connection, segments))
    except CorruptNode:
        # Where a row is gone its parent is unknown and no run is sure: what is left is told apart by its parents.
        path = runs_to_root(connection, segments, stored.leaf_seq)
        rows = {row[0]: row for row in _rows_of(connection, stored.key, [run for run in path if run.key != stored.key])}
        rows.update((row[0], row) for row in _rows_left(connection, segments[1:]))
        return [rows[seq] for seq in sorted(rows)]


def _rows_left(connection: sqlite3.Connection, inherited: Sequence[Segment]) -> Iterator[NodeRow]:
    """What is there of the path to the last node of `inherited`, leaf first. What a missing row hung below is taken to
    be the row before it, as it nearly always is."""
    cursor: int | None = inherited[0].top
    for segment in inherited:
        first, last = segment.places_to(segment.top)
        rows = {row[0]: row for row in connection.execute(_RUN, (first + 1, last))}
        while cursor is not None and cursor > segment.floor:
            row = rows.get(cursor)
            if row is None:
                cursor -= 1
                continue
            yield row
            cursor = row[2] if row[2] is None or row[2] < cursor else cursor - 1


def load_in(
    connection: sqlite3.Connection, session_id: str, scope: ReadScope, *, is_brief: bool = False
) -> PersistedSessionRead | None:
    """`SessionStore.load_session` inside the caller's read transaction; see `_conversation` for `is_brief`."""
    stored = find_session(connection, session_id)
    if stored is None or stored.head_revision is None or stored.checkpoint_ref is None:
        return None
    frame_rows = read_frames(connection, stored.key)
    frame_ids = {ordinal: frame_id for ordinal, frame_id, _, _ in frame_rows}
    nodes: tuple[SessionNode, ...] = ()
    cut_off: tuple[SessionNode, ...] = ()
    messages: tuple[Message, ...] = ()
    first_seq = next((row[2] for row in frame_rows if row[0] == stored.frame_ordinal), 0)
    if scope is not ReadScope.HEAD:
        segments = segments_of(connection, stored.key, stored.next_seq)
        if scope is ReadScope.FULL_GRAPH:
            nodes, cut_off = _whole_graph(connection, stored, segments, frame_ids)
        else:
            runs = tuple(runs_to_root(connection, segments, stored.leaf_seq, first_seq))
            said = (
                _conversation(connection, stored, runs, is_brief=is_brief) if scope is ReadScope.CONVERSATION else None
            )
            if said is None:
                nodes = _frame_path(connection, stored, segments, runs, frame_ids)
            if scope is ReadScope.CONVERSATION:
                messages = tuple(messages_on(nodes)) if said is None else said
                nodes = ()
    components = stored.component_refs()
    for name, ref in components.items():
        if not has_blob(connection, ref):
            raise _missing_component(ref, name)
    return PersistedSessionRead(
        session_id,
        stored.head_revision,
        decode(stored.config, PersistedSessionConfig),
        tuple(decode(record, AgentFrame) for _, _, _, record in frame_rows),
        nodes,
        stored.leaf_node_id,
        decode(stored.turn_state, TurnState),
        stored.checkpoint_ref,
        components,
        tuple(
            TokenLedgerEntry(source, model, TokenUsage(*counters))
            for source, model, *counters in connection.execute(_LEDGER, (stored.key,))
        ),
        messages,
        cut_off,
    )


def _missing_component(ref: str, name: str = "checkpoint component") -> MissingCheckpointComponent:
    return MissingCheckpointComponent(f"{name} {ref} is not stored", details={"ref": ref})


def _load_node(connection: sqlite3.Connection, session_id: str, node_id: str) -> SessionNode | None:
    stored = read_session(connection, session_id)
    segments = segments_of(connection, stored.key, stored.next_seq)
    place = find_node(connection, segments, node_id)
    if place is None:
        return None
    row = connection.execute(_ONE_NODE, (place_at(place.key, place.seq),)).fetchone()
    parents = {} if row[2] is None else _ids_at(connection, segments, row[2])
    frame_ids = {ordinal: frame_id for ordinal, frame_id, _, _ in read_frames(connection, stored.key)}
    return _nodes_of([row], parents, frame_ids)[0]


def _is_cut_off(connection: sqlite3.Connection, session_id: str, node_id: str) -> bool:
    stored = find_session(connection, session_id)
    if stored is None:
        return False
    segments = segments_of(connection, stored.key, stored.next_seq)
    place = find_node(connection, segments, node_id)
    return place is not None and not leads_to_root(connection, segments, place.seq)


def load_component(connection: sqlite3.Connection, ref: str) -> bytes:
    """The bytes of a checkpoint component; raises `MissingCheckpointComponent`."""
    row = connection.execute(_BLOB, (ref,)).fetchone()
    if row is None:
        raise _missing_component(ref)
    return bytes(row[0])


def _tombstone(connection: sqlite3.Connection, session_id: str, node_ids: Sequence[str]) -> int:
    stored = read_session(connection, session_id)
    live = connection.execute(_LIVE_PARENTS, places(stored.key)).fetchall()
    parents = {seq: parent_seq for seq, _, parent_seq in live}
    on_path: set[int] = set()
    cursor = stored.leaf_seq
    while cursor is not None:
        on_path.add(cursor)
        cursor = parents.get(cursor)
    wanted = set(node_ids)
    segments = segments_of(connection, stored.key, stored.next_seq)
    for node_id in wanted if len(segments) > 1 else ():
        place = find_node(connection, segments, node_id)
        if place is not None and place.key != stored.key:
            raise ConflictError(
                f"node {node_id!r} belongs to the session this one was forked from",
                code="node_inherited",
                details={"node_id": node_id},
            )
    hidden: set[int] = set()
    for seq, node_id, parent_seq in live:
        # What hangs below a hidden node goes with it, so no live node ever names a parent that can be vacuumed.
        if node_id not in wanted and parent_seq not in hidden:
            continue
        if seq in on_path:
            raise ConflictError(
                f"node {node_id!r} is on the active path", code="node_on_active_path", details={"node_id": node_id}
            )
        hidden.add(seq)
    connection.executemany(_HIDE_NODE, [(place_at(stored.key, seq),) for seq in hidden])
    return len(hidden)


class GraphTable:
    """Graph reads and tombstones; the async face of this module. Appends happen inside commits only."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def load_session(self, session_id: str, scope: ReadScope) -> PersistedSessionRead | None:
        """See `base.SessionStore.load_session`. Raises `SessionDeleted` for a tombstoned id.

        The head alone is a handful of rows and is read inline, and so is a short conversation.
        """
        if scope in (ReadScope.HEAD, ReadScope.CONVERSATION):
            with suppress(_NotBrief):
                return self._db.read(lambda connection: load_in(connection, session_id, scope, is_brief=True))
        return await self._db.read_bulk(lambda connection: load_in(connection, session_id, scope))

    async def load_node(self, session_id: str, node_id: str) -> SessionNode | None:
        """See `base.SessionStore.load_node`; None for an absent session too."""
        try:
            return self._db.read(lambda connection: _load_node(connection, session_id, node_id))
        except SessionNotFound:
            return None

    async def is_cut_off(self, session_id: str, node_id: str) -> bool:
        """See `base.SessionStore.is_cut_off`. Every node above is counted, so it is read beside the event loop."""
        return await self._db.read_bulk(lambda connection: _is_cut_off(connection, session_id, node_id))

    async def load_component(self, ref: str) -> bytes:
        """See `base.SessionStore.load_component`."""
        return self._db.read(lambda connection: load_component(connection, ref))

    async def tombstone_nodes(self, session_id: str, node_ids: Sequence[str]) -> int:
        """See `base.SessionStore.tombstone_nodes`; all or nothing, unknown ids are ignored."""
        return await self._db.write(lambda connection: _tombstone(connection, session_id, node_ids), durable=True)
