"""Conformance of the Anthropic Messages wire: what is read from an answer (contract 06 §9.3, §5, §17)."""

from __future__ import annotations

from typing import Any

import pytest
from support.anthropic import (
    call_block,
    calls_reply,
    closed,
    cut_reply,
    delta,
    ended,
    error_document,
    framed,
    opened,
    start,
    stream_reply,
    text_block,
    text_reply,
    thinking_block,
    whole_reply,
)
from support.wire import Reply, error_reply, html_reply, json_reply
from support.wires import KEY, Endpoint, request

from lash_cli.core.content import (
    Message,
    ProsePart,
    ReasoningPart,
    ReasoningReplay,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import (
    EvidenceReported,
    ExecutionEvidence,
    LlmResponse,
    ReasoningDelta,
    StreamEvent,
    TerminalReason,
    TextDelta,
    UsageReported,
)
from lash_cli.core.policy import ModelCapability, ModelSpec
from lash_cli.core.usage import TokenUsage

BASE_URL = "http://test.invalid"
ROUTE = f"{BASE_URL}/v1/messages"
USER = Message("m1", Role.USER, (TextPart("hello"),))
ENDPOINT = Endpoint("anthropic", BASE_URL)
ask, failure = ENDPOINT.ask, ENDPOINT.failure
RESULT = Message("m2", Role.USER, (ToolResultPart("c1", "ls", "ok"),))


def shown(events: list[StreamEvent]) -> list[StreamEvent]:
    return [event for event in events if isinstance(event, TextDelta | ReasoningDelta)]


async def test_a_plain_answer_streams_and_is_proved() -> None:
    response, events = await ask(text_reply("one two three"))
    assert response == LlmResponse(
        parts=(ProsePart("one two three"),),
        usage=TokenUsage(10, 5),
        terminal_reason=TerminalReason.STOP,
        evidence=ExecutionEvidence("served-model", "msg_1", "req_test", None, "end_turn"),
    )
    assert events == [
        EvidenceReported(ExecutionEvidence("served-model", "msg_1", "req_test")),
        UsageReported(TokenUsage(10, 1)),
        TextDelta("one "),
        TextDelta("two "),
        TextDelta("three"),
        UsageReported(TokenUsage(10, 5)),
    ]


def rich_reply() -> Reply:
    return stream_reply(
        start({"input_tokens": 3, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 7, "output_tokens": 1}),
        {"type": "ping"},
        *thinking_block(0, "hm ", "zoë/𝄞"),
        opened(1, "redacted_thinking", data="blob"),
        closed(1),
        *text_block(2, "ça \u2028", " va"),
        *call_block(3, "ls", {"path": "zoë/𝄞"}),
        *call_block(4, "cat", {"n": 1}),
        *ended("tool_use", output=90, output_tokens_details={"thinking_tokens": 15}),
    )


RICH = (
    ReasoningPart("hm zoë/𝄞", ReasoningReplay(provider=ROUTE, signature="sig")),
    ReasoningPart("", ReasoningReplay(provider=ROUTE, encrypted_content="blob", redacted=True)),
    ProsePart("ça \u2028 va"),
    ToolCallPart("toolu_3", "ls", '{"path": "zo\\u00eb/\\ud834\\udd1e"}'),
    ToolCallPart("toolu_4", "cat", '{"n": 1}'),
)


async def test_everything_an_answer_can_hold_is_read_in_wire_order() -> None:
    response, _ = await ask(rich_reply())
    assert response.parts == RICH
    assert response.terminal_reason is TerminalReason.TOOL_USE
    assert response.usage == TokenUsage(3, 90, 40, 7, 15)
    assert response.evidence.reasoning_output_tokens == 15


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
async def test_splitting_the_answer_at_every_byte_changes_nothing(line_end: bytes) -> None:
    reply = rich_reply()
    reply = Reply((reply.body.replace(b"\n", line_end),), 200, reply.headers)
    expected = await ask(reply, expose_thinking=True)
    assert expected[0].parts == RICH
    for position in range(1, len(reply.body)):
        assert await ask(reply.split_at(position), expose_thinking=True) == expected, position
    assert await ask(reply.dripping(), expose_thinking=True) == expected


async def test_deltas_of_interleaved_blocks_find_their_block() -> None:
    response, _ = await ask(
        stream_reply(
            start(),
            opened(0, "tool_use", id="a", name="ls", input={}),
            opened(1, "tool_use", id="b", name="cat", input={}),
            delta(0, "input_json", partial_json='{"p":'),
            delta(1, "input_json", partial_json='{"f":2'),
            delta(0, "input_json", partial_json="1}"),
            delta(1, "input_json", partial_json="}"),
            *ended("tool_use"),
        )
    )
    assert response.tool_calls == (ToolCallPart("a", "ls", '{"p":1}'), ToolCallPart("b", "cat", '{"f":2}'))


async def test_the_input_a_call_begins_with_counts_only_where_none_is_streamed() -> None:
    response, _ = await ask(
        stream_reply(
            start(),
            opened(0, "tool_use", id="a", name="ls", input={"b": 2, "a": 1}),
            closed(0),
            opened(1, "tool_use", id="b", name="ls", input={}),
            closed(1),
            opened(2, "tool_use", id="c", name="ls", input={"x": 1}),
            delta(2, "input_json", partial_json='{"y":2}'),
            closed(2),
            *ended("tool_use"),
        )
    )
    assert [call.input_json for call in response.tool_calls] == ['{"a":1,"b":2}', "{}", '{"y":2}']


async def test_missing_and_repeated_call_ids_get_stable_distinct_ones() -> None:
    def reply() -> Reply:
        blocks = [
            event for index, identity in enumerate(["", "x", "x"]) for event in call_block(index, "ls", {}, identity)
        ]
        return stream_reply(start(), *blocks, *ended("tool_use"))

    first, _ = await ask(reply())
    assert first == (await ask(reply()))[0]
    ids = [call.tool_call_id for call in first.tool_calls]
    assert len(set(ids)) == 3
    assert ids[1] == "x"


async def test_unparsable_arguments_are_kept_as_sent() -> None:
    response, _ = await ask(calls_reply([("ls", '{"path": oops')]))
    assert response.tool_calls[0].input_json == '{"path": oops'


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [
        ("end_turn", TerminalReason.STOP),
        ("stop_sequence", TerminalReason.STOP),
        ("pause_turn", TerminalReason.STOP),
        ("tool_use", TerminalReason.STOP),
        ("max_tokens", TerminalReason.OUTPUT_LIMIT),
        ("model_context_window_exceeded", TerminalReason.CONTEXT_OVERFLOW),
        ("refusal", TerminalReason.CONTENT_FILTER),
        ("safety", TerminalReason.CONTENT_FILTER),
        ("sensitive", TerminalReason.CONTENT_FILTER),
        ("weird", TerminalReason.PROVIDER_ERROR),
    ],
)
async def test_stop_reasons_are_mapped(stop_reason: str, expected: TerminalReason) -> None:
    response, _ = await ask(text_reply("x", stop_reason=stop_reason))
    assert response.terminal_reason is expected
    assert response.evidence.provider_finish_reason == stop_reason
    assert (response.terminal_diagnostic is None) == (expected in (TerminalReason.STOP, TerminalReason.OUTPUT_LIMIT))


