"""Answers of the Chat Completions wire (contract 06 §9.2, §5): from chunks to a proved response.

`ChatAssembler` takes the JSON chunks of one answer in wire order and knows
nothing of bytes or sockets. An answer is complete only once a non-empty
`finish_reason` was seen; without it there is a partial response, kept as
evidence, whose tool calls are never run. A whole answer is one large chunk.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from lash_cli.core.codec import decode_json, encode
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
from lash_cli.providers.reported_usage import openai_usage

_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_text")
#: The kinds of reasoning details, and where each has readable text; encrypted ones have none.
_DETAIL_TEXTS = {
    "reasoning.text": "text",
    "reasoning.summary": "summary",
    "reasoning.encrypted": "",
    # What LiteLLM passes on of Claude.
    "thinking": "thinking",
    "redacted_thinking": "",
}
#: What marks the route of what came in the blocks of LiteLLM, and goes back in those.
THINKING_BLOCKS = " thinking_blocks"
_DIGITS = re.compile("[0-9]{1,9}")
_TERMINAL_REASONS = {
    "stop": TerminalReason.STOP,
    "tool_calls": TerminalReason.TOOL_USE,
    "function_call": TerminalReason.TOOL_USE,
    "length": TerminalReason.OUTPUT_LIMIT,
    "max_tokens": TerminalReason.OUTPUT_LIMIT,
    "content_filter": TerminalReason.CONTENT_FILTER,
    "safety": TerminalReason.CONTENT_FILTER,
    # What some servers pass on in the words of their engine or of another wire: Together, TGI, Mistral, gateways.
    "eos": TerminalReason.STOP,
    "eos_token": TerminalReason.STOP,
    "stop_sequence": TerminalReason.STOP,
    "end_turn": TerminalReason.STOP,
    "tool_use": TerminalReason.TOOL_USE,
    "model_length": TerminalReason.OUTPUT_LIMIT,
    "model_context_window_exceeded": TerminalReason.CONTEXT_OVERFLOW,
    "sensitive": TerminalReason.CONTENT_FILTER,
    "refusal": TerminalReason.CONTENT_FILTER,
}
_PLAIN_REASONS = (TerminalReason.STOP, TerminalReason.TOOL_USE)


class _Call:
    """A tool call growing by deltas."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self.signature = ""

    def append(self, said: str) -> None:
        """Take a piece of the arguments. An object that is said once more, whole and behind its pieces, counts once.
        Nothing can follow an empty one: who begins with it, as gateways to Bedrock do, says the arguments now."""
        if self.arguments == ["{}"] and said.strip():
            self.arguments.clear()
        if not (said.startswith("{") and said == "".join(self.arguments) and self.is_complete):
            self.arguments.append(said)

    @property
    def is_complete(self) -> bool:
        """Whether the arguments can be read as they are. What does not end like an object is not: a server that names
        its call with every piece would have the whole of it read again with each."""
        if not self.arguments or not self.arguments[-1].rstrip().endswith("}"):
            return False
        try:
            decode_json("".join(self.arguments))
        except msgspec.DecodeError:
            return False
        return True


