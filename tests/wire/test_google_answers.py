"""Conformance of the Gemini wire: what is read from an answer (contract 06 §9.4, §5, §17)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.gemini import ROUTE, ask, call, document, failure, streamed, text, usage_of
from support.wire import Reply, error_reply, html_reply, json_reply
from support.wires import KEY, request

from lash_cli.core.content import Message, ProsePart, ReasoningPart, ReasoningReplay, Role, ToolCallPart, ToolResultPart
from lash_cli.core.llm import (
    ExecutionEvidence,
    LlmResponse,
    LlmScope,
    ReasoningDelta,
    TerminalReason,
    TextDelta,
    UsageReported,
)
from lash_cli.core.policy import ModelCapability, ModelSpec
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LlmTransportError


def signed(signature: str) -> ReasoningReplay:
    return ReasoningReplay(provider=ROUTE, signature=signature)


async def test_a_plain_answer_streams_and_is_proved() -> None:
    response, events = await ask(
        streamed(document(text("one ")), document(text("two"), finish="STOP", usage=usage_of(11, 3)))
    )
    assert response == LlmResponse(
        parts=(ProsePart("one two"),),
        usage=TokenUsage(11, 3),
        terminal_reason=TerminalReason.STOP,
        evidence=ExecutionEvidence("served-model", "resp_1", "req_test", None, "STOP"),
    )
    assert events == [TextDelta("one "), TextDelta("two"), UsageReported(TokenUsage(11, 3))]


async def test_splitting_the_answer_at_every_byte_changes_nothing() -> None:
    reply = streamed(
        document(text("hm \u2028", thought=True)),
        document(text("ça va 𝄞"), text("", thoughtSignature="Sig+/=")),
        document(call("ls", {"path": "zoë"}), call("cat"), finish="STOP", usage=usage_of()),
    )
    reply = Reply((reply.body.replace(b"\n", b"\r\n"),))
    expected, shown = await ask(reply, expose_thinking=True)
    assert len(expected.tool_calls) == 2
    for position in range(1, len(reply.body)):
        assert await ask(reply.split_at(position), expose_thinking=True) == (expected, shown), position
    assert await ask(reply.dripping(), expose_thinking=True) == (expected, shown)


async def test_calls_keep_their_order_and_get_stable_distinct_ids() -> None:
    reply = streamed(document(call("ls", {"b": 2, "a": 1}), call("ls", {"b": 3})), document(call("cat"), finish="STOP"))
    first, events = await ask(reply)
    again, _ = await ask(reply)
    assert [(c.tool_name, c.input_json) for c in first.tool_calls] == [
        ("ls", '{"a":1,"b":2}'),
        ("ls", '{"b":3}'),
        ("cat", "{}"),
    ]
    ids = [c.tool_call_id for c in first.tool_calls]
    assert len(set(ids)) == 3
    assert first == again
    assert first.terminal_reason is TerminalReason.TOOL_USE
    assert not any(isinstance(event, TextDelta) for event in events)


@pytest.mark.parametrize(("given", "expected"), [(["a"], '["a"]'), ("ls", '"ls"'), (False, "false"), (None, "{}")])
async def test_arguments_that_are_no_object_are_not_taken_for_none(given: Any, expected: str) -> None:
    part = {"functionCall": {"name": "ls", "args": given}}
    response, _ = await ask(streamed(document(part, finish="STOP")))
    assert response.tool_calls[0].input_json == expected


async def test_ids_differ_between_the_calls_of_a_session_and_given_ids_are_kept() -> None:
    reply = streamed(document(call("ls"), call("cat", id="gp737npz"), call("cat", id="gp737npz"), finish="STOP"))
    first, _ = await ask(reply)
    other, _ = await ask(reply, of=request(scope=LlmScope("s", "s:turn:t:llm:1")))
    assert [c.tool_call_id == "gp737npz" for c in first.tool_calls] == [False, True, False]
    assert first.tool_calls[0].tool_call_id != other.tool_calls[0].tool_call_id
    assert len({c.tool_call_id for c in first.tool_calls}) == 3


async def test_signatures_stay_where_they_stood() -> None:
    response, events = await ask(
        streamed(
            document(text("first")),
            document(text("", thoughtSignature="A")),
            document(text("second")),
            document(call("ls", signature="B"), call("cat"), finish="STOP"),
        )
    )
    ids = [c.tool_call_id for c in response.tool_calls]
    assert response.parts == (
        ProsePart("first"),
        ReasoningPart("", signed("A")),
        ProsePart("second"),
        ToolCallPart(ids[0], "ls", "{}", signed("B")),
        ToolCallPart(ids[1], "cat", "{}"),
    )
    assert events == [TextDelta("first"), TextDelta("second")]


async def test_a_signature_means_the_same_on_whole_text_and_behind_its_pieces() -> None:
    pieces, _ = await ask(streamed(document(text("a")), document(text("b")), document(text("", thoughtSignature="S"))))
    whole, _ = await ask(streamed(document(text("ab", thoughtSignature="S"))))
    assert pieces.parts == whole.parts == (ProsePart("ab"), ReasoningPart("", signed("S")))


async def test_thoughts_keep_their_place_and_are_shown_only_when_told() -> None:
    reply = streamed(
        document(text("h", thought=True)),
        document(text("m", thought=True, thoughtSignature="T")),
        document(text("hi"), finish="STOP", usage=usage_of(10, 5, thoughtsTokenCount=15)),
    )
    response, events = await ask(reply)
    assert response.parts == (ReasoningPart("hm", signed("T")), ProsePart("hi"))
    assert response.usage == TokenUsage(10, 20, 0, 0, 15)
    assert response.evidence.reasoning_output_tokens == 15
    assert events[0] == TextDelta("hi")
    _, events = await ask(reply, expose_thinking=True)
    assert events[:3] == [ReasoningDelta("h"), ReasoningDelta("m"), TextDelta("hi")]


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (usage_of(100, 7, cachedContentTokenCount=40), TokenUsage(60, 7, 40)),
        (usage_of(10, 7, cachedContentTokenCount=40), TokenUsage(0, 7, 40)),
        (usage_of(10, 5, thoughtsTokenCount=15), TokenUsage(10, 20, 0, 0, 15)),
        (usage_of(10, 5, toolUsePromptTokenCount=4), TokenUsage(14, 5)),
        ({"promptTokenCount": 3}, TokenUsage(3)),
        ({"promptTokenCount": "lots", "candidatesTokenCount": True}, TokenUsage()),
    ],
)
async def test_usage_buckets_do_not_overlap(usage: dict[str, Any], expected: TokenUsage) -> None:
    response, _ = await ask(streamed(document(text("x"), finish="STOP", usage=usage)))
    assert response.usage == expected


async def test_usage_is_cumulative_and_later_reports_overwrite() -> None:
    response, events = await ask(
        streamed(
            document(text("x"), usage=usage_of(5, 39, thoughtsTokenCount=186)),
            document(text("y"), finish="STOP", usage=usage_of(5, 44, thoughtsTokenCount=186)),
        )
    )
    assert response.usage == TokenUsage(5, 230, 0, 0, 186)
    assert [e for e in events if isinstance(e, UsageReported)] == [
        UsageReported(TokenUsage(5, 225, 0, 0, 186)),
        UsageReported(TokenUsage(5, 230, 0, 0, 186)),
    ]


async def test_reported_zero_reasoning_tokens_differ_from_none() -> None:
    reply = streamed(document(text("x"), finish="STOP", usage=usage_of(1, 1, thoughtsTokenCount=0)))
    response, _ = await ask(reply)
    assert response.evidence.reasoning_output_tokens == 0
    response, _ = await ask(streamed(document(text("x"), finish="STOP", usage=usage_of(1, 1))))
    assert response.evidence.reasoning_output_tokens is None


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("STOP", TerminalReason.STOP),
        ("MAX_TOKENS", TerminalReason.OUTPUT_LIMIT),
        ("SAFETY", TerminalReason.CONTENT_FILTER),
        ("RECITATION", TerminalReason.CONTENT_FILTER),
        ("BLOCKLIST", TerminalReason.CONTENT_FILTER),
        ("PROHIBITED_CONTENT", TerminalReason.CONTENT_FILTER),
        ("SPII", TerminalReason.CONTENT_FILTER),
        ("IMAGE_SAFETY", TerminalReason.CONTENT_FILTER),
        ("LANGUAGE", TerminalReason.PROVIDER_ERROR),
        ("OTHER", TerminalReason.PROVIDER_ERROR),
        ("A_REASON_OF_TOMORROW", TerminalReason.PROVIDER_ERROR),
    ],
)
async def test_finish_reasons_are_mapped(finish: str, expected: TerminalReason) -> None:
    response, _ = await ask(streamed(document(text("x"), finish=finish)))
    assert response.terminal_reason is expected
    assert response.evidence.provider_finish_reason == finish
    is_plain = expected in (TerminalReason.STOP, TerminalReason.OUTPUT_LIMIT)
    assert (response.terminal_diagnostic is None) is is_plain


@pytest.mark.parametrize("finish", ["MAX_TOKENS", "SAFETY", "LANGUAGE"])
async def test_a_call_never_hides_how_the_answer_ended(finish: str) -> None:
    response, _ = await ask(streamed(document(call("rm"), finish=finish)))
    assert response.terminal_reason not in (TerminalReason.TOOL_USE, TerminalReason.STOP)


async def test_what_the_provider_says_about_its_end_is_kept() -> None:
    said = document(finish="LANGUAGE")
    said["candidates"][0]["finishMessage"] = "not in this one"
    response, _ = await ask(streamed(said))
    assert response.terminal_diagnostic is not None
    assert response.terminal_diagnostic.endswith("'LANGUAGE': not in this one")


@pytest.mark.parametrize("finish", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
async def test_a_call_that_the_provider_could_not_read_can_be_asked_for_again(finish: str) -> None:
    said = document(finish=finish, usage=usage_of(5, 0))
    said["candidates"][0]["finishMessage"] = "Malformed function call: print(x)"
    error = await failure(streamed(said))
    assert (error.kind, error.code, error.retryable) == ("stream", "answer_given_up", True)
    assert error.message.endswith("Malformed function call: print(x)")
    assert error.partial.usage == TokenUsage(5)


async def test_a_blocked_prompt_is_a_content_filter_with_its_reason() -> None:
    blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 13}}
    response, _ = await ask(streamed(blocked))
    assert response.terminal_reason is TerminalReason.CONTENT_FILTER
    assert response.terminal_diagnostic == "the provider blocked the prompt: PROHIBITED_CONTENT"
    assert response.evidence.provider_finish_reason == "PROHIBITED_CONTENT"
    assert response.usage == TokenUsage(13)


async def test_the_end_of_a_stream_stands_for_a_missing_finish_reason() -> None:
    response, _ = await ask(streamed(document(text("all there is"), call("ls"), usage=usage_of())))
    assert response.terminal_reason is TerminalReason.TOOL_USE
    assert response.full_text == "all there is"
    assert response.evidence.provider_finish_reason is None


@pytest.mark.parametrize("model", [True, False], ids=["model", "endpoint"])
async def test_a_host_that_demands_the_proof_gets_an_error_with_what_had_arrived(model: bool) -> None:
    capability = ModelCapability(stream_termination="require")
    options: dict[str, Any] = (
        {"of": request(model=ModelSpec("m", capability=capability))} if model else {"termination": "require"}
    )
    error = await failure(streamed(document(text("half"), usage=usage_of(9, 1))), **options)
    assert (error.kind, error.code, error.retryable) == ("stream", "stream_ended_before_finish_reason", True)
    assert error.partial.parts == (ProsePart("half"),)
    assert error.partial.usage == TokenUsage(9, 1)
    assert error.partial.evidence.provider_response_id == "resp_1"
    assert error.protocol_position == "output_started"


async def test_a_connection_that_breaks_is_never_taken_for_an_end() -> None:
    error = await failure(streamed(document(text("half")), document(call("rm", {"path": "/"})), ending="reset"))
    assert (error.kind, error.retryable, error.partial.full_text) == ("transport", True, "half")
    assert len(error.partial.tool_calls) == 1


async def test_no_truncation_makes_a_call_out_of_half_of_one() -> None:
    body = streamed(document(text("x")), document(call("rm", {"path": "/tmp/a"}), finish="STOP")).body
    whole = len(body.rstrip(b"\n"))
    for end in range(whole):
        reply = Reply((body[:end],))
        try:
            response, _ = await ask(reply)
        except LlmTransportError as error:
            assert error.retryable, end
        else:
            assert response.tool_calls == (), end


async def test_a_broken_event_in_the_middle_of_a_stream_is_a_failure() -> None:
    body = streamed(document(text("x"))).body + b'data: {"candidates": [\n\n' + streamed(document(text("y"))).body
    error = await failure(Reply((body,)))
    assert (error.kind, error.code, error.retryable) == ("stream", "invalid_sse_json", True)


@pytest.mark.parametrize("wrapped", [False, True])
async def test_an_error_inside_the_stream_is_classified(wrapped: bool) -> None:
    embedded: dict[str, Any] = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
    error = await failure(streamed(document(text("x")), {"response": embedded} if wrapped else embedded))
    assert (error.kind, error.status, error.retryable) == ("http", 503, True)
    assert error.partial.full_text == "x"


async def test_an_answer_inside_a_wrapper_is_unwrapped() -> None:
    bare = [document(text("one")), document(call("ls"), finish="STOP", usage=usage_of())]
    wrapped = [{"response": inner, "traceId": "t"} for inner in bare]
    assert await ask(streamed(*wrapped)) == await ask(streamed(*bare))


@pytest.mark.parametrize(
    "odd",
    [
        {"candidates": None, "usageMetadata": "lots", "responseId": 7, "modelVersion": [], "promptFeedback": "x"},
        {"candidates": [None, {"index": 0, "content": "x", "finishReason": 3}]},
        {"candidates": [{"content": {"parts": [None, {"text": 5}, {"functionCall": "x"}, {"inlineData": {}}]}}]},
        {"candidates": [{"index": 1, "content": {"parts": [{"text": "of another candidate"}]}}]},
    ],
)
async def test_what_cannot_be_read_is_passed_over(odd: dict[str, Any]) -> None:
    response, _ = await ask(streamed(odd, document(text("ok"), finish="STOP")))
    assert response.parts == (ProsePart("ok"),)


async def test_a_finish_reason_with_every_document_ends_nothing_early() -> None:
    response, _ = await ask(streamed(*(document(text(word), finish="STOP") for word in ("The ", "backpack"))))
    assert response.full_text == "The backpack"


async def test_an_answer_that_is_not_streamed_is_the_same() -> None:
    parts = (text("hm", thought=True), text("hi"), call("ls", {"p": 1}, signature="S"))
    usage = usage_of(100, 7, cachedContentTokenCount=40, thoughtsTokenCount=15)
    whole = json_reply(document(*parts, finish="STOP", usage=usage))
    streamed_parts = streamed(*(document(part) for part in parts), document(finish="STOP", usage=usage))
    first, _ = await ask(whole, of=request(stream=False))
    second, _ = await ask(streamed_parts)
    assert first == second
    assert first.usage == TokenUsage(60, 22, 40, 0, 15)


async def test_an_empty_answer_is_a_retryable_failure() -> None:
    error = await failure(streamed(document(finish="STOP", usage=usage_of(4, 0))))
    assert (error.kind, error.code, error.retryable) == ("stream", "empty_response", True)
    assert (await failure(streamed(document(text("", thoughtSignature="S"), finish="STOP")))).code == "empty_response"
    assert (await failure(Reply(()))).code == "stream_ended_before_finish_reason"


async def test_an_empty_answer_after_a_tool_result_is_an_answer() -> None:
    result = Message("m2", Role.USER, (ToolResultPart("c1", "ls", "ok"),))
    response, _ = await ask(streamed(document(finish="STOP")), of=request(result))
    assert (response.parts, response.terminal_reason) == ((), TerminalReason.STOP)


async def test_a_cut_answer_without_a_word_is_returned_with_its_reason() -> None:
    usage = {"promptTokenCount": 20, "thoughtsTokenCount": 64, "totalTokenCount": 84}
    response, _ = await ask(streamed(document(finish="MAX_TOKENS", usage=usage)))
    assert response.terminal_reason is TerminalReason.OUTPUT_LIMIT
    assert response.usage == TokenUsage(20, 64, 0, 0, 64)


async def test_a_web_page_is_named_as_such() -> None:
    error = await failure(html_reply())
    assert (error.code, error.retryable) == ("unexpected_html", False)
    assert "generated content" in error.message


async def test_a_refused_request_shows_no_key() -> None:
    body = json.dumps({"error": {"code": 400, "message": f"API key {KEY} is odd", "status": "INVALID_ARGUMENT"}})
    error = await failure(error_reply(400, body))
    assert (error.kind, error.status, error.retryable) == ("validation", 400, False)
    assert "[redacted]" in error.message
