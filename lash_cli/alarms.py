"""Timers that hardly ever ring: every turn sets some and takes them back, for its lease, its previews, its tools.

The timers of an event loop are a heap that compares in Python and keeps what
was cancelled until it comes due. Alarms of one delay come due in the order they
were set, so a queue per delay and one timer of the loop for its head do the
same: setting and cancelling are an append and a flag.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import WeakKeyDictionary


class Alarm:
    """One call that was put off; `cancel` takes it back."""

    __slots__ = ("_call", "_row", "due")

    def __init__(self, row: _Row, due: float, call: Callable[[], object]) -> None:
        self._row = row
        self._call: Callable[[], object] | None = call
        self.due = due

    @property
    def is_cancelled(self) -> bool:
        """Whether it rang or was taken back."""
        return self._call is None

    def cancel(self) -> None:
        """Never ring. Idempotent."""
        self._call = None
        self._row.drop_cancelled()

    def ring(self) -> None:
        """Make the call, once."""
        call, self._call = self._call, None
        if call is not None:
            call()


class _Row:
    """The alarms of one delay on one loop, earliest first."""

    __slots__ = ("_alarms", "_delay_s", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, delay_s: float) -> None:
        self._loop = loop
        self._delay_s = delay_s
        self._alarms: deque[Alarm] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Callable[[], object]) -> Alarm:
        alarm = Alarm(self, self._loop.time() + self._delay_s, call)
        self._alarms.append(alarm)
        if self._timer is None:
            self._timer = self._loop.call_at(alarm.due, self._ring)
        return alarm

    def drop_cancelled(self) -> None:
        alarms = self._alarms
        while alarms and alarms[0].is_cancelled:
            alarms.popleft()

    def _ring(self) -> None:
        self._timer = None
        now = self._loop.time()
        self.drop_cancelled()
        while self._alarms and self._alarms[0].due <= now:
            # Each on its own, so that one that raises is the loop's to report and the others ring.
            self._loop.call_soon(self._alarms.popleft().ring)
            self.drop_cancelled()
        if self._alarms:
            self._timer = self._loop.call_at(self._alarms[0].due, self._ring)


_ROWS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, _Row]] = WeakKeyDictionary()


def alarm_after(delay_s: float, call: Callable[[], object]) -> Alarm:
    """Make `call` on the running loop in `delay_s` seconds; for delays that are few and constant."""
    loop = asyncio.get_running_loop()
    rows = _ROWS.get(loop)
    if rows is None:
        rows = _ROWS[loop] = {}
    row = rows.get(delay_s)
    if row is None:
        row = rows[delay_s] = _Row(loop, delay_s)
    return row.add(call)
