"""`lash ls --watch`: a screen on a terminal, JSON lines of what changed everywhere else."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import terminal as terminals
from support.cli import COMMAND, environment, spawn_lash
from support.frozen import wait_until_frozen
from support.prepared import prepare
from support.tailing import SILENT

from lash_cli.views.tables import display_width
from lash_cli.views.watch import in_order, watch_lines

NOW = 1_700_000_000_000


class Watcher:
    """A `lash ls --watch` into a pipe."""

    def __init__(self, home: Path, *options: str, first: str = "") -> None:
        self.process = spawn_lash(["ls", "--watch", *options], home=home, first=first)
        assert self.process.stdout is not None
        self._out = self.process.stdout
        self.lines: list[Any] = []

    def until(self, change: str, session: str, **expected: Any) -> Any:
        while True:
            line = json.loads(self._out.readline())
            self.lines.append(line)
            if (line["type"], line.get("change"), line["session"]) == ("session", change, session) and all(
                line["item"][key] == value for key, value in expected.items()
            ):
                return line

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        self.lines += [json.loads(line) for line in self._out]
        self._out.close()
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            err = stderr.read().decode()
        return self.process.wait(60), err


def test_a_pipe_gets_what_came_what_changed_and_what_went(lash, home: Path) -> None:
    prepare(home, ("open", "a"))
    watcher = Watcher(home)
    watcher.until("added", "a", status="idle")
    lash("enqueue", "a", "later")
    watcher.until("changed", "a", status="queued", pending_inputs=1)
    lash("open", "b")
    watcher.until("added", "b")
    turn = spawn_lash(["turn", "b", "!sleep 60"], home=home, **SILENT)
    watcher.until("changed", "b", status="running")
    turn.kill()
    turn.wait()
    watcher.until("changed", "b", status="stuck")  # it died without a word
    lash("rm", "a", "--yes")
    watcher.until("removed", "a")
    code, err = watcher.end()
    assert (code, err) == (130, "")
    first, last = watcher.lines[0], watcher.lines[-1]
    assert (first["type"], first["mode"]) == ("stream_start", "ls")
    assert (last["type"], last["reason"], last["exit"]) == ("stream_end", "signal", 130)


# A lease is renewed, and what is watched looked at, many times in a turn that is over soon.
RENEWS_OFTEN = """
from lash_cli.core.lease import LeaseTimings
LeaseTimings.from_ttl = staticmethod(lambda ttl_ms: LeaseTimings(30_000, 30))
"""
LOOKS_OFTEN = """
import lash_cli.cli.ls_watch as watch
watch.SHORTEST_LOOK_S = watch._LOOK_WHILE_RUNNING_S = 0.02
watch._MOST_OF_THE_TIME = 1.0
watch._MARK_S = 0.01
"""


def test_a_lease_that_is_only_renewed_is_no_news(home: Path) -> None:
    prepare(home, ("open", "a"))
    watcher = Watcher(home, first=LOOKS_OFTEN)
    watcher.until("added", "a")
    turn = spawn_lash(["turn", "a", "!sleep 1"], home=home, first=RENEWS_OFTEN, **SILENT)
    assert turn.wait(60) == 0
    watcher.until("changed", "a", status="idle", turns=1)
    watcher.end()
    changes = [line for line in watcher.lines if line.get("change") == "changed"]
    assert len(changes) <= 3  # running, and idle again; a commit may be seen before its lane is free


def test_a_watch_begins_before_there_is_a_store(lash, home: Path) -> None:
    watcher = Watcher(home)
    assert json.loads(watcher._out.readline())["type"] == "stream_start"
    assert not (home / "lash.db").exists()
    lash("open", "first")
    watcher.until("added", "first")
    assert watcher.end(signal.SIGTERM)[0] == 143


def test_filters_choose_what_is_watched(lash, home: Path) -> None:
    prepare(home, ("open", "a", "--label", "k=v"), ("open", "b"))
    watcher = Watcher(home, "--label", "k=v", "-o", "jsonl")
    watcher.until("added", "a")
    lash("turn", "b", "!text x", "-q")
    lash("turn", "a", "!text x", "-q")
    watcher.until("changed", "a", turns=1)
    watcher.end()
    assert {line["session"] for line in watcher.lines} == {"a", None}


def test_a_reader_that_leaves_an_idle_watch_ends_it_with_141(home: Path) -> None:
    prepare(home, ("open", "a"))
    script = '"$@" 2>err | head -1; echo "${PIPESTATUS[0]}"'
    command = ["bash", "-c", script, "-", *COMMAND, "ls", "--watch"]
    done = subprocess.run(command, env=environment(home), cwd=home.parent, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "141" and (home.parent / "err").read_text() == ""


@pytest.mark.parametrize(
    "options", [("-o", "json"), ("-o", "name"), ("--fields", "id"), ("--sort", "name"), ("--cursor", "x")]
)
def test_what_cannot_be_watched_is_refused(lash, options) -> None:
    done = lash("ls", "--watch", *options)
    assert (done.code, done.out) == (2, "")


class Terminal(terminals.Terminal):
    """The watch at a terminal."""

    def __init__(
        self, home: Path, *options: str, columns: int = 100, rows: int = 12, term: str = "xterm-256color"
    ) -> None:
        super().__init__(home, "ls", "--watch", *options, columns=columns, rows=rows, TERM=term)

    def until(self, pattern: str) -> list[str]:
        """The screen as soon as it shows `pattern`."""
        self.wait_for(lambda text: re.search(pattern, text) is not None)
        return self.lines

    @property
    def raw(self) -> str:
        return self.written.decode()

    def change_size(self, rows: int, columns: int) -> None:
        self.screen.resize(rows, columns)
        self.resize(columns)

    def end(self) -> int:
        status = self.interrupt()
        self.close()
        return status


def test_a_terminal_shows_one_screen_that_follows_and_is_given_back(lash, home: Path) -> None:
    prepare(home, ("open", "a", "--name", "quiet-fjord"))
    terminal = Terminal(home)
    shown = terminal.until(r"idle +quiet-fjord")
    assert shown[0] == "1 session: 1 idle" and shown[2].split()[:2] == ["STATUS", "NAME"]
    lash("enqueue", "a", "later")
    terminal.until(r"queued +quiet-fjord")
    lash("open", "b", "--name", "busy-bee")
    turn = spawn_lash(["turn", "b", "!sleep 60"], home=home, **SILENT)
    # One pattern for both rows: between two pieces of a picture the screen shows half of the old one.
    shown = terminal.until(r"running +busy-bee[^\n]*\nqueued +quiet-fjord")
    assert [line.split()[0] for line in shown[3:5]] == ["running", "queued"]
    assert terminal.end() == 130
    turn.kill()
    turn.wait()
    assert terminal.raw.count("\x1b[?1049h") == terminal.raw.count("\x1b[?1049l") == 1
    assert terminal.raw.rstrip("\r\n").endswith("\x1b[?25h\x1b[?1049l")


# Once more than needed, as what the first one began takes its time.
PRESSED_AGAIN = """
import os, signal
from lash_cli.cli import ls_watch
write_at_once = ls_watch.write_at_once
def pressed_again(descriptor, text):
    ls_watch.write_at_once = write_at_once
    write_at_once(descriptor, text)
    os.kill(os.getpid(), signal.SIGTSTP)
