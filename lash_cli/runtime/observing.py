"""Watching one session through its store (contract 04 §2, §4, §5, §10.3).

One implementation for every observer, in this process or in another: read
after the cursor; if nothing is there, wait for the bell; read again. The bell
is armed before the first read and no transaction is open while waiting, so
nothing is missed and nobody is held up. Streams are classes and not
generators: a pull that is cancelled (`asyncio.wait_for`) loses no event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from lash_cli.core.frames import current_frame, initial_frame
from lash_cli.core.graph import messages_on
from lash_cli.core.observation import (
    MAX_EVENTS,
    REPLAY_BATCH,
    LiveReplayGap,
    SessionCursor,
    SessionObservationEvent,
    require_cursor,
)
from lash_cli.core.policy import SessionPolicy, SessionSpec
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LiveReplayClosed, LiveReplayError, SessionDeleted, StoreError, SubscriberLagged
from lash_cli.runtime.bells import Bell
from lash_cli.runtime.pages import TranscriptPage, WalkBack, read_page
from lash_cli.runtime.state import SessionReadView
from lash_cli.store.base import PersistedSessionRead, ReadScope
from lash_cli.store.live import Carried, LiveCut, LiveReading, LiveReplay


class SessionObservation(msgspec.Struct, frozen=True):
    """What is committed and where to go on from: one consistent cut (contract 04 §2)."""

    read_view: SessionReadView
    cursor: SessionCursor


class ObservedEvent(msgspec.Struct, frozen=True, gc=False):
    """The next event of a stream."""

    event: SessionObservationEvent


class ObservedGap(msgspec.Struct, frozen=True):
    """Events may be missing: replace the view by `observation` and go on from `gap.latest_cursor` (contract 04 §4)."""

    observation: SessionObservation
    gap: LiveReplayGap


class Replayed(msgspec.Struct, frozen=True):
    """Everything after the cursor, in order, each event once."""

    events: tuple[SessionObservationEvent, ...]


class Subscribed(msgspec.Struct, frozen=True):
    """A stream that begins right after the cursor."""

    subscription: LiveSubscription


def view_of(session_id: str, policy: SessionPolicy, read: PersistedSessionRead | None) -> SessionReadView:
    """The read view of a loaded session; `policy` is that of one that was never committed."""
    if read is None:
        frames = (initial_frame(session_id, policy, 0),)
        return SessionReadView(session_id, policy, 0, TokenUsage(), None, (), frames, None, None)
    frame = current_frame(read.frames)
    state = read.turn_state
    return SessionReadView(
        session_id,
        frame.assignment.policy,
        state.turn_index,
        state.token_usage,
        state.last_prompt_usage,
        tuple(messages_on(read.nodes, frame.frame_id)),
        read.frames,
        read.leaf_node_id,
        read.head_revision,
        read.nodes,
    )


class SessionReader:
    """Reads of one session for its observers. Nothing is written and no lane is looked at."""

    def __init__(
        self, live: LiveReading, session_id: str, policy: SessionPolicy, hang_bell: Callable[[], Bell]
    ) -> None:
        """`policy` is the host's, for a session that has none of its own yet; `hang_bell` makes what a subscription
        waits on."""
        self.session_id = session_id
        self._live = live
        self._policy = policy
        self._hang_bell = hang_bell
        self._installed: SessionReadView | None = None

    async def cut(self, scope: ReadScope) -> LiveCut:
        """See `LiveStore.cut`. Raises `LiveReplayClosed` for a deleted session or a closed store."""
        try:
            return await self._live.cut(self.session_id, scope)
        except (SessionDeleted, StoreError) as error:
            raise _closed_or_failed(error) from error

    async def observation(self) -> SessionObservation:
        """State and cursor of one moment. The transcript is read again only when the head moved, or what the session
        is resident with changed without it."""
        known = self._installed
        if known is not None and known.head_revision is not None:
            head = await self.cut(ReadScope.HEAD)
            is_same = head.read is not None and head.read.head_revision == known.head_revision
            if is_same and self.policy_of(head) == known.policy:
                return SessionObservation(known, head.cursor)
        cut = await self.cut(ReadScope.ACTIVE_PATH)
        view = view_of(self.session_id, self.policy_of(cut), cut.read)
        self._installed = view
        return SessionObservation(view, cut.cursor)

    async def page(self, walk_back: WalkBack, before: str | None, limit: int) -> TranscriptPage | None:
        """Up to `limit` messages before a node, without one the newest of the current frame. None when there is no such
        node. Raises as `cut` does."""
        head = (await self.cut(ReadScope.HEAD)).read
        if before is None and head is None:
            return TranscriptPage(())
        leaf, frame_id = before, None
        if before is None and head is not None:
            leaf, frame_id = head.leaf_node_id, current_frame(head.frames).frame_id
        try:
            return await read_page(walk_back, leaf, frame_id, limit, is_behind=before is not None)
        except (SessionDeleted, StoreError) as error:
            raise _closed_or_failed(error) from error

    def policy_of(self, cut: LiveCut) -> SessionPolicy:
        """The policy of a cut: that of its frame, else what the session was created with, else the host's."""
        if cut.read is not None:
            return current_frame(cut.read.frames).assignment.policy
        if cut.config is not None:
            return SessionSpec(inherit="stored").resolve_against(self._policy, cut.config)
        return self._policy

    async def look(self, cursor: SessionCursor) -> LiveReplay:
        """One batch after `cursor`. Raises as `cut` does, and as `require_cursor` before any read."""
        require_cursor(cursor, self.session_id)
        try:
            return await self._live.replay(cursor)
        except (SessionDeleted, StoreError) as error:
            raise _closed_or_failed(error) from error

    async def gap(self, cursor: SessionCursor, found: LiveReplay) -> ObservedGap:
        """The gap that `found` reported, with the state to replace the view by."""
        assert found.gap is not None
        observation = await self.observation()
        latest = observation.cursor
        return ObservedGap(observation, LiveReplayGap(self.session_id, cursor, latest, latest.revision, found.gap))

    async def replayed(self, cursor: SessionCursor) -> Replayed | ObservedGap:
        """Everything after `cursor` that is there now."""
        events: list[SessionObservationEvent] = []
        position = cursor
        while len(events) < MAX_EVENTS:
            found = await self.look(position)
            if found.gap is not None:
                return await self.gap(cursor, found)
            events.extend(found.events)
            if len(found.events) < REPLAY_BATCH:
                break
            position = found.events[-1].cursor
        return Replayed(tuple(events))

    async def subscribed(self, cursor: SessionCursor) -> Subscribed | ObservedGap:
        """Everything after `cursor`, now and later."""
        require_cursor(cursor, self.session_id)
        bell = self._hang_bell()
        try:
            found = await self.look(cursor)
            if found.gap is None:
                return Subscribed(LiveSubscription(self, cursor, bell, self._live.carried, found))
        except BaseException:
            bell.close()
            raise
        bell.close()
        return await self.gap(cursor, found)


