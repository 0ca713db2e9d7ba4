"""Answers of the Responses wire (contract 06 §9.1, §5): from events to a proved response.

`ResponsesAssembler` takes the JSON events of one answer in wire order and knows
nothing of bytes or sockets. An answer is complete only with a terminal event;
its response object then fills in what was not streamed and never repeats what
was. Ids, encrypted reasoning and annotations are kept with the route that made
them. A whole answer is the response object alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

from lash_cli.core.content import ProsePart, ReasoningPart, ReasoningReplay, ToolCallPart
from lash_cli.core.llm import (
    LlmPart,
    LlmResponse,
    StreamEvent,
    TerminalReason,
    TextDelta,
)
from lash_cli.providers.assembling import AnswerAssembler, object_of, objects_of, text_of
from lash_cli.providers.call_ids import CallIds
from lash_cli.providers.reported_usage import openai_usage
from lash_cli.providers.responses_items import (
    ITEM_KINDS,
    CallItem,
    MessageItem,
    OutputItem,
    ReasoningItem,
    index_of,
)

Item = TypeVar("Item", bound=OutputItem)

_TERMINAL_STATUSES = ("completed", "incomplete", "failed", "cancelled")
_INCOMPLETE_REASONS = {
    "max_output_tokens": TerminalReason.OUTPUT_LIMIT,
    "max_tokens": TerminalReason.OUTPUT_LIMIT,
    "content_filter": TerminalReason.CONTENT_FILTER,
}


class ResponsesAssembler(AnswerAssembler):
    """Collects one answer."""

    buckets = staticmethod(openai_usage)

    def __init__(self, request_id: str, route: str, provider_request_id: str | None = None) -> None:
        super().__init__(request_id, route, provider_request_id)
        self._items: list[OutputItem] = []
        self._by_index: dict[int, OutputItem] = {}
        self._has_content = False
        self._status = ""
        self._incomplete_reason = ""

    @property
    def is_proved(self) -> bool:
        """Whether a terminal event was seen."""
        return bool(self._status)

    @property
    def is_finished(self) -> bool:
        """The terminal event is the last one and holds the usage."""
        return self.is_proved

    @property
    def is_empty(self) -> bool:
        """Whether there is no text, no refusal, no readable reasoning and no call."""
        # asked after every event, and what has come never goes: look only until there is something
        self._has_content = self._has_content or any(item.has_content for item in self._items)
        return not self._has_content

    def feed(self, document: dict[str, Any]) -> list[StreamEvent]:
        """Take one event, or a whole answer, and return what it shows; unknown events show nothing."""
        kind = text_of(document.get("type"))
        handler = self._HANDLERS.get(kind)
        if handler is not None:
            return handler(self, document)
        if document.get("object") == "response":
            return self._whole(document)
        return []

    def response(self) -> LlmResponse:
        """The complete answer; unproved, what a tolerated end of the stream makes of it."""
        parts = self._parts()
        reason, diagnostic = self._ending(any(isinstance(part, ToolCallPart) for part in parts))
        return LlmResponse(parts, self._reported.usage, reason, diagnostic, self._evidence())

    def _noted(self, event: dict[str, Any]) -> list[StreamEvent]:
        """`response.created` and its kin: who answers."""
        return self._note(object_of(event.get("response")))

    def _item_added(self, event: dict[str, Any]) -> list[StreamEvent]:
        item = object_of(event.get("item"))
        kind = ITEM_KINDS.get(text_of(item.get("type")))
        if kind is None:
            return []
        slot = self._slot(event, kind)
        slot.id = text_of(item.get("id")) or slot.id
        if isinstance(slot, CallItem):
            slot.note(item)
        return []

    def _item_done(self, event: dict[str, Any]) -> list[StreamEvent]:
        item = object_of(event.get("item"))
        kind = ITEM_KINDS.get(text_of(item.get("type")))
        return self._settle(self._slot(event, kind), item) if kind is not None else []

    def _text_delta(self, event: dict[str, Any]) -> list[StreamEvent]:
        delta = event.get("delta")
        if not isinstance(delta, str) or not delta:
            return []
        message = self._slot(event, MessageItem)
        message.block(event.get("content_index")).pieces.append(delta)
        return [TextDelta(delta)]

    def _text_done(self, event: dict[str, Any]) -> list[StreamEvent]:
        return self._slot(event, MessageItem).block(event.get("content_index")).fill_text(event.get("text"))

    def _refusal_delta(self, event: dict[str, Any]) -> list[StreamEvent]:
        self._slot(event, MessageItem).block(event.get("content_index")).refusal.append(text_of(event.get("delta")))
        return []

    def _refusal_done(self, event: dict[str, Any]) -> list[StreamEvent]:
        self._slot(event, MessageItem).block(event.get("content_index")).fill_refusal(event.get("refusal"))
        return []

    def _annotation(self, event: dict[str, Any]) -> list[StreamEvent]:
        block = self._slot(event, MessageItem).block(event.get("content_index"))
        block.annotations += objects_of([event.get("annotation")])
        return []

    def _summary_delta(self, event: dict[str, Any]) -> list[StreamEvent]:
        item = self._slot(event, ReasoningItem)
        return item.append(
            item.summary.setdefault(index_of(event.get("summary_index")), []), text_of(event.get("delta"))
        )

    def _summary_done(self, event: dict[str, Any]) -> list[StreamEvent]:
        item = self._slot(event, ReasoningItem)
        text = event.get("text") or object_of(event.get("part")).get("text")
        return item.fill(item.summary.setdefault(index_of(event.get("summary_index")), []), text)

    def _reasoning_delta(self, event: dict[str, Any]) -> list[StreamEvent]:
        item = self._slot(event, ReasoningItem)
        return item.append(
            item.content.setdefault(index_of(event.get("content_index")), []), text_of(event.get("delta"))
        )

    def _reasoning_done(self, event: dict[str, Any]) -> list[StreamEvent]:
        item = self._slot(event, ReasoningItem)
        return item.fill(item.content.setdefault(index_of(event.get("content_index")), []), event.get("text"))

    def _arguments_delta(self, event: dict[str, Any]) -> list[StreamEvent]:
        delta = text_of(event.get("delta"))
        if delta:
            self._slot(event, CallItem).arguments.append(delta)
        return []

    def _arguments_done(self, event: dict[str, Any]) -> list[StreamEvent]:
        self._slot(event, CallItem).settle({"arguments": event.get("arguments"), "name": event.get("name")})
        return []

    def _terminal(self, event: dict[str, Any]) -> list[StreamEvent]:
        """The last event: the state of the whole response."""
        response = object_of(event.get("response"))
        events = self._merged(response.get("output")) + self._note(response)
        named = text_of(event.get("type")).removeprefix("response.").replace("done", "completed")
        status = text_of(response.get("status"))
        self._status = status if status in _TERMINAL_STATUSES else named
        self._incomplete_reason = text_of(object_of(response.get("incomplete_details")).get("reason"))
        return events

    def _whole(self, document: dict[str, Any]) -> list[StreamEvent]:
        """A response object that was not streamed; one that still runs proves nothing."""
        status = text_of(document.get("status"))
        if status in _TERMINAL_STATUSES:
            return self._terminal({"response": document, "type": status})
        return self._merged(document.get("output")) + self._note(document)

    _HANDLERS: ClassVar[dict[str, Callable[[ResponsesAssembler, dict[str, Any]], list[StreamEvent]]]] = {
        "response.output_text.delta": _text_delta,
        "response.function_call_arguments.delta": _arguments_delta,
        "response.reasoning_summary_text.delta": _summary_delta,
        "response.reasoning_text.delta": _reasoning_delta,
        "response.refusal.delta": _refusal_delta,
        "response.created": _noted,
        "response.queued": _noted,
        "response.in_progress": _noted,
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.output_text.done": _text_done,
        "response.output_text.annotation.added": _annotation,
        "response.refusal.done": _refusal_done,
        "response.reasoning_summary_text.done": _summary_done,
        "response.reasoning_summary_part.done": _summary_done,
        "response.reasoning_text.done": _reasoning_done,
        "response.function_call_arguments.done": _arguments_done,
        "response.completed": _terminal,
        "response.incomplete": _terminal,
        "response.done": _terminal,
        "response.failed": _terminal,
    }

    def _slot(self, event: dict[str, Any], kind: type[Item]) -> Item:
        """The item an event belongs to, opened by the first event that names it.

        Items are told apart by `output_index`, because some endpoints draw a
        new `item_id` for every event; without an index by that id, and without
        either it is the last item of its kind.
        """
        index = event.get("output_index")
        if isinstance(index, int):
            known = self._by_index.get(index)
            return known if isinstance(known, kind) else self._opened(kind, index)
        identity = text_of(event.get("item_id")) or text_of(object_of(event.get("item")).get("id"))
        for item in reversed(self._items):
            if isinstance(item, kind) and (item.id == identity or not identity):
                return item
        opened = self._opened(kind, -1 - len(self._items))
        opened.id = identity
        return opened

    def _opened(self, kind: type[Item], index: int) -> Item:
        item = kind()
        self._items.append(item)
        self._by_index[index] = item
        return item

    def _settle(self, slot: OutputItem, item: dict[str, Any]) -> list[StreamEvent]:
        slot.id = text_of(item.get("id")) or slot.id
        return slot.settle(item)

    def _merged(self, output: Any) -> list[StreamEvent]:
        """The final items: they complete what was streamed and add what was not streamed at all."""
        events: list[StreamEvent] = []
        streamed = {item.kind for item in self._items if item.has_content}
        for index, item in enumerate(objects_of(output)):
            kind = ITEM_KINDS.get(text_of(item.get("type")))
            if kind is None:
                continue
            slot = self._known(kind, index, item)
            if slot is not None:
                slot.id = slot.id or text_of(item.get("id"))
                events += slot.settle(item)
            elif kind is CallItem or kind.kind not in streamed:
                events += self._settle(self._opened(kind, index), item)
        return events

    def _known(self, kind: type[OutputItem], index: int, item: dict[str, Any]) -> OutputItem | None:
        """The streamed item a final one is, by the id of its call, its own id, or its place."""
        candidates = [known for known in self._items if isinstance(known, kind)]
        if kind is CallItem:
            call_id = text_of(item.get("call_id"))
            same = (known for known in candidates if isinstance(known, CallItem) and known.call_id == call_id)
            return next(same, None) if call_id else self._at(index, kind)
        identity = text_of(item.get("id"))
        return next((known for known in candidates if identity and known.id == identity), self._at(index, kind))

    def _at(self, index: int, kind: type[OutputItem]) -> OutputItem | None:
        known = self._by_index.get(index)
        return known if isinstance(known, kind) else None

    def _note(self, response: dict[str, Any]) -> list[StreamEvent]:
        self._served_model = text_of(response.get("model")) or self._served_model
        self._response_id = text_of(response.get("id")) or self._response_id
        return self._reported.take(response.get("usage"))

    def _ending(self, has_calls: bool) -> tuple[TerminalReason, str | None]:
        """Why the answer ended, and words for it where the reason alone says too little."""
        refusal = "".join(_refusals(self._items))
        if refusal:
            return TerminalReason.CONTENT_FILTER, f"the model refused: {refusal}"
        if self._incomplete_reason in _INCOMPLETE_REASONS:
            return _INCOMPLETE_REASONS[self._incomplete_reason], None
        if self._status == "cancelled":
            return TerminalReason.CANCELLED, "the provider says that the answer was cancelled"
        if self._incomplete_reason or self._status in ("incomplete", "failed"):
            said = self._incomplete_reason or self._status
            return TerminalReason.PROVIDER_ERROR, f"the provider ended the answer as {said!r}"
        return (TerminalReason.TOOL_USE if has_calls else TerminalReason.STOP), None

    def _parts(self) -> tuple[LlmPart, ...]:
        """The items as parts. Ids of messages and calls only count beside encrypted reasoning: it refers to them."""
        keeps_ids = any(isinstance(item, ReasoningItem) and item.encrypted for item in self._items)
        parts: list[LlmPart] = []
        ids = CallIds(self._request_id)
        for item in self._items:
            match item:
                case MessageItem():
                    parts += self._prose(item, keeps_ids)
                case ReasoningItem():
                    text, replay = "".join(item.shown), item.replay(self._route)
                    parts += [ReasoningPart(text, replay)] if text or replay else []
                case CallItem() if item.has_content:
                    replay = ReasoningReplay(self._route, item.id) if keeps_ids and item.id else None
                    parts.append(ToolCallPart(ids.of(item.call_id), item.name, "".join(item.arguments) or "{}", replay))
        return tuple(parts)

    def _prose(self, message: MessageItem, keeps_id: bool) -> Iterator[ProsePart]:
        """One part per text block, so that annotations keep their offsets."""
        for _, block in sorted(message.blocks.items()):
            if not block.pieces:
                continue
            meta: dict[str, Any] = {}
            if keeps_id and message.id:
                meta["item_id"] = message.id
            if message.phase:
                meta["phase"] = message.phase
            if block.annotations:
                meta["annotations"] = block.annotations
            yield ProsePart("".join(block.pieces), {**meta, "provider": self._route} if meta else None)

    def _end(self) -> str:
        return self._status


def _refusals(items: list[OutputItem]) -> Iterator[str]:
    for item in items:
        if isinstance(item, MessageItem):
            for _, block in sorted(item.blocks.items()):
                yield from block.refusal
