"""Requests of the Anthropic Messages wire (contract 06 §9.3): from messages to exact bytes.

The body begins with what changes least: tools, system prompt, messages; what
belongs to one call only stands behind them. Neighbours of one role share a
message, because this wire wants roles to alternate, and the encoding of
committed messages is cached (`prefix`); cache marks are spliced in last. What
the wire cannot carry is refused here, before anything is sent, and replay data
goes back only to the route that made it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from lash_cli.core.codec import encode
from lash_cli.core.content import (
    AttachmentPart,
    AttachmentSource,
    ExternalUrl,
    Inline,
    Message,
    Part,
    ProviderFile,
    ReasoningPart,
    Role,
    Stored,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import GenerationReceipt, JsonSchemaOutput, LlmRequest, LlmToolSpec, ToolChoice
from lash_cli.core.media import is_text
from lash_cli.core.policy import ModelSpec, ProviderDefault
from lash_cli.errors import LlmTransportError
from lash_cli.providers.attachments import CARRIED, AttachmentBytes, carrying_refusal, stand_in, unread
from lash_cli.providers.caching import CacheRetention, marked_last, marks_of
from lash_cli.providers.extra_body import checked_extra_body, overlaid
from lash_cli.providers.generation import GenerationWords, Spoken, spoken
from lash_cli.providers.past import attached_words, odd_names, past_name, past_object, system_words, words_of
from lash_cli.providers.prefix import Encode, Frame, Piece, PrefixCaches
from lash_cli.providers.reasoning import Budget, Effort, ToggleOff, intent_of, refused
from lash_cli.providers.schemas import project

DEFAULT_MAX_OUTPUT_TOKENS = 32_768

PrefixMismatch = Literal["drop_block", "error"]

_FRAMES = {role: Frame(b',{"content":[', b'],"role":"%b"}' % role.encode()) for role in ("assistant", "user")}
_TOOL_CHOICES = {ToolChoice.NONE: "none", ToolChoice.REQUIRED: "any"}
_WIRE_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CARRIED = CARRIED["anthropic"]
# It has no seed.
_WORDS = GenerationWords("temperature", stop_sequences="stop_sequences", most_temperature=1.0)
_THINKING = ("thinking", "redacted_thinking")


class AnthropicEncoder:
    """Builds request bodies for one endpoint; holds the encoding of the conversations it has seen."""

    def __init__(
        self,
        endpoint: str,
        *,
        credential_scope: str = "",
        max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
        cache_retention: CacheRetention = "short",
        expose_thinking: bool = False,
        thinking_prefix_mismatch: PrefixMismatch | None = None,
        extra_body: Mapping[str, Any] | None = None,
        omit_body: Sequence[str] = (),
        attachment_bytes: AttachmentBytes = unread,
    ) -> None:
        """`credential_scope` names the credential whose uploaded files may be referred to.

        `max_output_tokens` is asked for where the request says nothing: this
        wire wants a number. `expose_thinking` asks for readable thinking.
        `thinking_prefix_mismatch` is what an endpoint that binds thinking to the
        conversation before it is to do when that has changed, by other tools
        say; None leaves it unsaid. `extra_body` is laid over every body and what
        `omit_body` names is left out. Raises `ConfigError` when they touch what
        a call is about.
        """
        self._route = f"{endpoint}/v1/messages"
        self._credential_scope = credential_scope
        self._max_output_tokens = max_output_tokens
        self._cache_retention: CacheRetention = cache_retention
        self._expose_thinking = expose_thinking
        self._prefix_mismatch = thinking_prefix_mismatch
        self._extra_body = checked_extra_body(extra_body or {}, omit_body)
        self._attachment_bytes = attachment_bytes
        self._caches = PrefixCaches(self._encoding, _FRAMES)
        self._has_files = False
        self._tools: tuple[LlmToolSpec, ...] = ()
        self._tool_bytes: list[bytes] = []

    def route(self, model: str) -> str:
        """Who signs thinking and takes it back: one endpoint of this wire, whatever its model."""
        return self._route

    @property
    def has_files(self) -> bool:
        """Whether uploaded files were referred to, which an endpoint wants announced; once true it stays so."""
        return self._has_files

    def body(self, request: LlmRequest) -> bytes:
        """The request body.

        Raises `LlmTransportError` (validation or unsupported, never retryable)
        for a reasoning selection, a schema or an attachment this wire cannot
        carry, and for a conversation without content.
        """
        marks = marks_of(request, self._cache_retention, "anthropic")
        said = overlaid(self._options(request), self._extra_body) | self._spoken(request).fields
        options = b"]," + encode(said)[1:]
        head = b"{"
        if request.tools:
            head += b'"tools":[' + marked_last(self._encoded_tools(request.tools), marks.tool) + b"],"
        system = [encode(_text_block(text)) for text in system_words(request)]
        if system:
            head += b'"system":[' + marked_last(system, marks.system) + b"],"
        head += b'"messages":['
        body = self._caches.of(odd_names(request.tools)).join(head, request.messages, options, marks.messages)
        if body.startswith(b"]", len(head)):
            raise refused("empty_conversation", "the conversation holds nothing that this provider can be sent")
        return body

    def generation_receipt(self, request: LlmRequest) -> GenerationReceipt | None:
        """What becomes of the request's generation intent."""
        return self._spoken(request).receipt

    def _spoken(self, request: LlmRequest) -> Spoken:
        """The generation intent; this wire refuses a temperature beside thinking."""
        words = _WORDS._replace(temperature=None) if self._thinks(request.model) else _WORDS
        return spoken(request.generation, words, self._extra_body)

    def _thinks(self, model: ModelSpec) -> bool:
        """Whether the model is told to think, or known to think where nothing is said."""
        thinking = self.thinking(model)
        if thinking is not None:
            return bool(thinking["type"] != "disabled")
        reasoning = model.capability.reasoning if model.capability else None
        return reasoning is not None and (reasoning.mandatory or _thinks_by_default(model))

    def _encoded_tools(self, tools: tuple[LlmToolSpec, ...]) -> list[bytes]:
        """The tools as JSON; the same ones are asked for at every call of a session, so the last are kept."""
        if tools is not self._tools:
            self._tool_bytes = _tools(tools)
            self._tools = tools
        return self._tool_bytes

    def _options(self, request: LlmRequest) -> dict[str, Any]:
        options: dict[str, Any] = {
            "max_tokens": _output_cap(request, self._max_output_tokens),
            "model": request.model.id,
            "stream": True,
        }
        thinking = self.thinking(request.model)
        if thinking is not None:
            options["thinking"] = thinking
        output = _output_config(request)
        if output:
            options["output_config"] = output
        if request.tools and request.tool_choice in _TOOL_CHOICES:
            options["tool_choice"] = {"type": _TOOL_CHOICES[request.tool_choice]}
        return options

    def thinking(self, model: ModelSpec) -> dict[str, Any] | None:
        """The `thinking` member for `model`, None to say nothing. Raises `LlmTransportError` like `body`.

        A model known to think at some effort by default is told to do so where
        there is more to say about it: what is shown, and what becomes of
        thinking whose conversation has changed.
        """
        adaptive: dict[str, Any] = {"display": "summarized" if self._expose_thinking else "omitted", "type": "adaptive"}
        if self._prefix_mismatch is not None:
            adaptive["block_binding"] = {"prefix_mismatch_behavior": self._prefix_mismatch}
        match intent_of(model):
            case Effort():
                return adaptive
            case Budget(tokens=tokens):
                return {"budget_tokens": tokens, "display": adaptive["display"], "type": "enabled"}
            case ToggleOff():
                return {"type": "disabled"}
            case None:
                has_more_to_say = self._expose_thinking or self._prefix_mismatch is not None
                return adaptive if has_more_to_say and _thinks_by_default(model) else None

    def _encoding(self, odd: frozenset[str]) -> Encode:
        """How messages are written where these odd names are offered."""
        return partial(self._pieces, odd)

    def _pieces(self, odd: frozenset[str], message: Message) -> list[Piece]:
        if message.role is Role.ASSISTANT:
            return [_framed(self._assistant_blocks(odd, message), "assistant")]
        blocks = [_result_block(part) for part in message.parts if isinstance(part, ToolResultPart)]
        blocks += [block for part in message.parts if (block := self._user_block(part)) is not None]
        return [_framed(blocks, "user", told_apart=message.role is Role.SYSTEM)]

    def _assistant_blocks(self, odd: frozenset[str], message: Message) -> list[dict[str, Any]]:
        """Blocks in the order of their parts; thinking at the end is left out, because the wire refuses it there."""
        blocks = [block for part in message.parts if (block := self._assistant_block(odd, part)) is not None]
        while blocks and blocks[-1]["type"] in _THINKING:
            blocks.pop()
        return blocks

    def _assistant_block(self, odd: frozenset[str], part: Part) -> dict[str, Any] | None:
        match part:
            case ReasoningPart():
                return self._reasoning_block(part)
            case ToolCallPart():
                return {
                    "id": wire_call_id(part.tool_call_id),
                    "input": past_object(part.input_json),
                    "name": past_name(part.tool_name, odd),
                    "type": "tool_use",
                }
            case _:
                return _readable(words_of(part))

    def _reasoning_block(self, part: ReasoningPart) -> dict[str, Any] | None:
        """Thinking as this route signed it; without that proof it is text like any other."""
        replay = part.replay
        if replay is not None and replay.provider == self._route:
            if replay.redacted and replay.encrypted_content:
                return {"data": replay.encrypted_content, "type": "redacted_thinking"}
            if replay.signature:
                return {"signature": replay.signature, "thinking": part.content, "type": "thinking"}
        return _readable(part.content)

    def _user_block(self, part: Part) -> dict[str, Any] | None:
        if isinstance(part, AttachmentPart):
            return self._attachment(part.attachment)
        return _readable(words_of(part))

    def _attachment(self, source: AttachmentSource) -> dict[str, Any]:
        scope = self._credential_scope
        if carrying_refusal(source, _CARRIED, provider="anthropic", credential_scope=scope) is not None:
            return _text_block(stand_in(source))
        match source:
            case Inline(media_type=media_type, data=data, label=label):
                return _bytes_block(media_type, data, label)
            case Stored(media_type=media_type, label=label):
                return _bytes_block(media_type, self._attachment_bytes(source), label)
            case ExternalUrl(media_type=media_type, url=url):
                return {"source": {"type": "url", "url": url}, "type": _block_type(media_type)}
            case ProviderFile(id=file_id):
                self._has_files = True
                return {"source": {"file_id": file_id, "type": "file"}, "type": "document"}


