"""A long text for people goes through their pager, on a terminal only (contract 08 §6.6, §11).

`$PAGER` says which, else it is `less`; an empty one, `cat`, `--no-pager`,
`--plain` and `--no-input` say none. Where the pager cannot be run the text is
written as it is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from types import FrameType

from lash_cli.cli.invocation import current
from lash_cli.cli.output import write
from lash_cli.views.safe_text import ascii_text

_USUAL = "less"
# Leave at once when it fits, keep colours and the screen; only where the user has no own wishes.
_LESS = "FIRX"
_NONE = ("", "cat")


def write_paged(text: str) -> None:
    """Write `text`, which is safe for a terminal, through a pager when stdout is a terminal that it is longer than."""
    pager = _pager() if text.count("\n") >= shutil.get_terminal_size().lines else None
    if pager is None:
        write(text)
        return
    sys.stdout.flush()
    # Ctrl-C is the pager's, from before it is started: if it ended us, the terminal would stay as the pager had set it.
    # What is ignored here the pager would ignore, too.
    before = signal.signal(signal.SIGINT, _nothing)
    try:
        is_shown = _show_in(pager, text)
    finally:
        signal.signal(signal.SIGINT, before)
    if not is_shown:
        write(text)


def _show_in(pager: list[str], text: str) -> bool:
    """Let the user read the text in the pager; False where that cannot be started."""
    environment = {"LESS": _LESS, **current().environment}
    try:
        process = subprocess.Popen(pager, stdin=subprocess.PIPE, env=environment)
    except OSError:
        return False
    with process:
        process.communicate((ascii_text(text) if current().output.ascii else text).encode("utf-8", "replace"))
    return True


def _nothing(number: int, frame: FrameType | None) -> None:
    """What a signal does that is for somebody else."""


def _pager() -> list[str] | None:
    """The words of the pager, None where there is to be none."""
    invocation = current()
    if not sys.stdout.isatty() or invocation.output.no_pager or invocation.output.plain or invocation.no_input:
        return None
    chosen = invocation.environment.get("PAGER", _USUAL).strip()
    if chosen in _NONE:
        return None
    try:
        words = shlex.split(chosen)
    except ValueError:
        return None
    return words if words and shutil.which(words[0], path=os.environ.get("PATH")) is not None else None
