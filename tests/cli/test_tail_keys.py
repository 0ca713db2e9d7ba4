"""The keys of `lash tail` on a terminal: none of them changes anything but the view (contract 08 §8)."""

from __future__ import annotations

import shlex
import signal
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cli import spawn_lash
from support.frozen import wait_until_frozen
from support.terminal import PATIENCE_S, Job, Terminal

OSC52 = b"\x1b]52;c;"


@pytest.fixture
def at_terminal(home: Path) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*args: str, columns: int = 100, rows: int = 24, kind: type[Terminal] = Terminal, **env: str) -> Terminal:
        made.append(kind(home, *args, columns=columns, rows=rows, **env))
        return made[-1]

    yield start
    for terminal in made:
        terminal.close()


@pytest.fixture
def waiting_turn(lash, home: Path, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Starts a turn with a first step; it waits until the test is over, or somebody cancels it."""
    gate = tmp_path / "gate"
    made = []

    def start(first: str) -> None:
        lash("open", "s", "--name", "fjord")
        made.append(spawn_lash(["turn", "s", f"{first}\n!wait-file {gate}\n!text end", "--turn-id", "t_8"], home=home))

    yield start
    gate.touch()
    for turn in made:
        turn.communicate(timeout=PATIENCE_S)


def picture(terminal: Terminal) -> list[str]:
    lines = terminal.lines
    rules = [number for number, line in enumerate(lines) if line and set(line) <= {"─"}]
    return [line for line in lines[rules[-1] - 1 :] if line] if rules else []


def test_q_ends_well_and_gives_the_terminal_back(lash, at_terminal) -> None:
    lash("open", "s", "--name", "fjord")
    terminal = at_terminal("tail", "s")
    terminal.wait_for("fjord  s  loopback  idle")
    terminal.wait_until(lambda: not terminal.is_cooked)
    terminal.press("x\x1b[C\r?")  # no keys of ours, an arrow among them
    lash("turn", "s", "!text still here")
    terminal.wait_for("assistant still here")
    assert terminal.process.poll() is None
    terminal.press("q")
    assert terminal.ended() == 0
    assert terminal.is_cooked
    assert "still here" in terminal.everything and "usage" not in terminal.text and "fjord  s" not in terminal.text


def test_a_paused_view_stands_still_and_then_shows_everything_once(lash, at_terminal) -> None:
    lash("open", "s", "--name", "fjord")
    terminal = at_terminal("tail", "s")
    terminal.wait_for("idle")
    terminal.press(" ")
    terminal.wait_for(lambda text: "idle  paused" in text and "retries 0" in text)  # drawn to its last line
    before = terminal.lines
    lash("turn", "s", "!text said meanwhile")
    lash("enqueue", "s", "and queued")
    terminal.press("\x1b[C")
    terminal.press("e")  # drawn again, and still nothing new
    terminal.press("e")
    for _ in range(30):
        terminal._feed()
        assert "meanwhile" not in terminal.text and "queued" not in terminal.text
    terminal.wait_until(lambda: terminal.lines == before)
    terminal.press(" ")
    terminal.wait_for("assistant said meanwhile")
    terminal.wait_for("◇ 1  in_")
    assert "paused" not in terminal.text and terminal.everything.count("assistant said meanwhile") == 1
    terminal.press(" ")
    terminal.wait_for("paused")
    assert terminal.interrupt() == 130
    assert terminal.is_cooked


def test_a_place_is_not_kept_beyond_what_a_paused_view_has_shown(lash, at_terminal, tmp_path: Path) -> None:
    lash("open", "s")
    place = tmp_path / "place"
    terminal = at_terminal("tail", "s", "--save-cursor", str(place))
    terminal.wait_for("idle")
    terminal.wait_until(place.exists)
    terminal.press(" ")
    terminal.wait_for("paused")
    lash("turn", "s", "!text never shown")
    assert terminal.interrupt() == 130
    shown = lash("tail", "s", "--save-cursor", str(place), "--no-follow")
    assert "never shown" not in terminal.everything and "never shown" in shown.out


def test_e_shows_everything_of_a_tool_call_and_takes_it_away_again(lash, home: Path, at_terminal, waiting_turn) -> None:
    (home.parent / "poem.md").write_text("".join(f"line {number} of the poem\n" for number in range(12)))
    lash("open", "s", "--name", "fjord")
    terminal = at_terminal("tail", "s", rows=40)
    terminal.wait_for("idle")
    waiting_turn('!tool read_file {"path":"poem.md"}\n!then')
    terminal.wait_for("step 2")
    assert "line 11 of the poem" not in terminal.text and len(picture(terminal)) <= 10
    terminal.press("e")
    terminal.wait_for("line 11 of the poem")
    assert "line 0 of the poem" in terminal.text and 10 < len(picture(terminal)) < 40
    terminal.press("e")
    terminal.wait_for(lambda text: "of the poem" not in text)
    assert len(picture(terminal)) <= 10


@pytest.mark.parametrize("env", [{}, {"LASH_NO_OSC52": "1"}])
def test_c_copies_the_command_that_cancels_this_turn_and_changes_nothing(
    lash, at_terminal, waiting_turn, env: dict[str, str]
) -> None:
    waiting_turn("!text so far")
    terminal = at_terminal("tail", "s", columns=140, **env)
    terminal.wait_for("turn t_8")
    terminal.press("c")
    terminal.wait_for(f"lash cancel s --turn t_8{'' if env else '   (copied, if this terminal allows it)'}\n")
    copied = terminal.written.partition(OSC52)[2].partition(b"\x07")[0]
    assert b64decode(copied).decode() == ("" if env else "lash cancel s --turn t_8")
    assert ("copied" in terminal.text) == (not env)
    assert lash("show", "s", "-o", "json").json["running_turn"] == "t_8"
    said = shlex.split("lash cancel s --turn t_8")
    assert lash(*said[1:], "--wait=60s").code == 0
    terminal.wait_for("t_8 cancelled")
    terminal.press("c")
    terminal.wait_for("no turn runs that could be cancelled")


def test_without_input_no_key_is_read_and_the_terminal_is_left_as_it_is(lash, at_terminal) -> None:
    lash("open", "s")
    terminal = at_terminal("tail", "s", "--no-input")
    terminal.wait_for("idle")
    assert terminal.is_cooked
    terminal.press("q\n")
    lash("turn", "s", "!text goes on")
    terminal.wait_for("assistant goes on")
    assert terminal.interrupt() == 130


# Once more than needed, as what the first one began takes its time.
PRESSED_AGAIN = """
import os, signal
from lash_cli.cli.tail_keys import _Keyboard
release = _Keyboard.release
def pressed_again(self):
    _Keyboard.release = release
    release(self)
    os.kill(os.getpid(), signal.SIGTSTP)
_Keyboard.release = pressed_again
"""


def test_ctrl_z_gives_the_terminal_back_while_suspended_and_the_view_goes_on_after_it(lash, at_terminal) -> None:
    lash("open", "s")
    terminal = at_terminal("tail", "s", kind=Job, first=PRESSED_AGAIN)
    terminal.wait_for("idle")
    terminal.wait_until(lambda: not terminal.is_cooked)
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.wait_until(lambda: terminal.is_cooked)
    # Told to go on before it stands still, it would stand still for good.
    wait_until_frozen(terminal.process)
    lash("turn", "s", "!text while suspended")
    terminal.process.send_signal(signal.SIGCONT)
    terminal.wait_until(lambda: not terminal.is_cooked)
    terminal.wait_for("assistant while suspended")
    terminal.press("q")
    assert terminal.ended() == 0 and terminal.is_cooked


def test_ctrl_z_stops_no_view_that_nobody_could_let_go_on(lash, at_terminal) -> None:
    """As of `ssh -t HOST lash tail s`, which no shell waits for."""
    lash("open", "s")
    terminal = at_terminal("tail", "s")
    terminal.wait_for("idle")
    for number in range(2):
        terminal.process.send_signal(signal.SIGTSTP)
        lash("turn", "s", f"!text goes on {number}")
        terminal.wait_for(f"assistant goes on {number}")
    terminal.press("q")
    assert terminal.ended() == 0 and terminal.is_cooked
