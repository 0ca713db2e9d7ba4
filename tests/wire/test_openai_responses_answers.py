"""Conformance of the Responses wire: what is read from an answer (contract 06 §9.1, §5, §17)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.responses import Answer, call, message, reasoning, refusal, usage_of
from support.wire import Reply, error_reply, html_reply, json_reply, sse, stream_reply
from support.wires import HELLO, KEY, Endpoint, request

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
    LlmRequest,
    LlmResponse,
    ReasoningDelta,
    StreamEvent,
    TerminalReason,
    TextDelta,
    UsageReported,
)
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LlmTransportError

BASE = "http://test.invalid/v1"
ROUTE = f"{BASE}/responses test-model p"
USER = Message("m1", Role.USER, (TextPart("hello"),))
ENDPOINT = Endpoint("openai_responses", BASE)
failure = ENDPOINT.failure
RESULT = Message("m2", Role.USER, (ToolResultPart("c1", "ls", "ok"),))
ANNOTATION = {"type": "url_citation", "start_index": 0, "end_index": 2, "url": "https://x.invalid", "title": "X"}


async def ask(
    reply: Reply | LlmTransportError, of: LlmRequest = HELLO, **options: Any
) -> tuple[LlmResponse, list[StreamEvent]]:
    response, events = await ENDPOINT.ask(reply, of=of, **options)
    return response, [event for event in events if not isinstance(event, EvidenceReported)]


def shown(events: list[StreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def proof_start(body: bytes) -> int:
    """Where the terminal event begins to be complete: its last byte before the line end."""
    return body.rstrip().rindex(b"}")


RICH = Answer(
    reasoning("Looking **closely**", "Then çalls"),
    message("ça \u2028 va", "𝄞", phase="commentary"),
    call("ls", '{"path": "zoë/𝄞"}'),
    call("cat", '{"n": 1}', call_id="call_2", identity="fc_2"),
    usage=usage_of(100, 30, cached=40, reasoning=15),
)


async def test_a_plain_answer_streams_and_is_proved() -> None:
    response, events = await ask(Answer(message("one two"), usage=usage_of(11, 3)).streamed())
    evidence = ExecutionEvidence("served-model", "resp_1", "req_test", 0, "completed")
    assert response == LlmResponse((ProsePart("one two"),), TokenUsage(11, 3), TerminalReason.STOP, None, evidence)
    assert events == [
        TextDelta("one"),
        TextDelta(" two"),
        UsageReported(TokenUsage(11, 3)),
    ]


async def test_a_rich_answer_keeps_order_ids_usage_and_what_it_needs_to_come_back() -> None:
    response, events = await ask(RICH.streamed(), expose_thinking=True)
    meta = {"item_id": "msg_1", "phase": "commentary", "provider": ROUTE}
    assert response.parts == (
        ReasoningPart(
            "Looking **closely**\n\nThen çalls",
            ReasoningReplay(ROUTE, "rs_1", "blob", summary=("Looking **closely**", "Then çalls")),
        ),
        ProsePart("ça \u2028 va", meta),
        ProsePart("𝄞", meta),
        ToolCallPart("call_1", "ls", '{"path": "zoë/𝄞"}', ReasoningReplay(ROUTE, "fc_1")),
        ToolCallPart("call_2", "cat", '{"n": 1}', ReasoningReplay(ROUTE, "fc_2")),
    )
    assert response.terminal_reason is TerminalReason.TOOL_USE
    assert response.usage == TokenUsage(60, 30, 40, 0, 15)
    assert response.evidence.reasoning_output_tokens == 15
    thoughts = [event.text for event in events if isinstance(event, ReasoningDelta)]
    assert "".join(thoughts) == "Looking **closely**\n\nThen çalls"
    assert shown(events) == "ça \u2028 va𝄞"


async def test_reasoning_is_kept_but_shown_only_when_told() -> None:
    response, events = await ask(RICH.streamed())
    assert isinstance(response.parts[0], ReasoningPart)
    assert not any(isinstance(event, ReasoningDelta) for event in events)


async def test_splitting_the_answer_at_every_byte_changes_nothing() -> None:
    small = Answer(reasoning("ça"), message("𝄞 é"), call("ls", '{"p": "ë"}'))
    reply = Reply((small.streamed().body.replace(b"\n", b"\r\n"),))
    expected, events = await ask(reply)
    for position in range(1, len(reply.body)):
        assert await ask(reply.split_at(position)) == (expected, events), position
    assert await ask(reply.dripping()) == (expected, events)


@pytest.mark.parametrize(
    "answer",
    [
        RICH,
        Answer(message("one two")),
        Answer(refusal("no")),
        Answer(message("half"), status="incomplete", reason="max_output_tokens"),
    ],
    ids=["rich", "plain", "refused", "capped"],
)
async def test_an_answer_is_the_same_streamed_and_whole(answer: Answer) -> None:
    streamed, events = await ask(answer.streamed())
    whole, shown_whole = await ask(answer.whole())
    assert whole == streamed
    assert shown(shown_whole) == shown(events)


async def test_arguments_are_merged_across_interleaved_deltas() -> None:
    def added(index: int, name: str) -> dict[str, Any]:
        item = call(name, "", call_id=f"c{index}", identity=f"fc{index}")
        return {"type": "response.output_item.added", "output_index": index, "item": item}

    def delta(index: int, text: str) -> dict[str, Any]:
        kind = "response.function_call_arguments.delta"
        return {"type": kind, "item_id": f"fc{index}", "output_index": index, "delta": text}

    parts = [added(0, "ls"), added(1, "cat"), delta(0, '{"p":'), delta(1, '{"f"'), delta(0, "1}"), delta(1, ":2}")]
    response, _ = await ask(stream_reply(*parts, {"type": "response.completed", "response": {}}, done=False))
    assert response.tool_calls == (ToolCallPart("c0", "ls", '{"p":1}'), ToolCallPart("c1", "cat", '{"f":2}'))
    assert response.terminal_reason is TerminalReason.TOOL_USE


async def test_items_are_told_apart_by_their_place_when_every_event_has_another_id() -> None:
    events = RICH.events()
    for number, event in enumerate(events):
        if "item_id" in event:
            event["item_id"] = f"random_{number}"
    response, _ = await ask(stream_reply(*events, done=False))
    expected, _ = await ask(RICH.streamed())
    assert response == expected


async def test_items_without_a_place_are_told_apart_by_their_ids() -> None:
    events = [{name: value for name, value in event.items() if name != "output_index"} for event in RICH.events()]
    response, _ = await ask(stream_reply(*events, done=False))
    expected, _ = await ask(RICH.streamed())
    assert response == expected


async def test_items_of_two_kinds_that_claim_one_place_are_two_items() -> None:
    events = [event | {"output_index": 0} for event in RICH.events()[2:-1] if event.get("output_index") in (0, 1, 2)]
    ended = {"type": "response.completed", "response": {"status": "completed"}}
    response, _ = await ask(stream_reply(*events, ended, done=False))
    assert [type(part) for part in response.parts] == [ReasoningPart, ProsePart, ProsePart, ToolCallPart]


async def test_the_finished_item_has_the_last_word_on_arguments() -> None:
    events = Answer(call("ls", '{"p": 1}')).events()
    lost = [event for event in events if event["type"] != "response.function_call_arguments.delta"]
    assert len(lost) == len(events) - 2
    response, _ = await ask(stream_reply(*lost, done=False))
    assert response.tool_calls == (ToolCallPart("call_1", "ls", '{"p": 1}'),)


@pytest.mark.parametrize(
    ("given", "expected"), [(["a"], '["a"]'), (False, "false"), ({"p": 1}, '{"p":1}'), (None, "{}")]
)
async def test_arguments_that_are_no_text_are_not_taken_for_none(given: Any, expected: str) -> None:
    item = call("ls", "") | {"arguments": given}
    ended = {"type": "response.completed", "response": {"status": "completed", "output": [item]}}
    response, _ = await ask(stream_reply(ended, done=False))
    assert response.tool_calls[0].input_json == expected


@pytest.mark.parametrize(
    "kept",
    [
        ("response.completed",),
        ("response.output_item.done", "response.completed"),
        ("response.output_text.done", "response.reasoning_summary_text.done", "response.completed"),
        ("response.reasoning_summary_part.done", "response.completed"),
        ("response.output_text.delta", "response.completed"),
    ],
    ids=["only the end", "finished items", "finished texts", "finished summaries", "only text deltas"],
)
async def test_what_was_not_streamed_comes_from_later_events_and_nothing_comes_twice(kept: tuple[str, ...]) -> None:
    events = [event for event in RICH.events() if event["type"] in kept]
    response, seen = await ask(stream_reply(*events, done=False))
    expected, _ = await ask(RICH.streamed())
    assert sorted(map(repr, response.parts)) == sorted(map(repr, expected.parts))
    assert shown(seen) == "ça \u2028 va𝄞"


async def test_deltas_that_were_lost_are_made_up_for_by_the_finished_text() -> None:
    events = Answer(reasoning("let me see"), message("hello you")).events()
    seen: set[str] = set()
    kept = []
    for event in events:
        if event["type"].endswith("text.delta") and event["type"] in seen:
            continue
        seen.add(event["type"])
        kept.append(event)
    assert len(kept) == len(events) - 2
    response, streamed = await ask(stream_reply(*kept, done=False), expose_thinking=True)
    assert [part.content for part in response.parts] == ["let me see", "hello you"]
    assert shown(streamed) == "hello you"


async def test_a_call_that_was_not_streamed_beside_one_that_was_is_made_all_the_same() -> None:
    calls = (call("ls", "{}"), call("cat", '{"f":1}', call_id="call_2", identity="fc_2"))
    events = Answer(*calls).events()
    first = [event for event in events if event.get("output_index") != 1]
    assert len(first) < len(events)
    response, _ = await ask(stream_reply(*first, done=False))
    made = [(part.tool_call_id, part.tool_name, part.input_json) for part in response.tool_calls]
    assert made == [("call_1", "ls", "{}"), ("call_2", "cat", '{"f":1}')]


async def test_a_call_of_which_nothing_came_is_none() -> None:
    opened = {"type": "response.output_item.added", "output_index": 7, "item": {"type": "function_call"}}
    response, _ = await ask(stream_reply(opened, *Answer(message("hello")).events(), done=False))
    assert (response.full_text, response.tool_calls) == ("hello", ())


async def test_a_finished_text_never_rewrites_what_was_shown() -> None:
    events = Answer(message("hello")).events()
    for event in events:
        if event["type"] == "response.output_text.done":
            event["text"] = "goodbye"
    response, streamed = await ask(stream_reply(*events, done=False))
    assert response.full_text == shown(streamed) == "hello"


async def test_final_items_never_repeat_text_that_was_streamed_under_another_place() -> None:
    events = copy.deepcopy(Answer(message("hello")).events())
    for event in events:
        if "output_index" in event:
            event["output_index"] = 7
    events[-1]["response"]["output"] = [message("hello", identity="msg_other")]
    response, seen = await ask(stream_reply(*events, done=False))
    assert response.full_text == shown(seen) == "hello"


async def test_annotations_stay_with_the_text_they_point_into() -> None:
    said = message("plain", "cited")
    said["content"][1]["annotations"] = [ANNOTATION]
    events = Answer(said).events()
    told = [event for event in events if event["type"] not in ("response.output_item.done", "response.completed")]
    bare = Answer(message("plain", "cited")).events()[-2:]
    meta = {"annotations": [ANNOTATION], "provider": ROUTE}
    for stream in (events, events[:-2] + events[-1:], [*told, *bare]):
        response, _ = await ask(stream_reply(*stream, done=False))
        assert response.parts == (ProsePart("plain"), ProsePart("cited", meta))


async def test_ids_are_not_kept_where_no_encrypted_reasoning_refers_to_them() -> None:
    answer = Answer(reasoning("hm", encrypted=None), message("hi"), call("ls", "{}"))
    response, _ = await ask(answer.streamed())
    assert response.parts == (ReasoningPart("hm"), ProsePart("hi"), ToolCallPart("call_1", "ls", "{}"))


async def test_open_reasoning_is_read_like_a_summary() -> None:
    place = {"item_id": "rs_1", "output_index": 0, "content_index": 0}
    events = [
        {"type": "response.reasoning_text.delta", **place, "delta": "let me "},
        {"type": "response.reasoning_text.delta", **place, "delta": "see"},
        {"type": "response.reasoning_text.done", **place, "text": "let me see"},
        *Answer(message("hi")).events()[-1:],
    ]
    response, _ = await ask(stream_reply(*events, done=False))
    assert response.parts == (ReasoningPart("let me see"), ProsePart("hi"))


async def test_missing_and_repeated_call_ids_get_stable_distinct_ones() -> None:
    answer = Answer(
        *(call("ls", "{}", call_id=identity, identity=f"fc{i}") for i, identity in enumerate(["", "x", "x"]))
    )
    first, _ = await ask(answer.streamed())
    again, _ = await ask(answer.streamed())
    ids = [called.tool_call_id for called in first.tool_calls]
    assert len(set(ids)) == 3
    assert ids[1] == "x"
    assert first == again


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        ("completed", None, TerminalReason.STOP),
        ("incomplete", "max_output_tokens", TerminalReason.OUTPUT_LIMIT),
        ("incomplete", "max_tokens", TerminalReason.OUTPUT_LIMIT),
        ("incomplete", "content_filter", TerminalReason.CONTENT_FILTER),
        ("incomplete", "solar_flare", TerminalReason.PROVIDER_ERROR),
        ("incomplete", None, TerminalReason.PROVIDER_ERROR),
    ],
)
async def test_endings_are_mapped(status: str, reason: str | None, expected: TerminalReason) -> None:
    response, _ = await ask(Answer(message("x"), status=status, reason=reason).streamed())
    assert response.terminal_reason is expected
    assert response.evidence.provider_finish_reason == status
    assert (response.terminal_diagnostic is None) == (expected is not TerminalReason.PROVIDER_ERROR)


async def test_the_other_name_of_the_end_counts_and_its_status_decides() -> None:
    def ended(status: str) -> Reply:
        document = Answer(message("x")).document(status=status)
        return stream_reply({"type": "response.done", "response": document}, done=False)

    assert (await ask(ended("completed")))[0].terminal_reason is TerminalReason.STOP
    assert (await ask(ended("cancelled")))[0].terminal_reason is TerminalReason.CANCELLED
    assert (await failure(ended("failed"))).retryable


async def test_calls_cut_by_the_output_limit_keep_that_reason() -> None:
    answer = Answer(call("rm", '{"path": "/'), status="incomplete", reason="max_output_tokens")
    response, _ = await ask(answer.streamed())
    assert response.terminal_reason is TerminalReason.OUTPUT_LIMIT


async def test_a_refusal_is_a_content_filter_with_its_words() -> None:
    response, events = await ask(Answer(refusal("I will not")).streamed())
    assert response.terminal_reason is TerminalReason.CONTENT_FILTER
    assert response.terminal_diagnostic == "the model refused: I will not"
    assert response.parts == ()
    assert shown(events) == ""


async def test_usage_reported_on_the_way_is_merged_and_zero_differs_from_absent() -> None:
    events = Answer(message("x"), usage={"output_tokens": 3}).events()
    events[0]["response"]["usage"] = {"input_tokens": 8, "output_tokens": 1}
    response, _ = await ask(stream_reply(*events, done=False))
    assert response.usage == TokenUsage(8, 3)
    assert response.evidence.reasoning_output_tokens is None


@pytest.mark.parametrize("done", [False, True], ids=["eof", "done marker"])
async def test_a_stream_without_a_terminal_event_is_never_an_answer(done: bool) -> None:
    events = RICH.events()[:-1]
    events[0]["response"]["usage"] = usage_of(9, 1)
    error = await failure(stream_reply(*events, done=done))
    assert (error.kind, error.code, error.retryable) == ("stream", "stream_ended_before_terminal_response", True)
    assert error.partial.usage == TokenUsage(9, 1)
    assert error.partial.evidence.provider_response_id == "resp_1"
    assert error.partial.full_text == "ça \u2028 va𝄞"
    assert error.protocol_position == "output_started"


async def test_every_truncation_before_the_proof_is_a_retryable_failure() -> None:
    body = Answer(reasoning("hm"), call("rm", '{"path": "/"}')).streamed().body
    for end in range(proof_start(body)):
        error = await failure(Reply((body[:end],)))
        assert (error.kind, error.retryable) == ("stream", True), end


async def test_a_truncation_after_the_proof_is_an_answer() -> None:
    body = Answer(message("x")).streamed().body
    for end in range(proof_start(body) + 1, len(body)):
        response, _ = await ask(Reply((body[:end],), ending="reset"))
        assert response.full_text == "x", end


async def test_nothing_is_waited_for_after_the_terminal_event() -> None:
    response, _ = await ask(Answer(message("x")).streamed(ending="hang"))
    assert response.full_text == "x"


async def test_a_tolerated_end_never_completes_a_cut_call() -> None:
    text = Answer(message("all of it")).events()[:-1]
    response, _ = await ask(stream_reply(*text, done=False), termination="tolerate_eof")
    assert (response.full_text, response.terminal_reason) == ("all of it", TerminalReason.STOP)
    cut = [
        {"type": "response.output_item.added", "output_index": 0, "item": call("rm", "")},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"path": "/'},
    ]
    error = await failure(stream_reply(*cut, done=False), termination="tolerate_eof")
    assert error.code == "stream_ended_before_terminal_response"


FAILED = {"code": "server_error", "message": "The model failed to generate a response."}


async def test_a_failed_response_is_classified_and_keeps_its_usage_and_ids() -> None:
    answer = Answer(message("half"), status="failed", error=FAILED, usage=usage_of(7, 2))
    error = await failure(answer.streamed())
    assert (error.kind, error.code, error.retryable) == ("http", "server_error", True)
    assert "The model failed to generate a response." in error.message
    assert error.partial.usage == TokenUsage(7, 2)
    assert error.partial.evidence == ExecutionEvidence("served-model", "resp_1", "req_test", 0, "failed")
    assert (await failure(answer.whole())).code == "server_error"


@pytest.mark.parametrize(
    ("code", "message_text", "expected"),
    [
        ("rate_limit_exceeded", "context window too long", ("quota", True)),
        ("insufficient_quota", "rate limit", ("quota", False)),
        ("context_length_exceeded", "too many requests", ("validation", False)),
        ("invalid_prompt", "rate limit", ("validation", False)),
        ("ERR_SOMETHING", "Something went wrong", ("unknown", True)),
    ],
)
@pytest.mark.parametrize("form", ["response.failed", "error", "nested error"])
async def test_errors_in_the_stream_are_classified_by_their_code_first(
    code: str, message_text: str, expected: tuple[str, bool], form: str
) -> None:
    details = {"code": code, "message": message_text}
    document = {
        "response.failed": Answer(status="failed", error=details).events()[-1],
        "error": {"type": "error", "param": None, "sequence_number": 1, **details},
        "nested error": {"type": "error", "error": details},
    }[form]
    error = await failure(stream_reply(*Answer(message("shown")).events()[:-1], document, done=False))
    assert (error.kind, error.retryable) == expected
    assert error.code == code
    assert error.partial.full_text == "shown"


@pytest.mark.parametrize("event", ["{not json", "[1]", '"text"'])
async def test_an_event_that_is_no_json_object_is_a_stream_failure(event: str) -> None:
    error = await failure(Reply((sse(event, *Answer(message("x")).events()),)))
    assert (error.kind, error.code, error.retryable) == ("stream", "invalid_sse_json", True)


@pytest.mark.parametrize(
    "document",
    [
        {"type": "response.some_news", "delta": "x"},
        {"type": "response.created", "response": 5},
        {"type": "response.in_progress", "response": {"usage": "lots", "id": 7, "model": []}},
        {"type": "response.output_item.added", "output_index": 9, "item": {"type": "web_search_call", "id": "ws"}},
        {"type": "response.output_item.done", "output_index": "x", "item": None},
        {"type": "response.output_text.delta", "output_index": 9, "delta": 5},
        {"type": "response.function_call_arguments.delta", "output_index": 9, "delta": None},
        {"type": "response.output_text.annotation.added", "output_index": 9, "annotation": "x"},
        {"type": "response.reasoning_summary_text.done", "output_index": 9, "text": {}},
        {"type": 5},
    ],
)
async def test_unknown_events_and_fields_of_the_wrong_type_are_ignored(document: dict[str, Any]) -> None:
    response, _ = await ask(stream_reply(document, *Answer(message("ok")).events(), done=False))
    assert response.parts == (ProsePart("ok"),)


async def test_an_empty_answer_is_a_retryable_failure_unless_it_follows_a_tool_result() -> None:
    for answer in (Answer(), Answer(reasoning(encrypted="blob")), Answer(message(""))):
        error = await failure(answer.streamed())
        assert (error.kind, error.code, error.retryable) == ("stream", "empty_response", True)
    response, _ = await ask(Answer().streamed(), of=request(USER, RESULT))
    assert (response.parts, response.terminal_reason) == ((), TerminalReason.STOP)


async def test_a_whole_answer_that_still_runs_is_not_one() -> None:
    error = await failure(json_reply(Answer(message("x")).document(status="in_progress")))
    assert error.code == "stream_ended_before_terminal_response"
    assert error.partial.full_text == "x"


async def test_a_web_page_is_named_as_such() -> None:
    error = await failure(html_reply())
    assert (error.code, error.retryable) == ("unexpected_html", False)
    assert "instead of a response" in error.message


async def test_a_refused_key_is_classified_and_not_shown() -> None:
    body = {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}}
    error = await failure(error_reply(401, body))
    assert (error.kind, error.status, error.code, error.retryable) == ("auth", 401, "invalid_api_key", False)
