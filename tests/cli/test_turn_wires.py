"""`lash turn` over every wire: two parallel tool calls and a second model call, byte for byte (contract 06 §9, §17).

One section per wire; the Chat Completions wire has its own in `test_turn`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import anthropic
from support.wire import ThreadedChatServer


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory with two files to read."""
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "a.txt").write_text("alpha\n")
    (directory / "b.txt").write_text("beta\n")
    return directory


def kinds_of(lash: Any, session: str, turn_id: str) -> list[str]:
    """The parts of a turn's messages, in order."""
    items = lash("log", session, "--turn", turn_id, "-o", "json").json["items"]
    return [part["kind"] for item in items[1:] for part in item["parts"]]


# --- anthropic ------------------------------------------------------------------------------------


def without_marks(value: Any) -> Any:
    """A request without its cache marks."""
    if isinstance(value, dict):
        return {name: without_marks(member) for name, member in value.items() if name != "cache_control"}
    return [without_marks(member) for member in value] if isinstance(value, list) else value


def test_an_anthropic_turn_with_two_calls_thinks_reads_and_answers(lash: Any, work: Path) -> None:
    replies = [
        anthropic.stream_reply(
            anthropic.start({"input_tokens": 60, "cache_read_input_tokens": 40, "output_tokens": 1}),
            *anthropic.thinking_block(0, "two files"),
            *anthropic.text_block(1, "Reading ", "both."),
            *anthropic.call_block(2, "read_file", {"path": "a.txt"}, "toolu_a"),
            *anthropic.call_block(3, "read_file", {"path": "b.txt"}, "toolu_b"),
            *anthropic.ended("tool_use", output=20),
        ),
        anthropic.text_reply("They differ."),
        anthropic.text_reply("Yes."),
    ]
    with ThreadedChatServer(replies) as server:
        base_url = server.base_url.removesuffix("/v1")
        env = {"ANTHROPIC_API_KEY": "canary-key-0001", "LASH_CFG__providers__claude__key": "env:ANTHROPIC_API_KEY"}
        env |= {"LASH_CFG__providers__claude__kind": "anthropic", "LASH_CFG__providers__claude__base_url": base_url}
        opened = lash("open", "s", "--provider", "claude", "--model", "m-1", "--system", "be exact", env=env, cwd=work)
        assert opened.code == 0, opened.err
        done = lash("turn", "s", "Compare a.txt and b.txt", "-o", "json", env=env, cwd=work)
        assert done.code == 0, done.err
        again = lash("turn", "s", "Sure?", "-q", env=env, cwd=work)
        assert again.out == "Yes.\n", again.err
        requests = server.requests

    assert done.json["text"] == "They differ."
    assert [(call["call_id"], call["status"]) for call in done.json["tool_calls"]] == [
        ("toolu_a", "success"),
        ("toolu_b", "success"),
    ]
    kinds = ["reasoning", "prose", "tool_call", "tool_call", "tool_result", "tool_result", "prose"]
    assert kinds_of(lash, "s", done.json["turn_id"]) == kinds
    usage = lash("show", "s", "-o", "json").json["usage"]
    assert [usage[name] for name in ("input_tokens", "output_tokens", "cache_read_input_tokens")] == [80, 30, 40]

    assert {request.path for request in requests} == {"/v1/messages"}
    assert {request.headers["x-api-key"] for request in requests} == {"canary-key-0001"}
    one, two, three = (without_marks(request.json) for request in requests)
    assert one["system"] == [{"type": "text", "text": "be exact"}]
    assert [len(body["messages"]) for body in (one, two, three)] == [1, 3, 5]
    assert two["messages"][:1] == one["messages"]
    assert three["messages"][:3] == two["messages"]
    assert (two["system"], two["tools"]) == (one["system"], one["tools"])
    thought, prose, *calls = two["messages"][1]["content"]
    assert thought == {"type": "thinking", "thinking": "two files", "signature": "sig"}
    assert prose == {"type": "text", "text": "Reading both."}
    assert [(call["id"], call["input"]) for call in calls] == [
        ("toolu_a", {"path": "a.txt"}),
        ("toolu_b", {"path": "b.txt"}),
    ]
    results = two["messages"][2]["content"]
    assert [result["tool_use_id"] for result in results] == ["toolu_a", "toolu_b"]
    assert "alpha" in json.dumps(results[0]) and "beta" in json.dumps(results[1])
    assert requests[1].body.count(b'"cache_control"') == 4
