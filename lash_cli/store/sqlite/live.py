"""The live log: one ring per session, appended by whoever changes the session (contract 04 §10).

A durable transition calls `append_in` inside its own transaction, so its event
can neither be lost nor precede its state; previews come in small transactions
that nobody waits for and nothing syncs. What one transaction appends is one row
(`live_rows`), so that it costs one page. Positions are given out in commit
order by the end of the newest row, and never twice in an epoch: a log written
under another boot or in another file than before starts a new epoch, because
what was acknowledged there may be missing here. Bounds hold on read; rows are
deleted every 64 events, but the newest one stays.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from lash_cli.core.activity import ModelAttemptReset, TurnActivity, TurnFinished
from lash_cli.core.codec import decode
from lash_cli.core.observation import (
    GENESIS,
    MAX_AGE_MS,
    MAX_EVENTS,
    REPLAY_BATCH,
    ActivityObserved,
    LiveReplayGapReason,
    LogBounds,
    ObservationPayload,
    ProcessChanged,
    QueueChanged,
    ResidentChanged,
    SessionCursor,
    SessionObservationEvent,
    StateCommitted,
    judge_position,
    judge_revision,
)
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.store.base import ReadScope
from lash_cli.store.live import Carried, LiveCut, LiveNews, LiveReplay
from lash_cli.store.sqlite import graph
from lash_cli.store.sqlite.announcing import LogNews, WriterConnection, new_epoch
from lash_cli.store.sqlite.answers import outcome_of
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.live_rows import (
    NEWEST,
    LogEnd,
    PackedRow,
    activity_rows,
    change_row,
    payloads_of,
    standing_text,
)
from lash_cli.store.sqlite.places import LAST_POSITION, POSITION_BITS, places
from lash_cli.store.sqlite.schema import IS_OF_TODAY
from lash_cli.store.sqlite.sessions import find_session

if TYPE_CHECKING:
    import asyncio

_TRIM_EVERY: Final = 64
# Longer previews take milliseconds to write, during which the event loop is to serve others.
_BRIEF_CHARS: Final = 64 * 1024
# An event loop that serves many sessions leaves the previews of most of them to the writing thread, which finds them
# in groups; one that serves few does better without two changes of thread for each.
_APART_SECONDS: Final = 0.004

# Where the newest row of a session ends; nothing while it has none.
_TAIL = f"""
SELECT place & {LAST_POSITION} FROM live_row
WHERE place BETWEEN (?1 << {POSITION_BITS}) AND (?1 << {POSITION_BITS}) + {LAST_POSITION}
ORDER BY place DESC LIMIT 1
"""
# Contract 04 §10.1: the one authority that gives out positions; nothing happens under another stamp. Reading the end
# and inserting behind it are two statements: one that does both copies its row through a temporary table.
_END = f"SELECT epoch, hole, ({_TAIL}) FROM live_log WHERE session_key = ?1 AND stamp = ?2"
_INSERT = """
INSERT INTO live_row (place, count, revision, turn_id, committed, body, at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_LEAVE_HOLE = "UPDATE live_log SET hole = ? WHERE session_key = ?"
# Contract 04 §10.2: the first event of a session, or the first one after the file changed its identity.
_MINT = """
INSERT INTO live_log (session_key, epoch, stamp) VALUES (?, ?, ?)
ON CONFLICT (session_key) DO UPDATE SET epoch = excluded.epoch, stamp = excluded.stamp, generation = generation + 1,
    floor = 0, hole = 0
"""
# The first row young enough to keep; the walk over the old ones is paid for by their deletion.
_FIRST_YOUNG = """
SELECT place - count FROM live_row WHERE place BETWEEN ? AND ? AND at_ms >= ? ORDER BY place LIMIT 1
"""
_LAST_TO_GO = "SELECT max(place) FROM live_row WHERE place BETWEEN ? AND ?"
_TRIM = "DELETE FROM live_row WHERE place BETWEEN ? AND ?"
_RAISE_FLOOR = "UPDATE live_log SET floor = max(floor, ?) WHERE session_key = ?"
_DELETE_LOG = "DELETE FROM live_log WHERE session_key = ?"
# Who may append previews: only the generation that holds the lane, or held it last.
_SESSION = f"""
SELECT session_key, coalesce(head_revision, 0), lease_fencing_token FROM sessions WHERE session_id = ? AND {IS_OF_TODAY}
"""
# One look of a tail: head, lane, log and the end of it in one row.
_LOOK = f"""
SELECT s.session_key, coalesce(s.head_revision, 0), s.lease_token IS NOT NULL AND ? < s.lease_expires_at_ms,
    l.epoch, l.floor, l.hole, l.generation = 1, ({NEWEST})
FROM sessions s LEFT JOIN live_log l ON l.session_key = s.session_key WHERE s.session_id = ?
"""
_LOG = "SELECT epoch, hole FROM live_log WHERE session_key = ?"
_SUFFIX = """
SELECT place, count, revision, turn_id, committed, body, at_ms FROM live_row
WHERE place > ? AND place <= ? ORDER BY place LIMIT ?
"""
# Contract 04 §4: only a `committed` proves that no commit was missed.
_NEWEST_COMMITTED = "SELECT max(revision) FROM live_row WHERE place > ? AND place <= ? AND committed"
# Where the row of the newest commit ends, which is behind the end of its turn.
_LAST_COMMITTED = f"""
SELECT place & {LAST_POSITION} FROM live_row WHERE place BETWEEN ? AND ? AND committed ORDER BY place DESC LIMIT 1
"""
# Contract 04 §10.3: what a turn has shown and not taken back.
_SHOWN_BY_TURN = "SELECT body FROM live_row WHERE place BETWEEN ? AND ? AND turn_id = ? ORDER BY place"

_Row = tuple[int, int, int, str | None, int, str, int]


def _tail_of(connection: sqlite3.Connection, session_key: int, hole: int) -> int:
    row = connection.execute(_TAIL, (session_key,)).fetchone()
    return hole if row is None else int(row[0])


def append_in(
    connection: sqlite3.Connection, session_key: int, session_id: str, row: PackedRow, *, revision: int, now_ms: int
) -> None:
    """`append_rows_in` of one row."""
    append_rows_in(connection, session_key, session_id, ((revision, row),), now_ms=now_ms)


def append_rows_in(
    connection: sqlite3.Connection,
    session_key: int,
    session_id: str,
    rows: Sequence[tuple[int, PackedRow]],
    *,
    now_ms: int,
) -> None:
    """Append `rows`, each with the revision of its events, to the log of a session inside the caller's transaction, at
    consecutive positions.

    Observers are woken after COMMIT. `connection` is the writer's own.
    """
    assert isinstance(connection, WriterConnection)
    append_behind(connection, session_key, session_id, read_end(connection, session_key), rows, now_ms=now_ms)


def read_end(connection: WriterConnection, session_key: int) -> LogEnd | None:
    """Behind what the next event of a session is appended, None for a log that has yet to begin."""
    end: LogEnd | None = connection.execute(_END, (session_key, connection.stamp)).fetchone()
    return end


def append_behind(
    connection: WriterConnection,
    session_key: int,
    session_id: str,
    end: LogEnd | None,
    rows: Sequence[tuple[int, PackedRow]],
    *,
    now_ms: int,
) -> None:
    """`append_rows_in` behind the end of the log, which was read in this transaction and under the connection's stamp;
    None begins a new generation."""
    epoch, hole, newest = end or (mint_in(connection, session_key), 0, None)
    tail = hole if newest is None else newest
    loss = connection.lost.get(session_id)
    if loss is not None:
        # A loss consumes one position before the events that follow it, and every cursor at or before it gaps.
        connection.holes[session_id] = loss
        tail += 1
        connection.execute(_LEAVE_HOLE, (tail, session_key))
    before, first = tail, session_key << POSITION_BITS
    for revision, row in rows:
        tail += row.size
        connection.execute(_INSERT, (first + tail, row.size, revision, row.turn_id, row.is_commit, row.body, now_ms))
    if tail // _TRIM_EVERY != before // _TRIM_EVERY:
        _trim(connection, session_key, tail, now_ms)
    # What stands behind a hole, or behind something else of this transaction, is nothing that a ring can prove.
    is_next = loss is None and session_id not in connection.news
    connection.news[session_id] = LogNews(tail, epoch, before, now_ms, rows if is_next else ())


def mint_in(connection: sqlite3.Connection, session_key: int) -> str:
    """Start a new generation of a log, which is empty: no cursor of before continues. Its epoch."""
    assert isinstance(connection, WriterConnection)
    epoch = new_epoch()
    connection.execute(_TRIM, places(session_key))
    connection.execute(_MINT, (session_key, epoch, connection.stamp))
    return epoch


def _trim(connection: sqlite3.Connection, session_key: int, tail: int, now_ms: int) -> int:
    """Delete rows outside the bounds, but not the newest one: it is where the next position comes from; how many."""
    first, last = places(session_key)
    young = connection.execute(_FIRST_YOUNG, (first, last, now_ms - MAX_AGE_MS)).fetchone()
    bound = min(first + tail - 1, max(first + tail - MAX_EVENTS, first + tail if young is None else young[0]))
    (floor,) = connection.execute(_LAST_TO_GO, (first, bound)).fetchone()
    if floor is None:
        return 0
    deleted = connection.execute(_TRIM, (first, floor)).rowcount
    connection.execute(_RAISE_FLOOR, (floor - first, session_key))
    return deleted


def announce_in(
    connection: sqlite3.Connection,
    session_id: str,
    event: QueueChanged | ProcessChanged | ResidentChanged,
    now_ms: int,
) -> None:
    """Announce a change that moves no head inside the transaction that made it; an unknown session has no
    observers."""
    row = connection.execute(_SESSION, (session_id,)).fetchone()
    if row is not None:
        key, revision, _ = row
        append_in(connection, key, session_id, change_row(event), revision=revision, now_ms=now_ms)


def delete_in(connection: sqlite3.Connection, session_key: int, session_id: str) -> None:
    """Remove the log of a session inside the transaction that deletes it; observers learn that it is closed."""
    assert isinstance(connection, WriterConnection)
    connection.execute(_TRIM, places(session_key))
    connection.execute(_DELETE_LOG, (session_key,))
    connection.news[session_id] = LogNews(0)


def _replay(connection: sqlite3.Connection, cursor: SessionCursor, now_ms: int) -> LiveReplay:
    session_id, position = cursor.session_id, cursor.position
    row = connection.execute(_LOOK, (now_ms, session_id)).fetchone()
    if row is None:
        find_session(connection, session_id)
        return LiveReplay(gap=judge_position(cursor.epoch, position, None, None, now_ms))
    key, head_revision, is_lane_held, epoch, floor, hole, is_first_epoch, newest = row
    tail = 0 if epoch is None else hole if newest is None else newest
    log = None if epoch is None else LogBounds(epoch, tail, floor, hole, bool(is_first_epoch))
    first, last = places(key)
    # A position no log has ever had is the end of this one, whatever number was made up for it.
    place = first + min(position, LAST_POSITION)
    rows: list[_Row] = []
    if position < tail:
        rows = connection.execute(_SUFFIX, (place, last, REPLAY_BATCH)).fetchall()
    next_at_ms = rows[0][-1] if rows and rows[0][0] - rows[0][1] <= place else None
    gap = judge_position(cursor.epoch, position, log, next_at_ms, now_ms)
    if gap is None and cursor.revision != head_revision:
        gap = judge_revision(cursor.revision, head_revision, _newest_committed(connection, rows, place, first + tail))
    if gap is None:
        try:
            events = _events(connection, key, session_id, epoch, place, rows)
            return LiveReplay(events, is_lane_held=bool(is_lane_held))
        except msgspec.DecodeError as error:
            # Damaged, or written by a newer version of this program beside us: what it says is not known here.
            _log_undecodable(session_id, error)
            gap = LiveReplayGapReason.UNAVAILABLE
    return LiveReplay(gap=gap, missed=max(0, tail - position), is_lane_held=bool(is_lane_held))


def _log_undecodable(session_id: str, error: msgspec.DecodeError) -> None:
    import logging  # which most commands need for nothing (design D16)

    logging.getLogger("lash.live").info("a live event of session %s does not decode: %s", session_id, error)


def _newest_committed(connection: sqlite3.Connection, rows: Sequence[_Row], place: int, end: int) -> int | None:
    """The newest revision that is announced behind `place`, out of the rows if they reach the end of the log."""
    if rows and rows[-1][0] != end:
        newest: tuple[int | None] = connection.execute(_NEWEST_COMMITTED, (place, end)).fetchone()
        return newest[0]
    return max((row[2] for row in rows if row[4]), default=None)


def _events(
    connection: sqlite3.Connection, key: int, session_id: str, epoch: str, after: int, rows: Sequence[_Row]
) -> tuple[SessionObservationEvent, ...]:
    """Up to `REPLAY_BATCH` events behind the place `after`, out of the rows that hold them."""
    first_place, _ = places(key)
    events: list[SessionObservationEvent] = []
    for place, count, revision, turn_id, _, body, at_ms in rows:
        before = max(place - count, after)
        skipped = before - (place - count)
        payloads = payloads_of(session_id, turn_id, body, skipped)
        # What stands before a commit in its row was shown at the revision before.
        shown = next((number for number, payload in enumerate(payloads) if isinstance(payload, StateCommitted)), 0)
        for number, payload in enumerate(payloads):
            shown_at = revision - 1 if number < shown else revision
            cursor = SessionCursor(epoch, shown_at, before - first_place + 1 + number, session_id)
            whole = _with_answer(connection, key, payload)
            events.append(SessionObservationEvent(session_id, shown_at, cursor, whole, turn_id, at_ms))
        if len(events) >= REPLAY_BATCH:
            break
    return tuple(events[:REPLAY_BATCH])


def _with_answer(connection: sqlite3.Connection, key: int, payload: ObservationPayload) -> ObservationPayload:
    """How a turn ended, with the answer its commit stored."""
    if not isinstance(payload, ActivityObserved) or not isinstance(payload.activity.event, TurnFinished):
        return payload
    activity, finished = payload.activity, payload.activity.event
    outcome = outcome_of(connection, key, activity.turn_id, finished.outcome)
    whole = msgspec.structs.replace(finished, outcome=outcome)
    return ActivityObserved(msgspec.structs.replace(activity, event=whole))


def _cut(connection: sqlite3.Connection, session_id: str, scope: ReadScope) -> LiveCut:
    stored = find_session(connection, session_id)
    if stored is None:
        return LiveCut(SessionCursor(GENESIS, 0, 0, session_id))
    log = connection.execute(_LOG, (stored.key,)).fetchone()
    epoch, tail = (GENESIS, 0) if log is None else (log[0], _tail_of(connection, stored.key, log[1]))
    cursor = SessionCursor(epoch, stored.head_revision or 0, tail, session_id)
    return LiveCut(cursor, decode(stored.config, PersistedSessionConfig), graph.load_in(connection, session_id, scope))


def _after_last_commit(connection: sqlite3.Connection, session_id: str) -> SessionCursor:
    stored = find_session(connection, session_id)
    log = None if stored is None else connection.execute(_LOG, (stored.key,)).fetchone()
    if stored is None or log is None:
        return SessionCursor(GENESIS, 0 if stored is None else stored.head_revision or 0, 0, session_id)
    last = connection.execute(_LAST_COMMITTED, places(stored.key)).fetchone()
    return SessionCursor(log[0], stored.head_revision or 0, 0 if last is None else last[0], session_id)


class LiveEvents:
    """The live logs of one database; implements `store.live.LiveStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        # On the monotonic clock: before that, previews go to the writing thread.
        self._here_again_at = 0.0

    @property
    def bell_name(self) -> str:
        """See `LiveStore.bell_name`: the file's device and inode, so links to it share one name."""
        return self._db.identity

    def ring_with(self, ring: Callable[[Mapping[str, LiveNews]], None]) -> None:
        """See `LiveStore.ring_with`."""
        self._db.writer.ring = ring

    def append_previews(
        self,
        session_id: str,
        take: Callable[[], Sequence[TurnActivity]],
        *,
        generation: int,
        on_failed: Callable[[BaseException], None],
    ) -> None:
        """See `LiveStore.append_previews`: one small transaction that is not synced, on the caller's thread when it is
        brief and nobody is in the way."""
        lost = self._db.writer.lost_previews
        taken: Sequence[TurnActivity] | None = None
        packed: list[PackedRow] | None = None

        def rows() -> list[PackedRow]:
            nonlocal taken, packed
            # Asked again after a transaction was taken back; what was taken then is here.
            if packed is None:
                taken = take() if taken is None else taken
                packed = activity_rows(taken)
            return packed

        def is_brief() -> bool:
            return sum(len(row.body) for row in rows()) <= _BRIEF_CHARS

        def job(connection: sqlite3.Connection) -> None:
            try:
                shown = rows()
                row = connection.execute(_SESSION, (session_id,)).fetchone()
                if row is None or row[2] != generation or not shown:
                    return
                key, revision, _ = row
                behind = [(revision, one) for one in shown]
                append_rows_in(connection, key, session_id, behind, now_ms=self._db.clock.now_ms())
            except BaseException:
                # Known before the next job of this thread runs, so that a commit right behind leaves the hole.
                lost[session_id] = object()
                raise

        def settle(future: asyncio.Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                lost[session_id] = object()
                on_failed(error)

        try:
            if not self._is_written_here(job, is_brief):
                self._db.write_later(job, waits_for_company=False).add_done_callback(settle)
        except BaseException:
            # Ctrl-C: nobody knows what became of what was taken, and a hole too many costs a re-read.
            lost[session_id] = object()
            raise

    def _is_written_here(self, job: Callable[[sqlite3.Connection], None], is_brief: Callable[[], bool]) -> bool:
        """Write previews on this thread if they are brief, and the last ones it wrote are a moment ago."""
        now = time.monotonic()
        if now < self._here_again_at or not self._db.write_at_once(job, is_brief=is_brief):
            return False
        self._here_again_at = now + _APART_SECONDS
        return True

    def lose_previews(self, session_id: str) -> None:
        """See `LiveStore.lose_previews`."""
        self._db.writer.lost_previews[session_id] = object()

    async def retract_attempt(self, session_id: str, turn_id: str, *, generation: int, activity_id: str) -> bool:
        """See `LiveStore.retract_attempt`."""

        def job(connection: sqlite3.Connection) -> bool:
            row = connection.execute(_SESSION, (session_id,)).fetchone()
            if row is None or row[2] != generation:
                return False
            key, revision, _ = row
            bodies = [body for (body,) in connection.execute(_SHOWN_BY_TURN, (*places(key), turn_id))]
            prose, reasoning = standing_text(bodies)
            if not prose and not reasoning:
                return False
            now_ms = self._db.clock.now_ms()
            reset = ModelAttemptReset(prose, reasoning)
            activity = TurnActivity(
                session_id, turn_id, f"{turn_id}:{generation}:taken-over", reset, now_ms, activity_id
            )
            (shown,) = activity_rows((activity,))
            append_in(connection, key, session_id, shown, revision=revision, now_ms=now_ms)
            return True

        return await self._db.write(job, durable=False)

    async def cut(self, session_id: str, scope: ReadScope) -> LiveCut:
        """See `LiveStore.cut`."""
        if scope is ReadScope.HEAD:
            return self._db.read(lambda connection: _cut(connection, session_id, scope))
        return await self._db.read_bulk(lambda connection: _cut(connection, session_id, scope))

    async def replay(self, cursor: SessionCursor) -> LiveReplay:
        """See `LiveStore.replay`; a look is short and done inline. Raises as `Writer.require_place`: nothing follows in
        a file that was replaced."""
        found = self._db.read(lambda connection: _replay(connection, cursor, self._db.clock.now_ms()))
        self._db.writer.require_place()
        return found

    async def after_last_commit(self, session_id: str) -> SessionCursor:
        """See `LiveStore.after_last_commit`."""
        return self._db.read(lambda connection: _after_last_commit(connection, session_id))

    @property
    def carried(self) -> Carried:
        """See `LiveReading.carried`."""
        from lash_cli.store.sqlite.carried import carried_after  # only who watches needs it (design D16)

        return carried_after

    async def trim_session(self, session_id: str) -> int:
        """See `LiveStore.trim_session`."""

        def job(connection: sqlite3.Connection) -> int:
            row = connection.execute(_SESSION, (session_id,)).fetchone()
            tail = 0 if row is None else _tail_of(connection, row[0], 0)
            return _trim(connection, row[0], tail, self._db.clock.now_ms()) if tail else 0

        return await self._db.write(job, durable=False)
