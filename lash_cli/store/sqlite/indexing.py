"""Bringing the search index up to date: what was committed since somebody searched last (contract 08 §5.1).

A session is indexed up to a seq. Batches are small transactions with a pause
between them, so that a turn that wants to commit meanwhile waits for one batch
at most; each reads the mark again, so any number of processes may do the same.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Final, NamedTuple

from lash_cli.core.codec import UNDECODABLE, decoder, sha256_hex
from lash_cli.core.content import Message, Role
from lash_cli.core.graph import ConversationPayload, NodePayload
from lash_cli.core.search import SEPARATOR, searchable_text, separated
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.places import LAST_POSITION, place_at, sql_places

# About 20 ms of indexing.
BATCH_NODES: Final = 256
# Others may have the file: real time, as all waiting for other processes is.
_PAUSE_SECONDS: Final = 0.002
# What `snippet` is asked to put around a match; no indexed text has them.
OPENING_MARK: Final = "\x02"
CLOSING_MARK: Final = "\x03"
_WITHOUT_MARKS: Final = str.maketrans({OPENING_MARK: " ", CLOSING_MARK: " ", SEPARATOR: " ", "\0": " "})

_COUNT_BITS: Final = 20
_MAX_AT_MS: Final = 1 << 42

# Sessions with nodes above their mark; and what a deleted session left to its forks, which is looked at once.
_BEHIND: Final = """
SELECT s.session_key FROM sessions s LEFT JOIN search_marks m ON m.session_key = s.session_key
WHERE s.next_seq - 1 > coalesce(m.upto_seq, 0)
UNION ALL
SELECT DISTINCT o.origin_key FROM node_origins o
WHERE NOT EXISTS (SELECT 1 FROM sessions s WHERE s.session_key = o.origin_key)
  AND NOT EXISTS (SELECT 1 FROM search_marks m WHERE m.session_key = o.origin_key)
"""
_STATE: Final = f"""
SELECT coalesce((SELECT upto_seq FROM search_marks WHERE session_key = ?1), 0),
    coalesce((SELECT next_seq - 1 FROM sessions WHERE session_key = ?1),
             (SELECT max(place) FROM nodes WHERE place {sql_places("?1")}) & {LAST_POSITION}, 0)
"""
_NODES: Final = "SELECT seq, at_ms, CAST(body AS BLOB) FROM nodes WHERE place > ? AND place <= ? ORDER BY place LIMIT ?"
# Where the session was made, or those that show its nodes when it is gone.
_DIRECTORIES: Final = """
SELECT cwd FROM sessions WHERE session_key = ?1
UNION SELECT s.cwd FROM node_origins o JOIN sessions s ON s.session_key = o.session_key WHERE o.origin_key = ?1
"""
_LAST_ID: Final = "SELECT max(id) FROM message_text WHERE id >= ? AND id < ?"
_INSERT: Final = """
INSERT INTO message_text (id, session_key, seq, tags, text) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (session_key, seq) DO NOTHING
"""
_MARK: Final = """
INSERT INTO search_marks (session_key, upto_seq) VALUES (?, ?)
ON CONFLICT (session_key) DO UPDATE SET upto_seq = excluded.upto_seq
"""


class _Text(NamedTuple):
    seq: int
    at_ms: int
    role: Role
    text: str


class _Batch(NamedTuple):
    indexed: int
    looked_at: int
    is_done: bool


def role_tag(role: Role) -> str:
    """The word that stands for a role in `tags`."""
    return f"role{role.value}"


def directory_tag(cwd: str) -> str:
    """The word that stands for a session's directory in `tags`."""
    return f"cwd{sha256_hex(cwd.encode('utf-8', 'surrogateescape'))[:24]}"


def first_id_at(at_ms: int) -> int:
    """The lowest id of the messages of that moment."""
    return max(0, min(at_ms, _MAX_AT_MS)) << _COUNT_BITS


def message_in(body: bytes) -> Message | None:
    """The message a node holds; None for a node of another kind, and for one that does not decode: it has no text to
    find, and reading its session says so."""
    try:
        payload = decoder(NodePayload).decode(body)
    except UNDECODABLE:
        return None
    return payload.message if isinstance(payload, ConversationPayload) else None


def _text_of(seq: int, at_ms: int, body: bytes) -> _Text | None:
    """What is searched of a node."""
    message = message_in(body)
    if message is None:
        return None
    text = searchable_text(message).translate(_WITHOUT_MARKS)
    return _Text(seq, at_ms, message.role, separated(text)) if text.strip() else None


def _index_batch(connection: sqlite3.Connection, session_key: int, limit: int) -> _Batch:
    upto_seq, top = connection.execute(_STATE, (session_key,)).fetchone()
    nodes = connection.execute(_NODES, (place_at(session_key, upto_seq), place_at(session_key, top), limit)).fetchall()
    texts = [text for node in nodes if (text := _text_of(*node)) is not None]
    places = sorted({directory_tag(cwd) for (cwd,) in connection.execute(_DIRECTORIES, (session_key,)) if cwd})
    # In the order of their ids: FTS5 writes a segment whenever the order breaks.
    texts.sort(key=lambda text: (text.at_ms, text.seq))
    rows = []
    first, following = None, 0
    for text in texts:
        # Times that no clock should say share the first or the last moment there is.
        if first_id_at(text.at_ms) != first:
            first = first_id_at(text.at_ms)
            (last,) = connection.execute(_LAST_ID, (first, first + (1 << _COUNT_BITS))).fetchone()
            following = first if last is None else last + 1
        rows.append((following, session_key, text.seq, " ".join((role_tag(text.role), *places)), text.text))
        following += 1
    connection.executemany(_INSERT, rows)
    is_done = len(nodes) < limit
    connection.execute(_MARK, (session_key, top if is_done else nodes[-1][0]))
    return _Batch(len(rows), len(nodes), is_done)


def _index_some(keys: list[int], connection: sqlite3.Connection) -> tuple[int, list[int]]:
    """One batch of at most `BATCH_NODES` nodes, and as many sessions, from `keys`; what was indexed and what is left
    to do."""
    indexed, room = 0, BATCH_NODES
    for position, key in enumerate(keys[:BATCH_NODES]):
        batch = _index_batch(connection, key, room)
        indexed += batch.indexed
        room -= batch.looked_at
        if not batch.is_done:
            return indexed, keys[position:]
    return indexed, keys[BATCH_NODES:]


class MessageIndex:
    """The index of one file; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def index_messages(self) -> int:
        """See `shelf.ShelfStore.index_messages`. Needs an event loop, because it rests between its batches."""
        import asyncio

        behind = self._db.read(lambda connection: [key for (key,) in connection.execute(_BEHIND)])
        indexed = 0
        while behind:
            count, behind = await self._db.write(partial(_index_some, behind), durable=False)
            indexed += count
            if behind:
                await asyncio.sleep(_PAUSE_SECONDS)
        return indexed
