"""A wait that ends within the pass of the event loop in which its end was noticed.

A task that waits on a future goes on one pass later: the loop asks its selector
once more in between, which costs a process that wakes for a single event a
third of its work. What is awaited here is a future of asyncio in everything but
this: whoever the loop calls back can run the waiting task at once. One task
waits for it, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class PromptWait(asyncio.Future[T]):
    """Awaited by one task until `end_now` or `end_soon` gives it its result; cancelling the task ends it too."""

    # Whether a task waits: no more from the moment on in which the end is settled. Read at every ring.
    is_awaited = False
    # Kept here and not in the future, which would leave it to the next pass in any case.
    _go_on: Callable[[Any], object] | None = None
    _context: Context | None = None

    def end_now(self, result: T) -> None:
        """Run the waiting task, here. Only for what the loop itself calls back: there no other task is running, and
        nothing may be relied on after it, because the task may do anything."""
        if self.done():
            return
        try:
            self.set_result(result)
            self.is_awaited = False
        except BaseException:
            # Ctrl-C: the wait is over, and nobody else would tell its task.
            self._go_on_soon()
            raise
        if self._go_on is not None and self._context is not None:
            self._context.run(self._go_on, self)

    def end_soon(self, result: T) -> None:
        """Let the waiting task go on in the next pass of the loop."""
        if not self.done():
            self.set_result(result)
            self._go_on_soon()

    def _go_on_soon(self) -> None:
        self.is_awaited = False
        if self._go_on is not None:
            self.get_loop().call_soon(self._go_on, self, context=self._context)
            # What it wakes may be kept by its end, and all it worked with: whoever keeps this wait must not keep that.
            self._go_on = None

    def add_done_callback(self, go_on: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Take what makes the task go on; when it is over that is left to the next pass, as with any future."""
        self._go_on = go_on
        self._context = copy_context() if context is None else context
        self.is_awaited = not self.done()
        if not self.is_awaited:
            self._go_on_soon()

    def cancel(self, msg: Any = None) -> bool:
        """The task was cancelled; False when the wait was over before."""
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            self._go_on_soon()
        return is_cancelled
