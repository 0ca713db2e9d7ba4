"""The live log in rows: one ring per session, appended by whoever changes the session (contract 04 §10).

A durable transition calls `append_in` inside its own transaction, so its event
can neither be lost nor precede its state; previews come in small transactions
that nobody waits for and nothing syncs. Positions are given out by the one row
of `live_log`, in commit order, and never twice in an epoch: a log written under
another boot or in another file than before starts a new epoch, because what was
acknowledged there may be missing here. Bounds hold on read; rows are deleted
every 64 appends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from lash_cli.core.activity import AssistantProseDelta, ModelAttemptReset, ReasoningShown, TurnActivity, TurnEvent
from lash_cli.core.codec import decode, decode_any, encode
from lash_cli.core.observation import (
    GENESIS,
    MAX_AGE_MS,
    MAX_EVENTS,
    REPLAY_BATCH,
    ActivityObserved,
    LogBounds,
    ObservationPayload,
    ProcessChanged,
    QueueChanged,
    ResidentChanged,
    SessionCursor,
    SessionObservationEvent,
    judge_position,
    judge_revision,
    payload_type,
)
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.store.base import ReadScope
from lash_cli.store.live import LiveCut, LiveReplay
from lash_cli.store.sqlite import graph
from lash_cli.store.sqlite.announcing import WriterConnection, new_epoch
from lash_cli.store.sqlite.database import Database
from lash_cli.store.sqlite.sessions import find_session

if TYPE_CHECKING:
    import asyncio

_TRIM_EVERY: Final = 64
_ACTIVITY: Final = "turn_activity"

# Contract 04 §10.1: the one authority that gives out positions; nothing happens under another stamp. A loss consumes
# one position before the events, and every cursor at or before it gaps.
_ADVANCE = """
UPDATE live_log SET tail = tail + :losses + :count, hole = iif(:losses, tail + 1, hole)
WHERE session_key = :key AND stamp = :stamp RETURNING tail
"""
# Contract 04 §10.2: the first event of a session, or the first one after the file changed its identity.
_MINT = """
INSERT INTO live_log (session_key, epoch, stamp, tail, hole) VALUES (:key, :epoch, :stamp, :losses + :count, :losses)
ON CONFLICT (session_key) DO UPDATE SET epoch = excluded.epoch, stamp = excluded.stamp, tail = excluded.tail,
    generation = generation + 1, floor = 0, hole = excluded.hole
