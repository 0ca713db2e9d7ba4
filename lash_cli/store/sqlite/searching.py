"""Searching committed text with FTS5: newest first, filters inside the match (contract 08 §5.1).

Rows come from the index in the order of their ids, newest first, and reading
stops with the last one that is wanted, so a word that every message has costs
no more than a rare one. What a session hides, and whose session is gone, is
told for a fork that still shows it, or not at all.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

import msgspec

from lash_cli.core.content import Message, Role
from lash_cli.core.search import SearchTerm, searchable_text, separated, split_marks
from lash_cli.errors import StoreError, StoreReadOnly
from lash_cli.store.shelf_records import FoundMessage, NearMessage, SearchPage, SearchRequest
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.indexing import (
    CLOSING_MARK,
    OPENING_MARK,
    MessageIndex,
    directory_tag,
    first_id_at,
    message_in,
    role_tag,
)
from lash_cli.store.sqlite.lineage import Segment, is_on_path, key_at, segments_of
from lash_cli.store.sqlite.places import place_at, places, sql_place

_SNIPPET_TOKENS: Final = 24
# Above every id, that of the last moment included.
_NEWEST: Final = (1 << 63) - 1

# CROSS JOIN keeps the index outside: it is what gives the order. What is hidden may be shown by a fork only.
_FIND: Final = f"""
SELECT f.rowid, t.session_key, t.seq, n.node_id, n.at_ms, n.tombstoned, CAST(n.body AS BLOB),
    snippet(message_text_fts, 0, char({ord(OPENING_MARK)}), char({ord(CLOSING_MARK)}), '…', {_SNIPPET_TOKENS})
FROM message_text_fts f
CROSS JOIN message_text t ON t.id = f.rowid
CROSS JOIN nodes n ON n.place = {sql_place("t.session_key", "t.seq")}
WHERE message_text_fts MATCH ? AND f.rowid < ? AND f.rowid >= ?
  AND (n.tombstoned = 0 OR EXISTS (SELECT 1 FROM node_origins o WHERE o.origin_key = t.session_key))
ORDER BY f.rowid DESC
"""
_SESSION: Final = "SELECT session_key, session_id, name, cwd, leaf_seq, next_seq FROM sessions WHERE session_key = ?"
# Forks that read in the cluster of a session as far as a node of it, newest first.
_READERS: Final = """
SELECT session_key FROM node_origins WHERE origin_key = ? AND upto_seq >= ? ORDER BY session_key DESC
"""
_NODE: Final = "SELECT node_id, parent_seq, at_ms, CAST(body AS BLOB) FROM nodes WHERE place = ?"
# How far above a message the one it is a copy of may stand: a compaction keeps 200 at most, and stands between them.
_MOST_ABOVE: Final = 512
# What is hidden comes without its text: it is not told, so its copy is.
_IN_FRAME: Final = """
SELECT parent_seq, frame_ordinal, CASE tombstoned WHEN 0 THEN CAST(body AS BLOB) END FROM nodes WHERE place = ?
"""
_NEXT: Final = "SELECT 1 FROM nodes WHERE place = ? AND parent_seq = ? AND tombstoned = 0"
_BRANCH: Final = """
SELECT seq FROM nodes INDEXED BY nodes_branching
WHERE place > ? AND place <= ? AND parent_seq IS NOT seq - 1 AND parent_seq = ? AND tombstoned = 0
ORDER BY place DESC LIMIT 1
"""


class _Session(NamedTuple):
    session_id: str
    name: str
    cwd: str | None
    leaf_seq: int | None
    segments: tuple[Segment, ...]


class _Sessions:
    """Sessions looked up while one page is made."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[int, _Session | None] = {}

    def get(self, key: int) -> _Session | None:
        """The session of that key, None when it was deleted."""
        if key not in self._known:
            row = self._connection.execute(_SESSION, (key,)).fetchone()
            self._known[key] = None if row is None else self._session(*row)
        return self._known[key]

    def _session(
        self, key: int, session_id: str, name: str, cwd: str | None, leaf_seq: int | None, next_seq: int
    ) -> _Session:
        return _Session(session_id, name, cwd, leaf_seq, segments_of(self._connection, key, next_seq))

    def that_shows(self, key: int, seq: int, *, is_hidden: bool) -> _Session | None:
        """The session a node is told for: the one that wrote it, or a fork whose path has it."""
        owner = self.get(key)
        if owner is not None and not is_hidden:
            return owner
        for (reader_key,) in self._connection.execute(_READERS, (key, seq)).fetchall():
            reader = self.get(reader_key)
            if reader is not None and len(reader.segments) > 1 and _is_inherited(self._connection, reader, seq):
                return reader
        return None


def _is_inherited(connection: sqlite3.Connection, reader: _Session, seq: int) -> bool:
    """Whether a node of a cluster that `reader` reads as far as that is on the path that it shares."""
    inherited = reader.segments[1:]
    return is_on_path(connection, inherited, inherited[0].top, seq)