class ChatAssembler(AnswerAssembler):
    """Collects one answer."""

    buckets = staticmethod(openai_usage)

    def __init__(self, request_id: str, route: str, provider_request_id: str | None = None) -> None:
        super().__init__(request_id, route, provider_request_id)
        self._pieces: list[Run | _Call] = []
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._refusal: list[str] = []
        self.finish_reason = ""

    @property
    def is_proved(self) -> bool:
        """Whether the provider said that the answer is complete."""
        return bool(self.finish_reason)

    @property
    def is_finished(self) -> bool:
        """Never before the end of the stream: usage may follow the finish reason."""
        return False

    @property
    def is_empty(self) -> bool:
        """Whether there is no text, no reasoning and no call."""
        return not self._pieces and not self._refusal

    def feed(self, chunk: dict[str, Any]) -> list[StreamEvent]:
        """Take one chunk (or a whole answer) and return what it shows."""
        self._served_model = text_of(chunk.get("model")) or self._served_model
        self._response_id = text_of(chunk.get("id")) or self._response_id
        events = self._reported.take(chunk.get("usage"))
        for choice in objects_of(chunk.get("choices")):
            if choice.get("index") in (None, 0, "0"):
                events += self._take_choice(choice, is_chunk=chunk.get("object") == "chat.completion.chunk")
        return events

    def response(self) -> LlmResponse:
        """The complete answer; without a finish reason, what a tolerated end of the stream makes of it."""
        parts = self._parts()
        refusal = "".join(self._refusal)
        ended = self.finish_reason or "stop"
        reason = _TERMINAL_REASONS.get(ended.lower(), TerminalReason.PROVIDER_ERROR)
        has_calls = any(isinstance(part, ToolCallPart) for part in parts)
        if reason in _PLAIN_REASONS:
            reason = TerminalReason.TOOL_USE if has_calls else TerminalReason.STOP
        diagnostic = None
        if refusal:
            reason, diagnostic = TerminalReason.CONTENT_FILTER, f"the model refused: {refusal}"
        elif reason in (TerminalReason.PROVIDER_ERROR, TerminalReason.CONTEXT_OVERFLOW):
            diagnostic = f"the provider ended the answer with finish_reason {self.finish_reason!r}"
        return LlmResponse(parts, self._reported.usage, reason, diagnostic, self._evidence())

    def _take_choice(self, choice: dict[str, Any], *, is_chunk: bool) -> list[StreamEvent]:
        events = self._reported.take(choice.get("usage"))
        delta, message = choice.get("delta"), choice.get("message")
        if isinstance(delta, dict):
            events += self._take_delta(delta)
        elif isinstance(message, dict):
            events += self._take_delta(message, is_whole=not is_chunk)
        ended = text_of(choice.get("finish_reason"))
        # A server that says a plain end behind another, as some do with the usage, does not take back that it was cut.
        if ended and (not self.finish_reason or not _is_plain(ended)):
            self.finish_reason = ended
        return events

    def _take_delta(self, delta: dict[str, Any], *, is_whole: bool = False) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        details = _details(delta.get("reasoning_details")) or _details(delta.get("thinking_blocks"))
        reasoning = next((text for name in _REASONING_FIELDS if (text := text_of(delta.get(name)))), "")
        reasoning = reasoning or "".join(text_of(detail.get(_DETAIL_TEXTS[detail["type"]])) for detail in details)
        reasoning = reasoning or _content_thought(delta.get("content"))
        if reasoning:
            open_run(self._pieces, is_reasoning=True).pieces.append(reasoning)
            events.append(ReasoningDelta(reasoning))
        for detail in details:
            self._take_detail(detail)
        text = _content_text(delta.get("content"))
        if text:
            open_run(self._pieces, is_reasoning=False).pieces.append(text)
            events.append(TextDelta(text))
        refusal = text_of(delta.get("refusal"))
        if refusal:
            self._refusal.append(refusal)
        for position, call in enumerate(objects_of(delta.get("tool_calls"))):
            self._take_call(call, position, is_whole)
        return events

    def _take_detail(self, detail: dict[str, Any]) -> None:
        """Keep what brings reasoning back: a signature for the text before it, or encrypted data, each in its place."""
        identity = text_of(detail.get("id")) or None
        signature, data = text_of(detail.get("signature")) or None, text_of(detail.get("data")) or None
        if signature or data:
            route = self._route if detail["type"].startswith("reasoning.") else self._route + THINKING_BLOCKS
            open_run(self._pieces, is_reasoning=True).replay = ReasoningReplay(route, identity, data, signature)

    def _take_call(self, delta: dict[str, Any], position: int, is_whole: bool) -> None:
        function = object_of(delta.get("function"))
        identity, name = text_of(delta.get("id")), text_of(function.get("name"))
        index = _number(delta.get("index"))
        if is_whole:
            call = self._opened()
        elif index is not None:
            call = self._numbered(index, identity, name, bool(_said(function)))
        else:
            call = self._unnumbered(identity, name, position)
        call.id = call.id or identity
        if name != call.name and not call.arguments:
            call.name += name  # some send it in pieces, others once more with every piece
        said = _said(function)
        if said:
            call.append(said)
        call.signature = call.signature or _signature(delta)

    def _numbered(self, index: int, identity: str, name: str, has_arguments: bool) -> _Call:
        """The call of an index.

        Some endpoints number every call 0: a delta with another id and a name
        of its own opens a call, which has the number from then on. Others draw
        an id for every delta, so that an id alone opens nothing. Without ids a
        name and arguments open one where the call before is named and complete.
        """
        call = self._by_index.get(index)
        if call is None:
            call = self._by_index[index] = self._opened()
        elif identity and call.id and call.id != identity:
            same = self._of_id(identity)
            if same is None and name:
                same = self._by_index[index] = self._opened()
            call = same or call
        elif not (identity and call.id) and name and call.name and has_arguments and call.is_complete:
            call = self._by_index[index] = self._opened()
        return call

    def _unnumbered(self, identity: str, name: str, position: int) -> _Call:
        """The call of a delta without an index: the one of its id, else a new one where it brings another id or names
        a call while the last one is named and complete, else the last one."""
        last = self._calls[-1] if self._calls else None
        if last is None:
            return self._opened()
        if identity and last.id:
            same = self._of_id(identity)
            return same or (self._opened() if name else last)
        is_another = name and last.name and (position > 0 or last.is_complete)
        return self._opened() if is_another else last

    def _of_id(self, identity: str) -> _Call | None:
        return next((call for call in self._calls if call.id == identity), None)

    def _opened(self) -> _Call:
        call = _Call()
        self._calls.append(call)
        self._pieces.append(call)
        return call

    def _parts(self) -> tuple[LlmPart, ...]:
        parts: list[LlmPart] = []
        ids = CallIds(self._request_id)
        for piece in self._pieces:
            if isinstance(piece, Run):
                is_reasoning = piece.is_reasoning
                parts.append(ReasoningPart(piece.text, piece.replay) if is_reasoning else ProsePart(piece.text))
                continue
            replay = ReasoningReplay(self._route, signature=piece.signature) if piece.signature else None
            parts.append(ToolCallPart(ids.of(piece.id), piece.name, "".join(piece.arguments) or "{}", replay))
        return tuple(parts)

    def _end(self) -> str:
        return self.finish_reason