"""
_INSERT = """
INSERT INTO live_event (session_key, pos, revision, turn_id, type, body, at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
# The first event young enough to keep; the walk over the old ones is paid for by their deletion.
_FIRST_YOUNG = "SELECT pos FROM live_event WHERE session_key = ? AND at_ms >= ? ORDER BY pos LIMIT 1"
_TRIM = "DELETE FROM live_event WHERE session_key = ? AND pos <= ?"
_RAISE_FLOOR = "UPDATE live_log SET floor = max(floor, ?) WHERE session_key = ?"
_TAIL = "SELECT tail FROM live_log WHERE session_key = ?"
_DELETE_EVENTS = "DELETE FROM live_event WHERE session_key = ?"
_DELETE_LOG = "DELETE FROM live_log WHERE session_key = ?"
# Who may append previews: only the generation that holds the lane, or held it last.
_SESSION = "SELECT session_key, coalesce(head_revision, 0), lease_fencing_token FROM sessions WHERE session_id = ?"
# One look of a tail: head, lane and log in one row.
_LOOK = """
SELECT s.session_key, coalesce(s.head_revision, 0), s.lease_token IS NOT NULL AND ? < s.lease_expires_at_ms,
    l.epoch, l.tail, l.floor, l.hole, l.generation = 1
FROM sessions s LEFT JOIN live_log l ON l.session_key = s.session_key WHERE s.session_id = ?
"""
_LOG = "SELECT epoch, tail FROM live_log WHERE session_key = ?"
_SUFFIX = """
SELECT pos, revision, turn_id, type, body, at_ms FROM live_event WHERE session_key = ? AND pos > ? ORDER BY pos LIMIT ?
"""
# Contract 04 §4: only a `committed` proves that no commit was missed.
_NEWEST_COMMITTED = "SELECT max(revision) FROM live_event WHERE session_key = ? AND pos > ? AND type = 'committed'"
# Contract 04 §10.3: what a turn has shown and not taken back.
_SHOWN_BY_TURN = """
SELECT body FROM live_event WHERE session_key = ? AND turn_id = ? AND type = 'turn_activity' ORDER BY pos
"""


# --- appending ----------------------------------------------------------------------------------


class PreparedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event encoded before the transaction that appends it."""

    type: str
    body: str
    turn_id: str | None = None


class _ActivityBody(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """An activity without what its row says anyway: most rows are a few characters of text."""

    id: str
    correlation_id: str
    at_ms: int
    event: TurnEvent


def prepare_event(payload: ObservationPayload, turn_id: str | None = None) -> PreparedEvent:
    """The row of a payload; `turn_id` is that of its activity, or the turn a commit settles."""
    if not isinstance(payload, ActivityObserved):
        return PreparedEvent(payload_type(payload), encode(payload).decode(), turn_id)
    activity = payload.activity
    body = _ActivityBody(activity.id, activity.correlation_id, activity.at_ms, activity.event)
    return PreparedEvent(payload_type(payload), encode(body).decode(), activity.turn_id)


def _payload_of(session_id: str, turn_id: str | None, kind: str, body: str) -> ObservationPayload:
    """The payload of a row."""
    if kind != _ACTIVITY:
        payload: ObservationPayload = decode_any(body, ObservationPayload)
        return payload
    stored = decode(body, _ActivityBody)
    return ActivityObserved(
        TurnActivity(session_id, turn_id or "", stored.correlation_id, stored.event, stored.at_ms, stored.id)
    )


def append_in(
    connection: sqlite3.Connection,
    session_key: int,
    session_id: str,
    events: Sequence[PreparedEvent],
    *,
    revision: int,
    now_ms: int,
) -> None:
    """Append `events` to the log of a session inside the caller's transaction, at consecutive positions.

    Observers are woken after COMMIT. `connection` is the writer's own.
    """
    assert isinstance(connection, WriterConnection)
    count = len(events)
    loss = connection.lost.get(session_id)
    losses = 0 if loss is None else 1
    if loss is not None:
        connection.holes[session_id] = loss
    change = {"key": session_key, "stamp": connection.stamp, "count": count, "losses": losses}
    row = connection.execute(_ADVANCE, change).fetchone()
    if row is None:
        mint_in(connection, session_key, count=count, losses=losses)
    tail = count + losses if row is None else int(row[0])
    position = tail - count
    connection.executemany(
        _INSERT,
        [
            (session_key, position + index, revision, event.turn_id, event.type, event.body, now_ms)
            for index, event in enumerate(events, 1)
        ],
    )
    if tail // _TRIM_EVERY != position // _TRIM_EVERY:
        _trim(connection, session_key, tail, now_ms)
    connection.tails[session_id] = tail


def mint_in(connection: sqlite3.Connection, session_key: int, *, count: int = 0, losses: int = 0) -> None:
    """Start a new generation of a log, empty but for the positions about to be written: no cursor of before
    continues."""
    assert isinstance(connection, WriterConnection)
    connection.execute(_DELETE_EVENTS, (session_key,))
    new = {"key": session_key, "epoch": new_epoch(), "stamp": connection.stamp, "count": count, "losses": losses}
    connection.execute(_MINT, new)


def _trim(connection: sqlite3.Connection, session_key: int, tail: int, now_ms: int) -> int:
    young = connection.execute(_FIRST_YOUNG, (session_key, now_ms - MAX_AGE_MS)).fetchone()
    floor = max(tail - MAX_EVENTS, tail if young is None else young[0] - 1)
    if floor <= 0:
        return 0
    deleted = connection.execute(_TRIM, (session_key, floor)).rowcount
    connection.execute(_RAISE_FLOOR, (floor, session_key))
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
        append_in(connection, key, session_id, (prepare_event(event),), revision=revision, now_ms=now_ms)


def delete_in(connection: sqlite3.Connection, session_key: int, session_id: str) -> None:
    """Remove the log of a session inside the transaction that deletes it; observers learn that it is closed."""
    assert isinstance(connection, WriterConnection)
    connection.execute(_DELETE_EVENTS, (session_key,))
    connection.execute(_DELETE_LOG, (session_key,))
    connection.tails[session_id] = 0


# --- reading ------------------------------------------------------------------------------------


def _replay(connection: sqlite3.Connection, cursor: SessionCursor, now_ms: int) -> LiveReplay:
    session_id, position = cursor.session_id, cursor.position
    row = connection.execute(_LOOK, (now_ms, session_id)).fetchone()
    if row is None:
        find_session(connection, session_id)
        return LiveReplay(gap=judge_position(cursor.epoch, position, None, None, now_ms))
    key, head_revision, is_lane_held, epoch, tail, floor, hole, is_first_epoch = row
    log = None if epoch is None else LogBounds(epoch, tail, floor, hole, bool(is_first_epoch))
    rows = []
    if log is not None and position < tail:
        rows = connection.execute(_SUFFIX, (key, position, REPLAY_BATCH)).fetchall()
    next_at_ms = rows[0][5] if rows and rows[0][0] == position + 1 else None
    gap = judge_position(cursor.epoch, position, log, next_at_ms, now_ms)
    if gap is None and cursor.revision != head_revision:
        (committed,) = connection.execute(_NEWEST_COMMITTED, (key, position)).fetchone()
        gap = judge_revision(cursor.revision, head_revision, committed)
    if gap is not None:
        return LiveReplay(gap=gap, missed=max(0, (tail or 0) - position), is_lane_held=bool(is_lane_held))
    events = tuple(
        SessionObservationEvent(
            session_id,
            revision,
            SessionCursor(epoch, revision, pos, session_id),
            _payload_of(session_id, turn_id, kind, body),
            turn_id,
            at_ms,
        )
        for pos, revision, turn_id, kind, body, at_ms in rows
    )
    return LiveReplay(events, is_lane_held=bool(is_lane_held))


def _cut(connection: sqlite3.Connection, session_id: str, scope: ReadScope) -> LiveCut:
    stored = find_session(connection, session_id)
    if stored is None:
        return LiveCut(SessionCursor(GENESIS, 0, 0, session_id))
    log = connection.execute(_LOG, (stored.key,)).fetchone()
    epoch, tail = (GENESIS, 0) if log is None else log
    cursor = SessionCursor(epoch, stored.head_revision or 0, tail, session_id)
    return LiveCut(cursor, decode(stored.config, PersistedSessionConfig), graph.load_in(connection, session_id, scope))


def _standing_text(bodies: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Correlation ids of prose and of reasoning that were shown and not retracted since, in order."""
    prose: dict[str, None] = {}
    reasoning: dict[str, None] = {}
    for body in bodies:
        stored = decode(body, _ActivityBody)
        match stored.event:
            case AssistantProseDelta():
                prose[stored.correlation_id] = None
            case ReasoningShown():
                reasoning[stored.correlation_id] = None
            case ModelAttemptReset(assistant_prose_correlation_ids=gone, reasoning_correlation_ids=gone_reasoning):
                for correlation_id in gone:
                    prose.pop(correlation_id, None)
                for correlation_id in gone_reasoning:
                    reasoning.pop(correlation_id, None)
    return tuple(prose), tuple(reasoning)


# --- the face -----------------------------------------------------------------------------------


class LiveEvents:
    """The live logs of one database; implements `store.live.LiveStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @property
    def bell_name(self) -> str:
        """See `LiveStore.bell_name`: the file's device and inode, so links to it share one name."""
        return self._db.identity

    def ring_with(self, ring: Callable[[Mapping[str, int]], None]) -> None:
        """See `LiveStore.ring_with`."""
        self._db.writer.ring = ring

    def append_previews(
        self,
        session_id: str,
        take: Callable[[], Sequence[TurnActivity]],
        *,
        generation: int,
        on_failed: Callable[[BaseException], None],
        precedes_commit: bool = False,
    ) -> None:
        """See `LiveStore.append_previews`: one small transaction that is not synced, or part of the next one."""
        lost = self._db.writer.lost_previews
        taken: Sequence[TurnActivity] | None = None

        def job(connection: sqlite3.Connection) -> None:
            nonlocal taken
            # A job may be run again after its transaction was taken back; what it took it has then.
            activities = taken = take() if taken is None else taken
            try:
                row = connection.execute(_SESSION, (session_id,)).fetchone()
                if row is None or row[2] != generation or not activities:
                    return
                events = [prepare_event(ActivityObserved(activity)) for activity in activities]
                append_in(connection, row[0], session_id, events, revision=row[1], now_ms=self._db.clock.now_ms())
            except BaseException:
                # Known before the next job of this thread runs, so that a commit right behind leaves the hole.
                lost[session_id] = object()
                raise

        def settle(future: asyncio.Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                lost[session_id] = object()
                on_failed(error)

        self._db.write_later(job, waits_for_company=precedes_commit).add_done_callback(settle)

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
            bodies = [body for (body,) in connection.execute(_SHOWN_BY_TURN, (key, turn_id))]
            prose, reasoning = _standing_text(bodies)
            if not prose and not reasoning:
                return False
            now_ms = self._db.clock.now_ms()
            reset = ModelAttemptReset(prose, reasoning)
            activity = TurnActivity(
                session_id, turn_id, f"{turn_id}:{generation}:taken-over", reset, now_ms, activity_id
            )
            event = prepare_event(ActivityObserved(activity))
            append_in(connection, key, session_id, (event,), revision=revision, now_ms=now_ms)
            return True

        return await self._db.write(job, durable=False)

    async def cut(self, session_id: str, scope: ReadScope) -> LiveCut:
        """See `LiveStore.cut`."""
        if scope is ReadScope.HEAD:
            return self._db.read(lambda connection: _cut(connection, session_id, scope))
        return await self._db.read_bulk(lambda connection: _cut(connection, session_id, scope))

    async def replay(self, cursor: SessionCursor) -> LiveReplay:
        """See `LiveStore.replay`; a look is short and done inline."""
        return self._db.read(lambda connection: _replay(connection, cursor, self._db.clock.now_ms()))

    async def trim_session(self, session_id: str) -> int:
        """See `LiveStore.trim_session`."""

        def job(connection: sqlite3.Connection) -> int:
            row = connection.execute(_SESSION, (session_id,)).fetchone()
            log = None if row is None else connection.execute(_TAIL, (row[0],)).fetchone()
            return 0 if log is None else _trim(connection, row[0], log[0], self._db.clock.now_ms())

        return await self._db.write(job, durable=False)
