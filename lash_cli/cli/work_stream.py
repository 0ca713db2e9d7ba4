"""What a worker does, told as it happens: lines for people on stderr, or JSON lines on stdout (contract 08 §5.2, §6.5).

Many sessions share one stream, so every line names its session, and a cursor
is one of that session: `committed` and `turn_finished` have theirs, as in the
stream of a single turn. The stream ends with `stream_end` whatever ends the
worker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lash_cli.cli.documents import Document
from lash_cli.cli.output import say, warn
from lash_cli.cli.turn_documents import outcome_document
from lash_cli.cli.turn_stream import Settled, StreamLines, queue_document
from lash_cli.core.activity import Committed, TurnActivity, TurnFinished
from lash_cli.core.observation import SessionCursor
from lash_cli.runtime.work_events import (
    ActivityShown,
    CommandsApplied,
    HeldAfterFailure,
    LaneGivenUp,
    PassFailed,
    TurnEnded,
    WorkEvent,
    WorkReport,
)
from lash_cli.views.counts import counted
from lash_cli.views.shell_words import shell_word
from lash_cli.views.times import duration

NameOf = Callable[[str], str]
MOST_IDS_IN_LINE = 3


def report_document(report: WorkReport) -> Document:
    """What a worker did, as counts and sessions."""
    return {
        "turns": report.turns,
        "failed": report.failed,
        "errors": report.errors,
        "sessions": list(report.sessions),
        "held": list(report.held),
        "stopped_by": report.stopped_by,
    }


def report_text(report: WorkReport) -> str:
    """The report in one line."""
    failed = f", {report.failed} failed" if report.failed else ""
    passes = "pass" if report.errors == 1 else "passes"
    errors = f", {report.errors} {passes} without a commit" if report.errors else ""
    held = f", queues held: {len(report.held)}" if report.held else ""
    turns, where = counted(report.turns, "turn"), counted(len(report.sessions), "session")
    return f"{turns} in {where}{failed}{errors}{held}; stopped: {report.stopped_by}"


class WorkLog:
    """Tells people what a worker does: one line per turn."""

    def __init__(self, name_of: NameOf) -> None:
        self._name_of = name_of

    def show(self, event: WorkEvent) -> None:
        """Tell one event."""
        match event:
            case TurnEnded():
                say(self._turn_line(event))
            case CommandsApplied(session_id=session_id, receipts=receipts):
                say(f"{self._name_of(session_id)}  applied {', '.join(receipt.source_key for receipt in receipts)}")
            case PassFailed(session_id=session_id, error=error, retry_in_ms=None):
                hint = f"; {error.hint}" if error.hint else ""
                warn(f"{self._name_of(session_id)}: {error.message}{hint}", code=error.code)
            case PassFailed(session_id=session_id, error=error, retry_in_ms=int(rest_ms)):
                say(f"{self._name_of(session_id)}  {error.code}; again in {duration(rest_ms)}")
            case HeldAfterFailure(session_id=session_id, reason=reason):
                name = self._name_of(session_id)
                warn(
                    f"the queue of {name} is held ({reason}); go on with: lash queue release {shell_word(name)}",
                    code="queue_held",
                )
            case LaneGivenUp(session_id=session_id):
                say(f"{self._name_of(session_id)}  is busy; left to its holder")

    def _turn_line(self, event: TurnEnded) -> str:
        result = event.result
        outcome = outcome_document(result.outcome)
        words = [
            self._name_of(event.session_id),
            result.turn_id,
            _ids_in_words(result.input_ids),
            outcome["reason"] or outcome["type"],
            duration(result.execution.duration_ms),
        ]
        return "  ".join(words)

    def start(self) -> None:
        """Nothing is said before the first turn."""

    def end(self, reason: str, exit_status: int, error: Document | None) -> None:
        """The report or the error says how it ended."""


def _ids_in_words(ids: Sequence[str]) -> str:
    """A few ids as they are, of many the first, the last and how many: one turn may take dozens."""
    if len(ids) <= MOST_IDS_IN_LINE:
        return ",".join(ids) or "-"
    return f"{ids[0]}…{ids[-1]} ({len(ids)} inputs)"


class WorkLines:
    """Writes what a worker does as JSON lines."""

    def __init__(self, lines: StreamLines, name_of: NameOf) -> None:
        self._lines = lines
        self._name_of = name_of
        # Where turns stand in the logs of their sessions that were committed and whose end was not told yet.
        self._settled: dict[tuple[str, str], Settled] = {}

    def start(self) -> None:
        """Write `stream_start`."""
        self._lines.start("work")

    def settle(self, session_id: str, turn_id: str, settled: Settled) -> None:
        """Take the places of a turn's commit in its session's log; called before the turn's `Committed` is shown."""
        self._settled[session_id, turn_id] = settled

    def show(self, event: WorkEvent) -> None:
        """Write one event."""
        match event:
            case ActivityShown(activity=activity) if not isinstance(activity.event, TurnFinished):
                self._lines.activity(activity, self._cursor_of(activity))
            case TurnEnded(session_id=session_id, result=result):
                settled = self._settled.pop((session_id, result.turn_id), Settled())
                self._lines.finished(result, name=self._name_of(session_id), cursor=settled.finished)
            case CommandsApplied(session_id=session_id, receipts=receipts):
                ids = [receipt.batch_id for receipt in receipts]
                self._lines.line("queue_changed", session_id, None, queue_document("applied", ids))
            case PassFailed(session_id=session_id, error=error, retry_in_ms=rest_ms):
                payload: Document = {"code": error.code, "message": error.message, "retry_in_ms": rest_ms}
                self._lines.line("warning", session_id, None, payload)
            case HeldAfterFailure(session_id=session_id, reason=reason):
                self._lines.line("queue_changed", session_id, None, queue_document("held", (), reason=reason))
            case LaneGivenUp(session_id=session_id):
                payload = {"code": "session_execution_busy", "message": "left to its holder", "retry_in_ms": None}
                self._lines.line("warning", session_id, None, payload)

    def _cursor_of(self, activity: TurnActivity) -> SessionCursor | None:
        if not isinstance(activity.event, Committed):
            return None
        return self._settled.get((activity.session_id, activity.turn_id), Settled()).committed

    def end(self, reason: str, exit_status: int, error: Document | None) -> None:
        """Write `stream_end`, once."""
        self._lines.end(None, None, reason, exit_status, error)
