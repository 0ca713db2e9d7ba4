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

from lash_cli.cli.invocation import current
from lash_cli.cli.output import write
from lash_cli.foreground import left_to_another
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
    with left_to_another(signal.SIGINT, signal.SIGQUIT):
        is_shown = _show_in(pager, text)
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