def _is_plain(finish_reason: str) -> bool:
    return _TERMINAL_REASONS.get(finish_reason.lower()) in _PLAIN_REASONS


def _number(index: Any) -> int | None:
    """The number of a call, however it is written; None where it has none."""
    if isinstance(index, str) and _DIGITS.fullmatch(index):
        return int(index)
    return int(index) if isinstance(index, int | float) else None


def _said(function: dict[str, Any]) -> str:
    """The arguments of a delta as text. Some endpoints send an object; what is neither is no call without arguments,
    so it is kept for the model to be told."""
    arguments = function.get("arguments")
    return text_of(arguments) if arguments is None or isinstance(arguments, str) else encode(arguments).decode()


def _details(details: Any) -> list[dict[str, Any]]:
    """The reasoning details of known kinds."""
    return [detail for detail in objects_of(details) if text_of(detail.get("type")) in _DETAIL_TEXTS]


def _signature(call: dict[str, Any]) -> str:
    """What Gemini signs a call with and wants to have back (`core.content.ReasoningReplay`)."""
    google = object_of(object_of(call.get("extra_content")).get("google"))
    return text_of(google.get("thought_signature"))


def _content_thought(content: Any) -> str:
    """Reasoning inside of `content`, where Mistral has it: in blocks of blocks."""
    return "".join(_content_text(block.get("thinking")) for block in objects_of(content))


def _content_text(content: Any) -> str:
    """Text of `content`, which some endpoints send as a list of blocks."""
    if isinstance(content, list):
        return "".join(text_of(block.get("text")) for block in objects_of(content))
    return text_of(content)
