"""Answers of an Anthropic Messages endpoint, for tests that need one that behaves in a certain way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from support.wire import Ending, Framing, Reply, json_reply

HEADERS = {"content-type": "text/event-stream; charset=utf-8", "request-id": "req_test"}
USAGE = {"input_tokens": 10, "output_tokens": 1}


def framed(documents: Iterable[Any]) -> tuple[bytes, ...]:
    """Events as this provider frames them: each names its type twice. A string is sent as it is."""
    events = []
    for document in documents:
        text = document if isinstance(document, str) else json.dumps(document)
        kind = document.get("type", "x") if isinstance(document, dict) else "x"
        events.append(f"event: {kind}\ndata: {text}\n\n".encode())
    return tuple(events)


def stream_reply(*documents: Any, ending: Ending = "complete", framing: Framing = "chunked") -> Reply:
    """A 200 event stream with one network chunk per event."""
    return Reply(framed(documents), 200, dict(HEADERS), ending=ending, framing=framing)


def start(usage: dict[str, Any] | None = None, **message: Any) -> dict[str, Any]:
    """The event a message begins with."""
    head = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "served-model"}
    return {
        "type": "message_start",
        "message": {**head, "stop_reason": None, "stop_sequence": None, "usage": usage or USAGE, **message},
    }


def opened(index: int, kind: str, **content: Any) -> dict[str, Any]:
    """The event a content block begins with."""
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **content}}


def delta(index: int, kind: str, **content: Any) -> dict[str, Any]:
    """An event a content block grows by."""
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", **content}}


def closed(index: int) -> dict[str, Any]:
    """The event a content block ends with."""
    return {"type": "content_block_stop", "index": index}


def text_block(index: int, *pieces: str) -> list[dict[str, Any]]:
    """The events of a text block."""
    return [opened(index, "text", text=""), *(delta(index, "text", text=piece) for piece in pieces), closed(index)]


def call_block(index: int, name: str, arguments: Any, identity: str | None = None) -> list[dict[str, Any]]:
    """The events of a call, its arguments (text or JSON) in two deltas."""
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
    head = opened(index, "tool_use", id=f"toolu_{index}" if identity is None else identity, name=name, input={})
    pieces = ("", raw[: len(raw) // 2], raw[len(raw) // 2 :])
    return [head, *(delta(index, "input_json", partial_json=piece) for piece in pieces), closed(index)]


def thinking_block(index: int, *pieces: str, signature: str = "sig") -> list[dict[str, Any]]:
    """The events of a signed thinking block."""
    grown = [delta(index, "thinking", thinking=piece) for piece in pieces]
    signed = [delta(index, "signature", signature=signature)] if signature else []
    return [opened(index, "thinking", thinking="", signature=""), *grown, *signed, closed(index)]


def ended(stop_reason: str | None = "end_turn", *, output: int = 5, **usage: Any) -> list[dict[str, Any]]:
    """The two events a message ends with."""
    return [
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": None},
            "usage": {"output_tokens": output, **usage},
        },
        {"type": "message_stop"},
    ]


def text_reply(text: str, *, stop_reason: str = "end_turn", usage: dict[str, Any] | None = None) -> Reply:
    """An answer of `text`, streamed word by word, with a ping in it."""
    words = [f"{word} " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    block = text_block(0, *words)
    return stream_reply(start(usage), block[0], {"type": "ping"}, *block[1:], *ended(stop_reason))


def calls_reply(calls: Sequence[tuple[str, Any]], *, text: str = "") -> Reply:
    """An answer of calls `(name, arguments)`, after `text` if there is some."""
    blocks = text_block(0, text) if text else []
    first = 1 if text else 0
    for index, (name, arguments) in enumerate(calls, first):
        blocks += call_block(index, name, arguments)
    return stream_reply(start(), *blocks, *ended("tool_use"))


def cut_reply(text: str = "half an ans", *, ending: Ending = "reset", framing: Framing = "chunked") -> Reply:
    """A stream that shows `text` and breaks off."""
    return stream_reply(start(), *text_block(0, text)[:2], ending=ending, framing=framing)


def whole_reply(*content: dict[str, Any], stop_reason: str | None = "end_turn", **message: Any) -> Reply:
    """The same kind of answer in one document."""
    document = start(message.pop("usage", None), **message)["message"] | {"content": list(content)}
    return json_reply(document | {"stop_reason": stop_reason}, headers={"request-id": "req_test"})


def error_document(kind: str, message: str = "scripted failure") -> dict[str, Any]:
    """An error as this provider writes it, in a body or in a stream."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_failed"}
