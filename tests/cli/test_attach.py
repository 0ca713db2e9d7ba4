"""`--attach` through real processes: what reaches the provider, the transcript and the store (contract 06 §7)."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.cli import spawn_lash
from support.made_files import lay
from support.wire import (
    RecordedRequest,
    Reply,
    ThreadedChatServer,
    chat_provider,
    error_reply,
    hang_reply,
    text_reply,
    tool_calls_reply,
)

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
IMAGE = {"image_url": {"url": DATA_URL}, "type": "image_url"}


@pytest.fixture
def image(tmp_path: Path) -> str:
    """A picture whose name says nothing."""
    path = tmp_path / "cat"
    path.write_bytes(PNG)
    return str(path)


@pytest.fixture(autouse=True)
def database(home: Path) -> Path:
    """The database is there before the session is."""
    return lay(home / "lash.db")


def test_an_image_is_sent_and_sent_again_with_the_conversation(lash: Any, image: str) -> None:
    with ThreadedChatServer([text_reply("a cat"), text_reply("yes")]) as server:
        done = lash("turn", "--or-open", "s", "what is it", "-a", image, env=chat_provider(server))
        assert (done.code, done.out) == (0, "a cat\n"), done.err
        os.unlink(image)
        assert lash("turn", "s", "sure?", env=chat_provider(server)).out == "yes\n"
        first, second = (request.json["messages"] for request in server.requests)
    assert first[-1] == {"content": [{"text": "what is it", "type": "text"}, IMAGE], "role": "user"}
    assert second[: len(first)] == first
    log = lash("log", "s", "-o", "json").json["items"][0]
    assert [part["kind"] for part in log["parts"]] == ["text", "attachment"]
    source = log["parts"][1]["attachment"]
    assert (source["source"], source["media_type"], source["byte_len"], source["label"]) == (
        "stored",
        "image/png",
        len(PNG),
        "cat",
    )
    assert "[attachment cat image/png]" in lash("log", "s").out


def test_text_goes_as_words_to_every_model_and_an_address_as_it_is(lash: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("milk\n")
    with ThreadedChatServer([text_reply("ok")]) as server:
        url = "https://example.org/a.png"
        done = lash(
            "turn", "--or-open", "s", "read", "-a", "notes.txt", "-a", url, env=chat_provider(server), cwd=tmp_path
        )
        assert done.code == 0, done.err
        (request,) = server.requests
    assert request.json["messages"][-1]["content"] == [
        {"text": "read", "type": "text"},
        {"text": "[notes.txt]\nmilk\n", "type": "text"},
        {"image_url": {"url": url}, "type": "image_url"},
    ]


def test_stdin_can_be_what_is_attached(lash: Any) -> None:
    with ThreadedChatServer([text_reply("a cat")]) as server:
        done = lash("turn", "--ephemeral", "what is it", "--attach", "-", env=chat_provider(server), input=PNG)
        assert (done.code, done.out) == (0, "a cat\n"), done.err
        assert server.requests[0].json["messages"][-1]["content"][1] == IMAGE


def test_what_the_provider_cannot_be_sent_ends_the_turn_before_a_byte_leaves(lash: Any, tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_bytes(b"ID3\x04\x00")
    with ThreadedChatServer([]) as server:
        done = lash(
            "turn", "--or-open", "s", "x", "-a", "song.mp3", "-o", "json", env=chat_provider(server), cwd=tmp_path
        )
        assert server.requests == []
        assert (done.code, done.out, done.error["code"]) == (6, "", "turn_stopped:invalid_input")
        assert "audio/mpeg" in done.error["message"]
        server.script(text_reply("still here"))
        assert lash("turn", "s", "and now?", env=chat_provider(server)).out == "still here\n"
        assert [message["content"] for message in server.requests[0].json["messages"]] == ["x\n\nand now?"]


def test_a_file_of_a_tool_that_the_provider_cannot_be_sent_is_a_failed_result(lash: Any, tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(b"BM" + bytes(60))
    call = tool_calls_reply([("read_file", {"path": "a.bmp"}, "call_1")])
    with ThreadedChatServer([call, text_reply("cannot see it")]) as server:
        done = lash("turn", "--or-open", "s", "look", env=chat_provider(server), cwd=tmp_path)
        assert (done.code, done.out) == (0, "cannot see it\n"), done.err
        last = server.requests[1].json["messages"][-1]
    assert last["role"] == "tool" and "image/bmp" in last["content"]


def test_a_session_goes_on_with_a_provider_that_cannot_be_sent_what_it_holds(lash: Any, tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_bytes(b"ID3\x04\x00")
    assert lash("turn", "--or-open", "s", "listen", "-a", "song.mp3", cwd=tmp_path).code == 0  # loopback takes it
    with ThreadedChatServer(default=text_reply("I cannot hear it")) as server:
        for _ in range(2):
            done = lash("turn", "s", "and?", "--provider", "chat", "--model", "m-1", env=chat_provider(server))
            assert (done.code, done.out) == (0, "I cannot hear it\n"), done.err
        told = "listen\n\n[song.mp3 (audio/mpeg): it cannot be shown to this model]"
        assert server.requests[0].json["messages"][0]["content"] == told
        refused = lash("turn", "s", "hear", "-a", "song.mp3", env=chat_provider(server), cwd=tmp_path)
        assert refused.code != 0 and "audio/mpeg" in refused.err and len(server.requests) == 2
        assert lash("turn", "s", "never mind", env=chat_provider(server)).code == 0


def test_a_session_whose_image_a_provider_refuses_is_told_the_way_back(lash: Any, image: str) -> None:
    def answer(request: RecordedRequest) -> Reply:
        has_image = "image_url" in request.body.decode()
        return error_reply(400, {"error": {"message": "bad image"}}) if has_image else text_reply("fine")

    with ThreadedChatServer(default=answer) as server:
        env = chat_provider(server)
        assert lash("turn", "--or-open", "s", "hello", env=env).code == 0
        good = lash("log", "s", "-o", "json").json["items"][-1]["id"]
        for arguments in (("look", "-a", image), ("and now?",)):
            refused = lash("turn", "s", *arguments, "-o", "json", env=env)
            assert refused.code == 6 and "lash rewind s --to" in refused.error["hint"]
        assert lash("rewind", "s", "--to", good).code == 0
        assert lash("turn", "s", "and now?", env=env).out == "fine\n"


def test_a_killed_turn_still_has_its_image(lash: Any, home: Path, image: str) -> None:
    with ThreadedChatServer([hang_reply(), text_reply("a cat")]) as server:
        lash("open", "s", env=chat_provider(server))
        with spawn_lash(["turn", "s", "what is it", "-a", image], home=home, env=chat_provider(server)) as process:
            server.wait_for_requests(1)
            process.send_signal(signal.SIGKILL)
        os.unlink(image)
        resumed = lash("resume", "s", env=chat_provider(server))
        assert (resumed.code, resumed.out) == (0, "a cat\n"), resumed.err
        first, second = server.requests
    assert first.body == second.body


def test_a_queued_image_waits_with_its_text(lash: Any, image: str) -> None:
    with ThreadedChatServer([text_reply("a cat")]) as server:
        lash("open", "s", env=chat_provider(server))
        receipt = lash("enqueue", "s", "what is it", "-a", image, "-o", "json")
        assert receipt.json["preview"] == "what is it [attachment cat]", receipt.err
        again = lash("enqueue", "s", "what is it", "-a", image, "--key", "k", "-o", "json")
        assert (
            lash("enqueue", "s", "what is it", "-a", image, "--key", "k", "-o", "json").json["id"] == again.json["id"]
        )
        assert "[attachment cat]" in lash("queue", "show", receipt.json["id"]).out
        os.unlink(image)
        assert lash("work", "s", "--until-empty", env=chat_provider(server)).code == 0
        assert server.requests[0].json["messages"][-1]["content"].count(IMAGE) == 2


def test_a_large_file_is_queued_without_an_event_loop(lash: Any, tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(PNG + bytes(2 * 1024 * 1024))
    lash("open", "s")
    done = lash("enqueue", "s", "x", "-a", "big.png", "-o", "json", cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("missing", None, "attachment_unreadable"),
        ("empty", b"", "attachment_empty"),
        ("noise.bin", b"\x00\x01\x02", "attachment_type_unknown"),
        ("big.png", PNG + bytes(20 * 1024 * 1024), "attachment_too_large"),
    ],
)
def test_what_cannot_be_attached_is_a_usage_error_and_nothing_is_sent(
    lash: Any, tmp_path: Path, name: str, content: bytes | None, code: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = lash("turn", "--or-open", "s", "x", "-a", name, "-o", "json", cwd=tmp_path)
    assert (done.code, done.out, done.error["code"]) == (2, "", code)
    assert lash("ls", "-o", "name").out == ""


def test_a_pipe_in_the_file_system_and_an_unknown_address_are_refused_at_once(lash: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for reference, code in (("pipe", "attachment_unreadable"), ("https://example.org/x", "attachment_type_unknown")):
        done = lash("turn", "--ephemeral", "x", "-a", reference, "-o", "json", cwd=tmp_path)
        assert (done.code, done.error["code"]) == (2, code)


def test_a_name_that_would_drive_a_terminal_is_shown_harmless(lash: Any, tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2J.png").write_bytes(PNG)
    lash("turn", "--or-open", "s", "!text ok", "-a", "a\x1b[2J.png", cwd=tmp_path)
    shown = lash("log", "s").out
    assert "\x1b" not in shown and "[attachment a\\x1b[2J.png image/png]" in shown


def test_an_image_a_tool_reads_follows_its_result_under_the_name_of_the_call(lash: Any, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    call = tool_calls_reply([("read_file", {"path": "cat.png"}, "call_1")])
    with ThreadedChatServer([call, text_reply("a cat")]) as server:
        done = lash("turn", "--or-open", "s", "look", env=chat_provider(server), cwd=tmp_path)
        assert (done.code, done.out) == (0, "a cat\n"), done.err
        messages = server.requests[1].json["messages"]
    assert messages[-2]["role"] == "tool"
    assert messages[-1] == {
        "content": [{"text": "Attached by read_file (call_1):", "type": "text"}, IMAGE],
        "role": "user",
    }
