"""Whose rows the nodes of a session are: its own, and below them those of the session it was forked from.

A fork copies no node. It remembers, in `node_origins`, up to which seq it
reads in the cluster of which session, and goes on counting from there; so a
fork costs the same whatever the length of what it shares. A seq therefore
names one node of a session: the rows of `segments` are disjoint.

A *run* is a stretch of rows each of which hangs below the row before it. Rows
that do not are in a partial index of their own, so a path is found by one
probe for each place where history branched, never by walking its nodes.

What a fork reads is kept as it is: hiding, replacing and deleting in the
session that owns the rows changes what that session sees, and `vacuum` and
`delete` leave the paths of all forks (contract 01 §0.5, §8.2, design D6).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from lash_cli.errors import CorruptNode
from lash_cli.store.sqlite.places import place_at, sql_places

# Newest first: up to `upto_seq` the nodes are those of `origin_key`.
_ORIGINS: Final = "SELECT upto_seq, origin_key FROM node_origins WHERE session_key = ? ORDER BY upto_seq DESC"
_INSERT_ORIGIN: Final = "INSERT INTO node_origins (session_key, upto_seq, origin_key) VALUES (?, ?, ?)"
_DROP_ORIGINS: Final = "DELETE FROM node_origins WHERE session_key = ?"
# The start of the run that holds a row: the nearest row at or before it that does not hang below the one before.
_RUN_START: Final = """
SELECT seq, parent_seq FROM nodes INDEXED BY nodes_branching
WHERE place > ? AND place <= ? AND parent_seq IS NOT seq - 1 ORDER BY place DESC LIMIT 1
"""
_ROWS_OF_RUN: Final = "SELECT count(*) FROM nodes WHERE place BETWEEN ? AND ?"
HIDDEN_OF_RUN: Final = """
SELECT seq FROM nodes INDEXED BY nodes_tombstoned WHERE tombstoned = 1 AND place BETWEEN ? AND ? ORDER BY place
"""
_OWN_NODE: Final = "SELECT seq FROM nodes WHERE session_key = ? AND node_id = ? AND tombstoned = 0"
# A session may have hidden what a fork of it still reads; hidden rows are not in the index by id.
_HIDDEN_NODES: Final = f"""
SELECT seq FROM nodes INDEXED BY nodes_tombstoned
WHERE tombstoned = 1 AND place {sql_places("?1")} AND node_id = ?2
"""
# All forks that read in one cluster, and where they leave it for an older one.
_READERS: Final = """
SELECT o.upto_seq, coalesce((SELECT max(b.upto_seq) FROM node_origins b
    WHERE b.session_key = o.session_key AND b.upto_seq < o.upto_seq), 0)
FROM node_origins o INDEXED BY node_origins_by_origin WHERE o.origin_key = ?
"""


class Segment(msgspec.Struct, frozen=True, gc=False):
    """Nodes above `floor` and up to `top` are rows of the cluster `key`; the first segment is the session's own."""

    key: int
    floor: int
    top: int

    def places_to(self, seq: int) -> tuple[int, int]:
        """Below the first place of its rows, and the place of the row `seq`."""
        return place_at(self.key, self.floor), place_at(self.key, seq)


