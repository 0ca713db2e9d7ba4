"""What waits: of one session, of all of them, behind a commit; and holds (contract 02 §6.3, 08 §5.2).

Cheap, conservative reads for drivers. Each look is by index and stops at the
first row, so its cost does not grow with how much waits; the sessions with
demand are found by leaping from session to session. Truth is the rows: whoever
acts on an answer finds out in the lane transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

import msgspec

from lash_cli.store.queueing import SessionDemand
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.queue_announcing import announce_standing
from lash_cli.store.sqlite.sessions import SESSION_COLUMNS, StoredSession, live_generation, read_session

# What a commit leaves behind: rows its turn took and did not settle, text addressed to a running turn, and whether
# anything at all waits.
_LEFT = """
SELECT
    EXISTS (SELECT 1 FROM inputs INDEXED BY inputs_held WHERE session_key = ?1 AND turn_id = ?2
        AND claim_id IS NOT NULL AND state IN ('pending_active', 'deferred_next_turn'))
    OR EXISTS (SELECT 1 FROM queued_work INDEXED BY queued_work_held
        WHERE session_key = ?1 AND turn_id = ?2 AND claim_id IS NOT NULL AND state = 'pending'),
    EXISTS (SELECT 1 FROM inputs INDEXED BY inputs_active
        WHERE session_key = ?1 AND state = 'pending_active' AND turn_id IS NULL),
    EXISTS (SELECT 1 FROM inputs INDEXED BY inputs_next
        WHERE session_key = ?1 AND state = 'deferred_next_turn' AND turn_id IS NULL AND claim_generation IS NOT ?3)
    OR EXISTS (SELECT 1 FROM queued_work INDEXED BY queued_work_ready
        WHERE session_key = ?1 AND state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL
        AND claim_generation IS NOT ?3)
    OR EXISTS (SELECT 1 FROM queued_work INDEXED BY queued_work_waiting
        WHERE session_key = ?1 AND state = 'pending' AND waits_until_ms IS NOT NULL)
"""
_RUNNING = """
SELECT turn_id, started_at_ms FROM turns INDEXED BY turns_running
WHERE session_key = ? AND state = 'running' ORDER BY turn_index LIMIT 1
"""
# Contract 02 §6.3: since when the oldest text for the next turn, text for a turn other than the running one (before and
# behind it in the index), ready work and work whose time has come wait, and when the first batch that still waits for
# its time is ready.
_DEMAND = """
SELECT
    (SELECT enqueued_at_ms FROM inputs INDEXED BY inputs_next
        WHERE session_key = ?1 AND state = 'deferred_next_turn' AND turn_id IS NULL AND claim_generation IS NOT ?2
        ORDER BY enqueue_seq LIMIT 1),
    (SELECT enqueued_at_ms FROM inputs INDEXED BY inputs_active
        WHERE session_key = ?1 AND state = 'pending_active' AND turn_id IS NULL
        AND target_turn_id < ?3 LIMIT 1),
    (SELECT enqueued_at_ms FROM inputs INDEXED BY inputs_active
        WHERE session_key = ?1 AND state = 'pending_active' AND turn_id IS NULL
        AND target_turn_id > ?3 LIMIT 1),
    (SELECT enqueued_at_ms FROM queued_work INDEXED BY queued_work_ready
        WHERE session_key = ?1 AND state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL
        AND claim_generation IS NOT ?2 ORDER BY enqueue_seq LIMIT 1),
    (SELECT waits_until_ms FROM queued_work INDEXED BY queued_work_waiting
        WHERE session_key = ?1 AND state = 'pending' AND waits_until_ms IS NOT NULL AND waits_until_ms <= ?4
        ORDER BY waits_until_ms LIMIT 1),
    (SELECT min(waits_until_ms) FROM queued_work INDEXED BY queued_work_waiting
        WHERE session_key = ?1 AND state = 'pending' AND waits_until_ms IS NOT NULL AND waits_until_ms > ?4)
