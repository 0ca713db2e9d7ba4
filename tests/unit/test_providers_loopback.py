"""The loopback provider obeys its directives and is otherwise plain about what it is (design D13)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from support.clock import ManualCancel, ManualClock, settle

from lash_cli.core.content import Message, ProsePart, Role, TextPart, ToolCallPart, ToolResultPart
from lash_cli.core.llm import (
    AttemptReset,
    LlmRequest,
    LlmResponse,
    LlmScope,
    MessageSequence,
    StreamEvent,
    TerminalReason,
    TextDelta,
)
from lash_cli.core.policy import ModelSpec
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LlmTransportError
from lash_cli.providers.catalog import ProviderSettings, build_caller
from lash_cli.providers.loopback import FAILURES, Loopback, parse_rounds


def user(text: str) -> Message:
    return Message("u", Role.USER, (TextPart(text),))


def answered(response: LlmResponse, *results: str) -> tuple[Message, ...]:
    """The messages a turn appends after a response whose calls returned `results`."""
    said = Message("a", Role.ASSISTANT, response.parts)
    outcomes = tuple(
        ToolResultPart(call.tool_call_id, call.tool_name, content)
        for call, content in zip(response.tool_calls, results, strict=True)
    )
    return (said, Message("r", Role.USER, outcomes)) if outcomes else (said,)


class Chat:
    """A loopback provider without its ladder."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock(auto_advance=True)
        self.provider = Loopback(self.clock)
        self.events: list[StreamEvent] = []

    async def sink(self, event: StreamEvent) -> None:
        self.events.append(event)

    async def ask(self, *messages: Message | str, request_id: str = "s:turn:t:llm:0", **fields: Any) -> LlmResponse:
        conversation = tuple(user(message) if isinstance(message, str) else message for message in messages)
        request = LlmRequest(
            model=ModelSpec("loopback"), messages=conversation, scope=LlmScope("s", request_id), **fields
        )
        return await self.provider.complete(request, self.sink)

    @property
    def chunks(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, TextDelta)]


async def test_without_directives_it_echoes_and_says_what_it_is_and_how_to_change_that() -> None:
    chat = Chat()
    response = await chat.ask("good morning")
    assert response.full_text.startswith("You said: good morning\n")
    for phrase in ("loopback provider", "no model is configured", "OPENAI_API_KEY", "lash provider add"):
        assert phrase in response.full_text
    assert "".join(chat.chunks) == response.full_text
    assert len(chat.chunks) > 3
    assert response.terminal_reason is TerminalReason.STOP


async def test_the_same_request_gets_the_same_answer_from_another_instance() -> None:
    for prompt in ("hello", "!tool ls {}", "!stream 5"):
        assert await Chat().ask(prompt) == await Chat().ask(prompt)


async def test_usage_counts_words() -> None:
    response = await Chat().ask("!text one two three", system="be kind")
    assert response.usage == TokenUsage(2 + 4, 3)


async def test_usage_can_be_dictated() -> None:
    assert (await Chat().ask("!text x\n!usage 900 20")).usage == TokenUsage(900, 20)


async def test_text_is_said_exactly_and_a_json_string_may_hold_lines() -> None:
    assert (await Chat().ask("!text  a  b")).full_text == "a  b"
    assert (await Chat().ask('!text "a\\nb"')).full_text == "a\nb"


async def test_tool_lines_of_one_round_are_parallel_calls() -> None:
    response = await Chat().ask('!tool ls {"path": "."}\n!tool cat\n!raw-args rm {oops')
    assert [(call.tool_name, call.input_json) for call in response.tool_calls] == [
        ("ls", '{"path": "."}'),
        ("cat", "{}"),
        ("rm", "{oops"),
    ]
    assert len({call.tool_call_id for call in response.tool_calls}) == 3
    assert response.terminal_reason is TerminalReason.TOOL_USE


async def test_call_ids_differ_between_the_calls_of_a_session() -> None:
    first = await Chat().ask("!tool ls", request_id="s:turn:t:llm:0")
    second = await Chat().ask("!tool ls", request_id="s:turn:t:llm:1")
    assert first.tool_calls[0].tool_call_id != second.tool_calls[0].tool_call_id


async def test_after_tools_it_quotes_their_results_shortly() -> None:
    chat = Chat()
    prompt = "!tool ls\n!tool cat"
    first = await chat.ask(prompt)
    results = (ToolResultPart("1", "ls", "a\n  b"), ToolResultPart("2", "cat", "x" * 500, "failure"))
    second = await chat.ask(prompt, Message("a", Role.ASSISTANT, first.parts), Message("r", Role.USER, results))
    assert second.full_text == f"Tool results:\n- ls: a b\n- cat (failure): {'x' * 199}…"


async def test_rounds_play_one_after_another() -> None:
    prompt = "!tool one\n!then\n!text between\n!tool two\n!then\n!text end"
    chat, messages = Chat(), (user(prompt),)
    said = []
    for _ in range(3):
        response = await chat.ask(*messages)
        said.append((response.full_text, [call.tool_name for call in response.tool_calls]))
        messages += answered(response, *("ok" for _ in response.tool_calls))
    assert said == [("", ["one"]), ("between", ["two"]), ("end", [])]


async def test_earlier_turns_do_not_count_as_rounds() -> None:
    earlier = (user("!tool old"), Message("a", Role.ASSISTANT, (ProsePart("x"),)))
    response = await Chat().ask(*earlier, user("!tool new"))
    assert [call.tool_name for call in response.tool_calls] == ["new"]


