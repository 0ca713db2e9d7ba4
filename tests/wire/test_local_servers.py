"""Servers that speak Chat Completions in their own way: Ollama, llama.cpp, vLLM, OpenRouter, Azure (contract 06 §9.2).

The shapes are those their documentation and issue trackers show; what is made
of each of them must not depend on where the network cuts the bytes.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from support.clock import ManualCancel, ManualClock
from support.wire import Reply, ScriptedTransport, error_reply, json_reply, sse

from lash_cli.core.content import Message, ReasoningPart, Role, TextPart
from lash_cli.core.llm import LlmCallResult, LlmRequest, LlmScope, LlmToolSpec, StreamEvent
from lash_cli.core.policy import ModelSpec
from lash_cli.core.usage import TokenUsage
from lash_cli.providers.catalog import ProviderSettings, build_caller

TOOL = LlmToolSpec(
    "get_weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


async def call(
    *replies: Reply,
    base_url: str = "http://127.0.0.1:8080/v1",
    key: str | None = None,
    tools: bool = False,
    messages: tuple[Message, ...] = (Message("m", Role.USER, (TextPart("hello"),)),),
    **options: Any,
) -> tuple[LlmCallResult, ScriptedTransport]:
    transport = ScriptedTransport(*replies)
    settings = ProviderSettings("local", "openai_chat", base_url, key, options)
    caller = build_caller(settings, clock=ManualClock(auto_advance=True), ids_bits=lambda _: 0, transport=transport)
    request = LlmRequest(
        model=ModelSpec("some-model"),
        messages=messages,
        scope=LlmScope("s", "s:turn:t:llm:0"),
        tools=(TOOL,) if tools else (),
    )

    async def ignore(event: StreamEvent) -> None:
        return None

    try:
        return await caller.call(request, sink=ignore, cancel=ManualCancel()), transport
    finally:
        await caller.aclose()


def stream(*documents: Any, before: bytes = b"") -> Reply:
    return Reply((before + sse(*documents),))


def choice(model: str, delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    inner = {"index": 0, "finish_reason": finish} | ({"delta": delta} if delta is not None else {})
    return {"id": "chatcmpl-77", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [inner | more.pop("inner", {})], **more}  # fmt: skip


class Served(NamedTuple):
    """One server's answer and what has to come of it."""

    server: str
    reply: Reply
    text: str
    usage: TokenUsage
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()


