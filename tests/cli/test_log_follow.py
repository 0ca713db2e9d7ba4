"""`lash log --follow` and `--since-cursor` through real processes: committed messages only, each once, to the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest
from support.cli import COMMAND, environment, spawn_lash
from support.prepared import OPEN, prepare


class Follower:
    """A `lash log --follow` in a process of its own."""

    def __init__(self, home: Path, *options: str) -> None:
        self.process = spawn_lash(["log", "s", "--follow", *options], home=home)
        assert self.process.stdout is not None
        self._out = self.process.stdout
        self.lines: list[Any] = []

    def until(self, text: str) -> Any:
        """The next message that says `text`."""
        while True:
            line = json.loads(self._out.readline())
            self.lines.append(line)
            if line["type"] == "message" and line["message"]["text"] == text:
                return line

    def end(self, number: int | None = None) -> tuple[int, str]:
        """How it ended, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        self.lines += [json.loads(line) for line in self._out]
        self._out.close()
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            err = stderr.read().decode()
        return self.process.wait(60), err

    @property
    def texts(self) -> list[str]:
        return [line["message"]["text"] for line in self.lines if line["type"] == "message"]


@pytest.fixture
def session(home: Path) -> None:
    prepare(home, OPEN, ("turn", "s", "!text one", "-q"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_committed_later_follows_and_a_signal_ends_the_stream(lash, home, session, number, status) -> None:
    follower = Follower(home, "-o", "jsonl")
    follower.until("one")
    lash("turn", "s", "!text two", "--turn-id", "t_2", "-q")
    assert follower.until("two")["turn"] == "t_2"
    code, err = follower.end(number)
    assert (code, err) == (status, "")
    assert follower.texts == ["!text one", "one", "!text two", "two"]
    first, last = follower.lines[0], follower.lines[-1]
    assert (first["type"], first["mode"]) == ("stream_start", "log")
    assert (last["type"], last["reason"], last["exit"], last["error"]) == ("stream_end", "signal", status, None)
    assert [line["seq"] for line in follower.lines] == list(range(len(follower.lines)))


def test_a_follower_of_a_database_that_was_replaced_ends_instead_of_waiting_for_nobody(lash, home, session) -> None:
    follower = Follower(home, "-o", "jsonl")
    follower.until("one")
    database = home / "lash.db"
    shutil.copy(database, home / "fresh.db")
    os.replace(home / "fresh.db", database)
    follower.process.wait(60)
    status, err = follower.end()
    assert (status, "is another file by now" in err) == (9, True), err


def test_a_follower_resumed_from_its_last_cursor_neither_skips_nor_repeats(lash, home, session) -> None:
    seen: list[str] = []
    cursor: list[str] = []
    for number in range(3):
        follower = Follower(home, "-o", "jsonl", *(("--since-cursor", cursor[-1]) if cursor else ()))
        follower.until(f"away {number - 1}" if cursor else "one")  # what is there as it begins has one cursor
        lash("turn", "s", f"!text more {number}", "-q")
        follower.until(f"more {number}")
        follower.end(signal.SIGINT)
        cursor += [line["cursor"] for line in follower.lines if line["cursor"] is not None]
        told = [line for line in follower.lines if line["type"] == "message"]
        last_of_a_commit = [line["message"]["role"] == "assistant" for line in told]
        assert [line["cursor"] is not None for line in told] == last_of_a_commit, "within a commit nobody can go on"
        seen += follower.texts
        lash("turn", "s", f"!text away {number}", "-q")
    rest = lash("log", "s", "--since-cursor", cursor[-1], "-o", "json").json
    seen += [item["text"] for item in rest["items"]]
    assert seen == [item["text"] for item in lash("log", "s", "-o", "json").json["items"]]
    assert lash("log", "s", "--since-cursor", rest["cursor"], "-o", "json").json["items"] == []


def test_text_of_a_running_turn_is_not_shown_and_its_commit_is(lash, home, session) -> None:
    follower = Follower(home, "-o", "jsonl", "--role", "assistant")
    follower.until("one")
    process = spawn_lash(["turn", "s", "!stream 4\n!text never seen", "-q"], home=home, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)  # fmt: skip
    assert process.wait(60) == 0
    follower.until("never seen")
    follower.end(signal.SIGINT)
    assert follower.texts == ["one", "never seen"]


def test_a_deleted_session_ends_the_stream_with_3(lash, home, session) -> None:
    follower = Follower(home, "-o", "jsonl")
    follower.until("one")
    lash("rm", "s", "--yes")
    code, err = follower.end()
    last = follower.lines[-1]
    assert (code, last["type"], last["reason"], last["exit"]) == (3, "stream_end", "error", 3)
    assert last["error"]["code"] == json.loads(err)["code"] == "session_deleted"


def test_a_reader_that_leaves_an_idle_stream_ends_it_with_141(home, session) -> None:
    script = '"$@" 2>err | head -2; echo "${PIPESTATUS[0]}"'
    command = ["bash", "-c", script, "-", *COMMAND, "log", "s", "--follow", "-o", "jsonl"]
    done = subprocess.run(command, env=environment(home), cwd=home.parent, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "141"
    assert (home.parent / "err").read_text() == ""


def test_a_reader_that_stalls_loses_nothing(lash, home, session) -> None:
    follower = Follower(home, "-o", "jsonl")
    follower.until("one")
    long = "word " * 30_000  # more than a pipe holds
    lash("turn", "s", "-", "-q", input=f"!text {long}")
    lash("turn", "s", "!text after", "-q")
    follower.until("after")
    follower.end(signal.SIGINT)
    assert [len(text) > 100_000 for text in follower.texts] == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("cursor", "code"),
    [("nonsense", "cursor_invalid"), ("lashsc2:e:1:1:other", "cursor_invalid"), ("lashsc2:e:x:1:s", "cursor_invalid")],
)
@pytest.mark.parametrize("follow", [(), ("--follow",)])
def test_a_cursor_that_is_none_of_this_session_is_refused(lash, session, cursor, code, follow) -> None:
    done = lash("log", "s", "--since-cursor", cursor, *follow, "-o", "jsonl")
    assert (done.code, done.out, done.error["code"]) == (2, "", code)


@pytest.mark.parametrize("cursor", ["lashsc2:00000000deadbeef:1:1:s", "lashsc2:0000000000000000:99:0:s"])
def test_a_cursor_that_proves_nothing_is_a_gap_and_the_whole_transcript(lash, home, session, cursor) -> None:
    done = lash("log", "s", "--since-cursor", cursor, "-o", "json")
    assert [item["text"] for item in done.json["items"]] == ["!text one", "one"]
    assert done.error["code"] == "gap"
    follower = Follower(home, "-o", "jsonl", "--since-cursor", cursor)
    follower.until("one")
    follower.end(signal.SIGINT)
    gap = follower.lines[1]
    assert (gap["type"], gap["reason"], gap["requested_cursor"]) == ("gap", "unavailable", cursor)


@pytest.mark.parametrize("options", [("-o", "json"), ("-o", "name"), ("--fields", "id"), ("--turn", "t")])
def test_what_cannot_go_on_without_end_is_refused(lash, session, options) -> None:
    done = lash("log", "s", "--follow", *options)
    assert (done.code, done.out) == (2, "")


def test_a_session_that_starts_over_is_followed_into_its_new_history(lash, home, session) -> None:
    follower = Follower(home, "-o", "jsonl")
    follower.until("one")
    lash("open", "s", "--fresh", "--yes")
    lash("turn", "s", "!text anew", "-q")
    follower.until("anew")
    follower.end(signal.SIGINT)
    assert follower.texts == ["!text one", "one", "!text anew", "anew"]


def test_on_a_terminal_the_transcript_grows(lash, home, session) -> None:
    screen = pyte.Screen(60, 20)
    stream = pyte.Stream(screen)
    child = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], "log", "s", "--follow"], env=environment(home, {"TERM": "xterm-256color"}),
        cwd=str(home.parent), dimensions=(20, 60), encoding="utf-8", timeout=30,
    )  # fmt: skip
    child.expect("assistant:")
    stream.feed(child.before + child.after)
    lash("turn", "s", '!text "it \\u001b[31mgrew"', "-q")
    child.expect(r"x1b\[31mgrew\r\n")
    stream.feed(child.before + child.after)
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    shown = [line.rstrip() for line in screen.display]
    assert "assistant:" in shown and "    one" in shown
    assert any(line.endswith("it \\x1b[31mgrew") for line in shown)
    assert child.exitstatus == 130


def test_an_idle_follower_costs_next_to_nothing(home, session) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    follower = Follower(home, "-o", "jsonl")
    follower.until("one")

    def switches() -> int:
        status = Path(f"/proc/{follower.process.pid}/status").read_text()
        return int(status.split("voluntary_ctxt_switches:")[1].split()[0])

    os.sched_yield()
    before = switches()
    follower.process.poll()
    with pytest.raises(subprocess.TimeoutExpired):
        follower.process.wait(1)
    assert switches() - before < 100  # a loop that polls without pause has hundreds of thousands
    follower.end(signal.SIGINT)