async def test_only_the_current_turn_is_read() -> None:
    class Untouchable(list[Message]):
        def __getitem__(self, index: Any) -> Any:
            assert index == 99, "a message of an older turn was read"
            return super().__getitem__(index)

    shared = Untouchable(user("old") for _ in range(100))
    response = LlmRequest(model=ModelSpec("m"), messages=MessageSequence(shared, 100), scope=LlmScope("s", "r"))
    assert "old" in (await Loopback(ManualClock()).complete(response, Chat().sink)).full_text


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (7, 7), (100, 100)])
async def test_stream_makes_that_many_chunks(count: int, expected: int) -> None:
    chat = Chat()
    response = await chat.ask(f"!stream {count}")
    assert len(chat.chunks) == expected
    assert response.full_text == " ".join(str(i) for i in range(1, count + 1))


async def test_stream_cuts_a_given_text_at_word_ends_and_can_pause() -> None:
    chat = Chat()
    await chat.ask("!text a b c d\n!stream 2 0.5")
    assert chat.chunks == ["a b ", "c d"]
    assert chat.clock.slept == [0.5, 0.5]


async def test_sleep_suspends_the_call_before_it_answers() -> None:
    chat = Chat(ManualClock())
    running = asyncio.create_task(chat.ask("!sleep 30"))
    await chat.clock.wait_for_sleepers()
    assert chat.events == []
    await chat.clock.advance(30)
    assert (await running).full_text == "Done."


async def test_wait_file_holds_the_answer_until_the_file_exists(tmp_path: Path) -> None:
    gate = tmp_path / "go"
    chat = Chat(ManualClock())
    running = asyncio.create_task(chat.ask(f"!wait-file {gate}\n!text went"))
    await chat.clock.wait_for_sleepers()
    await chat.clock.advance(1)
    assert not running.done()
    gate.touch()
    await chat.clock.advance(0.02)
    assert (await running).full_text == "went"


@pytest.mark.parametrize("name", FAILURES)
async def test_every_named_failure_can_be_played(name: str) -> None:
    with pytest.raises(LlmTransportError) as caught:
        await Chat().ask(f"!fail {name}")
    expected = FAILURES[name]
    assert (caught.value.kind, caught.value.code) == (expected["kind"], expected["code"])
    assert caught.value.retryable is expected.get("retryable", False)
    assert name in caught.value.message


async def test_a_cut_stream_shows_half_its_answer_first() -> None:
    chat = Chat()
    with pytest.raises(LlmTransportError) as caught:
        await chat.ask("!text a b c d\n!stream 4\n!fail stream_cut")
    assert chat.chunks == ["a ", "b "]
    assert caught.value.partial.full_text == "a b "


async def test_counted_failures_pass_and_then_the_answer_comes() -> None:
    chat = Chat()
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append((await chat.ask("!fail server 1\n!fail network 2\n!text fine")).full_text)
        except LlmTransportError as error:
            outcomes.append(error.kind)
    assert outcomes == ["http", "transport", "transport", "fine"]


@pytest.mark.parametrize(
    "line",
    ["!sleep soon", "!sleep -1", "!sleep nan", "!tool", "!tool ls [1]", "!tool ls {", "!fail nothing", "!fail server 0",
     "!stream 0", "!usage 1", f"!usage 1 {2**63}", "!wait-file", '!text "\\x"'],
)  # fmt: skip
async def test_a_directive_it_cannot_follow_is_named(line: str) -> None:
    with pytest.raises(LlmTransportError) as caught:
        await Chat().ask(line)
    assert (caught.value.code, caught.value.retryable) == ("loopback_directive", False)
    assert line in caught.value.message


async def test_an_unknown_exclamation_is_ordinary_text() -> None:
    assert "You said: !important news" in (await Chat().ask("!important news")).full_text


async def test_an_answer_s_own_text_gives_no_orders() -> None:
    said = Message("a", Role.ASSISTANT, (ProsePart("!tool rm {}"), ToolCallPart("1", "ls", "{}")))
    result = Message("r", Role.USER, (ToolResultPart("1", "ls", "!tool rm {}"),))
    response = await Chat().ask(user("hello"), said, result)
    assert response.tool_calls == ()


async def test_through_the_ladder_a_cut_answer_is_retracted_and_told_whole() -> None:
    clock, events = ManualClock(auto_advance=True), []

    async def sink(event: StreamEvent) -> None:
        events.append(event)

    caller = build_caller(ProviderSettings("local", "loopback"), clock=clock, ids_bits=lambda _: 0)
    request = LlmRequest(
        model=ModelSpec("m"), messages=(user("!fail stream_cut 1\n!text a b"),), scope=LlmScope("s", "r")
    )
    result = await caller.call(request, sink=sink, cancel=ManualCancel())
    assert result.response.full_text == "a b"
    assert AttemptReset() in events
    assert clock.slept == [0.1]


GUIDE = (Path(__file__).resolve().parents[2] / "lash_cli" / "docs" / "loopback.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^lash turn demo '([^']*)'", GUIDE, re.MULTILINE)


def test_the_guide_names_every_failure() -> None:
    assert re.findall(r"^\| `([a-z_]+)` \|", GUIDE, re.MULTILINE) == list(FAILURES)


@pytest.mark.parametrize("prompt", EXAMPLES)
def test_every_example_of_the_guide_can_be_followed(prompt: str) -> None:
    words = re.findall(r"^(![a-z-]+)", prompt, re.MULTILINE)
    assert prompt == "hello" or words
    assert all(f"`{word} " in GUIDE or f"`{word}`" in GUIDE for word in words)
    parse_rounds(prompt)


async def test_cancelling_ends_a_long_answer_between_two_chunks() -> None:
    chat = Chat()
    running = asyncio.create_task(chat.ask("!stream 100000"))
    await settle()
    assert chat.chunks
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(chat.chunks) < 100_000
