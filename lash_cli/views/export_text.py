"""A session as Markdown (contract 08 §5.1 `export --as md`).

Pure: sessions go in, one text comes out. What was said stays as it was said,
so a model's Markdown is Markdown here too; what a tool was given and returned
stands in fences longer than any run of backticks in it, so it cannot end them.
Every text passes the session's `clean`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lash_cli.core.content import (
    AttachmentPart,
    AttachmentSource,
    CodePart,
    ErrorPart,
    ExternalUrl,
    Inline,
    Message,
    OutputPart,
    Part,
    ProsePart,
    ReasoningPart,
    Stored,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

_BACKTICKS = re.compile(r"`{3,}")


class ExportedMessage(NamedTuple):
    """A message, when it was committed, and, where a new frame begins, why."""

    message: Message
    at: str
    frame_reason: str | None = None


class ExportedSession(NamedTuple):
    """A session to be read. `images` are bytes by attachment reference, with their media type."""

    session_id: str
    name: str
    provider: str
    model: str
    created_at: str
    is_redacted: bool
    messages: tuple[ExportedMessage, ...]
    clean: Callable[[str], str]
    images: Mapping[str, tuple[str, bytes]]


def export_text(sessions: Sequence[ExportedSession]) -> str:
    """The sessions one after another."""
    return "\n\n".join(_session(session) for session in sessions) + "\n"


def _session(session: ExportedSession) -> str:
    redacted = ", redacted" if session.is_redacted else ""
    blocks = [
        f"# {one_line(session.name)}",
        f"Session `{session.session_id}`, {session.provider} `{session.model}`, opened {session.created_at}{redacted}.",
    ]
    for entry in session.messages:
        if entry.frame_reason is not None:
            blocks.append(f"---\n\n*A new frame: {one_line(session.clean(entry.frame_reason))}.*")
        parts = [text for part in entry.message.parts if (text := _part(part, session.clean))]
        if parts:
            blocks += [f"## {entry.message.role.value} · {entry.at}", *parts]
    return "\n\n".join(blocks)


def _part(part: Part, clean: Callable[[str], str]) -> str:
    match part:
        case TextPart(content=content, label=str(label)):
            return f"*{one_line(clean(label))}*\n\n{fenced(clean(content))}"
        case TextPart(content=content) | ProsePart(content=content):
            return clean(content).strip("\n")
        case ReasoningPart():
            return ""
        case ToolCallPart(tool_name=name, input_json=content):
            return f"**{one_line(clean(name))}**\n\n{fenced(clean(content), 'json')}"
        case ToolResultPart(tool_name=name, content=content, status=status):
            return f"**{one_line(clean(name))}** returned ({status})\n\n{fenced(clean(content))}"
        case AttachmentPart(attachment=attachment):
            return f"[attachment: {one_line(clean(attachment_words(attachment)))}]"
        case CodePart(content=content, language=language):
            return fenced(clean(content), language if language.isalnum() else "")
        case OutputPart(content=content) | ErrorPart(content=content):
            return fenced(clean(content))


def fenced(text: str, language: str = "") -> str:
    """`text` in a fence that nothing in it closes."""
    longest = max((len(run) for run in _BACKTICKS.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}"


def attachment_words(attachment: AttachmentSource) -> str:
    """What an attachment is, in words."""
    match attachment:
        case Stored(label=label, media_type=media_type, byte_len=size, attachment_ref=ref):
            return f"{label or ref}, {media_type}, {size} bytes"
        case Inline(label=label, media_type=media_type, data=data):
            return f"{label or 'inline'}, {media_type}, {len(data)} bytes"
        case ExternalUrl(url=url, media_type=media_type):
            return f"{url}, {media_type}"
        case _:
            return f"{attachment.provider}:{attachment.id}"


def one_line(text: str) -> str:
    """`text` with every run of white space as one space."""
    return " ".join(text.split())
