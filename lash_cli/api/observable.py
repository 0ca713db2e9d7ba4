"""`ObservableSession`: watching one session, wherever its turns run (contract 04 §2, §5).

Read-only over the store: no lane is taken, no row is written and no lock of the
session is waited for, so a turn blocked in its model delays nobody here and
nobody here delays a turn. It works before the session exists, while a turn runs
in this or another process, and after it. A session without a store is watched
the same way in the process that holds it, until it is let go. Everything is read anew when it is
asked for; what did not change since is not read twice.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import msgspec

from lash_cli.core.codec import decode
from lash_cli.core.observation import SessionCursor
from lash_cli.core.policy import SessionPolicy
from lash_cli.core.remote import (
    RemoteLiveReplayGap,
    RemoteSessionCursor,
    RemoteSessionObservation,
    RemoteSessionObservationEvent,
    remote_observation,
)
from lash_cli.core.tools import ToolManifest, ToolState
from lash_cli.core.usage import SessionUsageReport, usage_report
from lash_cli.errors import LashError, MissingCheckpointComponent, NotFoundError, StoreError, UsageError
from lash_cli.runtime.bells import hang_bell
from lash_cli.runtime.observing import (
    LiveSubscription,
    ObservedEvent,
    ObservedGap,
    RecoveringStream,
    Replayed,
    SessionObservation,
    SessionReader,
    Subscribed,
)
from lash_cli.runtime.pages import TranscriptPage, WalkBack, resident_path, stored_path
from lash_cli.runtime.resident_bell import ResidentBell
from lash_cli.runtime.session import TOOL_STATE
from lash_cli.runtime.state import SessionReadView
from lash_cli.store.base import ReadScope, RuntimePersistence
from lash_cli.store.resident_log import ResidentLog

_log = logging.getLogger("lash.live")


class RemoteGap(NamedTuple):
    """The remote form of a gap: the observation to start again from, and why."""

    observation: RemoteSessionObservation
    gap: RemoteLiveReplayGap


class RemoteSubscribed(NamedTuple):
    """The remote form of a stream that begins right after the cursor."""

    subscription: RemoteSessionObservationEventStream


class ObservableSession:
    """A read-only handle on one session, from `LashSession.observe` or `LashCore.observe` (contract 04 §2, §5). There
    is nothing to close. Every read raises `LiveReplayClosed` for a deleted session, and for one without a store that
    was let go, and `LiveReplayError` when the store fails."""

    def __init__(
        self, reader: SessionReader, load_component: Callable[[str], Awaitable[bytes]], walk_back: WalkBack
    ) -> None:
        self._reader = reader
        self._load_component = load_component
        self._walk_back = walk_back
        self._tools: tuple[str, ToolState] | None = None

    @classmethod
    def of_store(cls, store: RuntimePersistence, session_id: str, policy: SessionPolicy) -> ObservableSession:
        """A session of a store, whichever process works on it."""
        bell = partial(hang_bell, store.live.bell_name, session_id)
        return cls(
            SessionReader(store.live, session_id, policy, bell), store.load_component, stored_path(store, session_id)
        )

    @classmethod
    def of_log(cls, log: ResidentLog, policy: SessionPolicy) -> ObservableSession:
        """A session that only this process holds."""
        reader = SessionReader(log, log.session_id, policy, lambda: ResidentBell(log.listen))
        return cls(reader, log.load_component, resident_path(log, log.session_id))

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._reader.session_id

    async def current_observation(self) -> SessionObservation:
        """The committed state and the cursor of the same moment: begin with it, go on from its cursor."""
        return await self._reader.observation()

    async def current_remote_observation(self) -> RemoteSessionObservation:
        """`current_observation` as it crosses a wire."""
        return _remote_observation(await self._reader.observation())

    async def read_view(self) -> SessionReadView:
        """The committed transcript of the current frame; after a `committed` event never older than it."""
        return (await self._reader.observation()).read_view

    async def page(self, before: str | None = None, *, limit: int = 50) -> TranscriptPage:
        """Up to `limit` messages of the committed transcript of the current frame, newest first; `before` is what the
        page behind which to go on says (contract 04 §8). What is committed meanwhile moves no page, and nothing but
        the page is read. Raises `UsageError` for a limit below 1, and `NotFoundError` (`node_not_found`)."""
        if limit < 1:
            raise UsageError(f"a page holds at least one message, not {limit}")
        page = await self._reader.page(self._walk_back, before, limit)
        if page is None:
            raise NotFoundError(f"session {self.session_id} has no node {before!r}", code="node_not_found")
        return page

    async def policy_snapshot(self) -> SessionPolicy:
        """The effective policy."""
        return self._reader.policy_of(await self._reader.cut(ReadScope.HEAD))

    async def usage_report(self) -> SessionUsageReport:
        """What the session has cost, as far as it is committed."""
        cut = await self._reader.cut(ReadScope.HEAD)
        return usage_report(() if cut.read is None else cut.read.token_ledger)

    async def tool_state(self) -> ToolState | None:
        """The committed tool surface, None while none was committed or when it cannot be read."""
        missing: str | None = None
        while (ref := await self._tools_ref()) is not None:
            if self._tools is not None and self._tools[0] == ref:
                return self._tools[1]
            try:
                self._tools = (ref, decode(await self._load_component(ref), ToolState))
            except (StoreError, msgspec.MsgspecError) as error:
                if isinstance(error, MissingCheckpointComponent) and ref != missing:
                    missing = ref  # there may be another head since, and what only this one named collected
                    continue
                _log.info("the tools of session %s cannot be read: %s", self.session_id, error)
                return None
        return None

    async def _tools_ref(self) -> str | None:
        """What the head names its tools by."""
        cut = await self._reader.cut(ReadScope.HEAD)
        return None if cut.read is None else cut.read.component_refs.get(TOOL_STATE)

    async def active_tool_manifests(self) -> tuple[ToolManifest, ...]:
        """The tools that are members of the catalogue, ordered by id."""
        state = await self.tool_state()
        return () if state is None else state.tool_manifests()

    async def list_process_handles(self) -> tuple[dict[str, Any], ...]:
        """Live background processes this session may see; without a process registry there are none."""
        return ()

    async def list_all_process_handles(self) -> tuple[dict[str, Any], ...]:
        """Background processes this session may see, ended ones included; as `list_process_handles`."""
        return ()

    def process_scope(self) -> dict[str, str]:
        """The root scope of the session, in which its processes are listed."""
        return {"session_id": self.session_id}

    async def resume_from_cursor(self, cursor: SessionCursor) -> Replayed | ObservedGap:
        """What happened after `cursor`, or the gap that forbids to say.

        Raises `SessionCursorError` for a cursor of another session, and for what is none.
        """
        return await self._reader.replayed(cursor)

    async def subscribe_from_cursor(self, cursor: SessionCursor) -> Subscribed | ObservedGap:
        """What happened after `cursor` and everything that follows, or a gap. Raises as `resume_from_cursor`."""
        return await self._reader.subscribed(cursor)

    def subscribe_and_recover(self, cursor: SessionCursor) -> RecoveringStream:
        """A stream that reports gaps and goes on behind them, for ever. Nothing is touched until it is first pulled,
        and what is wrong with `cursor` is raised then. Use it as an async context manager, or `aclose` it."""
        return RecoveringStream(self._reader, cursor)

    async def subscribe_from_remote_cursor(self, remote: RemoteSessionCursor) -> RemoteSubscribed | RemoteGap:
        """`subscribe_from_cursor` across a wire. Raises `RemoteProtocolError`, and `SessionCursorError` for a token
        that is malformed or of another session."""
        remote.validate()
        begun = await self.subscribe_from_cursor(SessionCursor.from_store_token(remote.cursor))
        if isinstance(begun, ObservedGap):
            return _remote_gap(begun)
        return RemoteSubscribed(RemoteSessionObservationEventStream(begun.subscription))

    def subscribe_and_recover_remote(self, remote: RemoteSessionCursor) -> RemoteSessionObservationStream:
        """`subscribe_and_recover` across a wire. Raises `RemoteProtocolError` now; a malformed token is raised by the
        first pull."""
        remote.validate()
        return RemoteSessionObservationStream(self, remote)


class RemoteSessionObservationEventStream:
    """A subscription in remote form (contract 04 §6.1). A lag or a closed log is raised and not healed here."""

    def __init__(self, subscription: LiveSubscription) -> None:
        self._subscription = subscription
        self._numbers = count()  # only activities show theirs, so the shown ones may have holes

    @property
    def cursor(self) -> RemoteSessionCursor:
        """The cursor of the last delivered event."""
        return RemoteSessionCursor.of(self._subscription.cursor)

    def __aiter__(self) -> RemoteSessionObservationEventStream:
        return self

    async def __anext__(self) -> RemoteSessionObservationEvent:
        return RemoteSessionObservationEvent.of(await self._subscription.__anext__(), next(self._numbers))

    async def next_event(self) -> RemoteSessionObservationEvent:
        """The next event; raises `LiveReplayClosed` where iteration would end."""
        return RemoteSessionObservationEvent.of(await self._subscription.next_event(), next(self._numbers))

    async def aclose(self) -> None:
        """Stop watching."""
        await self._subscription.aclose()


class RemoteSessionObservationStream:
    """A recovering stream in remote form; gaps take no number of the sequence (contract 04 §6.1)."""

    def __init__(self, session: ObservableSession, remote: RemoteSessionCursor) -> None:
        self._session = session
        self._begun_from = remote
        self._stream: RecoveringStream | None = None
        self._numbers = count()
        self._is_done = False

    def cursor(self) -> RemoteSessionCursor:
        """The cursor to go on from."""
        return self._begun_from if self._stream is None else RemoteSessionCursor.of(self._stream.cursor)

    def __aiter__(self) -> RemoteSessionObservationStream:
        return self

    async def __anext__(self) -> RemoteSessionObservationEvent | RemoteGap:
        if self._is_done:
            raise StopAsyncIteration
        try:
            if self._stream is None:
                token = SessionCursor.from_store_token(self._begun_from.cursor)
                self._stream = self._session.subscribe_and_recover(token)
            item = await self._stream.__anext__()
        except (LashError, StopAsyncIteration):
            self._is_done = True
            raise
        if isinstance(item, ObservedEvent):
            return RemoteSessionObservationEvent.of(item.event, next(self._numbers))
        return _remote_gap(item)

    async def aclose(self) -> None:
        """Stop watching."""
        self._is_done = True
        if self._stream is not None:
            await self._stream.aclose()


def _remote_observation(observation: SessionObservation) -> RemoteSessionObservation:
    view = observation.read_view
    return remote_observation(view.session_id, observation.cursor, view.turn_index, view.token_usage)


def _remote_gap(item: ObservedGap) -> RemoteGap:
    return RemoteGap(_remote_observation(item.observation), RemoteLiveReplayGap.of(item.gap))
