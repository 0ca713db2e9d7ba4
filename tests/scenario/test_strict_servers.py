"""Servers whose chat template, or own checks, demand roles in an order: whatever becomes of turns, their sessions go on
(contract 06 §9.2, 01 §6.6).

The rules are those of the templates of Gemma and Mistral models and of Mistral's own API, each with its words.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from support import anthropic, gemini, responses
from support.doubling import Number, doubling
from support.driving import S
from support.wire import ChatServer, RecordedRequest, Reply, error_reply, hang_reply, text_reply, tool_calls_reply

from lash_cli.api import FunctionToolProvider, LashCore, ToolContext, provider, tool
from lash_cli.core.activity import AssistantProseDelta
from lash_cli.core.content import AttachmentItem, Inline, TextItem, TurnInput
from lash_cli.core.outcome import Stopped
from lash_cli.core.prompt import STANDARD_BUILTINS

Check = Callable[[list[dict[str, Any]]], str | None]
PICTURE = TurnInput((TextItem("look"), AttachmentItem(Inline("image/png", b"png"))))


def gemma(messages: list[dict[str, Any]]) -> str | None:
    """What the template of Gemma says: roles alternate, from the user on."""
    told = messages[1:] if messages[0]["role"] == "system" else messages
    if any((message["role"] == "user") is not (number % 2 == 0) for number, message in enumerate(told)):
        return "Conversation roles must alternate user/assistant/user/assistant/..."
    return None


def mistral_template(messages: list[dict[str, Any]]) -> str | None:
    """What the templates of Mistral's newer models say: calls and their results do not count."""
    told = messages[1:] if messages[0]["role"] == "system" else messages
    counted = [m for m in told if m["role"] == "user" or (m["role"] == "assistant" and not m.get("tool_calls"))]
    if any((message["role"] == "user") is not (number % 2 == 0) for number, message in enumerate(counted)):
        return (
            "After the optional system message, conversation roles must alternate user and assistant roles except for"
            " tool calls and results."
        )
    return None


def mistral_api(messages: list[dict[str, Any]]) -> str | None:
    """What Mistral's own API says."""
    for before, after in itertools.pairwise(messages):
        if (before["role"], after["role"]) in (("tool", "user"), ("user", "tool"), ("tool", "system")):
            return f"Unexpected role '{after['role']}' after role '{before['role']}'"
    for message in messages:
        if message["role"] == "assistant" and not (message["content"] or message.get("tool_calls")):
            return "Assistant message must have either content or tool_calls, but not none."
        for identity in [call["id"] for call in message.get("tool_calls", ())] + [message.get("tool_call_id")]:
            if identity is not None and not re.fullmatch("[A-Za-z0-9]{9}", identity):
                return f"Tool call id was {identity} but must be a-z, A-Z, 0-9, with a length of 9."
    return None


def gemini_api(contents: list[dict[str, Any]]) -> str | None:
    """What Google's API says: the results of all calls follow them at once, and nothing else does."""

    def of(content: dict[str, Any], kind: str) -> int:
        return sum(kind in part for part in content["parts"])

    for before, after in itertools.pairwise([{"role": "", "parts": []}, *contents, {"role": "", "parts": []}]):
        if of(after, "functionCall") and before["role"] != "user":
            return "Please ensure that function call turn comes immediately after a user turn."
        if of(after, "functionResponse") != of(before, "functionCall"):
            return "Please ensure that the number of function response parts is that of the function call parts."
        if of(after, "functionResponse") not in (0, len(after["parts"])):
            return "A function response turn holds something else."
        if any(not part.get("text", "x") for part in after["parts"]):
            return "A text parameter must not be empty."
    return None


def anthropic_api(messages: list[dict[str, Any]]) -> str | None:
    """What Anthropic's API and those that follow it say."""
    ends = {"role": "", "content": []}
    for before, after in itertools.pairwise([ends, *messages, ends]):
        if before["role"] == after["role"]:
            return "messages: roles must alternate between user and assistant"
        used = [block["id"] for block in before["content"] if block["type"] == "tool_use"]
        answered = [block["tool_use_id"] for block in after["content"][: len(used)] if block["type"] == "tool_result"]
        if sorted(used) != sorted(answered):
            return "`tool_use` ids were found without `tool_result` blocks immediately after"
        if any(block["type"] == "text" and not block["text"].strip() for block in after["content"]):
            return "messages: text content blocks must contain non-whitespace text"
    return None


