"""Events of the Responses wire as an endpoint streams them, and the same answers whole.

`Answer` collects output items; `events()` is how they are streamed, `whole()`
how they are sent without streaming. Both say the same.
"""

from __future__ import annotations

import itertools
from typing import Any

from support.wire import Reply, json_reply, stream_reply

TERMINAL = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}


def usage_of(input_tokens: int = 10, output_tokens: int = 5, *, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """A usage object of this wire."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": input_tokens + output_tokens,
    }


def message(*texts: str, identity: str = "msg_1", **more: Any) -> dict[str, Any]:
    """A finished output message; each text is a block."""
    content = [{"annotations": [], "text": text, "type": "output_text"} for text in texts]
    return {
        "content": content,
        "id": identity,
        "role": "assistant",
        "status": "completed",
        "type": "message",
        **more,
    }


def refusal(text: str) -> dict[str, Any]:
    """A finished output message that refuses."""
    return message() | {"content": [{"refusal": text, "type": "refusal"}]}


def reasoning(*summary: str, identity: str = "rs_1", encrypted: str | None = "blob") -> dict[str, Any]:
    """A finished reasoning item."""
    texts = [{"text": text, "type": "summary_text"} for text in summary]
    return {"encrypted_content": encrypted, "id": identity, "summary": texts, "type": "reasoning"}


def call(name: str, arguments: str, *, call_id: str = "call_1", identity: str = "fc_1") -> dict[str, Any]:
    """A finished function call."""
    return {
        "arguments": arguments,
        "call_id": call_id,
        "id": identity,
        "name": name,
        "status": "completed",
        "type": "function_call",
    }


class Answer:
    """One response: its items, its usage and how it ends."""

    def __init__(
        self,
        *items: dict[str, Any],
        usage: dict[str, Any] | None = None,
        status: str = "completed",
        reason: str | None = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        self.items = items
        self.usage = usage or usage_of()
        self.status = status
        self.reason = reason
        self.error = error

    def document(self, **more: Any) -> dict[str, Any]:
        """The response object in its final state."""
        known = {
            "error": self.error,
            "id": "resp_1",
            "incomplete_details": {"reason": self.reason} if self.reason else None,
            "model": "served-model",
            "object": "response",
            "output": list(self.items),
            "status": self.status,
            "usage": self.usage,
        }
        return known | more

    def events(self) -> list[dict[str, Any]]:
        """The stream, texts and arguments cut in two, with sequence numbers."""
        running = {"error": None, "output": [], "status": "in_progress", "usage": None}
        events = [
            {"type": "response.created", "response": self.document(**running)},
            {"type": "response.in_progress", "response": self.document(**running)},
        ]
        for index, item in enumerate(self.items):
            events += _item_events(index, item)
        events.append({"type": TERMINAL[self.status], "response": self.document()})
        return [event | {"sequence_number": number} for number, event in enumerate(events)]

    def streamed(self, **how: Any) -> Reply:
        """The stream as a reply; this wire has no end marker."""
        return stream_reply(*self.events(), done=False, **how)

    def whole(self) -> Reply:
        """The response object as a reply."""
        return json_reply(self.document())


def _item_events(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    place = {"item_id": item["id"], "output_index": index}
    empty = {"message": {"content": []}, "reasoning": {"summary": []}, "function_call": {"arguments": ""}}
    added = item | empty.get(item["type"], {}) | {"status": "in_progress"}
    events = [{"type": "response.output_item.added", "output_index": index, "item": added}]
    match item["type"]:
        case "message":
            for at, block in enumerate(item["content"]):
                events += _block_events(place | {"content_index": at}, block)
        case "reasoning":
            for at, part in enumerate(item["summary"]):
                events += _summary_events(place | {"summary_index": at}, part["text"])
        case "function_call":
            for piece in _halves(item["arguments"]):
                events.append({"type": "response.function_call_arguments.delta", **place, "delta": piece})
            events.append({"type": "response.function_call_arguments.done", **place, "arguments": item["arguments"]})
    return [*events, {"type": "response.output_item.done", "output_index": index, "item": item}]


def _block_events(place: dict[str, Any], block: dict[str, Any]) -> list[dict[str, Any]]:
    kind, member = ("output_text", "text") if block["type"] == "output_text" else ("refusal", "refusal")
    empty = block | {member: ""}
    events = [{"type": "response.content_part.added", **place, "part": empty}]
    events += [{"type": f"response.{kind}.delta", **place, "delta": piece} for piece in _halves(block[member])]
    for number, annotation in enumerate(block.get("annotations", ())):
        name = "response.output_text.annotation.added"
        events.append({"type": name, **place, "annotation_index": number, "annotation": annotation})
    events.append({"type": f"response.{kind}.done", **place, member: block[member]})
    return [*events, {"type": "response.content_part.done", **place, "part": block}]


def _summary_events(place: dict[str, Any], text: str) -> list[dict[str, Any]]:
    part = {"type": "summary_text", "text": text}
    name = "response.reasoning_summary"
    return [
        {"type": f"{name}_part.added", **place, "part": part | {"text": ""}},
        *({"type": f"{name}_text.delta", **place, "delta": piece} for piece in _halves(text)),
        {"type": f"{name}_text.done", **place, "text": text},
        {"type": f"{name}_part.done", **place, "part": part},
    ]


def _halves(text: str) -> list[str]:
    edges = (0, len(text) // 2, len(text))
    return [text[start:end] for start, end in itertools.pairwise(edges) if start < end]
