"""What users say and what a transcript holds: input items, messages and their parts (contract 01 §5.1, §8.1).

Messages are immutable and never rewritten. A part has no stored id: its id is
`{message id}.p{index}`, so a message costs no more bytes than its content.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from lash_cli.core.codec import Record, from_builtins, reread, to_builtins
from lash_cli.core.ids import require_named
from lash_cli.errors import UsageError


class Inline(Record, tag="inline", tag_field="source"):
    """Attachment bytes carried in the record itself; replaced by `Stored` before anything is persisted."""

    media_type: str
    data: bytes
    label: str | None = None


class Stored(Record, tag="stored", tag_field="source"):
    """A reference to content-addressed bytes of the attachment store."""

    attachment_ref: str
    media_type: str
    byte_len: int
    label: str | None = None


class ExternalUrl(Record, tag="external_url", tag_field="source"):
    """Bytes the provider fetches itself."""

    media_type: str
    url: str


class ProviderFile(Record, tag="provider_file", tag_field="source"):
    """A file already uploaded to one provider under one credential scope."""

    provider: str
    credential_scope: str
    id: str


AttachmentSource = Inline | Stored | ExternalUrl | ProviderFile


class TextItem(Record, tag="text", tag_field="type"):
    """User text; `label` names where it came from (`stdin` for piped text), None for typed text."""

    text: str
    label: str | None = None


class AttachmentItem(Record, tag="attachment", tag_field="type"):
    """An attachment of the user's input."""

    attachment: AttachmentSource


InputItem = TextItem | AttachmentItem


TURN_OPTIONS_VERSION = 1


class ProtocolTurnOptions(Record):
    """Options the turn protocol owns (contract 01 §3): those of a turn stand over those of its agent frame, key by key.
    A turn whose options have another version than 1 stops as invalid input."""

    schema_version: int = TURN_OPTIONS_VERSION
    payload: dict[str, Any] = {}


def options_over(frame: ProtocolTurnOptions, turn: ProtocolTurnOptions | None) -> ProtocolTurnOptions | None:
    """What a turn runs with that was asked for with `turn` in a frame that has `frame`; None for nothing."""
    if not frame.payload:
        return turn
    if turn is None:
        return frame
    return msgspec.structs.replace(turn, payload={**frame.payload, **turn.payload})


def with_option(options: ProtocolTurnOptions | None, name: str, value: Any) -> ProtocolTurnOptions:
    """`options` in which `name` is the record `value`."""
    options = options or ProtocolTurnOptions()
    return msgspec.structs.replace(options, payload={**options.payload, name: to_builtins(value)})


def option_of(options: ProtocolTurnOptions | None, name: str, kind: Any) -> Any:
    """The option `name` as a record of `kind`, None where there is none or a null; raises `ValueError` when it
    cannot be read."""
    asked = None if options is None else options.payload.get(name)
    if asked is None:
        return None
    try:
        return from_builtins(asked, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"the turn's {name} option cannot be read: {error}") from error


class TurnInput(Record):
    """One submission of a user (contract 01 §5.1). Serialisable as a whole."""

    items: tuple[InputItem, ...] = ()
    protocol_turn_options: ProtocolTurnOptions | None = None
    trace_turn_id: str | None = None

    @staticmethod
    def text(text: str) -> TurnInput:
        """A plain text submission. Raises `UsageError` (`prompt_not_utf8`) for half of a surrogate pair, which has no
        UTF-8 and can be neither stored nor sent."""
        _require_utf8(text)
        return TurnInput(items=(TextItem(text),))

    @staticmethod
    def of(given: TurnInput | str) -> TurnInput:
        """What a program submits, of which what is stored can be read again (`codec.reread`). Raises `UsageError`:
        `invalid_turn_input`, `missing_execution_scope_id` for a blank turn id, and `prompt_not_utf8` as `text`."""
        if isinstance(given, str):
            return TurnInput.text(given)
        if not isinstance(given, TurnInput):
            raise _unreadable(f"it is a text or a TurnInput, not {type(given).__name__}")
        is_plain = isinstance(given.items, tuple)
        if not isinstance(given.items, tuple | list):
            raise _unreadable(f"its items are a tuple of them, not one {type(given.items).__name__}")
        for item in given.items:
            if isinstance(item, TextItem) and isinstance(item.text, str):
                _require_utf8(item.text)
            else:
                is_plain = False
        if is_plain and given == TurnInput(given.items):
            return given
        try:
            reread(msgspec.structs.replace(given, items=tuple(map(_without_bytes, given.items))), TurnInput)
        except (TypeError, ValueError) as error:
            raise _unreadable(str(error)) from error
        require_named("the turn id an input asks for", given.trace_turn_id)
        return given


def _require_utf8(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the text is not valid Unicode at character {error.start}; nothing was sent",
                code="prompt_not_utf8",
                details={"character_offset": error.start},
            ) from error


def _unreadable(why: str) -> UsageError:
    return UsageError(f"that is no input a turn can have: {why}", code="invalid_turn_input")


def _without_bytes(item: InputItem) -> InputItem:
    """`item` without what may be many megabytes and needs no reading; raises `TypeError` where that is no bytes."""
    if isinstance(item, AttachmentItem) and isinstance(item.attachment, Inline):
        memoryview(item.attachment.data)
        return AttachmentItem(msgspec.structs.replace(item.attachment, data=b""))
    return item