def spoken(reply: Reply, path: str) -> Reply:
    """A whole answer of the Chat Completions wire as one of the wire behind `path`; what is none stays as it is."""
    if reply.status != 200 or reply.ending != "complete" or path.endswith("/completions"):
        return reply
    documents = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for document in documents for choice in document["choices"]]
    text = "".join(delta.get("content") or "" for delta in deltas)
    calls: dict[int, dict[str, str]] = {}
    for delta in (made for each in deltas for made in each.get("tool_calls", ())):
        call = calls.setdefault(delta["index"], {"id": delta.get("id", ""), "name": "", "arguments": ""})
        for name in ("name", "arguments"):
            call[name] += delta["function"].get(name, "")
    if "Content" in path:
        parts = [gemini.text(text)] if text else []
        parts += [gemini.call(call["name"], json.loads(call["arguments"]), id=call["id"]) for call in calls.values()]
        return gemini.streamed(gemini.document(*parts, finish="STOP"))
    if path.endswith("/messages"):
        blocks = anthropic.text_block(0, text) if text else []
        for index, call in enumerate(calls.values(), 1):
            blocks += anthropic.call_block(index, call["name"], call["arguments"], call["id"])
        return anthropic.stream_reply(anthropic.start(), *blocks, *anthropic.ended())
    items = [responses.message(text)] if text else []
    items += [
        responses.call(call["name"], call["arguments"], call_id=call["id"], identity=f"fc_{number}")
        for number, call in calls.items()
    ]
    return responses.Answer(*items).streamed()


class Strict:
    """A server that refuses what `check` finds, and answers everything else with what is scripted, or with `fine`."""

    def __init__(self, *checks: Check) -> None:
        self.checks = checks
        self.script: list[Any] = []
        self.refusals: list[str] = []
        self.said: list[dict[str, Any]] = []

    def __call__(self, request: RecordedRequest) -> Any:
        said = next(request.json[name] for name in ("messages", "contents", "input") if name in request.json)
        self.said = as_messages(said) if "input" in request.json else said
        refusal = next((found for check in self.checks if (found := check(self.said))), None)
        if refusal is not None:
            self.refusals.append(refusal)
            return error_reply(400, {"error": {"message": refusal, "type": "BadRequestError", "code": 400}})
        return spoken(self.script.pop(0) if self.script else text_reply("fine"), request.path.partition("?")[0])


def as_messages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items of the Responses wire as a server that follows it hands them to the template of its model."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item["type"]:
            case "function_call":
                call = {"id": item["call_id"], "function": {"name": item["name"], "arguments": item["arguments"]}}
                if not messages or not messages[-1].get("tool_calls"):
                    messages.append({"role": "assistant", "content": None, "tool_calls": []})
                messages[-1]["tool_calls"].append(call)
            case "function_call_output":
                messages.append({"role": "tool", "content": item["output"], "tool_call_id": item["call_id"]})
            case "message":
                said = item["content"]
                texts = said if isinstance(said, str) else "".join(block.get("text", "") for block in said)
                messages.append({"role": item["role"], "content": texts})
    return messages


def core_of(
    server: ChatServer,
    make_core: Callable[..., LashCore],
    *,
    options: dict[str, Any],
    kind: str = "openai_chat",
    **more: Any,
) -> LashCore:
    base_url = server.base_url.removesuffix("/v1") if kind == "anthropic" else server.base_url
    caller = provider(kind, name="local", base_url=base_url, **{"max_attempts": 1} | options)
    return make_core(caller, **more)


def told(server: ChatServer) -> list[Any]:
    """What the last request said, by role."""
    return [(message["role"], message["content"]) for message in server.requests[-1].json["messages"]]


