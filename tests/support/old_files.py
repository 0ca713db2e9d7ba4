"""Files as an older lash left them, made out of those of this one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from lash_cli.store.sqlite import checked_tables, numbered_tables, queue_tables, schema, search_tables


def old_database(path: Path) -> Path:
    """A file as the first migration alone makes it."""
    connection = sqlite3.connect(path, isolation_level=None)
    schema.MIGRATIONS[0][1](connection)
    connection.execute(
        "CREATE TABLE _sqlite_migrations (id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT)"
    )
    connection.execute("INSERT INTO _sqlite_migrations VALUES (1, 'lash', '0001_first_tables', '2026-01-01')")
    connection.execute("PRAGMA user_version = 1")
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.close()
    path.chmod(0o600)
    return path


def without_imports(connection: sqlite3.Connection) -> None:
    """The file of before migration 13: nothing says that a session came in from an archive, nor the
    schema of the file to a statement."""
    connection.execute("DROP VIEW schema_of_today")
    connection.execute("ALTER TABLE sessions DROP COLUMN imported_at_ms")
    connection.execute("DELETE FROM _sqlite_migrations WHERE name = '0013_imported_sessions'")
    connection.execute("PRAGMA user_version = 12")


def with_numbers_of_sqlite(connection: sqlite3.Connection) -> None:
    """The file of before migration 12: SQLite writes down the last number of the queue with every row."""
    without_imports(connection)
    for table in numbered_tables.NUMBERED:
        key = "enqueue_seq INTEGER PRIMARY KEY"
        connection.execute(f"DROP TRIGGER {table}_numbered")
        checked_tables.change_check(connection, table, key, f"{key} AUTOINCREMENT")
        connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        connection.execute(
            "INSERT INTO sqlite_sequence SELECT family, max(last, coalesce((SELECT max(enqueue_seq) FROM"
            f" {table}), 0)) FROM numbers_gone WHERE family = ?",
            (table,),
        )
    connection.execute("DROP TABLE numbers_gone")
    connection.execute("DELETE FROM _sqlite_migrations WHERE name = '0012_numbers_by_rows'")
    connection.execute("PRAGMA user_version = 11")


def with_checks_by_list(connection: sqlite3.Connection) -> None:
    """The file of before migration 11: what a state may be is checked against a list."""
    with_numbers_of_sqlite(connection)
    for check in checked_tables.CHECKS:
        checked_tables.change_check(connection, check.table, check.by_value, check.by_list)
    connection.execute("DELETE FROM _sqlite_migrations WHERE name = '0011_checks_by_value'")
    connection.execute("PRAGMA user_version = 10")


def with_two_indexes_of_what_is_held(connection: sqlite3.Connection) -> None:
    """The file of before migration 10: what is held stands in an index by turn and in one by claim."""
    with_checks_by_list(connection)
    for statement in (
        "DROP INDEX inputs_held",
        "DROP INDEX queued_work_held",
        queue_tables._INPUTS_TAKEN,
        queue_tables._INPUTS_CLAIMED,
        queue_tables._WORK_TAKEN,
        queue_tables._WORK_CLAIMED,
        "DELETE FROM _sqlite_migrations WHERE name = '0010_held_rows'",
        "PRAGMA user_version = 9",
    ):
        connection.execute(statement)


def with_nodes_by_session(connection: sqlite3.Connection) -> None:
    """The file of before migration 9: nodes clustered by session and seq, in a table without a rowid."""
    with_two_indexes_of_what_is_held(connection)
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