ls_watch.write_at_once = pressed_again
"""


def test_ctrl_z_gives_the_screen_back_while_suspended_and_it_is_taken_again_after_it(lash, home: Path) -> None:
    prepare(home, ("open", "a"))
    terminal = terminals.Job(home, "ls", "--watch", first=PRESSED_AGAIN)
    try:
        terminal.wait_for("1 session: 1 idle")
        terminal.process.send_signal(signal.SIGTSTP)
        wait_until_frozen(terminal.process)
        terminal.wait_until(lambda: terminal.written.endswith(b"\x1b[?25h\x1b[?1049l"))
        lash("enqueue", "a", "later")
        terminal.process.send_signal(signal.SIGCONT)
        terminal.wait_for("1 session: 1 queued")
        assert terminal.written.count(b"\x1b[?1049h") == 2
        assert terminal.interrupt() == 130
        assert terminal.written.count(b"\x1b[?1049l") == 2
    finally:
        terminal.close()


def test_ctrl_z_stops_no_watch_that_nobody_could_let_go_on(lash, home: Path) -> None:
    prepare(home, ("open", "a"))
    terminal = Terminal(home)
    terminal.until("1 session: 1 idle")
    for number in range(1, 3):
        terminal.process.send_signal(signal.SIGTSTP)
        lash("open", f"b{number}")
        terminal.until(f"{number + 1} sessions: {number + 1} idle")
    assert terminal.end() == 130
    assert terminal.raw.endswith("\x1b[?25h\x1b[?1049l")


def test_a_resize_draws_the_screen_anew_and_nothing_is_wider_than_it(home: Path) -> None:
    names = [(f"session-with-a-long-id-{number}", f"a-rather-long-name-{number}") for number in range(8)]
    prepare(home, *(("open", session, "--name", name) for session, name in names))
    terminal = Terminal(home)
    terminal.until("8 sessions")
    terminal.change_size(7, 40)
    shown = terminal.until(r"and \d+ more")
    assert shown[0] == "8 sessions: 8 idle" and shown[-1] == "and 5 more"
    assert all(len(line) <= 40 for line in shown)
    terminal.end()


@pytest.mark.parametrize(("options", "term"), [(("--plain",), "xterm"), ((), "dumb")])
def test_a_terminal_that_is_not_steered_gets_the_table_again(lash, home: Path, options, term) -> None:
    prepare(home, ("open", "a"))
    terminal = Terminal(home, *options, term=term)
    terminal.until("1 session: 1 idle")
    lash("enqueue", "a", "later")
    terminal.until("1 session: 1 queued")
    assert terminal.end() == 130
    assert "\x1b" not in terminal.raw


def test_no_color_leaves_the_words_and_takes_the_colour(home: Path) -> None:
    prepare(home, ("open", "a"), ("enqueue", "a", "later"))
    terminal = Terminal(home, "--no-color")
    terminal.until("queued")
    terminal.end()
    assert not re.search(r"\x1b\[\d+m", terminal.raw)


def item(name: str, status: str, at: str = "2023-11-14T22:13:20.000Z", **changes: Any) -> dict[str, Any]:
    document = {
        "id": f"s_{name}", "name": name, "status": status, "model": "m", "turns": 1, "pending_inputs": 0,
        "pending_batches": 0, "held_at": None, "last_activity_at": at,
    }  # fmt: skip
    return {**document, **changes}


def test_who_needs_somebody_comes_first_and_within_a_status_the_newest() -> None:
    statuses = ["closed", "idle", "parked", "queued", "running", "stuck", "waiting", "unheard-of"]
    ordered = [entry["status"] for entry in in_order(item(status, status) for status in statuses)]
    assert ordered == ["waiting", "stuck", "running", "queued", "idle", "parked", "closed", "unheard-of"]
    old, new = item("old", "idle"), item("new", "idle", "2023-11-14T22:13:21.000Z")
    assert [entry["name"] for entry in in_order([old, new])] == ["new", "old"]


def test_a_picture_fits_its_terminal_and_escapes_in_a_name_are_harmless() -> None:
    items = [item(f"n{number}中\x1b[31m", "idle") for number in range(30)]
    for height, width in itertools.product(range(1, 40), (1, 2, 5, 10, 20, 40, 200)):
        lines = watch_lines(items, total=30, now_ms=NOW, width=width, height=height)
        assert len(lines) <= height and all(display_width(line) <= width for line in lines)
        assert "\x1b" not in "".join(lines)
    assert watch_lines(items[:2], total=2, now_ms=NOW, width=40, height=3)[1].startswith("idle")
    assert watch_lines(items, total=30, now_ms=NOW, width=40, height=10)[-1] == "and 24 more"
    assert len(watch_lines(items, total=30, now_ms=NOW, width=None, height=None)) == 33
    assert watch_lines([], total=0, now_ms=NOW, width=40, height=10) == ["0 sessions", ""]


def test_a_held_queue_is_said() -> None:
    held = item("a", "queued", pending_inputs=2, held_at="2023-11-14T22:13:20.000Z")
    assert "2 held" in watch_lines([held], total=1, now_ms=NOW, width=None, height=None)[-1]
