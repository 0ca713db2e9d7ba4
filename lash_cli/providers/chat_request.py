"""Requests of the Chat Completions wire (contract 06 §9.2): from messages to exact bytes.

The same request always has the same bytes: object keys are sorted and the
encoding of committed messages is cached (`prefix`). What the wire cannot carry
is refused here, before anything is sent, and replay data goes back only to the
route that made it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from lash_cli.core.codec import encode
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
    Role,
    Stored,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import LlmRequest, ToolChoice
from lash_cli.core.policy import ModelSpec
from lash_cli.errors import LlmTransportError
from lash_cli.providers.prefix import PrefixCache
from lash_cli.providers.reasoning import Effort, intent_of, unrepresentable

OutputCapField = Literal["max_tokens", "max_completion_tokens"]
AttachmentBytes = Callable[[Stored], bytes]


class ChatEncoder:
    """Builds request bodies for one route; holds the encoding of the conversations it has seen."""

    def __init__(
        self,
        route: str,
        *,
        output_cap_field: OutputCapField = "max_tokens",
        attachment_bytes: AttachmentBytes | None = None,
    ) -> None:
        self._route = route
        self._output_cap_field = output_cap_field
        self._attachment_bytes = attachment_bytes
        self._cache = PrefixCache(self._encode_message)

    def body(self, request: LlmRequest) -> bytes:
        """The request body.

        Raises `LlmTransportError` (validation or unsupported, never retryable)
        for a reasoning selection or an attachment this wire cannot carry.
        """
        options = encode(self._options(request))
        head = b'{"messages":['
        if request.system:
            head += encode({"content": request.system, "role": "system"})
        return self._cache.join(head, request.messages, b"]," + options[1:])

    def _options(self, request: LlmRequest) -> dict[str, Any]:
        options: dict[str, Any] = {"model": request.model.id, "stream": request.stream}
        options |= _reasoning_options(request.model)
        if request.stream:
            options["stream_options"] = {"include_usage": True}
        if request.output_token_cap is not None:
            options[self._output_cap_field] = request.output_token_cap
        if request.tools:
            options["tools"] = [
                {
                    "function": {"description": tool.description, "name": tool.name, "parameters": tool.input_schema},
                    "type": "function",
                }
                for tool in request.tools
            ]
            if request.tool_choice is not ToolChoice.AUTO:
                options["tool_choice"] = request.tool_choice.value
        return options

    def _encode_message(self, message: Message) -> bytes:
        return b"".join(b"," + encode(item) for item in self._wire_messages(message))

    def _wire_messages(self, message: Message) -> list[dict[str, Any]]:
        """One message becomes none, one or, with tool results, several."""
        match message.role:
            case Role.ASSISTANT:
                return self._assistant(message)
            case Role.SYSTEM:
                return [{"content": "\n\n".join(_texts(message.parts)), "role": "system"}]
            case Role.USER | Role.EVENT:
                return self._user(message)

    def _assistant(self, message: Message) -> list[dict[str, Any]]:
        text = "".join(_texts(message.parts))
        calls = [
            {
                "function": {"arguments": past_arguments(part.input_json), "name": part.tool_name},
                "id": part.tool_call_id,
                "type": "function",
            }
            for part in message.parts
            if isinstance(part, ToolCallPart)
        ]
        replayed = [
            {"data": part.replay.encrypted_content, "id": part.replay.item_id, "type": "reasoning.encrypted"}
            for part in message.parts
            if isinstance(part, ReasoningPart)
            and part.replay
            and part.replay.provider == self._route
            and part.replay.encrypted_content
        ]
        if not text and not calls:
            return []
        item: dict[str, Any] = {"content": text or None, "role": "assistant"}
        if calls:
            item["tool_calls"] = calls
        if replayed:
            item["reasoning_details"] = replayed
        return [item]

    def _user(self, message: Message) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = [
            {"content": part.content, "name": part.tool_name, "role": "tool", "tool_call_id": part.tool_call_id}
            for part in message.parts
            if isinstance(part, ToolResultPart)
        ]
        blocks = [block for part in message.parts if (block := self._block(part)) is not None]
        if not blocks:
            return results or [{"content": "", "role": "user"}]
        only_text = len(blocks) == 1 and blocks[0]["type"] == "text"
        content = blocks[0]["text"] if only_text else blocks
        return [*results, {"content": content, "role": "user"}]

    def _block(self, part: Part) -> dict[str, Any] | None:
        match part:
            case TextPart(content=text, label=label):
                return _text_block(text if label is None else f"[{label}]\n{text}")
            case ProsePart(content=text) | OutputPart(content=text) | ErrorPart(content=text):
                return _text_block(text)
            case CodePart():
                return _text_block(fenced(part))
            case AttachmentPart(attachment=source):
                return self._attachment(source)
            case _:
                return None

    def _attachment(self, source: AttachmentSource) -> dict[str, Any]:
        match source:
            case ExternalUrl(media_type=media_type, url=url) if media_type.startswith("image/"):
                return {"image_url": {"url": url}, "type": "image_url"}
            case Inline(media_type=media_type, data=data):
                return _bytes_block(media_type, data, "attachment")
            case Stored(media_type=media_type, label=label) if self._attachment_bytes is not None:
                return _bytes_block(media_type, self._attachment_bytes(source), label or source.attachment_ref)
        raise LlmTransportError(
            f"this provider cannot be sent the attachment {source!r:.200}",
            kind="unsupported",
            code="attachment_unsupported",
        )


def past_arguments(raw: str) -> str:
    """The arguments of a past call as servers accept them back.

    vLLM and llama.cpp parse them for their templates and refuse the whole
    conversation, for ever, over one call that was not a JSON object. Such a
    call is sent back as an object that quotes what the model wrote.
    """
    try:
        if isinstance(msgspec.json.decode(raw), dict):
            return raw
    except msgspec.DecodeError:
        pass
    return encode({"invalid_arguments": raw}).decode("utf-8")


def _texts(parts: tuple[Part, ...]) -> list[str]:
    """The readable parts of a system or assistant message."""
    texts = []
    for part in parts:
        if isinstance(part, TextPart | ProsePart | OutputPart | ErrorPart):
            texts.append(part.content)
        elif isinstance(part, CodePart):
            texts.append(fenced(part))
    return texts


def fenced(part: CodePart) -> str:
    """A program as text of a message."""
    return f"```{part.language}\n{part.content}\n```"


def _text_block(text: str) -> dict[str, Any]:
    return {"text": text, "type": "text"}


def _bytes_block(media_type: str, data: bytes, name: str) -> dict[str, Any]:
    """Attachment bytes as the block their media type asks for."""
    if media_type.startswith("text/") or media_type == "application/json":
        return _text_block(f"[{name}]\n{data.decode('utf-8', errors='replace')}")
    url = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    if media_type.startswith("image/"):
        return {"image_url": {"url": url}, "type": "image_url"}
    if media_type == "application/pdf":
        return {"file": {"file_data": url, "filename": name}, "type": "file"}
    raise LlmTransportError(
        f"this provider cannot be sent {media_type} attachments", kind="unsupported", code="attachment_unsupported"
    )


def _reasoning_options(model: ModelSpec) -> dict[str, Any]:
    """The reasoning selection on this wire, which knows efforts by name only."""
    match intent_of(model):
        case None:
            return {}
        case Effort(name=name):
            return {"reasoning_effort": name}
        case intent:
            raise unrepresentable(intent, "chat completions")
