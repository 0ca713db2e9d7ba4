"""Files as an older lash left them, made out of those of this one."""

from __future__ import annotations

import sqlite3

from lash_cli.store.sqlite import schema, search_tables


def with_nodes_by_session(connection: sqlite3.Connection) -> None:
    """The file of before migration 9: nodes clustered by session and seq, in a table without a rowid."""
    for statement in (
        "ALTER TABLE nodes RENAME TO nodes_of_today",
        schema._NODES,
        "INSERT INTO nodes SELECT session_key, seq, node_id, parent_seq, frame_ordinal, at_ms, caused_by, body,"
        " tombstoned FROM nodes_of_today",
        "DROP TABLE nodes_of_today",
        schema._NODES_BY_ID,
        schema._NODES_TOMBSTONED,
        schema._NODES_BRANCHING,
    ):
        connection.execute(statement)
    search_tables.watch_nodes(connection)
    connection.execute("DELETE FROM _sqlite_migrations WHERE name = '0009_placed_nodes'")
    connection.execute("PRAGMA user_version = 8")
