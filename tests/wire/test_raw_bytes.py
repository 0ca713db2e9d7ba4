"""What every wire makes of a server that is no good at HTTP: raw bytes on a real socket (contract 06 §11, §16)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from support.clock import ManualCancel, ManualClock

from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.llm import LlmCallResult, LlmRequest, LlmScope
from lash_cli.core.policy import ModelSpec
from lash_cli.core.protocols import EventSink
from lash_cli.providers import answer_reader, endpoint
from lash_cli.providers.catalog import KINDS, ProviderSettings, build_caller
from lash_cli.providers.models import CATALOGUE

pytestmark = pytest.mark.usefixtures("no_proxy")

HTTP_KINDS = sorted(KINDS.keys() - {"loopback"})
KEY = "canary-key-0001"
REQUEST = LlmRequest(
    model=ModelSpec("test-model"),
    messages=(Message("m", Role.USER, (TextPart("hello"),)),),
    scope=LlmScope("s", "s:turn:t:llm:0"),
    output_token_cap=64,
)
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@contextlib.asynccontextmanager
async def raw_server(pieces: Iterable[bytes], *, ending: str = "close") -> AsyncIterator[str]:
    """A server that reads a request and writes `pieces` as they are; yields its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.partition(b":")[2]))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.005)
            if ending == "reset":
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            elif ending == "hang":
                await asyncio.Event().wait()
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()

    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def call(kind: str, address: str, **options: Any) -> LlmCallResult:
    known = {"max_attempts": 1, "retry_after_output": "reset"}
    settings = ProviderSettings("raw", kind, address, KEY, known | options)
    caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)
    try:
        return await caller.call(REQUEST, sink=_ignored, cancel=ManualCancel())
    finally:
        await caller.aclose()


async def _nothing(event: object) -> None: ...


_ignored: EventSink = _nothing

# What the server writes before it breaks off, and how.
BEFORE_AN_ANSWER = {
    "nothing at all": ([], "close"),
    "a reset before a byte": ([], "reset"),
    "half a status line": ([b"HTTP/1.1 2"], "reset"),
    "no HTTP": ([b"220 mail.test ESMTP ready\r\n"], "close"),
    "a status line without a number": ([b"HTTP/1.1 OK\r\n\r\n"], "close"),
}
INSIDE_AN_ANSWER = {
    "a chunk size that is none": ([EVENTS + b"transfer-encoding: chunked\r\n\r\n", b"zz\r\n"], "close"),
    "a chunk shorter than it said": ([EVENTS + b"transfer-encoding: chunked\r\n\r\n", b"ff\r\ndata: {"], "close"),
    "a body shorter than it said": ([EVENTS + b"content-length: 500\r\n\r\n", b"data: {"], "close"),
    "a reset in the middle of an event": ([EVENTS + b"connection: close\r\n\r\n", b"data: {"], "reset"),
}


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("how", [*BEFORE_AN_ANSWER, *INSIDE_AN_ANSWER])
async def test_a_broken_connection_is_a_retryable_transport_failure(kind: str, how: str) -> None:
    pieces, ending = (BEFORE_AN_ANSWER | INSIDE_AN_ANSWER)[how]
    async with raw_server(pieces, ending=ending) as address:
        result = await call(kind, address)
    assert result.response is None
    assert (result.error.kind, result.error.retryable) == ("transport", True)
    assert not result.error.message.rstrip().endswith(":"), "a library that gives no reason is not quoted"
    (attempt,) = result.record.attempts
    assert attempt.protocol_position == ("no_response" if how in BEFORE_AN_ANSWER else "response_observed")
    assert KEY not in repr(result)


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_a_drip_that_never_ends_is_cut_by_the_limit_of_the_whole_call(kind: str) -> None:
    head = EVENTS + b"connection: close\r\n\r\n"
    async with raw_server(itertools.chain([head], itertools.repeat(b":"))) as address:
        result = await call(kind, address, request_timeout_seconds=0.15, chunk_timeout_seconds=30)
    assert (result.error.kind, result.error.code, result.error.retryable) == ("timeout", "request_timeout", True)


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_an_event_without_an_end_is_cut_by_its_size(kind: str) -> None:
    pieces = [EVENTS + b"connection: close\r\n\r\n", b"data: ", *(b"x" * (1 << 20) for _ in range(9))]
    async with raw_server(pieces, ending="hang") as address:
        result = await call(kind, address, chunk_timeout_seconds=30)
    assert (result.error.kind, result.error.code) == ("stream", "sse_event_too_large")


