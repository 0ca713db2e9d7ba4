"""A second signal kills at once, as Ctrl-\\ does, and the terminal is its person's again all the same (08 §6.4)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.frozen import wait_until_frozen
from support.terminal import PATIENCE_S, Terminal

# What changes a terminal, and what undoes it.
CHANGES = (("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h"), ("\x1b[?2004h", "\x1b[?2004l"))


@pytest.mark.parametrize(
    ("args", "standing"),
    [
        (["tail", "s"], "queue"),
        (["ls", "--watch"], "1 session"),
        (["chat", "s"], "/help"),
        (["turn", "s", "!stream 400 0.2\n!text " + "word " * 400], "word"),
    ],
    ids=["tail", "ls", "chat", "turn"],
)
@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGHUP), (signal.SIGQUIT,)], ids=["second", "quit"])
def test_who_is_killed_by_a_signal_leaves_a_terminal_to_go_on_with(
    lash, home: Path, args, standing, numbers: tuple[signal.Signals, ...]
) -> None:
    lash("open", "s", "--name", "fjord")
    terminal = Terminal(home, *args)
    try:
        terminal.wait_for(standing)
        # All are there at once, whatever the machine does between them.
        terminal.process.send_signal(signal.SIGSTOP)
        wait_until_frozen(terminal.process)
        for number in (*numbers, signal.SIGCONT):
            terminal.process.send_signal(number)
        assert -terminal.ended() in numbers
        assert terminal.is_cooked
        for changed, usual in CHANGES:
            assert terminal.written.rfind(changed.encode()) <= terminal.written.rfind(usual.encode())
    finally:
        terminal.close()


@pytest.mark.parametrize(
    "args", [["ls", "--watch"], ["tail", "s"], ["turn", "s", "!stream 400 0.2"]], ids=["ls", "tail", "turn"]
)
def test_a_terminal_that_hangs_up_ends_a_command_as_its_signal_says(lash, home: Path, args) -> None:
    """What it would still draw finds nobody, and that is no failure."""
    lash("open", "s", "--name", "fjord")
    terminal = Terminal(home, *args)
    try:
        terminal.wait_for("2" if args[0] == "turn" else "fjord")
        terminal.process.send_signal(signal.SIGSTOP)
        wait_until_frozen(terminal.process)
        terminal.hang_up()
        for number in (signal.SIGHUP, signal.SIGCONT):
            terminal.process.send_signal(number)
        assert terminal.process.wait(PATIENCE_S) == 129
    finally:
        terminal.close()
