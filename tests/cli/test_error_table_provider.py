"""What a provider can do wrong: the turn is committed whole, the key stays ours (contract 08 §6.4, 06 §3).

A real server on 127.0.0.1 refuses, hangs, answers web pages or breaks its own
tool calls. Every body it sends repeats the key it was called with, as some real
ones do. Afterwards the user's text is in the transcript once, no turn is left
unfinished and the next turn works.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.error_world import CANARY, QUICK, ErrorWorld, error_world
from support.wire import (
    Reply,
    ThreadedChatServer,
    chunk,
    cut_reply,
    error_reply,
    hang_reply,
    html_reply,
    json_reply,
    stream_reply,
    text_reply,
    tool_calls_reply,
)

TURN = ("turn", "s", "what the user wrote", "--turn-id", "t_failed")


@contextmanager
def served(
    directory: Path, *replies: Reply, default: Reply | None = None, options: str = QUICK
) -> Iterator[tuple[ErrorWorld, ThreadedChatServer]]:
    """A world whose session `s` talks to the scripted server."""
    with (
        ThreadedChatServer(replies, default=default or (replies[-1] if replies else None)) as server,
        error_world(directory, base_url=server.base_url, options=options) as world,
    ):
        yield world, server
        assert all(request.headers["authorization"] == f"Bearer {CANARY}" for request in server.requests)


def refusal(status: int, code: str | None = None, headers: dict[str, str] | None = None) -> Reply:
    """An error body that repeats the key, whole and in a header of its own."""
    body = {"error": {"message": f"refused key {CANARY} (Authorization: Bearer {CANARY})", "code": code}}
    return error_reply(status, body, {"x-debug": CANARY, **(headers or {})})


FAILURES = [
    ("a rejected key", refusal(401, "invalid_api_key"), 5, "key_rejected", 1),
    ("a forbidden key", refusal(403), 5, "key_rejected", 1),
    ("a used up quota", refusal(429, "insufficient_quota"), 6, "turn_stopped:provider_error", 1),
    ("a bill to pay", refusal(402), 6, "turn_stopped:provider_error", 1),
    ("a bad request", refusal(400), 6, "turn_stopped:provider_error", 1),
    ("an unknown model", refusal(404, "model_not_found"), 6, "turn_stopped:provider_error", 1),
    ("a redirect", error_reply(302, "moved", {"location": "/elsewhere"}), 6, "turn_stopped:provider_error", 1),
    ("a web page", html_reply(200, f"Sign in {CANARY}"), 6, "turn_stopped:provider_error", 1),
    ("a web page as an error", html_reply(404, f"Not here {CANARY}"), 6, "turn_stopped:provider_error", 1),
    ("a rate limit", refusal(429, "rate_limit_exceeded", {"retry-after-ms": "1"}), 75, "provider_rate_limited", None),
    ("an overload", refusal(503), 75, "provider_unavailable", 2),
    ("a web page of a proxy", html_reply(502, f"Bad gateway {CANARY}"), 75, "provider_unavailable", 2),
    ("a server fault", refusal(500), 75, "provider_unavailable", 2),
    ("an error in the stream", json_reply({"error": {"message": CANARY, "code": "server_error"}}), 75,
     "provider_unavailable", 2),
    # Not asked for again: part of the answer had been shown (contract 06 §3.2). For a script it is a failed provider.
    ("a cut stream", cut_reply(), 75, "provider_unavailable", 1),
    ("a cut stream that looks whole", cut_reply(ending="complete"), 75, "provider_unavailable", 1),
    ("a rate limit after some text", stream_reply(chunk({"content": "half"}), {"error": {"code": 429}}), 75,
     "provider_rate_limited", 1),
    ("no quota after some text", stream_reply(chunk({"content": "half"}), {"error": {"code": "insufficient_quota"}}), 6,
     "turn_stopped:provider_error", 1),
    ("a stream cut before anything was shown", cut_reply(""), 75, "provider_unavailable", 2),
    ("nothing at all", Reply((b"",)), 75, "provider_unavailable", 2),
    ("an empty answer", text_reply(""), 75, "provider_unavailable", 2),
    ("broken JSON", Reply((b'data: {"id": \n\n',)), 75, "provider_unavailable", 2),
    ("an answer cut by the token limit", text_reply("half an answer", finish_reason="length"), 6,
     "turn_stopped:incomplete", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "status", "code", "calls"), [row[1:] for row in FAILURES], ids=[r[0] for r in FAILURES]
)
def test_a_failing_provider_leaves_a_whole_turn(
    tmp_path: Path, reply: Reply, status: int, code: str, calls: int | None
) -> None:
    with served(tmp_path, default=reply) as (world, server):
        error = world.stopped(TURN, status, code)
        assert calls is None or len(server.requests) == calls
        turn = error["details"]["turn"]
        assert (turn["session"], turn["turn_id"], turn["ok"], turn["replayed"]) == ("s", "t_failed", False, False)
        assert turn["errors"] or code.endswith("incomplete"), "the turn says what went wrong"


def test_a_failed_turn_in_text_is_an_error_and_a_hint_and_no_key(tmp_path: Path) -> None:
    with served(tmp_path, default=refusal(401, "invalid_api_key")) as (world, _):
        done = world.lash(*TURN)
        assert (done.code, done.out) == (5, "")
        assert "error: " in done.err and "hint: store a key that is valid here: lash key set" in done.err
        debugged = world.lash("turn", "s", "again", "--debug", "-v")
        assert debugged.code == 5 and "Traceback" in debugged.err


def test_a_failed_stream_ends_with_its_error(tmp_path: Path) -> None:
    with served(tmp_path, default=refusal(503)) as (world, _):
        done = world.lash(*TURN, "-o", "jsonl")
        end = done.lines[-1]
        assert (done.code, end["type"], end["exit"]) == (75, "stream_end", 75)
        assert end["error"]["code"] == done.error["code"] == "provider_unavailable"


def test_a_connection_that_is_refused_is_provider_unavailable(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connecting is refused, and nobody else gets the port
        with error_world(tmp_path, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1") as world:
            world.stopped(TURN, 75, "provider_unavailable")


@pytest.mark.parametrize("reply", [hang_reply(), hang_reply("and then")], ids=["at once", "after some text"])
def test_a_hanging_provider_ends_by_its_own_limit(tmp_path: Path, reply: Reply) -> None:
    options = "{max_attempts = 1, request_timeout_seconds = 0.3, chunk_timeout_seconds = 0.3}"
    with served(tmp_path, default=reply, options=options) as (world, _):
        world.stopped(TURN, 75, "provider_unavailable")


@pytest.mark.parametrize("reply", [hang_reply(), hang_reply("and then")], ids=["at once", "after some text"])
def test_a_hanging_provider_ends_by_the_limit_of_the_caller(tmp_path: Path, reply: Reply) -> None:
    with served(tmp_path, default=reply) as (world, _):
        error = world.stopped((*TURN, "--timeout", "300ms"), 124, "wait_timeout")
        assert "300ms" in error["message"]


def test_the_ladder_does_not_outlive_the_limit_of_the_caller(tmp_path: Path) -> None:
    # Jitter may make any wait short; and a busy machine may come to the limit before the first request.
    options = "{max_attempts = 4, base_delay_ms = 60000, max_delay_ms = 60000, jitter = 0.0}"
    with served(tmp_path, default=refusal(503), options=options) as (world, server):
        world.stopped((*TURN, "--timeout", "1500ms"), 124, "wait_timeout")
        assert len(server.requests) <= 1


BROKEN_ARGUMENTS = ['{"cmd": "touch executed', "touch executed", '["touch executed"]', '{"cmd": 7}', '{"no": "cmd"}']


@pytest.mark.parametrize("arguments", BROKEN_ARGUMENTS)
def test_a_tool_call_with_broken_arguments_is_told_to_the_model_and_never_executed(
    tmp_path: Path, arguments: str
) -> None:
    replies = (tool_calls_reply([("exec_command", arguments, "call_1")]), text_reply("I see, my mistake."))
    with served(tmp_path, *replies) as (world, server):
        done = world.lash(*TURN, "--approve", "execute=auto", "-o", "json")
        assert done.code == 0, done.err
        assert done.json["text"] == "I see, my mistake."
        (call,) = done.json["tool_calls"]
        assert (call["call_id"], call["status"]) == ("call_1", "failure")
        assert call["output"]["failure"]["code"] == "invalid_tool_args"
        told = server.requests[1].json["messages"]
        (result,) = [message for message in told if message["role"] == "tool"]
        assert result["tool_call_id"] == "call_1" and "Invalid arguments for exec_command" in result["content"]
        sent_back = next(message for message in told if message.get("tool_calls"))
        arguments_sent = json.loads(sent_back["tool_calls"][0]["function"]["arguments"])
        assert isinstance(arguments_sent, dict), "servers refuse a conversation that holds anything else"
        assert arguments_sent in ({"invalid_arguments": arguments}, {"cmd": 7}, {"no": "cmd"})
        assert not (tmp_path / "executed").exists()
        assert [item["text"] for item in world.transcript("s")].count(TURN[2]) == 1


def test_a_call_of_an_unknown_tool_is_told_to_the_model(tmp_path: Path) -> None:
    replies = (tool_calls_reply([("no_such_tool", {}, "call_1")]), text_reply("Without it then."))
    with served(tmp_path, *replies) as (world, server):
        done = world.lash(*TURN, "-o", "json")
        assert (done.code, done.json["tool_calls"][0]["status"]) == (0, "failure"), done.err
        assert any(message["role"] == "tool" for message in server.requests[1].json["messages"])


def test_a_tool_call_cut_off_in_the_middle_is_not_executed(tmp_path: Path) -> None:
    head = {"index": 0, "id": "call_1", "type": "function"}
    cut = stream_reply(
        chunk(
            {"tool_calls": [{**head, "function": {"name": "exec_command", "arguments": '{"cmd": "touch executed"}'}}]}
        ),
        done=False,
        ending="reset",
    )
    with served(tmp_path, default=cut) as (world, _):
        world.stopped((*TURN, "--approve", "execute=auto"), 75, "provider_unavailable")
        assert not (tmp_path / "executed").exists()


def test_a_model_that_calls_tools_without_end_is_stopped(tmp_path: Path) -> None:
    with served(tmp_path, default=tool_calls_reply([("exec_command", {"cmd": "true"})])) as (world, server):
        arguments = (*TURN, "--max-steps", "2", "--approve", "execute=auto")
        world.stopped(arguments, 6, "turn_stopped:max_turns")
        assert len(server.requests) <= 3


def test_a_tool_never_sees_the_key(tmp_path: Path) -> None:
    replies = (tool_calls_reply([("exec_command", {"cmd": "env"})]), text_reply("done"))
    with served(tmp_path, *replies) as (world, server):
        env = {"OPENAI_API_KEY": CANARY}
        assert world.lash(*TURN, "--approve", "execute=auto", env=env).code == 0
        assert CANARY not in json.dumps(server.requests[1].json)


def test_a_turn_whose_key_is_missing_or_unsafe_is_not_begun(tmp_path: Path) -> None:
    with served(tmp_path, default=text_reply("never")) as (world, server):
        keys = world.home / "keys.toml"
        for mode in (0o644, 0o640, 0o604):
            keys.chmod(mode)
            error = world.refused(TURN, 5, "permissions_unsafe")
            assert error["hint"] == f"chmod 600 {keys}"
            world.refused(("key", "ls"), 5, "permissions_unsafe")
            world.refused(("key", "set", "mine", "--stdin"), 5, "permissions_unsafe", input=b"another-key-1234")
        keys.chmod(0o600)
        kept = keys.read_text()
        keys.write_text("[keys\n")
        world.refused(TURN, 5, "config_invalid")
        keys.unlink()
        error = world.refused(TURN, 5, "key_missing")
        assert error["hint"] == "store it with: lash key set mine"
        assert server.requests == []
        keys.write_text(kept)
        keys.chmod(0o600)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("env:NO_SUCH_VARIABLE", "key_missing"),
        ("file:/does/not/exist", "key_missing"),
        ("cmd:false", "key_missing"),
        ("cmd:no-such-program-here", "key_missing"),
        ("cmd:'", "key_missing"),
        ("keyring:nope", "key_missing"),
    ],
)
def test_a_key_source_that_gives_nothing_is_key_missing(tmp_path: Path, source: str, code: str) -> None:
    with served(tmp_path, default=text_reply("never")) as (world, server):
        world.refused((*TURN, "-c", f"providers.mine.key={source}"), 5, code)
        assert server.requests == []


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("providers.mine.kind=telepathy", "config_invalid"),
        ("providers.mine.options={max_attempts = 0}", "config_invalid"),
        ("providers.mine.options={nonsense = 1}", "config_invalid"),
        ("providers.mine.base_url=ftp://example.invalid", "invalid_provider_endpoint"),
        ("providers.mine.base_url=http://user:secret-word@127.0.0.1/v1", "invalid_provider_endpoint"),
    ],
)
def test_a_provider_that_cannot_be_built_is_told_before_the_turn(tmp_path: Path, override: str, code: str) -> None:
    with served(tmp_path, default=text_reply("never")) as (world, server):
        error = world.refused((*TURN, "-c", override), 5, code)
        assert "secret-word" not in json.dumps(error)
        assert server.requests == []