OLLAMA = "llama3.2"
OLLAMA_TEXT = stream(
    choice(OLLAMA, {"role": "assistant", "content": "", "reasoning": "Let me "}, system_fingerprint="fp_ollama"),
    choice(OLLAMA, {"role": "assistant", "content": "", "reasoning": "think"}, system_fingerprint="fp_ollama"),
    choice(OLLAMA, {"role": "assistant", "content": "It is "}, system_fingerprint="fp_ollama"),
    choice(OLLAMA, {"role": "assistant", "content": "sunny"}, system_fingerprint="fp_ollama"),
    choice(OLLAMA, {"role": "assistant", "content": ""}, "stop", system_fingerprint="fp_ollama"),
    {"id": "chatcmpl-77", "model": OLLAMA, "choices": [],
     "usage": {"prompt_tokens": 26, "completion_tokens": 9, "total_tokens": 35}},
)  # fmt: skip
# Every call is whole in one chunk, several of them numbered 0, and the end may say `stop` all the same.
OLLAMA_CALLS = stream(
    *(
        choice(OLLAMA, {"role": "assistant", "content": "", "tool_calls": [
            {"id": f"call_{city.lower()}", "index": 0, "type": "function",
             "function": {"name": "get_weather", "arguments": f'{{"city":"{city}"}}'}}
        ]})
        for city in ("Oslo", "Rome")
    ),
    choice(OLLAMA, {"role": "assistant", "content": ""}, "stop"),
)  # fmt: skip
LLAMA_CPP = stream(
    choice("gpt-oss", {"role": "assistant", "content": None}),
    choice("gpt-oss", {"reasoning_content": "hm"}),
    choice("gpt-oss", {"content": "It is sunny"}),
    choice("gpt-oss", {}, "stop"),
    {"id": "chatcmpl-77", "model": "gpt-oss", "choices": [],
     "usage": {"prompt_tokens": 100, "completion_tokens": 8, "total_tokens": 108,
               "prompt_tokens_details": {"cached_tokens": 90}},
     "timings": {"cache_n": 90, "prompt_n": 10, "prompt_ms": 30.9, "predicted_n": 8, "predicted_per_second": 52.9}},
)  # fmt: skip
VLLM = stream(
    choice("Qwen/Qwen3-8B", {"role": "assistant", "content": ""}, inner={"logprobs": None}),
    choice("Qwen/Qwen3-8B", {"reasoning": "hm", "reasoning_content": "hm"}),
    choice("Qwen/Qwen3-8B", {"tool_calls": [
        {"index": 0, "id": "chatcmpl-tool-9f", "type": "function", "function": {"name": "get_weather"}}]}),
    choice("Qwen/Qwen3-8B", {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
    choice("Qwen/Qwen3-8B", {"tool_calls": [{"index": 0, "function": {"arguments": ' "Oslo"}'}}]}),
    choice("Qwen/Qwen3-8B", {"content": ""}, "tool_calls", inner={"stop_reason": None}),
    {"id": "chatcmpl-77", "model": "Qwen/Qwen3-8B", "choices": [],
     "usage": {"prompt_tokens": 40, "total_tokens": 60, "completion_tokens": 20, "prompt_tokens_details": None}},
)  # fmt: skip
OPENROUTER = stream(
    choice("vendor/model", {"role": "assistant", "content": "", "reasoning": "hm",
                            "reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0}]},
           provider="Somebody", inner={"native_finish_reason": None}),
    choice("vendor/model", {"role": "assistant", "content": "It is sunny"}, provider="Somebody"),
    choice("vendor/model", {"role": "assistant", "content": ""}, "stop", inner={"native_finish_reason": "STOP"}),
    choice("vendor/model", {"role": "assistant", "content": ""}, None, usage={
        "prompt_tokens": 50, "completion_tokens": 12, "total_tokens": 62, "cost": 0.00014, "is_byok": False,
        "prompt_tokens_details": {"cached_tokens": 30}, "completion_tokens_details": {"reasoning_tokens": 4}}),
    before=b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n",
)  # fmt: skip
_SAFE = {"hate": {"filtered": False, "severity": "safe"}}
# The first chunk has no choice, no id and no model; a late one has a choice without a delta.
AZURE = stream(
    {"id": "", "object": "", "created": 0, "model": "", "choices": [],
     "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _SAFE}]},
    choice("gpt-x-2026", {"role": "assistant", "content": ""}, inner={"content_filter_results": {}}),
    choice("gpt-x-2026", {"content": "It is sunny"}, inner={"content_filter_results": _SAFE}),
    choice("gpt-x-2026", {}, "stop", inner={"content_filter_results": {}}),
    {"id": "", "object": "", "created": 0, "model": "", "usage": None, "choices": [
        {"index": 0, "finish_reason": None, "content_filter_results": _SAFE,
         "content_filter_offsets": {"check_offset": 44, "start_offset": 44, "end_offset": 198}}]},
    {"id": "chatcmpl-77", "model": "gpt-x-2026", "choices": [],
     "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}},
)  # fmt: skip

SERVED = [
    Served("ollama", OLLAMA_TEXT, "It is sunny", TokenUsage(26, 9), "Let me think"),
    Served("ollama calls", OLLAMA_CALLS, "", TokenUsage(), "",
           (("get_weather", '{"city":"Oslo"}'), ("get_weather", '{"city":"Rome"}'))),
    Served("llama.cpp", LLAMA_CPP, "It is sunny", TokenUsage(10, 8, 90), "hm"),
    Served("vllm", VLLM, "", TokenUsage(40, 20), "hm", (("get_weather", '{"city": "Oslo"}'),)),
    Served("openrouter", OPENROUTER, "It is sunny", TokenUsage(20, 12, 30, 0, 4), "hm"),
    Served("azure", AZURE, "It is sunny", TokenUsage(9, 4)),
]  # fmt: skip


def check(result: LlmCallResult, expected: Served) -> None:
    response = result.response
    assert response is not None, result.error
    assert response.full_text == expected.text
    assert response.usage == expected.usage
    reasoning = "".join(part.content for part in response.parts if isinstance(part, ReasoningPart))
    assert reasoning == expected.reasoning
    assert tuple((part.tool_name, part.input_json) for part in response.tool_calls) == expected.calls
    assert len({part.tool_call_id for part in response.tool_calls}) == len(expected.calls)
    assert response.terminal_reason == ("tool_use" if expected.calls else "stop")
    assert response.evidence is not None and response.evidence.provider_response_id == "chatcmpl-77"
    assert response.evidence.served_model


@pytest.mark.parametrize("expected", SERVED, ids=[served.server for served in SERVED])
async def test_the_answer_of_a_server_is_read_whole(expected: Served) -> None:
    result, _ = await call(expected.reply, tools=bool(expected.calls))
    check(result, expected)


@pytest.mark.parametrize("expected", SERVED, ids=[served.server for served in SERVED])
@pytest.mark.parametrize("size", [1, 7, 64])
async def test_where_the_network_cuts_does_not_matter(expected: Served, size: int) -> None:
    cut = expected.reply.split_at(*range(size, len(expected.reply.body), size))
    result, _ = await call(cut, tools=bool(expected.calls))
    check(result, expected)


@pytest.mark.parametrize("expected", SERVED, ids=[served.server for served in SERVED])
async def test_a_stream_that_ends_before_its_finish_is_no_answer(expected: Served) -> None:
    events = expected.reply.body.split(b"\n\n")
    end = next(number for number, event in enumerate(events) if b'"finish_reason": "' in event)
    assert b"data: " in b"".join(events[:end])
    half = Reply((b"\n\n".join(events[:end]) + b"\n\n",))
    result, _ = await call(half, tools=bool(expected.calls), max_attempts=1, retry_after_output="reset")
    assert result.response is None and result.error is not None
    assert result.error.code == "stream_ended_before_finish_reason"


async def test_a_local_server_gets_no_key_and_the_older_name_of_the_output_cap() -> None:
    _, transport = await call(OLLAMA_TEXT, base_url="http://127.0.0.1:11434/v1")
    (request,) = transport.requests
    assert request.url == "http://127.0.0.1:11434/v1/chat/completions"
    assert "authorization" not in {name.lower() for name in request.headers}
    assert b'"stream_options":{"include_usage":true}' in request.body, "none of them reports usage unasked"


async def test_openrouter_gets_its_headers_beside_the_key() -> None:
    headers = {"HTTP-Referer": "https://example.org", "X-Title": "mine"}
    _, transport = await call(OPENROUTER, base_url="https://openrouter.ai/api/v1", key="sk-or-123456", headers=headers)
    sent = {name.lower(): value for name, value in transport.requests[0].headers.items()}
    assert (sent["authorization"], sent["http-referer"], sent["x-title"]) == (
        "Bearer sk-or-123456", "https://example.org", "mine",
    )  # fmt: skip


async def test_azure_gets_its_key_in_its_own_header_and_a_version_behind_the_path() -> None:
    base_url = "https://res.openai.azure.com/openai/deployments/my-gpt"
    options = {"key_header": "api-key", "query": {"api-version": "2024-10-21"}}
    result, transport = await call(AZURE, base_url=base_url, key="azure-key-123456", **options)
    (request,) = transport.requests
    assert request.url == f"{base_url}/chat/completions?api-version=2024-10-21"
    sent = {name.lower(): value for name, value in request.headers.items()}
    assert sent["api-key"] == "azure-key-123456" and "authorization" not in sent
    assert result.response is not None


async def test_the_newer_address_of_azure_needs_only_the_header() -> None:
    _, transport = await call(
        AZURE, base_url="https://res.openai.azure.com/openai/v1/", key="azure-key-123456", key_header="api-key"
    )
    assert transport.requests[0].url == "https://res.openai.azure.com/openai/v1/chat/completions"


def refusal(http_status: int, message: str, **more: Any) -> Reply:
    return error_reply(http_status, {"error": {"message": message, **more}})


REFUSALS: list[tuple[str, Reply, str, str, bool]] = [
    ("ollama, no such model", refusal(404, "model 'x' not found", type="api_error", param=None, code=None),
     "unsupported", "model_not_found", False),
    ("ollama, no tools", refusal(400, "x does not support tools", type="api_error"), "validation", "api_error", False),
    ("ollama, a fault", refusal(500, "llama runner has terminated", type="api_error"), "http", "api_error", True),
    ("llama.cpp, still loading", refusal(503, "Loading model", type="unavailable_error", code=503),
     "http", "unavailable_error", True),
    ("llama.cpp, a wrong key", refusal(401, "Invalid API Key", type="authentication_error", code=401),
     "auth", "authentication_error", False),
    ("llama.cpp, too long", refusal(400, "request (4390 tokens) exceeds the available context size (4096 tokens)",
                                    type="exceed_context_size_error", code=400, n_prompt_tokens=4390, n_ctx=4096),
     "validation", "exceed_context_size_error", False),
    ("llama.cpp, outgrown", refusal(500, "Context size has been exceeded.", type="server_error", code=500),
     "validation", "context_length_exceeded", False),
    ("vllm, too long", error_reply(400, {"object": "error", "type": "BadRequestError", "param": None, "code": 400,
                                         "message": "This model's maximum context length is 8192 tokens."}),
     "validation", "context_length_exceeded", False),
    ("vllm, no such model", refusal(404, "The model `x` does not exist.", type="NotFoundError", code=404),
     "unsupported", "NotFoundError", False),
    ("vllm, a wrong key", error_reply(401, {"error": "Unauthorized"}), "auth", "auth", False),
    ("openrouter, no credit", refusal(402, "Insufficient credits", code=402), "quota", "insufficient_quota", False),
    ("openrouter, what another said", refusal(400, "Provider returned error", code=400, metadata={
        "provider_name": "Somebody", "raw": '{"type":"error","error":{"message":"prompt is too long: 9 > 8"}}'}),
     "validation", "context_length_exceeded", False),
    ("openrouter, what another said in words", refusal(400, "Provider returned error", code=400, metadata={
        "raw": "insufficient credits there", "provider_name": "Somebody"}), "quota", "insufficient_quota", False),
    ("openrouter, flagged", refusal(403, 'x requires moderation. Your input was flagged for "violence".', code=403),
     "validation", "content_filter", False),
    ("openrouter, nobody serves it", refusal(502, "Provider returned error", code=502), "http", "http", True),
    ("azure, a wrong key", refusal(401, "Access denied due to invalid subscription key.", code="401"),
     "auth", "401", False),
    ("azure, no such deployment", refusal(404, "The API deployment for this resource does not exist.",
                                          code="DeploymentNotFound"), "http", "DeploymentNotFound", False),
    ("azure, a filtered prompt", refusal(400, "The response was filtered", code="content_filter", status=400,
                                         innererror={"code": "ResponsibleAIPolicyViolation"}),
     "validation", "content_filter", False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "kind", "code", "retryable"), [row[1:] for row in REFUSALS], ids=[r[0] for r in REFUSALS]
)
async def test_a_refusal_is_told_apart_from_a_fault_that_passes(
    reply: Reply, kind: str, code: str, retryable: bool
) -> None:
    result, transport = await call(reply, max_attempts=1)
    assert result.error is not None
    assert (result.error.kind, result.error.code, result.error.retryable) == (kind, code, retryable)
    assert len(transport.requests) == 1


async def test_azure_says_how_long_to_wait_and_is_asked_again() -> None:
    busy = error_reply(
        429, {"error": {"code": "429", "message": "Requests have exceeded the call rate limit"}}, {"retry-after": "20"}
    )
    result, transport = await call(busy, AZURE)
    assert result.response is not None and len(transport.requests) == 2
    (first, _) = result.record.attempts
    assert first.retry_decision is not None and first.retry_decision.delay_ms == 20_000
    assert not first.retry_budget_consumed


async def test_an_error_of_openrouter_in_the_middle_of_a_stream_is_not_an_answer() -> None:
    broken = stream(
        choice("vendor/model", {"role": "assistant", "content": "It is"}, provider="Somebody"),
        choice("vendor/model", {"content": ""}, "error", error={"code": 502, "message": "Provider disconnected"}),
    )
    result, _ = await call(broken, max_attempts=1)
    assert result.response is None and result.error is not None
    assert "Provider disconnected" in result.error.message
    (attempt,) = result.record.attempts
    assert attempt.protocol_position == "output_started"


@pytest.mark.parametrize("is_whole", [False, True])
async def test_an_error_inside_of_a_choice_is_not_an_answer_either(is_whole: bool) -> None:
    ended = {"index": 0, "finish_reason": "error", "error": {"code": 429, "message": "Somebody is busy"}}
    said = {"role": "assistant", "content": ""}
    whole = json_reply({"choices": [ended | {"message": said}]})
    result, _ = await call(whole if is_whole else stream({"choices": [ended | {"delta": said}]}), max_attempts=1)
    assert result.error is not None
    assert (result.error.kind, result.error.status, result.error.retryable) == ("quota", 429, True)
    assert "Somebody is busy" in result.error.message


async def test_a_server_that_does_not_stream_is_understood_all_the_same() -> None:
    whole = json_reply(
        {"id": "chatcmpl-77", "model": "m", "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It is sunny"}}],
         "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    )  # fmt: skip
    result, _ = await call(whole)
    check(result, Served("any", whole, "It is sunny", TokenUsage(3, 2)))


async def test_the_older_llama_cpp_names_the_field_of_an_error_after_it() -> None:
    said = b'{"code":400,"message":"the request exceeds the available context size","type":"invalid_request_error"}'
    result, transport = await call(Reply((b"error: " + said + b"\n\ndata: [DONE]\n\n",)))
    assert result.error is not None and len(transport.requests) == 1
    assert (result.error.code, result.error.retryable) == ("context_length_exceeded", False)
    assert result.error.terminal_reason == "context_overflow"


@pytest.mark.parametrize("is_whole", [False, True], ids=["in a stream", "as the whole answer"])
@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"code": 500, "msg": "404 NOT_FOUND", "success": False}, "404 NOT_FOUND"),
        ({"id": "x", "choices": None, "base_resp": {"status_code": 1004, "status_msg": "login fail"}}, "login fail"),
        ({"detail": "the model is loading"}, "the model is loading"),
    ],
)
async def test_what_a_server_says_in_the_place_of_an_answer_is_told(
    document: dict[str, Any], said: str, is_whole: bool
) -> None:
    result, _ = await call(json_reply(document) if is_whole else stream(document), max_attempts=1)
    assert result.error is not None and said in result.error.message
    assert result.error.code == "stream_ended_before_finish_reason"


