"""Answers of the Gemini wire (contract 06 §9.4, §5): from documents to a response.

`GoogleAssembler` takes the documents of one answer in wire order and knows
nothing of bytes or sockets; a whole answer is one document. Each document holds
complete parts: text comes in pieces, a call always whole. A signature is kept
where it stood: on its call or its thought, and behind text as reasoning without
words, so that the next request can put it back. Calls mostly have no ids; those
without get one from their position, the same in every attempt.
"""

from __future__ import annotations

from typing import Any

from lash_cli.core.codec import encode
from lash_cli.core.content import ProsePart, ReasoningPart, ReasoningReplay, ToolCallPart
from lash_cli.core.llm import (
    LlmPart,
    LlmResponse,
    ReasoningDelta,
    StreamEvent,
    TerminalReason,
    TextDelta,
)
from lash_cli.providers.assembling import AnswerAssembler, Run, object_of, objects_of, open_run, text_of
from lash_cli.providers.call_ids import CallIds
from lash_cli.providers.reported_usage import google_usage

_TERMINAL_REASONS = {
    "STOP": TerminalReason.STOP,
    "MAX_TOKENS": TerminalReason.OUTPUT_LIMIT,
    "SAFETY": TerminalReason.CONTENT_FILTER,
    "RECITATION": TerminalReason.CONTENT_FILTER,
    "BLOCKLIST": TerminalReason.CONTENT_FILTER,
    "PROHIBITED_CONTENT": TerminalReason.CONTENT_FILTER,
    "SPII": TerminalReason.CONTENT_FILTER,
    "MODEL_ARMOR": TerminalReason.CONTENT_FILTER,
    "IMAGE_SAFETY": TerminalReason.CONTENT_FILTER,
    "IMAGE_PROHIBITED_CONTENT": TerminalReason.CONTENT_FILTER,
    "IMAGE_RECITATION": TerminalReason.CONTENT_FILTER,
}


def unwrapped(document: dict[str, Any]) -> dict[str, Any]:
    """The answer inside the wrapper some endpoints put around it, or `document` itself."""
    inner = document.get("response")
    return inner if isinstance(inner, dict) else document


class _Call:
    """A call, complete as it came."""

    def __init__(self, identity: str, name: str, arguments: Any, signature: str) -> None:
        self.id = identity
        self.name = name
        self.arguments = "{}" if arguments in (None, "") else encode(arguments).decode()
        self.signature = signature


class GoogleAssembler(AnswerAssembler):
    """Collects one answer."""

    buckets = staticmethod(google_usage)

    def __init__(self, request_id: str, route: str, provider_request_id: str | None = None) -> None:
        super().__init__(request_id, route, provider_request_id)
        self._pieces: list[Run | _Call] = []
        self._finish_message = ""
        self._block_reason = ""
        self.finish_reason = ""

    @property
    def is_proved(self) -> bool:
        """Whether a finish reason came, or the word that the prompt was blocked."""
        return bool(self.finish_reason or self._block_reason)

    @property
    def is_finished(self) -> bool:
        """Never before the end of the stream: some models give a finish reason with every document."""
        return False

    @property
    def is_empty(self) -> bool:
        """Whether there is no text, no thought and no call; a signature alone says nothing."""
        return not any(isinstance(piece, _Call) or piece.pieces for piece in self._pieces)

    def feed(self, document: dict[str, Any]) -> list[StreamEvent]:
        """Take one document and return what it shows."""
        document = unwrapped(document)
        self._served_model = text_of(document.get("modelVersion")) or self._served_model
        self._response_id = text_of(document.get("responseId")) or self._response_id
        self._block_reason = text_of(object_of(document.get("promptFeedback")).get("blockReason")) or self._block_reason
        events: list[StreamEvent] = []
        for candidate in objects_of(document.get("candidates")):
            if candidate.get("index", 0) in (0, None):
                events += self._take_candidate(candidate)
        return events + self._reported.take(document.get("usageMetadata"))

    def response(self) -> LlmResponse:
        """The complete answer; without a finish reason, what a tolerated end of the stream makes of it."""
        parts = self._parts()
        reason = _TERMINAL_REASONS.get(self.finish_reason or "STOP", TerminalReason.PROVIDER_ERROR)
        diagnostic = None
        if self._block_reason and not self.finish_reason:
            reason, diagnostic = TerminalReason.CONTENT_FILTER, f"the provider blocked the prompt: {self._block_reason}"
        elif reason is TerminalReason.STOP and any(isinstance(part, ToolCallPart) for part in parts):
            reason = TerminalReason.TOOL_USE
        elif reason in (TerminalReason.CONTENT_FILTER, TerminalReason.PROVIDER_ERROR):
            said = f": {self._finish_message}" if self._finish_message else ""
            diagnostic = f"the provider ended the answer with finishReason {self.finish_reason!r}{said}"
        return LlmResponse(parts, self._reported.usage, reason, diagnostic, self._evidence())

    def _take_candidate(self, candidate: dict[str, Any]) -> list[StreamEvent]:
        self.finish_reason = text_of(candidate.get("finishReason")) or self.finish_reason
        self._finish_message = text_of(candidate.get("finishMessage")) or self._finish_message
        parts = objects_of(object_of(candidate.get("content")).get("parts"))
        return [event for part in parts for event in self._take_part(part)]

    def _take_part(self, part: dict[str, Any]) -> list[StreamEvent]:
        """One part; kinds that were never asked for, such as code the provider ran itself, are passed over."""
        signature = text_of(part.get("thoughtSignature"))
        call = part.get("functionCall")
        if isinstance(call, dict):
            self._pieces.append(_Call(text_of(call.get("id")), text_of(call.get("name")), call.get("args"), signature))
            return []
        text = text_of(part.get("text"))
        if not text and not signature:
            return []
        is_thought = part.get("thought") is True
        run = open_run(self._pieces, is_reasoning=is_thought)
        run.replay = self._replay(signature)
        if not text:
            return []
        run.pieces.append(text)
        return [ReasoningDelta(text) if is_thought else TextDelta(text)]

    def _parts(self) -> tuple[LlmPart, ...]:
        parts: list[LlmPart] = []
        ids = CallIds(self._request_id)
        for piece in self._pieces:
            if isinstance(piece, _Call):
                replay = self._replay(piece.signature)
                parts.append(ToolCallPart(ids.of(piece.id), piece.name, piece.arguments, replay))
                continue
            if piece.is_reasoning:
                parts.append(ReasoningPart(piece.text, piece.replay))
                continue
            if piece.text:
                parts.append(ProsePart(piece.text))
            if piece.replay:
                parts.append(ReasoningPart("", piece.replay))
        return tuple(parts)

    def _replay(self, signature: str) -> ReasoningReplay | None:
        return ReasoningReplay(provider=self._route, signature=signature) if signature else None

    def _end(self) -> str:
        return self.finish_reason or self._block_reason
