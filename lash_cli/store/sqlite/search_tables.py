"""The tables behind `lash search`, as their migration makes them (contract 08 §5.1, design D11).

No statement here is on the way of a turn: committing nodes fires no trigger,
and the index is brought up to date by whoever searches. Removing is another
matter: a node that is deleted, or whose text is replaced, leaves the index in
the same transaction, whoever does it.

The names and shapes are those that sqlite-utils gives a table with full-text
search (`Table.enable_fts` with triggers), so its tools know them. It is not
called for them, because it commits in the middle of the migration.
"""

from __future__ import annotations

import sqlite3
from typing import Final

# `id` is the time of the node above 20 bits of count: newest first is the order of the rowid, which FTS5 walks
# backwards without sorting. `tags` makes filters part of the match, so that no filter reads what it does not want.
_MESSAGE_TEXT: Final = """
CREATE TABLE message_text (
    id INTEGER PRIMARY KEY,
    session_key INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    tags TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT
"""
_MESSAGE_TEXT_BY_NODE: Final = "CREATE UNIQUE INDEX message_text_by_node ON message_text (session_key, seq)"
_MESSAGE_TEXT_FTS: Final = """
CREATE VIRTUAL TABLE "message_text_fts" USING FTS5 (
    "text", "tags", tokenize='unicode61 remove_diacritics 2', content="message_text"
)
"""
_FTS_DELETE_TRIGGER: Final = """
CREATE TRIGGER "message_text_ad" AFTER DELETE ON "message_text" BEGIN
    INSERT INTO "message_text_fts" ("message_text_fts", rowid, "text", "tags")
        VALUES ('delete', old.rowid, old."text", old."tags");
END
"""
_FTS_TRIGGERS: Final = (
    """
CREATE TRIGGER "message_text_ai" AFTER INSERT ON "message_text" BEGIN
    INSERT INTO "message_text_fts" (rowid, "text", "tags") VALUES (new.rowid, new."text", new."tags");
END
""",
    _FTS_DELETE_TRIGGER,
    """
CREATE TRIGGER "message_text_au" AFTER UPDATE ON "message_text" BEGIN
    INSERT INTO "message_text_fts" ("message_text_fts", rowid, "text", "tags")
        VALUES ('delete', old.rowid, old."text", old."tags");
    INSERT INTO "message_text_fts" (rowid, "text", "tags") VALUES (new.rowid, new."text", new."tags");
END
""",
)
# Up to which seq the nodes of a session are indexed; none for a session that nobody searched.
_SEARCH_MARKS: Final = """
CREATE TABLE search_marks (
    session_key INTEGER PRIMARY KEY,
    upto_seq INTEGER NOT NULL
) STRICT
"""
_NODE_TRIGGERS: Final = (
    """
CREATE TRIGGER nodes_unsearched AFTER DELETE ON nodes BEGIN
    DELETE FROM message_text WHERE session_key = old.session_key AND seq = old.seq;
END
""",
    """
CREATE TRIGGER nodes_searched_again AFTER UPDATE OF body ON nodes BEGIN
    DELETE FROM message_text WHERE session_key = old.session_key AND seq = old.seq;
    UPDATE search_marks SET upto_seq = min(upto_seq, old.seq - 1) WHERE session_key = old.session_key;
END
""",
)
# Nodes that forks still show are looked at once more, for them.
_SESSION_TRIGGER: Final = """
CREATE TRIGGER sessions_unsearched AFTER DELETE ON sessions BEGIN
    DELETE FROM search_marks WHERE session_key = old.session_key;
END
"""

_HAS_INDEX: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'message_text_fts'"
_NO_DELETE_TRIGGER: Final = 'DROP TRIGGER "message_text_ad"'
_FORGET_WORDS: Final = "INSERT INTO message_text_fts (message_text_fts) VALUES ('delete-all')"
_FORGET_TEXTS: Final = "DELETE FROM message_text"
_FORGET_MARKS: Final = "DELETE FROM search_marks"
_MERGE: Final = "INSERT INTO message_text_fts (message_text_fts) VALUES ('optimize')"


def create_search_tables(connection: sqlite3.Connection) -> None:
    """Make the tables, their full-text index and what keeps it true to them."""
    for statement in (
        _MESSAGE_TEXT,
        _MESSAGE_TEXT_BY_NODE,
        _MESSAGE_TEXT_FTS,
        *_FTS_TRIGGERS,
        _SEARCH_MARKS,
        _SESSION_TRIGGER,
    ):
        connection.execute(statement)
    watch_nodes(connection)


def watch_nodes(connection: sqlite3.Connection) -> None:
    """Take what leaves the table of nodes, or is changed in it, out of the index."""
    for statement in _NODE_TRIGGERS:
        connection.execute(statement)


def empty_search_tables(connection: sqlite3.Connection) -> None:
    """Have everything indexed again by whoever searches next, because what is put into the index has changed."""
    # The trigger would take every word out by itself.
    for statement in (_NO_DELETE_TRIGGER, _FORGET_WORDS, _FORGET_TEXTS, _FORGET_MARKS, _FTS_DELETE_TRIGGER):
        connection.execute(statement)


def forget_deleted_words(connection: sqlite3.Connection) -> None:
    """Merge the parts of the index into one: until then it keeps the words of what was deleted, though nothing finds
    them. Does nothing to a file that has no index yet."""
    if connection.execute(_HAS_INDEX).fetchone() is not None:
        connection.execute(_MERGE)