async def test_calls_cut_by_the_output_limit_keep_that_reason() -> None:
    response, _ = await ask(stream_reply(start(), *call_block(0, "rm", '{"p')[:-1], *ended("max_tokens")))
    assert response.terminal_reason is TerminalReason.OUTPUT_LIMIT


async def test_calls_decide_over_a_stop_reason_that_forgets_them() -> None:
    response, _ = await ask(stream_reply(start(), *call_block(0, "ls", {}), *ended("end_turn")))
    assert response.terminal_reason is TerminalReason.TOOL_USE


async def test_a_refusal_is_a_content_filter_with_its_explanation() -> None:
    stop, proof = ended("refusal")
    stop["delta"]["stop_details"] = {"type": "refusal", "category": "cyber", "explanation": "not this"}
    response, _ = await ask(stream_reply(start(), stop, proof))
    assert response.terminal_reason is TerminalReason.CONTENT_FILTER
    assert response.terminal_diagnostic == "the model refused: not this"


async def test_usage_buckets_do_not_overlap() -> None:
    usage = {"input_tokens": 60, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 9, "output_tokens": 1}
    response, _ = await ask(text_reply("x", usage=usage))
    assert response.usage == TokenUsage(60, 5, 40, 9)


async def test_later_usage_overwrites_only_what_it_reports() -> None:
    response, events = await ask(
        stream_reply(
            start({"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": 1}),
            *text_block(0, "x"),
            *ended(
                output=20, input_tokens=0, cache_read_input_tokens=None, output_tokens_details={"thinking_tokens": 15}
            ),
        )
    )
    assert response.usage == TokenUsage(60, 20, 40, 0, 15)
    assert [event.usage.output_tokens for event in events if isinstance(event, UsageReported)] == [1, 20]


