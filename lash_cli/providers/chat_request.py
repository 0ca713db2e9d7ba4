"""Requests of the Chat Completions wire (contract 06 §9.2): from messages to exact bytes.

The same request always has the same bytes: object keys are sorted and the
encoding of committed messages is cached (`prefix`). What the wire cannot carry
is refused here, before anything is sent, and replay data goes back only to the
route that made it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from lash_cli.core.codec import encode
from lash_cli.core.content import (
    AttachmentPart,
    AttachmentSource,
    ExternalUrl,
    Inline,
    Message,
    Part,
    ReasoningPart,
    ReasoningReplay,
    Role,
    Stored,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import GenerationReceipt, JsonObjectOutput, JsonSchemaOutput, LlmRequest, ToolChoice
from lash_cli.core.media import is_text
from lash_cli.core.policy import ModelSpec
from lash_cli.providers.attachments import (
    CARRIED,
    AttachmentBytes,
    carrying_refusal,
    refuse_attachment,
    stand_in,
    unread,
)
from lash_cli.providers.caching import CacheMarks, dialect_of, marked_last, marks_of
from lash_cli.providers.chat_stream import THINKING_BLOCKS
from lash_cli.providers.generation import GenerationWords
from lash_cli.providers.openai_dialect import NO_ANSWER, OPENAI, OpenAiDialect
from lash_cli.providers.past import (
    SIGNATURE_PLACEHOLDER,
    attached_words,
    odd_names,
    past_arguments,
    past_name,
    system_words,
    words_of,
)
from lash_cli.providers.prefix import Encode, Frame, Piece, PrefixCaches
from lash_cli.providers.reasoning import intent_of, reasoning_object
from lash_cli.providers.schemas import project

OutputCapField = Literal["max_tokens", "max_completion_tokens"]
#: What OpenAI takes as the id of a call on this wire.
MAX_ID_CHARS = 40
_CARRIED = CARRIED["openai_chat"]
_WORDS = GenerationWords("temperature", "seed", "stop", most_stop_sequences=4)


_LIST = b',{"content":['
#: What neighbouring messages of the user have around them; text alone fits into a list as its first or next block.
_FRAMES = {
    "text": Frame(b',{"content":"', b'","role":"user"}', rb"\n\n", "blocks", (b'{"text":"', b'","type":"text"}')),
    "blocks": Frame(_LIST, b'],"role":"user"}'),
    "results": Frame(joint=b""),
}
#: Mistral refuses a user right behind the results of tools, where the model was interrupted or had nothing to say.
_NO_ANSWER = {"results": b"," + encode({"content": NO_ANSWER, "role": "assistant"})}
_MISTRAL_FRAMES = _FRAMES | {name: _FRAMES[name]._replace(behind=_NO_ANSWER) for name in ("text", "blocks")}


class ChatEncoder:
    """Builds request bodies for one endpoint; holds the encoding of the conversations it has seen."""

    def __init__(
        self,
        endpoint: str,
        *,
        output_cap_field: OutputCapField = "max_tokens",
        dialect: OpenAiDialect = OPENAI,
        attachment_bytes: AttachmentBytes = unread,
    ) -> None:
        """Raises `ConfigError` for an `extra_body` that would change what a call is about."""
        self._endpoint = endpoint
        self._output_cap_field = output_cap_field
        self.dialect = dialect.checked()
        self._attachment_bytes = attachment_bytes
        is_mistral = dialect.conversation == "mistral"
        self._caches = PrefixCaches(self._encoding, _MISTRAL_FRAMES if is_mistral else _FRAMES)

    def route(self, model: str) -> str:
        """Who can read encrypted or signed reasoning again: one model behind one endpoint of this wire."""
        return f"{self._endpoint}/chat/completions {model}"

    def body(self, request: LlmRequest) -> bytes:
        """The request body.

        Raises `LlmTransportError` (validation or unsupported, never retryable)
        for a reasoning selection, a schema or an attachment this wire cannot carry.
        """
        marks = marks_of(request, self.dialect.cache_retention, self.dialect.cache_control)
        is_marked = dialect_of(request.model, self.dialect.cache_control) is not None
        options = self.dialect.encoded(self._options(request, marks), request, _WORDS)
        head = b'{"messages":['
        system = "\n\n".join(system_words(request))
        if system and is_marked:
            block = marked_last([encode(_text_block(system))], marks.system)
            head += b'{"content":[' + block + b'],"role":"system"}'
        elif system:
            head += encode({"content": system, "role": "system"})
        capability = request.model.capability
        needs_signatures = capability is not None and capability.thought_signatures == "required"
        cache = self._caches.of((self.route(request.model.id), is_marked, needs_signatures, odd_names(request.tools)))
        return cache.join(head, request.messages, b"]," + options[1:], marks.messages)

    def generation_receipt(self, request: LlmRequest) -> GenerationReceipt | None:
        """What becomes of the request's generation intent."""
        return self.dialect.spoken(request, _WORDS).receipt

    def _encoding(self, way: tuple[str, bool, bool, frozenset[str]]) -> Encode:
        """How messages are written for one route, with or without places for marks, to a model that demands signatures
        of calls or does not, where these odd names are offered."""
        route, is_marked, needs_signatures, odd = way
        replayed = route if self.dialect.replay_reasoning else None
        return _MessageEncoder(
            replayed, is_marked, needs_signatures, odd, self._attachment_bytes, self.dialect
        ).encode_message

    def _options(self, request: LlmRequest, marks: CacheMarks) -> dict[str, Any]:
        options: dict[str, Any] = {"model": request.model.id, "stream": request.stream}
        options |= self._reasoning_options(request.model)
        if request.stream:
            options["stream_options"] = {"include_usage": True}
        if request.output_token_cap is not None:
            options[self._output_cap_field] = request.output_token_cap
        if request.tools:
            options["tools"] = self._tools(request, marks)
            if request.tool_choice is not ToolChoice.AUTO:
                options["tool_choice"] = request.tool_choice.value
        match request.output_spec:
            case JsonSchemaOutput(name=name, schema=schema, strict=strict, projection=projection):
                shown = project(schema, "openai_structured_output", projection)
                named = {"name": name, "schema": shown, "strict": strict}
                options["response_format"] = {"json_schema": named, "type": "json_schema"}
            case JsonObjectOutput():
                options["response_format"] = {"type": "json_object"}
            case None:
                pass
        return options

    def _tools(self, request: LlmRequest, marks: CacheMarks) -> list[msgspec.Raw]:
        """The tools, the last one with its mark. `strict` is said only where it is meant: few servers know it."""
        strict = {"strict": True} if self.dialect.strict_tools else {}
        tools = [
            {
                "function": {
                    "description": tool.description,
                    "name": tool.name,
                    "parameters": self.dialect.parameters(tool),
                    **strict,
                },
                "type": "function",
            }
            for tool in request.tools
        ]
        encoded = [encode(tool) for tool in tools]
        encoded[-1] = marked_last(encoded[-1:], marks.tool)
        return [msgspec.Raw(tool) for tool in encoded]

    def _reasoning_options(self, model: ModelSpec) -> dict[str, Any]:
        """The reasoning selection in the words of the endpoint."""
        spoken = reasoning_object(intent_of(model), self.dialect.reasoning, "chat completions")
        if not spoken or self.dialect.reasoning == "openrouter":
            return {"reasoning": spoken} if spoken else {}
        return {"reasoning_effort": spoken["effort"]}


