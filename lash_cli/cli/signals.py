"""SIGINT, SIGTERM and SIGHUP while a turn runs (contract 08 §6.4, §11).

The first signal asks the turn to stop: it ends as cancelled, is committed, and
the process exits with 128 plus the signal. A second one does not wait for that:
the process dies of the signal, and the turn is left to recovery. A worker has
one step more: its second signal ends it in order but at once. Ctrl-Z stops a
process that has finished writing: one that stood still inside a transaction
would keep every other process out of the store until it goes on. Outside of
`turn_signals` the usual handling is in force.

What a command changed of its terminal is given back however it ends: whoever
dies or stands still here does so first (`given_back`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from lash_cli.cli.exit_status import SIGNAL_EXIT_BASE

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What gives the terminal back, the last thing that was changed last.
_to_give_back: list[Callable[[], object]] = []


class SignalState:
    """Which signal came first; None while none did."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @property
    def exit_status(self) -> int | None:
        """130, 143 or 129, or None when no signal came."""
        return None if self.received is None else SIGNAL_EXIT_BASE + self.received


@contextmanager
def turn_signals(
    on_cancel: Callable[[], object],
    on_second: Callable[[], bool] | None = None,
    *,
    before_stop: Callable[[], object] | None = None,
) -> Iterator[SignalState]:
    """While inside, the first signal calls `on_cancel` on the running loop, the second one `on_second` if there is
    one, and the next one kills; the second one too when `on_second` answers that there was nothing to do for it.
    `before_stop` is called before a SIGTSTP stops the process.

    Call it from a coroutine. The handlers of before are back in force on exit.
    """
    state = SignalState()
    count = 0

    def handle(number: signal.Signals) -> None:
        nonlocal count
        count += 1
        if count == 1:
            state.received = number
            on_cancel()
        elif count > 2 or on_second is None or not on_second():
            die_of(number)

    handlers: dict[signal.Signals, Callable[[], object]] = {number: partial(handle, number) for number in HANDLED}
    if before_stop is not None:
        handlers |= suspending(before_stop)
    with handling(handlers) as handled:
        kill_beyond(1 if on_second is None else 2, [number for number in handled if number in HANDLED])
        yield state


@contextmanager
def handling(handlers: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[list[signal.Signals]]:
    """While inside, the running loop makes these calls for these signals, but for those that are ignored: nohup stays
    in force. Gives those it handles; the handlers of before are back in force on exit."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in handlers}
    handled = [number for number in handlers if before[number] != signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, handlers[number])
    try:
        yield handled
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])


async def interrupted_before() -> None:
    """Let a Ctrl-C from before the handlers stood end the command here; call it inside of `turn_signals`, first.

    `asyncio.run` makes a cancellation of it that waits for the first pause, which may come when a stream was begun
    that would then have no end.
    """
    await asyncio.sleep(0)


def kill_beyond(count: int, numbers: Sequence[signal.Signals]) -> None:
    """Have this process die of the first of these signals beyond `count` of them, at once: also where the loop, which
    handles them, stands still, as in a write to a terminal that takes nothing. Whoever takes the handlers back takes
    this back, too."""
    left = count

    def struck(number: int, frame: FrameType | None) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            die_of(signal.Signals(number))
        by_loop[number](number, frame)

    # The loop's own, which says to it that there was one.
    by_loop: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, struck)


@contextmanager
def given_back(give_back: Callable[[], object]) -> Iterator[None]:
    """While inside, `give_back` is called before this process dies of a signal, or stands still, in `die_of`: there no
    `finally` would do it. It must not wait for anything, and may be called more than once. Ctrl-\\, where nobody
    else handles it, kills by `die_of` meanwhile."""
    _to_give_back.append(give_back)
    is_unhandled = signal.getsignal(signal.SIGQUIT) == signal.SIG_DFL
    if is_unhandled:
        signal.signal(signal.SIGQUIT, _quit)
    try:
        yield
    finally:
        if is_unhandled:
            signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        _to_give_back.remove(give_back)


def write_at_once(descriptor: int, text: str) -> None:
    """Write a few bytes to a terminal if it takes them now: for `given_back`, where nothing may be waited for."""
    with contextlib.suppress(OSError):  # a terminal that is gone needs nothing back
        if select.select((), (descriptor,), (), 0)[1]:
            os.write(descriptor, text.encode())


def die_of(number: signal.Signals) -> None:
    """Let `number` do to this process what it does to one that does not handle it, so that its parent sees it."""
    for give_back in reversed(_to_give_back):
        give_back()
    # Of a signal that came in this very moment Python says that it is ignored; this one has the same end.
    told, sys.unraisablehook = sys.unraisablehook, _say_nothing
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # Still here: it stood still, and somebody let it go on.
    sys.unraisablehook = told


def suspending(
    before: Callable[[], object], after: Callable[[], object] = lambda: None
) -> dict[signal.Signals, Callable[[], object]]:
    """Handlers with which a SIGTSTP stops this process once `before` was called, and `after` is called whenever it goes
    on, whoever stopped it. Where nobody could let it go on, as no shell waits for it, it does not stop."""
    is_stopped = False

    def suspend() -> None:
        nonlocal is_stopped
        if is_stopped:
            return  # one more from before it stood still: who let it go on wants it to
        before()
        is_stopped = True
        die_of(signal.SIGTSTP)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTSTP, suspend)
        after()

    def go_on() -> None:
        nonlocal is_stopped
        is_stopped = False
        after()

    return {signal.SIGTSTP: suspend, signal.SIGCONT: go_on}


def _quit(number: int, frame: FrameType | None) -> None:
    die_of(signal.Signals(number))


def _say_nothing(_: object) -> None:
    """Keep what cannot be raised to oneself."""
