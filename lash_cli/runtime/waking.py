"""A wait that ends within the pass of the event loop in which its end was noticed.

A task that waits on a future goes on one pass later: the loop asks its selector
once more in between, which costs a process that wakes for a single event a
third of its work. What is awaited here lets whoever the loop calls back run the
waiting task at once. It follows the protocol of futures that `asyncio.isfuture`
names, as far as a task needs it: awaited once, by one task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context


class PromptWait:
    """Awaited by one task until `end_now` or `end_soon`; cancelling the task ends it too."""

    __slots__ = ("_asyncio_future_blocking", "_context", "_go_on", "_is_cancelled", "_is_over", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._go_on: Callable[[PromptWait], object] | None = None
        self._context: Context | None = None
        self._is_cancelled = False
        self._is_over = False

    def end_now(self) -> None:
        """Run the waiting task, here. Only for what the loop itself calls back: there no other task is running, and
        nothing may be relied on after it, because the task may do anything."""
        if self._is_over:
            return
        self._is_over = True
        if self._go_on is not None and self._context is not None:
            self._context.run(self._go_on, self)

    def end_soon(self) -> None:
        """Let the waiting task go on in the next pass of the loop."""
        if self._is_over:
            return
        self._is_over = True
        if self._go_on is not None:
            self._loop.call_soon(self._go_on, self, context=self._context)

    # --- what a task asks of what it waits on -------------------------------------------------

    def __await__(self) -> Generator[PromptWait, None, None]:
        if not self._is_over:
            self._asyncio_future_blocking = True
            yield self
        self.result()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the task that may wait."""
        return self._loop

    def add_done_callback(self, go_on: Callable[[PromptWait], object], *, context: Context) -> None:
        """Take what makes the task go on."""
        self._go_on, self._context = go_on, context

    def cancel(self, msg: object = None) -> bool:
        """The task was cancelled; False when the wait was over before."""
        if self._is_over:
            return False
        self._is_cancelled = True
        self.end_soon()
        return True

    def result(self) -> None:
        """Nothing; raises `CancelledError` when the wait was cancelled."""
        if self._is_cancelled:
            raise asyncio.CancelledError
