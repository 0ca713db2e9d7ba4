"""What `lash tail` was asked for, what shows it, and what its end stands for (contract 08 §6.4, §8)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from lash_cli.cli.documents import Document
from lash_cli.cli.exit_status import turn_error
from lash_cli.cli.invocation import current
from lash_cli.core.activity import TurnFinished
from lash_cli.core.observation import ActivityObserved, StateCommitted
from lash_cli.core.outcome import Stopped, TurnResult
from lash_cli.errors import (
    ConflictError,
    LashError,
    SessionExecutionLeaseExpired,
    TurnCancelledError,
    TurnStoppedError,
)
from lash_cli.views.shell_words import shell_word

if TYPE_CHECKING:
    from lash_cli.cli.tail_cursor import Begin, CursorFile
    from lash_cli.cli.tail_watched import Watched
    from lash_cli.core.observation import SessionObservationEvent
    from lash_cli.runtime.observing import ObservedGap, SessionObservation
    from lash_cli.store.base import SessionRow

UNTIL_IDLE = "idle"
UNTIL_TURN = "turn"
UNTIL_COMMITTED = "committed"
# What a tail waits for that does not come when nobody finishes a turn.
UNTIL_EVENT = (UNTIL_TURN, UNTIL_COMMITTED)
_TURN_STATUSES = (TurnStoppedError.exit_status, TurnCancelledError.exit_status)


class TailPlan(msgspec.Struct, frozen=True):
    """A validated `lash tail`. `until` is idle, turn, committed or None; `seconds` is the end by time.
    `heartbeat_seconds` is for JSON lines only."""

    references: tuple[str | None, ...]
    is_all: bool
    begin: Begin
    until: str | None = None
    seconds: float | None = None
    types: Collection[str] | None = None
    cursor_file: CursorFile | None = None
    is_strict: bool = False
    follows: bool = True
    raw: bool = False
    heartbeat_seconds: float | None = None


class LineTarget(Protocol):
    """Takes what a tail writes."""

    async def write(self, text: str, /) -> None:
        """Return when the reader has `text`."""
        ...


class TailSink(ABC):
    """Shows what a tail gets. What is to be written is gathered until `flush`; items come one at a time."""

    # Whether committed messages are shown, which needs the transcript.
    shows_messages = True

    def __init__(self, target: LineTarget) -> None:
        self._target = target
        self._text: list[str] = []

    def start(self, watched: Sequence[Watched], begun: str) -> None:
        """The tail begins; `begun` is start, now or cursor. Called once, first."""
        return

    def introduce(self, watched: Watched, row: SessionRow) -> None:
        """A session is watched from here on."""
        return

    @abstractmethod
    def snapshot(self, watched: Watched, observation: SessionObservation) -> None:
        """The committed state to begin with."""

    @abstractmethod
    def gap(self, watched: Watched, item: ObservedGap) -> None:
        """Events were missed; the item brings the state to go on from."""

    @abstractmethod
    async def event(self, watched: Watched, event: SessionObservationEvent, kind: str, document: Document) -> None:
        """One event and its document."""

    def holder_died(self, watched: Watched, message: str) -> None:
        """The process that worked on the session is gone."""
        return

    def deleted(self, watched: Watched) -> None:
        """A session is gone and others are watched on."""
        return

    async def ready(self) -> None:
        """Return when the next item may be shown; may be given up."""
        return

    async def flush(self) -> None:
        """Return when the reader has what was gathered."""
        text = "".join(self._text)
        self._text.clear()
        if text:
            await self._target.write(text)

    async def run(self) -> None:
        """Whatever is done beside the items, until cancelled."""
        return

    async def end(self, watched: Sequence[Watched], reason: str, exit_status: int, error: LashError | None) -> None:
        """The tail ends; called once, last, and written before it returns. An error is told on stderr as well."""
        await self.flush()


def is_end(until: str | None, event: SessionObservationEvent) -> bool:
    """Whether an event is what `until` waits for."""
    payload = event.payload
    if until == UNTIL_COMMITTED:
        return isinstance(payload, StateCommitted)
    is_turn_end = isinstance(payload, ActivityObserved) and isinstance(payload.activity.event, TurnFinished)
    return until == UNTIL_TURN and is_turn_end


def has_commit(item: ObservedGap) -> bool:
    """Whether something was committed in a gap."""
    return item.gap.latest_revision > item.gap.requested_cursor.revision


def ended_error(result: TurnResult) -> LashError | None:
    """The error a turn stands for that somebody else ran: stopped is 6, cancelled is 7, whatever the reason."""
    error = turn_error(result, {})
    if error is None or error.exit_status in _TURN_STATUSES or not isinstance(result.outcome, Stopped):
        return error
    return TurnStoppedError(error.message, code=f"turn_stopped:{result.outcome.reason}", hint=error.hint)


def abandoned_error(watched: Watched, turn_id: str) -> SessionExecutionLeaseExpired:
    """The error of `--until` where a turn is unfinished and nobody works on it."""
    return SessionExecutionLeaseExpired(
        f"turn {turn_id} of session {watched.name} is unfinished and nobody works on it",
        hint=f"finish it: lash resume {shell_word(watched.name)}",
        details={"session": watched.session_id, "turn_id": turn_id},
    )


def gap_error(watched: Watched, item: ObservedGap) -> ConflictError:
    """The error of `--strict-gap`."""
    gap = item.gap
    return ConflictError(
        f"events of session {watched.name} were missed ({gap.reason.value})",
        code="observation_gap",
        hint=f"go on from the committed state: lash tail {shell_word(watched.name)} --from start",
        details={
            "session": watched.session_id,
            "reason": gap.reason.value,
            "requested_cursor": str(gap.requested_cursor),
            "latest_cursor": str(gap.latest_cursor),
        },
    )


def is_terminal() -> bool:
    """Whether stdout can show a live picture: a terminal that moves its cursor, and nobody asked for plain text."""
    import sys

    return sys.stdout.isatty() and not current().output.plain
