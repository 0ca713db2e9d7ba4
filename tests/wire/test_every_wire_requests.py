"""What all wires make of a request alike (contract 06 §9, §7)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from support.clock import ManualClock
from support.sent import BASE, HTTP_KINDS, Sent, assistant, request, sent, sent_or_refused, user
from support.wires import wire

from lash_cli.core.content import (
    AttachmentPart,
    AttachmentSource,
    ExternalUrl,
    Inline,
    Message,
    ProviderFile,
    Role,
    Stored,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import LlmToolSpec, MessageSequence, NormalizedError, ToolChoice
from lash_cli.core.protocols import JudgesAttachments
from lash_cli.errors import ConfigError
from lash_cli.providers.catalog import ProviderSettings, build_caller

TAKEN = re.compile("[A-Za-z0-9_-]{1,64}")


def calls_and_results(kind: str, body: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The past calls as `name`, `arguments` and `id`, and their results as `name` (where a wire says it) and `id`."""
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    match kind:
        case "openai_chat":
            for message in body["messages"]:
                for call in message.get("tool_calls", ()):
                    function = call["function"]
                    arguments = json.loads(function["arguments"])
                    calls.append({"name": function["name"], "arguments": arguments, "id": call["id"]})
                if message["role"] == "tool":
                    results.append({"name": message["name"], "id": message["tool_call_id"]})
        case "openai_responses":
            for item in body["input"]:
                if item["type"] == "function_call":
                    arguments = json.loads(item["arguments"])
                    calls.append({"name": item["name"], "arguments": arguments, "id": item["call_id"]})
                if item["type"] == "function_call_output":
                    results.append({"name": None, "id": item["call_id"]})
        case "anthropic":
            for block in (block for message in body["messages"] for block in message["content"]):
                if block["type"] == "tool_use":
                    calls.append({"name": block["name"], "arguments": block["input"], "id": block["id"]})
                if block["type"] == "tool_result":
                    results.append({"name": None, "id": block["tool_use_id"]})
        case "google":
            for part in (part for content in body["contents"] for part in content["parts"]):
                if "functionCall" in part:
                    call = part["functionCall"]
                    calls.append({"name": call["name"], "arguments": call["args"], "id": call.get("id")})
                if "functionResponse" in part:
                    results.append({"name": part["functionResponse"]["name"], "id": part["functionResponse"].get("id")})
    return calls, results


def called(*calls: ToolCallPart) -> tuple[Message, ...]:
    """A conversation in which these calls were made and answered."""
    results = tuple(ToolResultPart(call.tool_call_id, call.tool_name, "no such tool", "failure") for call in calls)
    return (user("go"), assistant(*calls), Message("r", Role.USER, results), user("on", "u2"))


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("read_file", "read_file"),
        ("fs.read file", "fs_read_file"),
        ('checkErrors" />', "checkErrors____"),
        ("<|channel|>é", "__channel___"),
        ("", "unnamed"),
        ("x" * 300, "x" * 64),
    ],
)
async def test_a_call_by_a_name_no_tool_can_have_does_not_refuse_the_conversation_for_ever(
    kind: str, name: str, expected: str
) -> None:
    body = (await sent(kind, request(*called(ToolCallPart("c1", name, "{}"))))).body
    (call,), (result,) = calls_and_results(kind, body)
    assert call["name"] == expected and TAKEN.fullmatch(call["name"])
    assert result["name"] in (None, expected)


@pytest.mark.parametrize("kind", HTTP_KINDS)
def test_a_past_call_has_the_name_its_tool_is_offered_under_for_as_long_as_it_is_offered(kind: str) -> None:
    """A model that had its call of `files.read` back as another name would call that, and there is no such tool."""
    names = ("files.read", "x" * 100, "gone.tool")
    shared = list(called(*(ToolCallPart(f"c{number}", name, "{}") for number, name in enumerate(names))))
    offered = tuple(LlmToolSpec(name, "reads", {"type": "object", "properties": {}}) for name in names[:2])
    asked, sending = MessageSequence(shared, len(shared)), wire(kind, BASE)

    def past(*tools: LlmToolSpec) -> list[str]:
        calls, results = calls_and_results(kind, json.loads(sending.body(request(messages=asked, tools=tools))))
        said = [call["name"] for call in calls]
        assert [result["name"] for result in results] in (said, [None] * len(said))
        return said

    assert past(*offered) == ["files.read", "x" * 100, "gone_tool"]
    assert past() == ["files_read", "x" * 64, "gone_tool"]
    assert past(*offered[:1]) == ["files.read", "x" * 64, "gone_tool"]


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("raw", ["[" * 100_000, '{"a":' * 50_000, "no json", '"\\ud800"'])
async def test_arguments_that_are_no_object_are_quoted_in_one(kind: str, raw: str) -> None:
    body = (await sent(kind, request(*called(ToolCallPart("c1", "ls", raw))))).body
    (call,), _ = calls_and_results(kind, body)
    assert call["arguments"] == {"invalid_arguments": raw}


