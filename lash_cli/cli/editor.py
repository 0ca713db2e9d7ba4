"""The user's editor on one file, and what signals mean while a text is in nobody's queue (contract 08 §5.3).

While `held_signals` is in force nothing ends this process between two steps:
Ctrl-C and Ctrl-\\ belong to the editor, and a hang-up or a termination ends it,
after which the caller puts everything back and exits with the signal's status.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lash_cli.cli.exit_status import SIGNAL_EXIT_BASE
from lash_cli.errors import ConfigError, LashRuntimeError
from lash_cli.foreground import left_to_another

_FALLBACK = "vi"
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class HeldSignals:
    """The signals that came while the text was out."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.editor: subprocess.Popen[bytes] | None = None

    def note(self, number: int, _frame: object) -> None:
        """Keep the first signal; one that is meant to end us ends the editor."""
        self.received = self.received or signal.Signals(number)
        self.end_editor()

    def end_editor(self) -> None:
        """End the editor if there is one and a signal came."""
        if self.editor is not None and self.received is not None:
            self.editor.terminate()

    @property
    def exit_status(self) -> int:
        """What the process ends with: 0, or 128 plus the signal."""
        return 0 if self.received is None else SIGNAL_EXIT_BASE + self.received


@contextmanager
def held_signals() -> Iterator[HeldSignals]:
    """Hold SIGINT, SIGTERM and SIGHUP back until the text is in the queue again."""
    held = HeldSignals()
    handled = [number for number in (signal.SIGINT, *_ENDING) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, held.note) for number in handled}
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def editor_command(environment: Mapping[str, str]) -> list[str]:
    """The editor of `VISUAL` or `EDITOR`, else `vi`; raises `ConfigError` (`editor_missing`) when there is none."""
    chosen = environment.get("VISUAL") or environment.get("EDITOR") or _FALLBACK
    try:
        words = shlex.split(chosen)
    except ValueError:
        words = []
    if not words or shutil.which(words[0], path=environment.get("PATH")) is None:
        raise ConfigError(
            f"there is no editor {chosen!r}",
            code="editor_missing",
            hint="set VISUAL or EDITOR",
        )
    return words


def run_editor(command: list[str], path: str, held: HeldSignals) -> None:
    """Let the user edit `path`; returns when the editor ended well.

    Raises `LashRuntimeError` (`editor_failed`, or `edit_interrupted` when a signal ended it).
    """
    sys.stdout.flush()
    # With stdout redirected the editor still needs a terminal to draw on.
    output = None if sys.stdout.isatty() else sys.stderr.fileno()
    status = 0
    try:
        with left_to_another(signal.SIGINT, signal.SIGQUIT):
            if held.received is None:
                held.editor = subprocess.Popen([*command, path], stdout=output)
                held.end_editor()  # when the signal came there was none yet
                status = held.editor.wait()
    except OSError as error:
        raise LashRuntimeError("editor_failed", f"cannot start {command[0]}: {error.strerror}") from error
    finally:
        held.editor = None
    if held.received is not None:
        interrupted = LashRuntimeError("edit_interrupted", f"{held.received.name} received: the edit was given up")
        interrupted.exit_status = held.exit_status
        raise interrupted
    if status != 0:
        raise LashRuntimeError("editor_failed", f"{os.path.basename(command[0])} ended with status {status}")
