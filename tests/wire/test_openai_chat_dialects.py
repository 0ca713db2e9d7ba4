"""What the Chat Completions wire says to endpoints that differ: reasoning, strictness, caches, Azure, OpenRouter
(contract 06 §4, §6, §8, §9.2). All of it is data; the defaults are OpenAI's own."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from support.clock import ManualCancel, ManualClock
from support.sent import Sent, assistant, sent, user
from support.wire import ScriptedTransport, chunk, stream_reply, text_reply
from support.wires import wire

from lash_cli.core.content import (
    AttachmentPart,
    ExternalUrl,
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
    JsonObjectOutput,
    JsonSchemaOutput,
    LlmRequest,
    LlmScope,
    LlmToolSpec,
    MessageSequence,
)
from lash_cli.core.policy import (
    ModelCapability,
    ModelSpec,
    ReasoningCapability,
    ReasoningDisabled,
    ReasoningEffort,
)
from lash_cli.errors import ConfigError, LlmTransportError
from lash_cli.providers.catalog import ProviderSettings, build_caller
from lash_cli.providers.chat_request import ChatEncoder
from lash_cli.providers.endpoint import HttpProvider
from lash_cli.providers.openai_dialect import OpenAiDialect

BASE = "http://test.invalid/v1"
ROUTE = f"{BASE}/chat/completions test-model"
SCOPE = LlmScope("s", "s:turn:t:llm:0", "f")
LS = LlmToolSpec("ls", "lists", {"type": "object", "properties": {"path": {"type": "string"}}})
CAT = LlmToolSpec("cat", "reads", {"type": "object", "properties": {}})
EFFORTS = ModelCapability(ReasoningCapability(("low", "high")))
BUDGETS = ModelCapability(
    ReasoningCapability(("low",), encoding="budget", budgets={"low": 512}, disable="toggle_false")
)
OPENROUTER = OpenAiDialect(reasoning="openrouter")
MARK = {"type": "ephemeral"}


def request(*messages: Message, **fields: Any) -> LlmRequest:
    known = {"model": ModelSpec("test-model"), "messages": messages or (user("hi"),), "scope": SCOPE}
    return LlmRequest(**known | fields)


def body(*messages: Message, dialect: OpenAiDialect = OPENROUTER, **fields: Any) -> dict[str, Any]:
    return json.loads(ChatEncoder(BASE, dialect=dialect).body(request(*messages, **fields)))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (ModelSpec("m", ReasoningEffort("high"), capability=EFFORTS), {"reasoning": {"effort": "high"}}),
        (ModelSpec("m", ReasoningEffort("low"), capability=BUDGETS), {"reasoning": {"max_tokens": 512}}),
        (ModelSpec("m", ReasoningDisabled(), capability=BUDGETS), {"reasoning": {"enabled": False}}),
        (ModelSpec("m", capability=BUDGETS), {}),
    ],
)
def test_the_router_dialect_says_efforts_budgets_and_none(model: ModelSpec, said: dict[str, Any]) -> None:
    sent = body(model=model)
    assert {name: value for name, value in sent.items() if name.startswith("reasoning")} == said


def test_the_default_dialect_says_efforts_in_its_own_field() -> None:
    sent = body(model=ModelSpec("m", ReasoningEffort("high"), capability=EFFORTS), dialect=OpenAiDialect())
    assert sent["reasoning_effort"] == "high"
    assert "reasoning" not in sent


async def returned(*deltas: dict[str, Any]) -> tuple[ReasoningPart, ...]:
    provider = HttpProvider(
        wire("openai_chat", BASE),
        ScriptedTransport(stream_reply(*map(chunk, deltas), chunk({"content": "hi"}, "stop"))),
        clock=ManualClock(),
    )

    async def sink(event: object) -> None: ...

    response = await provider.complete(request(), sink)
    return tuple(part for part in response.parts if isinstance(part, ReasoningPart))


FORGETFUL = OpenAiDialect(replay_reasoning=False)


def text_detail(text: str, signature: str | None = None) -> dict[str, Any]:
    detail = {"type": "reasoning.text", "text": text, "signature": signature, "format": "anthropic-claude-v1"}
    return {"reasoning": text, "reasoning_details": [detail]}


async def test_signed_reasoning_comes_back_with_its_signature() -> None:
    (part,) = await returned(text_detail("let me "), text_detail("see"), text_detail("", "sig"))
    assert part == ReasoningPart("let me see", ReasoningReplay(ROUTE, signature="sig"))
    sent = body(Message("a", Role.ASSISTANT, (part, ProsePart("hi"))))["messages"][0]
    assert sent["reasoning_details"] == [{"type": "reasoning.text", "text": "let me see", "signature": "sig"}]


def test_an_endpoint_whose_machines_share_no_secret_gets_no_reasoning_back() -> None:
    thought = ReasoningPart("hm", ReasoningReplay(ROUTE, signature="sig"))
    sent = body(Message("a", Role.ASSISTANT, (thought, ProsePart("hi"))), dialect=FORGETFUL)
    assert sent["messages"] == [{"role": "assistant", "content": "hi"}]


async def test_two_signed_blocks_stay_two() -> None:
    first, second = await returned(text_detail("a", "sig1"), text_detail("b"), text_detail("", "sig2"))
    assert (first.content, first.replay.signature) == ("a", "sig1")
    assert (second.content, second.replay.signature) == ("b", "sig2")


async def test_every_encrypted_detail_comes_back_in_its_place() -> None:
    first = {"type": "reasoning.encrypted", "id": "tool_1", "data": "blob1"}
    second = {"type": "reasoning.encrypted", "id": "tool_2", "data": "blob2"}
    parts = await returned(text_detail("hm"), {"reasoning_details": [first, second, {"type": []}]})
    sent = body(Message("a", Role.ASSISTANT, (*parts, ProsePart("hi"))))["messages"][0]
    assert sent["reasoning_details"] == [first, second]
    assert "".join(part.content for part in parts) == "hm"


def thinking(text: str, **more: Any) -> dict[str, Any]:
    """How LiteLLM passes on a piece of what Claude thinks."""
    return {"reasoning_content": text, "thinking_blocks": [{"type": "thinking", "thinking": text, **more}]}


async def test_what_claude_thinks_behind_litellm_comes_back_in_its_blocks() -> None:
    """Without them Claude refuses the results of the tools that it called as it thought."""
    redacted = {"type": "redacted_thinking", "data": "blob"}
    deltas = (thinking("let "), thinking("me", signature=None), thinking("", signature="sig"))
    parts = await returned(*deltas, {"thinking_blocks": [redacted]}, thinking("again", signature="sig2"))
    assert "".join(part.content for part in parts) == "let meagain"
    message = Message("a", Role.ASSISTANT, (*parts, ToolCallPart("c", "ls", "{}")))
    sent = body(message)["messages"][0]
    assert sent["thinking_blocks"] == [
        {"type": "thinking", "thinking": "let me", "signature": "sig"},
        redacted,
        {"type": "thinking", "thinking": "again", "signature": "sig2"},
    ]
    assert "reasoning_details" not in sent
    for elsewhere in (body(message, model=ModelSpec("another")), body(message, dialect=FORGETFUL)):
        assert "thinking_blocks" not in elsewhere["messages"][0]


async def test_reasoning_told_only_in_details_is_read_there() -> None:
    (part,) = await returned({"reasoning_details": [{"type": "reasoning.summary", "summary": "in short"}]})
    assert part == ReasoningPart("in short")


def test_structured_output_is_asked_for_by_its_projected_schema() -> None:
    spec = JsonSchemaOutput("answer", {"type": "object", "properties": {"n": {"type": "integer"}}}, strict=True)
    assert body(output_spec=spec)["response_format"] == {
        "type": "json_schema",
        "json_schema": {
            "name": "answer",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"n": {"type": ["integer", "null"]}},
                "required": ["n"],
                "additionalProperties": False,
            },
        },
    }
    assert body(output_spec=JsonObjectOutput())["response_format"] == {"type": "json_object"}
    assert "response_format" not in body()


def test_strict_is_said_of_tools_only_where_it_is_meant() -> None:
    (plain,) = body(tools=(LS,))["tools"]
    assert "strict" not in plain["function"]
    (strict,) = body(tools=(LS,), dialect=OpenAiDialect(strict_tools=True))["tools"]
    assert strict["function"]["strict"] is True
    assert strict["function"]["parameters"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({}, {"output_spec": JsonSchemaOutput("a", {"type": "object", "not": {}})}),
        ({"strict_tools": True}, {"tools": (LlmToolSpec("t", "", {"type": "object", "not": {}}),)}),
    ],
    ids=["output", "strict tool"],
)
async def test_a_schema_the_wire_cannot_say_is_refused_before_sending(
    options: dict[str, Any], fields: dict[str, Any]
) -> None:
    transport = ScriptedTransport()
    provider = HttpProvider(wire("openai_chat", BASE, **options), transport, clock=ManualClock())

    async def sink(event: object) -> None: ...

    with pytest.raises(LlmTransportError) as caught:
        await provider.complete(request(**fields), sink)
    assert (caught.value.code, caught.value.retryable) == ("schema_unrepresentable", False)
    assert transport.requests == []


CONVERSATION = (
    user("list", "m1"),
    Message("m2", Role.ASSISTANT, (ProsePart("sure"), ToolCallPart("c1", "ls", "{}"))),
    Message("m3", Role.USER, (ToolResultPart("c1", "ls", "a b"),)),
)


def marked(sent: Any) -> list[str]:
    """What carries a mark: the text of a block, the name of a tool."""
    found: list[str] = []
    if isinstance(sent, dict):
        if "cache_control" in sent:
            found.append(sent["text"] if "text" in sent else sent["function"]["name"])
        for value in sent.values():
            found += marked(value)
    elif isinstance(sent, list):
        for value in sent:
            found += marked(value)
    return found


def test_the_anthropic_dialect_marks_the_last_tool_the_system_prompt_the_last_text_and_the_end() -> None:
    dialect = OpenAiDialect(cache_control="anthropic")
    sent = body(*CONVERSATION, dialect=dialect, system="be kind", tools=(LS, CAT))
    assert sorted(marked(sent)) == ["a b", "be kind", "cat", "sure"]
    assert sent["messages"][0]["content"] == [{"type": "text", "text": "be kind", "cache_control": MARK}]
    assert sent["messages"][-1] == {
        "role": "tool",
        "tool_call_id": "c1",
        "name": "ls",
        "content": [{"type": "text", "text": "a b", "cache_control": MARK}],
    }


def test_long_retention_says_how_long() -> None:
    sent = body(dialect=OpenAiDialect(cache_control="anthropic", cache_retention="long"))
    assert sent["messages"][0]["content"][0]["cache_control"] == MARK | {"ttl": "1h"}


def test_the_gemini_dialect_marks_the_last_text_only() -> None:
    model = ModelSpec("test-model", capability=ModelCapability(cache_control="gemini"))
    assert marked(body(*CONVERSATION, model=model, system="be kind", tools=(LS,))) == ["sure"]


@pytest.mark.parametrize("dialect", [OpenAiDialect(), OpenAiDialect(cache_control="anthropic")])
def test_what_is_empty_is_no_block(dialect: OpenAiDialect) -> None:
    """Claude refuses an empty one, and a list of none."""
    picture = Message("p", Role.USER, (AttachmentPart(ExternalUrl("image/png", "https://example.com/a.png")),))
    nothing, empty = Message("n", Role.USER), Message("e", Role.USER, (TextPart(""),))
    for alone in (nothing, empty):
        assert body(alone, dialect=dialect)["messages"] == [{"content": "", "role": "user"}]
        (said,) = body(picture, alone, dialect=dialect)["messages"]
        assert [block["type"] for block in said["content"]] == ["image_url"]
        (said,) = body(alone, picture, dialect=dialect)["messages"]
        assert [block["type"] for block in said["content"]] == ["image_url"]


@pytest.mark.parametrize("dialect", [OpenAiDialect(), OpenAiDialect(cache_control="anthropic", cache_retention="none")])
def test_nothing_is_marked_without_a_dialect_or_without_retention(dialect: OpenAiDialect) -> None:
    assert marked(body(*CONVERSATION, dialect=dialect, system="be kind", tools=(LS,))) == []


def test_without_its_marks_a_longer_conversation_begins_with_the_shorter_one() -> None:
    encoder = ChatEncoder(BASE, dialect=OpenAiDialect(cache_control="anthropic"))
    shared = list(CONVERSATION[:1])
    bodies = [encoder.body(request(messages=MessageSequence(shared, 1), system="sys", tools=(LS,)))]
    shared += CONVERSATION[1:]
    bodies.append(encoder.body(request(messages=MessageSequence(shared, 3), system="sys", tools=(LS,))))
    shared.append(user("next", "m4"))
    bodies.append(encoder.body(request(messages=MessageSequence(shared, 4), system="sys", tools=(LS,))))
    bare = [re.sub(rb',"cache_control":\{[^}]*\}', b"", sent.split(b'],"model"')[0]) for sent in bodies]
    for shorter, longer in itertools.pairwise(bare):
        assert longer.startswith(shorter)
    assert all(json.loads(sent) for sent in bodies)


def test_blank_text_is_never_marked() -> None:
    dialect = OpenAiDialect(cache_control="anthropic")
    for blank in ("", " \n"):
        sent = body(user("words"), Message("r", Role.USER, (ToolResultPart("c", "ls", blank),)), dialect=dialect)
        assert marked(sent) == ["words"]


def test_a_routing_object_and_other_fields_of_the_host_are_laid_over_the_body() -> None:
    extra = {"provider": {"order": ["a", "b"], "allow_fallbacks": False}, "stream_options": None, "top_k": 3}
    sent = body(dialect=OpenAiDialect(extra_body=extra))
    assert (sent["provider"], sent["top_k"]) == (extra["provider"], 3)
    assert "stream_options" not in sent


@pytest.mark.parametrize("field", ["messages", "model", "tools", "stream"])
def test_extra_fields_never_change_what_a_call_is_about(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        wire("openai_chat", BASE, extra_body={field: 1})


async def sent_to(key: str | None, **options: Any) -> Sent:
    return await sent("openai_chat", request(), key=key, base_url=BASE, **options)


async def test_a_deployment_takes_its_version_in_the_query_and_its_key_in_a_header_of_its_own() -> None:
    url, headers, _ = await sent_to("abc", key_header="api-key", query={"api-version": "2024-10-21"})
    assert url == f"{BASE}/chat/completions?api-version=2024-10-21"
    assert headers["api-key"] == "abc"
    assert "authorization" not in headers


async def test_an_endpoint_of_many_machines_is_told_which_calls_belong_together() -> None:
    _, headers, body = await sent_to(None, cache_session_affinity=True)
    assert headers["x-client-request-id"] == body["session_id"] == "s::f"
    _, headers, body = await sent_to(None)
    assert "x-client-request-id" not in headers
    assert "session_id" not in body


def test_the_key_of_a_header_of_its_own_is_a_secret() -> None:
    called = wire("openai_chat", BASE, "canary", key_header="Ocp-Subscription", headers={"X-Auth": "other"})
    assert set(called.secrets) == {"canary", "other"}


def test_what_a_server_does_not_know_is_left_out_by_its_path() -> None:
    dialect = OpenAiDialect(
        extra_body={"stream_options": {"x": 1}}, omit_body=("stream_options.include_usage", "top_k")
    )
    sent = body(dialect=dialect)
    assert sent["stream_options"] == {"x": 1}
    with pytest.raises(ConfigError, match="messages"):
        ChatEncoder(BASE, dialect=OpenAiDialect(omit_body=("messages",)))


@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses"])
async def test_every_part_of_a_dialect_can_be_configured(kind: str) -> None:
    options = {
        "cache_session_affinity": True,
        "extra_body": {"provider": {"only": ["a"]}},
        "key_header": "api-key",
        "omit_body": ["store"],
        "query": {"api-version": "v1"},
        "reasoning_dialect": "openrouter",
        "strict_tools": True,
    }
    transport = ScriptedTransport(text_reply("ok"))
    settings = ProviderSettings("p", kind, BASE, "abc", options | {"max_attempts": 1})
    caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0, transport=transport)

    async def sink(event: object) -> None: ...

    model = ModelSpec("m", ReasoningEffort("low"), capability=BUDGETS)
    await caller.call(request(model=model, tools=(LS,)), sink=sink, cancel=ManualCancel())
    (outgoing,) = transport.requests
    assert outgoing.url.endswith("?api-version=v1")
    assert outgoing.headers["api-key"] == "abc"
    sent = json.loads(outgoing.body)
    assert (sent["provider"], sent["reasoning"], sent["session_id"]) == ({"only": ["a"]}, {"max_tokens": 512}, "s::f")
    assert "store" not in sent
    assert '"strict":true' in outgoing.body.decode()


async def test_a_routing_object_that_would_change_the_call_is_a_configuration_error() -> None:
    settings = ProviderSettings("p", "openai_chat", BASE, "abc", {"extra_body": {"messages": []}})
    with pytest.raises(ConfigError, match="messages"):
        build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)


async def test_a_server_that_wants_the_words_of_reasoning_back_gets_them_in_its_field() -> None:
    """DeepSeek refuses a past call whose reasoning is missing, also where there was none."""
    conversation = (
        user("go"),
        assistant(ReasoningPart("let me "), ReasoningPart("look"), ToolCallPart("c1", "ls", "{}")),
        Message("r1", Role.USER, (ToolResultPart("c1", "ls", "a"),)),
        assistant(ToolCallPart("c2", "ls", "{}"), identity="a2"),
        Message("r2", Role.USER, (ToolResultPart("c2", "ls", "a"),)),
        assistant(ReasoningPart("", ReasoningReplay("elsewhere", signature="s")), ProsePart("done"), identity="a3"),
        user("and?", "u2"),
        assistant(ReasoningPart("hm", ReasoningReplay("elsewhere", signature="s")), ProsePart("so"), identity="a4"),
        user("more", "u3"),
    )
    plain = (await sent("openai_chat", request(*conversation))).body["messages"]
    asked = await sent("openai_chat", request(*conversation), reasoning_text_field="reasoning_content")
    told = [message.pop("reasoning_content", None) for message in asked.body["messages"]]
    assert told == [None, "let me look", None, "", None, None, None, "hm", None]
    assert asked.body["messages"] == plain
