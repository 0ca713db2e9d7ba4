"""The transcript as text: who said what, in order, with the parts asked for."""

from __future__ import annotations

from lash_cli.core.content import (
    AttachmentPart,
    ExternalUrl,
    Inline,
    Message,
    ProsePart,
    ReasoningPart,
    Role,
    Stored,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.views.safe_text import safe_text
from lash_cli.views.transcript import TranscriptEntry, transcript_text

CALL = ToolCallPart("c1", "read_file", '{"path": "a"}')
RESULT = ToolResultPart("c1", "read_file", "line one\nline two")


def text(*messages: Message, **options: bool) -> str:
    return transcript_text([TranscriptEntry(message) for message in messages], clean=safe_text, **options)


def test_roles_stand_at_line_starts_and_text_is_indented() -> None:
    shown = text(
        Message("m1", Role.USER, (TextPart("hi\nthere"), TextPart("piped", "stdin"))),
        Message("m2", Role.ASSISTANT, (ProsePart("hello"),)),
    )
    assert shown == "user:\n    hi\n    there\n    [stdin]\n    piped\n\nassistant:\n    hello"


def test_reasoning_appears_only_when_asked_for_and_leaves_no_empty_message() -> None:
    message = Message("m", Role.ASSISTANT, (ReasoningPart("hm"),))
    assert text(message) == ""
    assert text(message, reasoning=True) == "assistant:\n    [reasoning]\n    hm"


def test_tool_parts_are_one_line_or_whole() -> None:
    message = Message("m", Role.ASSISTANT, (CALL, RESULT))
    assert text(message) == (
        'assistant:\n    [call read_file c1] {"path": "a"}\n    [result read_file c1 success] line one line two'
    )
    assert "    line one\n    line two" in text(message, tools=True)


def test_attachments_are_named_not_printed() -> None:
    message = Message(
        "m",
        Role.USER,
        (
            AttachmentPart(Stored("sha256:ab", "image/png", 3, "cat.png")),
            AttachmentPart(ExternalUrl("image/png", "https://x/y")),
            AttachmentPart(Inline("text/plain", b"secret")),
        ),
    )
    shown = text(message)
    assert "[attachment cat.png image/png]" in shown and "[attachment https://x/y image/png]" in shown
    assert "secret" not in shown


def test_no_part_can_steer_the_terminal() -> None:
    evil = "\x1b[2J\u202e\x9b"
    shown = text(
        Message(
            "m",
            Role.ASSISTANT,
            (
                TextPart(evil, evil),
                ProsePart(evil),
                ReasoningPart(evil),
                ToolCallPart(evil, evil, evil),
                ToolResultPart(evil, evil, evil),
                AttachmentPart(Stored("r", evil, 1, evil)),
            ),
        ),
        reasoning=True,
        tools=True,
    )
    assert not set(shown) & set(evil.replace("[2J", ""))
