"""Playing a wire script through the real provider of its kind, as the runtime would build it.

One attempt and no wait: `catalog.build_caller` over a `WireScriptTransport`, or
over a socket that carries the script's bytes. The base URL is whatever makes
the wire's own path end up at the script's endpoint, so no table of paths is
written here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec
from support.clock import ManualCancel, ManualClock
from support.wire import ChatServer, Ending, Framing, Reply
from support.wire_player import WireScriptTransport
from support.wire_script import (
    Body,
    Disconnect,
    End,
    ExpectedError,
    HttpError,
    ResponseStart,
    TimedOut,
    WireScript,
)

from lash_cli.core.codec import decode, encode
from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.llm import (
    ExecutionEvidence,
    LlmRequest,
    LlmResponse,
    LlmScope,
    LlmToolSpec,
    ReasoningDelta,
    StreamEvent,
    TextDelta,
)
from lash_cli.core.policy import ModelSpec
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LlmTransportError
from lash_cli.providers.catalog import ProviderSettings, build_caller
from lash_cli.providers.http import HttpRequest, HttpResponse, HttpTransport

KEY = "canary-key-0001"
HOST = "http://wire.test"
ONE_ATTEMPT = {"max_attempts": 1, "throttle_wait_budget_ms": 0, "retry_after_output": "reset", "expose_thinking": True}
TOOLS = (
    LlmToolSpec("get_weather", "the weather of a place", {"type": "object", "properties": {"city": {}}}),
    LlmToolSpec("ls", "files of a directory", {"type": "object", "properties": {"path": {"type": "string"}}}),
)


@dataclass(frozen=True)
class Played:
    """What a provider made of one script, and what it showed on the way."""

    response: LlmResponse | None
    error: ExpectedError | None
    message: str
    position: str
    usage: TokenUsage
    evidence: ExecutionEvidence | None
    text_shown: str
    reasoning_shown: str


def request_of(script: WireScript, *, stream: bool = True) -> LlmRequest:
    """A plain request for the model the script was made with."""
    in_path = re.search("/models/([^/:]+):", script.endpoint.path)
    rule = script.request_match.body.get("/model")
    in_body = rule.equals if rule is not None else None
    model = in_path[1] if in_path else in_body if isinstance(in_body, str) else "test-model"
    return LlmRequest(
        model=ModelSpec(model),
        messages=(Message("m", Role.USER, (TextPart("hello"),)),),
        scope=LlmScope("s", "s:turn:t:llm:0"),
        system="be brief",
        tools=TOOLS,
        stream=stream,
    )


async def play(script: WireScript, *, cuts: Sequence[int] | None = None) -> Played:
    """Run one attempt against the script, its body cut at `cuts` instead of where the script cuts it."""
    transport = WireScriptTransport([script], cuts=cuts)
    played = await _attempt(script, request_of(script), transport, await _base_url(script))
    assert transport.remaining_scripts() == 0
    return played


async def play_whole(script: WireScript) -> Played:
    """Run one attempt that does not stream against the whole form of the script's answer."""
    assert script.expected_provider is not None
    request = request_of(script, stream=False)
    base_url = await _base_url(script)
    path = await _path(script, request, base_url)
    document = script.expected_provider.whole
    timeline = (ResponseStart(0, 200, {"content-type": "application/json"}), Body(0, document), End(0))
    changed = msgspec.structs.replace(
        script, endpoint=msgspec.structs.replace(script.endpoint, path=path), timeline=timeline
    )
    match = {pointer: rule for pointer, rule in script.request_match.body.items() if not pointer.startswith("/stream")}
    changed = msgspec.structs.replace(changed, request_match=msgspec.structs.replace(script.request_match, body=match))
    return await _attempt(changed, request, WireScriptTransport([changed]), base_url)


