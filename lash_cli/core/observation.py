"""Watching a session: cursors, events, and when continuity is proven (contract 04 §1, §3, §4; design D9).

Two tiers: committed state is the truth, the live log is a bounded preview. A
cursor names one place in one generation (*epoch*) of one session's log and is
exclusive: what follows it is replayed in order, each event exactly once. What
cannot be proven to follow is a gap, never an empty answer; the two judgements
that decide this are pure functions here, so every store answers alike.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

import msgspec

from lash_cli.core.activity import TurnActivity
from lash_cli.core.codec import Record
from lash_cli.errors import SessionCursorMalformed, SessionCursorWrongSession

# How much of a session's log is kept: whichever bound drops more (design D9). An event is too old when it is strictly
# older than the age.
MAX_EVENTS: Final = 2048
MAX_AGE_MS: Final = 120_000
# How many events one read hands over.
REPLAY_BATCH: Final = 256
# The epoch of a log that has no event yet. Only position 0 exists in it, "before the first event".
GENESIS: Final = "0000000000000000"

_PREFIX: Final = "lashsc2"
# Beyond what a signed 64-bit column holds nothing was ever written.
_MAX_NUMBER: Final = (1 << 63) - 1


class SessionCursor(msgspec.Struct, frozen=True, gc=False):
    """One place in a session's live log (contract 04 §1). Opaque: compare for equality, print with `str`, and hand it
    back."""

    epoch: str
    revision: int
    position: int
    session_id: str

    @classmethod
    def from_store_token(cls, token: str) -> SessionCursor:
        """Adopt a printed cursor; raises `SessionCursorMalformed` naming the part that is wrong."""
        if not isinstance(token, str):
            raise _no_cursor(token, "where none was kept, begin with that of current_observation()")
        prefix, _, rest = token.partition(":")
        if prefix != _PREFIX:
            raise SessionCursorMalformed(f"a session cursor begins with {_PREFIX!r}")
        parts = rest.split(":", 3)
        if len(parts) != 4:
            raise SessionCursorMalformed("a session cursor has an epoch, a revision, a position and a session id")
        epoch, revision, position, session_id = parts
        if not epoch:
            raise SessionCursorMalformed("the epoch of a session cursor is empty")
        if not session_id:
            raise SessionCursorMalformed("the session id of a session cursor is empty")
        return cls(epoch, _number(revision, "revision"), _number(position, "position"), session_id)

    def require_session(self, session_id: str) -> None:
        """Raise `SessionCursorWrongSession` unless the cursor is one of `session_id`."""
        if self.session_id != session_id:
            raise SessionCursorWrongSession(session_id, self.session_id)

    def __str__(self) -> str:
        return f"{_PREFIX}:{self.epoch}:{self.revision}:{self.position}:{self.session_id}"

    def __repr__(self) -> str:
        return "SessionCursor(<opaque>)"


def require_cursor(given: object, session_id: str) -> None:
    """Raise `SessionCursorMalformed` for what was handed in as a cursor and is none, and else as `require_session`."""
    if not isinstance(given, SessionCursor):
        raise _no_cursor(given, "a printed one is read by SessionCursor.from_store_token(text)")
    given.require_session(session_id)


def _no_cursor(given: object, hint: str) -> SessionCursorMalformed:
    return SessionCursorMalformed(f"a session cursor cannot be of the type {type(given).__name__}", hint=hint)


def _number(text: str, part: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) > _MAX_NUMBER:
        raise SessionCursorMalformed(f"the {part} of a session cursor is not an unsigned number")
    return int(text)


class ActivityObserved(Record, tag="turn_activity", tag_field="type"):
    """A turn showed something; preview until the turn's `committed`."""

    activity: TurnActivity


class StateCommitted(Record, tag="committed", tag_field="type"):
    """The head moved to the event's revision: replace every preview of the turn by the committed view. `head_node_id`
    is the node that is the head then, None for the commit of a turn, whose record names it, and where there is none."""

    head_node_id: str | None = None


