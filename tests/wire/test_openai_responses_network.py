"""The Responses wire over real sockets: chunking, resets, half-closes, silence after the end (contract 06 §16, §17)."""

from __future__ import annotations

from typing import Any

import pytest
from support.clock import ManualCancel, ManualClock
from support.responses import Answer, call, message, reasoning, usage_of
from support.wire import ChatServer, Reply, error_reply, stream_reply
from support.wires import HELLO, Shown

from lash_cli.core.llm import LlmCallResult
from lash_cli.core.usage import TokenUsage
from lash_cli.providers.catalog import ProviderSettings, build_caller

pytestmark = pytest.mark.usefixtures("no_proxy")

RICH = Answer(reasoning("hm"), message("ça va"), call("ls", '{"p": "zoë"}'), usage=usage_of(100, 7, cached=40))


async def run(*replies: Reply, **options: Any) -> tuple[LlmCallResult, str, ChatServer]:
    """The result of one call, the text a terminal would show in the end, and the server."""
    shown = Shown()
    async with ChatServer(replies) as server:
        settings = ProviderSettings("test", "openai_responses", server.base_url, "key-0001", options)
        clock = ManualClock(auto_advance=True)
        caller = build_caller(settings, clock=clock, ids_bits=lambda _: 0)
        result = await caller.call(HELLO, sink=shown.sink, cancel=ManualCancel())
        await caller.aclose()
    return result, shown.text, server


async def test_an_answer_crosses_the_network() -> None:
    result, visible, server = await run(RICH.streamed(), key_header="api-key", query={"api-version": "v1"})
    assert result.response is not None
    assert result.response.full_text == visible == "ça va"
    assert result.response.usage == TokenUsage(60, 7, 40)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/responses?api-version=v1")
    assert request.headers["api-key"] == "key-0001"
    assert request.json["input"][0]["content"] == [{"type": "input_text", "text": "hello"}]


async def test_bytes_dripping_one_by_one_give_the_same_answer() -> None:
    # without reasoning: its replay data names the port of the server
    plain = Answer(*RICH.items[1:], usage=RICH.usage).streamed()
    expected, _, _ = await run(plain)
    dripped, visible, _ = await run(plain.dripping())
    assert dripped.response == expected.response
    assert visible == "ça va"


@pytest.mark.parametrize(
    ("ending", "framing"),
    [("reset", "chunked"), ("half_close", "chunked"), ("complete", "chunked"), ("complete", "close")],
    ids=["reset", "half close", "proper end", "silent end"],
)
async def test_a_stream_cut_before_its_terminal_event_is_retracted_and_asked_again(ending: Any, framing: Any) -> None:
    cut = stream_reply(*Answer(message("half")).events()[:-1], done=False, ending=ending, framing=framing)
    result, visible, server = await run(cut, Answer(message("whole")).streamed(), retry_after_output="reset")
    assert result.response is not None
    assert result.response.full_text == visible == "whole"
    assert server.requests[0].body == server.requests[1].body
    assert [attempt.outcome for attempt in result.record.attempts] == ["failed", "completed"]


@pytest.mark.parametrize("ending", ["reset", "half_close", "hang"])
async def test_what_happens_after_the_terminal_event_does_not_matter(ending: Any) -> None:
    result, visible, _ = await run(Answer(message("done")).streamed(ending=ending))
    assert result.response is not None
    assert (result.response.full_text, visible, len(result.record.attempts)) == ("done", "done", 1)


async def test_a_failed_response_is_paid_for_and_asked_again() -> None:
    details = {"code": "server_error", "message": "The model failed to generate a response."}
    failed = Answer(status="failed", error=details, usage=usage_of(7, 2)).streamed()
    result, _, _ = await run(failed, Answer(message("ok"), usage=usage_of(3, 1)).streamed())
    assert result.record.usage == TokenUsage(10, 3)
    assert [attempt.evidence.provider_finish_reason for attempt in result.record.attempts if attempt.evidence] == [
        "failed",
        "completed",
    ]


@pytest.mark.parametrize(
    ("status", "code", "kind", "requests"),
    [(401, "invalid_api_key", "auth", 1), (429, "insufficient_quota", "quota", 1), (500, "server_error", "http", 4)],
)
async def test_a_refusal_ends_the_call_or_is_asked_again_by_what_it_says(
    status: int, code: str, kind: str, requests: int
) -> None:
    refused = error_reply(status, {"error": {"message": "no: key-0001", "code": code, "type": None}})
    result, _, server = await run(*(refused for _ in range(4)))
    assert result.error is not None
    assert (result.error.kind, result.error.code, len(server.requests)) == (kind, code, requests)
    assert "key-0001" not in repr(result)