async def test_reported_zero_reasoning_tokens_differ_from_none() -> None:
    none, _ = await ask(text_reply("x"))
    zero, _ = await ask(text_reply("x", usage={"output_tokens_details": {"thinking_tokens": 0}}))
    assert (none.evidence.reasoning_output_tokens, zero.evidence.reasoning_output_tokens) == (None, 0)


async def test_reasoning_keeps_its_place_and_is_shown_only_when_told() -> None:
    reply = stream_reply(start(), *thinking_block(0, "h", "m"), *text_block(1, "hi"), *ended())
    response, events = await ask(reply)
    assert response.parts == (ReasoningPart("hm", ReasoningReplay(provider=ROUTE, signature="sig")), ProsePart("hi"))
    assert shown(events) == [TextDelta("hi")]
    _, events = await ask(reply, expose_thinking=True)
    assert shown(events) == [ReasoningDelta("h"), ReasoningDelta("m"), TextDelta("hi")]


async def test_omitted_thinking_keeps_its_signature_and_unsigned_thinking_has_none() -> None:
    reply = stream_reply(
        start(), *thinking_block(0), *thinking_block(1, "x", signature=""), *text_block(2, "y"), *ended()
    )
    response, _ = await ask(reply)
    assert response.parts[:2] == (
        ReasoningPart("", ReasoningReplay(provider=ROUTE, signature="sig")),
        ReasoningPart("x"),
    )


async def test_blocks_and_deltas_of_no_interest_are_ignored() -> None:
    reply = stream_reply(
        start(),
        opened(0, "server_tool_use", id="s", name="web_search", input={}),
        delta(0, "input_json", partial_json='{"q":1}'),
        closed(0),
        opened(1, "text", text="early "),
        delta(1, "citations", citation={"cited_text": "x"}),
        delta(1, "text", text="late"),
        {"type": "something_new", "delta": {"text": "x"}},
        *ended(),
    )
    response, events = await ask(reply)
    assert response.parts == (ProsePart("early late"),)
    assert shown(events) == [TextDelta("early "), TextDelta("late")]


async def test_a_delta_of_another_kind_than_its_block_changes_nothing() -> None:
    reply = stream_reply(
        start(),
        opened(0, "tool_use", id="a", name="ls", input={}),
        delta(0, "text", text="stray"),
        delta(0, "input_json", partial_json='{"p":1}'),
        opened(1, "text", text=""),
        delta(1, "thinking", thinking="stray"),
        delta(1, "text", text="x"),
        *ended("tool_use"),
    )
    response, events = await ask(reply, expose_thinking=True)
    assert response.parts == (ToolCallPart("a", "ls", '{"p":1}'), ProsePart("x"))
    assert shown(events) == [TextDelta("x")]


async def test_text_whose_block_was_never_opened_is_text_all_the_same() -> None:
    reply = stream_reply(
        start(),
        delta(0, "input_json", partial_json="{}"),
        delta(1, "thinking", thinking="hm"),
        delta(2, "text", text="x"),
        *ended(),
    )
    response, _ = await ask(reply)
    assert response.parts == (ReasoningPart("hm"), ProsePart("x"))


async def test_a_stream_without_message_stop_is_never_an_answer() -> None:
    error = await failure(stream_reply(start(), *text_block(0, "half"), ended()[0]))
    assert (error.kind, error.code, error.retryable) == ("stream", "stream_ended_before_message_stop", True)
    assert error.partial.parts == (ProsePart("half"),)
    assert error.partial.usage == TokenUsage(10, 5)
    assert error.partial.evidence == ExecutionEvidence("served-model", "msg_1", "req_test", None, "end_turn")
    assert error.protocol_position == "output_started"


