"""What a turn shows goes into the live log here, off the turn's path (contract 04 §4, design D9).

The turn only puts an activity into a queue in memory. What gathers within a dozen
milliseconds is appended in one transaction, by the thread that writes or, while
that has nothing to do, in passing (decision 0013); a turn that is over sooner
has its commit take it along. So previews keep their order, precede the commit
that settles them, and can neither delay nor fail the turn. Text of one row that
gathered meanwhile is appended as one piece.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

import msgspec

from lash_cli.alarms import Alarm, alarm_after
from lash_cli.core.activity import AssistantProseDelta, ReasoningShown, TurnActivity
from lash_cli.errors import LashError
from lash_cli.store.live import LiveStore

_log = logging.getLogger("lash.live")

# A database that stays locked lets activities gather; beyond this they are dropped, which observers learn as a gap.
MAX_WAITING: Final = 1024
# How long previews gather. Nobody sees the difference: a live view is drawn twelve times a second. A transaction and a
# ring for each piece would cost more than the piece.
GATHER_SECONDS: Final = 0.012
# Text is joined up to this size, so that an event stays a piece of text and not a book.
JOINED_CHARS: Final = 4096


def joined(earlier: TurnActivity, later: TurnActivity) -> TurnActivity | None:
    """Both as one activity when they are adjacent text of one row, else None."""
    if earlier.correlation_id != later.correlation_id:
        return None
    match earlier.event, later.event:
        case (AssistantProseDelta(text=first), AssistantProseDelta(text=second)) if len(first) < JOINED_CHARS:
            return msgspec.structs.replace(earlier, event=AssistantProseDelta(first + second))
        case (ReasoningShown(text=first), ReasoningShown(text=second)) if len(first) < JOINED_CHARS:
            return msgspec.structs.replace(earlier, event=ReasoningShown(first + second))
    return None


class PreviewPublisher(msgspec.Struct, eq=False):
    """Publishes the activities of one drive of one turn. Use inside the running loop; nothing here ever raises."""

    _live: LiveStore
    _session_id: str
    _generation: int
    _lock: threading.Lock = msgspec.field(default_factory=threading.Lock)
    _waiting: list[TurnActivity] = []
    _timer: Alarm | None = None

    async def take_over(self, turn_id: str, activity_id: str) -> None:
        """Retract what a dead attempt of the turn left standing, before this drive shows anything."""
        try:
            await self._live.retract_attempt(
                self._session_id, turn_id, generation=self._generation, activity_id=activity_id
            )
        except LashError as error:
            # A gap retracts everything as well.
            self._live.lose_previews(self._session_id)
            self._failed(error)

    def publish(self, activity: TurnActivity) -> None:
        """Show one activity of the running turn to observers."""
        with self._lock:
            if self._waiting and (whole := joined(self._waiting[-1], activity)) is not None:
                self._waiting[-1] = whole
            else:
                if len(self._waiting) >= MAX_WAITING:
                    self._waiting.clear()
                    self._live.lose_previews(self._session_id)
                self._waiting.append(activity)
        if self._timer is None:
            self._timer = alarm_after(GATHER_SECONDS, self._append)

    def flush(self) -> None:
        """Append everything now."""
        if self._timer is not None:
            self._timer.cancel()
            self._append()

    def taken_along(self) -> TakenAlong:
        """What waits, for the commit in the block to take along. It waits again when the commit was refused, and is
        lost, which observers learn as a gap, when nobody knows what became of the commit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return TakenAlong(self, self._take())

    def came_back(self, taken: Sequence[TurnActivity], error: BaseException) -> None:
        """Take back what a commit took along that ended with `error`."""
        if not isinstance(error, LashError) or error.ambiguous:
            if taken:
                self._live.lose_previews(self._session_id)
            return
        with self._lock:
            self._waiting[:0] = taken
        if self._waiting and self._timer is None:
            self._timer = alarm_after(GATHER_SECONDS, self._append)

    def _append(self) -> None:
        self._timer = None
        try:
            self._live.append_previews(
                self._session_id, self._take, generation=self._generation, on_failed=self._failed
            )
        except LashError as error:
            self._live.lose_previews(self._session_id)
            self._failed(error)

    def _take(self) -> Sequence[TurnActivity]:
        with self._lock:
            taken, self._waiting = self._waiting, []
            return taken

    def _failed(self, error: BaseException) -> None:
        dropped = len(self._take())
        _log.info("previews of session %s were lost (%d waiting): %s", self._session_id, dropped, error)


class TakenAlong(msgspec.Struct, eq=False):
    """A block that writes a commit with what waited for it; see `PreviewPublisher.taken_along`."""

    _publisher: PreviewPublisher
    _taken: Sequence[TurnActivity]

    def __enter__(self) -> Sequence[TurnActivity]:
        return self._taken

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._publisher.came_back(self._taken, error)
