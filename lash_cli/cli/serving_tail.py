"""Tails of `lash serve --stdio`: sessions followed for a peer, each by one request (contract 08 §8, 04 §5).

The lines are those of `lash tail -o jsonl`. The next item is read when the peer
has the one before, so a slow peer loses nothing and costs no memory.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lash_cli.cli.documents import Document
from lash_cli.cli.reading import read_session_row, reading_store
from lash_cli.cli.tail_cursor import LAST_COMMIT, START, Begin, parse_from, require_sessions
from lash_cli.cli.tail_plan import (
    UNTIL_COMMITTED,
    UNTIL_EVENT,
    UNTIL_IDLE,
    UNTIL_TURN,
    abandoned_error,
    ended_error,
    gap_error,
    has_commit,
    is_end,
)
from lash_cli.cli.tail_stream import EVENT_TYPES, JsonTail, observed_document
from lash_cli.cli.tail_watched import Watched
from lash_cli.core.observation import GENESIS, SessionCursor
from lash_cli.errors import LashError, NotFoundError, UsageError
from lash_cli.runtime.observing import ObservedGap, RecoveringStream

if TYPE_CHECKING:
    from lash_cli.cli.serving_parameters import TailParameters
    from lash_cli.remote.rpc import Call
    from lash_cli.store.base import RuntimePersistence, SessionRow

_LOOK_SECONDS: Final = 0.25


class Tails:
    """The tails of one server."""

    def __init__(self) -> None:
        self._stops: dict[str | int, asyncio.Event] = {}
        self._endless: set[str | int] = set()
        self._may_be_endless = True
        self._may_begin = True

    def stop_endless(self) -> None:
        """Let those end that have no end of their own, and from now on such a tail is over when it begins."""
        self._may_be_endless = False
        for request_id in self._endless:
            self._stops[request_id].set()

    def stop_all(self) -> None:
        """Let every tail end, and from now on each is over when it begins."""
        self._may_begin = self._may_be_endless = False
        for stop in self._stops.values():
            stop.set()

    async def follow(self, asked: TailParameters, reference: str | None, call: Call) -> Document:
        """Follow a session to the end that was asked for, or stop another tail; the RpcTail document."""
        if asked.stop is not None:
            return self._stop(asked.stop)
        _check_types(asked.types)
        begin = parse_from(asked.begin)
        stop = self._stops[call.id] = asyncio.Event()
        is_endless = asked.follow and asked.until is None and asked.timeout_ms is None
        if is_endless:
            self._endless.add(call.id)
        if not self._may_begin or (is_endless and not self._may_be_endless):
            stop.set()
        try:
            async with reading_store() as opened:
                row = await read_session_row(opened, reference)
                assert opened is not None, "without a store no session was found"
                require_sessions(begin, [row.meta.session_id])
                session = await _watched(opened, row, begin)
                tail = _Tail(asked, session, stop, call)
                return await tail.run(begin.word)
        finally:
            del self._stops[call.id]
            self._endless.discard(call.id)

    def _stop(self, request_id: str | int) -> Document:
        stop = self._stops.get(request_id)
        if stop is None:
            raise NotFoundError(
                f"no tail {request_id!r} is under way", code="request_not_found", details={"request": request_id}
            )
        stop.set()
        return {"session": None, "reason": "stopping", "cursor": None}


async def _watched(store: RuntimePersistence, row: SessionRow, begin: Begin) -> Watched:
    cursor = begin.cursors.get(row.meta.session_id)
    session = Watched(store, row, cursor or SessionCursor(GENESIS, 0, 0, row.meta.session_id))
    session.first_turn_id = await session.last_turn_id()
    if begin.word == LAST_COMMIT:
        session.cursor = await session.last_commit_cursor()
    elif cursor is None:
        session.cursor = await session.head_cursor()
    return session


def _check_types(types: list[str] | None) -> None:
    for word in types or ():
        if word not in EVENT_TYPES:
            hint = f"there are: {', '.join(EVENT_TYPES)}"
            raise UsageError(f"no event type {word!r}", code="invalid_params", hint=hint)


class _Lines(NamedTuple):
    """The peer of a tail."""

    call: Call

    async def write(self, text: str) -> None:
        """Return when the peer has `text`."""
        for line in text.splitlines():
            self.call.event(line)
        await self.call.flush()


class _Tail:
    """One session, followed."""

    def __init__(self, asked: TailParameters, session: Watched, stop: asyncio.Event, call: Call) -> None:
        self._asked = asked
        self._session = session
        self._stop = stop
        self._sink = JsonTail(_Lines(call))
        # Whether what is waited for will not come, because its writer died.
        self._is_given_up = False

    async def run(self, begun: str) -> Document:
        session = self._session
        error: LashError | None = None
        self._sink.start([session], begun)
        try:
            if begun == START:
                observation = await session.observed.current_observation()
                session.cursor = observation.cursor
                self._sink.snapshot(session, observation)
            await self._sink.flush()
            reason = await self._follow()
            error = await self._outcome_error(reason)
        except LashError as failure:
            reason, error = "error", failure
        await self._sink.end([session], reason, error.exit_status if error is not None else 0, error)
        if error is not None:
            raise error
        return {"session": session.session_id, "reason": reason, "cursor": str(session.cursor)}

    async def _follow(self) -> str:
        """Tell everything until the end; why it ended."""
        loop = asyncio.get_running_loop()
        limit = self._asked.timeout_ms
        deadline = None if limit is None else loop.time() + limit / 1000
        stream = self._session.observed.subscribe_and_recover(self._session.cursor)
        stopped = asyncio.ensure_future(self._stop.wait())
        pull: asyncio.Task[Any] | None = None
        seconds = 0.0
        try:
            while not self._stop.is_set():
                if deadline is not None and loop.time() >= deadline:
                    return "timeout"
                pull = pull or asyncio.ensure_future(stream.__anext__())
                left = seconds if deadline is None else min(seconds, max(0.0, deadline - loop.time()))
                await asyncio.wait({pull, stopped}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if pull.done():
                    item, pull, seconds = pull.result(), None, 0.0
                    if await self._tell(stream, item):
                        return self._asked.until or UNTIL_TURN
                elif (end := await self._end_of_waiting()) is not None:
                    return end
                else:
                    seconds = _LOOK_SECONDS
            return "stopped"
        finally:
            stopped.cancel()
            if pull is not None:
                pull.cancel()
            await asyncio.gather(stopped, *([pull] if pull is not None else []), return_exceptions=True)
            await stream.aclose()

    async def _tell(self, stream: RecoveringStream, item: Any) -> bool:
        """Tell one item; whether it is the end that was asked for."""
        session = self._session
        if isinstance(item, ObservedGap):
            self._sink.gap(session, item)
            await self._sink.flush()
            if self._asked.strict_gap:
                raise gap_error(session, item)
            newest = await session.last_turn_id()
            is_new = newest is not None and newest != session.first_turn_id
            is_over = is_new if self._asked.until == UNTIL_TURN else has_commit(item)
        else:
            event = item.event
            kind, document = observed_document(event)
            if self._asked.types is None or kind in self._asked.types:
                await self._sink.event(session, event, kind, document)
            is_over = is_end(self._asked.until, event)
            if is_over:
                session.ended_turn_id = event.turn_id
        await self._sink.flush()
        session.cursor = stream.cursor
        return is_over and self._asked.until in UNTIL_EVENT

    async def _end_of_waiting(self) -> str | None:
        """Why nothing is to be waited for, when nothing is there to be told; None while something is."""
        session = self._session
        if not self._asked.follow:
            return UNTIL_IDLE if await session.is_caught_up() else None
        if self._asked.until == UNTIL_IDLE:
            return UNTIL_IDLE if await session.is_at_rest() else None
        if self._asked.until not in UNTIL_EVENT:
            return None
        row = await session.row()
        self._is_given_up = row is not None and await session.is_abandoned(row)
        return self._asked.until if self._is_given_up else None

    async def _outcome_error(self, reason: str) -> LashError | None:
        """What the turn stands for that the tail was to wait for."""
        if self._asked.until is None or reason not in (UNTIL_IDLE, *UNTIL_EVENT):
            return None
        if reason == UNTIL_COMMITTED and not self._is_given_up:
            return None
        if self._session.ended_turn_id is None and self._session.abandoned_turn_id is not None:
            return abandoned_error(self._session, self._session.abandoned_turn_id)
        result = await self._session.ended_result()
        return ended_error(result) if result is not None else None
