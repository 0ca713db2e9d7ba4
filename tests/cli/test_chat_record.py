"""`lash chat --record`: the file is the stream that a tail from its beginning shows (contract 08 §6.5)."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.chat import Chat


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def bare(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What lines say, whatever their number in their stream."""
    return [{key: value for key, value in line.items() if key != "seq"} for line in lines]


def test_a_recording_is_what_a_tail_from_its_first_cursor_shows(chat, lash, gate: Path, tmp_path: Path) -> None:
    lash("turn", "s", "!text before the chat")
    file = tmp_path / "chat.jsonl"
    one = chat("--record", str(file))
    one.press("hello\r")
    one.wait_for("You said: hello")
    one.wait_for("│ idle")
    lash("enqueue", "s", "from elsewhere", "--key", "k")
    one.wait_for("1 queued")
    one.gated(gate)
    one.press("\x04")
    one.wait_for("cancel it and quit")
    one.wait_for("[c]")
    one.press("c")
    assert one.ended() == 0
    recorded = lines_of(file)
    first, *between, last = recorded
    assert (first["type"], first["mode"], first["session"], first["from"]) == ("stream_start", "chat", "s", "now")
    assert (last["type"], last["reason"], last["exit"], last["error"]) == ("stream_end", "quit", 0, None)
    assert [line["seq"] for line in recorded] == list(range(len(recorded)))
    tailed = lash("tail", "s", "--from", first["cursor"], "--no-follow", "-o", "jsonl").lines
    assert bare(between) == bare(tailed[1:-1])
    ends = [line["turn"] for line in between if line["type"] == "turn_finished"]
    assert len(ends) == 2 and "before the chat" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("answer", ["l", "c"])
def test_however_a_chat_is_left_its_recording_has_an_end(chat, gate: Path, tmp_path: Path, answer: str) -> None:
    file = tmp_path / "chat.jsonl"
    one = chat("--record", str(file))
    one.gated(gate)
    one.press("\x04")
    one.wait_for("[l]")
    one.press(answer)
    assert one.ended() == 0
    assert [line["type"] for line in lines_of(file)][:: len(lines_of(file)) - 1] == ["stream_start", "stream_end"]


def test_a_recording_goes_on_in_another_session_and_ends_by_a_signal(chat, lash, home, tmp_path: Path) -> None:
    lash("open", "other", "--name", "delta")
    file = tmp_path / "chat.jsonl"
    one = chat("--record", str(file))
    one.press("here\r")
    one.wait_for("You said: here")
    one.wait_for("│ idle")
    one.press("/switch delta\r")
    one.wait_for("delta ❯")
    one.press("there\r")
    one.wait_for("You said: there")
    one.wait_for("│ idle")
    one.process.terminate()
    assert one.ended() == 143
    first, *between, last = lines_of(file)
    assert first["type"] == "stream_start" and (last["type"], last["reason"]) == ("stream_end", "signal")
    assert {line["type"] for line in between} & {"stream_start", "stream_end"} == set()
    finished = [line["session"] for line in between if line["type"] == "turn_finished"]
    assert finished == ["s", "other"] and last["exit"] == 143


def test_a_file_that_exists_is_refused_and_nothing_is_made(home, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text("mine")
    one = Chat(home, "s", "--record", str(file))
    assert one.ended() == 4 and "exists" in one.text
    assert file.read_text() == "mine" and not (home / "lash.db").exists()
    one.close()


def test_a_chat_that_never_began_leaves_no_recording(home, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    one = Chat(home, "nowhere", "--record", str(file))
    assert one.ended() == 3 and not file.exists()
    one.close()


@pytest.mark.parametrize("meanwhile", ["rm {0}", "mv {0} {0}.taken; touch {0}"], ids=["removed", "replaced"])
def test_a_chat_that_never_began_takes_only_its_own_recording_away(home, tmp_path: Path, meanwhile: str) -> None:
    file = tmp_path / "chat.jsonl"
    first = """
import os
from lash_cli.cli import chat_record
class Meanwhile(chat_record.ChatRecording):
    def __init__(self, path):
        super().__init__(path)
        os.system({command!r})
chat_record.ChatRecording = Meanwhile
"""
    one = Chat(home, "nowhere", "--record", str(file), first=first.format(command=meanwhile.format(file)))
    assert one.ended() == 3 and "nowhere" in one.text and "Traceback" not in one.text
    assert file.exists() == ("touch" in meanwhile)
    one.close()


def test_a_recording_that_cannot_be_written_is_told_and_the_chat_goes_on(chat) -> None:
    one = chat("--record", "/dev/full")
    for text in ("one", "two"):
        one.press(f"{text}\r")
        one.wait_for(f"You said: {text}")
        one.wait_for("│ idle")
    one.wait_for("cannot record to /dev/full")
    one.press("\x04")
    assert one.ended() == 1
    assert one.users() == ["one", "two"] and "resume: lash chat fjord" in one.everything


def test_a_pipe_is_recorded_to(chat, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        one = chat("--record", str(pipe))
        one.press("hello\r")
        one.wait_for("You said: hello")
        one.wait_for("│ idle")
        one.press("\x04")
        assert one.ended() == 0
        assert b'"stream_end"' in os.read(reader, 1_000_000) and stat.S_ISFIFO(pipe.stat().st_mode)
    finally:
        os.close(reader)