def _closed_or_failed(error: SessionDeleted | StoreError) -> LiveReplayError:
    if isinstance(error, SessionDeleted):
        return LiveReplayClosed(error.message, is_deleted=True)
    if error.code == "store_closed":
        return LiveReplayClosed(error.message, is_deleted=False)
    return LiveReplayError(error.message, cause=error)


class LiveSubscription:
    """Events after a cursor, as they come (contract 04 §5). Iterate it, and `aclose` it when done; closing only stops
    watching.

    A subscription that fell behind what is kept raises `SubscriberLagged` once
    and ends: what is missing is learnt by subscribing again from `cursor`.
    """

    def __init__(
        self, reader: SessionReader, cursor: SessionCursor, bell: Bell, carried: Carried, first: LiveReplay
    ) -> None:
        self._reader = reader
        self._cursor = cursor
        self._bell = bell
        self._carried = carried
        self._events = deque(first.events)
        self._is_lane_held = first.is_lane_held
        self._must_wait = len(first.events) < REPLAY_BATCH
        self._is_done = False
        import asyncio  # who only looks runs no event loop (design D16)

        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        """Who leaves the stream without a word, as a loop over events does that is left early, listens no more."""
        if not self._is_done:
            try:
                self._loop.call_soon_threadsafe(self._bell.close)
            except RuntimeError:  # the loop is closed
                self._bell.close()

    @property
    def cursor(self) -> SessionCursor:
        """The cursor of the last delivered event, at first the one subscribed from."""
        return self._cursor

    def __aiter__(self) -> LiveSubscription:
        return self

    async def __anext__(self) -> SessionObservationEvent:
        while not self._is_done:
            ring = self.ring()
            if ring is not None:
                event = self.heard(await ring)
            else:
                if not self._events:
                    await self._read()
                event = self._taken()
            if event is not None:
                return event
        raise StopAsyncIteration

    # What a pull consists of, for a stream that is to spend no step of its own on it: a process that wakes for a single
    # event runs cold, and every function of its way costs several times what it costs elsewhere.

    def ring(self) -> Awaitable[bytes | None] | None:
        """What to await and to hand to `heard`; None when there is something to do without it."""
        if self._must_wait and not self._events and not self._is_done:
            return self._bell.wait(is_busy=self._is_lane_held)
        return None

    def heard(self, message: bytes | None) -> SessionObservationEvent | None:
        """The event that a ring carried; None when it must be looked for."""
        carried = None if message is None else self._carried(message, self._cursor)
        if carried is None:
            self._must_wait = False
            return None
        self._events.extend(carried)
        return self._taken()

    def _taken(self) -> SessionObservationEvent | None:
        if not self._events:
            return None
        event = self._events.popleft()
        self._cursor = event.cursor
        return event

    async def _read(self) -> None:
        try:
            found = await self._reader.look(self._cursor)
        except LiveReplayError:
            self._finish()
            raise
        if found.gap is not None:
            self._finish()
            raise SubscriberLagged(found.missed)
        self._events.extend(found.events)
        self._is_lane_held = found.is_lane_held
        # A batch that is not full was all there was, and whatever came since has rung: the bell was hung before.
        self._must_wait = len(found.events) < REPLAY_BATCH

    async def next_event(self) -> SessionObservationEvent:
        """The next event; raises `LiveReplayClosed` where iteration would end."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise LiveReplayClosed("the subscription has ended", is_deleted=False) from None

    def _finish(self) -> None:
        self._is_done = True
        self._bell.close()

    async def aclose(self) -> None:
        """Stop watching; a pull under way ends. May be repeated."""
        self._events.clear()
        self._finish()

    async def __aenter__(self) -> LiveSubscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class RecoveringStream:
    """A subscription that heals itself, from `ObservableSession.subscribe_and_recover` (contract 04 §5): what it cannot
    prove continuous it reports as a gap, and goes on behind it.

    Only an error or `aclose` ends it; idleness, commits and gaps do not. Keep
    `cursor` after each item was folded, and a later stream goes on from there.
    """

    def __init__(self, reader: SessionReader, cursor: SessionCursor) -> None:
        self._reader = reader
        self._cursor = cursor
        self._subscription: LiveSubscription | None = None
        self._is_done = False

    @property
    def cursor(self) -> SessionCursor:
        """The last event's cursor or the last gap's latest one, at first the one begun from."""
        return self._cursor

    def __aiter__(self) -> RecoveringStream:
        return self

    async def __anext__(self) -> ObservedEvent | ObservedGap:
        while not self._is_done:
            try:
                if self._subscription is None:
                    begun = await self._reader.subscribed(self._cursor)
                    if isinstance(begun, ObservedGap):
                        self._cursor = begun.gap.latest_cursor
                        return begun
                    self._subscription = begun.subscription
                subscription = self._subscription
                ring = subscription.ring()
                event = None if ring is None else subscription.heard(await ring)
                if event is None:
                    event = await subscription.__anext__()
            except SubscriberLagged:
                # Not told to the consumer: the old cursor replays what is missing, or reports the gap.
                self._subscription = None
            except StopAsyncIteration:
                self._is_done = True
            except RuntimeError:
                # Two tasks on one stream, or another loop: an error of the caller, which ends nothing for others.
                raise
            except Exception:
                await self.aclose()
                raise
            else:
                self._cursor = event.cursor
                return ObservedEvent(event)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop watching; no turn is touched. May be repeated."""
        self._is_done = True
        if self._subscription is not None:
            await self._subscription.aclose()
            self._subscription = None

    async def __aenter__(self) -> RecoveringStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
