"""One session that a tail watches: where its stream is, and what of it was shown (contract 08 §8).

Read-only: everything here is asked of a store that was opened for reading.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from lash_cli.api.observable import ObservableSession
from lash_cli.cli.documents import is_lease_live, session_status
from lash_cli.cli.head_moves import command_here
from lash_cli.core.content import Message
from lash_cli.core.frames import current_frame
from lash_cli.core.lease import LocalProcess
from lash_cli.core.observation import GENESIS, SessionCursor, SessionObservationEvent
from lash_cli.core.outcome import TurnResult
from lash_cli.core.policy import SessionPolicy
from lash_cli.errors import SessionDeleted
from lash_cli.runtime.observing import Replayed, SessionObservation
from lash_cli.runtime.state import SessionReadView
from lash_cli.runtime.stored_turns import stored_result
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionRow
from lash_cli.system import SystemClock, is_definitely_dead

# How often to ask whether the holder of a lane still lives: it dies without a word.
HOLDER_SECONDS: Final = 1.0
# Whoever is there to take over an unfinished turn, a worker or a chat, does so well within this time.
ABANDONED_SECONDS: Final = 3.0
_SPANS_PER_PAGE: Final = 64


class News(NamedTuple):
    """What a commit made of the transcript that was shown: messages that came, and how many were left behind by a
    rewind to `last_kept_id`, the newest that stayed; None if none did."""

    messages: Sequence[Message]
    left_behind: int
    last_kept_id: str | None


class Watched:
    """One session under a tail. `cursor` is behind the last item that was shown."""

    def __init__(self, store: RuntimePersistence, row: SessionRow, cursor: SessionCursor | None = None) -> None:
        self.store = store
        self.session_id = row.meta.session_id
        self.name = row.meta.name
        self.cursor = cursor or SessionCursor(GENESIS, 0, 0, self.session_id)
        # Made while nobody watched, so that everything of it is to be shown.
        self.is_new = False
        self.is_idle = False
        policy = SessionPolicy(row.config.model, row.config.provider_id, self.session_id)
        self.observed = ObservableSession.of_store(store, self.session_id, policy)
        # The newest turn before this tail, and the one whose end ended it.
        self.first_turn_id: str | None = None
        self.ended_turn_id: str | None = None
        # The unfinished turn that nobody takes over, and the one that might still be, with when that was noticed.
        self.abandoned_turn_id: str | None = None
        self._left_alone: tuple[str, float] | None = None
        self._told_dead: str | None = None
        self._looked_at = 0.0
        # The messages shown or known so far; None while it is not known what came before the cursor.
        self._known: set[str] | None = None
        # Those that were there at the cursor, as far as turns say that; what is told behind a gap is counted from here.
        self._told: set[str] = set()
        # The frame of the messages that are known.
        self._frame_id: str | None = None

    async def row(self) -> SessionRow | None:
        """The session's row now, None for one that is gone."""
        try:
            return await self.store.session_row(self.session_id)
        except SessionDeleted:
            return None

    async def head_cursor(self) -> SessionCursor:
        """The cursor of now, without the transcript."""
        return (await self.store.live.cut(self.session_id, ReadScope.HEAD)).cursor

    async def begin_at_birth(self) -> SessionObservation | None:
        """Go on before the first event. What the session was made with, as a fork is and an import, was told by no
        event and is not missed: its state, where nothing happened since."""
        head = await self.head_cursor()
        observation = None
        if head.epoch == GENESIS and head.revision:
            observation = await self.observed.current_observation()
            head = observation.cursor
        self.cursor = SessionCursor(GENESIS, head.revision, 0, self.session_id)
        return observation if head.epoch == GENESIS else None

    async def last_commit_cursor(self) -> SessionCursor:
        """The cursor right behind the newest commit."""
        return await self.store.live.after_last_commit(self.session_id)

    async def is_caught_up(self) -> bool:
        """Whether nothing came after the cursor."""
        found = await self.observed.resume_from_cursor(self.cursor)
        return isinstance(found, Replayed) and not found.events

    async def is_at_rest(self) -> bool:
        """Whether nobody works on the session, and all of it was shown.

        A turn that is unfinished has `ABANDONED_SECONDS` to be taken over. The row is read first, so that what was
        committed before it is among what is looked for.
        """
        row = await self.row()
        return row is not None and self._is_at_rest(row) and await self.is_caught_up()

    async def is_abandoned(self, row: SessionRow) -> bool:
        """Whether a turn is unfinished by its `row`, nobody took it over in time, and all of it was shown."""
        return self._is_at_rest(row) and self.abandoned_turn_id is not None and await self.is_caught_up()

    def _is_at_rest(self, row: SessionRow) -> bool:
        is_driven = is_lease_live(row.lease, SystemClock().now_ms(), is_definitely_dead)
        if is_driven or row.running_turn_id is None:
            self._left_alone = self.abandoned_turn_id = None
            return not is_driven
        now = time.monotonic()
        if self._left_alone is None or self._left_alone[0] != row.running_turn_id:
            self._left_alone = (row.running_turn_id, now)
        if now - self._left_alone[1] < ABANDONED_SECONDS:
            return False
        self.abandoned_turn_id = row.running_turn_id
        return True

    async def last_turn_id(self) -> str | None:
        """The newest committed turn."""
        newest = await self.store.turns(self.session_id, limit=2)
        return next((record.turn_id for record in newest if record.state == "committed"), None)

    async def ended_result(self) -> TurnResult | None:
        """How the turn ended that the tail waited for, else the newest committed one; None when there is none."""
        turn_id = self.ended_turn_id or await self.last_turn_id()
        return None if turn_id is None else await stored_result(self.store, self.session_id, turn_id)

    def know(self, view: SessionReadView) -> None:
        """Everything of `view` was shown, or is not to be shown."""
        self._known = {message.id for message in view.messages}
        self._frame_id = _frame_of(view)

    def news_in(self, view: SessionReadView) -> News:
        """What of `view` was not shown yet, and what was shown and is no part of it; it is known from now on."""
        known = self._told if self._known is None else self._known
        messages = [message for message in view.messages if message.id not in known]
        kept = [message.id for message in view.messages if message.id in known]
        # What another frame left out is told by its switch.
        left_behind = len(known) - len(kept) if _frame_of(view) == self._frame_id else 0
        self.know(view)
        return News(messages, left_behind, kept[-1] if kept else None)

    async def begin_behind(self, cursor: SessionCursor) -> None:
        """What was committed up to `cursor` was told before. Nothing came since, or the first commit behind it tells
        what that is, or a gap does not."""
        observation = await self.observed.current_observation()
        view, now = observation.read_view, observation.cursor
        if now.epoch != cursor.epoch:
            return
        if now.revision == cursor.revision:
            self.know(view)
        else:
            self._told = await self._committed_by(cursor.revision, [message.id for message in view.messages])

    async def news(self, event: SessionObservationEvent) -> News:
        """What changed in the transcript, after the commit that `event` tells."""
        view = (await self.observed.current_observation()).read_view
        if self._known is None:
            self._known = await self._told_before(event, [message.id for message in view.messages])
        return self.news_in(view)

    async def _told_before(self, event: SessionObservationEvent, ids: list[str]) -> set[str]:
        """Which messages stood before the first commit behind the cursor that the tail was begun at.

        `ids` are those that stand now: a turn may have been left behind since, by a rewind or by a compaction.
        """
        if event.turn_id is not None:
            record = await self.store.turn(self.session_id, event.turn_id)
            if record is not None and record.first_node_id in ids:
                return set(ids[: ids.index(record.first_node_id)])
        return await self._committed_by(event.revision - 1, ids)

    async def _committed_by(self, revision: int, ids: list[str]) -> set[str]:
        """Which of the messages were there at a revision. Only turns say which nodes are theirs: what was appended
        between two of them may be shown once more, and nothing is left out."""
        before: int | None = None
        while spans := await self.store.turn_spans(self.session_id, limit=_SPANS_PER_PAGE, before=before):
            for span in spans:
                is_there = span.head_revision is not None and span.head_revision <= revision
                if is_there and span.last_node_id in ids:
                    return set(ids[: ids.index(span.last_node_id) + 1])
            before = spans[-1].turn_index
        return set()

    def is_look_due(self) -> bool:
        """Whether `HOLDER_SECONDS` have passed since this was last answered with yes."""
        now = time.monotonic()
        if now - self._looked_at < HOLDER_SECONDS:
            return False
        self._looked_at = now
        return True

    def is_death_news(self, row: SessionRow) -> bool:
        """Whether `death` has something to tell."""
        is_stuck = session_status(row, SystemClock().now_ms(), is_definitely_dead) == "stuck"
        return is_stuck and self._told_dead != row.running_turn_id

    def death(self, row: SessionRow) -> str | None:
        """What to tell about a turn whose writer is gone, once for each turn; None otherwise."""
        if not self.is_death_news(row):
            return None
        self._told_dead = row.running_turn_id
        who = holder_words(row) or "whoever ran it"
        resume = command_here("resume", self.name)
        return f"{who} is gone; turn {row.running_turn_id} of {self.name} is unfinished: {resume}"


def holder_words(row: SessionRow) -> str | None:
    """Who holds the lane or left it behind: `pid 4711 (turn)`; None for a free lane."""
    owner = row.lease.owner
    if row.lease.token is None or owner is None:
        return None
    who = f"pid {owner.liveness.pid}" if isinstance(owner.liveness, LocalProcess) else owner.owner_id
    return f"{who} ({owner.label})" if owner.label else who


def _frame_of(view: SessionReadView) -> str | None:
    """The current frame; a session in which nothing was said has none yet."""
    return current_frame(view.frames).frame_id if view.frames else None
