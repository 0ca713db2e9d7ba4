"""What a store must offer to those who watch its sessions (contract 04 §3, §10).

Durable transitions append their events themselves, inside their own
transaction; what stands here is previews, reading, and waking. A reader takes
no lock, writes no row and never waits for a turn. Losing a preview never fails
anything: it leaves a hole, and cursors before a hole answer with a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from lash_cli.core.activity import TurnActivity
from lash_cli.core.observation import LiveReplayGapReason, SessionCursor, SessionObservationEvent
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.store.base import PersistedSessionRead, ReadScope


class LiveCut(msgspec.Struct, frozen=True):
    """Committed state and the cursor of the same moment: one consistent cut (contract 04 §0 rule 7).

    `read` is None for a session that was never committed, `config` too for one that does not exist (yet).
    """

    cursor: SessionCursor
    config: PersistedSessionConfig | None = None
    read: PersistedSessionRead | None = None


class LiveReplay(msgspec.Struct, frozen=True):
    """What one read found after a cursor: `events` in order, or the `gap` that forbids them.

    `missed` counts the positions a gap skips; `is_lane_held` says that somebody works on the session.
    """

    events: tuple[SessionObservationEvent, ...] = ()
    gap: LiveReplayGapReason | None = None
    missed: int = 0
    is_lane_held: bool = False


class LiveNews(Protocol):
    """What one transaction appended to a session's log, for those who are woken by it."""

    @property
    def tail(self) -> int:
        """Where the log ends now; 0 when the session was deleted."""
        ...

    def message(self) -> bytes:
        """What a ring tells, at most 640 bytes: the events themselves where they are few (see `LiveReading.carried`),
        else that there is something to look for."""
        ...


# The events in the message of a ring, exactly as `LiveReading.replay` would hand them over; None when nothing proves
# that they are the next after the cursor, or there are none: then look.
Carried = Callable[[bytes, SessionCursor], tuple[SessionObservationEvent, ...] | None]


class LiveReading(Protocol):
    """What watching needs of a live log, whoever holds it."""

    async def cut(self, session_id: str, scope: ReadScope) -> LiveCut:
        """State and cursor of one moment. An unknown session is a cut at position 0. Raises `SessionDeleted`."""
        ...

    async def replay(self, cursor: SessionCursor) -> LiveReplay:
        """Up to 256 events after `cursor`, as of one moment. Raises `SessionDeleted`."""
        ...

    @property
    def carried(self) -> Carried:
        """How to read what a ring carries; asked for once by each observer."""
        ...


class LiveStore(LiveReading, Protocol):
    """The live logs of a store's sessions. Every read is one read transaction."""

    @property
    def bell_name(self) -> str:
        """A short name of this store's file, equal for every process that opens it."""
        ...

    def ring_with(self, ring: Callable[[Mapping[str, LiveNews]], None]) -> None:
        """Have `ring` called after every commit with what it appended by session id, on whatever thread commits."""
        ...

    def append_previews(
        self,
        session_id: str,
        take: Callable[[], Sequence[TurnActivity]],
        *,
        generation: int,
        on_failed: Callable[[BaseException], None],
    ) -> None:
        """Have the activities that `take` returns in the log at once; it is called by the thread that writes, right
        before.

        Order is kept against every other write of this store, so a commit queued later comes later. What a holder
        appends that lost its lane is dropped. Raises `StoreError` when nothing could be queued; a later failure
        leaves a hole, and `on_failed` is called on the running loop.
        """
        ...

    def lose_previews(self, session_id: str) -> None:
        """Record that previews were dropped before they reached the store."""
        ...

    async def retract_attempt(self, session_id: str, turn_id: str, *, generation: int, activity_id: str) -> bool:
        """Append one reset that retracts all text of `turn_id` still standing in the log; False when there is none
        (contract 04 §10.3: first thing of a take-over)."""
        ...

    async def after_last_commit(self, session_id: str) -> SessionCursor:
        """The place right behind the newest commit: what follows it is no part of the committed state yet.

        Of a commit that the log no longer has it is a place whose replay reports the gap, where anything followed. An
        unknown session is at position 0. Raises `SessionDeleted`.
        """
        ...

    async def trim_session(self, session_id: str) -> int:
        """Apply the bounds now; how much was deleted. Positions go on from where they were."""
        ...
