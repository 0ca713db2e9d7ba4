"""A session as one HTML page that needs nothing else (contract 08 §5.1 `export --as html`).

Pure: sessions go in, the text of a page comes out. There is no script, every
text is escaped, and a content security policy lets nothing be loaded but the
page's own style and the images it carries as data.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from lash_cli.core.content import (
    AttachmentPart,
    CodePart,
    ErrorPart,
    OutputPart,
    Part,
    ProsePart,
    ReasoningPart,
    Stored,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.views.export_text import ExportedMessage, ExportedSession, attachment_words, one_line

# What every browser shows without running anything.
_IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
article { border-left: 4px solid #8888; padding: 0 0 0 1rem; margin: 1.5rem 0; }
article.user { border-color: #3a7bd5; } article.assistant { border-color: #2a9d6f; }
h2 { font-size: .9rem; margin: 0; } h2 time { font-weight: normal; opacity: .7; }
p, pre { white-space: pre-wrap; overflow-wrap: anywhere; }
pre { font: 13px/1.4 ui-monospace, monospace; background: #8881; padding: .6rem; }
img { max-width: 100%; }
""".strip()


def export_page(sessions: Sequence[ExportedSession]) -> str:
    """One page with all the sessions."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = escape(", ".join(one_line(session.name) for session in sessions))
    body = "\n".join(_session(session) for session in sessions)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _session(session: ExportedSession) -> str:
    redacted = ", redacted" if session.is_redacted else ""
    about = f"Session {session.session_id}, {session.provider} {session.model}, opened {session.created_at}{redacted}."
    rows = [f"<h1>{escape(one_line(session.name))}</h1>", f"<p>{escape(about)}</p>"]
    for entry in session.messages:
        if entry.frame_reason is not None:
            rows.append(f"<hr>\n<p>A new frame: {escape(one_line(session.clean(entry.frame_reason)))}.</p>")
        rows += _message(entry, session)
    return "\n".join(rows)


def _message(entry: ExportedMessage, session: ExportedSession) -> list[str]:
    parts = [text for part in entry.message.parts if (text := _part(part, session))]
    if not parts:
        return []
    role = entry.message.role.value
    head = f'<h2>{role} <time datetime="{entry.at}">{entry.at}</time></h2>'
    return [f'<article class="{role}">', head, *parts, "</article>"]


def _part(part: Part, session: ExportedSession) -> str:
    clean = session.clean
    match part:
        case TextPart(content=content, label=str(label)):
            return _folded(clean(label), clean(content))
        case TextPart(content=content) | ProsePart(content=content):
            text = clean(content)
            return f"<p>{escape(text)}</p>" if text.strip() else ""
        case ReasoningPart():
            return ""
        case ToolCallPart(tool_name=name, input_json=content):
            return _folded(clean(name), clean(content))
        case ToolResultPart(tool_name=name, content=content, status=status):
            return _folded(f"{clean(name)} returned ({status})", clean(content))
        case AttachmentPart():
            return _attachment(part, session)
        case CodePart(content=content) | OutputPart(content=content) | ErrorPart(content=content):
            return f"<pre>{escape(clean(content))}</pre>"


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{escape(one_line(summary))}</summary><pre>{escape(text)}</pre></details>"


def _attachment(part: AttachmentPart, session: ExportedSession) -> str:
    words = escape(one_line(session.clean(attachment_words(part.attachment))))
    if isinstance(part.attachment, Stored):
        media_type, data = session.images.get(part.attachment.attachment_ref, ("", b""))
        if media_type in _IMAGE_TYPES:
            source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
            return f'<figure><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>'
    return f"<p>[attachment: {words}]</p>"
