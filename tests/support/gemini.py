"""Answers of a Gemini endpoint, and one attempt against them."""

from __future__ import annotations

from typing import Any

import pytest
from support.clock import ManualClock
from support.wire import Reply, ScriptedTransport, stream_reply
from support.wires import wire

from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.llm import LlmRequest, LlmResponse, LlmScope, StreamEvent
from lash_cli.core.policy import ModelSpec
from lash_cli.errors import LlmTransportError
from lash_cli.providers.endpoint import HttpProvider

BASE = "http://test.invalid/v1beta"
ROUTE = f"{BASE} test-model"
KEY = "top-secret-key-0001"


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


def request(*messages: Message, **fields: Any) -> LlmRequest:
    """A request for a test model."""
    user = Message("m1", Role.USER, (TextPart("hello"),))
    scope = LlmScope("s", "s:turn:t:llm:0")
    known: dict[str, Any] = {"model": ModelSpec("test-model"), "messages": messages or (user,), "scope": scope}
    return LlmRequest(**known | fields)


async def ask(
    *replies: Reply | LlmTransportError, of: LlmRequest | None = None, **options: Any
) -> tuple[LlmResponse, list[StreamEvent]]:
    """One attempt: the answer and what it showed."""
    events: list[StreamEvent] = []

    async def sink(event: StreamEvent) -> None:
        events.append(event)

    provider = HttpProvider(wire("google", BASE, KEY), ScriptedTransport(*replies), clock=ManualClock(), **options)
    return await provider.complete(of or request(), sink), events


async def failure(*replies: Reply | LlmTransportError, **options: Any) -> LlmTransportError:
    """One attempt that fails, without the key in what it says."""
    with pytest.raises(LlmTransportError) as caught:
        await ask(*replies, **options)
    assert KEY not in repr((caught.value, caught.value.message, caught.value.raw))
    return caught.value