class _MessageEncoder:
    """Messages as this wire has them, for one route; without one no signed or encrypted reasoning goes back.

    With `is_marked` every text is a block of its own, because only a block can
    carry a mark; the places of the last ones are noted for `prefix`. Where the
    words of reasoning are wanted back they are nobody's secret: they go
    whoever thought them.
    """

    def __init__(
        self,
        route: str | None,
        is_marked: bool,
        needs_signatures: bool,
        odd: frozenset[str],
        attachment_bytes: AttachmentBytes,
        dialect: OpenAiDialect,
    ) -> None:
        self._route = route
        self._is_marked = is_marked
        self._needs_signatures = needs_signatures
        self._odd = odd
        self._attachment_bytes = attachment_bytes
        self._dialect = dialect

    def encode_message(self, message: Message) -> list[Piece]:
        """The wire messages of one message: none, one or, with tool results, several.

        What the system says later is the user's, and what the user says in neighbouring messages is one: the templates
        of many models refuse a conversation, for ever, with a system message inside it or a user that speaks twice,
        as one does behind a turn that was cancelled.
        """
        if message.role is Role.ASSISTANT:
            return [self._item(item) for item in self._assistant(message)]
        results = [self._item(self._result(part)) for part in message.parts if isinstance(part, ToolResultPart)]
        blocks = [block for part in message.parts if (block := self._block(part)) is not None]
        if not blocks and results:
            return results
        return [*results, self._said(blocks)._replace(told_apart=message.role is Role.SYSTEM)]

    def _item(self, item: dict[str, Any]) -> Piece:
        """A wire message that stands for itself; a mark of its last text is no mark of a text in a tool's result."""
        content = _blocks(item["content"]) if self._is_marked else []
        frame = "results" if item["role"] == "tool" else ""
        if not content:
            return Piece(b"," + encode(item), frame=frame)
        data, end = _joined(content)
        rest = encode({name: value for name, value in item.items() if name != "content"})
        end += len(_LIST) if end else 0
        return Piece(_LIST + data + b"]," + rest[1:], 0 if frame else end, end, frame)

    def _said(self, blocks: list[dict[str, Any]]) -> Piece:
        """What the user said. Text alone is no list: many servers and templates take none, and Claude no empty one."""
        if (self._is_marked and blocks) or any(block["type"] != "text" for block in blocks):
            data, end = _joined(blocks)
            return Piece(data, end, end, "blocks")
        return Piece(encode("\n\n".join(block["text"] for block in blocks))[1:-1], frame="text")

    def _assistant(self, message: Message) -> list[dict[str, Any]]:
        text = "".join(filter(None, map(words_of, message.parts)))
        calls = [
            {
                "function": {
                    "arguments": past_arguments(part.input_json),
                    "name": past_name(part.tool_name, self._odd),
                },
                "id": self._dialect.call_id(part.tool_call_id, MAX_ID_CHARS),
                "type": "function",
                **self._signed(part.replay, is_first=number == 0),
            }
            for number, part in enumerate(part for part in message.parts if isinstance(part, ToolCallPart))
        ]
        thoughts = [part for part in message.parts if isinstance(part, ReasoningPart)]
        replayed = [
            detail
            for part in thoughts
            if (replay := self._own(part.replay)) is not None
            for detail in _reasoning_details(part.content, replay)
        ]
        blocks = [
            _thinking_block(part.content, replay)
            for part in thoughts
            if (replay := self._own(part.replay, THINKING_BLOCKS)) is not None
        ]
        if not text and not calls:
            return []
        item: dict[str, Any] = {"content": text or None, "role": "assistant"}
        if calls:
            item["tool_calls"] = calls
        if replayed:
            item["reasoning_details"] = replayed
        if blocks:
            item["thinking_blocks"] = blocks
        if self._dialect.reasoning_text_field is not None:
            thought = "".join(part.content for part in thoughts)
            if thought or calls:  # such servers refuse a call without it, be it empty
                item[self._dialect.reasoning_text_field] = thought
        return [item]

    def _own(self, replay: ReasoningReplay | None, kind: str = "") -> ReasoningReplay | None:
        """What this route made, of that kind, and may have back."""
        return replay if replay and self._route is not None and replay.provider == self._route + kind else None

    def _signed(self, replay: ReasoningReplay | None, *, is_first: bool) -> dict[str, Any]:
        """The signature of a call. Gemini refuses a conversation where the first call of an answer has none."""
        own = self._own(replay)
        signature = own.signature if own else SIGNATURE_PLACEHOLDER if self._needs_signatures and is_first else None
        return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}

    def _result(self, part: ToolResultPart) -> dict[str, Any]:
        return {
            "content": part.content,
            "name": past_name(part.tool_name, self._odd),
            "role": "tool",
            "tool_call_id": self._dialect.call_id(part.tool_call_id, MAX_ID_CHARS),
        }

    def _block(self, part: Part) -> dict[str, Any] | None:
        if isinstance(part, AttachmentPart):
            return self._attachment(part.attachment)
        text = words_of(part)
        return _text_block(text) if text else None

    def _attachment(self, source: AttachmentSource) -> dict[str, Any]:
        if carrying_refusal(source, _CARRIED) is not None:
            return _text_block(stand_in(source))
        match source:
            case ExternalUrl(url=url):
                return {"image_url": {"url": url}, "type": "image_url"}
            case Inline(media_type=media_type, data=data, label=label):
                return _bytes_block(media_type, data, label or "attachment")
            case Stored(media_type=media_type, label=label):
                return _bytes_block(media_type, self._attachment_bytes(source), label or source.attachment_ref)
        refuse_attachment(f"this provider cannot be sent the attachment {source!r:.200}")