class ResidentChanged(Record, tag="resident_changed", tag_field="type"):
    """Something about the session changed without a new revision: refresh, but settle no preview."""


class AgentFrameSwitched(Record, tag="agent_frame_switched", tag_field="type"):
    """The commit that follows makes `frame_id` the current frame."""

    frame_id: str


class QueueChanged(Record, tag="queue_changed", tag_field="type"):
    """Inputs or batches came or went: fetch the queue again. No ids: a running turn's checkpoint may take it."""

    kind: Literal["enqueued", "cancelled"]
    batch_ids: tuple[str, ...] = ()


class ProcessChanged(Record, tag="process_changed", tag_field="type"):
    """Background processes were started or cancelled; how they end is read from their own state."""

    kind: Literal["started", "cancelled"]
    process_ids: tuple[str, ...] = ()


ObservationPayload = (
    ActivityObserved | StateCommitted | ResidentChanged | AgentFrameSwitched | QueueChanged | ProcessChanged
)


class SessionObservationEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a session's live log and the cursor of its place (contract 04 §1). `turn_id` is set on activities
    and on the commit of a turn. Activities of a running turn carry the revision from before the turn."""

    session_id: str
    revision: int
    cursor: SessionCursor
    payload: ObservationPayload
    turn_id: str | None = None
    at_ms: int = 0

    @property
    def replay_incarnation_id(self) -> str:
        """The generation of the log this event belongs to."""
        return self.cursor.epoch


class LiveReplayGapReason(StrEnum):
    """`trimmed`: the events existed and the bounds dropped them. `unavailable`: they never existed here, or nothing
    proves that they follow."""

    TRIMMED = "trimmed"
    UNAVAILABLE = "unavailable"


class LiveReplayGap(msgspec.Struct, frozen=True):
    """Continuity is not proven (contract 04 §3): start again from the observation that comes with this and from
    `latest_cursor`."""

    session_id: str
    requested_cursor: SessionCursor
    latest_cursor: SessionCursor
    latest_revision: int
    reason: LiveReplayGapReason


class LogBounds(msgspec.Struct, frozen=True, gc=False):
    """A session's log without its events. `floor` is the last position dropped, `hole` the last position lost;
    `is_first_epoch` says that no earlier generation of the log ever was."""

    epoch: str
    tail: int
    floor: int = 0
    hole: int = 0
    is_first_epoch: bool = True


def judge_position(
    cursor_epoch: str, position: int, log: LogBounds | None, next_at_ms: int | None, now_ms: int
) -> LiveReplayGapReason | None:
    """The table of contract 04 §3: why events after `position` cannot be handed over, None when they can.

    `log` None is a session never seen here. `next_at_ms` is the time of the event at `position + 1`, None when that
    row is not there. The bounds hold by what is said here, whether the rows were deleted yet or not.
    """
    if log is None:
        return None if cursor_epoch == GENESIS and position == 0 else LiveReplayGapReason.UNAVAILABLE
    is_genesis = cursor_epoch == GENESIS and position == 0 and log.is_first_epoch
    if cursor_epoch != log.epoch and not is_genesis:
        return LiveReplayGapReason.UNAVAILABLE
    if position > log.tail or position <= log.hole != 0:
        return LiveReplayGapReason.UNAVAILABLE
    if position == log.tail:
        return None
    if position < max(log.floor, log.tail - MAX_EVENTS):
        return LiveReplayGapReason.TRIMMED
    if next_at_ms is None or now_ms - next_at_ms > MAX_AGE_MS:
        return LiveReplayGapReason.TRIMMED
    return None


def judge_revision(
    cursor_revision: int, head_revision: int, committed_revision: int | None
) -> LiveReplayGapReason | None:
    """Revision reconciliation (contract 04 §4): a commit between cursor and head must be among the events.

    `committed_revision` is the newest revision that a `committed` event after the cursor announces. Other events of
    a newer revision prove nothing.
    """
    if cursor_revision == head_revision:
        return None
    if cursor_revision > head_revision or committed_revision is None or committed_revision < head_revision:
        return LiveReplayGapReason.UNAVAILABLE
    return None
