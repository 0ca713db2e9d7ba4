"""What the Responses wire sends (contract 06 §9.1, §4, §6, §7, §8, §17; design D21)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from support.clock import ManualClock
from support.responses import Answer, call, message, reasoning
from support.sent import assert_refused, assistant, sent, user
from support.sent import request_over as request
from support.wire import ScriptedTransport
from support.wires import wire

from lash_cli.core.content import (
    AttachmentPart,
    CodePart,
    ExternalUrl,
    Inline,
    Message,
    Part,
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
    LlmScope,
    LlmToolSpec,
    MessageSequence,
    ToolChoice,
)
from lash_cli.core.policy import (
    ModelCapability,
    ModelSpec,
    ReasoningCapability,
    ReasoningDisabled,
    ReasoningEffort,
    ReasoningSelection,
)
from lash_cli.errors import ConfigError
from lash_cli.providers.endpoint import HttpProvider
from lash_cli.providers.openai_dialect import OpenAiDialect
from lash_cli.providers.responses_request import ResponsesEncoder

BASE = "http://test.invalid/v1"
ROUTE = f"{BASE}/responses test-model"
LS = LlmToolSpec("ls", "lists", {"type": "object", "properties": {"path": {"type": "string"}}})
REASONS = ModelCapability(ReasoningCapability(("low", "high"), aliases={"max": "high"}, disable="effort(low)"))
BUDGETS = ModelCapability(
    ReasoningCapability(("low",), encoding="budget", budgets={"low": 512}, disable="toggle_false")
)


def body(*messages: Message, options: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    encoder = ResponsesEncoder(BASE, **(options or {}))
    return json.loads(encoder.body(request(messages or (user("hi"),), **fields)))


def items(*messages: Message, **fields: Any) -> list[dict[str, Any]]:
    return body(*messages, **fields)["input"]


def thought(provider: str = ROUTE, encrypted: str | None = "blob", identity: str = "rs_1") -> ReasoningPart:
    return ReasoningPart("hm", ReasoningReplay(provider, identity, encrypted, summary=("hm",)))


def own(text: str, identity: str | None = "msg_1", **meta: Any) -> ProsePart:
    named = {"item_id": identity} if identity else {}
    return ProsePart(text, {"provider": ROUTE, **named, **meta})


def own_call(identity: str = "fc_1", provider: str = ROUTE) -> ToolCallPart:
    return ToolCallPart("c1", "ls", '{"p": 1}', ReasoningReplay(provider, identity))


FULL = (
    (
        user("list"),
        assistant(thought(), own("sure"), own_call()),
        Message("r", Role.USER, (ToolResultPart("c1", "ls", "a b"),)),
        user("and now?", "u2"),
    ),
    {
        "model": ModelSpec("test-model", ReasoningEffort("max"), capability=REASONS),
        "output_spec": JsonSchemaOutput("answer", {"type": "object", "properties": {"n": {"type": "integer"}}}),
        "output_token_cap": 99,
        "system": "be kind",
        "tool_choice": ToolChoice.REQUIRED,
        "tools": (LS,),
    },
)


def test_the_body_of_a_tool_conversation_to_the_byte() -> None:
    messages, fields = FULL
    sent = ResponsesEncoder(BASE, expose_thinking=True, dialect=OpenAiDialect(cache_retention="long")).body(
        request(messages, **fields)
    )
    assert json.loads(sent) == {
        "include": ["reasoning.encrypted_content"],
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "list"}]},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": "blob",
            },
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "sure", "annotations": []}],
            },
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "c1",
                "name": "ls",
                "arguments": '{"p": 1}',
                "status": "completed",
            },
            {"type": "function_call_output", "call_id": "c1", "output": "a b"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "and now?"}]},
        ],
        "instructions": "be kind",
        "max_output_tokens": 99,
        "model": "test-model",
        "parallel_tool_calls": True,
        "prompt_cache_key": "s::f",
        "prompt_cache_retention": "24h",
        "reasoning": {"effort": "high", "summary": "auto"},
        "store": False,
        "stream": True,
        "text": {
            "format": {
                "type": "json_schema",
                "name": "answer",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {"n": {"type": ["integer", "null"]}},
                    "required": ["n"],
                    "additionalProperties": False,
                },
            },
            "verbosity": "medium",
        },
        "tool_choice": "required",
        "tools": [
            {
                "type": "function",
                "name": "ls",
                "description": "lists",
                "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
                "strict": False,
            }
        ],
    }
    assert (len(sent), hashlib.sha256(sent).hexdigest()) == (
        1252,
        "11249b950a9464e01f5b804bccd37618181ae4343ef8c4e5d66a29364ba94a5a",
    )


def test_a_request_without_anything_optional_says_nothing_about_it() -> None:
    assert body(options={"dialect": OpenAiDialect(cache_retention="none")}) == {
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "model": "test-model",
        "store": False,
        "stream": True,
        "text": {"verbosity": "medium"},
    }


def test_encrypted_reasoning_is_asked_for_only_where_a_model_is_known_to_reason() -> None:
    known = ModelSpec("test-model", capability=REASONS)
    assert body(model=known)["include"] == ["reasoning.encrypted_content"]
    assert "reasoning" not in body(model=known)
    assert body(model=known, options={"expose_thinking": True})["reasoning"] == {"summary": "auto"}
    unknown = body(options={"expose_thinking": True})
    assert not {"include", "reasoning"} & unknown.keys()


def test_what_the_system_says_first_is_an_instruction_and_what_it_says_later_the_users() -> None:
    """Servers of local models give the items to a template: many refuse a system message behind others, and a user that
    speaks twice."""
    limit = Message("s", Role.SYSTEM, (TextPart("limit"),))
    (said,) = items(user("a"), limit, user("b", "b"), system="be kind")
    assert said["role"] == "user"
    assert said["content"] == [{"type": "input_text", "text": text} for text in ("a", "limit", "b")]
    first = (limit, Message("s2", Role.SYSTEM, (TextPart(" "), TextPart("more"))), user("a"))
    for messages in (first, MessageSequence(list(first), len(first))):
        sent = json.loads(ResponsesEncoder(BASE).body(request(messages, system="be kind")))
        assert sent["instructions"] == "be kind\n\nlimit\n\nmore"
        assert [item["content"][0]["text"] for item in sent["input"]] == ["a"]


def test_results_precede_what_the_user_added_to_them_and_labels_name_their_source() -> None:
    said = items(Message("u", Role.USER, (TextPart("sum up"), ToolResultPart("c", "ls", "x"), TextPart("a", "stdin"))))
    assert said == [
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "sum up"}, {"type": "input_text", "text": "[stdin]\na"}],
        },
    ]


def test_text_without_an_id_gets_a_stable_one_and_neighbours_share_an_item() -> None:
    (said,) = items(assistant(ProsePart("see"), CodePart("print(1)")))
    assert [block["text"] for block in said["content"]] == ["see", "```lua\nprint(1)\n```"]
    assert said["id"].startswith("msg_lash_")
    assert items(assistant(ProsePart("see"), CodePart("print(1)"))) == [said]
    assert items(assistant(ProsePart("see"), identity="other"))[0]["id"] != said["id"]


def test_messages_of_two_phases_stay_two_items() -> None:
    first, second = items(assistant(own("looking", None, phase="commentary"), own("done", None, phase="final_answer")))
    assert (first["phase"], second["phase"]) == ("commentary", "final_answer")
    assert first["id"] != second["id"]


def test_two_items_of_one_answer_go_back_as_two() -> None:
    said = items(assistant(thought(), own("one"), own("two", "msg_2"), own("more", "msg_2"), own_call()))
    texts = [[block["text"] for block in item["content"]] for item in said if item["type"] == "message"]
    assert texts == [["one"], ["two", "more"]]
    assert [item["id"] for item in said] == ["rs_1", "msg_1", "msg_2", "fc_1"]


def test_annotations_go_back_with_their_text_to_their_own_route_only() -> None:
    note = {"type": "url_citation", "start_index": 0, "end_index": 2, "url": "https://x.invalid", "title": "X"}
    (mine,) = items(assistant(own("cited", None, annotations=[note])))
    assert mine["content"][0]["annotations"] == [note]
    (foreign,) = items(assistant(ProsePart("cited", {"provider": "https://elsewhere", "annotations": [note]})))
    assert foreign["content"][0]["annotations"] == []


@pytest.mark.parametrize(
    "parts",
    [
        (thought("https://elsewhere/v1/responses test-model"), own("hi"), own_call()),
        (thought(f"{BASE}/responses another-model"), own("hi"), own_call()),
        (thought(BASE), own("hi"), own_call()),
        (thought(encrypted=None), own("hi"), own_call()),
        (ReasoningPart("hm"), own("hi"), own_call()),
        (thought(), ProsePart("hi"), own_call()),
        (thought(), own("hi"), thought("https://elsewhere", identity="rs_2"), own_call()),
        (thought(), own("hi"), own_call(), thought(identity="rs_2")),
        (own("hi"), own_call()),
        (thought(), own("hi", "m" * 65), own_call()),
        (thought(identity="r" * 65), own("hi"), own_call()),
    ],
    ids=[
        "endpoint",
        "model",
        "wire",
        "no blob",
        "no replay",
        "spliced text",
        "half",
        "last",
        "stripped",
        "long item id",
        "long reasoning id",
    ],
)
def test_reasoning_that_cannot_stand_before_what_it_led_to_stays_here_with_every_id(parts: tuple[Part, ...]) -> None:
    said = items(assistant(*parts))
    assert [item["type"] for item in said] == ["message", "function_call"]
    assert said[0]["id"].startswith("msg_lash_")
    assert "id" not in said[1]
    assert "blob" not in json.dumps(said)


def test_an_endpoint_whose_machines_share_no_secret_gets_no_reasoning_and_is_asked_for_none() -> None:
    options = {"dialect": OpenAiDialect(replay_reasoning=False)}
    model = ModelSpec("test-model", capability=REASONS)
    sent = body(assistant(thought(), own("hi"), own_call()), model=model, options=options)
    assert [item["type"] for item in sent["input"]] == ["message", "function_call"]
    assert "include" not in sent
    assert "blob" not in json.dumps(sent)


async def test_what_one_call_returned_goes_back_as_it_came() -> None:
    answer = Answer(
        reasoning("hm", "so"),
        message("a", "b", identity="msg_1", phase="commentary"),
        call("ls", '{"p": 1}', identity="fc_1"),
        reasoning(identity="rs_2", encrypted="blob2"),
        call("cat", "{}", call_id="call_2", identity="fc_2"),
    )
    transport = ScriptedTransport(answer.streamed(), Answer(message("done")).streamed())
    provider = HttpProvider(wire("openai_responses", BASE), transport, clock=ManualClock())

    async def sink(event: object) -> None: ...

    first = await provider.complete(request((user("x"),)), sink)
    results = Message("r", Role.USER, (ToolResultPart("call_1", "ls", "1"), ToolResultPart("call_2", "cat", "2")))
    await provider.complete(request((user("x"), assistant(*first.parts), results)), sink)
    sent = json.loads(transport.requests[1].body)["input"]
    assert sent[1:6] == list(answer.items)
    assert [item["type"] for item in sent[6:]] == ["function_call_output"] * 2


@pytest.mark.parametrize("raw", ['{"p":', "no json", '["p"]', ""])
def test_past_arguments_that_are_no_object_are_quoted_in_one(raw: str) -> None:
    (said,) = items(assistant(ToolCallPart("c1", "ls", raw)))
    assert json.loads(said["arguments"]) == {"invalid_arguments": raw}


def test_ids_longer_than_the_api_takes_are_cut_alike_and_stay_distinct() -> None:
    long, other = "x" * 80, "x" * 81
    said = items(
        assistant(ToolCallPart(long, "ls", "{}"), ToolCallPart(other, "ls", "{}")),
        Message("r", Role.USER, (ToolResultPart(long, "ls", "1"), ToolResultPart(other, "ls", "2"))),
    )
    ids = [item["call_id"] for item in said]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2
    assert all(len(identity) == 64 for identity in ids)


def test_the_cache_key_names_the_conversation_and_fits() -> None:
    assert body()["prompt_cache_key"] == "s::f"
    assert "prompt_cache_retention" not in body()
    long = body(scope=LlmScope("s" * 90, "r", "f"))["prompt_cache_key"]
    assert len(long) == 64
    assert long == body(scope=LlmScope("s" * 90, "other request", "f"))["prompt_cache_key"]
    assert not {name for name in body(options={"dialect": OpenAiDialect(cache_retention="none")}) if "cache" in name}


def test_strict_tools_are_closed_and_said_to_be_strict() -> None:
    (tool,) = body(tools=(LS,), options={"dialect": OpenAiDialect(strict_tools=True)})["tools"]
    assert tool["strict"] is True
    assert tool["parameters"] == {
        "type": "object",
        "properties": {"path": {"type": ["string", "null"]}},
        "required": ["path"],
        "additionalProperties": False,
    }


def test_a_json_object_is_asked_for_by_its_format() -> None:
    assert body(output_spec=JsonObjectOutput())["text"] == {"format": {"type": "json_object"}, "verbosity": "medium"}


def test_extra_fields_of_the_host_are_laid_over_the_body() -> None:
    extra = {"text": {"verbosity": "low"}, "include": None, "provider": {"order": ["a"]}, "store": True}
    sent = body(model=ModelSpec("m", capability=REASONS), options={"dialect": OpenAiDialect(extra_body=extra)})
    assert sent["text"] == {"verbosity": "low"}
    assert "include" not in sent
    assert (sent["provider"], sent["store"]) == ({"order": ["a"]}, True)


@pytest.mark.parametrize("field", ["input", "model", "instructions", "tools", "stream"])
def test_extra_fields_never_change_what_a_call_is_about(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        ResponsesEncoder(BASE, dialect=OpenAiDialect(extra_body={field: 1}))


def test_a_renamed_model_changes_nothing_but_its_name() -> None:
    messages, fields = FULL
    fields = fields | {"model": ModelSpec("o9-claude-gemini", ReasoningEffort("max"), capability=REASONS)}
    plain = tuple(message for message in messages if message.role is Role.USER)
    named = FULL[1] | {"model": ModelSpec("plain", ReasoningEffort("max"), capability=REASONS)}
    assert body(*plain, **fields) | {"model": None} == body(*plain, **named) | {"model": None}


def test_equal_requests_have_equal_bytes_whoever_encodes_them() -> None:
    again = LlmToolSpec("ls", "lists", {"properties": {"path": {"type": "string"}}, "type": "object"})
    first = ResponsesEncoder(BASE).body(request((user("hi"),), tools=(LS,)))
    assert first == ResponsesEncoder(BASE).body(request((user("hi"),), tools=(again,)))


def test_only_new_messages_are_encoded_and_the_prefix_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from lash_cli.providers import responses_request

    encoded: list[str] = []
    original = responses_request._ItemEncoder.encode_message

    def counting(self: Any, message: Message) -> bytes:
        encoded.append(message.id)
        return original(self, message)

    monkeypatch.setattr(responses_request._ItemEncoder, "encode_message", counting)
    encoder = ResponsesEncoder(BASE)
    shared = [user(f"text {i}", f"m{i}") for i in range(1000)]
    tail = (user("new", "tail"),)
    first = encoder.body(request(MessageSequence(shared, 1000, tail), system="sys"))
    assert len(encoded) == 1001
    encoded.clear()
    more = (*tail, assistant(thought(), own("ok")))
    second = encoder.body(request(MessageSequence(shared, 1000, more), system="sys"))
    assert encoded == ["a"]
    shared.extend(more)
    encoded.clear()
    last = request(MessageSequence(shared, 1002, (user("next", "n"),)), system="sys", scope=LlmScope("s", "x", "f"))
    third = encoder.body(last)
    assert encoded == ["n"]
    prefix = first[: first.index(b'],"instructions"')]
    assert second.startswith(prefix)
    assert third.startswith(second[: second.index(b'],"instructions"')])
    assert third == ResponsesEncoder(BASE).body(request((*shared, user("next", "n")), system="sys"))


def test_a_session_that_changes_its_model_and_back_sends_each_what_it_may_read() -> None:
    encoder = ResponsesEncoder(BASE)
    shared = [user("x"), assistant(thought(), own("hi"))]
    view = MessageSequence(shared, 2)
    for _ in range(2):
        for model, count in (("test-model", 1), ("another", 0)):
            sent = json.loads(encoder.body(request(view, model=ModelSpec(model))))["input"]
            assert [item["type"] for item in sent].count("reasoning") == count


@pytest.mark.parametrize(("name", "count"), [("work", 1), ("home", 0)])
def test_reasoning_goes_back_under_the_credential_it_was_made_with_only(name: str, count: int) -> None:
    """It is encrypted for an organisation: under the key of another one the whole conversation is refused."""
    reader = wire("openai_responses", BASE, "key-0001", name="work").assembler(request((user("x"),)), None)
    reader.feed(Answer(reasoning("hm"), message("hi")).document())
    conversation = request((user("x"), assistant(*reader.response().parts), user("y", "u2")))
    sent = json.loads(wire("openai_responses", BASE, "key-0002", name=name).body(conversation))["input"]
    assert [item["type"] for item in sent].count("reasoning") == count


PDF = "data:application/pdf;base64,AA=="


@pytest.mark.parametrize(
    ("attachment", "block"),
    [
        (
            Inline("image/png", b"\x00"),
            {"type": "input_image", "detail": "auto", "image_url": "data:image/png;base64,AA=="},
        ),
        (
            ExternalUrl("image/webp", "https://x/y.webp"),
            {"type": "input_image", "detail": "auto", "image_url": "https://x/y.webp"},
        ),
        (ExternalUrl("application/pdf", "https://x/y.pdf"), {"type": "input_file", "file_url": "https://x/y.pdf"}),
        (Inline("application/pdf", b"\x00"), {"type": "input_file", "filename": "attachment.pdf", "file_data": PDF}),
        (
            Stored("sha256:1", "application/pdf", 1, "doc.pdf"),
            {"type": "input_file", "filename": "doc.pdf", "file_data": PDF},
        ),
        (ProviderFile("openai_responses", "work", "file-1"), {"type": "input_file", "file_id": "file-1"}),
        (
            Inline("text/csv", b"a,b"),
            {"type": "input_file", "filename": "attachment.csv", "file_data": "data:text/csv;base64,YSxi"},
        ),
    ],
)
def test_attachments_go_as_the_block_their_type_asks_for(attachment: Any, block: dict[str, Any]) -> None:
    message = Message("u", Role.USER, (TextPart("see"), AttachmentPart(attachment)))
    sent = body(message, options={"attachment_bytes": lambda stored: b"\x00", "credential_scope": "work"})
    assert sent["input"][0]["content"][1] == block


@pytest.mark.parametrize(
    "attachment",
    [
        Inline("video/mp4", b"x"),
        Inline("image/heic", b"x"),
        ExternalUrl("audio/mp3", "http://x"),
        ProviderFile("openai_responses", "another", "file-1"),
        ProviderFile("anthropic", "p", "file-1"),
    ],
)
async def test_an_attachment_the_wire_cannot_carry_is_refused_before_sending(attachment: Any) -> None:
    attaching = Message("u", Role.USER, (AttachmentPart(attachment),))
    await assert_refused("openai_responses", "unsupported_attachment_capability", request((attaching,)))


@pytest.mark.parametrize(
    ("selection", "capability", "code"),
    [
        (ReasoningEffort("huge"), REASONS, "unsupported_effort"),
        (ReasoningEffort("low"), None, "effort_not_configurable"),
        (ReasoningEffort("low"), BUDGETS, "reasoning_encoding_unrepresentable"),
        (ReasoningDisabled(), BUDGETS, "reasoning_encoding_unrepresentable"),
    ],
)
async def test_a_reasoning_selection_the_wire_cannot_say_is_refused_before_sending(
    selection: ReasoningSelection, capability: ModelCapability | None, code: str
) -> None:
    await assert_refused(
        "openai_responses", code, request((user("x"),), model=ModelSpec("m", selection, capability=capability))
    )


async def test_a_schema_the_wire_cannot_say_is_refused_before_sending() -> None:
    spec = JsonSchemaOutput("answer", {"type": "object", "patternProperties": {"^a": {}}})
    await assert_refused("openai_responses", "schema_unrepresentable", request((user("x"),), output_spec=spec))


def test_the_other_dialect_says_budgets_and_none() -> None:
    options = {"dialect": OpenAiDialect(reasoning="openrouter")}
    budget = ModelSpec("m", ReasoningEffort("low"), capability=BUDGETS)
    assert body(model=budget, options=options)["reasoning"] == {"max_tokens": 512}
    off = ModelSpec("m", ReasoningDisabled(), capability=BUDGETS)
    assert body(model=off, options=options)["reasoning"] == {"enabled": False}


async def sent_to(key: str | None, **options: Any) -> tuple[str, dict[str, str]]:
    called = await sent("openai_responses", request((user("x"),)), key=key, base_url=f"{BASE}/", **options)
    return called.url, called.headers


async def test_the_key_is_a_bearer_header_unless_the_endpoint_takes_it_in_its_own() -> None:
    url, headers = await sent_to("abc")
    assert (url, headers["authorization"]) == (f"{BASE}/responses", "Bearer abc")
    url, headers = await sent_to("abc", key_header="Api-Key", query={"api-version": "2025-04-01 preview"})
    assert url == f"{BASE}/responses?api-version=2025-04-01+preview"
    assert headers["api-key"] == "abc"
    assert "authorization" not in headers
    assert "authorization" not in (await sent_to(None))[1]


async def test_an_endpoint_of_many_machines_is_told_which_calls_belong_together() -> None:
    assert "x-client-request-id" not in (await sent_to(None))[1]
    dialect = OpenAiDialect(cache_session_affinity=True)
    assert (await sent_to(None, cache_session_affinity=True))[1]["x-client-request-id"] == "s::f"
    assert body(options={"dialect": dialect})["session_id"] == "s::f"
    assert len(body(options={"dialect": dialect}, scope=LlmScope("s" * 300, "r", "f"))["session_id"]) == 256


def test_a_credential_never_goes_into_the_address() -> None:
    for name in ("subscription-key", "sig", "access_token", "client_secret", "code.auth"):
        with pytest.raises(ConfigError, match=name) as caught:
            wire("openai_responses", BASE, query={name: "canary"})
        assert "canary" not in caught.value.message
    wire("openai_responses", BASE, query={"assignment": "1", "author": "2"})
    with pytest.raises(ConfigError):
        wire("openai_responses", BASE, "k", key_header="api key")


@pytest.mark.parametrize("base_url", [" ", "http://x/v1?a=1", "http://x/v1/responses"])
def test_a_bad_base_url_is_refused_at_construction(base_url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        wire("openai_responses", base_url)
    assert caught.value.code == "invalid_provider_endpoint"
