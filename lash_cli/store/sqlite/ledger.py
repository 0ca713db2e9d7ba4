"""The ledger over sessions and days (contract 01 §12, 08 §5.1 `usage`): rows summed, never changed."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from lash_cli.core.usage import TokenUsage
from lash_cli.store.shelf_records import UsageTotal
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.sessions import key_of

_SUMS: Final = """
SELECT u.at_ms / 86400000, s.session_id, s.name, u.source, u.model, sum(u.input_tokens), sum(u.output_tokens),
    sum(u.cache_read_input_tokens), sum(u.cache_write_input_tokens), sum(u.reasoning_output_tokens),
    max(u.input_tokens + u.cache_read_input_tokens + u.cache_write_input_tokens)
FROM usage_deltas u JOIN sessions s ON s.session_key = u.session_key
"""
_GROUPED: Final = " GROUP BY 1, u.session_key, u.source, u.model ORDER BY 1, s.session_id, u.source, u.model"
_TOTALS: Final = _SUMS + "WHERE u.at_ms >= ?" + _GROUPED
_TOTALS_OF_SESSION: Final = _SUMS + "WHERE u.session_key = ? AND u.at_ms >= ?" + _GROUPED


def _total(row: Any) -> UsageTotal:
    day, session_id, name, source, model, *counters, largest = row
    return UsageTotal(day, session_id, name, source, model, TokenUsage(*counters), largest)


class Ledger:
    """Costs across sessions; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def usage_totals(
        self, *, session_id: str | None = None, since_ms: int | None = None
    ) -> tuple[UsageTotal, ...]:
        """See `shelf.ShelfStore.usage_totals`."""
        since = since_ms or 0

        def job(connection: sqlite3.Connection) -> tuple[UsageTotal, ...]:
            if session_id is None:
                rows = connection.execute(_TOTALS, (since,))
            else:
                rows = connection.execute(_TOTALS_OF_SESSION, (key_of(connection, session_id), since))
            return tuple(_total(row) for row in rows)

        return await self._db.read_bulk(job)
