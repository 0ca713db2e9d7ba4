"""Sessions in the forms they can be exported in, redacted or not (contract 08 §5.1 `export`, §6.8).

What people read (md, html) is redacted unless somebody says otherwise, and so
is jsonl; json is not, because it is the session itself. In a redacted export
texts go through the redactor, and what cannot be read as text is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lash_cli.cli.documents import Document, message_document
from lash_cli.cli.invocation import current
from lash_cli.cli.output import SCHEMA, to_json
from lash_cli.core.archive import ExportFile, SessionArchive, format_of
from lash_cli.core.codec import to_builtins
from lash_cli.core.content import Message
from lash_cli.core.graph import ConversationPayload, active_path
from lash_cli.settings.redact import redact, redacted
from lash_cli.version import __version__
from lash_cli.views.export_text import ExportedMessage, ExportedSession
from lash_cli.views.times import rfc3339

FORMATS = ("md", "html", "json", "jsonl")
# Bytes as the codec writes them, and replay data only the provider that made it understands.
_OPAQUE_KEYS = frozenset({"data", "blobs", "encrypted_content", "signature"})


class Choice(NamedTuple):
    """How to export."""

    format: str
    is_redacted: bool


def redacts_by_default(export_format: str) -> bool:
    """Whether that form is redacted when nobody said anything: `privacy.redact_export`, and never json."""
    return export_format != "json" and bool(current().settings.get("privacy.redact_export"))


def exported(archives: Sequence[SessionArchive], choice: Choice, now_ms: int) -> str:
    """The text of the export."""
    match choice.format:
        case "json":
            return _as_json(archives, choice, now_ms)
        case "jsonl":
            return "".join(f"{line}\n" for archive in archives for line in _lines(archive, choice))
        case "html":
            from lash_cli.views.export_page import export_page

            return export_page([_readable(archive, choice) for archive in archives])
        case _:
            from lash_cli.views.export_text import export_text

            return export_text([_readable(archive, choice) for archive in archives])


def _as_json(archives: Sequence[SessionArchive], choice: Choice, now_ms: int) -> str:
    exported_at = rfc3339(now_ms)
    assert exported_at is not None
    file = ExportFile(
        SCHEMA,  # type: ignore[arg-type]  # the literal of the record is this constant
        "SessionExport",
        format_of(archives),
        exported_at,
        __version__,
        choice.is_redacted,
        tuple(archives),
    )
    document = to_builtins(file)
    return to_json(redacted(document, leaving_out=_OPAQUE_KEYS) if choice.is_redacted else document) + "\n"


class _Said(NamedTuple):
    message: Message
    at_ms: int
    turn_id: str | None
    frame_id: str
    frame_reason: str | None


def _said(archive: SessionArchive) -> list[_Said]:
    """The messages on the path of the head, root first; the first of each later frame says why it was opened."""
    head = archive.head
    if head is None:
        return []
    reasons = {frame.frame_id: frame.reason for frame in head.frames}
    starts = {turn.first_node_id: turn for turn in archive.turns if turn.first_node_id is not None}
    said: list[_Said] = []
    frame_id: str | None = None
    turn_id, last_node_id = None, None
    for node in active_path(head.nodes, head.leaf_node_id):
        start = starts.get(node.node_id)
        if start is not None:
            turn_id, last_node_id = start.turn_id, start.last_node_id
        if isinstance(node.payload, ConversationPayload) and not node.payload.message.is_transient:
            is_new = frame_id is not None and node.agent_frame_id != frame_id
            reason = reasons[node.agent_frame_id] if is_new else None
            frame_id = node.agent_frame_id
            said.append(_Said(node.payload.message, node.at_ms, turn_id, frame_id, reason))
        if node.node_id == last_node_id:
            turn_id, last_node_id = None, None
    return said


def _lines(archive: SessionArchive, choice: Choice) -> list[str]:
    lines = []
    for entry in _said(archive):
        document: Document = {
            "session": archive.session_id,
            "session_name": archive.name,
            **message_document(entry.message, at_ms=entry.at_ms, turn_id=entry.turn_id, frame_id=entry.frame_id),
        }
        lines.append(to_json(redacted(document) if choice.is_redacted else document))
    return lines


def _readable(archive: SessionArchive, choice: Choice) -> ExportedSession:
    clean: Callable[[str], str] = redact if choice.is_redacted else str
    images = {
        attachment.attachment_ref: (attachment.media_type, attachment.data)
        for attachment in archive.attachments
        if attachment.data is not None and not choice.is_redacted
    }
    return ExportedSession(
        session_id=archive.session_id,
        name=clean(archive.name),
        model=archive.config.model.id,
        provider=archive.config.provider_id,
        created_at=rfc3339(archive.created_at_ms) or "",
        is_redacted=choice.is_redacted,
        messages=tuple(
            ExportedMessage(entry.message, rfc3339(entry.at_ms) or "", entry.frame_reason) for entry in _said(archive)
        ),
        clean=clean,
        images=images,
    )
