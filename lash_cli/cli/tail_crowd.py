"""Which of the sessions of a store `lash tail` watches at a time (contract 08 §8).

A watched session has a socket and a task of its own, so no more than
`MAX_WATCHED` are watched at once. One that is left out keeps its place: it is
watched from there as soon as it has committed something, and a session that is
at rest and shown to its end makes room for it. So nothing of any session is
missed, however many there are; what was left out is only told later. An end
that waits for everybody to be at rest waits for those left out too: who works,
or left a turn unfinished, is watched before that is judged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import Any, Final

from lash_cli.cli.documents import is_lease_live
from lash_cli.cli.tail_watched import Watched
from lash_cli.core.observation import SessionCursor
from lash_cli.errors import LiveReplayClosed, SessionDeleted
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock, is_definitely_dead

MAX_WATCHED: Final = 128
# How often room is looked for while every watched session is busy.
_ROOM_SECONDS: Final = 0.25
_PAGE: Final = 100
# A session that was listed may have committed at any moment since the listing began, by a clock that differs a little.
_SLACK_MS: Final = 10_000


class Crowd:
    """The watched sessions by id, and those that are left out, each with its place."""

    def __init__(self, *, follows: bool) -> None:
        """`follows`: what is shown to its end may go on, so that only who is at rest makes room."""
        self._follows = follows
        self.watched: dict[str, Watched] = {}
        self._followers: dict[str, asyncio.Task[Any]] = {}
        self._left_out: dict[str, Watched] = {}
        self._shown_at: dict[str, float] = {}
        self._change_mark: int | None = None
        self._listed_until_ms = 0

    async def all(self, store: RuntimePersistence) -> list[SessionRow]:
        """Every session, those that somebody works on first, then the newest activity."""
        # The mark is read before the listing: what is committed meanwhile is looked for again.
        self._change_mark = await store.change_mark()
        rows = {row.meta.session_id: row for row in await self._newly_listed(store, since_ms=None)}
        return sorted(rows.values(), key=lambda row: row.running_turn_id is None)

    async def news(self, store: RuntimePersistence) -> list[SessionRow]:
        """The sessions that are not watched and have something to show: new ones, and those that committed."""
        mark = await store.change_mark()
        if mark == self._change_mark:
            return []
        self._change_mark = mark
        since_ms = min(self._listed_until_ms, SystemClock().now_ms()) - _SLACK_MS
        return [row for row in await self._newly_listed(store, since_ms=since_ms) if self._is_news(row)]

    async def unsettled(self, store: RuntimePersistence) -> list[SessionRow]:
        """The sessions that are not watched and are not known to be at rest: somebody works on them, or left a turn
        unfinished that may still be taken over, or they have something to show. Reads the whole listing."""
        now_ms = SystemClock().now_ms()
        rows = await _listed(store, since_ms=None)
        return [row for row in rows if self._is_news(row) or self._is_at_work(row, now_ms)]

    def _is_at_work(self, row: SessionRow, now_ms: int) -> bool:
        if row.meta.session_id in self.watched:
            return False
        if is_lease_live(row.lease, now_ms, is_definitely_dead):
            return True
        known = self._left_out.get(row.meta.session_id)
        return row.running_turn_id is not None and (known is None or known.abandoned_turn_id != row.running_turn_id)

    async def _newly_listed(self, store: RuntimePersistence, *, since_ms: int | None) -> list[SessionRow]:
        rows = await _listed(store, since_ms=since_ms)
        self._listed_until_ms = max([self._listed_until_ms, *map(_active_at, rows[:1])])
        return rows

    def _is_news(self, row: SessionRow) -> bool:
        session_id = row.meta.session_id
        known = self._left_out.get(session_id)
        return session_id not in self.watched and (known is None or known.cursor.revision != (row.head_revision or 0))

    @property
    def is_full(self) -> bool:
        """Whether somebody must make room first."""
        return len(self.watched) >= MAX_WATCHED

    @property
    def left_out(self) -> Collection[Watched]:
        """The sessions that are not watched, as they were when they were left out."""
        return self._left_out.values()

    def place_of(self, session_id: str) -> SessionCursor | None:
        """Where a session goes on that was left out; None for a new one, of which everything is to be shown."""
        known = self._left_out.get(session_id)
        return None if known is None else known.cursor

    def take(self, session: Watched) -> None:
        """The session is watched from here on."""
        self._left_out.pop(session.session_id, None)
        self.watched[session.session_id] = session
        self.shown(session)

    def followed_by(self, session: Watched, task: asyncio.Task[Any]) -> None:
        """`task` shows the session; it ends when the session makes room."""
        self._followers[session.session_id] = task

    def shown(self, session: Watched) -> None:
        """Something of the session was shown."""
        self._shown_at[session.session_id] = time.monotonic()

    def leave_out(self, session: Watched) -> None:
        """The session is not watched any more, and goes on from its cursor once it has committed something."""
        self.forget(session.session_id)
        self._left_out[session.session_id] = session

    def forget(self, session_id: str) -> None:
        """The session is gone, or not watched."""
        self.watched.pop(session_id, None)
        self._shown_at.pop(session_id, None)
        follower = self._followers.pop(session_id, None)
        if follower is not None and follower is not asyncio.current_task():
            follower.cancel()

    async def make_room(self, turnstile: asyncio.Lock) -> None:
        """Return when one more session may be watched; nothing is shown while one is left out, hence `turnstile`."""
        while self.is_full:
            async with turnstile:
                quiet = await self._quietest()
                if quiet is not None:
                    self.leave_out(quiet)
                    return
            await asyncio.sleep(_ROOM_SECONDS)

    async def _quietest(self) -> Watched | None:
        """The session that has shown nothing for longest, of those that may be left out."""
        for session_id in sorted(self._followers, key=lambda name: self._shown_at.get(name, 0.0)):
            session = self.watched.get(session_id)
            try:
                if session is not None and await (session.is_at_rest() if self._follows else session.is_caught_up()):
                    return session
            except (LiveReplayClosed, SessionDeleted):
                continue  # its follower says so
        return None


async def _listed(store: RuntimePersistence, *, since_ms: int | None) -> list[SessionRow]:
    """Every session, or those that were active since then and a few more; the newest activity first."""
    rows: list[SessionRow] = []
    cursor: str | None = None
    while True:
        page, cursor = await store.list_sessions(limit=_PAGE, cursor=cursor)
        rows += page
        if cursor is None or (since_ms is not None and _active_at(page[-1]) < since_ms):
            return rows


def _active_at(row: SessionRow) -> int:
    return max(row.meta.created_at_ms, row.last_commit_at_ms or 0)


def ids_of(rows: Iterable[SessionRow]) -> frozenset[str]:
    """The ids of sessions."""
    return frozenset(row.meta.session_id for row in rows)
