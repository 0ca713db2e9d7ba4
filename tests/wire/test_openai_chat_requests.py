"""What the Chat Completions wire sends (contract 06 §9.2, §17; design D21)."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.sent import assert_refused, assistant, sent, user
from support.sent import request_over as request
from support.wires import wire

from lash_cli.api import provider
from lash_cli.core.content import (
    AttachmentPart,
    CodePart,
    ExternalUrl,
    Inline,
    Message,
    Part,
    ProsePart,
    ReasoningPart,
    ReasoningReplay,
    Role,
    Stored,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import LlmToolSpec, MessageSequence, ToolChoice
from lash_cli.core.policy import (
    ModelCapability,
    ModelSpec,
    ReasoningCapability,
    ReasoningDisabled,
    ReasoningEffort,
    ReasoningSelection,
)
from lash_cli.errors import ConfigError
from lash_cli.providers import chat_request
from lash_cli.providers.access import Access
from lash_cli.providers.chat_request import ChatEncoder
from lash_cli.providers.http import HttpRequest
from lash_cli.providers.openai_dialect import OpenAiDialect

ROUTE = "http://test.invalid/v1"


def body(*messages: Message, **fields: Any) -> dict[str, Any]:
    return json.loads(ChatEncoder(ROUTE).body(request(messages, **fields)))


@pytest.mark.parametrize("raw", ['{"p":', "no json", '["p"]', "7", "null", ""])
def test_past_arguments_that_are_no_object_are_quoted_in_one(raw: str) -> None:
    sent = body(Message("a", Role.ASSISTANT, (ToolCallPart("c1", "ls", raw),)))
    (call,) = sent["messages"][0]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"invalid_arguments": raw}


@pytest.mark.parametrize("raw", ["{}", '{"p": 1,  "q": "\\u00e9"}'])
def test_past_arguments_that_are_an_object_keep_their_bytes(raw: str) -> None:
    sent = body(Message("a", Role.ASSISTANT, (ToolCallPart("c1", "ls", raw),)))
    assert sent["messages"][0]["tool_calls"][0]["function"]["arguments"] == raw


def test_the_body_of_a_tool_conversation() -> None:
    sent = body(
        user("list"),
        Message("a", Role.ASSISTANT, (ProsePart("sure"), ToolCallPart("c1", "ls", '{"p": 1}'))),
        Message("r", Role.USER, (ToolResultPart("c1", "ls", "a b"),)),
        Message("a2", Role.ASSISTANT, ()),
        system="be kind",
        tools=(LlmToolSpec("ls", "lists", {"type": "object", "properties": {}}),),
        output_token_cap=99,
        tool_choice=ToolChoice.REQUIRED,
    )
    assert sent == {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "list"},
            {
                "role": "assistant",
                "content": "sure",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"p": 1}'}}],
            },
            {"role": "tool", "tool_call_id": "c1", "name": "ls", "content": "a b"},
        ],
        "max_tokens": 99,
        "model": "test-model",
        "stream": True,
        "stream_options": {"include_usage": True},
        "tool_choice": "required",
        "tools": [
            {
                "type": "function",
                "function": {"name": "ls", "description": "lists", "parameters": {"type": "object", "properties": {}}},
            }
        ],
    }


def test_a_request_without_anything_optional_says_nothing_about_it() -> None:
    assert body(user("hi")) == {
        "messages": [{"role": "user", "content": "hi"}],
        "model": "test-model",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_labelled_text_is_a_paragraph_of_its_own_that_names_its_source() -> None:
    sent = body(Message("u", Role.USER, (TextPart("sum up"), TextPart("a\nb", "stdin"))))
    assert sent["messages"][0]["content"] == "sum up\n\n[stdin]\na\nb"


def test_attached_text_is_a_paragraph_that_names_its_source() -> None:
    sent = body(Message("u", Role.USER, (TextPart("see"), AttachmentPart(Inline("text/csv", b"a,b")))))
    assert sent["messages"][0]["content"] == "see\n\n[attachment]\na,b"


_SPOKEN: list[tuple[Part, ...]] = [
    (TextPart("a"),),
    (TextPart(""),),
    (TextPart("b"), AttachmentPart(Inline("image/png", b"png"))),
    (ToolResultPart("c", "ls", "x"),),
    (ToolResultPart("c", "ls", "x"), ToolResultPart("d", "ls", "y"), TextPart("and")),
]
_MESSAGES = st.tuples(st.sampled_from([Role.USER, Role.SYSTEM]), st.sampled_from(_SPOKEN)) | st.tuples(
    st.just(Role.ASSISTANT), st.sampled_from([(ProsePart("c"),), (), (ToolCallPart("c", "ls", "{}"),)])
)


@given(
    st.lists(_MESSAGES, max_size=8),
    st.sampled_from([OpenAiDialect(), OpenAiDialect(cache_control="anthropic"), OpenAiDialect(conversation="mistral")]),
    st.integers(0, 8),
)
@example([(Role.USER, _SPOKEN[0])] * 3 + [(Role.USER, _SPOKEN[2])] + [(Role.USER, _SPOKEN[0])] * 2, OpenAiDialect(), 0)
def test_a_conversation_has_the_same_bytes_however_much_of_it_is_known_and_a_user_never_speaks_twice(
    spoken: list[tuple[Role, tuple[Part, ...]]], dialect: OpenAiDialect, first: int
) -> None:
    messages = [Message(f"m{number}", role, parts) for number, (role, parts) in enumerate(spoken)]
    keeping = ChatEncoder(ROUTE, dialect=dialect)
    for known in (min(first, len(messages)), len(messages), *range(len(messages))):
        view = MessageSequence(messages, known, tuple(messages[known : known + 2]))
        sent = keeping.body(request(view))
        assert sent == ChatEncoder(ROUTE, dialect=dialect).body(request(messages[: known + 2]))
        roles = [item["role"] for item in json.loads(sent)["messages"]]
        assert ("user", "user") not in itertools.pairwise(roles)
        assert dialect.conversation == "openai" or ("tool", "user") not in itertools.pairwise(roles)


def test_results_precede_what_the_user_added_to_them() -> None:
    sent = body(Message("u", Role.USER, (TextPart("also this"), ToolResultPart("c", "ls", "x"))))
    assert [item["role"] for item in sent["messages"]] == ["tool", "user"]


@pytest.mark.parametrize("dialect", [OpenAiDialect(), OpenAiDialect(cache_control="anthropic")])
def test_there_is_one_system_message_and_it_comes_first(dialect: OpenAiDialect) -> None:
    """The templates of many models refuse every request with another one, for as long as the session lives."""

    def system(content: str, identity: str) -> Message:
        return Message(identity, Role.SYSTEM, (TextPart(content),))

    def sent(*messages: Message) -> list[tuple[str, str]]:
        encoder = ChatEncoder(ROUTE, dialect=dialect)
        views = [
            encoder.body(request(messages, system="be kind")),
            encoder.body(request(MessageSequence(list(messages), len(messages)), system="be kind")),
        ]
        assert views[0] == views[1]
        told = json.loads(views[0])["messages"]
        blocks = [content if isinstance(content := item["content"], str) else content[0]["text"] for item in told]
        return [(item["role"], text) for item, text in zip(told, blocks, strict=True)]

    limit = system("Turn limit reached (3).", "s")
    assert sent(user("a"), assistant(ProsePart("b")), limit) == [
        ("system", "be kind"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "Turn limit reached (3)."),
    ]
    assert sent(system("first", "s1"), system("second", "s2"), user("a")) == [
        ("system", "be kind\n\nfirst\n\nsecond"),
        ("user", "a"),
    ]


def test_programs_and_events_are_sent_as_text() -> None:
    sent = body(
        Message("a", Role.ASSISTANT, (CodePart("print(1)"),)), Message("e", Role.EVENT, (TextPart("timer fired"),))
    )
    assert sent["messages"] == [
        {"role": "assistant", "content": "```lua\nprint(1)\n```"},
        {"role": "user", "content": "timer fired"},
    ]


@pytest.mark.parametrize(
    ("replay", "detail"),
    [
        ({"item_id": "r1", "encrypted_content": "blob"}, {"type": "reasoning.encrypted", "id": "r1", "data": "blob"}),
        ({"signature": "sig"}, {"type": "reasoning.text", "text": "a thought", "signature": "sig"}),
    ],
)
def test_reasoning_is_sent_back_only_to_the_route_that_made_it(replay: dict[str, Any], detail: dict[str, Any]) -> None:
    def said(provider: str) -> dict[str, Any]:
        thought = ReasoningPart("a thought", ReasoningReplay(provider=provider, **replay))
        return body(Message("a", Role.ASSISTANT, (thought, ProsePart("hi"))))["messages"][0]

    assert said(f"{ROUTE}/chat/completions test-model")["reasoning_details"] == [detail]
    for foreign in ("https://elsewhere/v1/chat/completions test-model", f"{ROUTE}/chat/completions another", ROUTE):
        assert said(foreign) == {"role": "assistant", "content": "hi"}


def test_a_model_that_demands_signatures_gets_a_placeholder_for_calls_that_another_made() -> None:
    demanding = ModelSpec("test-model", capability=ModelCapability(thought_signatures="required"))
    own = ReasoningReplay(provider=f"{ROUTE}/chat/completions test-model", signature="sig")
    calls = (ToolCallPart("c1", "ls", "{}"), ToolCallPart("c2", "ls", "{}"), ToolCallPart("c3", "ls", "{}", own))

    def signatures(model: ModelSpec, *parts: ToolCallPart) -> list[Any]:
        said = body(user("hi"), Message("a", Role.ASSISTANT, parts), model=model)["messages"][1]
        return [
            call.get("extra_content", {"google": {}})["google"].get("thought_signature") for call in said["tool_calls"]
        ]

    assert signatures(demanding, *calls) == ["skip_thought_signature_validator", None, "sig"]
    assert signatures(demanding, calls[2], calls[0]) == ["sig", None], "only the first call of an answer is looked at"
    assert signatures(ModelSpec("test-model"), *calls) == [None, None, "sig"]


def test_an_answer_that_was_nothing_but_reasoning_is_left_out() -> None:
    replay = ReasoningReplay(provider=f"{ROUTE}/chat/completions test-model", signature="sig")
    thought = Message("a", Role.ASSISTANT, (ReasoningPart("a thought", replay),))
    assert body(user("hi"), thought)["messages"] == [{"role": "user", "content": "hi"}]


def test_a_renamed_model_changes_nothing_but_its_name() -> None:
    plain, renamed = body(user("hi")), body(user("hi"), model=ModelSpec("o9-claude-gemini"))
    assert plain | {"model": None} == renamed | {"model": None}


def test_equal_requests_have_equal_bytes_whoever_encodes_them() -> None:
    tools = (LlmToolSpec("t", "d", {"type": "object", "properties": {"b": {}, "a": {}}}),)
    again = (LlmToolSpec("t", "d", {"properties": {"a": {}, "b": {}}, "type": "object"}),)
    first = ChatEncoder(ROUTE).body(request((user("hi"),), tools=tools))
    assert first == ChatEncoder(ROUTE).body(request((user("hi"),), tools=again))


def test_only_new_messages_are_encoded_and_the_prefix_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ChatEncoder(ROUTE)
    encoded: list[str] = []
    original = chat_request._MessageEncoder.encode_message

    def counting(self: Any, message: Message) -> Any:
        encoded.append(message.id)
        return original(self, message)

    monkeypatch.setattr(chat_request._MessageEncoder, "encode_message", counting)
    shared = [user(f"text {i}", f"m{i}") for i in range(1000)]
    tail = (user("new", "tail"),)
    first = encoder.body(request(MessageSequence(shared, 1000, tail), system="sys"))
    assert len(encoded) == 1001
    encoded.clear()
    more = (*tail, Message("a", Role.ASSISTANT, (ProsePart("ok"),)))
    second = encoder.body(request(MessageSequence(shared, 1000, more), system="sys"))
    assert encoded == ["a"]
    shared.extend(more)
    encoded.clear()
    third = encoder.body(request(MessageSequence(shared, 1002, (user("next", "n"),)), system="sys"))
    assert encoded == ["n"]
    prefix = first[: first.index(b'],"model"')]
    assert second.startswith(prefix)
    assert third.startswith(prefix)
    assert third == ChatEncoder(ROUTE).body(request((*shared, user("next", "n")), system="sys"))


@pytest.mark.parametrize("system", ["", "sys"])
@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_shorter_view_of_a_known_conversation_is_cut_exactly(length: int, system: str) -> None:
    shared = [user("a", "1"), Message("2", Role.ASSISTANT, ()), user("b", "3")]
    encoder = ChatEncoder(ROUTE)
    encoder.body(request(MessageSequence(shared, 3)))
    view = MessageSequence(shared, length, (user("t", "t"),))
    expected = ChatEncoder(ROUTE).body(request(tuple(view), system=system))
    assert encoder.body(request(view, system=system)) == expected
    json.loads(expected)


def test_many_conversations_do_not_mix() -> None:
    encoder = ChatEncoder(ROUTE)
    lists = [[user(f"session {i}", f"m{i}")] for i in range(20)]
    for _ in range(2):
        for i, shared in enumerate(lists):
            sent = json.loads(encoder.body(request(MessageSequence(shared, 1))))
            assert sent["messages"] == [{"role": "user", "content": f"session {i}"}]


@pytest.mark.parametrize(
    ("attachment", "block"),
    [
        (Inline("image/png", b"\x00"), {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}),
        (ExternalUrl("image/jpeg", "https://x/y.jpg"), {"type": "image_url", "image_url": {"url": "https://x/y.jpg"}}),
        (
            Stored("sha256:1", "application/pdf", 1, "doc.pdf"),
            {"type": "file", "file": {"filename": "doc.pdf", "file_data": "data:application/pdf;base64,AA=="}},
        ),
    ],
)
def test_attachments_go_as_the_block_their_type_asks_for(attachment: Any, block: dict[str, Any]) -> None:
    encoder = ChatEncoder(ROUTE, attachment_bytes=lambda stored: b"\x00")
    message = Message("u", Role.USER, (TextPart("see"), AttachmentPart(attachment)))
    assert json.loads(encoder.body(request((message,))))["messages"][0]["content"][1] == block


@pytest.mark.parametrize("attachment", [Inline("video/mp4", b"x"), ExternalUrl("audio/mp3", "http://x")])
async def test_an_attachment_the_wire_cannot_carry_is_refused_before_sending(attachment: Any) -> None:
    attaching = Message("u", Role.USER, (AttachmentPart(attachment),))
    await assert_refused("openai_chat", "unsupported_attachment_capability", request((attaching,)))


EFFORTS = ModelCapability(ReasoningCapability(("low", "high"), aliases={"max": "high"}, disable="effort(low)"))
BUDGETS = ModelCapability(
    ReasoningCapability(("low",), encoding="budget", budgets={"low": 512}, disable="toggle_false")
)
MALFORMED = ModelCapability(ReasoningCapability(("low",), encoding="budget", disable="somehow"))


def test_efforts_are_resolved_through_aliases() -> None:
    model = ModelSpec("m", ReasoningEffort("max"), capability=EFFORTS)
    assert body(user("x"), model=model)["reasoning_effort"] == "high"
    off = ModelSpec("m", ReasoningDisabled(), capability=EFFORTS)
    assert body(user("x"), model=off)["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("selection", "capability", "code"),
    [
        (ReasoningEffort("huge"), EFFORTS, "unsupported_effort"),
        (ReasoningEffort("low"), None, "effort_not_configurable"),
        (ReasoningEffort("low"), BUDGETS, "reasoning_encoding_unrepresentable"),
        (ReasoningDisabled(), BUDGETS, "reasoning_encoding_unrepresentable"),
        (ReasoningDisabled(), ModelCapability(ReasoningCapability(("low",))), "effort_required"),
        (ReasoningEffort("low"), MALFORMED, "malformed_capability"),
        (ReasoningDisabled(), MALFORMED, "malformed_capability"),
    ],
)
async def test_a_reasoning_selection_the_wire_cannot_say_is_refused_before_sending(
    selection: ReasoningSelection, capability: ModelCapability | None, code: str
) -> None:
    await assert_refused(
        "openai_chat", code, request((user("x"),), model=ModelSpec("m", selection, capability=capability))
    )


async def sent_headers(key: str | None, **options: Any) -> dict[str, str]:
    called = await sent("openai_chat", request((user("x"),)), key=key, base_url=f"{ROUTE}/", **options)
    assert called.url == f"{ROUTE}/chat/completions"
    return called.headers


async def test_the_key_is_a_bearer_header_and_absent_without_one() -> None:
    assert (await sent_headers(" abc\n"))["authorization"] == "Bearer abc"
    assert "authorization" not in await sent_headers(None)
    assert (await sent_headers(None, headers={"X-Title": "t"}))["x-title"] == "t"


@pytest.mark.parametrize(
    "base_url",
    [
        " ",
        "api.example.com/v1",
        "ftp://example.com",
        "http://",
        "http://a b/v1",
        "http://x:99999/v1",
        "http://user:pw@x/v1",
        "http://user:pw@api.openai.com/v1",
        "http://x/v1?a=pw",
        "http://x/v1?a=1\npw",
        "http://x/v1#pw",
        "http://x/v1/chat/completions",
        "http://[::1/v1",
        "http://[::1]extra/v1",
        "http://☃.invalid/v1",
        "http://１２７.0.0.1/v1",
    ],
)
def test_a_bad_base_url_is_refused_at_construction(base_url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        provider("openai_chat", base_url=base_url)
    assert caught.value.code == "invalid_provider_endpoint"
    assert "pw" not in caught.value.message


@pytest.mark.parametrize("host", ["bücher.example", "[::1]:8080", "[fe80::1%25lo]", "a_b.example:80", "127.0.0.1"])
def test_every_host_that_can_be_called_is_taken(host: str) -> None:
    assert wire("openai_chat", f"http://{host}/v1").url(request(())) == f"http://{host}/v1/chat/completions"


def test_a_key_no_header_can_carry_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        wire("openai_chat", ROUTE, "abc\ndef")
    assert "abc" not in caught.value.message


def test_no_key_shows_in_what_a_debugger_prints() -> None:
    access = Access.checked(ROUTE, "canary-1", {"x-api-key": "canary-2"})
    sent = HttpRequest("POST", ROUTE, {**access.authentication, **access.headers}, b"{}")
    assert "canary" not in f"{access!r} {sent!r} {access} {[sent]}"


def test_requests_can_be_compared_as_records() -> None:
    assert msgspec.structs.replace(request(()), system="x") == request((), system="x")
