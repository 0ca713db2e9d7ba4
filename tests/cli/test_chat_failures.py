"""`lash chat` when a turn fails: why, and what can be typed about it here (contract 08 §6.4, §7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.chat import Chat
from support.error_world import CANARY
from support.wire import ThreadedChatServer, error_reply

FACES = pytest.mark.parametrize(("args", "prompt"), [((), "fjord ❯"), (("--plain",), "status: idle")])
KEY_REFUSED = {"error": {"message": "Incorrect key \x1b]0;owned\x07.", "type": "x", "code": "invalid_api_key"}}
SPACES = str.maketrans("", "", " \n")


def shows(chat: Chat, words: str) -> bool:
    """Whether it was shown, wherever the lines were broken."""
    return words.translate(SPACES) in chat.everything.translate(SPACES)


@FACES
@pytest.mark.parametrize(
    ("text", "message", "step"),
    [
        ("!fail quota", "the turn stopped (provider_error): loopback: scripted failure quota", "/set provider=NAME"),
        ("!fail context_overflow", "scripted failure context_overflow", "make it shorter with: /compact, or"),
        ("!fail content_filter", "scripted failure content_filter", "go back before it: /rewind ?"),
        ("!fail network", "error: loopback: scripted failure network", "run it again: /retry"),
        ('!tool glob {"pattern":"*"}', "the turn stopped (max_turns)", "/set max_steps=N before it"),
    ],
)
def test_a_turn_that_failed_tells_why_and_what_to_type_about_it(
    chat: Callable[..., Chat], lash: Any, args: tuple[str, ...], prompt: str, text: str, message: str, step: str
) -> None:
    assert lash("set", "s", "max_steps=1").code == 0
    one = chat(*args, prompt=prompt)
    one.press(f" {text}\r")
    one.wait_until(lambda: shows(one, f"{message} hint: ") and shows(one, step))
    assert one.everything.translate(SPACES).count(message.translate(SPACES)) == 1
    # The chat stays: leaving it asks first while its turn is being put away, which may be behind what it tells.
    assert message.removeprefix("error: ") in lash("turn", "s", text, "--if-busy", "wait=60s").err


@FACES
def test_a_refused_key_tells_where_it_is_set_and_no_word_of_a_provider_reaches_the_terminal(
    chat: Callable[..., Chat], lash: Any, args: tuple[str, ...], prompt: str
) -> None:
    with ThreadedChatServer([], default=error_reply(401, KEY_REFUSED)) as server:
        assert lash("provider", "add", "mine", "--base-url", server.base_url, "--key", "keys:mine").code == 0
        assert lash("key", "set", "mine", "--stdin", input=CANARY).code == 0
        assert lash("set", "s", "provider=mine", "model=m").code == 0
        one = chat(*args, prompt=prompt, NO_PROXY="*")
        one.press("hello\r")
        one.wait_until(lambda: shows(one, "store a key that is valid here: !lash key set mine, then: /exit"))
        assert shows(one, "Incorrect key") and b"\x1b]0;" not in one.written


@FACES
def test_a_chat_begins_with_why_the_turn_before_it_stopped(
    chat: Callable[..., Chat], lash: Any, args: tuple[str, ...], prompt: str
) -> None:
    lash("turn", "s", "!fail quota")
    one = chat(*args, prompt=prompt)
    one.wait_until(lambda: shows(one, "loopback: scripted failure quota hint: ") and shows(one, "/set provider=NAME"))
    lash("turn", "s", "!text well again")
    one.wait_for("well again")
    two = chat(*args, prompt=prompt)
    assert shows(two, "well again") and not shows(two, "hint: ")


def test_a_failure_that_the_head_was_moved_away_from_is_not_told(chat: Callable[..., Chat], lash: Any) -> None:
    lash("turn", "s", "!text well")
    kept = lash("log", "s", "-o", "json").json["items"][-1]["id"]
    lash("turn", "s", "!fail quota")
    assert lash("rewind", "s", "--to", kept).code == 0
    one = chat("--plain", prompt="status: idle")
    assert shows(one, "assistant: well") and not shows(one, "scripted failure")


@FACES
def test_a_text_for_a_session_that_others_closed_is_the_draft_again(
    chat: Callable[..., Chat], lash: Any, args: tuple[str, ...], prompt: str
) -> None:
    one = chat(*args, prompt=prompt)
    assert lash("close", "s").code == 0
    one.wait_for("closed")
    one.press("precious words\r")
    one.wait_for("reopen it with: !lash resume s")
    one.wait_for("draft: precious words" if args else "fjord ❯ precious words")
    assert lash("resume", "s").code == 0
    one.wait_for(lambda text: "idle" in text.rpartition("closed")[2])
    one.press("\r")
    one.wait_for("You said: precious words")
    one.wait_until(lambda: one.users() == ["precious words"])
