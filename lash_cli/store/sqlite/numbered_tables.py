"""Where the numbers of the queue come from: what migration 0012 makes of a file (contract 02 §1, `enqueue_seq`).

A number is one more than the greatest that was given out, whether or not its row
is still there. `AUTOINCREMENT` writes the last one down with every row, which is
a page more in every enqueue and in every turn; here it is written down when its
row goes, which hardly ever happens to the newest one.
"""

from __future__ import annotations

import sqlite3
from typing import Final

NUMBERED: Final = ("inputs", "queued_work")

# The greatest number of a family that no row has any more, 0 while none is gone.
_NUMBERS_GONE: Final = """
CREATE TABLE numbers_gone (family TEXT PRIMARY KEY, last INTEGER NOT NULL) STRICT, WITHOUT ROWID
"""
_FILL: Final = """
INSERT INTO numbers_gone (family, last)
SELECT ?1, coalesce((SELECT seq FROM sqlite_sequence WHERE name = ?1), 0)
"""
_FORGET: Final = "DELETE FROM sqlite_sequence WHERE name = ?"


def next_number(table: str) -> str:
    """The SQL expression of the next `enqueue_seq` of `table`, one of `NUMBERED`."""
    return (
        f"max(coalesce((SELECT max(enqueue_seq) FROM {table}), 0),"
        f" (SELECT last FROM numbers_gone WHERE family = '{table}')) + 1"
    )


def _watch(table: str) -> str:
    return f"""
CREATE TRIGGER {table}_numbered AFTER DELETE ON {table}
WHEN NOT EXISTS (SELECT 1 FROM {table} WHERE enqueue_seq > old.enqueue_seq) BEGIN
    UPDATE numbers_gone SET last = max(last, old.enqueue_seq) WHERE family = '{table}';
END
"""


def number_by_rows(connection: sqlite3.Connection) -> None:
    """Migration 0012: what a family gave out is known from its rows and from `numbers_gone`; no row changes."""
    from lash_cli.store.sqlite.checked_tables import change_check  # who enqueues has no use for it (design D16)

    connection.execute(_NUMBERS_GONE)
    for table in NUMBERED:
        change_check(connection, table, " AUTOINCREMENT", "")
        connection.execute(_FILL, (table,))
        connection.execute(_FORGET, (table,))
        connection.execute(_watch(table))
