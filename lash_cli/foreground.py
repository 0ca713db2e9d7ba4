"""What the keyboard's signals mean here while another program has the terminal: nothing.

They go to everybody who works at it, and a pager or an editor may do with Ctrl-C and Ctrl-\\ what it likes. Whoever
started it and ended by one would leave it behind at a terminal that a shell reads, too.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def left_to_another(*numbers: signal.Signals) -> Iterator[None]:
    """While inside, these signals do nothing here, but for those that are ignored already. Enter it before the other
    program is started, as that may run before whoever started it goes on."""
    # What is ignored here the other one would ignore, too: it gets the usual handling for a handler of ours.
    handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _nothing) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nothing(number: int, frame: FrameType | None) -> None:
    """What a signal does that is for somebody else."""
