"""The live log of sessions as JSON lines (contract 08 §6.5, 04 §5).

The lines are those of `turn -o jsonl`, made by the same mapping. A line carries
the cursor behind it; a gap carries none, because only the snapshot that follows
it makes a reader whole again, and both are written at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lash_cli.cli.documents import Document, message_document, usage_document
from lash_cli.cli.invocation import current
from lash_cli.cli.output import warn
from lash_cli.cli.tail_cursor import START
from lash_cli.cli.tail_plan import LineTarget, TailSink
from lash_cli.cli.turn_stream import StreamLines, event_document, finish_document, queue_document
from lash_cli.core.activity import TurnFinished
from lash_cli.core.observation import (
    ActivityObserved,
    AgentFrameSwitched,
    ProcessChanged,
    QueueChanged,
    SessionObservationEvent,
    StateCommitted,
)
from lash_cli.errors import LashError
from lash_cli.runtime.stored_turns import stored_result
from lash_cli.system import SystemClock

if TYPE_CHECKING:
    from lash_cli.cli.tail_watched import Watched
    from lash_cli.runtime.observing import ObservedGap, SessionObservation

# What `--types` may name. Framing (`stream_start`, `gap`, `snapshot`, `heartbeat`, `stream_end`) is always shown.
EVENT_TYPES = (
    "turn_started", "turn_finished", "model_request_started", "retry", "text_delta", "reasoning_delta",
    "attempt_reset", "tool_started", "tool_progress", "tool_completed", "code_started", "code_completed",
    "final_value", "tool_value", "usage", "child_usage", "input_accepted", "work_started", "queue_changed",
    "process_changed", "frame_switched", "resident_changed", "committed", "error", "plugin",
)  # fmt: skip
FRAMING = ("stream_start", "gap", "snapshot", "heartbeat", "stream_end")


def observed_document(event: SessionObservationEvent) -> tuple[str, Document]:
    """The type and payload of one event of the live log, as far as the event itself says it."""
    match event.payload:
        case ActivityObserved(activity=activity):
            if isinstance(activity.event, TurnFinished):
                return "turn_finished", finish_document(activity.event)
            return event_document(activity)
        case StateCommitted(head_node_id=head_node_id):
            return "committed", {"revision": event.revision, "head_node": head_node_id}
        case AgentFrameSwitched(frame_id=frame_id):
            return "frame_switched", {"frame_id": frame_id}
        case QueueChanged(kind=kind, batch_ids=ids):
            return "queue_changed", queue_document(kind, ids)
        case ProcessChanged(kind=kind, process_ids=ids):
            return "process_changed", {"kind": kind, "ids": list(ids)}
    return "resident_changed", {}


def snapshot_document(observation: SessionObservation) -> Document:
    """The committed state a reader replaces its own by."""
    view = observation.read_view
    return {
        "revision": view.head_revision,
        "head_node": view.leaf_node_id,
        "turns": view.turn_index,
        "usage": usage_document(view.token_usage),
        "messages": [message_document(message) for message in view.messages],
    }


class JsonTail(TailSink):
    """Writes the items of a tail as JSON lines."""

    shows_messages = False

    def __init__(self, target: LineTarget, mode: str = "tail") -> None:
        """`mode` is what `stream_start` calls the command that writes."""
        super().__init__(target)
        self._mode = mode
        self._only_id: str | None = None
        clock = SystemClock()
        self._lines = StreamLines(self._text.append, now_ms=clock.now_ms, ascii_only=current().output.ascii)

    def start(self, watched: Sequence[Watched], begun: str) -> None:
        """Write `stream_start`; with one session its cursor is where the stream begins."""
        only = watched[0] if len(watched) == 1 else None
        self._only_id = only.session_id if only else None
        self._lines.start(
            self._mode,
            only.session_id if only else None,
            session_name=only.name if only else None,
            begun=begun,
            sessions=[{"id": session.session_id, "name": session.name} for session in watched],
            cursor=only.cursor if only and begun != START else None,
        )

    def snapshot(self, watched: Watched, observation: SessionObservation) -> None:
        """Write the committed state."""
        self._lines.line(
            "snapshot", watched.session_id, None, snapshot_document(observation), cursor=observation.cursor
        )

    def gap(self, watched: Watched, item: ObservedGap) -> None:
        """Write the gap and the state to go on from."""
        gap = item.gap
        self._lines.gap(
            watched.session_id, gap.reason.value, gap.requested_cursor, gap.latest_cursor, gap.latest_revision
        )
        self.snapshot(watched, item.observation)

    async def event(self, watched: Watched, event: SessionObservationEvent, kind: str, document: Document) -> None:
        """Write one event; what a commit and an end say beyond it is read from the store."""
        turn_id, cursor, at_ms = event.turn_id, event.cursor, event.at_ms
        if kind == "turn_finished" and turn_id is not None:
            result = await stored_result(watched.store, watched.session_id, turn_id)
            if result is not None:
                self._lines.finished(result, name=watched.name, cursor=cursor, at_ms=at_ms)
                return
        if kind == "committed" and turn_id is not None:
            record = await watched.store.turn(watched.session_id, turn_id)
            document = {**document, "head_node": None if record is None else record.last_node_id}
        if isinstance(event.payload, ActivityObserved):
            at_ms = event.payload.activity.at_ms or at_ms
        self._lines.line(kind, watched.session_id, turn_id, document, at_ms or None, cursor=cursor)

    def heartbeat(self) -> None:
        """Write that the stream is alive."""
        self._lines.heartbeat(self._only_id)

    def holder_died(self, watched: Watched, message: str) -> None:
        """On stderr: who reads the stream from a cursor later must find the same lines."""
        warn(message, code="holder_dead")

    def deleted(self, watched: Watched) -> None:
        """On stderr, because the others go on."""
        warn(f"session {watched.name} ({watched.session_id}) was deleted", code="session_deleted")

    async def end(self, watched: Sequence[Watched], reason: str, exit_status: int, error: LashError | None) -> None:
        """Write `stream_end`."""
        from lash_cli.cli.failure import error_document

        session_id = watched[0].session_id if len(watched) == 1 else None
        document = error_document(error) if error is not None else None
        self._lines.end(session_id, None, reason, exit_status, document)
        await self.flush()