def match_expression(request: SearchRequest) -> str:
    """The FTS5 expression of a request. Every word is quoted, so none of them is read as an operator."""
    wanted = [_phrase(term) for term in request.terms if not term.is_excluded]
    expression = f"{{text}} : ({' AND '.join(wanted)})"
    unwanted = [_phrase(term) for term in request.terms if term.is_excluded]
    if unwanted:
        expression = f"({expression}) NOT {{text}} : ({' OR '.join(unwanted)})"
    tags = []
    if request.roles:
        tags.append(" OR ".join(f'"{role_tag(role)}"' for role in request.roles))
    if request.cwd is not None:
        tags.append(f'"{directory_tag(request.cwd)}"')
    for tag in tags:
        expression = f"({expression}) AND {{tags}} : ({tag})"
    return expression


def _phrase(term: SearchTerm) -> str:
    quoted = '"' + separated(term.words).replace('"', '""') + '"'
    return quoted + "*" if term.is_prefix else quoted


def _message(node_id: str, at_ms: int, body: bytes) -> NearMessage | None:
    message = message_in(body)
    return None if message is None else NearMessage(node_id, message.role, at_ms, searchable_text(message))


def _is_copy(connection: sqlite3.Connection, session: _Session, key: int, seq: int, message: Message) -> bool:
    """Whether a frame began with a message as it stands in the one before, as a compaction has the newest turns stay:
    that was said once, and is told where it was."""
    if not message.id.rpartition(".")[2].isdecimal():  # no node that a frame begins with (`runtime.frames`)
        return False
    parent, own_frame, _ = connection.execute(_IN_FRAME, (place_at(key, seq),)).fetchone()
    frame = own_frame  # of the node above, which is the own one and then the one before
    for _ in range(_MOST_ABOVE):
        if parent is None:
            return False
        row = connection.execute(_IN_FRAME, (place_at(key_at(session.segments, parent), parent),)).fetchone()
        if row is None or (frame != own_frame and row[1] != frame):
            return False
        parent, frame, body = row
        above = None if body is None or frame == own_frame else message_in(body)
        if above is not None and msgspec.structs.replace(above, id=message.id) == message:
            return True
    return False


def _earlier(connection: sqlite3.Connection, session: _Session, key: int, seq: int, count: int) -> list[NearMessage]:
    """Up to `count` messages above a node, oldest first."""
    found: list[NearMessage] = []
    (_, parent, _, _) = connection.execute(_NODE, (place_at(key, seq),)).fetchone()
    while parent is not None and len(found) < count:
        row = connection.execute(_NODE, (place_at(key_at(session.segments, parent), parent),)).fetchone()
        if row is None:
            break
        node_id, parent, at_ms, body = row
        message = _message(node_id, at_ms, body)
        if message is not None and message.text:
            found.append(message)
    return found[::-1]


def _later(connection: sqlite3.Connection, key: int, seq: int, count: int) -> list[NearMessage]:
    """Up to `count` messages below a node, in order: where the session wrote on at once, else its newest branch."""
    found: list[NearMessage] = []
    _, last = places(key)
    while len(found) < count:
        if connection.execute(_NEXT, (place_at(key, seq + 1), seq)).fetchone() is not None:
            seq += 1
        else:
            branch = connection.execute(_BRANCH, (place_at(key, seq), last, seq)).fetchone()
            if branch is None:
                break
            (seq,) = branch
        node_id, _, at_ms, body = connection.execute(_NODE, (place_at(key, seq),)).fetchone()
        message = _message(node_id, at_ms, body)
        if message is not None and message.text:
            found.append(message)
    return found


def _search(connection: sqlite3.Connection, request: SearchRequest) -> SearchPage:
    sessions = _Sessions(connection)
    newest = _NEWEST if request.before is None else request.before
    oldest = 0 if request.since_ms is None else first_id_at(request.since_ms)
    found: list[FoundMessage] = []
    last = newest
    cursor = connection.execute(_FIND, (match_expression(request), newest, oldest))
    for rowid, key, seq, node_id, at_ms, tombstoned, body, marked in cursor:
        session = sessions.that_shows(key, seq, is_hidden=bool(tombstoned))
        message = message_in(body)
        if session is None or message is None or (request.cwd is not None and session.cwd != request.cwd):
            continue
        if _is_copy(connection, session, key, seq, message):
            continue
        if len(found) == request.limit:
            cursor.close()
            return SearchPage(tuple(found), last)
        snippet, marks = split_marks(marked, OPENING_MARK, CLOSING_MARK)
        found.append(
            FoundMessage(
                session.session_id,
                session.name,
                node_id,
                Role(message.role),
                at_ms,
                snippet,
                marks,
                is_on_path(connection, session.segments, session.leaf_seq, seq),
                tuple(_earlier(connection, session, key, seq, request.context)),
                tuple(_later(connection, key, seq, request.context)),
            )
        )
        last = rowid
    return SearchPage(tuple(found))


class MessageSearch:
    """Search; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._index = MessageIndex(db)

    async def index_messages(self) -> int:
        """See `shelf.ShelfStore.index_messages`."""
        return await self._index.index_messages()

    async def search_messages(self, request: SearchRequest) -> SearchPage:
        """See `shelf.ShelfStore.search_messages`."""
        is_behind = False
        try:
            await self._index.index_messages()
        except StoreReadOnly:
            is_behind = True
        except StoreError as error:
            # What a full disk keeps from being indexed keeps nobody from what is.
            if not error.ambiguous:
                raise
            is_behind = True
        page = await self._db.read_bulk(lambda connection: _search(connection, request))
        return msgspec.structs.replace(page, is_behind=is_behind)