@pytest.mark.parametrize(("kind", "limit"), [("openai_chat", 40), ("openai_responses", 64), ("anthropic", 64)])
async def test_an_id_longer_than_the_wire_takes_is_cut_alike_for_call_and_result_and_stays_distinct(
    kind: str, limit: int
) -> None:
    long = [ToolCallPart(f"chatcmpl-tool-{'0' * limit}{number}", "ls", "{}") for number in range(3)]
    fits = ToolCallPart("c" * limit, "ls", "{}")
    calls, results = calls_and_results(kind, (await sent(kind, request(*called(*long, fits)))).body)
    ids = [call["id"] for call in calls]
    assert ids == [result["id"] for result in results]
    assert len(set(ids)) == 4 and max(map(len, ids)) <= limit
    assert ids[-1] == fits.tool_call_id


@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses", "anthropic"])
def test_a_call_under_the_id_of_an_earlier_one_is_sent_under_one_of_its_own_and_so_is_its_result(kind: str) -> None:
    """Two models that count their calls from zero in every answer were asked, and then another provider is."""
    turns = [
        called(*(ToolCallPart(identity, "ls", f'{{"turn":{turn}}}') for identity in ("functions.ls:0", f"own{turn}")))
        for turn in range(3)
    ]
    stored = [message for turn in turns for message in turn]
    shared, sending = stored[: len(turns[0])], wire(kind, BASE)

    def ids(messages: Sequence[Message]) -> list[str]:
        calls, results = calls_and_results(kind, json.loads(sending.body(request(messages=messages))))
        said = [call["id"] for call in calls]
        assert [result["id"] for result in results] == said and len(set(said)) == len(said)
        return said

    once = ids(MessageSequence(shared, len(shared)))
    shared += stored[len(shared) :]
    thrice = ids(MessageSequence(shared, len(shared)))
    assert thrice[:2] == once and thrice[1::2] == ["own0", "own1", "own2"]
    assert ids(stored) == thrice
    twice_at_once = called(ToolCallPart("a", "ls", "{}"), ToolCallPart("a", "cat", "{}"))
    assert ids((*stored, *twice_at_once))[: len(thrice)] == thrice


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("openai_chat", ("tool_choice", "none")),
        ("openai_responses", ("tool_choice", "none")),
        ("anthropic", ("tool_choice", {"type": "none"})),
        ("google", ("toolConfig", {"functionCallingConfig": {"mode": "NONE"}})),
    ],
)
async def test_a_model_that_may_call_nothing_is_told_the_same_tools_and_that(kind: str, said: tuple[str, Any]) -> None:
    tools = (LlmToolSpec("ls", "lists", {"type": "object", "properties": {}}),)
    free = (await sent(kind, request(user("hi"), tools=tools))).body
    bound = (await sent(kind, request(user("hi"), tools=tools, tool_choice=ToolChoice.NONE))).body
    name, value = said
    assert bound[name] == value and bound["tools"] == free["tools"]
    assert {**bound, name: None} == {**free, name: None}
    without = (await sent(kind, request(user("hi"), tool_choice=ToolChoice.NONE))).body
    assert "tools" not in without and name not in without


