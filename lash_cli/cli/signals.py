"""SIGINT, SIGTERM and SIGHUP while a turn runs (contract 08 §6.4, §11).

The first signal asks the turn to stop: it ends as cancelled, is committed, and
the process exits with 128 plus the signal. A second one does not wait for that:
the process dies of the signal, and the turn is left to recovery. A worker has
one step more: its second signal ends it in order but at once. Outside of
`turn_signals` the usual handling is in force.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EXIT_BASE = 128


class SignalState:
    """Which signal came first; None while none did."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @property
    def exit_status(self) -> int | None:
        """130, 143 or 129, or None when no signal came."""
        return None if self.received is None else _EXIT_BASE + self.received


@contextmanager
def turn_signals(
    on_cancel: Callable[[], object], on_second: Callable[[], object] | None = None
) -> Iterator[SignalState]:
    """While inside, the first signal calls `on_cancel` on the running loop, the second one `on_second` if there is
    one, and the next one kills.

    Call it from a coroutine. The handlers of before are back in force on exit.
    """
    loop = asyncio.get_running_loop()
    state = SignalState()
    steps = [on_cancel] if on_second is None else [on_cancel, on_second]

    def handle(number: signal.Signals) -> None:
        state.received = state.received or number
        if steps:
            steps.pop(0)()
        else:
            die_of(number)

    before = {number: signal.getsignal(number) for number in HANDLED}
    handled = [number for number in HANDLED if before[number] != signal.SIG_IGN]  # nohup stays in force
    for number in handled:
        loop.add_signal_handler(number, handle, number)
    try:
        yield state
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


def die_of(number: signal.Signals) -> None:
    """End this process as if it had never handled `number`, so that its parent sees the signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
