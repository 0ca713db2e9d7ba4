"""What the Anthropic Messages wire sends (contract 06 §9.3, §4, §7, §8, §17; design D21)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from support.anthropic import whole_reply
from support.clock import ManualCancel, ManualClock
from support.sent import assert_refused, assistant, sent, user
from support.sent import request_over as request
from support.wire import ScriptedTransport
from support.wires import wire

from lash_cli.core.content import (
    AttachmentPart,
    CodePart,
    ErrorPart,
    ExternalUrl,
    Inline,
    Message,
    ProsePart,
    ProviderFile,
    ReasoningPart,
    ReasoningReplay,
    Role,
    Stored,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import (
    JsonObjectOutput,
    JsonSchemaOutput,
    LlmToolSpec,
    MessageSequence,
    ToolChoice,
)
from lash_cli.core.policy import (
    ModelCapability,
    ModelLimits,
    ModelSpec,
    ReasoningCapability,
    ReasoningDisabled,
    ReasoningEffort,
    ReasoningSelection,
)
from lash_cli.errors import ConfigError
from lash_cli.providers.anthropic_request import AnthropicEncoder, wire_call_id
from lash_cli.providers.catalog import ProviderSettings, build_caller

BASE = "http://test.invalid"
ROUTE = f"{BASE}/v1/messages"
LS = LlmToolSpec("ls", "lists", {"type": "object", "properties": {"path": {"type": "string"}}})


def encoder(**options: Any) -> AnthropicEncoder:
    return AnthropicEncoder(BASE, **{"cache_retention": "none"} | options)


def body(*messages: Message, options: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return json.loads(encoder(**options or {}).body(request(messages, **fields)))


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def test_the_body_of_a_tool_conversation_to_the_byte() -> None:
    sent = encoder(cache_retention="short").body(
        request(
            (
                user("list"),
                assistant(ProsePart("sure"), ToolCallPart("c1", "ls", '{"p": 1}')),
                Message("r", Role.USER, (ToolResultPart("c1", "ls", "a b"),)),
            ),
            system="be kind",
            tools=(LS,),
            output_token_cap=99,
            tool_choice=ToolChoice.REQUIRED,
        )
    )
    mark = {"cache_control": {"type": "ephemeral"}}
    assert json.loads(sent) == {
        "tools": [{"name": "ls", "description": "lists", "input_schema": LS.input_schema, **mark}],
        "system": [text("be kind") | mark],
        "messages": [
            {"role": "user", "content": [text("list")]},
            {
                "role": "assistant",
                "content": [
                    text("sure") | mark,
                    {"type": "tool_use", "id": "c1", "name": "ls", "input": {"p": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "a b", **mark}]},
        ],
        "max_tokens": 99,
        "model": "test-model",
        "stream": True,
        "tool_choice": {"type": "any"},
    }
    assert (len(sent), hashlib.sha256(sent).hexdigest()) == (
        671,
        "a75cee39f4e3eeb12303f1d86166c95374c67219e76a7082385ccbe469968f62",
    )


def test_a_request_without_anything_optional_says_nothing_about_it() -> None:
    assert body(user("hi"), stream=False) == {
        "messages": [{"role": "user", "content": [text("hi")]}],
        "max_tokens": 32_768,
        "model": "test-model",
        "stream": True,
    }


@pytest.mark.parametrize(
    ("cap", "default", "capacity", "sent"),
    [(None, 32_768, None, 32_768), (None, 500, None, 500), (None, 32_768, 8_192, 8_192), (99, 500, 8_192, 99)],
)
def test_the_output_is_capped_by_the_request_else_the_option_within_what_the_model_can(
    cap: int | None, default: int, capacity: int | None, sent: int
) -> None:
    model = ModelSpec("m", limits=ModelLimits(None, capacity))
    options = {"max_output_tokens": default}
    assert body(user("x"), model=model, output_token_cap=cap, options=options)["max_tokens"] == sent


@pytest.mark.parametrize(
    ("choice", "sent"),
    [(ToolChoice.AUTO, None), (ToolChoice.NONE, {"type": "none"}), (ToolChoice.REQUIRED, {"type": "any"})],
)
def test_a_tool_choice_is_said_where_it_is_not_the_models_own(choice: ToolChoice, sent: Any) -> None:
    assert body(user("x"), tools=(LS,), tool_choice=choice).get("tool_choice") == sent
    assert "tool_choice" not in body(user("x"), tool_choice=choice)


def test_leading_system_messages_join_the_system_prompt_and_later_ones_are_the_users() -> None:
    def system(content: str) -> Message:
        return Message("s", Role.SYSTEM, (TextPart(content),))

    sent = body(system("one"), system("  "), system("two"), user("hi"), system("limit reached"), system="zero")
    assert sent["system"] == [text("zero"), text("one"), text("two")]
    assert sent["messages"] == [{"role": "user", "content": [text("hi"), text("limit reached")]}]


def test_a_system_message_behind_an_empty_one_is_not_lost() -> None:
    limit = Message("s", Role.SYSTEM, (TextPart("limit reached"),))
    for first in (user(""), assistant()):
        sent = body(first, limit, user("hi"))
        assert sent["messages"] == [{"role": "user", "content": [text("limit reached"), text("hi")]}]
        assert "system" not in sent


def test_neighbours_of_one_role_share_a_message_and_blank_text_is_left_out() -> None:
    sent = body(
        user("one"),
        Message("e", Role.EVENT, (TextPart("two", "timer"),)),
        assistant(),
        user(" \n"),
        assistant(ProsePart("three"), ProsePart(" ")),
        assistant(CodePart("print(4)")),
        user("five"),
    )
    assert sent["messages"] == [
        {"role": "user", "content": [text("one"), text("[timer]\ntwo")]},
        {"role": "assistant", "content": [text("three"), text("```lua\nprint(4)\n```")]},
        {"role": "user", "content": [text("five")]},
    ]


def test_results_precede_what_the_user_added_to_them_and_failures_are_marked() -> None:
    message = Message(
        "u",
        Role.USER,
        (TextPart("and this"), ToolResultPart("c", "ls", "no", "failure"), ToolResultPart("d", "ls", "")),
    )
    assert body(message)["messages"][0]["content"] == [
        {"type": "tool_result", "tool_use_id": "c", "content": "no", "is_error": True},
        {"type": "tool_result", "tool_use_id": "d"},
        text("and this"),
    ]


@pytest.mark.parametrize("call_id", ["toolu_01AbC-9", "x" * 64])
def test_a_call_id_this_wire_takes_stays_as_it_is(call_id: str) -> None:
    assert wire_call_id(call_id) == call_id


def test_other_call_ids_are_mapped_alike_for_call_and_result_and_stay_different() -> None:
    foreign = ["a:b", "a.b", "é", "", "y" * 65, "y" * 66]
    mapped = [wire_call_id(identity) for identity in foreign]
    assert len(set(mapped)) == len(foreign)
    for identity, on_wire in zip(foreign, mapped, strict=True):
        assert 0 < len(on_wire) <= 64
        assert wire_call_id(on_wire) == on_wire
        sent = body(
            assistant(ToolCallPart(identity, "ls", "{}")),
            Message("r", Role.USER, (ToolResultPart(identity, "ls", "x"),)),
        )
        call, result = (message["content"][0] for message in sent["messages"])
        assert call["id"] == result["tool_use_id"] == on_wire


@pytest.mark.parametrize("raw", ['{"p":', "no json", '["p"]', "7", "null", ""])
def test_past_arguments_that_are_no_object_are_quoted_in_one(raw: str) -> None:
    assert body(assistant(ToolCallPart("c1", "ls", raw)))["messages"][0]["content"][0]["input"] == {
        "invalid_arguments": raw
    }


def test_past_arguments_that_are_an_object_keep_their_bytes() -> None:
    raw = '{"z": 1.0,  "a": "\\u00e9", "big": 123456789012345678901234567890}'
    sent = encoder().body(request((assistant(ToolCallPart("c1", "ls", raw)),)))
    assert raw.encode() in sent


def said(provider: str | None, **replay: Any) -> Message:
    return assistant(ReasoningPart("a thought", ReasoningReplay(provider=provider, **replay)), ProsePart("hi"))


def test_thinking_is_signed_only_on_the_route_that_made_it_and_is_text_elsewhere() -> None:
    def first(message: Message) -> dict[str, Any]:
        return body(message)["messages"][0]["content"][0]

    signed = {"type": "thinking", "thinking": "a thought", "signature": "sig"}
    assert first(said(ROUTE, signature="sig")) == signed
    assert first(said("https://elsewhere", signature="sig")) == text("a thought")
    assert first(said(None, signature="sig")) == text("a thought")
    assert first(said(ROUTE)) == text("a thought")
    redacted = assistant(
        ReasoningPart("", ReasoningReplay(provider=ROUTE, encrypted_content="blob", redacted=True)), ProsePart("hi")
    )
    assert first(redacted) == {"type": "redacted_thinking", "data": "blob"}


def test_foreign_redacted_thinking_and_encrypted_reasoning_are_dropped() -> None:
    foreign = ReasoningReplay(provider="https://elsewhere", item_id="r1", encrypted_content="blob", redacted=True)
    sent = body(assistant(ReasoningPart("", foreign), ProsePart("hi")))
    assert sent["messages"] == [{"role": "assistant", "content": [text("hi")]}]


def test_thinking_whose_text_was_omitted_is_sent_back_by_its_signature() -> None:
    omitted = assistant(ReasoningPart("", ReasoningReplay(provider=ROUTE, signature="sig")), ProsePart("hi"))
    assert body(omitted)["messages"][0]["content"][0] == {"type": "thinking", "thinking": "", "signature": "sig"}


def test_an_assistant_message_never_ends_with_thinking() -> None:
    thought = ReasoningPart("cut", ReasoningReplay(provider=ROUTE, signature="sig"))
    sent = body(user("one"), assistant(thought), user("two"), assistant(ProsePart("x"), thought))
    assert sent["messages"] == [
        {"role": "user", "content": [text("one"), text("two")]},
        {"role": "assistant", "content": [text("x")]},
    ]


def source(media_type: str) -> dict[str, Any]:
    return {"type": "base64", "media_type": media_type, "data": "AA=="}


@pytest.mark.parametrize(
    ("attachment", "block"),
    [
        (Inline("image/png", b"\x00"), {"type": "image", "source": source("image/png")}),
        (Stored("r", "image/webp", 1, "a.webp"), {"type": "image", "source": source("image/webp")}),
        (
            Stored("r", "application/pdf", 1, "doc.pdf"),
            {"type": "document", "title": "doc.pdf", "source": source("application/pdf")},
        ),
        (Inline("application/pdf", b"\x00"), {"type": "document", "source": source("application/pdf")}),
        (Inline("text/csv", b"a,b"), text("[attachment]\na,b")),
        (Inline("application/json", b"{}", "a.json"), text("[a.json]\n{}")),
        (Stored("r", "text/markdown", 1, "x.md"), text("[x.md]\n\x00")),
        (
            ExternalUrl("image/gif", "https://x/y.gif"),
            {"type": "image", "source": {"type": "url", "url": "https://x/y.gif"}},
        ),
        (
            ExternalUrl("application/pdf", "https://x/y.pdf"),
            {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
        ),
        (
            ProviderFile("anthropic", "work", "file_1"),
            {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
        ),
    ],
)
def test_attachments_go_as_the_block_their_type_asks_for(attachment: Any, block: dict[str, Any]) -> None:
    options = {"attachment_bytes": lambda stored: b"\x00", "credential_scope": "work"}
    sent = body(Message("u", Role.USER, (TextPart("see"), AttachmentPart(attachment))), options=options)
    assert sent["messages"][0]["content"][1] == block


@pytest.mark.parametrize(
    "attachment",
    [
        Inline("video/mp4", b"x"),
        Inline("image/tiff", b"x"),
        ExternalUrl("audio/mp3", "http://x"),
        ExternalUrl("text/plain", "http://x"),
        ProviderFile("anthropic", "home", "file_1"),
        ProviderFile("openai", "p", "file_1"),
    ],
)
async def test_an_attachment_the_wire_cannot_carry_is_refused_before_sending(attachment: Any) -> None:
    attaching = Message("u", Role.USER, (AttachmentPart(attachment),))
    await assert_refused("anthropic", "unsupported_attachment_capability", request((attaching,)))


EFFORTS = ModelCapability(ReasoningCapability(("low", "high"), aliases={"max": "high"}, disable="native"))
BUDGETS = ModelCapability(
    ReasoningCapability(("low",), encoding="budget", budgets={"low": 2048}, disable="toggle_false")
)
MALFORMED = ModelCapability(ReasoningCapability(("low",), encoding="budget", disable="somehow"))


@pytest.mark.parametrize(
    ("selection", "capability", "thinking", "output"),
    [
        (ReasoningEffort("max"), EFFORTS, {"type": "adaptive", "display": "omitted"}, {"effort": "high"}),
        (ReasoningEffort("low"), BUDGETS, {"type": "enabled", "budget_tokens": 2048, "display": "omitted"}, None),
        (ReasoningDisabled(), EFFORTS, {"type": "disabled"}, None),
        (ReasoningDisabled(), BUDGETS, {"type": "disabled"}, None),
    ],
)
def test_a_reasoning_selection_is_written_in_this_wires_words(
    selection: ReasoningSelection, capability: ModelCapability, thinking: Any, output: Any
) -> None:
    sent = body(user("x"), model=ModelSpec("m", selection, capability=capability))
    assert (sent["thinking"], sent.get("output_config")) == (thinking, output)


def test_thinking_that_is_shown_is_asked_for_in_readable_form() -> None:
    model = ModelSpec("m", ReasoningEffort("low"), capability=EFFORTS)
    assert body(user("x"), model=model, options={"expose_thinking": True})["thinking"]["display"] == "summarized"


THINKS = ModelCapability(ReasoningCapability(("low", "high"), default_effort="high", disable="native"))


@pytest.mark.parametrize("capability", [None, EFFORTS, BUDGETS])
def test_a_model_that_is_not_known_to_think_by_itself_is_told_nothing(capability: ModelCapability | None) -> None:
    options = {"expose_thinking": True, "thinking_prefix_mismatch": "drop_block"}
    assert "thinking" not in body(user("x"), model=ModelSpec("m", capability=capability), options=options)


def test_a_model_that_thinks_by_itself_is_asked_to_show_it_and_told_nothing_else() -> None:
    model = ModelSpec("m", capability=THINKS)
    assert "thinking" not in body(user("x"), model=model)
    sent = body(user("x"), model=model, options={"expose_thinking": True})
    assert sent["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert "output_config" not in sent


def test_a_model_told_not_to_think_by_saying_nothing_is_told_nothing() -> None:
    silent = ModelCapability(ReasoningCapability(("low",), default_effort="low", disable="omit"))
    model = ModelSpec("m", ReasoningDisabled(), capability=silent)
    assert "thinking" not in body(user("x"), model=model, options={"thinking_prefix_mismatch": "drop_block"})


def test_an_endpoint_is_told_what_becomes_of_thinking_whose_conversation_changed() -> None:
    options = {"thinking_prefix_mismatch": "drop_block"}
    binding = {"type": "adaptive", "display": "omitted", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    for variant in (None, ReasoningEffort("low")):
        model = ModelSpec("m", capability=THINKS) if variant is None else ModelSpec("m", variant, capability=THINKS)
        assert body(user("x"), model=model, options=options)["thinking"] == binding
    off = ModelSpec("m", ReasoningDisabled(), capability=THINKS)
    assert body(user("x"), model=off, options=options)["thinking"] == {"type": "disabled"}
    budget = ModelSpec("m", ReasoningEffort("low"), capability=BUDGETS)
    assert "block_binding" not in body(user("x"), model=budget, options=options)["thinking"]


@pytest.mark.parametrize(
    ("base_url", "options", "said"),
    [
        (None, {}, "drop_block"),
        (None, {"thinking_prefix_mismatch": "error"}, "error"),
        ("http://127.0.0.1:1", {}, None),
        ("http://127.0.0.1:1", {"thinking_prefix_mismatch": "drop_block"}, "drop_block"),
    ],
)
async def test_a_session_goes_on_at_the_providers_own_endpoint_and_others_are_told_only_what_is_configured(
    base_url: str | None, options: dict[str, Any], said: str | None
) -> None:
    settings = ProviderSettings("claude", "anthropic", base_url, "key-0001", options)
    transport = ScriptedTransport(whole_reply(text("ok")))
    caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0, transport=transport)
    model = ModelSpec("m", ReasoningEffort("low"), capability=EFFORTS)

    async def sink(event: object) -> None: ...

    await caller.call(request((user("x"),), model=model), sink=sink, cancel=ManualCancel())
    (sent,) = transport.requests
    binding = json.loads(sent.body)["thinking"].get("block_binding", {})
    assert binding.get("prefix_mismatch_behavior") == said
    assert ("thinking-binding-controls" in sent.headers["anthropic-beta"]) == (said is not None)


@pytest.mark.parametrize(
    ("selection", "capability", "code"),
    [
        (ReasoningEffort("huge"), EFFORTS, "unsupported_effort"),
        (ReasoningEffort("low"), None, "effort_not_configurable"),
        (ReasoningDisabled(), ModelCapability(ReasoningCapability(("low",))), "effort_required"),
        (ReasoningEffort("low"), MALFORMED, "malformed_capability"),
        (ReasoningDisabled(), MALFORMED, "malformed_capability"),
    ],
)
async def test_a_reasoning_selection_the_model_does_not_allow_is_refused_before_sending(
    selection: ReasoningSelection, capability: ModelCapability | None, code: str
) -> None:
    model = ModelSpec("m", selection, capability=capability)
    await assert_refused("anthropic", code, request((user("x"),), model=model))


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}},
    "required": ["n"],
    "additionalProperties": False,
}


def test_a_schema_is_asked_for_beside_the_effort_without_the_limits_this_wire_lacks() -> None:
    model = ModelSpec("m", ReasoningEffort("low"), capability=EFFORTS)
    config = body(user("x"), model=model, output_spec=JsonSchemaOutput("answer", SCHEMA))["output_config"]
    assert config["effort"] == "low"
    assert config["format"]["type"] == "json_schema"
    shown = config["format"]["schema"]
    assert shown["required"] == ["n"]
    assert shown["additionalProperties"] is False
    assert "minimum" not in shown["properties"]["n"]
    assert "1" in shown["properties"]["n"]["description"]


@pytest.mark.parametrize(
    ("output", "code"),
    [
        (JsonObjectOutput(), "output_unsupported"),
        (JsonSchemaOutput("answer", {"type": "object", "not": {"type": "object"}}), "schema_unrepresentable"),
    ],
)
async def test_an_output_the_wire_cannot_ask_for_is_refused_before_sending(output: Any, code: str) -> None:
    await assert_refused("anthropic", code, request((user("x"),), output_spec=output))


@pytest.mark.parametrize("messages", [(), (user(""),), (user(" "), assistant())])
async def test_a_conversation_without_content_is_refused_before_sending(messages: tuple[Message, ...]) -> None:
    await assert_refused("anthropic", "empty_conversation", request(messages, system="sys"))


def test_a_renamed_model_changes_nothing_but_its_name() -> None:
    plain, renamed = body(user("hi")), body(user("hi"), model=ModelSpec("gpt-claude-gemini"))
    assert plain | {"model": None} == renamed | {"model": None}


def test_equal_requests_have_equal_bytes_whoever_encodes_them() -> None:
    tools = (LlmToolSpec("t", "d", {"type": "object", "properties": {"b": {}, "a": {}}}),)
    again = (LlmToolSpec("t", "d", {"properties": {"a": {}, "b": {}}, "type": "object"}),)
    assert encoder().body(request((user("hi"),), tools=tools)) == encoder().body(request((user("hi"),), tools=again))


def test_requests_with_different_tools_do_not_mix() -> None:
    keeping = encoder(cache_retention="short")
    other = LlmToolSpec("cat", "shows", {"type": "object", "properties": {}})
    for tools in ((LS,), (other,), (LS, other), (), (LS,)):
        sent = keeping.body(request((user("hi"),), tools=tools))
        assert sent == encoder(cache_retention="short").body(request((user("hi"),), tools=tools))
        assert [tool["name"] for tool in json.loads(sent).get("tools", ())] == [tool.name for tool in tools]


def test_only_new_messages_are_encoded_and_the_prefix_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    caching = encoder(cache_retention="short")
    encoded: list[str] = []
    original = AnthropicEncoder._pieces

    def counting(self: AnthropicEncoder, odd: frozenset[str], message: Message) -> Any:
        encoded.append(message.id)
        return original(self, odd, message)

    monkeypatch.setattr(AnthropicEncoder, "_pieces", counting)
    roles = (Role.USER, Role.ASSISTANT, Role.ASSISTANT)
    shared = [Message(f"m{i}", roles[i % 3], (TextPart(f"text {i}"),)) for i in range(1000)]
    tail = (user("new", "tail"),)
    first = caching.body(request(MessageSequence(shared, 1000, tail), system="sys"))
    assert len(encoded) == 1001
    encoded.clear()
    more = (*tail, Message("a", Role.ASSISTANT, (ProsePart("ok"),)))
    second = caching.body(request(MessageSequence(shared, 1000, more), system="sys"))
    assert encoded == ["a"]
    shared.extend(more)
    encoded.clear()
    third = caching.body(request(MessageSequence(shared, 1002, (user("next", "n"),)), system="sys"))
    assert encoded == ["n"]
    prefix = first[: first.rindex(b',"cache_control"')]
    assert second.startswith(prefix)
    assert third.startswith(prefix)
    assert third == encoder(cache_retention="short").body(request((*shared, user("next", "n")), system="sys"))


async def sent_headers(
    key: str | None, *messages: Message, model: ModelSpec | None = None, **options: Any
) -> dict[str, str]:
    asked = request(messages or (user("x"),), model=model or ModelSpec("m"))
    called = await sent("anthropic", asked, key=key, base_url=f"{BASE}/", **options)
    assert called.url == ROUTE
    return called.headers


async def test_the_key_has_its_own_header_and_is_absent_without_one() -> None:
    headers = await sent_headers(" abc\n")
    assert headers["x-api-key"] == "abc"
    assert headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in headers
    assert "x-api-key" not in await sent_headers(None)
    assert (await sent_headers("abc", key_header="Authorization"))["authorization"] == "Bearer abc"


async def test_what_is_in_beta_is_announced_only_where_it_is_used() -> None:
    def betas(headers: dict[str, str]) -> list[str]:
        return [name.rpartition("-2")[0] for name in headers["anthropic-beta"].split(",")]

    budgeted = ModelSpec("m", ReasoningEffort("low"), capability=BUDGETS)
    with_file = Message("u", Role.USER, (AttachmentPart(ProviderFile("anthropic", "p", "f")),))
    assert betas(await sent_headers("k")) == ["fine-grained-tool-streaming"]
    assert betas(await sent_headers("k", model=budgeted)) == ["fine-grained-tool-streaming", "interleaved-thinking"]
    assert betas(await sent_headers("k", with_file)) == [
        "fine-grained-tool-streaming",
        "files-api",
    ]
    bound = {"thinking_prefix_mismatch": "error"}
    assert betas(await sent_headers("k", model=ModelSpec("m", capability=THINKS), **bound)) == [
        "fine-grained-tool-streaming",
        "thinking-binding-controls",
    ]
    assert betas(await sent_headers("k", **bound)) == ["fine-grained-tool-streaming"]


def test_fields_of_the_host_are_laid_over_the_body_but_not_over_what_a_call_is_about() -> None:
    options = {"extra_body": {"service_tier": "auto"}, "omit_body": ("max_tokens",)}
    sent = body(user("x"), options=options)
    assert sent["service_tier"] == "auto"
    assert "max_tokens" not in sent
    for field in ("model", "messages", "system", "tools", "stream"):
        with pytest.raises(ConfigError):
            wire("anthropic", BASE, extra_body={field: 1})


async def test_configured_headers_win() -> None:
    headers = await sent_headers("k", headers={"Anthropic-Beta": "mine", "X-Title": "t"})
    assert (headers["anthropic-beta"], headers["x-title"]) == ("mine", "t")


@pytest.mark.parametrize("base_url", ["https://api.anthropic.com/v1", "https://x/v1/messages", "ftp://x"])
def test_a_bad_base_url_is_refused_at_construction(base_url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        wire("anthropic", base_url)
    assert caught.value.code == "invalid_provider_endpoint"


def test_errors_shown_to_the_model_are_text() -> None:
    assert body(Message("e", Role.EVENT, (ErrorPart("it broke"),)))["messages"][0]["content"] == [text("it broke")]