NOT_CARRIED: dict[str, AttachmentSource] = {
    "openai_chat": Stored("sha256:1", "video/mp4", 9, "clip.mp4"),
    "openai_responses": Inline("audio/mpeg", b"ID3", "song.mp3"),
    "anthropic": ProviderFile("openai_responses", "p", "file_1"),
    "google": ExternalUrl("image/png", "https://example.org/photo.png"),
}


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_what_the_turn_attaches_and_the_wire_does_not_carry_is_refused_before_sending(kind: str) -> None:
    attaching = Message("u", Role.USER, (TextPart("see"), AttachmentPart(NOT_CARRIED[kind])))
    for messages in ((attaching,), MessageSequence([user("before")], 1, (attaching,))):
        refused = await sent_or_refused(kind, request(messages=messages))
        assert isinstance(refused, NormalizedError)
        assert (refused.code, refused.retryable) == ("unsupported_attachment_capability", False)


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_an_attachment_that_nobody_can_read_is_refused_as_such_before_sending(kind: str) -> None:
    attaching = Message("u", Role.USER, (AttachmentPart(Stored("sha256:1", "image/png", 9, "photo.png")),))
    refused = await sent_or_refused(kind, request(attaching))
    assert isinstance(refused, NormalizedError)
    assert (refused.code, refused.retryable) == ("stored_attachment_not_resolved", False)


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_what_was_attached_before_and_the_wire_does_not_carry_is_told_in_words(kind: str) -> None:
    """A session that goes on with another provider, or whose turn was stopped for what it attached, still runs."""
    attached = Message("u", Role.USER, (TextPart("see"), AttachmentPart(NOT_CARRIED[kind])))
    body = (await sent(kind, request(messages=MessageSequence([attached], 1, (user("and now?", "u2"),))))).body
    told = json.dumps(body)
    name = {"anthropic": "file_1 of openai_responses", "google": "https://example.org/photo.png (image/png)"}
    assert f"{name.get(kind) or NOT_CARRIED[kind].label}" in told
    assert "cannot be shown to this model" in told and '"see' in told


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_an_address_is_accepted_for_a_turn_exactly_where_it_can_be_sent(kind: str) -> None:
    for media_type in ("image/png", "application/pdf", "text/plain", "audio/mpeg", "image/tiff"):
        source = ExternalUrl(media_type, "https://example.org/x")
        outcome = await sent_or_refused(kind, request(Message("u", Role.USER, (AttachmentPart(source),))))
        settings = ProviderSettings("p", kind, BASE, None, {})
        caller = build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)
        assert isinstance(caller, JudgesAttachments)
        refusal = caller.attachment_refusal(source)
        assert isinstance(outcome, Sent) == (refusal is None), media_type
        assert refusal is not None or "https://example.org/x" in json.dumps(outcome.body)


@pytest.mark.parametrize("kind", HTTP_KINDS)
async def test_fields_queries_and_key_headers_of_the_host_reach_every_wire(kind: str) -> None:
    plain = await sent(kind, request(user("hi")), key="key-1")
    outgoing = await sent(
        kind,
        request(user("hi")),
        key="key-1",
        query={"api-version": "7"},
        key_header="X-Gate",
        extra_body={"serviceTier": "flex", "labels": {"team": "blue"}},
        omit_body=["labels.team"],
    )
    assert outgoing.body == plain.body | {"serviceTier": "flex", "labels": {}}
    assert outgoing.headers["x-gate"] == "key-1" and list(outgoing.headers.values()).count("key-1") == 1
    assert parse_qs(urlsplit(outgoing.url).query) == {"api-version": ["7"], **parse_qs(urlsplit(plain.url).query)}
    bearer = await sent(kind, request(user("hi")), key="key-1", key_header="Authorization")
    assert bearer.headers["authorization"] == "Bearer key-1" and "key-1" not in bearer.headers.values()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("openai_chat", ["messages", "tools"]),
        ("openai_responses", ["input", "instructions"]),
        ("anthropic", ["messages", "system"]),
        ("google", ["contents", "systemInstruction", "tools"]),
    ],
)
def test_fields_of_the_host_never_change_what_a_call_is_about(kind: str, fields: list[str]) -> None:
    for field in fields:
        for options in ({"extra_body": {field: []}}, {"omit_body": [field]}):
            settings = ProviderSettings("p", kind, BASE, None, options)
            with pytest.raises(ConfigError):
                build_caller(settings, clock=ManualClock(), ids_bits=lambda _: 0)