class Run(msgspec.Struct, frozen=True, gc=False):
    """The rows `low` to `high` of one cluster, each below the one before; the first hangs below `parent_seq`."""

    key: int
    low: int
    high: int
    parent_seq: int | None

    @property
    def places(self) -> tuple[int, int]:
        """The places of its first and its last row."""
        return place_at(self.key, self.low), place_at(self.key, self.high)


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a node is stored."""

    key: int
    seq: int


def segments_of(connection: sqlite3.Connection, session_key: int, next_seq: int) -> tuple[Segment, ...]:
    """The segments of a session, its own first; more than one only for a fork."""
    segments = []
    key, top = session_key, next_seq - 1
    for upto_seq, origin_key in connection.execute(_ORIGINS, (session_key,)):
        segments.append(Segment(key, upto_seq, top))
        key, top = origin_key, upto_seq
    segments.append(Segment(key, 0, top))
    return tuple(segments)


def key_at(segments: Sequence[Segment], seq: int) -> int:
    """The cluster that holds the node at `seq`."""
    return next(segment.key for segment in segments if seq > segment.floor)


def runs_to_root(
    connection: sqlite3.Connection, segments: Sequence[Segment], leaf_seq: int | None, first_seq: int = 1
) -> Iterator[Run]:
    """The path from `leaf_seq` towards the root in runs, leaf first, as far as it stays at or above `first_seq`.

    Raises `CorruptNode` when a node names a parent that is not older than it.
    """
    cursor = leaf_seq
    for segment in segments:
        while cursor is not None and cursor > segment.floor and cursor >= first_seq:
            row = connection.execute(_RUN_START, segment.places_to(cursor)).fetchone()
            low, parent = (segment.floor + 1, segment.floor) if row is None else row
            if row is None and segment.floor == 0:
                raise CorruptNode(f"the path of node {cursor} has no root", details={"seq": cursor})
            if parent is not None and parent >= low:
                raise CorruptNode(f"node {low} names a younger parent", details={"seq": low})
            if low < first_seq:
                low, parent = first_seq, first_seq - 1
            yield Run(segment.key, low, cursor, parent)
            cursor = parent


def is_whole(connection: sqlite3.Connection, run: Run, own_key: int) -> bool:
    """Whether a session with the cluster `own_key` shows every row of a run; those of another may be hidden there."""
    (present,) = connection.execute(_ROWS_OF_RUN, run.places).fetchone()
    if present != run.high - run.low + 1:
        return False
    return run.key != own_key or connection.execute(HIDDEN_OF_RUN, run.places).fetchone() is None


def leads_to_root(connection: sqlite3.Connection, segments: Sequence[Segment], seq: int) -> bool:
    """Whether the session that has `segments` shows every node from the one at `seq` up to a root.

    Each of them is counted, which takes longer the more was said.
    """
    try:
        path = list(runs_to_root(connection, segments, seq))
    except CorruptNode:
        return False
    return all(is_whole(connection, run, segments[0].key) for run in path)


def is_on_path(connection: sqlite3.Connection, segments: Sequence[Segment], leaf_seq: int | None, seq: int) -> bool:
    """Whether the node at `seq` is on the path of `leaf_seq`."""
    return any(run.low <= seq <= run.high for run in runs_to_root(connection, segments, leaf_seq, seq))


def find_node(connection: sqlite3.Connection, segments: Sequence[Segment], node_id: str) -> Place | None:
    """Where a live node of the session is: one of its own, or one on the path it was forked from."""
    own, inherited = segments[0], segments[1:]
    row = connection.execute(_OWN_NODE, (own.key, node_id)).fetchone()
    if row is not None:
        return Place(own.key, row[0])
    for segment in inherited:
        for statement in (_OWN_NODE, _HIDDEN_NODES):
            for (seq,) in connection.execute(statement, (segment.key, node_id)).fetchall():
                if segment.floor < seq <= segment.top and is_on_path(connection, inherited, inherited[0].top, seq):
                    return Place(segment.key, seq)
    return None


def inherited_runs(connection: sqlite3.Connection, segments: Sequence[Segment]) -> list[Run]:
    """The path a fork shares, leaf first; empty for any other session."""
    return list(runs_to_root(connection, segments[1:], segments[1].top)) if len(segments) > 1 else []


def inherit(
    connection: sqlite3.Connection, session_key: int, segments: Sequence[Segment], leaf_seq: int | None
) -> None:
    """Let the new session `session_key` read the path to `leaf_seq` of the session that has `segments`."""
    if leaf_seq is None:
        return
    top = leaf_seq
    for index, segment in enumerate(segments):
        if top <= segment.floor:
            continue
        connection.execute(_INSERT_ORIGIN, (session_key, top, segment.key))
        if index == len(segments) - 1:
            return
        below = tuple(runs_to_root(connection, (segment,), top))[-1].parent_seq
        if below is None:
            return
        top = below


def disinherit(connection: sqlite3.Connection, session_key: int) -> tuple[int, ...]:
    """Let a session read nothing but its own rows; the clusters it read in."""
    keys = tuple(origin_key for _, origin_key in connection.execute(_ORIGINS, (session_key,)))
    connection.execute(_DROP_ORIGINS, (session_key,))
    return keys


def shared_runs(connection: sqlite3.Connection, origin_key: int) -> list[Run]:
    """What the forks of all sessions read in one cluster; stretches may overlap."""
    return [
        run
        for upto_seq, floor in connection.execute(_READERS, (origin_key,)).fetchall()
        for run in runs_to_root(connection, (Segment(origin_key, floor, upto_seq),), upto_seq)
    ]


def outside(seqs: Iterable[int], runs: Sequence[Run]) -> list[int]:
    """Those of `seqs` that no run holds."""
    ordered = sorted((run.low, run.high) for run in runs)
    left = []
    index, reach = 0, 0
    for seq in sorted(seqs):
        while index < len(ordered) and ordered[index][0] <= seq:
            reach = max(reach, ordered[index][1])
            index += 1
        if seq > reach:
            left.append(seq)
    return left
