"""One run of `lash tail`: who is watched, what ends it, and with which status (contract 08 §8, 04 §5).

Every session has a task of its own; what it got is shown, and its cursor kept,
before the next item of any session is. An end waits for that, so a tail that is
told to stop never leaves half an item behind. Nothing here writes to the store,
takes a lane or needs a key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from lash_cli.cli.failure import told_as
from lash_cli.cli.following import Following, Stoppable, following
from lash_cli.cli.output import warn, warn_of_raw
from lash_cli.cli.reading import read_session_row, reading_store
from lash_cli.cli.tail_crowd import MAX_WATCHED, Crowd, ids_of
from lash_cli.cli.tail_cursor import CURSOR, LAST_COMMIT, START, require_sessions
from lash_cli.cli.tail_plan import (
    UNTIL_COMMITTED,
    UNTIL_EVENT,
    UNTIL_IDLE,
    UNTIL_TURN,
    TailPlan,
    TailSink,
    abandoned_error,
    ended_error,
    gap_error,
    has_commit,
    is_end,
)
from lash_cli.cli.tail_stream import JsonTail, observed_document
from lash_cli.cli.tail_watched import HOLDER_SECONDS, Watched
from lash_cli.errors import LashError, LiveReplayClosed, NotFoundError, SessionDeleted
from lash_cli.runtime.observing import ObservedGap, RecoveringStream
from lash_cli.store.base import RuntimePersistence, SessionRow

_LOOK_SECONDS = 0.25
_DISCOVER_SECONDS = 1.0


class Tail:
    """A tail under way. `reason` says why it ended, and `begun` is who was watched from the beginning."""

    def __init__(
        self,
        plan: TailPlan,
        *,
        is_json: bool,
        is_live: bool = False,
        reader: Callable[[], AbstractAsyncContextManager[Stoppable]] = following,
    ) -> None:
        """`reader` is whom it is for: what stdout goes to, unless somebody else asked for JSON."""
        self._plan = plan
        self._is_json = is_json
        self._is_live = is_live
        self._reader = reader
        self.begun: list[Watched] = []
        self._crowd = Crowd(follows=plan.follows)
        self._introduced: set[str] = set()
        self._has_begun = False
        self._turnstile = asyncio.Lock()
        self._over = asyncio.Event()
        self.reason = ""
        # Whether what is waited for will not come, because its writer died.
        self._is_given_up = False
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sink: TailSink

    async def run(self) -> int:
        """Watch until the end and return the exit status; raises what the end stands for when that is an error."""
        async with reading_store() as opened:
            store, rows = await self._sessions(opened)
            begun = [(row, session) for row in rows if (session := await self._beginning(store, row)) is not None]
            self.begun = [session for _, session in begun]
            async with self._reader() as state:
                self.reason = state.stopped_by
                self._sink = self._make_sink(state, begun)
                return await self._watch(store, begun, state)

    async def _watch(
        self, store: RuntimePersistence, begun: Sequence[tuple[SessionRow, Watched]], state: Stoppable
    ) -> int:
        self._sink.start(self.begun, self._plan.begin.word)
        try:
            self._spawn(self._sink.run())
            if self._plan.seconds is not None:
                self._spawn(self._time_out(self._plan.seconds))
            self._spawn(self._begin(store, begun))
            if self._plan.heartbeat_seconds is not None:
                self._spawn(self._beat(self._plan.heartbeat_seconds))
            await state.until(self._over.wait())
            return await self._end(state)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _end(self, state: Stoppable) -> int:
        """Write the end, once the item under way is through."""
        self._over.set()
        failure = self._failure
        reason = self.reason
        async with self._turnstile:
            if failure is None and not state.is_over and reason in (UNTIL_IDLE, *UNTIL_EVENT):
                try:
                    failure = await self._outcome_error()
                except Exception as unreadable:  # noqa: BLE001 - told by the last line, and raised when that is written
                    failure = unreadable
            error = told_as(failure) if isinstance(failure, Exception) else None
            if error is not None and reason not in (UNTIL_IDLE, *UNTIL_EVENT):
                reason = "error"
            status = error.exit_status if error is not None else state.exit_status
            await self._sink.end(self.begun, reason, status, error)
        if failure is not None and not state.is_over:
            raise error or failure
        return state.exit_status

    async def _sessions(self, opened: RuntimePersistence | None) -> tuple[RuntimePersistence, list[SessionRow]]:
        """The sessions to begin with; raises for the first that is not found, before anything is shown."""
        rows: dict[str, SessionRow] = {}
        if self._plan.is_all:
            if opened is None:
                raise NotFoundError("there is no session yet", hint="make one with: lash open")
            listed = await self._crowd.all(opened)
            rows.update((row.meta.session_id, row) for row in listed)
            if self._plan.cursor_file is not None:
                self._plan.cursor_file.keep_only(ids_of(listed))
        for reference in self._plan.references:
            row = await read_session_row(opened, reference)
            rows.setdefault(row.meta.session_id, row)
        assert opened is not None, "without a store no session was found"
        if not self._plan.is_all:
            require_sessions(self._plan.begin, rows.keys())
        return opened, list(rows.values())

    async def _beginning(self, store: RuntimePersistence, row: SessionRow) -> Watched | None:
        """A session and the cursor it begins with; None for one of all that was deleted since it was listed."""
        begin = self._plan.begin
        cursor = begin.cursors.get(row.meta.session_id)
        session = Watched(store, row, cursor)
        session.is_new = cursor is None and self._plan.is_all and begin.word == CURSOR
        try:
            session.first_turn_id = await session.last_turn_id()
            if cursor is None and not session.is_new:
                is_behind_commit = begin.word == LAST_COMMIT
                session.cursor = await (session.last_commit_cursor() if is_behind_commit else session.head_cursor())
        except SessionDeleted:
            if self._plan.is_all:
                return None
            raise
        return session

    async def _begin(self, store: RuntimePersistence, begun: Sequence[tuple[SessionRow, Watched]]) -> None:
        if not self._plan.is_all:
            # Known from the beginning, so that the end of one does not seem to be the end of all.
            for _, session in begun:
                self._crowd.take(session)
        elif self._plan.follows and len(begun) > MAX_WATCHED:
            warn(
                f"{MAX_WATCHED} of {len(begun)} sessions are watched at a time: what the others commit is shown within "
                "a second or two"
            )
        for row, session in begun:
            if self._plan.is_all and self._crowd.is_full and await self._is_nothing_to_show(session):
                self._leave_out(session)
            else:
                await self._take_in(session, row, self._admit)
            if self._over.is_set():
                return
        if self._plan.cursor_file is not None:
            self._plan.cursor_file.write()
        self._has_begun = True
        self._end_if_all_idle()
        if self._plan.is_all:
            await self._discover(store)

    async def _is_nothing_to_show(self, session: Watched) -> bool:
        """Whether a session may be left out until it commits something."""
        try:
            return self._plan.begin.word != START and not session.is_new and await session.is_caught_up()
        except LiveReplayClosed:
            return False

    def _leave_out(self, session: Watched) -> None:
        self._crowd.leave_out(session)
        if self._plan.cursor_file is not None:
            self._plan.cursor_file.note(session.cursor)

    async def _take_in(
        self, session: Watched, row: SessionRow, begin: Callable[[Watched, SessionRow], Awaitable[None]]
    ) -> None:
        """Begin to show a session, once there is room for it, and follow it."""
        if self._plan.is_all:
            await self._crowd.make_room(self._turnstile)
        try:
            async with self._turnstile:
                if self._over.is_set():
                    return
                self._crowd.take(session)
                await begin(session, row)
                self._crowd.followed_by(session, self._spawn(self._follow(session)))
        except (LiveReplayClosed, SessionDeleted) as error:
            await self._gone(session, error)

    async def _admit(self, session: Watched, row: SessionRow) -> None:
        """Show where a session stands and follow it."""
        is_resumed = session.session_id in self._plan.begin.cursors or self._plan.begin.word == LAST_COMMIT
        from_start = self._plan.begin.word == START and not is_resumed
        is_shown_from_now = self._sink.shows_messages and not is_resumed and not self._plan.is_all
        # Where it begins is decided before anybody is told that it began: from then on nothing is missed.
        observation = None
        if session.is_new:
            observation = await session.begin_at_birth()
            from_start = self._plan.begin.word == START or not self._sink.shows_messages
        elif from_start or is_shown_from_now:
            observation = await session.observed.current_observation()
            session.cursor = observation.cursor
        elif is_resumed and self._sink.shows_messages:
            await session.begin_behind(session.cursor)
        await self._introduce(session, row)
        if observation is not None and from_start:
            self._sink.snapshot(session, observation)
        elif observation is not None:
            session.know(observation.read_view)
        self._tell_death(session, row)
        await self._sink.flush()
        self._save(session)

    async def _discover(self, store: RuntimePersistence) -> None:
        """Take in sessions that are new, and those that were left out and committed something."""
        while True:
            await asyncio.sleep(_DISCOVER_SECONDS)
            await self._take_in_all(store, await self._crowd.news(store))
            if self._is_all_idle and self._crowd.left_out:
                unsettled = await self._crowd.unsettled(store)
                await self._take_in_all(store, unsettled)
                if not unsettled and self._is_all_idle:
                    self._finish(UNTIL_IDLE)

    async def _take_in_all(self, store: RuntimePersistence, rows: Sequence[SessionRow]) -> None:
        for row in rows:
            place = self._crowd.place_of(row.meta.session_id)
            session = Watched(store, row, place)
            session.is_new = place is None
            await self._take_in(session, row, self._admit if session.is_new else self._introduce)

    async def _introduce(self, session: Watched, row: SessionRow) -> None:
        """Say that the session is watched, once."""
        if session.session_id not in self._introduced:
            self._introduced.add(session.session_id)
            self._sink.introduce(session, row)

    async def _follow(self, session: Watched) -> None:
        """Show everything of one session, in order, until the tail ends."""
        stream = session.observed.subscribe_and_recover(session.cursor)
        try:
            await (self._show_until_idle if self._ends_when_idle else self._show_all)(session, stream)
        except (LiveReplayClosed, SessionDeleted) as error:
            await self._gone(session, error)
        except StopAsyncIteration:
            # Closed by ourselves: the tail ends.
            return
        finally:
            await stream.aclose()

    async def _show_all(self, session: Watched, stream: RecoveringStream) -> None:
        """Show item after item. Nothing is done for one but to show it: a wait of its own for each would take longer
        than the item takes to come."""
        looking = self._spawn(self._look_after(session))
        try:
            while not self._over.is_set():
                await self._pass_on(session, stream, await stream.__anext__())
        finally:
            looking.cancel()

    async def _show_until_idle(self, session: Watched, stream: RecoveringStream) -> None:
        """Show item after item, and judge whenever there is none whether that is the end."""
        pull: asyncio.Task[Any] | None = None
        seconds = 0.0
        try:
            while not self._over.is_set():
                pull = pull or asyncio.ensure_future(stream.__anext__())
                await asyncio.wait({pull}, timeout=seconds)
                if not pull.done():
                    await self._rest(session)
                    seconds = _LOOK_SECONDS
                    continue
                item, pull, seconds = pull.result(), None, 0.0
                await self._pass_on(session, stream, item)
        finally:
            if pull is not None:
                pull.cancel()
                await asyncio.gather(pull, return_exceptions=True)

    async def _pass_on(self, session: Watched, stream: RecoveringStream, item: Any) -> None:
        """Show one item once the sink is ready for it and no other session's is being shown."""
        await self._sink.ready()
        async with self._turnstile:
            if not self._over.is_set():
                await self._show(session, stream, item)

    async def _show(self, session: Watched, stream: RecoveringStream, item: Any) -> None:
        """Show one item and keep its cursor. Called by one task at a time."""
        session.is_idle = False
        self._crowd.shown(session)
        if isinstance(item, ObservedGap):
            self._sink.gap(session, item)
            if self._plan.is_strict:
                await self._sink.flush()
                raise gap_error(session, item)
            if self._plan.until == UNTIL_TURN:
                is_over = await self._has_new_turn(session)
            else:
                is_over = self._plan.until == UNTIL_COMMITTED and has_commit(item)
        else:
            event = item.event
            kind, document = observed_document(event)
            if self._plan.types is None or kind in self._plan.types or not self._is_json:
                await self._sink.event(session, event, kind, document)
            is_over = is_end(self._plan.until, event)
            if is_over:
                session.ended_turn_id = event.turn_id
        await self._sink.flush()
        session.cursor = stream.cursor
        self._save(session)
        if is_over:
            self._finish(self._plan.until or UNTIL_TURN)

    async def _rest(self, session: Watched) -> None:
        """Nothing is there to be shown: judge whether that is the end, and whether a writer died."""
        session.is_idle = await (session.is_at_rest() if self._plan.follows else session.is_caught_up())
        self._end_if_all_idle()
        if session.is_look_due():
            await self._judge_holder(session)

    async def _look_after(self, session: Watched) -> None:
        """Notice while items come or do not come that a writer died."""
        while True:
            await asyncio.sleep(HOLDER_SECONDS)
            await self._judge_holder(session)

    async def _judge_holder(self, session: Watched) -> None:
        row = await session.row()
        if row is None:
            return
        if session.is_death_news(row):
            async with self._turnstile:
                if not self._over.is_set():
                    self._tell_death(session, row)
                    await self._sink.flush()
        if self._plan.until in UNTIL_EVENT and not self._plan.is_all and await session.is_abandoned(row):
            self._end_if_all_abandoned()

    def _end_if_all_abandoned(self) -> None:
        """A turn or a commit is waited for, and no turn of the named sessions ends unless somebody finishes it."""
        if all(session.abandoned_turn_id is not None for session in self._crowd.watched.values()):
            self._is_given_up = True
            self._finish(self._plan.until or UNTIL_TURN)

    @property
    def _ends_when_idle(self) -> bool:
        return not self._plan.follows or self._plan.until == UNTIL_IDLE

    @property
    def _is_all_idle(self) -> bool:
        watched = self._crowd.watched.values()
        return self._ends_when_idle and self._has_begun and all(session.is_idle for session in watched)

    def _end_if_all_idle(self) -> None:
        # Those left out had nothing to show, but may be at work: `_discover` looks.
        if self._is_all_idle and not (self._plan.follows and self._crowd.left_out):
            self._finish(UNTIL_IDLE if self._plan.follows else "caught_up")

    async def _has_new_turn(self, session: Watched) -> bool:
        """Whether a turn ended in a gap."""
        newest = await session.last_turn_id()
        is_new = newest is not None and newest != session.first_turn_id
        if is_new:
            session.ended_turn_id = newest
        return is_new

    def _tell_death(self, session: Watched, row: SessionRow) -> None:
        message = session.death(row)
        if message is not None:
            self._sink.holder_died(session, message)

    async def _gone(self, session: Watched, error: LiveReplayClosed | SessionDeleted) -> None:
        """A session is deleted: the end of a tail of it alone, a line among several."""
        is_deleted = isinstance(error, SessionDeleted) or bool(error.details.get("deleted"))
        if not is_deleted or (len(self._crowd.watched) == 1 and not self._plan.is_all):
            raise error
        async with self._turnstile:
            if self._over.is_set():
                return
            self._crowd.forget(session.session_id)
            self._sink.deleted(session)
            await self._sink.flush()
            if self._plan.cursor_file is not None:
                self._plan.cursor_file.forget(session.session_id)
        self._end_if_all_idle()

    def _save(self, session: Watched) -> None:
        if self._plan.cursor_file is not None:
            self._plan.cursor_file.save(session.cursor)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None and self._failure is None and not self._over.is_set():
            self._failure = failure
            self._finish("error")

    def _finish(self, reason: str) -> None:
        if not self._over.is_set():
            self.reason = reason
            self._over.set()

    async def _time_out(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._finish("timeout")

    async def _beat(self, seconds: float) -> None:
        """Write a line now and then while nothing happens, so that a reader knows an idle stream from a dead one."""
        assert isinstance(self._sink, JsonTail), "refused before for anything else"
        while True:
            await asyncio.sleep(seconds)
            async with self._turnstile:
                if self._over.is_set():
                    return
                self._sink.heartbeat()
                await self._sink.flush()

    async def _outcome_error(self) -> LashError | None:
        """What the last turn of a session stands for; of several, the first that is not success."""
        if self.reason == UNTIL_COMMITTED and not self._is_given_up:
            return None
        watched = [*self._crowd.watched.values(), *self._crowd.left_out]
        if self.reason in UNTIL_EVENT:
            watched = [session for session in watched if session.ended_turn_id is not None] or watched
        for session in watched:
            if session.ended_turn_id is None and session.abandoned_turn_id is not None:
                return abandoned_error(session, session.abandoned_turn_id)
            try:
                result = await session.ended_result()
            except SessionDeleted:
                continue
            error = ended_error(result) if result is not None else None
            if error is not None:
                return error
        return None

    def _make_sink(self, state: Stoppable, begun: Sequence[tuple[SessionRow, Watched]]) -> TailSink:
        if self._is_json:
            return JsonTail(state)
        assert isinstance(state, Following), "somebody else gets JSON"
        if self._plan.raw:
            warn_of_raw()
        if self._is_live and len(begun) == 1 and not self._plan.is_all:
            from lash_cli.cli.tail_live import LiveTail

            return LiveTail(state, begun[0][1], types=self._plan.types, raw=self._plan.raw)
        from lash_cli.cli.tail_plain import PlainTail

        is_prefixed = self._plan.is_all or len(begun) > 1
        return PlainTail(state, types=self._plan.types, raw=self._plan.raw, is_prefixed=is_prefixed)
