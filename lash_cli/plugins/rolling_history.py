"""Rolling history: old attachments leave the view, old messages become a summary (contract 05 §5.2).

The view elides attachments once the context is three fifths full; the
compaction keeps the recent turns word for word and has the model summarise
what came before them, for a frame that begins with that summary. Which turns
are kept is decided by estimates, so nothing here needs a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from lash_cli.core.content import (
    AttachmentPart,
    Message,
    PluginOrigin,
    ProsePart,
    ReasoningPart,
    Role,
    Stored,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    is_user_input,
    message_text,
)
from lash_cli.core.context import CompactionContext, ContextMoment, SummaryRequest
from lash_cli.core.graph import ConversationPayload, NodePayload

PLUGIN_ID: Final = "rolling_history"
PRIORITY: Final = 100
TITLE: Final = "Compaction summary:"

# From this part of the window on, attachments before the last turns are left out of what the model is shown.
VIEW_FROM: Final = 0.6
VIEW_KEPT_TURNS: Final = 2
# A compaction is due when so many tokens are left, and keeps about so many of the newest; of a small window, a part.
RESERVED_TOKENS: Final = 20_000
RESERVED_PART: Final = 2
KEPT_TOKENS: Final = 20_000
KEPT_PART: Final = 4
# Asked for by a person, it must free something in a short conversation too.
KEPT_PART_ON_REQUEST: Final = 4
KEPT_MESSAGES: Final = 200
# A character of most scripts is more tokens than one of ASCII, about as it is more bytes.
BYTES_PER_TOKEN: Final = 4
TOKENS_OF_ATTACHMENT: Final = 1_200
# What a tool was given or answered beyond this says little in a summary.
TOOL_CHARS: Final = 2_000

SYSTEM: Final = (
    "You condense conversations between a person and an assistant that works with tools. Another model will go on"
    " with the conversation and will see your summary instead of what you are given, so whatever you leave out is"
    " lost to it. Write the summary only, in the language of the conversation."
)
TASK: Final = (
    "Summarise the conversation below so that the work can go on without a break. Keep, as far as they occur: what the"
    " person wants and every constraint they gave; what was decided and why; what was done, with the names of files,"
    " commands, identifiers and figures exactly as they were; what failed and how; what is open, and the next step."
)
UPDATE: Final = (
    "It begins with the summary of what came before it. Bring that summary up to date: keep what still holds, change"
    " what has changed, add what is new."
)


class RollingHistory:
    """The standard `ContextPlugin`."""

    plugin_id: str = PLUGIN_ID
    priority: int = PRIORITY

    def prepare_turn(self, messages: Sequence[Message], moment: ContextMoment) -> Sequence[Message]:
        """The messages with a placeholder for every attachment outside the last two turns, the coming one included."""
        if moment.fill is None or moment.fill < VIEW_FROM:
            return messages
        turns = [index for index, message in enumerate(messages) if is_user_input(message)]
        kept_from = turns[-(VIEW_KEPT_TURNS - 1)] if len(turns) >= VIEW_KEPT_TURNS else 0
        if not any(_has_attachment(messages[index]) for index in range(kept_from)):
            return messages
        return [
            _without_attachments(message) if index < kept_from else message for index, message in enumerate(messages)
        ]

    def is_due(self, moment: ContextMoment) -> bool:
        """Whether no more than the reserve is left of the window."""
        window, room = moment.limits.context_window_tokens, moment.room
        return window is not None and room is not None and room <= min(RESERVED_TOKENS, window // RESERVED_PART)

    async def compact(self, context: CompactionContext) -> tuple[NodePayload, ...]:
        """A summary of everything before the recent turns, and those turns as they are."""
        messages = context.messages
        cut = _cut(messages, context)
        if all(_is_summary(message) for message in messages[:cut]):
            return ()
        text = await context.summarise(_request(messages[:cut], context.instructions))
        if text is None or not text.strip():
            return ()
        summary = Message(
            PLUGIN_ID, Role.USER, (TextPart(f"{TITLE}\n\n{text.strip()}"),), PluginOrigin(PLUGIN_ID, transient=False)
        )
        return tuple(ConversationPayload(message) for message in (summary, *messages[cut:]))


def estimated_tokens(message: Message) -> int:
    """About how many tokens a message takes."""
    size = 0
    tokens = 0
    for part in message.parts:
        if isinstance(part, AttachmentPart):
            tokens += TOKENS_OF_ATTACHMENT
        elif isinstance(part, ToolCallPart):
            size += len(part.tool_name.encode()) + len(part.input_json.encode())
        else:
            size += len(part.content.encode())
    return tokens + size // BYTES_PER_TOKEN + 1


def _cut(messages: Sequence[Message], context: CompactionContext) -> int:
    """How many messages are summarised: up to the oldest turn that still fits into what is kept.

    When not even the newest turn fits it is kept all the same, unless nothing but it is there: then it is summarised
    too.
    """
    sizes = [estimated_tokens(message) for message in messages]
    window = context.moment.limits.context_window_tokens
    budget = KEPT_TOKENS if window is None else min(KEPT_TOKENS, window // KEPT_PART)
    if context.is_requested:
        budget = min(budget, sum(sizes) // KEPT_PART_ON_REQUEST)
    first = next((index for index, message in enumerate(messages) if not _is_summary(message)), len(messages))
    starts = [index for index in range(first + 1, len(messages)) if is_user_input(messages[index])]
    if not starts:
        return len(messages)
    cut = starts[-1]
    for start in reversed(starts):
        if sum(sizes[start:]) > budget or len(messages) - start > KEPT_MESSAGES:
            break
        cut = start
    return len(messages) if len(messages) - cut > KEPT_MESSAGES else cut


def _is_summary(message: Message) -> bool:
    return isinstance(message.origin, PluginOrigin) and message.origin.plugin_id == PLUGIN_ID


def _has_attachment(message: Message) -> bool:
    return any(isinstance(part, AttachmentPart) for part in message.parts)


def _without_attachments(message: Message) -> Message:
    if not _has_attachment(message):
        return message
    parts = tuple(TextPart(_placeholder(part)) if isinstance(part, AttachmentPart) else part for part in message.parts)
    return msgspec.structs.replace(message, parts=parts)


def _placeholder(part: AttachmentPart) -> str:
    source = part.attachment
    label = source.label or source.media_type if isinstance(source, Stored) else "attachment"
    return f"[{label}: left out to save room]"


def _request(messages: Sequence[Message], instructions: str | None) -> SummaryRequest:
    task = [TASK]
    if any(_is_summary(message) for message in messages):
        task.append(UPDATE)
    if instructions:
        task.append(f"Pay particular attention to this:\n{instructions}")
    transcript = "\n\n".join(f"## {message.role.value}\n{_quoted(_said(message))}" for message in messages)
    return SummaryRequest(SYSTEM, "\n\n".join((*task, "# The conversation", transcript)))


def _said(message: Message) -> str:
    """A message as text: what was said, and in short what tools were given and answered."""
    if _is_summary(message):
        return message_text(message)
    lines = []
    for part in message.parts:
        match part:
            case TextPart(content=content) | ProsePart(content=content):
                lines.append(content)
            case ToolCallPart(tool_name=name, input_json=arguments):
                lines.append(f"[calls {name}: {_shortened(arguments)}]")
            case ToolResultPart(tool_name=name, content=content, status=status):
                lines.append(f"[{name} answered, {status}: {_shortened(content)}]")
            case AttachmentPart():
                lines.append(_placeholder(part))
            case ReasoningPart():
                pass
            case _:
                lines.append(_shortened(part.content))
    return "\n".join(line for line in lines if line)


def _quoted(text: str) -> str:
    """Every line marked as something said earlier, so that none is taken for a task or a heading of ours."""
    return "\n".join(f"> {line}" for line in text.splitlines())


def _shortened(text: str) -> str:
    return text if len(text) <= TOOL_CHARS else f"{text[:TOOL_CHARS]}… ({len(text) - TOOL_CHARS} characters more)"