def wire_call_id(call_id: str) -> str:
    """`call_id` as this wire takes it, the same for a call and its result.

    One that has other characters or is too long keeps a readable beginning and
    ends with a digest, so that different ids stay different.
    """
    if _WIRE_CALL_ID.fullmatch(call_id):
        return call_id
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", call_id)[:47]
    return f"{readable}_{hashlib.sha256(call_id.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _output_cap(request: LlmRequest, default: int) -> int:
    """Tokens one answer may have: what was asked for, else the default, within what the model can."""
    wanted = default if request.output_token_cap is None else request.output_token_cap
    capacity = request.model.limits.output_token_capacity
    return wanted if capacity is None else min(wanted, capacity)


def _thinks_by_default(model: ModelSpec) -> bool:
    """Whether the model is known to think at an effort of its own where nothing is selected."""
    reasoning = model.capability.reasoning if model.capability else None
    is_default = isinstance(model.variant, ProviderDefault)
    return is_default and reasoning is not None and reasoning.encoding == "effort" and bool(reasoning.default_effort)


def _output_config(request: LlmRequest) -> dict[str, Any]:
    intent = intent_of(request.model)
    config: dict[str, Any] = {"effort": intent.name} if isinstance(intent, Effort) else {}
    match request.output_spec:
        case None:
            return config
        case JsonSchemaOutput(schema=schema, projection=projection):
            projected = project(schema, "anthropic_structured_output", projection)
            return config | {"format": {"schema": projected, "type": "json_schema"}}
        case _:
            raise LlmTransportError(
                "this provider cannot be asked for JSON without a schema; give one",
                kind="unsupported",
                code="output_unsupported",
            )