async def test_message_stop_without_a_start_proves_nothing() -> None:
    error = await failure(stream_reply(*text_block(0, "x"), *ended()))
    assert (error.code, error.retryable) == ("stream_ended_before_message_stop", True)


async def test_every_truncation_before_the_proof_is_a_retryable_failure() -> None:
    reply = calls_reply([("rm", {"path": "/"})])
    for end in range(reply.body.index(b'"message_stop"}')):
        error = await failure(Reply((reply.body[:end],), 200, reply.headers))
        assert (error.kind, error.retryable) == ("stream", True), end


async def test_what_follows_the_proof_does_not_matter() -> None:
    body = text_reply("x").body
    for more in (b"", b"data: {not json\n\n", framed([error_document("overloaded_error")])[0]):
        response, _ = await ask(Reply((body, more), 200, {"content-type": "text/event-stream"}, ending="reset"))
        assert response.full_text == "x"


async def test_a_connection_lost_before_the_proof_keeps_what_had_arrived() -> None:
    error = await failure(cut_reply("half"))
    assert (error.kind, error.retryable, error.partial.full_text) == ("transport", True, "half")


TOLERANT = ModelSpec("m", capability=ModelCapability(stream_termination="tolerate_eof"))


@pytest.mark.parametrize("how", [{"termination": "tolerate_eof"}, {"of": request(model=TOLERANT)}])
async def test_an_end_without_proof_is_an_answer_where_that_is_accepted(how: dict[str, Any]) -> None:
    response, _ = await ask(stream_reply(start(), *text_block(0, "all there is")), **how)
    assert (response.full_text, response.terminal_reason) == ("all there is", TerminalReason.STOP)


async def test_an_end_inside_a_call_is_never_an_answer() -> None:
    error = await failure(stream_reply(start(), *call_block(0, "rm", {"path": "/"})[:3]), of=request(model=TOLERANT))
    assert error.code == "stream_ended_before_message_stop"


async def test_an_empty_answer_is_a_retryable_failure() -> None:
    error = await failure(stream_reply(start(), *text_block(0, ""), *ended()))
    assert (error.kind, error.code, error.retryable) == ("stream", "empty_response", True)


async def test_an_empty_answer_after_a_tool_result_is_an_answer() -> None:
    call = Message("a", Role.ASSISTANT, (ToolCallPart("c1", "ls", "{}"),))
    response, _ = await ask(stream_reply(start(), *ended()), of=request(USER, call, RESULT))
    assert (response.parts, response.terminal_reason) == ((), TerminalReason.STOP)


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        ("overloaded_error", "Overloaded", ("http", True)),
        ("api_error", "x", ("http", True)),
        ("rate_limit_error", "would exceed the rate limit", ("quota", True)),
        ("authentication_error", "invalid x-api-key", ("auth", False)),
        ("permission_error", "x", ("auth", False)),
        # A code is worth more than words that sound like something else.
        ("overloaded_error", "prompt is too long, rate limit, credit balance", ("http", True)),
    ],
)
async def test_an_error_inside_the_stream_is_classified_by_its_type_first(
    kind: str, message: str, expected: tuple[str, bool]
) -> None:
    error = await failure(stream_reply(start(), *text_block(0, "x"), error_document(kind, message)))
    assert (error.kind, error.retryable, error.code) == (*expected, kind)
    assert error.partial.full_text == "x"
    assert error.partial.usage == TokenUsage(10, 1)


async def test_an_error_event_without_words_is_still_an_error() -> None:
    error = await failure(stream_reply(start(), {"type": "error"}))
    assert "an error event that says nothing" in error.message
    assert error.retryable


@pytest.mark.parametrize("event", ["{not json", "[1]", '"text"'])
async def test_an_event_that_is_no_json_object_is_a_stream_failure(event: str) -> None:
    error = await failure(stream_reply(start(), event, *text_block(0, "x"), *ended()))
    assert (error.kind, error.code, error.retryable) == ("stream", "invalid_sse_json", True)


