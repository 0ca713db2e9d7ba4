"""What happens in a session in plain lines: one event, one line (contract 08 §8).

Pure: the documents of the JSON stream go in, so the text says nothing that the
stream does not. Text of a model is told when it is committed and not before, so
what a retry took back never appears. Everything that a person, a model or a
tool wrote passes `clean`.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import msgspec

from lash_cli.core.content import Message, ToolCallPart, ToolResultPart
from lash_cli.views.counts import counted
from lash_cli.views.safe_text import Clean, preview, safe_line
from lash_cli.views.times import duration
from lash_cli.views.transcript import INDENT, TranscriptEntry, transcript_text
from lash_cli.views.turn_text import ARGS_PREVIEW_CHARS, MESSAGE_PREVIEW_CHARS, value_text

LABEL_WIDTH = 9

# Told only when they are asked for by name: previews, and what a person does not follow line by line.
QUIET_TYPES = frozenset(
    {
        "text_delta", "reasoning_delta", "model_request_started", "usage", "child_usage", "tool_progress",
        "committed", "resident_changed",
    }
)  # fmt: skip


class Row(NamedTuple):
    """A label and what it says; the text may have several lines."""

    label: str
    text: str


def clock(at_ms: int) -> str:
    """The local time of day, `12:03:11`."""
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000))


def row_line(at_ms: int, row: Row, prefix: str = "") -> str:
    """A row as one line, or as one and indented ones; every line carries `prefix`."""
    head, *rest = row.text.splitlines() or [""]
    first = f"{prefix}{clock(at_ms)} {row.label:<{LABEL_WIDTH}} {head}".rstrip()
    indent = " " * (len("12:03:11") + LABEL_WIDTH + 2)
    return "\n".join((first, *(f"{prefix}{indent}{line}".rstrip() for line in rest)))


def event_row(kind: str, document: dict[str, Any], turn_id: str | None, clean: Clean) -> Row:
    """The row of one event of the stream."""
    match kind:
        case "turn_started":
            how = "resumed" if document["redriven"] else "started"
            return Row("turn", f"{_ids(turn_id)} {how} ({document['origin']})")
        case "turn_finished":
            return turn_end_row(turn_id, document)
        case "tool_started" | "tool_completed" | "tool_progress":
            return Row("tool", tool_words(kind, document, clean))
        case "text_delta":
            return Row("assistant", clean(document["text"]))
        case "reasoning_delta":
            return Row("reasoning", clean(document["text"]))
        case "attempt_reset":
            count = len(document["text_ids"]) + len(document["reasoning_ids"])
            return Row("retracted", f"{counted(count, 'piece')} of live text")
        case "retry":
            wait = f"in {duration(document['wait_ms'])} · attempt {document['attempt']}/{document['max']}"
            return Row("retry", f"{wait} · {clean(document['reason'])}")
        case "input_accepted":
            return Row("input", f"accepted {_ids(*document['input_ids'])}")
        case "work_started":
            return Row("work", f"started {_ids(*document['batch_ids'])}")
        case "queue_changed":
            return Row("queue", f"{document['kind']} {_ids(*document['ids'])}".rstrip())
        case "process_changed":
            return Row("process", f"{document['kind']} {_ids(*document['ids'])}".rstrip())
        case "frame_switched":
            return Row("frame", f"now {_ids(document['frame_id'])}")
        case "committed":
            return Row("committed", f"revision {document['revision']}")
        case "error":
            return Row("error", clean(preview(document["issue"]["message"], MESSAGE_PREVIEW_CHARS)))
        case "usage":
            usage = document["cumulative"]
            return Row("usage", f"in {usage['input_tokens']} out {usage['output_tokens']}")
    return Row(kind, clean(preview(msgspec.json.encode(document).decode(), MESSAGE_PREVIEW_CHARS)))


def turn_end_row(turn_id: str | None, document: dict[str, Any]) -> Row:
    """How a turn ended."""
    return Row("turn", f"{_ids(turn_id)} {outcome_words(document['outcome'])}")


def rewind_row(left_behind: int, last_kept_id: str | None) -> Row:
    """The head moved back to a message, or before all of them: what was said after it is no part of what follows."""
    where = "the beginning" if last_kept_id is None else _ids(last_kept_id)
    return Row("rewind", f"{counted(left_behind, 'message')} left behind; it goes on from {where}")


def _ids(*ids: str | None) -> str:
    """Ids on one line. Commands check theirs, but an embedding application or an imported file may have made these."""
    return ", ".join(safe_line(str(name)) for name in ids)


def outcome_words(outcome: dict[str, Any]) -> str:
    """`finished`, `stopped: max_turns`, `cancelled`."""
    if outcome["reason"] == "cancelled":
        return "cancelled"
    return f"stopped: {outcome['reason']}" if outcome["reason"] else str(outcome["type"]).replace("_", " ")


def tool_words(kind: str, document: dict[str, Any], clean: Clean) -> str:
    """What a tool event says, without its label."""
    if kind == "tool_progress":
        return clean(preview(document["text"], MESSAGE_PREVIEW_CHARS))
    name = clean(document["name"])
    args = clean(preview(value_text(document["args"]), ARGS_PREVIEW_CHARS))
    if kind == "tool_started":
        return f"{name} {args}"
    return f"{name} {args}  {document['status']} {duration(document['duration_ms'])}"


def whole_tool_text(document: dict[str, Any]) -> str:
    """A call with all of its arguments and, once it ended, all of its output."""
    call = f"{document['name']} {value_text(document['args'])}"
    if "output" not in document:
        return call
    output = document["output"]
    failed = output.get("failure") or output.get("cancellation")
    said = failed["message"] if failed else value_text(output.get("value"))
    return f"{call}\n{document['status']} {duration(document['duration_ms'])}\n{said}"


def message_row(message: Message, clean: Clean, *, with_tools: bool) -> Row | None:
    """A committed message; None when there is nothing of it to show."""
    if not with_tools:
        parts = tuple(part for part in message.parts if not isinstance(part, ToolCallPart | ToolResultPart))
        message = msgspec.structs.replace(message, parts=parts)
    text = transcript_text([TranscriptEntry(message)], clean=clean)
    if not text:
        return None
    lines = [line.removeprefix(INDENT) for line in text.splitlines()[1:]]
    return Row(message.role.value, "\n".join(lines))
