"""What all wires make of a request alike (contract 06 §9, §7)."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.sent import HTTP_KINDS, assistant, request, sent, user

from lash_cli.core.content import Message, Role, ToolCallPart, ToolResultPart
from lash_cli.core.llm import LlmToolSpec, ToolChoice

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
