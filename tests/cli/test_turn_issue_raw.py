"""What a provider said itself about a failure stands beside the message, bounded and without keys (contract 01 §7)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.wire import ThreadedChatServer, error_reply, text_reply

from lash_cli.core.redaction import MAX_RAW_CHARS

CANARY = "canary7f3a9c2e51d84b06"
BODY = {
    "error": {"message": "unknown parameter", "type": "invalid_request_error", "param": "tools[2].strict"},
    "echo": {"authorization": f"Bearer {CANARY}", "auth_token": "another-secret", "url": f"/v1?key={CANARY}"},
    "trace": "abc",
}


def env(server: ThreadedChatServer) -> dict[str, str]:
    prefix = "LASH_CFG__providers__mine__"
    return {
        f"{prefix}kind": "openai_chat",
        f"{prefix}base_url": server.base_url,
        f"{prefix}key": "env:MINE_KEY",
        # What may pass is not waited for here.
        f"{prefix}options": "{max_attempts = 2, base_delay_ms = 1, max_delay_ms = 2}",
        "MINE_KEY": CANARY,
    }


def turn(lash: Any, server: ThreadedChatServer, text: str, *options: str) -> Any:
    chosen = ("--or-open", "--provider", "mine", "--model", "m-1") if "--or-open" in options else ()
    return lash("turn", "s", text, *chosen, "-o", "json", env=env(server))


def test_what_the_provider_said_is_told_by_turn_and_show_and_read_by_no_model(lash: Any, home: Path) -> None:
    with ThreadedChatServer([error_reply(400, BODY), text_reply("well")]) as server:
        failed = turn(lash, server, "hello", "--or-open").error
        (issue,) = failed["details"]["turn"]["errors"]
        assert issue["message"] == "HTTP 400: unknown parameter"
        said = json.loads(issue["raw"])
        assert (said["error"], said["trace"]) == (BODY["error"], "abc")
        turn_id = failed["details"]["turn"]["turn_id"]
        shown = lash("show", "s", "--turn", turn_id, "-o", "json").json
        assert shown["errors"] == [issue]
        assert turn(lash, server, "again").json["text"] == "well"
        assert "tools[2].strict" not in server.requests[-1].body.decode()
    for kept in (issue["raw"], *(path.read_bytes().decode("latin-1") for path in home.glob("lash.db*"))):
        assert CANARY not in kept and "another-secret" not in kept


def test_what_a_stream_said_is_kept_too(lash: Any) -> None:
    error = {"message": "no such tool", "code": "invalid_request_error", "param": "tools"}
    with ThreadedChatServer([error_reply(200, {"error": error})]) as server:
        (issue,) = turn(lash, server, "hello", "--or-open").error["details"]["turn"]["errors"]
    assert json.loads(issue["raw"]) == error


def test_it_is_bounded(lash: Any) -> None:
    with ThreadedChatServer([error_reply(400, {"error": {"message": "no"}, "rest": "x" * 50_000})]) as server:
        (issue,) = turn(lash, server, "hello", "--or-open").error["details"]["turn"]["errors"]
    assert len(issue["raw"]) == MAX_RAW_CHARS


@pytest.mark.parametrize("body", ["out of order", None])
def test_where_the_message_says_it_all_there_is_none(lash: Any, body: str | None) -> None:
    reply = error_reply(400, body) if body else text_reply("", finish_reason="stop")
    with ThreadedChatServer([reply], default=reply) as server:
        (issue,) = turn(lash, server, "hello", "--or-open").error["details"]["turn"]["errors"]
    assert issue["raw"] is None
