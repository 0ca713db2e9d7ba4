"""Conformance of the Chat Completions wire: what is read from an answer (contract 06 §9.2, §5, §17)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from support.wire import (
    Reply,
    chunk,
    cut_reply,
    error_reply,
    html_reply,
    json_reply,
    sse,
    stream_reply,
    text_reply,
    tool_calls_reply,
    usage_of,
)
from support.wires import KEY, Endpoint, request

from lash_cli.core.codec import decode_json
from lash_cli.core.content import Message, ProsePart, ReasoningPart, Role, TextPart, ToolCallPart, ToolResultPart
from lash_cli.core.llm import (
    ExecutionEvidence,
    LlmResponse,
    ReasoningDelta,
    TerminalReason,
    TextDelta,
    UsageReported,
)
from lash_cli.core.policy import ModelCapability, ModelSpec
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LlmTransportError
from lash_cli.providers import chat_stream, endpoint
from lash_cli.providers.chat_stream import ChatAssembler
from lash_cli.providers.http import Timeouts

BASE = "http://test.invalid/v1"
USER = Message("m1", Role.USER, (TextPart("hello"),))
ENDPOINT = Endpoint("openai_chat", BASE)
ask, failure = ENDPOINT.ask, ENDPOINT.failure
RESULT = Message("m2", Role.USER, (ToolResultPart("c1", "ls", "ok"),))


async def test_a_plain_answer_streams_and_is_proved() -> None:
    response, events = await ask(text_reply("one two three", usage=usage_of(11, 3)))
    assert response == LlmResponse(
        parts=(ProsePart("one two three"),),
        usage=TokenUsage(11, 3),
        terminal_reason=TerminalReason.STOP,
        evidence=ExecutionEvidence("served-model", "chatcmpl-1", "req_test", None, "stop"),
    )
    assert events == [TextDelta("one "), TextDelta("two "), TextDelta("three"), UsageReported(TokenUsage(11, 3))]


async def test_splitting_the_answer_at_every_byte_changes_nothing() -> None:
    reply = tool_calls_reply([("ls", {"path": "zoë/𝄞"}), ("cat", {"n": 1})], text="ça \u2028 va")
    reply = Reply((reply.body.replace(b"\n", b"\r\n"),))
    expected, shown = await ask(reply)
    assert len(expected.tool_calls) == 2
    for position in range(1, len(reply.body)):
        assert await ask(reply.split_at(position)) == (expected, shown), position
    assert await ask(reply.dripping()) == (expected, shown)


@pytest.mark.parametrize("rubbish", ["DONE", '"[DONE]"', "null", "[]", "end of stream"])
async def test_what_a_server_says_behind_the_proof_and_is_no_document_does_not_undo_it(rubbish: str) -> None:
    answer = sse(chunk({"content": "hello"}), chunk(finish_reason="stop"), done=False)
    for behind in (sse(rubbish), sse(rubbish, chunk(usage=usage_of(9, 1)))):
        response, _ = await ask(Reply((answer + behind,)))
        assert (response.parts, response.terminal_reason) == ((ProsePart("hello"),), TerminalReason.STOP)
    assert response.usage == TokenUsage(9, 1)


async def test_tool_calls_are_merged_by_index_across_interleaved_deltas() -> None:
    def delta(index: int, arguments: str, **head: Any) -> dict[str, Any]:
        return chunk({"tool_calls": [{"index": index, **head, "function": {"arguments": arguments}}]})

    response, _ = await ask(
        stream_reply(
            chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "ls"}}]}),
            chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "cat", "arguments": '{"f"'}}]}),
            delta(0, '{"p":'),
            delta(1, ":2}"),
            delta(0, "1}"),
            chunk(finish_reason="tool_calls"),
        )
    )
    assert response.tool_calls == (ToolCallPart("a", "ls", '{"p":1}'), ToolCallPart("b", "cat", '{"f":2}'))
    assert response.terminal_reason is TerminalReason.TOOL_USE


async def test_a_missing_index_belongs_to_the_only_call() -> None:
    response, _ = await ask(
        stream_reply(
            chunk({"tool_calls": [{"id": "a", "function": {"name": "ls", "arguments": '{"p"'}}]}),
            chunk({"tool_calls": [{"function": {"arguments": ":1}"}}]}),
            chunk(finish_reason="tool_calls"),
        )
    )
    assert response.tool_calls == (ToolCallPart("a", "ls", '{"p":1}'),)


def said(**delta: Any) -> str:
    """An event as a server writes it that cuts text between the units of UTF-16."""
    return json.dumps({"choices": [{"index": 0, "delta": delta}]})


async def test_a_character_that_a_server_cut_in_two_is_put_together() -> None:
    response, events = await ask(
        stream_reply(
            said(content="a\\\\\ud83d"),
            chunk(usage=usage_of()),
            said(content="\ude00 b \ud83d"),
            said(content="\ude00"),
            said(tool_calls=[{"index": 0, "id": "c", "function": {"name": "ls", "arguments": '{"p":"\ud83d'}}]),
            said(tool_calls=[{"index": 0, "function": {"arguments": '\ude00"}'}}]),
            chunk(finish_reason="tool_calls"),
        )
    )
    assert response.parts == (ProsePart("a\\\\😀 b 😀"), ToolCallPart("c", "ls", '{"p":"😀"}'))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "a\\\\😀 b 😀"


async def test_a_half_that_was_used_is_used_up() -> None:
    pieces = [said(content="\ud83d"), said(content="\ude00"), said(content="\ude00")]
    assert (await failure(stream_reply(*pieces, chunk(finish_reason="stop")))).code == "invalid_sse_json"


async def test_what_follows_the_end_of_the_stream_in_the_same_packet_is_not_read() -> None:
    response, _ = await ask(Reply((text_reply("one").body + sse(chunk({"content": "two"}), "no JSON"),)))
    assert response.full_text == "one"


@pytest.mark.parametrize("text", ["a\ud83db", "\ude00", "a\ude00\ud83d"])
async def test_half_a_character_elsewhere_is_a_stream_failure(text: str) -> None:
    assert (await failure(stream_reply(said(content=text), chunk(finish_reason="stop")))).code == "invalid_sse_json"


async def test_calls_all_numbered_zero_are_told_apart_by_their_ids() -> None:
    calls = [
        chunk({"tool_calls": [{"index": 0, "id": i, "function": {"name": "ls", "arguments": "{}"}}]}) for i in "ab"
    ]
    response, _ = await ask(stream_reply(*calls, chunk(finish_reason="stop")))
    assert [call.tool_call_id for call in response.tool_calls] == ["a", "b"]
    assert response.terminal_reason is TerminalReason.TOOL_USE


def call_delta(arguments: Any, *, index: int | None = None, id: str | None = None, name: str | None = None) -> Any:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"function": function} | ({"index": index} if index is not None else {}) | ({"id": id} if id else {})


async def told(*deltas: list[Any]) -> list[tuple[str, str, str]]:
    """Ids, names and arguments of the calls that these deltas make."""
    chunks = [chunk({"tool_calls": calls}) for calls in deltas]
    response, _ = await ask(stream_reply(*chunks, chunk(finish_reason="tool_calls")))
    return [(call.tool_call_id, call.tool_name, call.input_json) for call in response.tool_calls]


async def test_pieces_of_calls_all_numbered_zero_go_to_the_call_that_was_opened_last() -> None:
    calls = await told(
        [call_delta("", index=0, id="a", name="ls")],
        [call_delta('{"x":', index=0)],
        [call_delta("1}", index=0)],
        [call_delta("", index=0, id="b", name="cat")],
        [call_delta('{"y":', index=0)],
        [call_delta("2", index=0, id="b")],
        [call_delta("}", index=0, id="b", name="cat")],
    )
    assert calls == [("a", "ls", '{"x":1}'), ("b", "cat", '{"y":2}')]


@pytest.mark.parametrize("index", [0, None])
async def test_a_piece_that_names_its_call_reaches_it_whatever_was_opened_since(index: int | None) -> None:
    calls = await told(
        [call_delta("", index=index, id="a", name="ls"), call_delta("", index=index, id="b", name="cat")],
        [call_delta('{"x":', index=index, id="a"), call_delta('{"y":', index=index, id="b", name="cat")],
        [call_delta("1}", index=index, id="a", name="ls"), call_delta("2}", index=index, id="b")],
    )
    assert calls == [("a", "ls", '{"x":1}'), ("b", "cat", '{"y":2}')]


async def test_a_call_whose_every_piece_has_another_id_is_one_call() -> None:
    calls = await told(
        [call_delta("", index=0, id="a1", name="ls")],
        [call_delta('{"x":', index=0, id="a2")],
        [call_delta("1}", index=0, id="a3")],
    )
    assert calls == [("a1", "ls", '{"x":1}')]


@pytest.mark.parametrize("arguments", ["{}", '{"x":1}'])
async def test_calls_without_a_number_and_an_id_are_told_apart_by_their_names(arguments: str) -> None:
    first, second = call_delta(arguments, name="ls"), call_delta(arguments, name="cat")
    for deltas in ([[first], [second]], [[first, second]]):
        assert [(name, said) for _, name, said in await told(*deltas)] == [("ls", arguments), ("cat", arguments)]
    assert len(await told([call_delta("", name="ls"), call_delta("", name="ls")])) == 2


async def test_calls_all_numbered_zero_and_without_an_id_are_told_apart_by_their_names() -> None:
    first, second = call_delta('{"x":1}', index=0, name="ls"), call_delta('{"x":2}', index=0, name="ls")
    for deltas in ([[first], [second]], [[first, second]], [[first], [{**second, "id": "b"}]]):
        assert [said for _, _, said in await told(*deltas)] == ['{"x":1}', '{"x":2}']
    calls = await told([call_delta('{"x":', index=0, name="ls")], [call_delta("1}", index=0, name="ls")], [first])
    assert [said for _, _, said in calls] == ['{"x":1}', '{"x":1}']
    assert len(await told([first], [call_delta("", index=0, name="ls")])) == 1


async def test_an_id_that_comes_behind_the_name_of_its_call_opens_none() -> None:
    calls = await told([call_delta("", index=0, name="ls")], [call_delta("{}", index=0, id="a", name="ls")])
    assert calls == [("a", "ls", "{}")]


async def test_a_name_that_is_repeated_with_every_piece_opens_no_call() -> None:
    calls = await told([call_delta('{"x":', name="ls")], [call_delta("1}", name="ls")])
    assert [(name, said) for _, name, said in calls] == [("ls", '{"x":1}')]


@pytest.mark.parametrize("names", [("edit_", "file"), ("edit_file", "edit_file")])
async def test_a_name_in_pieces_is_one_name(names: tuple[str, ...]) -> None:
    pieces = [[call_delta("", index=0, name=name)] for name in names]
    calls = await told(*pieces, [call_delta("{}", index=0)])
    assert [(name, said) for _, name, said in calls] == [("edit_file", "{}")]


def test_a_long_call_whose_every_piece_is_named_is_not_read_again_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reading(said: str) -> Any:
        read.append(said)
        return decode_json(said)

    monkeypatch.setattr(chat_stream, "decode_json", reading)
    assembler = ChatAssembler("r", "route")
    pieces = ['{"path":"a","content":"', *["some text "] * 200, '"}']
    for piece in pieces:
        function = {"name": "write_file", "arguments": piece}
        assembler.feed(chunk({"tool_calls": [{"index": 0, "function": function}]}))
    assert len(read) <= 1, "the last piece alone may end it"
    (call,) = assembler.partial().tool_calls
    assert call.input_json == "".join(pieces)


async def test_missing_and_repeated_call_ids_get_stable_distinct_ones() -> None:
    def reply() -> Reply:
        calls = [{"index": i, "id": identity, "function": {"name": "ls"}} for i, identity in enumerate(["", "x", "x"])]
        return stream_reply(chunk({"tool_calls": calls}), chunk(finish_reason="tool_calls"))

    first, _ = await ask(reply())
    again, _ = await ask(reply())
    ids = [call.tool_call_id for call in first.tool_calls]
    assert len(set(ids)) == 3
    assert ids[0].startswith("call_0_")
    assert ids[1] == "x"
    assert first == again
    assert [call.input_json for call in first.tool_calls] == ["{}"] * 3


async def test_unparsable_arguments_are_kept_as_sent() -> None:
    response, _ = await ask(tool_calls_reply([("ls", '{"path": oops')]))
    assert response.tool_calls[0].input_json == '{"path": oops'


@pytest.mark.parametrize("arguments", [["a"], [], 7, 0, True, False])
async def test_arguments_that_are_neither_text_nor_an_object_are_not_taken_for_none(arguments: Any) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "ls", "arguments": arguments}}
    response, _ = await ask(stream_reply(chunk({"tool_calls": [call]}), chunk(finish_reason="tool_calls")))
    assert response.tool_calls[0].input_json == json.dumps(arguments)


@pytest.mark.parametrize("number", [float, str])
async def test_a_number_counts_however_it_is_written(number: Any) -> None:
    def piece(index: int, **function: str) -> dict[str, Any]:
        delta = {"index": number(index), "function": function}
        return {"choices": [{"index": number(0), "delta": {"tool_calls": [delta]}}]}

    pieces = [piece(0, name="ls"), piece(1, name="pwd"), piece(0, arguments='{"path":"/"}')]
    ending = {"choices": [{"index": number(0), "finish_reason": "tool_calls"}]}
    response, _ = await ask(stream_reply(*pieces, ending))
    assert [(call.tool_name, call.input_json) for call in response.tool_calls] == [
        ("ls", '{"path":"/"}'),
        ("pwd", "{}"),
    ]


async def test_only_the_first_choice_is_the_answer() -> None:
    other = {"index": 1, "delta": {"content": "another"}, "finish_reason": "length"}
    response, _ = await ask(stream_reply(chunk({"content": "one"}), {"choices": [other]}, chunk(finish_reason="stop")))
    assert (response.full_text, response.terminal_reason) == ("one", TerminalReason.STOP)


@pytest.mark.parametrize("cut", ["length", "content_filter", "weird"])
async def test_a_plain_end_does_not_take_back_that_the_answer_was_cut(cut: str) -> None:
    reply = stream_reply(chunk({"content": "half"}, cut), chunk({}, "stop"))
    response, _ = await ask(reply)
    assert response.evidence.provider_finish_reason == cut
    assert response.terminal_reason not in (TerminalReason.STOP, TerminalReason.TOOL_USE)


async def test_an_end_that_turns_out_to_be_a_cut_is_one() -> None:
    response, _ = await ask(stream_reply(chunk({"content": "half"}, "stop"), chunk({}, "content_filter")))
    assert response.terminal_reason is TerminalReason.CONTENT_FILTER


@pytest.mark.parametrize(
    ("finish_reason", "expected"),
    [
        ("stop", TerminalReason.STOP),
        ("tool_calls", TerminalReason.STOP),
        ("length", TerminalReason.OUTPUT_LIMIT),
        ("max_tokens", TerminalReason.OUTPUT_LIMIT),
        ("content_filter", TerminalReason.CONTENT_FILTER),
        ("safety", TerminalReason.CONTENT_FILTER),
        ("eos", TerminalReason.STOP),
        ("eos_token", TerminalReason.STOP),
        ("stop_sequence", TerminalReason.STOP),
        ("end_turn", TerminalReason.STOP),
        ("tool_use", TerminalReason.STOP),
        ("model_length", TerminalReason.OUTPUT_LIMIT),
        ("model_context_window_exceeded", TerminalReason.CONTEXT_OVERFLOW),
        ("sensitive", TerminalReason.CONTENT_FILTER),
        ("STOP", TerminalReason.STOP),
        ("MAX_TOKENS", TerminalReason.OUTPUT_LIMIT),
        ("refusal", TerminalReason.CONTENT_FILTER),
        ("weird", TerminalReason.PROVIDER_ERROR),
    ],
)
async def test_finish_reasons_are_mapped(finish_reason: str, expected: TerminalReason) -> None:
    response, _ = await ask(text_reply("x", finish_reason=finish_reason))
    assert response.terminal_reason is expected
    assert response.evidence.provider_finish_reason == finish_reason


@pytest.mark.parametrize(
    "finish_reason",
    ["abort", "error", "insufficient_system_resource", "function_call_filter: MALFORMED_FUNCTION_CALL"],
)
async def test_an_answer_that_the_server_gave_up_can_be_asked_for_again(finish_reason: str) -> None:
    error = await failure(text_reply("", finish_reason=finish_reason))
    assert (error.kind, error.code, error.retryable) == ("stream", "answer_given_up", True)
    assert finish_reason in error.message and error.partial.usage.output_tokens == 5
    assert error.partial.evidence.provider_finish_reason == finish_reason


async def test_calls_cut_by_the_output_limit_keep_that_reason() -> None:
    reply = tool_calls_reply([("ls", '{"p')])
    cut = Reply((reply.body.replace(b'"tool_calls"}]', b'"length"}]'),))
    response, _ = await ask(cut)
    assert response.terminal_reason is TerminalReason.OUTPUT_LIMIT


async def test_a_refusal_is_a_content_filter_with_its_text() -> None:
    response, _ = await ask(stream_reply(chunk({"refusal": "I will "}), chunk({"refusal": "not"}, "stop")))
    assert response.terminal_reason is TerminalReason.CONTENT_FILTER
    assert response.terminal_diagnostic == "the model refused: I will not"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (usage_of(100, 7, prompt_tokens_details={"cached_tokens": 40}), TokenUsage(60, 7, 40)),
        (usage_of(100, 7, prompt_cache_hit_tokens=40), TokenUsage(60, 7, 40)),
        (usage_of(100, 7, cached_tokens=40, cache_write_tokens=10), TokenUsage(50, 7, 40, 10)),
        (usage_of(10, 7, cached_tokens=40), TokenUsage(0, 7, 40)),
        (usage_of(10, 20, completion_tokens_details={"reasoning_tokens": 15}), TokenUsage(10, 20, 0, 0, 15)),
        ({"input_tokens": 4, "output_tokens": 2}, TokenUsage(4, 2)),
    ],
)
async def test_usage_buckets_do_not_overlap(usage: dict[str, Any], expected: TokenUsage) -> None:
    response, _ = await ask(text_reply("x", usage=usage))
    assert response.usage == expected


async def test_usage_inside_a_choice_counts_and_later_reports_overwrite() -> None:
    first = chunk({"content": "x"}, "stop")
    first["choices"][0]["usage"] = usage_of(8, 1)
    response, _ = await ask(stream_reply(first, chunk(usage={"completion_tokens": 3})))
    assert response.usage == TokenUsage(8, 3)


async def test_reported_zero_reasoning_tokens_differ_from_none() -> None:
    usage = usage_of(1, 1, completion_tokens_details={"reasoning_tokens": 0})
    response, _ = await ask(text_reply("x", usage=usage))
    assert response.evidence.reasoning_output_tokens == 0


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_text"])
async def test_reasoning_keeps_its_place_and_is_shown_only_when_told(field: str) -> None:
    reply = stream_reply(chunk({field: "hm"}), chunk({field: "m"}), chunk({"content": "hi"}, "stop"))
    response, events = await ask(reply)
    assert response.parts == (ReasoningPart("hmm"), ProsePart("hi"))
    assert events == [TextDelta("hi")]
    _, events = await ask(reply, expose_thinking=True)
    assert events == [ReasoningDelta("hm"), ReasoningDelta("m"), TextDelta("hi")]


@pytest.mark.parametrize("done", [False, True], ids=["eof", "done marker"])
async def test_a_stream_without_finish_reason_is_never_an_answer(done: bool) -> None:
    error = await failure(stream_reply(chunk({"content": "half"}), chunk(usage=usage_of(9, 1)), done=done))
    assert (error.kind, error.code, error.retryable) == ("stream", "stream_ended_before_finish_reason", True)
    assert error.message == "the answer ended before the provider said it was complete"
    assert error.partial.parts == (ProsePart("half"),)
    assert error.partial.usage == TokenUsage(9, 1)
    assert error.partial.evidence.provider_response_id == "chatcmpl-1"
    assert error.protocol_position == "output_started"


async def test_every_truncation_before_the_proof_is_a_retryable_failure() -> None:
    body = tool_calls_reply([("rm", {"path": "/"})]).body
    proof = body.index(b'"finish_reason": "tool_calls"')
    for end in range(proof):
        error = await failure(Reply((body[:end],)))
        assert (error.kind, error.retryable) == ("stream", True), end


async def test_a_truncation_after_the_proof_is_an_answer() -> None:
    body = text_reply("x").body
    event_end = body.index(b"\n\n", body.index(b'"finish_reason": "stop"'))
    for end in range(event_end, len(body)):
        response, _ = await ask(Reply((body[:end],), ending="reset"))
        assert response.full_text == "x", end


async def test_a_connection_lost_before_the_proof_keeps_what_had_arrived() -> None:
    error = await failure(cut_reply("half"))
    assert (error.kind, error.retryable, error.partial.full_text) == ("transport", True, "half")


async def test_an_error_inside_the_stream_is_classified_by_its_code_first() -> None:
    embedded = {"error": {"message": "context window rate limit", "code": "insufficient_quota"}}
    error = await failure(stream_reply(chunk({"content": "x"}), embedded))
    assert (error.kind, error.code, error.retryable) == ("quota", "insufficient_quota", False)
    assert error.partial.full_text == "x"


@pytest.mark.parametrize("is_whole", [False, True], ids=["in a stream", "as the whole answer"])
async def test_a_document_that_calls_itself_an_error_is_one(is_whole: bool) -> None:
    document = {"object": "error", "message": "the prompt has no end", "type": "BadRequestError", "code": 400}
    error = await failure(json_reply(document) if is_whole else stream_reply(document))
    assert (error.kind, error.status, error.retryable) == ("validation", 400, False)
    assert "the prompt has no end" in error.message


async def test_the_words_of_a_server_in_the_place_of_an_event_are_told() -> None:
    """As mistral.rs says why it answers nothing."""
    error = await failure(Reply((sse("Number of choices must be greater than 0.", "never"),)))
    assert error.message == "the stream holds an event that is not JSON: Number of choices must be greater than 0."
    assert "half" not in (await failure(Reply((sse('{"choices": [{"delta": {"content": "half'),)))).message


@pytest.mark.parametrize("event", ["{not json", "[1]", '"text"'])
async def test_an_event_that_is_no_json_object_is_a_stream_failure(event: str) -> None:
    error = await failure(Reply((sse(event, chunk({"content": "x"}, "stop")),)))
    assert (error.kind, error.code, error.retryable) == ("stream", "invalid_sse_json", True)


@pytest.mark.parametrize(
    "document",
    [
        {"choices": None, "usage": "lots", "id": 7, "model": []},
        {"choices": [None, {"index": 0, "delta": "x", "finish_reason": 3}]},
        {"choices": [{"delta": {"content": 5, "tool_calls": [None, {"function": "x", "index": "a"}]}}]},
    ],
)
async def test_fields_of_the_wrong_type_are_ignored(document: dict[str, Any]) -> None:
    response, _ = await ask(stream_reply(document, chunk({"content": "ok"}, "stop")))
    assert response.full_text == "ok"


async def test_an_answer_under_the_status_of_something_made_is_an_answer() -> None:
    """What frameworks that gateways are written in say of every POST."""
    response, _ = await ask(replace(text_reply("ok"), status=201))
    assert response.full_text == "ok"


@pytest.mark.parametrize("reply", [html_reply(), Reply((b"<html>",))], ids=["html", "html called a stream"])
async def test_a_web_page_with_status_200_is_named_as_such(reply: Reply) -> None:
    error = await failure(reply)
    assert (error.code, error.retryable) == ("unexpected_html", False)
    assert "check base_url" in error.message


async def test_another_content_type_is_named() -> None:
    error = await failure(Reply((b"pong",), 200, {"content-type": "text/plain; charset=utf-8"}))
    assert error.code == "unexpected_content_type"
    assert "text/plain" in error.message


async def test_a_list_is_not_said_to_be_no_json() -> None:
    error = await failure(json_reply([chunk({"content": "x"}, "stop")]))
    assert error.code == "unexpected_content_type"
    assert "application/json that is neither an event stream nor one JSON object" in error.message


async def test_what_is_kept_of_another_content_is_cut_behind_the_redaction() -> None:
    error = await failure(Reply((b"x" * 390 + KEY.encode(),), 200, {"content-type": "text/plain"}))
    assert error.raw is not None and KEY[:8] not in error.raw


def whole(message: dict[str, Any], finish_reason: str | None = "stop") -> Reply:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json_reply({"id": "c", "model": "m", "object": "chat.completion", "choices": [choice], "usage": usage_of()})


async def test_a_whole_answer_to_a_streaming_request_is_accepted() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
    response, events = await ask(whole({"role": "assistant", "content": "hi", "tool_calls": [call]}, "tool_calls"))
    assert response.parts == (ProsePart("hi"), ToolCallPart("a", "ls", "{}"))
    assert response.usage == TokenUsage(10, 5)
    assert TextDelta("hi") in events


@pytest.mark.parametrize("same", [{"id": "a"}, {"id": "a", "index": 0}, {"index": 0}, {}])
async def test_in_a_whole_answer_every_call_is_one_whatever_it_has_in_common(same: dict[str, Any]) -> None:
    functions = [{"name": "ls", "arguments": "{}"}, {"name": "cat", "arguments": '{"y":1}'}, {"name": "cat"}]
    message = {"tool_calls": [{**same, "type": "function", "function": function} for function in functions]}
    response, _ = await ask(whole(message, "tool_calls"))
    assert [(call.tool_name, call.input_json) for call in response.tool_calls] == [
        ("ls", "{}"),
        ("cat", '{"y":1}'),
        ("cat", "{}"),
    ]
    assert len({call.tool_call_id for call in response.tool_calls}) == 3


async def test_a_whole_answer_without_finish_reason_is_not() -> None:
    assert (await failure(whole({"content": "hi"}, None))).code == "stream_ended_before_finish_reason"


async def test_a_broken_whole_answer_is_a_stream_failure() -> None:
    error = await failure(Reply((b'{"choices": [',), 200, {"content-type": "application/json"}))
    assert (error.kind, error.code, error.retryable) == ("stream", "invalid_json", True)


async def test_an_error_document_with_status_200_is_classified() -> None:
    error = await failure(json_reply({"error": {"message": "no", "code": "invalid_api_key"}}))
    assert (error.kind, error.retryable) == ("auth", False)


async def test_a_compression_nobody_asked_for_is_named() -> None:
    headers = {"content-type": "text/event-stream", "content-encoding": "br"}
    error = await failure(Reply((b"\x0b\x02\x80data\x03",), headers=headers))
    assert (error.kind, error.code, error.retryable) == ("http", "unexpected_content_encoding", False)
    assert "(br)" in error.message
    answer, _ = await ask(Reply(text_reply("hi").chunks, headers={**headers, "content-encoding": "utf-8"}))
    assert answer.full_text == "hi"


async def test_what_was_cut_off_in_an_event_is_not_quoted() -> None:
    assert (await failure(Reply((b'data: {"choices": []}\n\ndata: {"cho',)))).message == (
        'the answer ended before the provider said it was complete; the last it said was {"choices": []}'
    )


async def test_an_empty_body_is_a_retryable_failure() -> None:
    assert (await failure(Reply(()))).code == "stream_ended_before_finish_reason"
    compressed = Reply((), headers={"content-type": "text/event-stream", "content-encoding": "br"})
    assert (await failure(compressed)).code == "stream_ended_before_finish_reason"


async def test_an_empty_answer_is_a_retryable_failure() -> None:
    error = await failure(stream_reply(chunk({"content": ""}), chunk(finish_reason="stop")))
    assert (error.kind, error.code, error.retryable) == ("stream", "empty_response", True)


async def test_an_empty_answer_after_a_tool_result_is_an_answer() -> None:
    response, _ = await ask(stream_reply(chunk(finish_reason="stop")), of=request(USER, RESULT))
    assert (response.parts, response.terminal_reason) == ((), TerminalReason.STOP)


async def test_an_empty_answer_with_a_reason_of_its_own_is_returned() -> None:
    response, _ = await ask(stream_reply(chunk(finish_reason="length")))
    assert response.terminal_reason is TerminalReason.OUTPUT_LIMIT


async def test_a_refused_request_is_classified_and_shows_no_key() -> None:
    body = {"error": {"message": f"Incorrect API key provided: {KEY}. Bearer {KEY}", "code": "invalid_api_key"}}
    error = await failure(error_reply(401, body))
    assert (error.kind, error.status, error.code, error.retryable) == ("auth", 401, "invalid_api_key", False)
    assert "[redacted]" in error.message


async def test_the_wait_a_provider_asks_for_is_passed_on() -> None:
    error = await failure(error_reply(429, headers={"retry-after": "3"}))
    assert (error.kind, error.retryable, error.retry_after_ms) == ("quota", True, 3000)


async def test_a_transport_failure_that_echoes_the_key_is_redacted() -> None:
    echo = LlmTransportError(f"bad header {KEY}", kind="transport", retryable=True)
    error = await failure(echo)
    assert error.message == "bad header [redacted]"


async def test_a_long_error_is_cut() -> None:
    error = await failure(error_reply(400, json.dumps({"error": {"message": "x" * 5000}})))
    assert len(error.message) == 1024


async def test_an_endpoint_or_a_model_may_accept_the_end_of_a_stream_as_proof() -> None:
    unproved = stream_reply(chunk({"content": "all of it"}))
    response, _ = await ask(unproved, termination="tolerate_eof")
    assert (response.full_text, response.terminal_reason) == ("all of it", TerminalReason.STOP)
    assert response.evidence is not None
    assert response.evidence.provider_finish_reason is None
    spec = ModelSpec("test-model", capability=ModelCapability(stream_termination="tolerate_eof"))
    response, _ = await ask(unproved, of=msgspec.structs.replace(request(), model=spec))
    assert response.full_text == "all of it"


async def test_thoughts_alone_are_no_answer_where_the_end_of_a_stream_proves_one() -> None:
    thinking = stream_reply(chunk({"reasoning_content": "hm"}), chunk({"content": "\n"}), done=False)
    error = await failure(thinking, termination="tolerate_eof")
    assert (error.code, error.retryable) == ("stream_ended_before_finish_reason", True)


async def test_an_event_that_was_cut_is_no_end_that_stands_for_a_proof() -> None:
    whole = stream_reply(chunk({"content": "half an"}), chunk({"content": " answer"}), done=False)
    cut = whole.split_at(len(whole.body) - 40)
    error = await failure(replace(cut, chunks=cut.chunks[:1]), termination="tolerate_eof")
    assert error.code == "stream_ended_before_finish_reason"


async def test_a_refusal_is_an_answer_where_the_end_of_a_stream_proves_one() -> None:
    response, _ = await ask(stream_reply(chunk({"refusal": "no"})), termination="tolerate_eof")
    assert (response.parts, response.terminal_reason) == ((), TerminalReason.CONTENT_FILTER)


async def test_a_model_that_demands_proof_wins_over_an_endpoint_that_does_not() -> None:
    spec = ModelSpec("test-model", capability=ModelCapability(stream_termination="require"))
    demanding = msgspec.structs.replace(request(), model=spec)
    with pytest.raises(LlmTransportError) as caught:
        await ask(stream_reply(chunk({"content": "x"})), of=demanding, termination="tolerate_eof")
    assert caught.value.code == "stream_ended_before_finish_reason"


async def test_a_tolerated_end_never_completes_a_cut_tool_call_or_a_broken_connection() -> None:
    cut = {"index": 0, "id": "c1", "function": {"name": "ls", "arguments": '{"path": "/'}}
    error = await failure(stream_reply(chunk({"tool_calls": [cut]}), done=False), termination="tolerate_eof")
    assert error.code == "stream_ended_before_finish_reason"
    error = await failure(cut_reply("half", ending="reset"), termination="tolerate_eof")
    assert error.kind == "transport"


async def test_a_refusal_whose_body_outlasts_the_call_is_judged_by_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ERROR_BODY_SECONDS", 0.05)
    reply = replace(error_reply(401, "half of a rea"), ending="hang")
    error = await failure(reply, timeouts=Timeouts(request=0.01))
    assert (error.kind, error.status, error.retryable) == ("auth", 401, False)
