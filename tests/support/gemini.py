"""Answers of a Gemini endpoint, and an endpoint that gives them."""

from __future__ import annotations

from typing import Any

from support.wire import Reply, stream_reply
from support.wires import Endpoint

BASE = "http://test.invalid/v1beta"
ROUTE = f"{BASE} test-model"
_ENDPOINT = Endpoint("google", BASE)
ask, failure = _ENDPOINT.ask, _ENDPOINT.failure


def usage_of(prompt: int = 10, output: int = 5, **more: Any) -> dict[str, Any]:
    """A `usageMetadata`."""
    total = prompt + output + more.get("thoughtsTokenCount", 0)
    return {"promptTokenCount": prompt, "candidatesTokenCount": output, "totalTokenCount": total, **more}


def document(*parts: dict[str, Any], finish: str | None = None, usage: dict[str, Any] | None = None) -> dict[str, Any]:
    """One `GenerateContentResponse`; without parts and a finish reason it has no candidate."""
    made: dict[str, Any] = {"modelVersion": "served-model", "responseId": "resp_1"}
    if parts or finish:
        candidate: dict[str, Any] = {"index": 0}
        if parts:
            candidate["content"] = {"parts": list(parts), "role": "model"}
        if finish:
            candidate["finishReason"] = finish
        made["candidates"] = [candidate]
    if usage is not None:
        made["usageMetadata"] = usage
    return made


def text(value: str, **more: Any) -> dict[str, Any]:
    """A text part."""
    return {"text": value, **more}


def call(name: str, arguments: dict[str, Any] | None = None, *, signature: str = "", **more: Any) -> dict[str, Any]:
    """A part that calls a function."""
    part: dict[str, Any] = {"functionCall": {"name": name, "args": arguments or {}, **more}}
    return part | ({"thoughtSignature": signature} if signature else {})


def streamed(*documents: dict[str, Any], **options: Any) -> Reply:
    """Documents as a stream, which ends without a marker."""
    return stream_reply(*documents, done=False, **options)
