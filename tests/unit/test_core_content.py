"""Messages, parts and normalised input (contract 01 §5.1, §5.4, §8.1)."""

import msgspec
import pytest

from lash_cli.core.codec import decode, encode
from lash_cli.core.content import (
    AttachmentItem,
    AttachmentPart,
    CodePart,
    ErrorPart,
    ExternalUrl,
    Inline,
    InputItem,
    Message,
    OutputPart,
    Part,
    PluginOrigin,
    ProcessOrigin,
    ProsePart,
    ProviderFile,
    ReasoningPart,
    ReasoningReplay,
    Role,
    Stored,
    TextItem,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    TurnInput,
    calls_and_results,
    is_safe_to_resume,
    message_text,
    user_message,
)


def said(*parts: Part) -> Message:
    return Message("m", Role.ASSISTANT, parts)


def call(call_id: str) -> ToolCallPart:
    return ToolCallPart(call_id, "read", "{}")


def result(call_id: str) -> ToolResultPart:
    return ToolResultPart(call_id, "read", "ok")


@pytest.mark.parametrize(
    ("messages", "safe"),
    [
        ([], True),
        ([said(ProsePart("hi"))], True),
        ([said(call("a"), call("b")), said(result("b"), result("a"))], True),
        ([said(call("a"))], False),
        ([said(result("a"))], False),
        ([said(call("a")), said(result("a"), result("a"))], False),
        ([said(call("a")), said(result("b"))], False),
        ([said(call(" ")), said(result(" "))], False),
        ([said(call("a")), said(result("a")), said(call("a")), said(result("a"))], False),
    ],
)
def test_a_transcript_is_safe_when_each_call_has_exactly_one_result(messages: list[Message], safe: bool) -> None:
    assert is_safe_to_resume(messages) is safe
    assert is_safe_to_resume(tuple(messages)) is safe


@pytest.mark.parametrize(
    ("items", "parts"),
    [
        ((), (TextPart(""),)),
        ((TextItem(""),), (TextPart(""),)),
        ((TextItem("a"), TextItem(""), TextItem("b")), (TextPart("a\nb"),)),
        ((TextItem("a"), TextItem("b", "stdin")), (TextPart("a"), TextPart("b", "stdin"))),
        (
            (TextItem("a"), AttachmentItem(ExternalUrl("image/png", "https://x")), TextItem("b")),
            (TextPart("a"), AttachmentPart(ExternalUrl("image/png", "https://x")), TextPart("b")),
        ),
    ],
)
def test_input_is_normalised_into_one_user_message(items: tuple[InputItem, ...], parts: tuple[Part, ...]) -> None:
    assert user_message("m1", TurnInput(items)) == Message("m1", Role.USER, parts)


def test_plain_text_makes_a_plain_message() -> None:
    assert message_text(user_message("m1", TurnInput.text("hello"))) == "hello"


def test_readable_text_is_text_and_prose_and_nothing_else() -> None:
    message = said(TextPart("a"), ReasoningPart("hidden"), ProsePart("b"), call("c"), result("c"))
    assert message_text(message) == "ab"


def test_calls_and_the_ids_of_what_was_answered_are_read_in_order() -> None:
    messages = [said(TextPart("a"), call("b"), call("a")), said(result("b"), result("a")), said(call("c"))]
    assert calls_and_results(messages) == ([call("b"), call("a"), call("c")], ["b", "a"])


def test_only_a_transient_plugin_message_is_transient() -> None:
    assert Message("m", Role.SYSTEM, (), PluginOrigin("p", transient=True)).is_transient
    assert not Message("m", Role.SYSTEM, (), PluginOrigin("p")).is_transient
    assert not Message("m", Role.EVENT, (), ProcessOrigin("p")).is_transient
    assert not Message("m", Role.USER).is_transient


def test_every_kind_of_part_and_attachment_survives_storage() -> None:
    message = Message(
        "m",
        Role.USER,
        (
            TextPart("a", "stdin"),
            ProsePart("b", {"id": "x"}),
            ReasoningPart("c", ReasoningReplay("openai", "i", "enc", "sig", True, ("s",))),
            call("d"),
            result("d"),
            CodePart("return 1"),
            OutputPart("1"),
            ErrorPart("no"),
            AttachmentPart(Stored("sha256:1", "image/png", 3, "pic")),
            AttachmentPart(Inline("image/png", b"\x00\xff")),
            AttachmentPart(ExternalUrl("image/png", "https://x")),
            AttachmentPart(ProviderFile("openai", "scope", "file-1")),
        ),
        ProcessOrigin("p"),
    )
    assert decode(encode(message), Message) == message


@pytest.mark.parametrize("data", [b'{"id":"m","role":"robot"}', b'{"id":"m","role":"user","parts":[{"kind":"odd"}]}'])
def test_unknown_roles_and_parts_raise_at_decode(data: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(data, Message)
