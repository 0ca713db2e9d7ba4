"""Ctrl-C at a place of one's choice, each run of a test at the next, until there is none left.

Python looks for signals on entering a function, behind a call and at the end of
a pass through a loop, and nowhere else. A profiler sees the first two exactly
where a signal would strike, and the third is an instruction that lies before
the one that came last. What C code calls on behalf of an instruction (a `with`
on a lock, an attribute) has no such place behind it. `threading` counts as if
it were C too: an interrupt inside makes its events and threads forget their own
locks, which nobody outside can mend. So does the bookkeeping of weak sets, which
is called out of nowhere and swallows an interrupt; a future that is being
settled, which would be over and have woken nobody; and the stack that asyncio
notes of whatever it makes while it is debugged.
"""

from __future__ import annotations

import _weakrefset
import asyncio.format_helpers
import gc
import linecache
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

_SEALED = {module.__file__ for module in (threading, _weakrefset, traceback, linecache, asyncio.format_helpers)}
_SETTLING = {"set_result", "set_exception"}


class Strike:
    """A `KeyboardInterrupt` at the place numbered `at` of what happens inside a function, on this thread."""

    def __init__(self, within: Callable[..., Any], at: int, sealed: Callable[..., Any] | None = None) -> None:
        self._within: CodeType = within.__code__
        self._sealed: CodeType | None = None if sealed is None else sealed.__code__
        self._left = at
        self._outermost: FrameType | None = None
        self._last: dict[FrameType, int] = {}
        # Of whoever settles a future.
        self._settling: FrameType | None = None
        self.place: str | None = None

    @property
    def has_struck(self) -> bool:
        """False when there were fewer places."""
        return self.place is not None

    def profile(self, frame: FrameType, event: str, argument: object) -> None:
        if self._outermost is None:
            if event != "call" or frame.f_code is not self._within:
                return
            self._outermost = frame
        if event == "c_call" and getattr(argument, "__name__", "") in _SETTLING:
            self._settling = frame
        elif frame is self._settling:
            self._settling = None
        is_over = event == "return" and frame is self._outermost
        if event in ("call", "return", "c_return") and not self._is_sealed(frame, event):
            self._pass(frame, event)
        if is_over:
            self._end()

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode" and self._outermost is not None:
            last, self._last[frame] = self._last.get(frame, -1), frame.f_lasti
            if frame.f_lasti < last and not self._is_sealed(frame, event):
                self._pass(frame, "loop")
        return self.trace

    def _pass(self, frame: FrameType, event: str) -> None:
        self._left -= 1
        if self._left < 0:
            self._end()
            self.place = f"{event} {frame.f_code.co_qualname}:{frame.f_lineno}"
            raise KeyboardInterrupt(self.place)

    def _is_sealed(self, frame: FrameType, event: str) -> bool:
        """Whether nobody outside can do anything about an interrupt here; where `threading` is entered and left belongs
        to who calls it."""
        inner = frame.f_code.co_filename
        if event in ("call", "return") and inner == threading.__file__:
            inner = "" if frame.f_back is None else frame.f_back.f_code.co_filename
        return self._settling is not None or inner in _SEALED or frame.f_code is self._sealed

    def _end(self) -> None:
        sys.setprofile(None)
        sys.settrace(None)
        self._last.clear()


def may_strike_between_taking_a_lock_and_its_block() -> bool:
    """Whether this Python looks for signals there, as 3.14 does: `with lock` then leaves it taken, and nobody who uses
    locks can do anything about it."""
    seen: list[tuple[str, str]] = []
    lock = threading.Lock()
    sys.setprofile(lambda frame, event, argument: seen.append((event, getattr(argument, "__name__", ""))))
    try:
        with lock:
            pass
    finally:
        sys.setprofile(None)
    return ("c_return", "__enter__") in seen


@contextmanager
def interrupted(within: Callable[..., Any], at: int, *, sealed: Callable[..., Any] | None = None) -> Iterator[Strike]:
    """Strike the first call of `within` in the block, at its place number `at`; never inside `sealed`, which stands for
    something written in C."""
    strike = Strike(within, at, sealed)
    # What the garbage collector calls is no place of the function it happens to run in.
    gc.disable()
    sys.settrace(strike.trace)
    sys.setprofile(strike.profile)
    try:
        yield strike
    finally:
        sys.setprofile(None)
        sys.settrace(None)
        gc.enable()