async def test_mistral_thinks_in_blocks_of_its_content() -> None:
    def thinking(text: str) -> dict[str, Any]:
        return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}

    reply = stream(
        choice("magistral", {"role": "assistant", "content": ""}),
        choice("magistral", {"content": [thinking("let ")]}),
        choice("magistral", {"content": [thinking("me see"), {"type": "text", "text": "It is "}]}),
        choice("magistral", {"content": "sunny"}),
        choice("magistral", {"content": ""}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 9}),
    )
    result, _ = await call(reply)
    check(result, Served("mistral", reply, "It is sunny", TokenUsage(3, 9), "let me see"))


def with_arguments(*pieces: str) -> Reply:
    """A call whose arguments come in pieces."""
    function = {"name": "get_weather", "arguments": ""}
    head = {"index": 0, "id": "call_1", "type": "function", "function": function}
    deltas = [head, *({"index": 0, "function": {"arguments": piece}} for piece in pieces)]
    return stream(*(choice("m", {"tool_calls": [delta]}) for delta in deltas), choice("m", {}, "tool_calls"))


@pytest.mark.parametrize(
    ("pieces", "arguments"),
    [
        (('{"city":', '"Oslo"}', '{"city":"Oslo"}'), '{"city":"Oslo"}'),
        (("{}", "{}"), "{}"),
        (('{"a":', "{}", "}"), '{"a":{}}'),
        (('{"a":[', "{}", ",", "{}", "]}"), '{"a":[{},{}]}'),
        (("{", "{", "}"), "{{}"),
        (("{}", '{"city"', ':"Oslo"}'), '{"city":"Oslo"}'),
        (("{}", "\n"), "{}\n"),
    ],
)
async def test_arguments_that_are_said_once_more_at_the_end_count_once(pieces: tuple[str, ...], arguments: str) -> None:
    """vLLM does so for some models, and proxies that put a call together do; gateways to Bedrock begin with none."""
    result, _ = await call(with_arguments(*pieces), tools=True)
    assert result.response is not None
    assert [made.input_json for made in result.response.tool_calls] == [arguments]


async def test_gemini_gets_the_signature_of_a_call_back_where_it_stood() -> None:
    google = {"google": {"thought_signature": "c2lnbmVk"}}
    first = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    second = {"id": "call_2", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    reply = stream(choice("gemini-3", {"tool_calls": [first | {"extra_content": google}, second]}, "tool_calls"))
    result, _ = await call(reply, tools=True)
    assert result.response is not None
    asked = Message("m", Role.USER, (TextPart("hello"),))
    answered = Message("a", Role.ASSISTANT, result.response.parts)

    async def sent(**options: Any) -> list[Any]:
        _, transport = await call(OLLAMA_TEXT, messages=(asked, answered), **options)
        calls = json.loads(transport.requests[0].body)["messages"][1]["tool_calls"]
        return [call.get("extra_content") for call in calls]

    assert await sent() == [google, None]
    assert await sent(base_url="http://127.0.0.1:9999/v1") == [None, None], "no other route can read it"