@pytest.mark.parametrize("check", [gemma, mistral_template, mistral_api])
async def test_a_session_goes_on_after_turns_without_an_answer(make_core, check: Check) -> None:
    strict = Strict(check)
    async with ChatServer(default=strict) as server:
        core = core_of(server, make_core, options={})
        async with await core.open_session(S) as session:
            strict.script = [hang_reply(), error_reply(500), text_reply("three"), hang_reply("fo"), text_reply("five")]
            running = asyncio.ensure_future(session.turn("one").run())
            await server.wait_for_requests(1)
            assert session.cancel_running_turns() == 1
            assert (await running).result.outcome == Stopped("cancelled")
            assert (await session.turn("two").run()).result.outcome == Stopped("provider_error")
            assert (await session.turn("three").run()).result.assistant_message() == "three"
            assert told(server)[-1] == ("user", "one\n\ntwo\n\nthree")
            async with session.turn("four").stream() as stream:
                async for activity in stream:
                    if isinstance(activity.event, AssistantProseDelta):
                        session.cancel_running_turns()
            assert told(server)[-1] == ("user", "four")
            assert (await session.turn("five").run()).result.assistant_message() == "five"
        async with await core.open_session(S) as session:
            assert (await session.turn("six").run()).result.assistant_message() == "fine"
    assert strict.refusals == []


@pytest.mark.parametrize("check", [gemma, mistral_template, mistral_api])
async def test_a_picture_may_follow_what_was_not_answered_and_be_followed(make_core, check: Check) -> None:
    """Text that stands alone goes as text, and beside a picture as a block: the wire message is written anew."""
    strict = Strict(check)
    async with ChatServer(default=strict) as server:
        core = core_of(server, make_core, options={})
        async with await core.open_session(S) as session:
            for said in ("one", PICTURE, "two"):
                strict.script = [error_reply(500)]
                await session.turn(said).run()
            await session.turn("three").run()
            blocks = [block.get("text") or block["type"] for block in told(server)[-1][1]]
            assert blocks == ["one", "look", "image_url", "two", "three"]
            await session.turn("four").run()
            assert told(server)[-1] == ("user", "four")
            assert server.requests[-1].json["messages"][:-2] == server.requests[-2].json["messages"]
    assert strict.refusals == []


@pytest.mark.parametrize("check", [gemma, mistral_template, mistral_api])
async def test_a_summary_may_be_followed_by_what_the_user_says(make_core, check: Check) -> None:
    strict = Strict(check)
    async with ChatServer(default=strict) as server:
        core = core_of(server, make_core, options={}, builtins=STANDARD_BUILTINS)
        async with await core.open_session(S) as session:
            for said in ("one", "two", "three"):
                await session.turn(said).run()
            strict.script = [text_reply("the gist")]
            assert await session.admin().compact_context()
            assert (await session.turn("four").run()).result.assistant_message() == "fine"
            summary = next(said for _, said in told(server) if "the gist" in str(said))
            assert summary.startswith("Compaction summary:\n\nthe gist\n\n")
    assert strict.refusals == []


async def interrupted_among_tools(core: LashCore, server: ChatServer, strict: Strict) -> None:
    """Turns that end, or are spoken into, behind the results of tools."""
    async with await core.open_session(S) as session:
        strict.script = [tool_calls_reply([("double", {"value": 1}, "call_0fypS1hVX")]), hang_reply()]
        running = asyncio.ensure_future(session.turn("one").run())
        await server.wait_for_requests(2)
        session.cancel_running_turns()
        await running
        strict.script = [tool_calls_reply([("double", {"value": 2}), ("double", {"value": 3})]), error_reply(500)]
        await session.turn("two").run()
        strict.script = [tool_calls_reply([("speak", {"value": 4}, "abcdefgh9")]), text_reply("heard")]
        assert (await session.turn("three").run()).result.assistant_message() == "heard"
        assert (await session.turn(PICTURE).run()).result.assistant_message() == "fine"


def speaking_core(server: ChatServer, make_core: Callable[..., LashCore], **how: Any) -> LashCore:
    """A core with a tool during which the user says something."""
    cores: list[LashCore] = []

    @tool(name="speak")
    async def speak(arguments: Number, context: ToolContext) -> str:
        await cores[0].inject_turn_input(S, context.turn_id, "k", "and this")
        return "done"

    cores.append(core_of(server, make_core, tools=[doubling(), FunctionToolProvider([speak])], **how))
    return cores[0]