def _reasoning_details(text: str, replay: ReasoningReplay) -> Iterator[dict[str, Any]]:
    """What the endpoint needs of its own reasoning: signed text, encrypted data."""
    named = {"id": replay.item_id} if replay.item_id else {}
    if replay.signature:
        yield {"signature": replay.signature, "text": text, "type": "reasoning.text", **named}
    if replay.encrypted_content:
        yield {"data": replay.encrypted_content, "type": "reasoning.encrypted", **named}


def _thinking_block(text: str, replay: ReasoningReplay) -> dict[str, str | None]:
    """What Claude thought, as LiteLLM takes it back."""
    if replay.encrypted_content:
        return {"data": replay.encrypted_content, "type": "redacted_thinking"}
    return {"signature": replay.signature, "thinking": text, "type": "thinking"}


def _blocks(content: Any) -> list[dict[str, Any]]:
    """Content as blocks; none for no content."""
    if isinstance(content, str):
        return [_text_block(content)] if content else []
    return content or []


def _joined(blocks: Sequence[dict[str, Any]]) -> tuple[bytes, int]:
    """Blocks behind each other, and where a mark of the last text goes, 0 where there is none."""
    data = bytearray()
    end = 0
    for block in blocks:
        data += b"," * bool(data) + encode(block)
        if block["type"] == "text" and block["text"].strip():
            end = len(data) - 1
    return bytes(data), end


def _text_block(text: str) -> dict[str, Any]:
    return {"text": text, "type": "text"}


def _bytes_block(media_type: str, data: bytes, name: str) -> dict[str, Any]:
    """Attachment bytes as the block their media type asks for."""
    if is_text(media_type):
        return _text_block(attached_words(data, name))
    url = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    if media_type.startswith("image/"):
        return {"image_url": {"url": url}, "type": "image_url"}
    return {"file": {"file_data": url, "filename": name}, "type": "file"}
