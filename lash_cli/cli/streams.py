"""Standard streams that were closed before we started (`lash … >&-`), made ordinary again (contract 08 §6.3, §6.4).

Python leaves `None` for such a stream, and the next file that is opened would
take its descriptor: an error message could end up in the database. So every
gap is filled before anything is opened. A closed stdout becomes a pipe whose
reader has left, which every writer already knows how to end on (exit 141); a
closed stderr loses what is written; a closed stdin is empty.
"""

from __future__ import annotations

import os
import sys

_STDIN, _STDOUT, _STDERR = range(3)


def write_whole() -> None:
    """Give stdout the buffer that `PYTHONUNBUFFERED` takes from it, which images of containers like to set.

    Without one, Python hands a text to the system once: what a pipe whose reader leaves or a disk that runs full
    did not take is dropped without an error. Whoever waits for a line gets it as before, since whoever streams flushes.
    """
    unbuffered = sys.stdout
    sys.stdout = open(  # noqa: SIM115 - lives as long as the process
        unbuffered.fileno(), "w", encoding=unbuffered.encoding, errors=unbuffered.errors, closefd=False
    )


def replace_closed() -> None:
    """Give every closed standard stream a descriptor and a file; open ones are left alone."""
    if sys.stdin is None:
        _take_place(os.open(os.devnull, os.O_RDONLY), _STDIN)
        sys.stdin = open(_STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    if sys.stdout is None:
        reader, writer = os.pipe()
        os.close(reader)
        _take_place(writer, _STDOUT)
        sys.stdout = open(_STDOUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
    if sys.stderr is None:
        _take_place(os.open(os.devnull, os.O_WRONLY), _STDERR)
        sys.stderr = open(_STDERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above


def _take_place(descriptor: int, place: int) -> None:
    """Move `descriptor` to `place`, where programs we start inherit it as they would any standard stream."""
    if descriptor == place:
        os.set_inheritable(place, True)
    else:
        os.dup2(descriptor, place)
        os.close(descriptor)