class Role(StrEnum):
    """Who speaks in a message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    EVENT = "event"


class ReasoningReplay(Record):
    """Provider data that lets reasoning be sent back to the route that made it (contract 06 §1)."""

    provider: str | None = None
    item_id: str | None = None
    encrypted_content: str | None = None
    signature: str | None = None
    redacted: bool = False
    summary: tuple[str, ...] = ()


class TextPart(Record, tag="text", tag_field="kind"):
    """User or system text."""

    content: str
    label: str | None = None


class ProsePart(Record, tag="prose", tag_field="kind"):
    """Text the model wrote."""

    content: str
    response_meta: dict[str, Any] | None = None


class ReasoningPart(Record, tag="reasoning", tag_field="kind"):
    """Reasoning the model showed, with its replay data."""

    content: str
    replay: ReasoningReplay | None = None


class ToolCallPart(Record, tag="tool_call", tag_field="kind"):
    """A call the model made. `input_json` stays the string the model sent until dispatch (contract 06 §1)."""

    tool_call_id: str
    tool_name: str
    input_json: str
    replay: ReasoningReplay | None = None


class ToolResultPart(Record, tag="tool_result", tag_field="kind"):
    """What the model is told a call returned; `status` is success, failure or cancelled."""

    tool_call_id: str
    tool_name: str
    content: str
    status: str = "success"


class AttachmentPart(Record, tag="attachment", tag_field="kind"):
    """An attachment inside a message; persisted messages only hold references."""

    attachment: AttachmentSource


class CodePart(Record, tag="code", tag_field="kind"):
    """A program the model wrote for the code mode."""

    content: str
    language: str = "lua"


class OutputPart(Record, tag="output", tag_field="kind"):
    """What a program printed."""

    content: str


class ErrorPart(Record, tag="error", tag_field="kind"):
    """An error shown to the model in place of a result."""

    content: str


Part = (
    TextPart
    | ProsePart
    | ReasoningPart
    | ToolCallPart
    | ToolResultPart
    | AttachmentPart
    | CodePart
    | OutputPart
    | ErrorPart
)


class PluginOrigin(Record, tag="plugin", tag_field="kind"):
    """The message was made by a plugin; transient ones are never persisted or shown."""

    plugin_id: str
    transient: bool = False


class ProcessOrigin(Record, tag="process", tag_field="kind"):
    """The message was caused by a background process."""

    process_id: str


MessageOrigin = PluginOrigin | ProcessOrigin


class Message(Record):
    """One message of a transcript (contract 01 §8.1). `id` is unique in its session and is also the id of its node."""

    id: str
    role: Role
    parts: tuple[Part, ...] = ()
    origin: MessageOrigin | None = None

    @property
    def is_transient(self) -> bool:
        """Whether the message must never be persisted or shown."""
        return isinstance(self.origin, PluginOrigin) and self.origin.transient


_READABLE = (TextPart, ProsePart)


def message_text(message: Message) -> str:
    """The readable text of a message: its text and prose parts joined in order."""
    return "".join([part.content for part in message.parts if isinstance(part, _READABLE)])


def is_user_input(message: Message) -> bool:
    """Whether a person's input made the message: not a tool, a plugin or a process."""
    return (
        message.role is Role.USER
        and message.origin is None
        and bool(message.parts)
        and all(isinstance(part, TextPart | AttachmentPart) for part in message.parts)
    )


def calls_and_results(messages: Iterable[Message]) -> tuple[list[ToolCallPart], list[str]]:
    """The calls that messages make, and the ids of those that they answer, both in order."""
    calls: list[ToolCallPart] = []
    answered: list[str] = []
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                calls.append(part)
            elif isinstance(part, ToolResultPart):
                answered.append(part.tool_call_id)
    return calls, answered


def are_answered(calls: list[ToolCallPart], answered: list[str]) -> bool:
    """Whether every call has a unique non-blank id and exactly one result, and nothing else has one."""
    if not calls and not answered:
        return True
    ids = [call.tool_call_id for call in calls]
    return all(call_id.strip() for call_id in ids) and len(set(ids)) == len(ids) and sorted(ids) == sorted(answered)


def is_safe_to_resume(messages: Iterable[Message]) -> bool:
    """Whether every tool call has a unique non-blank id and exactly one result (contract 01 §5.4)."""
    return are_answered(*calls_and_results(messages))


def user_message(message_id: str, turn_input: TurnInput) -> Message:
    """The user message of a normalised input: adjacent text merged, empty text dropped (contract 01 §5.1).

    An input without content makes one empty text part, so the turn still has a
    user message to stand on.
    """
    parts: list[Part] = []
    for item in turn_input.items:
        if isinstance(item, AttachmentItem):
            parts.append(AttachmentPart(item.attachment))
        elif item.text:
            last = parts[-1] if parts else None
            if isinstance(last, TextPart) and last.label == item.label:
                parts[-1] = TextPart(f"{last.content}\n{item.text}", item.label)
            else:
                parts.append(TextPart(item.text, item.label))
    return Message(message_id, Role.USER, tuple(parts) or (TextPart(""),))
