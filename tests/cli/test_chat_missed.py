"""What `lash chat` did not see happen: it stood still, and the live events of meanwhile are gone (contract 08 §7.1)."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.chat import Chat
from support.cli import spawn_lash
from support.frozen import wait_until_frozen

FACES = pytest.mark.parametrize(
    ("args", "prompt"), [((), "│ ▶"), (("--plain",), "status: another process runs a turn")]
)


def lose_events(home: Path) -> None:
    """As two minutes would."""
    with closing(sqlite3.connect(home / "lash.db", isolation_level=None)) as database:
        database.execute("UPDATE live_row SET at_ms = 0")


def answer(one: Chat, args: tuple[str, ...], letter: str) -> None:
    one.press(f"/{letter}\n" if args else letter)


@FACES
def test_a_text_that_waits_for_a_turn_goes_also_when_nobody_saw_it_end(
    chat: Callable[..., Chat], home: Path, gate: Path, args: tuple[str, ...], prompt: str
) -> None:
    theirs = spawn_lash(["turn", "s", f"!wait-file {gate}\n!text theirs"], home=home)
    one = chat(*args, prompt=prompt)
    one.press("mine\r")
    one.wait_for("wait, then send")
    answer(one, args, "w")
    one.wait_for("waiting for the other process")
    one.process.send_signal(signal.SIGSTOP)
    wait_until_frozen(one.process)
    gate.touch()
    assert theirs.wait(60) == 0
    lose_events(home)
    one.process.send_signal(signal.SIGCONT)
    one.wait_for("some live events were missed (trimmed)")
    one.wait_for("You said: mine")
    one.wait_until(lambda: one.users()[1:] == ["mine"])


@FACES
def test_a_cancel_is_over_also_when_nobody_saw_what_it_ended(
    chat: Callable[..., Chat], home: Path, gate: Path, args: tuple[str, ...], prompt: str
) -> None:
    theirs = spawn_lash(["turn", "s", f"!wait-file {gate}\n!text theirs"], home=home)
    one = chat(*args, prompt=prompt)
    theirs.send_signal(signal.SIGSTOP)
    wait_until_frozen(theirs)
    one.press("/cancel\r")
    one.wait_for("cancel requested: turn t_")
    one.process.send_signal(signal.SIGSTOP)
    wait_until_frozen(one.process)
    theirs.send_signal(signal.SIGCONT)
    assert theirs.wait(60) == 7
    lose_events(home)
    one.process.send_signal(signal.SIGCONT)
    one.wait_for("some live events were missed (trimmed)")
    one.wait_for("turn cancelled")
    one.wait_for("status: idle" if args else "│ idle")
