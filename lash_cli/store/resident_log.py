"""The live log of a session that only this process's memory holds (contract 04 §1, §3).

The same ring, cursors and gaps as a stored log has, by the same two judgements.
It belongs to one opened session: state and events are swapped in together under
one lock, so a cut is never torn, and whoever is told of a commit reads the new
state. Nothing of it outlives the process or the session, which is why its epoch
is new every time; once the session is let go, whoever still watches is told.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from lash_cli.core.codec import encode
from lash_cli.core.content import Message
from lash_cli.core.frames import current_frame
from lash_cli.core.observation import (
    GENESIS,
    MAX_AGE_MS,
    MAX_EVENTS,
    REPLAY_BATCH,
    LogBounds,
    ObservationPayload,
    SessionCursor,
    SessionObservationEvent,
    StateCommitted,
    judge_position,
    judge_revision,
)
from lash_cli.core.policy import persisted_config
from lash_cli.core.protocols import Clock
from lash_cli.core.superseded import NOTHING_SUPERSEDED, SupersededNodes
from lash_cli.core.tools import ToolState
from lash_cli.errors import StoreClosed, StoreError
from lash_cli.store.base import PersistedSessionRead, ReadScope
from lash_cli.store.live import LiveCut, LiveReplay

Ring = Callable[[], None]


class ResidentState(NamedTuple):
    """What a session is at one moment: everything of a read but its nodes, which are made of `messages` when somebody
    asks and stand behind those of `superseded`, and the tool surface that `read.component_refs` names."""

    read: PersistedSessionRead
    messages: Sequence[Message]
    tools: tuple[str, ToolState]
    superseded: SupersededNodes = NOTHING_SUPERSEDED


class _Kept(NamedTuple):
    event: SessionObservationEvent
    # By a clock that nobody sets.
    at_ms: int


class ResidentLog:
    """One session's log and state in memory; implements `store.live.LiveReading` for that session. Every method may
    be called on any thread."""

    def __init__(self, session_id: str, clock: Clock, epoch: str) -> None:
        """`epoch` is the generation that begins with the first event, and must be one that never was."""
        self.session_id = session_id
        self._clock = clock
        self._next_epoch = epoch
        self._epoch = GENESIS
        self._events: deque[_Kept] = deque()
        self._tail = 0
        self._hole = 0
        self._has_lost = False
        self._state: ResidentState | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        self._listeners: dict[object, Ring] = {}

    @property
    def state(self) -> ResidentState | None:
        """What was published last; None before the session is opened and once it was let go."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Whether the session was let go."""
        return self._is_closed

    def publish(
        self,
        payloads: Sequence[ObservationPayload],
        *,
        turn_id: str | None = None,
        state: ResidentState | None = None,
    ) -> None:
        """Append events in order, and make `state` the state that goes with them. Watchers are woken after it. Of a
        session that was let go nothing is shown any more: its watchers were told that it is over."""
        with self._lock:
            if self._is_closed:
                return
            if state is not None:
                self._state = state
            for payload in payloads:
                self._append(payload, turn_id)
            self._trim()
            rings = tuple(self._listeners.values()) if payloads else ()
        for ring in rings:
            ring()

    def lose(self) -> None:
        """Record that something was not appended: no cursor continues across it."""
        with self._lock:
            self._has_lost = True

    def close(self) -> None:
        """The session was let go: its state is gone, and every later read says so. May be repeated."""
        with self._lock:
            self._is_closed = True
            self._events.clear()
            self._state = None
            rings = tuple(self._listeners.values())
        for ring in rings:
            ring()

    def _append(self, payload: ObservationPayload, turn_id: str | None) -> None:
        if self._has_lost:
            # The loss takes a position of its own; what stood before it can be reached by no cursor any more.
            self._has_lost = False
            self._tail += 1
            self._hole = self._tail
            self._events.clear()
        self._epoch = self._next_epoch
        self._tail += 1
        revision = self._revision
        cursor = SessionCursor(self._epoch, revision, self._tail, self.session_id)
        event = SessionObservationEvent(self.session_id, revision, cursor, payload, turn_id, self._clock.now_ms())
        self._events.append(_Kept(event, self._age_ms()))

    @property
    def _revision(self) -> int:
        return 0 if self._state is None else self._state.read.head_revision

    def trim(self) -> int:
        """Apply the bounds now; the number of events dropped."""
        with self._lock:
            return self._trim()

    def _trim(self) -> int:
        dropped = 0
        oldest_ms = self._age_ms() - MAX_AGE_MS
        while self._events and (len(self._events) > MAX_EVENTS or self._events[0].at_ms < oldest_ms):
            self._events.popleft()
            dropped += 1
        return dropped

    def listen(self, ring: Ring) -> Callable[[], None]:
        """Have `ring` called after every change, on whatever thread made it; returns how to stop that."""
        key = object()
        with self._lock:
            self._listeners[key] = ring

        def stop() -> None:
            with self._lock:
                self._listeners.pop(key, None)

        return stop

    async def cut(self, session_id: str, scope: ReadScope) -> LiveCut:
        """See `LiveReading.cut`. Raises `StoreClosed` once the session was let go."""
        with self._lock:
            self._require_open()
            state = self._state
            cursor = SessionCursor(self._epoch, self._revision, self._tail, self.session_id)
        if state is None:
            return LiveCut(cursor)
        read = state.read
        if scope in (ReadScope.ACTIVE_PATH, ReadScope.FULL_GRAPH):
            frame_id = current_frame(read.frames).frame_id
            said = state.superseded.said(state.messages, frame_id)
            read = PersistedSessionRead(
                read.session_id,
                read.head_revision,
                read.config,
                read.frames,
                state.superseded.graph(said) if scope is ReadScope.FULL_GRAPH else said,
                state.superseded.leaf(said),
                read.turn_state,
                read.checkpoint_ref,
                read.component_refs,
                read.token_ledger,
            )
        return LiveCut(cursor, persisted_config(current_frame(read.frames).assignment.policy), read)

    async def replay(self, cursor: SessionCursor) -> LiveReplay:
        """See `LiveReading.replay`. Raises as `cut` does."""
        position = cursor.position
        with self._lock:
            self._require_open()
            log = None if self._epoch == GENESIS else LogBounds(self._epoch, self._tail, self._floor, self._hole)
            following = tuple(islice(self._events, max(0, position - self._floor), None))
            next_at_ms = following[0].at_ms if following and position >= self._floor else None
            gap = judge_position(cursor.epoch, position, log, next_at_ms, self._age_ms())
            if gap is None:
                commits = [kept.event.revision for kept in following if isinstance(kept.event.payload, StateCommitted)]
                gap = judge_revision(cursor.revision, self._revision, max(commits, default=None))
            if gap is not None:
                return LiveReplay(gap=gap, missed=max(0, self._tail - position))
            return LiveReplay(tuple(kept.event for kept in following[:REPLAY_BATCH]))

    def carried(self, ring: bytes, cursor: SessionCursor) -> None:
        """See `LiveReading.carried`: what rings here carries nothing, because a look costs nothing."""

    async def load_component(self, ref: str) -> bytes:
        """The tool surface, by the ref that a cut names; raises `StoreError` for one that is not there any more."""
        state = self._state
        if state is None or state.tools[0] != ref:
            raise StoreError(f"session {self.session_id} has no component {ref!r} any more")
        return encode(state.tools[1])

    def _age_ms(self) -> int:
        return round(self._clock.monotonic() * 1000)

    @property
    def _floor(self) -> int:
        return self._tail - len(self._events)

    def _require_open(self) -> None:
        if self._is_closed:
            raise StoreClosed(f"session {self.session_id} was let go, and only memory held it")
