"""The table of nodes under one integer, as its migration makes it out of the one before (design D11, D23).

The first one was clustered `WITHOUT ROWID`: a message above a thousand bytes had
its end on a page of its own, four times its size, and every commit wrote five
pages where two do (`places`). Nothing that is stored changes.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from lash_cli.store.sqlite.places import LAST_POSITION, POSITION_BITS, sql_place
from lash_cli.store.sqlite.search_tables import watch_nodes

# Contract 01 §8: append-only. A parent always has a lower seq than its child, so one backward pass finds a path.
# `session_key` and `seq` are what the place consists of: computed when read, never stored. Rows are found by `place`.
_NODES: Final = f"""
CREATE TABLE nodes (
    place INTEGER PRIMARY KEY,
    session_key INTEGER NOT NULL AS (place >> {POSITION_BITS}),
    seq INTEGER NOT NULL AS (place & {LAST_POSITION}),
    node_id TEXT NOT NULL,
    parent_seq INTEGER,
    frame_ordinal INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    caused_by TEXT,
    body TEXT NOT NULL,
    tombstoned INTEGER NOT NULL DEFAULT 0
) STRICT
"""
_INDEXES: Final = (
    # Unique among live nodes only: a full replacement may bring a node id back while the old row waits for `vacuum`.
    "CREATE UNIQUE INDEX nodes_by_id ON nodes (session_key, node_id) WHERE tombstoned = 0",
    # Empty unless something is hidden, so appends do not pay for it.
    "CREATE INDEX nodes_tombstoned ON nodes (place) WHERE tombstoned = 1",
    # Only the first row of a run, so that a plain append does not touch it (`lineage`).
    "CREATE INDEX nodes_branching ON nodes (place, parent_seq) WHERE parent_seq IS NOT seq - 1",
)
_SET_ASIDE: Final = "ALTER TABLE nodes RENAME TO nodes_of_before"
# In the order of the old key, which is that of the new one: every row is appended.
_COPY: Final = f"""
INSERT INTO nodes (place, node_id, parent_seq, frame_ordinal, at_ms, caused_by, body, tombstoned)
SELECT {sql_place("session_key", "seq")}, node_id, parent_seq, frame_ordinal, at_ms, caused_by, body, tombstoned
FROM nodes_of_before ORDER BY session_key, seq
"""
_DROP: Final = "DROP TABLE nodes_of_before"


def place_nodes(connection: sqlite3.Connection) -> None:
    """Move every node to the table that `place` clusters; indexes and triggers are made anew."""
    for statement in (_SET_ASIDE, _NODES, _COPY, _DROP, *_INDEXES):
        connection.execute(statement)
    watch_nodes(connection)
