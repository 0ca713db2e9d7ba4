"""A command at a pseudo-terminal and the screen a person would see of it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte
from support.cli import spawn_lash

PATIENCE_S = 40
QUIET_S = 0.002
LARGEST_PICTURE_BYTES = 65_536


class Terminal:
    """A command at a terminal of a given size, and its screen; `first` is what `spawn_lash` has it do first, and
    `ahead` what was typed before it was started."""

    def __init__(
        self, home: Path, *args: str, columns: int = 100, rows: int = 24, first: str = "", ahead: str = "", **env: str
    ) -> None:
        self._first = first
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        # The slave stays open here, so that its settings can be looked at after the command has ended.
        self._master, self._slave = pty.openpty()
        self._size(columns, rows)
        self.press(ahead)
        self.process = self._start(home, args, {"TERM": "xterm-256color", **env})

    def _start(self, home: Path, args: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        streams = {"stdin": self._slave, "stdout": self._slave, "stderr": self._slave}
        return spawn_lash(args, home=home, env=env, start_new_session=True, first=self._first, **streams)

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int) -> None:
        self.screen.resize(columns=columns)
        self._size(columns, self.screen.lines)
        os.killpg(self.process.pid, signal.SIGWINCH)

    @property
    def is_cooked(self) -> bool:
        """Whether typed characters are shown and wait for Enter, as a shell leaves it."""
        both = termios.ICANON | termios.ECHO
        return bool(termios.tcgetattr(self._slave)[3] & both == both)

    def edit_lines(self) -> None:
        """As a shell sets its terminal when the job that had it was stopped."""
        settings = termios.tcgetattr(self._slave)
        settings[0] |= termios.ICRNL
        settings[3] |= termios.ICANON | termios.ECHO | termios.ISIG
        termios.tcsetattr(self._slave, termios.TCSANOW, settings)

    @property
    def is_blocking(self) -> bool:
        """Whether everybody who has this terminal open waits for it, as programs expect."""
        return os.get_blocking(self._slave)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def _feed(self) -> bool:
        """Show what arrives within a moment; False when nothing came and the command had ended before.

        A picture is written in one piece and arrives in several; what follows at once belongs to it.
        """
        # Asked afterwards, it may have said its last words between the two questions.
        has_ended = self.process.poll() is not None
        data = b""
        while select.select([self._master], [], [], QUIET_S if data else 0.05)[0]:
            piece = os.read(self._master, 65_536)
            data += piece
            if not piece or len(data) > LARGEST_PICTURE_BYTES:
                break
        else:
            if not data:
                return not has_ended
        self.written += data
        self._stream.feed(data)
        return True

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def everything(self) -> str:
        """The screen and what has scrolled out of it."""
        above = ["".join(row[column].data for column in sorted(row)) for row in self.screen.history.top]
        return "\n".join(line.rstrip() for line in (*above, *self.screen.display))

    def wait_for(self, what: str | Callable[[str], bool], watch: Callable[[list[str]], None] | None = None) -> None:
        """Until the screen shows `what`; `watch` sees every picture on the way."""
        self.wait_until(lambda: what in self.text if isinstance(what, str) else what(self.text), watch)

    def wait_until(self, happened: Callable[[], bool], watch: Callable[[list[str]], None] | None = None) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, self.text
            assert self._feed(), self.text
            if watch is not None:
                watch(self.lines)

    def ended(self) -> int:
        """The exit status, once everything was shown."""
        while self._feed():
            pass
        return self.process.wait(PATIENCE_S)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def hang_up(self) -> None:
        """The terminal is closed: whoever reads it finds nobody there any more."""
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, self._master)
        os.close(nothing)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


class Job(Terminal):
    """A command that a shell of its session started and could let go on: others are never stopped by SIGTSTP."""

    def _start(self, home: Path, args: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        streams = {"stdin": self._slave, "stdout": self._slave, "stderr": self._slave}
        return spawn_lash(args, home=home, env=env, process_group=0, first=self._first, **streams)