@pytest.mark.parametrize(
    "document",
    [
        {"type": "message_start", "message": "x"},
        {"type": "message_start", "message": {"id": 7, "model": [], "usage": "lots", "content": {"a": 1}}},
        {"type": "content_block_start", "index": "a", "content_block": None},
        {"type": "content_block_start", "index": 7, "content_block": {"type": "tool_use_not", "id": 3}},
        {"type": "content_block_delta", "index": [1], "delta": {"type": "text_delta", "text": 5}},
        {"type": "content_block_delta", "index": 0, "delta": [1]},
        {"type": "message_delta", "delta": None, "usage": {"output_tokens": "many", "input_tokens": True}},
        {"type": 5},
        {},
    ],
)
async def test_fields_of_the_wrong_type_are_ignored(document: dict[str, Any]) -> None:
    response, _ = await ask(stream_reply(start(), document, *text_block(9, "ok"), *ended()))
    assert response.full_text == "ok"


async def test_a_refused_request_is_classified_and_shows_no_key() -> None:
    error = await failure(error_reply(401, error_document("authentication_error", f"invalid x-api-key: {KEY}")))
    assert (error.kind, error.status, error.code, error.retryable) == ("auth", 401, "authentication_error", False)
    assert "[redacted]" in error.message


@pytest.mark.parametrize(
    ("status", "kind", "message", "expected"),
    [
        (400, "invalid_request_error", "prompt is too long: 214315 tokens > 200000 maximum", ("validation", False)),
        (400, "invalid_request_error", "messages.0: all messages must have content", ("validation", False)),
        (404, "not_found_error", "model: claude-x", ("unsupported", False)),
        (413, "request_too_large", "Request exceeds the maximum size", ("validation", False)),
        (429, "rate_limit_error", "Number of requests has exceeded your per-minute rate limit", ("quota", True)),
        (500, "api_error", "Internal server error", ("http", True)),
        (529, "overloaded_error", "Overloaded", ("http", True)),
    ],
)
async def test_documented_refusals_are_classified(
    status: int, kind: str, message: str, expected: tuple[str, bool]
) -> None:
    error = await failure(error_reply(status, error_document(kind, message)))
    assert (error.kind, error.retryable) == expected
    assert (error.terminal_reason == "context_overflow") == ("too long" in message)


@pytest.mark.parametrize("reply", [html_reply(), Reply((b"<html>",))], ids=["html", "html called a stream"])
async def test_a_web_page_with_status_200_is_named_as_such(reply: Reply) -> None:
    error = await failure(reply)
    assert (error.code, error.retryable) == ("unexpected_html", False)
    assert "instead of a message; check base_url" in error.message


async def test_a_whole_answer_is_read_like_a_streamed_one() -> None:
    streamed, _ = await ask(rich_reply(), expose_thinking=True)
    usage = {"input_tokens": 3, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 7, "output_tokens": 90}
    whole, events = await ask(
        whole_reply(
            {"type": "thinking", "thinking": "hm zoë/𝄞", "signature": "sig"},
            {"type": "redacted_thinking", "data": "blob"},
            {"type": "text", "text": "ça \u2028 va"},
            {"type": "tool_use", "id": "toolu_3", "name": "ls", "input": {"path": "zoë/𝄞"}},
            {"type": "tool_use", "id": "toolu_4", "name": "cat", "input": {"n": 1}},
            stop_reason="tool_use",
            usage=usage | {"output_tokens_details": {"thinking_tokens": 15}},
        ),
        expose_thinking=True,
    )
    assert whole.parts[:3] == streamed.parts[:3]
    assert [call.input_json for call in whole.tool_calls] == ['{"path":"zoë/𝄞"}', '{"n":1}']
    assert (whole.usage, whole.terminal_reason, whole.evidence) == (
        streamed.usage,
        streamed.terminal_reason,
        streamed.evidence,
    )
    assert shown(events) == [ReasoningDelta("hm zoë/𝄞"), TextDelta("ça \u2028 va")]


async def test_a_whole_answer_that_does_not_say_why_it_stopped_is_none() -> None:
    error = await failure(whole_reply({"type": "text", "text": "x"}, stop_reason=None))
    assert (error.code, error.partial.full_text) == ("stream_ended_before_message_stop", "x")


async def test_an_error_document_with_status_200_is_classified() -> None:
    error = await failure(json_reply(error_document("authentication_error")))
    assert (error.kind, error.retryable) == ("auth", False)