def _tools(tools: Iterable[LlmToolSpec]) -> list[bytes]:
    return [
        encode(
            {
                "description": tool.description,
                "input_schema": project(tool.input_schema, "anthropic_tool", tool.projection),
                "name": tool.name,
            }
        )
        for tool in tools
    ]


def _framed(blocks: Sequence[dict[str, Any]], role: str, *, told_apart: bool = False) -> Piece:
    """The blocks of one message, and where marks go: before the last brace of a block."""
    data = bytearray()
    text_end = block_end = 0
    for block in blocks:
        data += b"," * bool(data) + encode(block)
        block_end = len(data) - 1
        if block["type"] == "text":
            text_end = block_end
    return Piece(bytes(data), text_end, block_end, role if data else "", told_apart)


def _readable(text: str | None) -> dict[str, Any] | None:
    """A text block; None for no text and for blank text, which this wire refuses."""
    return _text_block(text) if text and text.strip() else None


def _text_block(text: str) -> dict[str, Any]:
    return {"text": text, "type": "text"}


def _result_block(part: ToolResultPart) -> dict[str, Any]:
    block: dict[str, Any] = {"tool_use_id": wire_call_id(part.tool_call_id), "type": "tool_result"}
    if part.content:
        block["content"] = part.content
    if part.status != "success":
        block["is_error"] = True
    return block


def _bytes_block(media_type: str, data: bytes, label: str | None) -> dict[str, Any]:
    """Attachment bytes as the block their media type asks for; text is sent as words."""
    if is_text(media_type):
        return _text_block(attached_words(data, label))
    source = {"data": base64.b64encode(data).decode("ascii"), "media_type": media_type, "type": "base64"}
    kind = _block_type(media_type)
    return {"source": source, "type": kind} | ({"title": label} if label and kind == "document" else {})


def _block_type(media_type: str) -> str:
    return "image" if media_type in _CARRIED.images else "document"
