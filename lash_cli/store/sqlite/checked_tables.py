"""Tables that check a state value by value, as their migration makes them out of those of before (design D11).

A list of more than two values in a `CHECK` is a temporary table to SQLite, which
is made, filled and dropped for every row that is written: two thirds of what
settling an input took. What is allowed and what is stored stay the same.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple


class Check(NamedTuple):
    """A check of a table as it was written first, and as it is written now."""

    table: str
    by_list: str
    by_value: str


CHECKS: Final = (
    Check(
        "inputs",
        "CHECK (state IN ('pending_active', 'deferred_next_turn', 'cancelled', 'completed'))",
        "CHECK (state = 'pending_active' OR state = 'deferred_next_turn' OR state = 'cancelled'"
        " OR state = 'completed')",
    ),
    Check(
        "queued_work",
        "CHECK (state IN ('pending', 'dead', 'completed', 'cancelled'))",
        "CHECK (state = 'pending' OR state = 'dead' OR state = 'completed' OR state = 'cancelled')",
    ),
    Check(
        "effects",
        "CHECK (status IN ('in_progress', 'completed', 'failed'))",
        "CHECK (status = 'in_progress' OR status = 'completed' OR status = 'failed')",
    ),
    Check(
        "waits",
        "CHECK (state IN ('pending', 'resolved', 'revoked'))",
        "CHECK (state = 'pending' OR state = 'resolved' OR state = 'revoked')",
    ),
)
_TABLE: Final = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?"
# Those that SQLite makes for a key have no text.
_INDEXES: Final = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL"
_FORGET_LAST_NUMBER: Final = "DELETE FROM sqlite_sequence WHERE name = ?"
_TAKE_LAST_NUMBER: Final = "UPDATE sqlite_sequence SET name = ?1 WHERE name = ?1 || '_of_before'"


def check_by_value(connection: sqlite3.Connection) -> None:
    """Migration 0011: write every check value by value; rows, indexes and numbers given out stay as they are."""
    for check in CHECKS:
        change_check(connection, check.table, check.by_list, check.by_value)


def change_check(connection: sqlite3.Connection, table: str, before: str, after: str) -> None:
    """Make `table` anew with the check `after` in place of `before`; what has no such check is left alone."""
    found = connection.execute(_TABLE, (table,)).fetchone()
    if found is None or before not in found[0]:
        # A table that was taken out of the file is named by whoever wants it first.
        return
    indexes = [index for (index,) in connection.execute(_INDEXES, (table,)).fetchall()]
    connection.execute(f"ALTER TABLE {table} RENAME TO {table}_of_before")
    connection.execute(found[0].replace(before, after))
    connection.execute(f"INSERT INTO {table} SELECT * FROM {table}_of_before")
    # Contract 02 §1: a number that was given out is not given out again, whether or not its row is still there.
    connection.execute(_FORGET_LAST_NUMBER, (table,))
    connection.execute(_TAKE_LAST_NUMBER, (table,))
    connection.execute(f"DROP TABLE {table}_of_before")
    for index in indexes:
        connection.execute(index)
