"""A running turn as JSON lines, and the one writer of its stdout (contract 08 §6.5).

The turn never waits for a reader: everything for stdout goes through one
writer thread, so a stalled pager cannot cost the lease and a closed pipe
cannot end the turn. Every line of the stream has all of its keys; the first is
`stream_start`, the last `stream_end`, whatever happens between them.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import queue
import stat
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lash_cli.cli.documents import Document, spelled_out
from lash_cli.cli.documents import usage_document as _usage
from lash_cli.cli.failure import told_as
from lash_cli.cli.turn_documents import issue_document, outcome_document, turn_result_document
from lash_cli.core.activity import (
    AssistantProseDelta,
    ChildUsage,
    CodeBlockCompleted,
    CodeBlockStarted,
    Committed,
    ErrorShown,
    FinalValueShown,
    ModelAttemptReset,
    ModelRequestStarted,
    QueuedInputAccepted,
    QueuedWorkStarted,
    ReasoningShown,
    RetryWait,
    ToolCallCompleted,
    ToolCallStarted,
    ToolProgress,
    TurnActivity,
    TurnEvent,
    TurnFinished,
    TurnStarted,
    UsageShown,
    ValueShown,
)
from lash_cli.core.observation import SessionCursor
from lash_cli.core.outcome import AssistantMessage, Finished, TurnResult
from lash_cli.errors import LashError
from lash_cli.system import in_a_thread, is_without_thread
from lash_cli.views.safe_text import safe_json
from lash_cli.views.times import rfc3339
from lash_cli.views.turn_text import status_word

PROTOCOL_VERSION = 1

Tell = Callable[[str], None]


class OutputPump:
    """The single writer of one stdout: takes text from the event loop, writes it from a thread of its own, or at once
    where that cannot have to wait.

    `is_closed` becomes true when the reader went away, with a terminal its person; what follows is dropped.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.is_closed = False
        self.failure: OSError | None = None
        self._is_file: bool | None = None
        self._can_write_at_once = hasattr(os, "RWF_NOWAIT")

    def write(self, text: str) -> None:
        """Queue `text`; never blocks, unless the system has no thread for it."""
        if text:
            self._queue(text.encode("utf-8", "backslashreplace"))

    def _queue(self, chunk: bytes) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="lash-stdout", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                if not is_without_thread(error):
                    raise
                # The turn waits for its reader then: its answer would be lost otherwise.
                self._write_whole(chunk)
                return
            self._thread = thread
        self._chunks.put(chunk)

    def write_at_once(self, text: str) -> bool:
        """Write `text` here and now; False where that might have to wait, and then the rest of it is queued. Never
        blocks."""
        rest = text.encode("utf-8", "backslashreplace")
        if self._thread is None and self.failure is None and not self.is_closed:
            try:
                rest = rest[self._write_without_waiting(rest) :]
            except BrokenPipeError:
                self.is_closed = True
            except OSError as error:
                # What is wrong with it is found again by the thread, which may wait.
                self._can_write_at_once = error.errno == errno.EAGAIN
        if not rest or self.is_closed:
            return True
        self._queue(rest)
        return False

    def _write_without_waiting(self, data: bytes) -> int:
        """How much was written: of a file everything, of a pipe what its reader has room for, else nothing."""
        if self._is_file is None:
            self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        if self._is_file:
            return os.write(self._descriptor, data)
        if not self._can_write_at_once:
            return 0
        # The descriptor is shared with whoever started this command, so that it must stay blocking for them.
        return os.pwritev(self._descriptor, [data], -1, os.RWF_NOWAIT)

    def drain(self) -> None:
        """Return once everything queued was written or dropped; raises the `OSError` of a failed write."""
        if self._thread is not None:
            self._chunks.put(None)
            self._thread.join()
            self._thread = None
        if self.failure is not None:
            raise self.failure

    async def drained(self) -> None:
        """`drain`, in a thread where there is something to wait for: a second signal still ends a process whose reader
        has stalled."""
        if self._thread is None:
            self.drain()
        else:
            await in_a_thread(self.drain)

    async def told_as(self, error: Exception) -> LashError:
        """The error that the last line of a stream tells for `error`, once all lines before it were written.

        Raises the `OSError` of a failed write instead: it is what is told then, and no line follows.
        """
        await self.drained()
        return told_as(error)

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            self._write_whole(chunk)

    def _write_whole(self, chunk: bytes) -> None:
        if self.is_closed or self.failure is not None:
            return
        try:
            while chunk:
                chunk = chunk[os.write(self._descriptor, chunk) :]
        except BrokenPipeError:
            self.is_closed = True
        except OSError as error:
            if self._is_hung_up(error):
                self.is_closed = True
            else:
                self.failure = error

    def _is_hung_up(self, error: OSError) -> bool:
        """Whether a write failed because the terminal is gone, and whoever sat there."""
        return error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self._descriptor).st_mode)


