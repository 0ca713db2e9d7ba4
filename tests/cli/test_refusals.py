"""A refused key, an exhausted quota and a rate limit, as each provider words them: exit 5, 6 and 75 with their codes
and the next step in the hint, after a turn that was committed whole (contract 08 §6.4, 06 §3.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.error_world import CANARY, ErrorWorld, error_world, told
from support.prepared import OPEN, prepare
from support.wire import Reply, ThreadedChatServer, error_reply, text_reply

TURN = ("turn", "s", "what the user wrote", "--turn-id", "t_failed")
SOON = {"retry-after": "0"}


def openai(status: int, message: str, kind: str, code: str | None, headers: dict[str, str] | None = None) -> Reply:
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return error_reply(status, body, headers)


def anthropic(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Reply:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return error_reply(status, body, headers)


def google(status: int, message: str, name: str, *details: dict[str, Any]) -> Reply:
    body = {"error": {"code": status, "message": message, "status": name, "details": list(details)}}
    return error_reply(status, body)


OPENAI = (
    openai(401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    openai(429, "You exceeded your current quota, please check your plan.", "insufficient_quota", "insufficient_quota"),
    openai(429, "Rate limit reached for requests per min (RPM).", "requests", "rate_limit_exceeded", SOON),
)
REFUSALS = {
    "openai_chat": OPENAI,
    "openai_responses": OPENAI,
    "anthropic": (
        anthropic(401, "authentication_error", "invalid x-api-key"),
        anthropic(400, "invalid_request_error", "Your credit balance is too low to access the API."),
        anthropic(429, "rate_limit_error", "This request would exceed the rate limit of tokens per minute.", SOON),
    ),
    "google": (
        google(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID",
        }),
        google(429, "You exceeded your current quota, please check your plan and billing.", "RESOURCE_EXHAUSTED"),
        google(429, "You exceeded your current quota, please check your plan and billing.", "RESOURCE_EXHAUSTED", {
            "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.001s",
        }),
    ),
}  # fmt: skip
FIRST = next(iter(REFUSALS))
ENDS = [
    (5, "key_rejected", ("store a key that is valid here: lash key set mine",)),
    (
        6,
        "turn_stopped:provider_error",
        ("waiting does not help", "add credit", "lash turn s '…' --provider NAME --model ID"),
    ),
    (75, "provider_rate_limited", ("wait, then run it again: lash turn s '…'",)),
]


def world_of(directory: Path, kind: str, server: ThreadedChatServer) -> ErrorWorld:
    """A home whose session `s` speaks `kind` to the server."""
    address = server.base_url if kind.startswith("openai") else server.base_url.removesuffix("/v1")
    world = ErrorWorld(directory, base_url=address)
    config = world.home / "config.toml"
    config.write_text(config.read_text().replace('kind = "openai_chat"', f'kind = "{kind}"'))
    return world


@pytest.mark.parametrize("kind", REFUSALS)
def test_each_refusal_ends_the_command_in_its_own_way(tmp_path: Path, kind: str) -> None:
    for number, (refusal, (status, code, hints)) in enumerate(zip(REFUSALS[kind], ENDS, strict=True)):
        directory = tmp_path / str(number)
        directory.mkdir()
        with ThreadedChatServer(default=refusal) as server, world_of(directory, kind, server) as world:
            # What becomes of the session, and how a person is told, has nothing to do with who refused.
            is_first = kind == FIRST
            error = (
                world.stopped(TURN, status, code) if is_first else told(world.lash(*TURN, "-o", "json"), status, code)
            )
            for hint in hints:
                assert hint in error["hint"], (kind, error["hint"])
            (call,) = error["details"]["turn"]["model_calls"]
            reasons = [attempt["retry"]["reason"] for attempt in call["attempts"]]
            if status == 75:
                assert reasons[-1] == "retry_budget_exhausted" and "retryable_failure" in reasons
            else:
                assert (reasons, len(server.requests)) == (["not_retryable"], 1)
            if is_first:
                text = world.lash("turn", "s", "again", "--provider", "mine", "--model", "m")
                assert (text.code, text.out) == (status, ""), text.err
                assert f"hint: {error['hint']}" in text.err.splitlines()


TURN_OF_MINE = ("turn", "--ephemeral", "hi", "--provider", "mine", "--model", "m", "-o", "json")


def test_the_hint_of_a_refused_key_is_the_next_step(tmp_path: Path) -> None:
    with (
        ThreadedChatServer([OPENAI[0]], default=text_reply("welcome")) as server,
        error_world(tmp_path, base_url=server.base_url) as world,
    ):
        hint = world.stopped(TURN, 5, "key_rejected")["hint"]
        *_, command = hint.partition("lash ")
        assert world.lash(*command.split(), "--stdin", input=f"{CANARY}\n".encode()).code == 0
        done = world.lash("turn", "s", "now", "--provider", "mine", "--model", "m", "-q")
        assert (done.code, done.out) == (0, "welcome\n")


@pytest.mark.parametrize(
    ("key", "step"),
    [
        (None, "lash key set mine, then: lash config set providers.mine.key keys:mine"),
        ("env:MY_OWN_KEY", "set MY_OWN_KEY to a key that is valid here"),
    ],
)
def test_a_key_that_is_kept_elsewhere_is_not_to_be_stored(lash: Any, key: str | None, step: str) -> None:
    around = {"MY_OWN_KEY": CANARY, "NO_PROXY": "*"}
    with ThreadedChatServer([], default=OPENAI[0]) as server:
        source = () if key is None else ("--key", key)
        assert lash("provider", "add", "mine", "--base-url", server.base_url, *source).code == 0
        done = lash(*TURN_OF_MINE, env=around)
        tested = lash("provider", "test", "mine", "--model", "m", "-o", "json", env=around)
    assert (done.code, done.error["code"]) == (5, "key_rejected")
    assert done.error["hint"] == tested.error["hint"] and step in done.error["hint"]
    if key is None:
        told = lash("key", "set", "mine", "--stdin", input=CANARY).err
        assert "lash config set providers.mine.key keys:mine" in told


def test_a_dash_is_stdout_or_refused_and_never_a_file(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    assert lash("turn", "s", "!text x", "--out", "-", cwd=tmp_path).out == "x\n"
    for arguments in (
        ("turn", "s", "!text y", "--usage-file", "-"),
        ("turn", "s", "!text y", "--trace", "-"),
        ("db", "backup", "--out", "-"),
        ("tail", "s", "--no-follow", "--save-cursor", "-"),
    ):
        done = lash(*arguments, "-o", "jsonl", cwd=tmp_path)
        assert (done.code, done.out, done.error["code"]) == (2, "", "usage"), arguments
    trace = str(tmp_path / "t.jsonl")
    assert lash("turn", "s", "!text z", "--trace", trace, cwd=tmp_path).code == 0
    assert lash("trace", "html", trace, "--out", "-", cwd=tmp_path).out.startswith("<!")
    assert not (tmp_path / "-").exists()
    assert "text y" not in lash("log", "s").out
