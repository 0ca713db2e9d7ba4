"""The Anthropic Messages wire over real sockets: chunking, resets, half-closes, silence (contract 06 §11, §16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.anthropic import calls_reply, cut_reply, error_document, start, stream_reply, text_block, text_reply
from support.clock import LIMIT_S, ManualCancel, ManualClock, settle
from support.wire import ChatServer, Reply, error_reply
from support.wires import HELLO, Shown

from lash_cli.core.llm import AttemptReset, LlmCallResult, RetryStatus
from lash_cli.core.usage import TokenUsage
from lash_cli.providers.catalog import ProviderSettings, build_caller

pytestmark = pytest.mark.usefixtures("no_proxy")


class Called(Shown):
    """One call against scripted replies: its result, what it showed, and what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(auto_advance=True)
        self.requests: list[Any] = []
        self.result: LlmCallResult


async def call(*replies: Reply, silence: Callable[[], None] | None = None, **options: Any) -> Called:
    """Call once; `silence` is called when the first text was shown and nothing else came."""
    called = Called()
    async with ChatServer(replies) as server:
        base_url = server.base_url.removesuffix("/v1")
        known = {"retry_after_output": "reset", "jitter": 0.0}
        settings = ProviderSettings("test", "anthropic", base_url, "key-0001", known | options)
        caller = build_caller(settings, clock=called.clock, ids_bits=lambda _: 0)
        try:
            calling = asyncio.ensure_future(caller.call(HELLO, sink=called.sink, cancel=ManualCancel()))
            if silence is not None:
                await called.heard.wait()
                await settle()
                silence()
            called.result = await calling
        finally:
            await caller.aclose()
        called.requests = server.requests
    return called


async def test_an_answer_crosses_the_network() -> None:
    called = await call(text_reply("one two"), cache_retention="none")
    assert called.result.response.full_text == called.text == "one two"
    (request,) = called.requests
    assert (request.method, request.path) == ("POST", "/v1/messages")
    assert request.headers["x-api-key"] == "key-0001"
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert request.json == {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        "max_tokens": 32_768,
        "model": "test-model",
        "stream": True,
    }


async def test_bytes_dripping_one_by_one_give_the_same_answer() -> None:
    reply = calls_reply([("ls", {"p": "zoë"}), ("cat", {"n": 1})], text="ça va")
    expected = await call(reply)
    assert len(expected.result.response.tool_calls) == 2
    dripped = await call(reply.dripping())
    assert dripped.result.response == expected.result.response


@pytest.mark.parametrize(
    "cut",
    [
        cut_reply("half", ending="reset"),
        cut_reply("half", ending="half_close"),
        cut_reply("half", ending="complete"),
        cut_reply("half", ending="complete", framing="close"),
    ],
    ids=["reset", "half close", "proper end", "silent end"],
)
async def test_a_stream_cut_before_its_proof_is_retracted_asked_again_and_paid_for(cut: Reply) -> None:
    called = await call(cut, text_reply("whole"))
    assert called.result.response.full_text == called.text == "whole"
    one, following = called.requests
    assert one.body == following.body
    failed, completed = called.result.record.attempts
    assert (failed.outcome, completed.outcome) == ("failed", "completed")
    assert failed.evidence.served_model == "served-model"
    assert called.result.record.usage == TokenUsage(20, 6)


async def test_silence_in_the_middle_is_a_timeout_and_is_asked_again(pass_time: Callable[[], None]) -> None:
    silent = stream_reply(start(), *text_block(0, "half")[:2], ending="hang")
    called = await call(silent, text_reply("late"), silence=pass_time, chunk_timeout_seconds=LIMIT_S)
    failed, _ = called.result.record.attempts
    assert (failed.error.kind, failed.error.code) == ("timeout", "read_timeout")
    assert called.text == "late"


async def test_an_answer_ends_with_its_proof_even_if_the_connection_stays_open() -> None:
    reply = text_reply("done")
    called = await call(Reply(reply.chunks, 200, reply.headers, ending="hang"), chunk_timeout_seconds=30.0)
    assert called.result.response.full_text == "done"
    assert len(called.result.record.attempts) == 1


async def test_a_throttle_waits_as_told_and_consumes_no_attempt() -> None:
    throttle = error_reply(429, error_document("rate_limit_error"), {"retry-after": "7"})
    called = await call(throttle, text_reply("ok"), max_attempts=1)
    assert called.clock.slept == [7]
    assert called.result.response.full_text == "ok"
    reset, wait = called.events[:2]
    assert isinstance(wait, RetryStatus)
    assert (reset, wait.wait_ms, wait.attempt) == (AttemptReset(), 7000, 1)


async def test_an_overload_in_the_middle_of_a_stream_is_asked_again() -> None:
    overloaded = stream_reply(start(), *text_block(0, "half")[:2], error_document("overloaded_error", "Overloaded"))
    called = await call(overloaded, text_reply("whole"))
    failed, _ = called.result.record.attempts
    assert (failed.error.code, failed.protocol_position) == ("overloaded_error", "output_started")
    assert called.text == "whole"
