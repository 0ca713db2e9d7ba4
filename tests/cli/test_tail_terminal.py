"""What a terminal really shows of `lash tail`: through a pty and a screen emulator, as text (contract 08 §8)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cli import spawn_lash
from support.prepared import OPEN, prepare
from support.terminal import PATIENCE_S, Terminal


@pytest.fixture
def at_terminal(home: Path) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*args: str, columns: int = 100, rows: int = 24, **env: str) -> Terminal:
        terminal = Terminal(home, *args, columns=columns, rows=rows, **env)
        made.append(terminal)
        return terminal

    yield start
    for terminal in made:
        terminal.close()


@pytest.fixture
def gated(lash, home: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """A turn that calls a tool and then waits for `open_gate`."""
    gate = tmp_path / "gate"
    made: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        prompt = f'!tool glob {{"pattern":"*.md"}}\n!then\n!wait-file {gate}\n!text all is well'
        made.append(spawn_lash(["turn", "s", prompt], home=home))
        return made[-1]

    yield start
    gate.touch()
    for turn in made:
        turn.communicate(timeout=PATIENCE_S)


def picture(lines: list[str]) -> list[str]:
    """The live region: from the header above the rule to the end."""
    rules = [number for number, line in enumerate(lines) if line and set(line) <= {"─"}]
    return [line for line in lines[rules[-1] - 1 :] if line] if rules else []


def is_whole(text: str) -> bool:
    """Whether the picture is drawn to its last line; of a new one that arrives in pieces this is the last."""
    return "\nusage " in text and "children" in text.rpartition("\nusage ")[2]


def test_the_live_view_tells_of_a_rewind(lash, home: Path, at_terminal) -> None:
    prepare(home, ("open", "s", "--name", "fjord"), ("turn", "s", "!text one", "-q"))
    terminal = at_terminal("tail", "s")
    terminal.wait_for("fjord  s  loopback  idle")
    lash("rewind", "s", "--to", "root")
    terminal.wait_for("rewind    2 messages left behind; it goes on from the beginning")


def test_the_live_view_shows_who_works_what_happens_and_what_waits(
    lash, at_terminal, gated, home: Path, tmp_path: Path
) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    terminal = at_terminal("tail", "s", columns=140)
    terminal.wait_for("fjord  s  loopback  idle")
    turn = gated()
    terminal.wait_for("step 2")
    terminal.wait_for(" ok ")
    header, _, *rows = picture(terminal.lines)
    assert "running" in header and f"holder pid {turn.pid} (turn)  lease" in header
    assert sum(" tool " in row and "glob" in row for row in rows) == 1
    assert any("user" in row and "!tool glob" in row for row in rows)
    assert len(picture(terminal.lines)) <= 10
    lash("enqueue", "s", "then write the changelog")
    terminal.wait_for(lambda text: "◇ 1  in_" in text and is_whole(text))
    assert '"then write the changelog"' in terminal.text
    (tmp_path / "gate").touch()
    terminal.wait_for("loopback  queued")
    # The words may be seen as a preview first; once they are settled there is a picture, empty of their turn.
    terminal.wait_for(lambda text: is_whole(text) and "glob" not in "".join(picture(text.splitlines())))
    assert terminal.everything.count("assistant all is well") == 1
    assert terminal.interrupt() == 130
    assert "all is well" in terminal.everything and "usage" not in terminal.text and "fjord  s" not in terminal.text


def test_a_retraction_takes_the_text_away_before_it_settles(at_terminal, home: Path) -> None:
    prepare(home, OPEN)
    terminal = at_terminal("tail", "s")
    terminal.wait_for("idle")
    seen = {"partial": False, "twice": False}

    def watch(lines: list[str]) -> None:
        answers = [line for line in picture(lines) if " assistant " in line]
        seen["partial"] = seen["partial"] or any("▌" in line for line in answers)
        seen["twice"] = seen["twice"] or len(answers) > 1

    turn = spawn_lash(["turn", "s", "!fail stream_cut 1\n!text one two three four five\n!stream 5 0.25"], home=home)
    terminal.wait_for("attempt 2/4", watch)
    terminal.wait_for(lambda text: " assistant one two three four five" in text and "▌" not in text, watch)
    turn.communicate(timeout=PATIENCE_S)
    assert seen == {"partial": True, "twice": False}
    assert terminal.everything.count(" assistant one") == 1


def test_a_gap_is_shown_and_resynced(lash, home: Path, at_terminal) -> None:
    prepare(home, OPEN)
    cursor = lash("turn", "s", "!text kept", "-o", "jsonl").lines[-2]["cursor"]
    prefix, _, rest = cursor.split(":", 2)
    terminal = at_terminal("tail", "s", "--from", f"{prefix}:00000000deadbeef:{rest}")
    terminal.wait_for("!! gap (unavailable) → resynced at revision 1")
    assert " assistant kept" in terminal.text
    lash("turn", "s", "!text after")
    terminal.wait_for(" assistant after")
    terminal.wait_for(lambda text: "!! gap" not in text)


def is_one_picture(text: str, width: int) -> bool:
    """Whether the screen shows one picture of that width, whole."""
    lines = text.splitlines()
    begins = [sum(line.startswith(word) for line in lines) for word in ("fjord", "usage")]
    return begins == [1, 1] and "─" * (width - 1) in text and "─" * width not in text


def test_a_resize_redraws_the_picture_once_and_keeps_what_is_settled(home: Path, at_terminal, gated) -> None:
    prepare(home, ("open", "s", "--name", "fjord"), ("turn", "s", "!text settled words"))
    terminal = at_terminal("tail", "s", "--from", "start", columns=120)
    terminal.wait_for("idle")
    gated()
    terminal.wait_for("step 2")
    for columns in (40, 90):
        terminal.resize(columns)
        # One header, one usage line and rules of the new width: whatever is left of the old picture keeps it waiting.
        terminal.wait_for(lambda text, width=columns: is_one_picture(text, width))
        assert terminal.everything.count("settled words") == 2


def test_forty_columns_are_enough(home: Path, at_terminal, gated) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    terminal = at_terminal("tail", "s", columns=40, rows=12)
    terminal.wait_for("idle")
    turn = gated()
    terminal.wait_for(f"pid {turn.pid}")
    terminal.wait_for(lambda text: "glob" in text and is_whole(text))
    assert terminal.text.count("fjord") == 1 and terminal.text.count("queue ") == 1
    assert max(map(len, terminal.lines)) < 40


def test_a_dead_writer_is_shown_as_dead(at_terminal, home: Path, tmp_path: Path) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    terminal = at_terminal("tail", "s")
    writer = spawn_lash(["turn", "s", f"!wait-file {tmp_path / 'never'}"], home=home)
    terminal.wait_for(f"holder pid {writer.pid} (turn)  lease")
    writer.kill()
    writer.communicate()
    terminal.wait_for(f"dead: pid {writer.pid} (turn)")
    assert "stuck" in terminal.text and "running" not in terminal.text


@pytest.mark.parametrize(("args", "env"), [((), {"TERM": "dumb"}), (("--plain",), {}), ((), {"LASH_PLAIN": "1"})])
def test_a_terminal_that_cannot_redraw_gets_plain_lines(lash, home: Path, at_terminal, args, env) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    terminal = at_terminal("tail", "s", *args, **env)
    terminal.wait_for("watching fjord (s): idle")
    lash("turn", "s", "!text plain words")
    terminal.wait_for("assistant plain words")
    terminal.wait_for("finished")
    assert terminal.interrupt() == 130
    assert b"\x1b" not in terminal.written


def test_no_color_means_no_colour(at_terminal, home: Path, tmp_path: Path) -> None:
    prepare(home, OPEN)
    terminal = at_terminal("tail", "s", NO_COLOR="1")
    writer = spawn_lash(["turn", "s", f"!wait-file {tmp_path / 'never'}"], home=home)
    terminal.wait_for("running")
    writer.kill()
    writer.communicate()
    terminal.wait_for("dead: pid")
    assert b"\x1b[1m" in terminal.written and b"31m" not in terminal.written


def test_no_escape_of_the_model_reaches_the_terminal(lash, home: Path, at_terminal) -> None:
    prepare(home, OPEN)
    terminal = at_terminal("tail", "s")
    terminal.wait_for("idle")
    lash("turn", "s", '!text "a\\u001b]0;owned\\u0007b"')
    terminal.wait_for("\\x1b]0;owned")
    assert b"\x1b]" not in terminal.written