class StreamLines:
    """Lines of a JSONL stream: every one has all of its keys, `seq` counts them, and the stream ends once."""

    def __init__(self, write: Callable[[str], None], *, now_ms: Callable[[], int], ascii_only: bool = False) -> None:
        self._write = write
        self._now_ms = now_ms
        self._ascii_only = ascii_only
        self._seq = 0
        self._has_ended = False

    def line(
        self,
        kind: str,
        session_id: str | None,
        turn_id: str | None,
        payload: Document,
        at_ms: int | None = None,
        *,
        cursor: SessionCursor | None = None,
    ) -> None:
        """Write one line. `cursor` is where a reader of this line goes on from, None where that is not known."""
        line = {
            "v": PROTOCOL_VERSION,
            "seq": self._seq,
            "t": rfc3339(at_ms or self._now_ms()),
            "session": session_id,
            "turn": turn_id,
            "cursor": None if cursor is None else str(cursor),
            "type": kind,
            **payload,
        }
        self._seq += 1
        text = json.dumps(line, ensure_ascii=self._ascii_only, separators=(",", ":"))
        self._write((text if self._ascii_only else safe_json(text)) + "\n")

    def start(
        self,
        mode: str,
        session_id: str | None = None,
        *,
        session_name: str | None = None,
        begun: str | None = None,
        sessions: Sequence[Document] | None = None,
        cursor: SessionCursor | None = None,
    ) -> None:
        """Write `stream_start`; `begun` is where the stream was asked to begin, `sessions` those of a stream of
        several."""
        payload = {
            "protocol_version": PROTOCOL_VERSION,
            "mode": mode,
            "from": begun,
            "session_name": session_name,
            "sessions": None if sessions is None else list(sessions),
        }
        self.line("stream_start", session_id, None, payload, cursor=cursor)

    def gap(self, session_id: str, reason: str, requested: SessionCursor, latest: SessionCursor, revision: int) -> None:
        """Write that events may be missing between two places; the committed state follows."""
        payload = {
            "reason": reason,
            "requested_cursor": str(requested),
            "latest_cursor": str(latest),
            "latest_revision": revision,
        }
        self.line("gap", session_id, None, payload)

    def heartbeat(self, session_id: str | None) -> None:
        """Write that the stream is alive, unless it has ended."""
        if not self._has_ended:
            self.line("heartbeat", session_id, None, {})

    def activity(self, activity: TurnActivity, cursor: SessionCursor | None = None) -> None:
        """Write one event of a turn other than its end."""
        kind, payload = event_document(activity)
        self.line(kind, activity.session_id, activity.turn_id, payload, activity.at_ms or None, cursor=cursor)

    def finished(
        self,
        result: TurnResult,
        *,
        name: str | None,
        replayed: bool = False,
        cursor: SessionCursor | None = None,
        at_ms: int | None = None,
    ) -> None:
        """Write `turn_finished` with everything a caller learns about a turn."""
        document = turn_result_document(result, name=name, replayed=replayed)
        for key in ("session", "session_name"):
            document.pop(key)
        self.line("turn_finished", result.session_id, result.turn_id, document, at_ms, cursor=cursor)

    def end(
        self, session_id: str | None, turn_id: str | None, reason: str, exit_status: int, error: Document | None
    ) -> None:
        """Write `stream_end`, once."""
        if not self._has_ended:
            self._has_ended = True
            self.line("stream_end", session_id, turn_id, {"reason": reason, "exit": exit_status, "error": error})


class Settled(NamedTuple):
    """Where the commit of a turn stands in its session's log: the places of its `committed` and of its end."""

    turn_id: str | None = None
    committed: SessionCursor | None = None
    finished: SessionCursor | None = None


class EventLines:
    """The JSONL event stream of one turn: `stream_start` first, `stream_end` always last.

    The lines that can be resumed from say so: `stream_start` carries the cursor from before the turn, `committed` and
    `turn_finished` those of their own places in the session's log. In between `cursor` is null: what is shown there
    reaches the log a little later, and a turn does not wait for that.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        session_id: str,
        *,
        session_name: str | None,
        now_ms: Callable[[], int],
        ascii_only: bool = False,
    ) -> None:
        self._lines = StreamLines(write, now_ms=now_ms, ascii_only=ascii_only)
        self._session_id = session_id
        self._session_name = session_name
        self._turn_id: str | None = None
        self._settled = Settled()

    def start(self, mode: str, cursor: SessionCursor | None = None) -> None:
        """Write `stream_start`."""
        self._lines.start(mode, self._session_id, session_name=self._session_name, cursor=cursor)

    def settle(self, settled: Settled) -> None:
        """Take the places of the turn's commit in the log; called before the turn's `Committed` is shown."""
        self._settled = settled

    def show(self, activity: TurnActivity) -> None:
        """Write one event. The end of the requested turn is not shown but given to `finish`, which knows more."""
        self._turn_id = activity.turn_id
        if isinstance(activity.event, TurnFinished):
            document, cursor = finish_document(activity.event, activity.turn_id), self._settled.finished
            self._lines.line("turn_finished", self._session_id, activity.turn_id, document, cursor=cursor)
        else:
            self._lines.activity(activity, self._settled.committed if isinstance(activity.event, Committed) else None)

    def finish(self, result: TurnResult, *, replayed: bool) -> None:
        """Write `turn_finished` of the requested turn."""
        cursor = self._settled.finished if self._settled.turn_id == result.turn_id else None
        self._lines.finished(result, name=self._session_name, replayed=replayed, cursor=cursor)

    def queued(self, receipt: Document) -> None:
        """Write that the text waits in the queue instead of being turned now."""
        payload = queue_document("enqueued", [receipt["id"]], receipt=receipt)
        self._lines.line("queue_changed", self._session_id, None, payload)

    async def beat(self, seconds: float) -> None:
        """Write a heartbeat every `seconds`, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            self._lines.heartbeat(self._session_id)

    def leave(self) -> None:
        """Nothing to give back."""

    def end(self, reason: str, exit_status: int, error: Document | None) -> None:
        """Write `stream_end`, once."""
        self._lines.end(self._session_id, self._turn_id, reason, exit_status, error)


