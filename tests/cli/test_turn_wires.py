"""`lash turn` over every wire: two parallel tool calls and a second model call, byte for byte (contract 06 §9, §17).

One section per wire; the Chat Completions wire has its own in `test_turn`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from support import anthropic, gemini, responses
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


def without_marks(value: Any) -> Any:
    """A request without its cache marks."""
    if isinstance(value, dict):
        return {name: without_marks(member) for name, member in value.items() if name != "cache_control"}
    return [without_marks(member) for member in value] if isinstance(value, list) else value


def test_arguments_nested_too_deep_to_follow_are_answered_like_broken_ones(lash: Any, work: Path) -> None:
    deep = '{"path": "a.txt", "x": ' + "[" * 500 + "]" * 500 + "}"
    prompt = f'!tool read_file {{"path": "a.txt"}}\n!raw-args read_file {deep}\n!then\n!text Done.'
    done = lash("turn", "s", prompt, "--or-open", "--provider", "loopback", "-o", "json", cwd=work)
    assert done.code == 0, done.err
    assert done.json["text"] == "Done."
    read, refused = done.json["tool_calls"]
    assert (read["status"], refused["status"]) == ("success", "failure")
    assert "nested deeper than 128 levels" in refused["output"]["failure"]["message"]
    assert refused["args"] == deep


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


def test_an_anthropic_turn_sends_a_picture_and_a_pdf_and_answers_with_what_fits_the_schema(
    lash: Any, work: Path
) -> None:
    png = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
    )
    (work / "dot.png").write_bytes(png)
    (work / "doc.pdf").write_bytes(b"%PDF-1.4\n%%EOF\n")
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    (work / "schema.json").write_text(json.dumps(schema | {"additionalProperties": False}))
    with ThreadedChatServer([anthropic.text_reply('{"n": 0}'), anthropic.text_reply('{"n": 2}')]) as server:
        env = {"LASH_CFG__providers__claude__kind": "anthropic"}
        env |= {"LASH_CFG__providers__claude__base_url": server.base_url.removesuffix("/v1")}
        assert lash("open", "s", "--provider", "claude", "--model", "m-1", env=env, cwd=work).code == 0
        asked = ("--attach", "dot.png", "--attach", "doc.pdf", "--schema", "schema.json", "-o", "json")
        done = lash("turn", "s", "How many?", *asked, env=env, cwd=work)
        assert done.code == 0, done.err
        one, two = (without_marks(request.json) for request in server.requests)
    shown = one["output_config"]["format"]
    assert (shown["type"], shown["schema"]["required"]) == ("json_schema", ["n"])
    assert "minimum" not in shown["schema"]["properties"]["n"]
    words, picture, document = one["messages"][0]["content"]
    assert words == {"type": "text", "text": "How many?"}
    assert (picture["type"], picture["source"]["media_type"]) == ("image", "image/png")
    assert base64.b64decode(picture["source"]["data"]) == png
    assert (document["type"], document["source"]["media_type"]) == ("document", "application/pdf")
    assert two["messages"][0] == one["messages"][0], "the second request asks for a repair and repeats the first"
    assert two["output_config"] == one["output_config"]


def test_a_gemini_turn_with_two_calls_gives_every_signature_back(lash: Any, work: Path) -> None:
    replies = [
        gemini.streamed(
            gemini.document(gemini.text("two files", thought=True)),
            gemini.document(gemini.text("Reading ")),
            gemini.document(gemini.text("both.")),
            gemini.document(
                gemini.call("read_file", {"path": "a.txt"}, signature="SIG_A"),
                gemini.call("read_file", {"path": "b.txt"}),
                finish="STOP",
                usage=gemini.usage_of(100, 20, cachedContentTokenCount=40, thoughtsTokenCount=15),
            ),
        ),
        gemini.streamed(
            gemini.document(gemini.text("They differ.")),
            gemini.document(gemini.text("", thoughtSignature="SIG_T"), finish="STOP", usage=gemini.usage_of(120, 5)),
        ),
        gemini.streamed(gemini.document(gemini.text("Yes."), finish="STOP", usage=gemini.usage_of(130, 2))),
    ]
    with ThreadedChatServer(replies) as server:
        base_url = server.base_url.removesuffix("/v1") + "/v1beta"
        env = {"GEMINI_API_KEY": "canary-key-0001", "LASH_CFG__providers__gem__key": "env:GEMINI_API_KEY"}
        env |= {"LASH_CFG__providers__gem__kind": "google", "LASH_CFG__providers__gem__base_url": base_url}
        opened = lash("open", "s", "--provider", "gem", "--model", "m-1", "--system", "be exact", env=env, cwd=work)
        assert opened.code == 0, opened.err
        done = lash("turn", "s", "Compare a.txt and b.txt", "-o", "json", env=env, cwd=work)
        assert done.code == 0, done.err
        again = lash("turn", "s", "Sure?", "-q", env=env, cwd=work)
        assert again.out == "Yes.\n", again.err
        requests = server.requests

    assert done.json["text"] == "They differ."
    ids = [call["call_id"] for call in done.json["tool_calls"]]
    assert [call["status"] for call in done.json["tool_calls"]] == ["success", "success"]
    assert len(set(ids)) == 2
    kinds = ["reasoning", "prose", "tool_call", "tool_call", "tool_result", "tool_result", "prose", "reasoning"]
    assert kinds_of(lash, "s", done.json["turn_id"]) == kinds
    usage = lash("show", "s", "-o", "json").json["usage"]
    assert [usage[name] for name in ("input_tokens", "output_tokens", "cache_read_input_tokens")] == [310, 42, 40]

    assert {request.path for request in requests} == {"/v1beta/models/m-1:streamGenerateContent?alt=sse"}
    assert {request.headers["x-goog-api-key"] for request in requests} == {"canary-key-0001"}
    one, two, three = (request.json for request in requests)
    assert one["systemInstruction"] == {"parts": [{"text": "be exact"}]}
    assert [len(body["contents"]) for body in (one, two, three)] == [1, 3, 5]
    assert (two["contents"][:1], three["contents"][:3]) == (one["contents"], two["contents"])
    assert (two["systemInstruction"], two["tools"]) == (one["systemInstruction"], one["tools"])
    prefix = requests[0].body[: requests[0].body.index(b'],"')]
    assert all(request.body.startswith(prefix) for request in requests)
    assert two["contents"][1]["parts"] == [
        {"text": "Reading both."},
        {"functionCall": {"name": "read_file", "args": {"path": "a.txt"}}, "thoughtSignature": "SIG_A"},
        {"functionCall": {"name": "read_file", "args": {"path": "b.txt"}}},
    ]
    results = [part["functionResponse"]["response"]["output"] for part in two["contents"][2]["parts"]]
    assert "alpha" in results[0] and "beta" in results[1]
    assert three["contents"][3]["parts"] == [{"text": "They differ.", "thoughtSignature": "SIG_T"}]


def test_a_responses_turn_with_two_calls_gives_its_reasoning_back(lash: Any, work: Path) -> None:
    items = (
        responses.reasoning("two files"),
        responses.message("Reading both."),
        responses.call("read_file", '{"path": "a.txt"}', call_id="call_a", identity="fc_a"),
        responses.call("read_file", '{"path": "b.txt"}', call_id="call_b", identity="fc_b"),
    )
    replies = [
        responses.Answer(*items, usage=responses.usage_of(100, 20, cached=40, reasoning=15)).streamed(),
        responses.Answer(responses.message("They differ."), usage=responses.usage_of(120, 5)).streamed(),
        responses.Answer(responses.message("Yes."), usage=responses.usage_of(130, 2)).streamed(),
    ]
    with ThreadedChatServer(replies) as server:
        env = {"OPENAI_API_KEY": "canary-key-0001", "LASH_CFG__providers__oai__key": "env:OPENAI_API_KEY"}
        env |= {"LASH_CFG__providers__oai__kind": "openai_responses"}
        env |= {"LASH_CFG__providers__oai__base_url": server.base_url}
        opened = lash("open", "s", "--provider", "oai", "--model", "m-1", "--system", "be exact", env=env, cwd=work)
        assert opened.code == 0, opened.err
        done = lash("turn", "s", "Compare a.txt and b.txt", "-o", "json", env=env, cwd=work)
        assert done.code == 0, done.err
        again = lash("turn", "s", "Sure?", "-q", env=env, cwd=work)
        assert again.out == "Yes.\n", again.err
        requests = server.requests

    assert done.json["text"] == "They differ."
    assert [(call["call_id"], call["status"]) for call in done.json["tool_calls"]] == [
        ("call_a", "success"),
        ("call_b", "success"),
    ]
    kinds = ["reasoning", "prose", "tool_call", "tool_call", "tool_result", "tool_result", "prose"]
    assert kinds_of(lash, "s", done.json["turn_id"]) == kinds
    usage = lash("show", "s", "-o", "json").json["usage"]
    assert [usage[name] for name in ("input_tokens", "output_tokens", "cache_read_input_tokens")] == [310, 27, 40]

    assert {request.path for request in requests} == {"/v1/responses"}
    assert {request.headers["authorization"] for request in requests} == {"Bearer canary-key-0001"}
    one, two, three = (request.json for request in requests)
    assert {body["instructions"] for body in (one, two, three)} == {"be exact"}
    assert {body["store"] for body in (one, two, three)} == {False}
    assert len({body["prompt_cache_key"] for body in (one, two, three)}) == 1
    assert [len(body["input"]) for body in (one, two, three)] == [1, 7, 9]
    assert (two["input"][:1], three["input"][:7]) == (one["input"], two["input"])
    assert two["tools"] == one["tools"]
    prefixes = [request.body[: request.body.index(b'],"instructions"')] for request in requests]
    assert requests[1].body.startswith(prefixes[0])
    assert requests[2].body.startswith(prefixes[1])
    assert two["input"][1:5] == list(items)
    outputs = two["input"][5:]
    assert [output["call_id"] for output in outputs] == ["call_a", "call_b"]
    assert "alpha" in outputs[0]["output"] and "beta" in outputs[1]["output"]
