"""The wire over real sockets: chunking, resets, half-closes, silence (contract 06 §11, §16)."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.clock import LIMIT_S, ManualCancel, ManualClock, settle
from support.wire import (
    ChatServer,
    Reply,
    ThreadedChatServer,
    cut_reply,
    error_reply,
    hang_reply,
    html_reply,
    sse,
    text_reply,
    tool_calls_reply,
)
from support.wires import HELLO, Shown

from lash_cli.core.content import ProsePart
from lash_cli.core.llm import (
    AttemptReset,
    DeliberateStop,
    LlmCallResult,
    RetryStatus,
    StreamEvent,
)
from lash_cli.core.protocols import ModelCaller
from lash_cli.core.usage import TokenUsage
from lash_cli.providers import answer_reader
from lash_cli.providers.catalog import ProviderSettings, build_caller

pytestmark = pytest.mark.usefixtures("no_proxy")


class Client(Shown):
    """A caller of one server, and everything it showed."""

    def __init__(self, base_url: str, **options: Any) -> None:
        super().__init__()
        self.clock = ManualClock(auto_advance=True)
        self.cancel = ManualCancel()
        settings = ProviderSettings("test", "openai_chat", base_url, "key-0001", options)
        self.caller: ModelCaller = build_caller(settings, clock=self.clock, ids_bits=lambda _: 0)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.caller.aclose()

    async def call(self) -> LlmCallResult:
        return await self.caller.call(HELLO, sink=self.sink, cancel=self.cancel)


async def run(*replies: Reply, **options: Any) -> tuple[LlmCallResult, Client, ChatServer]:
    async with ChatServer(replies) as server, Client(server.base_url, **options) as client:
        return await client.call(), client, server


async def test_an_answer_crosses_the_network() -> None:
    result, client, server = await run(text_reply("one two"))
    assert result.response.full_text == client.text == "one two"
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == "Bearer key-0001"
    assert request.json["messages"] == [{"role": "user", "content": "hello"}]


async def test_bytes_dripping_one_by_one_give_the_same_answer() -> None:
    reply = tool_calls_reply([("ls", {"p": "zoë"})], text="ça va")
    expected, _, _ = await run(reply)
    assert len(expected.response.tool_calls) == 1
    dripped, _, _ = await run(reply.dripping())
    assert dripped.response == expected.response


async def test_one_connection_serves_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_reader, "DRAIN_SECONDS", LIMIT_S)  # the end of an answer may take its time to arrive
    async with ChatServer([text_reply(f"answer {i}") for i in range(3)]) as server, Client(server.base_url) as client:
        for i in range(3):
            assert (await client.call()).response.full_text == f"answer {i}"
        assert server.connections == 1


every_cut = pytest.mark.parametrize(
    "cut",
    [
        cut_reply("half", ending="reset"),
        cut_reply("half", ending="half_close"),
        cut_reply("half", ending="complete"),
        cut_reply("half", ending="complete", framing="close"),
    ],
    ids=["reset", "half close", "proper end", "silent end"],
)


@every_cut
async def test_a_stream_cut_after_output_is_an_error_and_is_not_asked_again(cut: Reply) -> None:
    # Contract 06 §3.2, §18: whoever watched has seen half an answer, which another attempt does not continue.
    result, client, server = await run(cut, text_reply("whole"))
    assert result.response is None
    assert (result.error.code, result.error.retryable) == ("unsafe_retry_after_output_started", False)
    assert client.text == "half"
    assert len(server.requests) == 1


@every_cut
async def test_a_stream_cut_before_its_proof_is_retracted_and_asked_again_where_the_host_says_so(cut: Reply) -> None:
    result, client, server = await run(cut, text_reply("whole"), retry_after_output="reset")
    assert result.response.full_text == "whole"
    assert client.text == "whole"
    assert len(server.requests) == 2
    assert server.requests[0].body == server.requests[1].body
    assert [a.outcome for a in result.record.attempts] == ["failed", "completed"]


async def test_a_stream_that_is_cut_every_time_is_an_error_not_an_answer() -> None:
    result, client, _ = await run(*(cut_reply("half") for _ in range(4)), retry_after_output="reset", jitter=0.0)
    assert result.response is None
    assert result.error.kind == "transport"
    assert client.clock.slept == [2, 4, 8]


async def test_a_reset_after_the_proof_is_an_answer() -> None:
    reply = text_reply("done")
    proof_end = reply.body.index(b"\n\n", reply.body.index(b'"stop"')) + 2
    result, _, _ = await run(Reply((reply.body[:proof_end],), ending="reset"))
    assert result.response.full_text == "done"
    assert len(result.record.attempts) == 1


@pytest.mark.parametrize("limit", ["chunk_timeout_seconds", "request_timeout_seconds"])
async def test_a_proof_without_its_blank_line_counts_when_the_time_is_up(
    limit: str, pass_time: Callable[[], None]
) -> None:
    # Contract 06 §9.5: a trailing event is flushed at a time-out, whichever runs out first.
    reply = text_reply("done")
    proof_end = reply.body.index(b"\n\n", reply.body.index(b'"stop"'))
    silent = Reply((reply.body[:proof_end],), ending="hang")
    async with ChatServer([silent]) as server, Client(server.base_url, **{limit: LIMIT_S}) as client:
        calling = asyncio.create_task(client.call())
        await client.heard.wait()
        await settle()
        pass_time()
        result = await calling
    assert result.response.full_text == "done"
    assert len(result.record.attempts) == 1


async def test_a_proof_behind_text_that_was_not_taken_does_not_count_when_the_time_is_up(
    pass_time: Callable[[], None],
) -> None:
    # Contract 06 §5: a sink that is slow may hold one event while others wait behind it.
    reply = text_reply("one two three")
    proof_end = reply.body.index(b"\n\n", reply.body.index(b'"stop"'))
    silent = Reply((reply.body[:proof_end],), ending="hang")
    held = asyncio.Event()

    async def hold(event: StreamEvent) -> None:
        held.set()
        await asyncio.Event().wait()

    limits = {"request_timeout_seconds": LIMIT_S, "max_attempts": 1}
    async with ChatServer([silent]) as server, Client(server.base_url, **limits) as client:
        calling = asyncio.create_task(client.caller.call(HELLO, sink=hold, cancel=client.cancel))
        await held.wait()
        pass_time()
        result = await calling
    assert result.response is None, "an answer with a gap in it"
    assert result.error.kind == "timeout"


async def test_an_error_without_its_blank_line_is_told_and_not_that_there_was_no_end() -> None:
    said = sse({"error": {"message": "the model is resting", "code": 503}}, done=False).rstrip()
    result, _, _ = await run(Reply((said,)), max_attempts=1)
    assert (result.error.kind, result.error.message) == ("http", "the provider reported: the model is resting")


NEVER_ENDING_EVENT = (b"data: ", *(b"x" * (1 << 20) for _ in range(9)))


async def test_a_call_that_had_begun_before_an_event_without_an_end_is_asked_for_again_and_is_evidence() -> None:
    # Contract 06 §5: a call that was cut is never executed, and nobody was shown anything of it.
    begun = tool_calls_reply([("ls", {"p": "x"})]).chunks[:3]
    result, _, _ = await run(Reply(begun + NEVER_ENDING_EVENT), text_reply("whole"))
    assert result.response.parts == (ProsePart("whole"),)
    attempt, _ = result.record.attempts
    assert attempt.protocol_position == "output_started"
    assert (attempt.evidence.served_model, attempt.evidence.provider_response_id) == ("served-model", "chatcmpl-1")


async def test_an_event_without_an_end_behind_the_proof_takes_nothing_back() -> None:
    result, _, _ = await run(Reply(text_reply("done").chunks[:-2] + NEVER_ENDING_EVENT))
    assert result.response.full_text == "done"


@pytest.mark.parametrize(
    ("reply", "options", "code"),
    [
        (hang_reply(), {"chunk_timeout_seconds": LIMIT_S}, "response_start_timeout"),
        (hang_reply("half"), {"chunk_timeout_seconds": LIMIT_S}, "read_timeout"),
        (hang_reply("half"), {"request_timeout_seconds": LIMIT_S}, "request_timeout"),
        (hang_reply(), {"request_timeout_seconds": LIMIT_S}, "request_timeout"),
    ],
    ids=["no status line", "no next chunk", "too long in all", "no status line within all"],
)
async def test_silence_is_a_timeout_and_is_asked_again(
    reply: Reply, options: dict[str, Any], code: str, pass_time: Callable[[], None]
) -> None:
    options = {**options, "retry_after_output": "reset"}
    async with ChatServer([reply, text_reply("late")]) as server, Client(server.base_url, **options) as client:
        calling = asyncio.create_task(client.call())
        await server.wait_for_requests(1)
        if reply.answers:
            await client.heard.wait()
        await settle()
        pass_time()
        result = await calling
    first, second = result.record.attempts
    assert (first.error.kind, first.error.code, first.error.retryable) == ("timeout", code, True)
    assert next(iter(options)) in first.error.message, "a server may just be slow, and this is what allows it more"
    assert second.outcome == "completed"
    assert client.text == "late"


async def test_a_refused_connection_is_a_transport_failure() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}/v1", max_attempts=2) as client:
        result = await client.call()
    assert (result.error.kind, result.error.code) == ("transport", "connect_error")
    assert [a.protocol_position for a in result.record.attempts] == ["no_response"] * 2


async def test_a_throttle_waits_as_told_and_consumes_no_attempt() -> None:
    result, client, _ = await run(error_reply(429, headers={"retry-after": "7"}), text_reply("ok"), max_attempts=1)
    assert client.clock.slept == [7]
    assert result.response.full_text == "ok"
    assert client.events[:2] == [AttemptReset(), RetryStatus(7000, 1, 1, "provider_retry_after: quota")]


@pytest.mark.parametrize(("asked", "waited"), [("0", 0), ("7", 7), ("900", 60)])
async def test_a_failure_that_says_when_to_come_back_is_waited_for_up_to_the_cap(asked: str, waited: int) -> None:
    result, client, _ = await run(error_reply(503, headers={"retry-after": asked}), text_reply("ok"))
    assert client.clock.slept == [waited]
    assert result.response.full_text == "ok"
    assert result.record.attempts[0].retry_budget_consumed


async def test_a_web_page_ends_the_call_with_a_plain_reason() -> None:
    result, _, server = await run(html_reply(), text_reply("never"))
    assert "HTML page instead of a chat completion" in result.error.message
    assert len(server.requests) == 1


async def test_a_redirect_is_not_followed() -> None:
    result, _, server = await run(error_reply(302, "", {"location": "http://127.0.0.1:1/v1"}))
    assert "http://127.0.0.1:1/v1" in result.error.message
    assert len(server.requests) == 1


async def test_cancel_closes_the_connection_in_the_middle_of_a_stream() -> None:
    async with ChatServer([hang_reply("half")]) as server, Client(server.base_url) as client:
        shown = asyncio.Event()

        async def sink(event: StreamEvent) -> None:
            client.events.append(event)
            shown.set()

        running = asyncio.create_task(client.caller.call(HELLO, sink=sink, cancel=client.cancel))
        await shown.wait()
        client.cancel.set()
        result = await running
    assert result.error.code == "cancelled"
    (attempt,) = result.record.attempts
    assert (attempt.outcome, attempt.protocol_position) == ("aborted", "output_started")
    assert (attempt.evidence.served_model, attempt.evidence.provider_response_id) == ("served-model", "chatcmpl-1")
    assert attempt.evidence.provider_request_id == "req_test"


async def test_a_deliberate_stop_cuts_the_stream_and_what_had_arrived_is_the_answer() -> None:
    async with ChatServer([hang_reply("enough")]) as server, Client(server.base_url) as client:

        async def sink(event: StreamEvent) -> None:
            raise DeliberateStop

        result = await client.caller.call(HELLO, sink=sink, cancel=client.cancel)
    assert (result.error, result.response.full_text) == (None, "enough")
    (attempt,) = result.record.attempts
    assert (attempt.outcome, attempt.evidence.served_model) == ("interrupted", "served-model")


async def test_what_a_cut_attempt_reported_is_paid_for() -> None:
    body = text_reply("x").body.replace(b'"finish_reason": "stop"', b'"finish_reason": null')
    result, _, _ = await run(Reply((body,)), text_reply("y"), retry_after_output="reset")
    assert result.record.usage == TokenUsage(20, 10)


def test_a_server_in_a_thread_serves_other_processes() -> None:
    with ThreadedChatServer([text_reply("hi")]) as server:
        program = (
            "import sys, urllib.request as u;"
            "u.install_opener(u.build_opener(u.ProxyHandler({})));"
            "sys.stdout.write(u.urlopen(sys.argv[1] + '/chat/completions', b'{\"a\": 1}').read().decode())"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program, server.base_url], capture_output=True, text=True, check=True
        )
        server.wait_for_requests(1)
        assert server.requests[0].json == {"a": 1}
    assert ran.stdout.endswith("data: [DONE]\n\n")
