"""Committed messages and queued inputs as blocks of a chat (contract 08 §7.1 `--replay`). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lash_cli.core.content import (
    AttachmentItem,
    AttachmentPart,
    Message,
    ProsePart,
    Role,
    TextPart,
    ToolResultPart,
    TurnInput,
    is_user_input,
)
from lash_cli.views.chat_picture import Block
from lash_cli.views.safe_text import Clean, preview

SHOWN_LINES = 40
RESULT_CHARS = 80


def input_text(turn_input: TurnInput) -> str:
    """What an input says; an attachment is only named."""
    words = []
    for item in turn_input.items:
        if isinstance(item, AttachmentItem):
            label = getattr(item.attachment, "label", None) or getattr(item.attachment, "url", None)
            words.append(f"[attachment {label}]" if label else "[attachment]")
        else:
            words.append(item.text)
    return "\n".join(words)


def user_block(text: str, clean: Clean) -> Block:
    """What a user said; of a very long text the beginning, and how much follows."""
    lines = clean(text).strip("\n").split("\n")
    if len(lines) > SHOWN_LINES:
        lines = [*lines[: SHOWN_LINES // 2], f"… {len(lines) - SHOWN_LINES // 2} more lines"]
    return Block("user", "\n".join(lines))


def answers_in(messages: Iterable[Message]) -> list[str]:
    """What was answered to each of a person's messages, the last words of each answer, oldest first."""
    answers: list[str] = []
    last: str | None = None
    for message in messages:
        if is_user_input(message):
            answers += [last] if last is not None else []
            last = None
        elif message.role is Role.ASSISTANT and (said := _said(message)).strip():
            last = said
    return [*answers, last] if last is not None else answers


def _said(message: Message) -> str:
    return "\n".join(part.content for part in message.parts if isinstance(part, TextPart | ProsePart))


def message_blocks(messages: Iterable[Message], clean: Clean) -> list[Block]:
    """A committed transcript: what was said, and one line for each result of a tool."""
    blocks: list[Block] = []
    for message in messages:
        said = _said(message)
        has_attachment = any(isinstance(part, AttachmentPart) for part in message.parts)
        if message.role is Role.USER and (said.strip() or has_attachment):
            blocks.append(user_block(said + ("\n[attachment]" if has_attachment else ""), clean))
        elif message.role is Role.ASSISTANT and said.strip():
            blocks.append(Block("assistant", clean(said).strip("\n")))
        elif said.strip():
            blocks.append(Block("note", clean(said).strip("\n")))
        for part in message.parts:
            if isinstance(part, ToolResultPart):
                words = f"{part.tool_name}  {preview(part.content, RESULT_CHARS)}"
                blocks.append(Block("tool", f"{clean(words)} · {part.status}"))
    return blocks