# What a `turn_finished` line says, in this order; what its writer does not know is null.
FINISHED_KEYS = (
    "turn_id", "ok", "replayed", "outcome", "text", "partial_text", "usage", "children_usage", "total_usage",
    "tool_calls", "errors", "model_calls", "cancellation", "head_revision", "input_ids", "started_at", "duration_ms",
)  # fmt: skip


def finish_document(event: TurnFinished, turn_id: str | None = None) -> Document:
    """How a turn ended, as far as its last activity says it."""
    outcome = outcome_document(event.outcome)
    finish = event.outcome.finish if isinstance(event.outcome, Finished) else None
    text = finish.text if isinstance(finish, AssistantMessage) else None
    document: Document = dict.fromkeys(FINISHED_KEYS)
    document.update(turn_id=turn_id, ok=outcome["type"] != "stopped", outcome=outcome, text=text)
    return document


def queue_document(
    kind: str, ids: Sequence[str], *, receipt: Document | None = None, reason: str | None = None
) -> Document:
    """What changed in a queue: `receipt` of a text that this command queued, `reason` of a hold."""
    return {"kind": kind, "ids": list(ids), "input": receipt, "reason": reason}


def event_document(activity: TurnActivity) -> tuple[str, Document]:
    """The type and payload of one activity other than `TurnFinished`."""
    return _event_document(activity.event, activity.correlation_id)


def _event_document(event: TurnEvent, correlation_id: str) -> tuple[str, Document]:
    match event:
        case AssistantProseDelta(text=text):
            return "text_delta", {"correlation_id": correlation_id, "text": text}
        case ReasoningShown(text=text):
            return "reasoning_delta", {"correlation_id": correlation_id, "text": text}
        case ModelAttemptReset(assistant_prose_correlation_ids=prose, reasoning_correlation_ids=reasoning):
            return "attempt_reset", {"text_ids": list(prose), "reasoning_ids": list(reasoning)}
        case ToolCallStarted():
            return "tool_started", _without_tag(event)
        case ToolProgress():
            return "tool_progress", _without_tag(event)
        case ToolCallCompleted():
            return "tool_completed", {
                "call_id": event.call_id,
                "name": event.name,
                "args": spelled_out(event.args),
                "status": status_word(event.output),
                "output": spelled_out(event.output.outcome),
                "duration_ms": event.duration_ms,
                "parent_call_id": event.parent_call_id,
            }
        case UsageShown():
            return "usage", {
                "iteration": event.protocol_iteration,
                "usage": _usage(event.usage),
                "cumulative": _usage(event.cumulative),
            }
    return _lifecycle_document(event)


def _lifecycle_document(event: TurnEvent) -> tuple[str, Document]:
    match event:
        case TurnStarted():
            return "turn_started", _without_tag(event)
        case ModelRequestStarted(protocol_iteration=iteration):
            return "model_request_started", {"iteration": iteration}
        case RetryWait():
            return "retry", {
                "wait_s": event.wait_ms / 1000,
                "wait_ms": event.wait_ms,
                "attempt": event.attempt,
                "max": event.max_attempts,
                "reason": event.reason,
            }
        case QueuedInputAccepted():
            return "input_accepted", _without_tag(event)
        case QueuedWorkStarted():
            return "work_started", _without_tag(event)
        case ValueShown():
            return "tool_value", _without_tag(event)
        case FinalValueShown():
            return "final_value", _without_tag(event)
        case CodeBlockStarted():
            return "code_started", _without_tag(event)
        case CodeBlockCompleted():
            return "code_completed", _without_tag(event)
        case ChildUsage():
            return "child_usage", {
                "child_session": event.session_id,
                "source": event.source,
                "model": event.model,
                "iteration": event.protocol_iteration,
                "usage": _usage(event.usage),
                "cumulative": _usage(event.cumulative),
            }
        case ErrorShown(issue=issue):
            return "error", {"issue": issue_document(issue)}
        case Committed(revision=revision, leaf_node_id=leaf):
            return "committed", {"revision": revision, "head_node": leaf}
    return "plugin", _without_tag(event)


def _without_tag(event: TurnEvent) -> Document:
    document: Document = spelled_out(event)
    document.pop("type", None)
    return document
