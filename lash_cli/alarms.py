"""Timers that hardly ever ring: every turn sets some and takes them back, for its lease, its previews, its tools.

The timers of an event loop are a heap that compares in Python and keeps what
was cancelled until it comes due. Alarms of one delay come due in the order they
were set, so a queue per delay and one timer of the loop for its head do the
same: setting and cancelling are to put it into the queue and to take it out.

A timer serves whoever set an alarm, so it runs in the context of nobody: in that
of the first, it would keep what that had in its variables, and show it to others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context
from typing import Final

import msgspec

_MAX_ROWS: Final = 32


class Alarm(msgspec.Struct, eq=False):
    """One call that was put off; `cancel` takes it back."""

    _queue: _Queue
    due: float
    _call: Callable[[], object] | None

    def cancel(self) -> None:
        """Never ring. Idempotent."""
        self._call = None
        self._queue.pop(self, None)

    def ring(self) -> None:
        """Make the call, once."""
        call, self._call = self._call, None
        if call is not None:
            call()


# The alarms of one delay on one loop, earliest first. A plain dict would look for its first one behind all that went.
_Queue = OrderedDict[Alarm, None]


class _Row:
    """A queue, and the timer of its head."""

    __slots__ = ("_delay_s", "_loop", "_queue", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, delay_s: float) -> None:
        self._loop = loop
        self._delay_s = delay_s
        self._queue: _Queue = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Callable[[], object]) -> Alarm:
        alarm = Alarm(self._queue, self._loop.time() + self._delay_s, call)
        self._queue[alarm] = None
        if self._timer is None:
            self._timer = self._loop.call_at(alarm.due, self._ring, context=Context())
        return alarm

    def _ring(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._queue:
            alarm = next(iter(self._queue))
            if alarm.due > now:
                self._timer = self._loop.call_at(alarm.due, self._ring)
                return
            # Each on its own, so that one that raises is the loop's to report and the others ring.
            del self._queue[alarm]
            self._loop.call_soon(alarm.ring)


class _Rows(dict[tuple[asyncio.AbstractEventLoop, float], _Row]):
    """The row of each loop and delay. One that is displaced here still rings its alarms."""

    def __missing__(self, key: tuple[asyncio.AbstractEventLoop, float]) -> _Row:
        # A loop that is closed rings no more, but its row would keep it, and whatever its alarms were to call.
        for known in tuple(self):
            if known[0].is_closed() or len(self) >= _MAX_ROWS:
                self.pop(known, None)
        row = self[key] = _Row(*key)
        return row


_ROWS: Final = _Rows()


def alarm_after(delay_s: float, call: Callable[[], object]) -> Alarm:
    """Make `call` on the running loop in `delay_s` seconds; for delays that are few and constant."""
    return _ROWS[asyncio.get_running_loop(), delay_s].add(call)
