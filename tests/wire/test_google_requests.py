"""Conformance of the Gemini wire: what is sent (contract 06 §9.4, §4, §7, §8, §17)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from support.gemini import BASE, ROUTE, ask, call, document, streamed, text
from support.sent import Sent, assert_refused, sent, user
from support.wires import KEY, request, wire

from lash_cli.core.content import (
    AttachmentPart,
    CodePart,
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
from lash_cli.core.llm import JsonObjectOutput, JsonSchemaOutput, LlmToolSpec, MessageSequence, ToolChoice
from lash_cli.core.policy import (
    ModelCapability,
    ModelSpec,
    ReasoningCapability,
    ReasoningDisabled,
    ReasoningEffort,
    ReasoningSelection,
)
from lash_cli.errors import ConfigError
from lash_cli.providers import google_request
from lash_cli.providers.google_request import GoogleEncoder
from lash_cli.providers.past import SIGNATURE_PLACEHOLDER

SIGNED = ModelSpec("test-model", capability=ModelCapability(thought_signatures="required"))


def body(*messages: Message, expose_thinking: bool = False, **fields: Any) -> dict[str, Any]:
    encoder = GoogleEncoder(BASE, expose_thinking=expose_thinking)
    return json.loads(encoder.body(request(**fields | {"messages": messages})))


def said(*parts: Any) -> Message:
    return Message("a", Role.ASSISTANT, parts)


def signed_call(identity: str, signature: str = "", route: str = ROUTE) -> ToolCallPart:
    replay = ReasoningReplay(provider=route, signature=signature) if signature else None
    return ToolCallPart(identity, "ls", "{}", replay)


CONVERSATION = (
    user("list"),
    said(ProsePart("sure"), ToolCallPart("call_0_0123abcd", "ls", '{"p": 1.50}'), ToolCallPart("gp7", "cat", "{}")),
    Message(
        "r", Role.USER, (ToolResultPart("call_0_0123abcd", "ls", "a b"), ToolResultPart("gp7", "cat", "no", "failure"))
    ),
    said(),
)
OPTIONS: dict[str, Any] = {
    "system": "be kind",
    "tools": (LlmToolSpec("ls", "lists", {"type": "object", "properties": {"p": {"type": "number"}}}),),
    "output_token_cap": 99,
    "tool_choice": ToolChoice.REQUIRED,
}


def test_the_body_of_a_tool_conversation() -> None:
    raw = GoogleEncoder(BASE).body(request(*CONVERSATION, **OPTIONS))
    assert json.loads(raw) == {
        "contents": [
            {"role": "user", "parts": [{"text": "list"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "sure"},
                    {"functionCall": {"name": "ls", "args": {"p": 1.5}}},
                    {"functionCall": {"name": "cat", "args": {}, "id": "gp7"}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "ls", "response": {"output": "a b"}}},
                    {"functionResponse": {"name": "cat", "response": {"error": "no"}, "id": "gp7"}},
                ],
            },
        ],
        "generationConfig": {"maxOutputTokens": 99},
        "systemInstruction": {"parts": [{"text": "be kind"}]},
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "ls",
                        "description": "lists",
                        "parametersJsonSchema": {"type": "object", "properties": {"p": {"type": "number"}}},
                    }
                ]
            }
        ],
    }
    assert b'"args":{"p": 1.50}' in raw  # what the model wrote, to the byte
    assert len(raw) == 662
    assert hashlib.sha256(raw).hexdigest() == "9e7994d53b83fe1695846949a1efff88344c01af2489eeb9be5a232d64d02373"


def test_a_request_without_anything_optional_says_nothing_about_it() -> None:
    assert body(user("hi")) == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


@pytest.mark.parametrize("raw", ['{"p":', "no json", '["p"]', "7", "null", ""])
def test_past_arguments_that_are_no_object_are_quoted_in_one(raw: str) -> None:
    (content,) = body(said(ToolCallPart("c1", "ls", raw)))["contents"]
    assert content["parts"][0]["functionCall"]["args"] == {"invalid_arguments": raw}


def test_results_stand_alone_before_what_the_user_added_to_them() -> None:
    sent = body(Message("u", Role.USER, (TextPart("also this"), ToolResultPart("c", "ls", "x"))))
    assert [next(iter(part)) for content in sent["contents"] for part in content["parts"]] == [
        "functionResponse",
        "text",
    ]
    assert [content["role"] for content in sent["contents"]] == ["user", "user"]


def test_programs_events_and_later_system_words_are_sent_as_text() -> None:
    sent = body(
        said(CodePart("print(1)")),
        Message("e", Role.EVENT, (TextPart("timer fired"),)),
        Message("s", Role.SYSTEM, (TextPart("turn limit reached"),)),
    )
    assert sent["contents"] == [
        {"role": "model", "parts": [{"text": "```lua\nprint(1)\n```"}]},
        {"role": "user", "parts": [{"text": "timer fired"}]},
        {"role": "user", "parts": [{"text": "turn limit reached"}]},
    ]


def test_empty_text_is_left_out_where_something_else_is_said() -> None:
    sent = body(Message("u", Role.USER, (TextPart(""), ToolResultPart("c", "ls", "x"))), user(""), said(ProsePart("")))
    assert [content["parts"] for content in sent["contents"]] == [
        [{"functionResponse": {"id": "c", "name": "ls", "response": {"output": "x"}}}],
        [{"text": ""}],
    ]


def test_labelled_text_names_its_source() -> None:
    sent = body(Message("u", Role.USER, (TextPart("sum up"), TextPart("a\nb", "stdin"))))
    assert sent["contents"][0]["parts"] == [{"text": "sum up"}, {"text": "[stdin]\na\nb"}]


def test_signatures_go_back_where_they_stood() -> None:
    def thought(content: str, signature: str) -> ReasoningPart:
        return ReasoningPart(content, ReasoningReplay(provider=ROUTE, signature=signature))

    sent = body(
        said(
            thought("hm", "T"),
            ReasoningPart("unsigned thoughts stay here"),
            ProsePart("first"),
            thought("", "A"),
            thought("", "A2"),
            ProsePart("second"),
            signed_call("c1", "B"),
            thought("", "C"),
        )
    )
    assert sent["contents"][0]["parts"] == [
        {"text": "hm", "thought": True, "thoughtSignature": "T"},
        {"text": "first", "thoughtSignature": "A"},
        {"text": "", "thoughtSignature": "A2"},
        {"text": "second"},
        {"functionCall": {"name": "ls", "args": {}, "id": "c1"}, "thoughtSignature": "B"},
        {"text": "", "thoughtSignature": "C"},
    ]


async def test_an_answer_goes_back_with_every_signature_it_came_with() -> None:
    parts = (
        text("hm"),
        text("", thoughtSignature="A"),
        call("ls", {"a": 1}, signature="B", id="g1"),
        call("cat", id="g2"),
    )
    response, _ = await ask(streamed(*(document(part) for part in parts), document(finish="STOP")))
    (content,) = body(Message("a", Role.ASSISTANT, response.parts))["contents"]
    assert content["parts"] == [
        {"text": "hm", "thoughtSignature": "A"},
        {"functionCall": {"name": "ls", "args": {"a": 1}, "id": "g1"}, "thoughtSignature": "B"},
        {"functionCall": {"name": "cat", "args": {}, "id": "g2"}},
    ]


def test_replay_data_of_another_route_is_dropped() -> None:
    foreign = ReasoningReplay(provider="https://elsewhere/v1", signature="X")
    sent = body(
        said(ReasoningPart("", foreign), ReasoningPart("secret", foreign), ProsePart("hi"), signed_call("c", "X", "z"))
    )
    assert sent["contents"][0]["parts"] == [{"text": "hi"}, {"functionCall": {"name": "ls", "args": {}, "id": "c"}}]


def test_signatures_go_to_the_model_that_made_them_and_only_where_they_are_wanted() -> None:
    """Another model, and the same one behind another key, refuses a signature as corrupted."""
    answer = said(ReasoningPart("hm", ReasoningReplay(provider=ROUTE, signature="T")), signed_call("c", "B"))
    other = ModelSpec("other-model", capability=SIGNED.capability)
    for elsewhere in (
        body(answer, model=other),
        json.loads(GoogleEncoder(BASE, replay_reasoning=False).body(request(answer, model=SIGNED))),
    ):
        (part,) = elsewhere["contents"][0]["parts"]
        assert part["thoughtSignature"] == SIGNATURE_PLACEHOLDER


def test_a_model_that_demands_signatures_gets_a_placeholder_on_the_first_call_of_each_answer() -> None:
    messages = (
        said(signed_call("a"), signed_call("b")),
        said(signed_call("c", "own"), signed_call("d")),
        said(signed_call("e", "foreign", "z")),
    )
    sent = body(*messages, model=SIGNED)
    signatures = [[part.get("thoughtSignature") for part in content["parts"]] for content in sent["contents"]]
    assert signatures == [[SIGNATURE_PLACEHOLDER, None], ["own", None], [SIGNATURE_PLACEHOLDER]]
    assert SIGNATURE_PLACEHOLDER not in json.dumps(body(*messages, model=ModelSpec("gemini-3-pro-preview")))


def test_one_conversation_with_two_models_is_written_for_each() -> None:
    encoder = GoogleEncoder(BASE)
    shared = [said(signed_call("a"))]
    plain = encoder.body(request(messages=MessageSequence(shared, 1)))
    signed = encoder.body(request(messages=MessageSequence(shared, 1), model=SIGNED))
    assert SIGNATURE_PLACEHOLDER.encode() in signed
    assert plain == encoder.body(request(messages=MessageSequence(shared, 1)))
    assert SIGNATURE_PLACEHOLDER.encode() not in plain


def test_a_renamed_model_changes_nothing_in_the_body() -> None:
    assert body(*CONVERSATION, **OPTIONS) == body(*CONVERSATION, **OPTIONS, model=ModelSpec("gemini-3-claude-o9"))


def test_equal_requests_have_equal_bytes_whoever_encodes_them() -> None:
    tools = (LlmToolSpec("t", "d", {"type": "object", "properties": {"b": {}, "a": {}}}),)
    again = (LlmToolSpec("t", "d", {"properties": {"a": {}, "b": {}}, "type": "object"}),)
    assert GoogleEncoder(BASE).body(request(tools=tools)) == GoogleEncoder(BASE).body(request(tools=again))


def test_only_new_messages_are_encoded_and_the_prefix_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = GoogleEncoder(BASE)
    encoded: list[str] = []
    original = google_request._ContentEncoder.encode_message

    def counting(self: Any, message: Message) -> bytes:
        encoded.append(message.id)
        return original(self, message)

    monkeypatch.setattr(google_request._ContentEncoder, "encode_message", counting)
    shared = [user(f"text {i}", f"m{i}") for i in range(1000)]
    tail = (user("new", "tail"),)
    first = encoder.body(request(messages=MessageSequence(shared, 1000, tail), system="sys"))
    assert len(encoded) == 1001
    encoded.clear()
    more = (*tail, Message("a", Role.ASSISTANT, (ProsePart("ok"),)))
    second = encoder.body(request(messages=MessageSequence(shared, 1000, more), system="sys"))
    assert encoded == ["a"]
    shared.extend(more)
    encoded.clear()
    third = encoder.body(request(messages=MessageSequence(shared, 1002, (user("next", "n"),)), system="sys"))
    assert encoded == ["n"]
    prefix = first[: first.index(b'],"systemInstruction"')]
    assert second.startswith(prefix)
    assert third.startswith(prefix)


def test_structured_output_is_asked_for_by_its_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}}
    assert body(user("x"), output_spec=JsonSchemaOutput("answer", schema))["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": schema,
    }
    assert body(user("x"), output_spec=JsonObjectOutput())["generationConfig"] == {
        "responseMimeType": "application/json"
    }


@pytest.mark.parametrize(("choice", "mode"), [(ToolChoice.NONE, "NONE"), (ToolChoice.REQUIRED, "ANY")])
def test_tool_choice_is_a_calling_mode(choice: ToolChoice, mode: str) -> None:
    tools = (LlmToolSpec("t", "d", {}),)
    assert body(user("x"), tools=tools, tool_choice=choice)["toolConfig"] == {"functionCallingConfig": {"mode": mode}}
    assert "toolConfig" not in body(user("x"), tools=tools)


@pytest.mark.parametrize(
    ("attachment", "part"),
    [
        (Inline("image/png", b"\x00"), {"inlineData": {"mimeType": "image/png", "data": "AA=="}}),
        (Inline("image/heic", b"\x00"), {"inlineData": {"mimeType": "image/heic", "data": "AA=="}}),
        (Inline("audio/mp3", b"\x00"), {"inlineData": {"mimeType": "audio/mp3", "data": "AA=="}}),
        (Inline("video/mp4", b"\x00"), {"inlineData": {"mimeType": "video/mp4", "data": "AA=="}}),
        (Inline("text/csv", b"a,b"), {"text": "[attachment]\na,b"}),
        (
            Stored("sha256:1", "application/pdf", 1, "doc.pdf"),
            {"inlineData": {"mimeType": "application/pdf", "data": "AA=="}},
        ),
        (ProviderFile("google", "work", "https://x/files/abc"), {"fileData": {"fileUri": "https://x/files/abc"}}),
    ],
)
def test_attachments_go_as_the_part_their_type_asks_for(attachment: Any, part: dict[str, Any]) -> None:
    encoder = GoogleEncoder(BASE, credential_scope="work", attachment_bytes=lambda stored: b"\x00")
    message = Message("u", Role.USER, (TextPart("see"), AttachmentPart(attachment)))
    assert json.loads(encoder.body(request(message)))["contents"][0]["parts"][1] == part


@pytest.mark.parametrize(
    "attachment",
    [
        Inline("image/gif", b"x"),
        Inline("application/zip", b"x"),
        ExternalUrl("image/png", "http://x"),
        ProviderFile("openai_responses", "", "file-1"),
        ProviderFile("google", "of-another-key", "https://x/files/abc"),
    ],
)
async def test_an_attachment_the_wire_cannot_carry_is_refused_before_sending(attachment: Any) -> None:
    attaching = Message("u", Role.USER, (AttachmentPart(attachment),))
    await assert_refused("google", "unsupported_attachment_capability", request(attaching))


EFFORTS = ModelCapability(ReasoningCapability(("low", "high"), aliases={"max": "high"}, disable="effort(low)"))
BUDGETS = ModelCapability(ReasoningCapability(("low",), encoding="budget", budgets={"low": 512}, disable="budget(0)"))
TOGGLE = ModelCapability(ReasoningCapability(("low",), disable="toggle_false"))


@pytest.mark.parametrize(
    ("selection", "capability", "thinking"),
    [
        (ReasoningEffort("max"), EFFORTS, {"thinkingLevel": "high"}),
        (ReasoningDisabled(), EFFORTS, {"thinkingLevel": "low"}),
        (ReasoningEffort("low"), BUDGETS, {"thinkingBudget": 512}),
        (ReasoningDisabled(), BUDGETS, {"thinkingBudget": 0}),
        (ReasoningDisabled(), TOGGLE, {"thinkingBudget": 0}),
    ],
)
def test_a_reasoning_selection_in_the_words_of_the_wire(
    selection: ReasoningSelection, capability: ModelCapability, thinking: dict[str, Any]
) -> None:
    model = ModelSpec("m", selection, capability=capability)
    assert body(user("x"), model=model)["generationConfig"] == {"thinkingConfig": thinking}


def test_thoughts_are_asked_for_only_when_they_are_shown_and_the_model_is_known_to_have_them() -> None:
    def config(model: ModelSpec) -> Any:
        return body(user("x"), model=model, expose_thinking=True).get("generationConfig")

    assert config(ModelSpec("m")) is None
    assert config(ModelSpec("m", capability=EFFORTS)) == {"thinkingConfig": {"includeThoughts": True}}
    with_effort = ModelSpec("m", ReasoningEffort("low"), capability=EFFORTS)
    assert config(with_effort) == {"thinkingConfig": {"includeThoughts": True, "thinkingLevel": "low"}}
    assert config(ModelSpec("m", ReasoningDisabled(), capability=TOGGLE)) == {"thinkingConfig": {"thinkingBudget": 0}}
    assert "generationConfig" not in body(user("x"), model=ModelSpec("m", capability=EFFORTS))


MALFORMED = ModelCapability(ReasoningCapability(("low",), encoding="budget", disable="somehow"))


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
    await assert_refused("google", code, request(user("x"), model=ModelSpec("m", selection, capability=capability)))


async def sent_to(key: str | None, *, headers: dict[str, str] | None = None, **fields: Any) -> Sent:
    return await sent("google", request(**fields), key=key, base_url=f"{BASE}/", headers=headers or {})


@pytest.mark.parametrize(
    ("model", "stream", "url"),
    [
        ("gemini-x", True, f"{BASE}/models/gemini-x:streamGenerateContent?alt=sse"),
        ("gemini-x", False, f"{BASE}/models/gemini-x:generateContent"),
        ("models/gemini-x", True, f"{BASE}/models/gemini-x:streamGenerateContent?alt=sse"),
        ("tunedModels/mine", False, f"{BASE}/tunedModels/mine:generateContent"),
        ("a:b?key=x#y", False, f"{BASE}/models/a%3Ab%3Fkey%3Dx%23y:generateContent"),
    ],
)
async def test_the_address_names_the_model_and_nothing_else(model: str, stream: bool, url: str) -> None:
    assert (await sent_to(KEY, model=ModelSpec(model), stream=stream)).url == url


async def test_the_key_is_a_header_and_never_part_of_the_address() -> None:
    outgoing = await sent_to(f" {KEY}\n")
    assert outgoing.headers["x-goog-api-key"] == KEY
    assert KEY not in outgoing.url
    assert "authorization" not in outgoing.headers
    assert "x-goog-api-key" not in (await sent_to(None)).headers
    bearer = await sent_to(None, headers={"Authorization": "Bearer t"})
    assert bearer.headers["authorization"] == "Bearer t"


@pytest.mark.parametrize(
    "base_url",
    [" ", "ftp://x", "http://user:pw@x/v1beta", "http://x/v1beta?key=1", "http://x/v1beta/models/m:generateContent"],
)
def test_a_bad_base_url_is_refused_at_construction(base_url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        wire("google", base_url)
    assert caught.value.code == "invalid_provider_endpoint"
    assert "pw" not in caught.value.message
