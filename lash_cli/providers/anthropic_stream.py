"""Answers of the Anthropic Messages wire (contract 06 §9.3, §5): from events to a proved response.

`AnthropicAssembler` takes the JSON events of one answer in wire order and knows
nothing of bytes or sockets. An answer is complete only once `message_stop`
followed a `message_start`; without it there is a partial response, kept as
evidence, whose tool calls are never run. A whole answer is one `message`
document, complete when it says why it stopped.
"""

from __future__ import annotations

from typing import Any

from lash_cli.core.codec import encode
from lash_cli.core.content import ProsePart, ReasoningPart, ReasoningReplay, ToolCallPart
from lash_cli.core.llm import (
    EvidenceReported,
    LlmPart,
    LlmResponse,
    ReasoningDelta,
    StreamEvent,
    TerminalReason,
    TextDelta,
)
from lash_cli.providers.assembling import AnswerAssembler, object_of, text_of
from lash_cli.providers.call_ids import CallIds
from lash_cli.providers.reported_usage import anthropic_usage

_TERMINAL_REASONS = {
    "end_turn": TerminalReason.STOP,
    "stop_sequence": TerminalReason.STOP,
    "pause_turn": TerminalReason.STOP,
    "tool_use": TerminalReason.TOOL_USE,
    "max_tokens": TerminalReason.OUTPUT_LIMIT,
    "model_context_window_exceeded": TerminalReason.CONTEXT_OVERFLOW,
    "refusal": TerminalReason.CONTENT_FILTER,
    "safety": TerminalReason.CONTENT_FILTER,
    "sensitive": TerminalReason.CONTENT_FILTER,
}
_KIND_OF_DELTA = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
    "input_json_delta": "tool_use",
}
_GROWN_FIELD = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}


class _Block:
    """One content block while it grows. A kind of no interest is kept so that its deltas find it, and says nothing."""

    __slots__ = ("data", "id", "initial", "kind", "name", "pieces", "signature")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pieces: list[str] = []
        self.signature = ""
        self.data = ""
        self.id = ""
        self.name = ""
        self.initial: dict[str, Any] = {}

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def is_empty(self) -> bool:
        match self.kind:
            case "text":
                return not self.pieces
            case "thinking":
                return not self.pieces and not self.signature
            case "redacted_thinking":
                return not self.data
            case kind:
                return kind != "tool_use"


