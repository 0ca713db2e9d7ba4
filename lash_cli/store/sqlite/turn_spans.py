"""Which nodes each turn committed (design D8).

Apart from `lanes`, because a transcript asks this and nothing else of its
turns: what they summed up, and how they ended, is neither read nor imported
(design D16).
"""

from __future__ import annotations

import sqlite3

from lash_cli.store.base import TurnSpan
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.places import sql_place
from lash_cli.store.sqlite.sessions import key_of

# In the order of `TurnSpan`, and of the turns themselves as `lanes` lists them.
_SPANS = f"""
SELECT t.turn_id, t.turn_index, t.head_revision,
    (SELECT n.node_id FROM nodes n WHERE n.place = {sql_place("t.session_key", "t.first_seq")}),
    (SELECT n.node_id FROM nodes n WHERE n.place = {sql_place("t.session_key", "t.last_seq")})
FROM turns t WHERE t.session_key = ? AND t.turn_index < ?
ORDER BY t.turn_index DESC, t.started_at_ms DESC LIMIT ?
"""


class TurnSpans:
    """The async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def turn_spans(self, session_id: str, *, limit: int, before: int | None = None) -> tuple[TurnSpan, ...]:
        """See `base.LaneStore.turn_spans`."""

        def job(connection: sqlite3.Connection) -> tuple[TurnSpan, ...]:
            bound = before if before is not None else 1 << 62
            rows = connection.execute(_SPANS, (key_of(connection, session_id), bound, limit))
            return tuple(TurnSpan(*row) for row in rows)

        return self._db.read(job)