@pytest.mark.parametrize(("kind", "check"), [("google", gemini_api), ("anthropic", anthropic_api)])
async def test_no_wire_is_refused_for_the_order_of_a_conversation_among_tools(
    make_core, kind: str, check: Check
) -> None:
    strict = Strict(check)
    async with ChatServer(default=strict) as server:
        core = speaking_core(server, make_core, options={"key": "sk-test-0001"}, kind=kind)
        await interrupted_among_tools(core, server, strict)
        async with await core.open_session(S) as session:
            strict.script = [error_reply(500), text_reply("fine")]
            await session.turn("five").run()
            assert (await session.turn("six").run()).result.assistant_message() == "fine"
    assert strict.refusals == []


@pytest.mark.parametrize("kind", ["openai_chat", "openai_responses"])
@pytest.mark.parametrize("checks", [(mistral_template,), (mistral_api,), (mistral_template, mistral_api)])
async def test_mistral_takes_a_conversation_whose_tools_were_not_answered(
    make_core, checks: tuple[Check, ...], kind: str
) -> None:
    strict = Strict(*checks)
    async with ChatServer(default=strict) as server:
        core = speaking_core(server, make_core, options={"conversation_dialect": "mistral"}, kind=kind)
        await interrupted_among_tools(core, server, strict)
        assert strict.refusals == []
        said = [(message["role"], message["content"]) for message in strict.said]
        assert [role for role, _ in said if role != "system"] == [
            *("user", "assistant", "tool", "assistant"),
            *("user", "assistant", "tool", "tool", "assistant"),
            *("user", "assistant", "tool", "assistant", "user", "assistant"),
            "user",
        ]
        assert [content for role, content in said if role == "assistant" and content] == [*["[no answer]"] * 3, "heard"]
        calls = [call["id"] for message in strict.said for call in message.get("tool_calls", ())]
        assert len(set(calls)) == 4 and "abcdefgh9" in calls


async def test_who_is_refused_for_the_order_is_not_asked_again_and_told_what_helps(make_core) -> None:
    strict = Strict(mistral_api)
    async with ChatServer(default=strict) as server:
        core = core_of(server, make_core, options={"max_attempts": 4}, tools=[doubling()])
        async with await core.open_session(S) as session:
            strict.script = [tool_calls_reply([("double", {"value": 1}, "abcdefgh9")]), hang_reply()]
            running = asyncio.ensure_future(session.turn("one").run())
            await server.wait_for_requests(2)
            session.cancel_running_turns()
            await running
            result = (await session.turn("two").run()).result
            assert [(issue.code, issue.retryable) for issue in result.errors] == [("conversation_refused", False)]
        # Its words are those of a server; set for it, the same session goes on.
        core = core_of(server, make_core, options={"conversation_dialect": "mistral"}, tools=[doubling()])
        async with await core.open_session(S) as session:
            assert (await session.turn("three").run()).result.assistant_message() == "fine"
    assert strict.refusals == ["Unexpected role 'user' after role 'tool'"]


async def test_calls_counted_from_zero_in_every_answer_have_ids_of_their_own_in_the_whole_conversation(
    make_core,
) -> None:
    """Anthropic refuses a conversation with an id twice, and a state with one is not taken back."""
    counting = [tool_calls_reply([("double", {"value": 1}, "double:0")]), text_reply("2")]
    async with ChatServer() as server:
        core = core_of(server, make_core, options={}, tools=[doubling()])
        async with await core.open_session(S) as session:
            for _ in range(2):
                server.script(*counting)
                await session.turn("go on").run()
        core = core_of(server, make_core, options={}, kind="anthropic", tools=[doubling()])
        async with await core.open_session(S) as session:
            server.script(spoken(text_reply("fine"), "/messages"))
            assert (await session.turn("and you").run()).result.assistant_message() == "fine"
            state = await session.admin().export_persistence_state()
            async with await core.open_with_state("copy", state.rebound_to("copy")) as copied:
                assert len(copied.read_view().messages) == len(session.read_view().messages)
        blocks = [block for message in server.requests[-1].json["messages"] for block in message["content"]]
    used = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert used == [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert len(set(used)) == len(used) == 2