SAID = {
    "openai_chat": b'{"choices":[{"index":0,"delta":{"content":"and so on "}}]}',
    "openai_responses": b'{"type":"response.output_text.delta","item_id":"i","output_index":0,"delta":"and so on "}',
    "anthropic": b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"and so on "}}',
    "google": b'{"candidates":[{"content":{"role":"model","parts":[{"text":"and so on "}]}}]}',
}
BEGUN = {
    "openai_responses": b'{"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"i"}}',
    "anthropic": b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
}


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("what", ["text", "comments"])
async def test_an_answer_without_an_end_is_cut_by_its_size_and_not_asked_for_again(
    kind: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_reader, "MAX_ANSWER_BYTES", 1 << 17)
    head = EVENTS + b"connection: close\r\n\r\n"
    event = b"data: " + SAID[kind] + b"\n\n" if what == "text" else b": still there\n\n"
    begun = b"data: " + BEGUN[kind] + b"\n\n" if kind in BEGUN else b""
    pieces = itertools.chain([head, begun], itertools.repeat(event * 1000))
    async with raw_server(pieces) as address:
        result = await call(kind, address, max_attempts=3, chunk_timeout_seconds=30)
    assert result.response is None
    assert (result.error.kind, result.error.code, result.error.retryable) == ("stream", "answer_too_large", False)
    (attempt,) = result.record.attempts
    assert attempt.protocol_position == ("output_started" if what == "text" else "response_observed")


def test_the_longest_answers_of_the_catalogue_are_far_below_what_is_read() -> None:
    most_tokens = max(model.max_output_tokens or 0 for model in CATALOGUE.values())
    a_token_in_an_event = 400
    assert most_tokens * a_token_in_an_event * 2 <= answer_reader.MAX_ANSWER_BYTES


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("status", [204, 301, 418, 599])
async def test_an_answer_without_a_body_is_judged_by_its_status(kind: str, status: int) -> None:
    async with raw_server([b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status]) as address:
        result = await call(kind, address)
    assert (result.error.kind, result.error.status, result.error.retryable) == ("http", status, status >= 500)


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("media_type", [b"", b"content-type: application/json\r\n", EVENTS.partition(b"\r\n")[2]])
async def test_a_good_status_without_a_body_is_an_answer_that_broke_off(kind: str, media_type: bytes) -> None:
    async with raw_server([b"HTTP/1.1 200 OK\r\n" + media_type + b"content-length: 0\r\n\r\n"]) as address:
        result = await call(kind, address)
    assert (result.error.kind, result.error.retryable) == ("stream", True)
    assert result.error.code.startswith("stream_ended_before_")


DEEP = b'{"a":' * 50_000


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_an_event_nested_deeper_than_anybody_follows_is_a_stream_failure(kind: str) -> None:
    async with raw_server([EVENTS + b"connection: close\r\n\r\n", b"data: " + DEEP + b"\n\n"]) as address:
        result = await call(kind, address)
    assert (result.error.kind, result.error.code, result.error.retryable) == ("stream", "invalid_sse_json", True)


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"", DEEP),
        (b"retry-after: Wed, 99999999999999999999 Jan 2026 00:00:00 GMT\r\n", b""),
        (b"retry-after: Thu, 26 Nov 2026 07:00:00 +99999999999999\r\n", b""),
        (b"retry-after: 3\r\ndate: Wed, 99999999999999999999 Jan 2026 00:00:00 GMT\r\n", b""),
        (b"retry-after: " + "\u00b2\u0663".encode() + b"\r\n", b""),
    ],
)
async def test_nonsense_in_a_refusal_does_not_hide_its_status(kind: str, headers: bytes, body: bytes) -> None:
    head = b"HTTP/1.1 429 X\r\nconnection: close\r\n" + headers + b"\r\n"
    async with raw_server([head, body]) as address:
        result = await call(kind, address, throttle_wait_budget_ms=0)
    assert (result.error.kind, result.error.status, result.error.retryable) == ("quota", 429, True)


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("how", ["drips", "hangs"])
async def test_a_refusal_whose_body_never_ends_is_judged_by_what_came(
    kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "ERROR_BODY_SECONDS", 0.05)
    head = b"HTTP/1.1 429 X\r\nretry-after: 3\r\ncontent-length: 60000\r\n\r\n"
    pieces = itertools.chain([head], itertools.repeat(b"x") if how == "drips" else [])
    async with raw_server(pieces, ending="hang") as address:
        result = await call(kind, address, throttle_wait_budget_ms=0, chunk_timeout_seconds=30)
    assert (result.error.kind, result.error.status, result.error.retry_after_ms) == ("quota", 429, 3_000)


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize(
    ("name", "head", "body"),
    [
        ("request-id", b"HTTP/1.1 529 Overloaded\r\n", b""),
        ("x-request-id", b"HTTP/1.1 401 Unauthorized\r\n", b'{"error": {"message": "no"}}'),
        ("x-request-id", b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n", b"<html></html>"),
    ],
)
async def test_a_refused_attempt_keeps_what_the_provider_calls_it(
    kind: str, name: str, head: bytes, body: bytes
) -> None:
    named = f"connection: close\r\n{name}: req_from_{KEY}_1\r\n\r\n".encode()
    async with raw_server([head + named + body]) as address:
        result = await call(kind, address)
    (attempt,) = result.record.attempts
    assert attempt.outcome == "failed" and attempt.protocol_position == "response_observed"
    assert attempt.evidence.provider_request_id == "req_from_[redacted]_1"