"""
# The first session behind `?1` that has a row in any of the indices of what waits or is unfinished.
_NEXT_SESSION = """
SELECT min(session_key) FROM (
    SELECT min(session_key) AS session_key FROM inputs INDEXED BY inputs_next
    WHERE state = 'deferred_next_turn' AND turn_id IS NULL AND session_key > ?1
    UNION ALL
    SELECT min(session_key) FROM inputs INDEXED BY inputs_active
    WHERE state = 'pending_active' AND turn_id IS NULL AND session_key > ?1
    UNION ALL
    SELECT min(session_key) FROM queued_work INDEXED BY queued_work_ready
    WHERE state = 'pending' AND turn_id IS NULL AND waits_until_ms IS NULL AND session_key > ?1
    UNION ALL
    SELECT min(session_key) FROM queued_work INDEXED BY queued_work_waiting
    WHERE state = 'pending' AND waits_until_ms IS NOT NULL AND session_key > ?1
    UNION ALL
    SELECT min(session_key) FROM turns INDEXED BY turns_running WHERE state = 'running' AND session_key > ?1
)
"""
_OPEN_SESSION = (
    "SELECT"
    + SESSION_COLUMNS
    + "FROM sessions s WHERE s.session_key = ? AND s.held_at_ms IS NULL AND s.closed_at_ms IS NULL"
)
# The first reason stands until the hold is lifted.
_HOLD = "UPDATE sessions SET held_at_ms = ?, hold_reason = ? WHERE session_id = ?"

_BEFORE_ALL: Final = 0


class Left(msgspec.Struct, frozen=True):
    """What a commit leaves of the queue: rows its turn took, text for a running turn, anything else that waits; fields
    in the order of the columns."""

    has_taken: int
    has_active_inputs: int
    has_others: int

    @property
    def has_waiting(self) -> bool:
        """Whether anything waits that nobody holds."""
        return bool(self.has_active_inputs or self.has_others)


class _Found(msgspec.Struct, frozen=True):
    """The demand of one session and since when it lasts; None when it only waits for its time."""

    demand: SessionDemand
    since_ms: int | None

    @property
    def is_ready(self) -> bool:
        return self.since_ms is not None


def read_left(connection: sqlite3.Connection, session_key: int, turn_id: str | None, generation: int) -> Left:
    """What is left of the queue after turn `turn_id` settled its claims, as `generation` sees it."""
    return Left(*connection.execute(_LEFT, (session_key, turn_id, generation)).fetchone())


def _find(connection: sqlite3.Connection, session: StoredSession, now_ms: int) -> _Found:
    lease = session.lease()
    running = connection.execute(_RUNNING, (session.key,)).fetchone()
    turn_id, started_at_ms = running or (None, None)
    # The empty id stands before every turn id.
    values = (session.key, live_generation(lease, now_ms), turn_id or "", now_ms)
    *waiting, available_at_ms = connection.execute(_DEMAND, values).fetchone()
    claimable_since = [since for since in waiting if since is not None]
    demand = SessionDemand(
        session.session_id,
        bool(claimable_since),
        turn_id,
        lease,
        session.held_at_ms is not None,
        session.closed_at_ms is not None,
        available_at_ms,
    )
    if turn_id is not None:
        claimable_since.append(started_at_ms)
    return _Found(demand, min(claimable_since, default=None))


def _keys(connection: sqlite3.Connection, after: int, until: int | None) -> Iterator[int]:
    """Keys of sessions in which something waits or is unfinished, each found by one leap."""
    key = after
    while True:
        (key,) = connection.execute(_NEXT_SESSION, (key,)).fetchone()
        if key is None or (until is not None and key > until):
            return
        yield key


class Demand:
    """Looks of drivers, and holds; the async face of this module."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._resume_after = _BEFORE_ALL

    async def demand(self, session_id: str) -> SessionDemand:
        """See `queueing.QueuedWorkStore.demand`."""

        def job(connection: sqlite3.Connection) -> SessionDemand:
            return _find(connection, read_session(connection, session_id), self._db.clock.now_ms()).demand

        return self._db.read(job)

    async def sessions_with_demand(self, *, limit: int) -> tuple[SessionDemand, ...]:
        """See `queueing.QueuedWorkStore.sessions_with_demand`.

        Sessions whose lane is free come first, then busy ones, then those that only wait for their time. When there
        are more than `limit` of the first kind, the next call goes on behind them, so that no session starves.
        """

        def job(connection: sqlite3.Connection) -> tuple[SessionDemand, ...]:
            return self._with_demand(connection, limit, self._db.clock.now_ms())

        return self._db.read(job) if limit > 0 else ()

    def _with_demand(self, connection: sqlite3.Connection, limit: int, now_ms: int) -> tuple[SessionDemand, ...]:
        free: list[_Found] = []
        busy: list[_Found] = []
        later: list[_Found] = []
        start, self._resume_after = self._resume_after, _BEFORE_ALL
        for after, until in ((start, None), (_BEFORE_ALL, start)):
            for key in _keys(connection, after, until):
                row = connection.execute(_OPEN_SESSION, (key,)).fetchone()
                found = None if row is None else _find(connection, StoredSession(*row), now_ms)
                if found is None:
                    continue
                if not found.is_ready:
                    if found.demand.available_at_ms is not None:
                        later.append(found)
                elif found.demand.lease.token is not None and now_ms < found.demand.lease.expires_at_ms:
                    busy.append(found)
                else:
                    free.append(found)
                    if len(free) == limit:
                        self._resume_after = key
                        return _oldest_first(free)
        later.sort(key=lambda found: found.demand.available_at_ms or 0)
        chosen = (*_oldest_first(free), *_oldest_first(busy), *(found.demand for found in later))
        return chosen[:limit]

    async def set_queue_hold(self, session_id: str, *, held_at_ms: int | None, reason: str | None = None) -> bool:
        """See `queueing.QueuedWorkStore.set_queue_hold`."""

        def job(connection: sqlite3.Connection) -> bool:
            session = read_session(connection, session_id)
            if (session.held_at_ms is None) == (held_at_ms is None):
                return False
            connection.execute(_HOLD, (held_at_ms, reason if held_at_ms is not None else None, session_id))
            announce_standing(connection, session_id, self._db.clock.now_ms())
            return True

        return await self._db.write(job, durable=True)


def _oldest_first(found: list[_Found]) -> tuple[SessionDemand, ...]:
    return tuple(one.demand for one in sorted(found, key=lambda one: one.since_ms or 0))