class AnthropicAssembler(AnswerAssembler):
    """Collects one answer."""

    buckets = staticmethod(anthropic_usage)

    def __init__(self, request_id: str, route: str, provider_request_id: str | None = None) -> None:
        super().__init__(request_id, route, provider_request_id)
        self._blocks: list[_Block] = []
        self._by_index: dict[Any, _Block] = {}
        self._has_started = False
        self._is_stopped = False
        self._stop_reason = ""
        self._refusal = ""

    @property
    def is_proved(self) -> bool:
        """Whether the provider said that the answer is complete."""
        return self._is_stopped

    @property
    def is_finished(self) -> bool:
        """Nothing follows the proof."""
        return self._is_stopped

    @property
    def is_empty(self) -> bool:
        """Whether there is no text, no reasoning and no call."""
        return all(block.is_empty for block in self._blocks)

    def feed(self, document: dict[str, Any]) -> list[StreamEvent]:
        """Take one event (or a whole answer) and return what it shows."""
        match document.get("type"):
            case "message_start":
                self._has_started = True
                return self._take_message(object_of(document.get("message")))
            case "content_block_start":
                return self._open(document.get("index"), object_of(document.get("content_block")))
            case "content_block_delta":
                return self._take_delta(document.get("index"), object_of(document.get("delta")))
            case "message_delta":
                self._take_stop(object_of(document.get("delta")))
                return self._reported.take(document.get("usage"))
            case "message_stop":
                self._is_stopped = self._has_started
            case "message":
                events = self._take_message(document)
                self._is_stopped = bool(self._stop_reason)
                return events
        return []

    def response(self) -> LlmResponse:
        """The complete answer; without a stop reason, what a tolerated end of the stream makes of it."""
        parts = self._parts()
        reason = _TERMINAL_REASONS.get(self._stop_reason or "end_turn", TerminalReason.PROVIDER_ERROR)
        if reason in (TerminalReason.STOP, TerminalReason.TOOL_USE):
            has_calls = any(isinstance(part, ToolCallPart) for part in parts)
            reason = TerminalReason.TOOL_USE if has_calls else TerminalReason.STOP
        return LlmResponse(parts, self._reported.usage, reason, self._diagnostic(reason), self._evidence())

    def _take_message(self, message: dict[str, Any]) -> list[StreamEvent]:
        """The head of a streamed message, or a whole one."""
        self._served_model = text_of(message.get("model")) or self._served_model
        self._response_id = text_of(message.get("id")) or self._response_id
        self._take_stop(message)
        events: list[StreamEvent] = [EvidenceReported(self._evidence())]
        content = message.get("content")
        for index, block in enumerate(content if isinstance(content, list) else ()):
            events += self._open(index, object_of(block))
        return events + self._reported.take(message.get("usage"))

    def _open(self, index: Any, content: dict[str, Any]) -> list[StreamEvent]:
        block = self._new_block(index, text_of(content.get("type")))
        match block.kind:
            case "text":
                return self._grow(block, content.get("text"))
            case "thinking":
                block.signature = text_of(content.get("signature"))
                return self._grow(block, content.get("thinking"))
            case "redacted_thinking":
                block.data = text_of(content.get("data"))
            case "tool_use":
                block.id, block.name = text_of(content.get("id")), text_of(content.get("name"))
                block.initial = object_of(content.get("input"))
        return []

    def _new_block(self, index: Any, kind: str) -> _Block:
        block = _Block(kind)
        self._blocks.append(block)
        self._by_index[index if isinstance(index, int) else len(self._blocks) - 1] = block
        return block

    def _take_delta(self, index: Any, delta: dict[str, Any]) -> list[StreamEvent]:
        """A delta whose block was never opened opens one, except for a call, which has no name then."""
        kind = _KIND_OF_DELTA.get(text_of(delta.get("type")))
        block = self._by_index.get(index) if isinstance(index, int) else None
        if kind is None or (block is None and kind == "tool_use"):
            return []
        if block is None:
            block = self._new_block(index, kind)
        if block.kind != kind:
            return []
        if delta["type"] == "signature_delta":
            block.signature += text_of(delta.get("signature"))
            return []
        return self._grow(block, delta.get(_GROWN_FIELD[kind]))

    def _grow(self, block: _Block, piece: Any) -> list[StreamEvent]:
        text = text_of(piece)
        if not text:
            return []
        block.pieces.append(text)
        match block.kind:
            case "text":
                return [TextDelta(text)]
            case "thinking":
                return [ReasoningDelta(text)]
            case _:
                return []

    def _take_stop(self, delta: dict[str, Any]) -> None:
        self._stop_reason = text_of(delta.get("stop_reason")) or self._stop_reason
        self._refusal = text_of(object_of(delta.get("stop_details")).get("explanation")) or self._refusal

    def _diagnostic(self, reason: TerminalReason) -> str | None:
        if reason is TerminalReason.CONTENT_FILTER:
            return f"the model refused: {self._refusal}" if self._refusal else "the model refused"
        if reason in (TerminalReason.PROVIDER_ERROR, TerminalReason.CONTEXT_OVERFLOW):
            return f"the provider ended the answer with stop_reason {self._stop_reason!r}"
        return None

    def _parts(self) -> tuple[LlmPart, ...]:
        parts: list[LlmPart] = []
        ids = CallIds(self._request_id)
        for block in self._blocks:
            if block.is_empty:
                continue
            match block.kind:
                case "text":
                    parts.append(ProsePart(block.text))
                case "tool_use":
                    # The streamed input, else the one the block began with.
                    arguments = block.text or encode(block.initial).decode()
                    parts.append(ToolCallPart(ids.of(block.id), block.name, arguments))
                case _:
                    parts.append(ReasoningPart(block.text, self._replay(block)))
        return tuple(parts)

    def _replay(self, block: _Block) -> ReasoningReplay | None:
        if block.kind == "redacted_thinking":
            return ReasoningReplay(provider=self._route, encrypted_content=block.data, redacted=True)
        return ReasoningReplay(provider=self._route, signature=block.signature) if block.signature else None

    def _end(self) -> str:
        return self._stop_reason
