"""Which of the sessions of a store `lash tail` watches at a time (contract 08 §8).

A watched session has a socket and a task of its own, so no more than
`MAX_WATCHED` are watched at once. One that is left out keeps its place: it is
watched from there as soon as it has committed something, and a session that is
at rest and shown to its end makes room for it. So nothing of any session is
missed, however many there are; what was left out is only told later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

from lash_cli.cli.tail_watched import Watched
from lash_cli.core.observation import GENESIS, SessionCursor
from lash_cli.errors import LiveReplayClosed, SessionDeleted
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock

MAX_WATCHED: Final = 128
# How often room is looked for while every watched session is busy.
_ROOM_SECONDS: Final = 0.25
_PAGE: Final = 100
# A session that was listed may have committed at any moment since the listing began, by a clock that differs a little.
_SLACK_MS: Final = 10_000


class Crowd:
    """The watched sessions by id, and the places of those that are left out."""

    def __init__(self, *, follows: bool) -> None:
        """`follows`: what is shown to its end may go on, so that only who is at rest makes room."""
        self._follows = follows
        self.watched: dict[str, Watched] = {}
        self._followers: dict[str, asyncio.Task[Any]] = {}
        self._places: dict[str, SessionCursor] = {}
        self._shown_at: dict[str, float] = {}
        self._change_mark: int | None = None
        self._listed_until_ms = 0

    async def all(self, store: RuntimePersistence) -> list[SessionRow]:
        """Every session, those that somebody works on first, then the newest activity."""
        # The mark is read before the listing: what is committed meanwhile is looked for again.
        self._change_mark = await store.change_mark()
        rows = {row.meta.session_id: row for row in await self._listed(store, since_ms=None)}
        return sorted(rows.values(), key=lambda row: row.running_turn_id is None)

    async def news(self, store: RuntimePersistence) -> list[SessionRow]:
        """The sessions that are not watched and have something to show: new ones, and those that committed."""
        mark = await store.change_mark()
        if mark == self._change_mark:
            return []
        self._change_mark = mark
        since_ms = min(self._listed_until_ms, SystemClock().now_ms()) - _SLACK_MS
        return [row for row in await self._listed(store, since_ms=since_ms) if self._is_news(row)]

    async def _listed(self, store: RuntimePersistence, *, since_ms: int | None) -> list[SessionRow]:
        rows: list[SessionRow] = []
        cursor: str | None = None
        while True:
            page, cursor = await store.list_sessions(limit=_PAGE, cursor=cursor)
            rows += page
            if cursor is None or (since_ms is not None and _active_at(page[-1]) < since_ms):
                break
        self._listed_until_ms = max([self._listed_until_ms, *map(_active_at, rows[:1])])
        return rows

    def _is_news(self, row: SessionRow) -> bool:
        session_id = row.meta.session_id
        place = self._places.get(session_id)
        return session_id not in self.watched and (place is None or place.revision != (row.head_revision or 0))

    @property
    def is_full(self) -> bool:
        """Whether somebody must make room first."""
        return len(self.watched) >= MAX_WATCHED

    def place_of(self, session_id: str) -> SessionCursor:
        """Where a session goes on: of one that is new, everything is to be shown."""
        return self._places.get(session_id) or SessionCursor(GENESIS, 0, 0, session_id)

    def take(self, session: Watched) -> None:
        """The session is watched from here on."""
        self._places.pop(session.session_id, None)
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
        self._places[session.session_id] = session.cursor

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


def _active_at(row: SessionRow) -> int:
    return max(row.meta.created_at_ms, row.last_commit_at_ms or 0)


def ids_of(rows: Iterable[SessionRow]) -> frozenset[str]:
    """The ids of sessions."""
    return frozenset(row.meta.session_id for row in rows)