async def play_over_network(script: WireScript, *, cuts: Sequence[int], framing: Framing = "chunked") -> Played:
    """Run one attempt against a server on 127.0.0.1 that writes the script's bytes, cut at `cuts`."""
    prefix = (await _base_url(script)).removeprefix(HOST)
    async with ChatServer([_reply_of(script, cuts, framing)]) as server:
        root = server.base_url.removesuffix("/v1")
        played = await _attempt(script, request_of(script), None, root + prefix)
        (sent,) = server.requests
    assert (sent.method, sent.path) == (script.endpoint.method, script.endpoint.path)
    if played.response is None:
        return played
    # Replay data names its route: here the address of the moment.
    response = decode(encode(played.response).replace(root.encode(), HOST.encode()), LlmResponse)
    return dataclasses.replace(played, response=response)


def _reply_of(script: WireScript, cuts: Sequence[int], framing: Framing) -> Reply:
    """What a server writes to play a script in which an answer begins."""
    head, last = script.timeline[0], script.timeline[-1]
    assert isinstance(head, ResponseStart | HttpError)
    ending: Ending = "hang" if isinstance(last, TimedOut) else "reset" if isinstance(last, Disconnect) else "complete"
    whole = Reply((script.body,), head.status, dict(head.headers), ending, framing)
    return whole.split_at(*sorted(set(cuts)))


async def _attempt(script: WireScript, request: LlmRequest, transport: HttpTransport | None, base_url: str) -> Played:
    events: list[StreamEvent] = []

    async def sink(event: StreamEvent) -> None:
        events.append(event)

    options: dict[str, Any] = ONE_ATTEMPT | (script.expected_provider.options if script.expected_provider else {})
    settings = ProviderSettings("scripted", script.provider_kind, base_url, KEY, options)
    caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0, transport=transport)
    result = await caller.call(request, sink=sink, cancel=ManualCancel())
    await caller.aclose()
    (attempt,) = result.record.attempts
    failed = attempt.error
    message = failed.message if failed else ""
    if failed and failed.code in ("wire_script_mismatch", "wire_script_exhausted"):
        raise AssertionError(message)
    assert KEY not in repr((result, events))
    return Played(
        response=result.response,
        error=None
        if failed is None
        else ExpectedError(
            failed.kind,
            failed.code or "",
            failed.retryable,
            failed.status,
            failed.terminal_reason.value,
            failed.retry_after_ms,
        ),
        message=message,
        position=attempt.protocol_position,
        usage=attempt.usage,
        evidence=attempt.evidence,
        text_shown="".join(event.text for event in events if isinstance(event, TextDelta)),
        reasoning_shown="".join(event.text for event in events if isinstance(event, ReasoningDelta)),
    )


class _Probe:
    """A transport that only notes where a request goes."""

    def __init__(self) -> None:
        self.path = ""

    async def send(self, request: HttpRequest, *, start_timeout: float | None) -> HttpResponse:
        parts = urlsplit(request.url)
        self.path = parts.path + (f"?{parts.query}" if parts.query else "")
        raise LlmTransportError("only asked where it goes", kind="transport", code="probe")

    async def aclose(self) -> None: ...


async def _path(script: WireScript, request: LlmRequest, base_url: str) -> str:
    """The path the wire asks for `request` below `base_url`."""
    probe = _Probe()
    await _attempt(script, request, probe, base_url)
    return probe.path


_base_urls: dict[tuple[str, str, str, str], str] = {}


async def _base_url(script: WireScript) -> str:
    request = request_of(script)
    options = repr(script.expected_provider and script.expected_provider.options)
    key = (script.provider_kind, script.endpoint.path, request.model.id, options)
    if key not in _base_urls:
        suffix = await _path(script, request, HOST)
        assert suffix and script.endpoint.path.endswith(suffix), f"{script.name}: the wire asks for {suffix}"
        _base_urls[key] = HOST + script.endpoint.path.removesuffix(suffix)
    return _base_urls[key]
