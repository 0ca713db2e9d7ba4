"""The Gemini wire over real sockets: chunking, resets, half-closes, silence, ends without a word (contract 06 §16)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.clock import LIMIT_S, ManualCancel, ManualClock, settle
from support.gemini import call, document, streamed, text, usage_of
from support.wire import ChatServer, Reply, error_reply, hang_reply
from support.wires import HELLO, KEY, Shown

from lash_cli.core.llm import LlmCallResult
from lash_cli.core.usage import TokenUsage
from lash_cli.providers.catalog import ProviderSettings, build_caller

pytestmark = pytest.mark.usefixtures("no_proxy")

ANSWER = streamed(document(text("one ")), document(text("two"), finish="STOP", usage=usage_of()))
HALF = streamed(document(text("half"), usage=usage_of(10, 1)))


def ending(reply: Reply, how: Any, framing: Any = "chunked") -> Reply:
    return Reply(reply.chunks, reply.status, reply.headers, how, framing)


async def run(
    *replies: Reply,
    meanwhile: Callable[[ChatServer, asyncio.Event], Awaitable[None]] | None = None,
    **options: Any,
) -> tuple[LlmCallResult, str, ChatServer]:
    """Call once: the result, the text a terminal would show in the end, and the server.

    `meanwhile` runs beside the call; its event is set when the first text was shown.
    """
    shown = Shown()
    async with ChatServer(replies) as server:
        base_url = server.base_url.removesuffix("/v1") + "/v1beta"
        settings = ProviderSettings("gemini", "google", base_url, KEY, {"retry_after_output": "reset"} | options)
        caller = build_caller(settings, clock=ManualClock(auto_advance=True), ids_bits=lambda _: 0)
        try:
            calling = asyncio.ensure_future(caller.call(HELLO, sink=shown.sink, cancel=ManualCancel()))
            if meanwhile is not None:
                await meanwhile(server, shown.heard)
            result = await calling
        finally:
            await caller.aclose()
    return result, shown.text, server


async def test_an_answer_crosses_the_network_and_the_key_stays_out_of_the_address() -> None:
    result, shown, server = await run(ANSWER)
    assert result.response.full_text == shown == "one two"
    (request,) = server.requests
    assert request.path == "/v1beta/models/test-model:streamGenerateContent?alt=sse"
    assert request.headers["x-goog-api-key"] == KEY
    assert "authorization" not in request.headers
    assert request.json == {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}


async def test_bytes_dripping_one_by_one_give_the_same_answer() -> None:
    reply = streamed(document(text("ça ")), document(call("ls", {"p": "zoë"}), finish="STOP"))
    expected, _, _ = await run(reply)
    dripped, _, _ = await run(reply.dripping())
    assert len(expected.response.tool_calls) == 1
    assert dripped.response == expected.response


@pytest.mark.parametrize("how", ["reset", "half_close"])
async def test_a_stream_that_breaks_is_retracted_and_asked_again(how: str) -> None:
    result, shown, server = await run(ending(HALF, how), ANSWER)
    assert result.response.full_text == shown == "one two"
    assert [attempt.outcome for attempt in result.record.attempts] == ["failed", "completed"]
    assert server.requests[0].body == server.requests[1].body
    assert result.record.usage == TokenUsage(20, 6), "what the broken attempt reported is paid for"


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_stream_that_ends_without_a_finish_reason_is_taken_as_it_is(framing: str) -> None:
    result, shown, server = await run(ending(HALF, "complete", framing))
    assert result.response.full_text == shown == "half"
    assert result.record.attempts[0].evidence.provider_finish_reason is None
    assert len(server.requests) == 1


async def test_a_stream_that_ends_while_the_model_thinks_is_no_answer_and_is_asked_again() -> None:
    thinking = streamed(document({"text": "a long thought", "thought": True}))
    result, shown, _ = await run(thinking, ANSWER)
    assert shown == "one two"
    assert result.record.attempts[0].error.code == "stream_ended_before_finish_reason"


async def test_an_endpoint_that_must_prove_its_answers_is_asked_again() -> None:
    result, shown, _ = await run(ending(HALF, "complete"), ANSWER, stream_termination="require")
    assert shown == "one two"
    assert result.record.attempts[0].error.code == "stream_ended_before_finish_reason"


@pytest.mark.parametrize("how", ["reset", "half_close"])
async def test_a_break_after_the_finish_reason_is_an_answer(how: str) -> None:
    result, shown, _ = await run(ending(ANSWER, how))
    assert result.response.full_text == shown == "one two"
    assert len(result.record.attempts) == 1


async def test_silence_is_a_timeout_and_is_asked_again(pass_time: Callable[[], None]) -> None:
    async def meanwhile(server: ChatServer, heard: asyncio.Event) -> None:
        await server.wait_for_requests(1)
        await settle()
        pass_time()
        await heard.wait()
        await settle()
        pass_time()

    replies = (hang_reply(), ending(HALF, "hang"), ANSWER)
    result, shown, _ = await run(*replies, meanwhile=meanwhile, chunk_timeout_seconds=LIMIT_S)
    assert [attempt.error and attempt.error.code for attempt in result.record.attempts] == [
        "response_start_timeout",
        "read_timeout",
        None,
    ]
    assert shown == "one two"


async def test_a_throttle_says_how_long_in_its_body() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3.5s"}]
    body = {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED", "details": details}}
    result, shown, _ = await run(error_reply(429, body), ANSWER, max_attempts=1)
    assert shown == "one two"
    first = result.record.attempts[0]
    assert (first.error.kind, first.retry_decision.delay_ms, first.retry_budget_consumed) == ("quota", 3500, False)
