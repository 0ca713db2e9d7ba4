"""What takes longer than a second says so on a terminal (contract 08 §11).

The line stands on stderr, is written over once a second and is gone when the
work is done. A pipe, a file, a program that reads the result and `-q` get
nothing; a terminal that is not drawn on gets the line once. It is written
beside the work, by a thread of its own, so the work need not know of it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lash_cli.cli.invocation import MACHINE_FORMATS, current
from lash_cli.cli.output import write_note
from lash_cli.views.safe_text import ascii_marks

AFTER_SECONDS = 1.0
EVERY_SECONDS = 1.0
_ERASE = "\r\x1b[K"

_is_told = False


@contextmanager
def progress(what: str) -> Iterator[None]:
    """While inside, tell a person that `what` goes on once it has taken a second. `what` is a phrase such as
    `copying the database`; nothing else is to write to the terminal meanwhile. Inside of another one it does nothing:
    one line says what goes on."""
    global _is_told
    if _is_told or not _is_watched():
        yield
        return
    is_over = threading.Event()
    tell = _tell_once if current().output.plain else _draw
    telling = threading.Thread(target=tell, args=(what, is_over), name="lash-progress", daemon=True)
    with contextlib.suppress(RuntimeError):  # where the system has no thread left, it goes on untold
        telling.start()
    _is_told = True
    try:
        yield
    finally:
        _is_told = False
        is_over.set()
        if telling.is_alive():
            telling.join()


def _is_watched() -> bool:
    """Whether a person looks at stderr and did not ask for silence."""
    invocation = current()
    is_for_people = not (invocation.options.quiet or invocation.notice_format in MACHINE_FORMATS)
    return is_for_people and sys.stderr is not None and sys.stderr.isatty()


def _tell_once(what: str, is_over: threading.Event) -> None:
    if not is_over.wait(AFTER_SECONDS):
        write_note(_shown(what))


def _shown(what: str) -> str:
    return ascii_marks(f"{what}…") if current().wants_ascii else f"{what}…"


def _draw(what: str, is_over: threading.Event) -> None:
    begun_at = time.monotonic()
    if is_over.wait(AFTER_SECONDS):
        return
    shown = _shown(what)
    # A terminal that is gone is no reason to give the work up.
    with contextlib.suppress(OSError, ValueError):
        while True:
            sys.stderr.write(f"{_ERASE}{shown} {time.monotonic() - begun_at:.0f} s")
            sys.stderr.flush()
            if is_over.wait(EVERY_SECONDS):
                break
        sys.stderr.write(_ERASE)
        sys.stderr.flush()
