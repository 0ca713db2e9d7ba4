"""A committed transcript as text: who said what, in order (contract 08 §5.1 `log`).

Pure: entries go in, one string comes out. Roles are words at the start of a
line, so the text reads the same on a screen reader and in a pipe. Everything
that a person, a model or a tool wrote passes `clean`, which makes terminal
escapes visible.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lash_cli.core.content import (
    AttachmentPart,
    CodePart,
    ErrorPart,
    ExternalUrl,
    Message,
    OutputPart,
    Part,
    ProsePart,
    ProviderFile,
    ReasoningPart,
    Stored,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.views.safe_text import Clean, preview

TOOL_PREVIEW_CHARS = 100
INDENT = "    "


class TranscriptEntry(NamedTuple):
    """A message and, unless that is the first one, the name of its frame."""

    message: Message
    frame: str | None = None


def transcript_text(
    entries: Iterable[TranscriptEntry], *, clean: Clean, reasoning: bool = False, tools: bool = False
) -> str:
    """The whole transcript. Reasoning is left out unless asked for; tool calls are one line unless `tools`.

    A message with nothing to show is left out. A line says where another frame begins. Returns "" for an empty
    transcript.
    """
    blocks: list[str] = []
    frame: str | None = None
    for entry in entries:
        if entry.frame is not None and entry.frame != frame:
            blocks.append(f"frame: {clean(entry.frame)}")
        frame = entry.frame
        lines = [
            line
            for part in entry.message.parts
            if (line := _part_text(part, clean=clean, reasoning=reasoning, tools=tools)) is not None
        ]
        if lines:
            blocks.append(f"{entry.message.role.value}:\n" + "\n".join(_indented(line) for line in lines))
    return "\n\n".join(blocks)


def _indented(text: str) -> str:
    return "\n".join(f"{INDENT}{line}".rstrip() for line in text.splitlines() or [""])


def _part_text(part: Part, *, clean: Clean, reasoning: bool, tools: bool) -> str | None:
    match part:
        case TextPart(content=content, label=label):
            return f"[{clean(label)}]\n{clean(content)}" if label else clean(content)
        case ProsePart(content=content):
            return clean(content) or None
        case ReasoningPart(content=content):
            return f"[reasoning]\n{clean(content)}" if reasoning and content else None
        case ToolCallPart() | ToolResultPart():
            return _tool_text(part, clean, tools)
        case AttachmentPart():
            return _attachment_text(part, clean)
        case CodePart(content=content, language=language):
            return f"[{clean(language)}]\n{clean(content)}"
        case OutputPart(content=content):
            return f"[output]\n{clean(content)}"
        case ErrorPart(content=content):
            return f"[error]\n{clean(content)}"


def _tool_text(part: ToolCallPart | ToolResultPart, clean: Clean, in_full: bool) -> str:
    if isinstance(part, ToolCallPart):
        head, body = f"[call {clean(part.tool_name)} {clean(part.tool_call_id)}]", clean(part.input_json)
    else:
        head = f"[result {clean(part.tool_name)} {clean(part.tool_call_id)} {part.status}]"
        body = clean(part.content)
    if in_full:
        return f"{head}\n{body}"
    return f"{head} {preview(body, TOOL_PREVIEW_CHARS)}".rstrip()


def _attachment_text(part: AttachmentPart, clean: Clean) -> str:
    match part.attachment:
        case Stored(attachment_ref=reference, media_type=media_type, label=label):
            return f"[attachment {clean(label or reference)} {clean(media_type)}]"
        case ExternalUrl(media_type=media_type, url=url):
            return f"[attachment {clean(url)} {clean(media_type)}]"
        case ProviderFile(provider=provider, id=file_id):
            return f"[attachment {clean(provider)}:{clean(file_id)}]"
        case inline:
            return f"[attachment {clean(inline.media_type)}]"
