"""What a chat does beside everything else: shell lines, verbs, questions aside (contract 08 §7.2).

One after another, in the order they were asked for, and in no order with what
is sent. Each says that it takes long, or that it waits, and can be stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from lash_cli.errors import LashError
from lash_cli.views.safe_text import preview

# Whoever waits longer than this is told what for.
SLOW_SECONDS = 1.0
_SHOWN_CHARS = 60


class Asides:
    """The asides of one chat. `tell` and `tell_error` put a note and an error on its screen; `on_end` is called when
    one is over."""

    def __init__(
        self, tell: Callable[[str], None], tell_error: Callable[[LashError], None], on_end: Callable[[], None]
    ) -> None:
        self._tell = tell
        self._tell_error = tell_error
        self._on_end = on_end
        self._queue: asyncio.Queue[tuple[Coroutine[Any, Any, None], str, bool]] = asyncio.Queue()
        self._running: asyncio.Task[None] | None = None
        self._what = ""

    @property
    def is_running(self) -> bool:
        """Whether there is something to stop."""
        return self._running is not None

    def call(self, work: Coroutine[Any, Any, None], what: str, *, has_terminal: bool = False) -> None:
        """Have `work`, which people know as `what`, done after what was called before it. What `has_terminal` is seen,
        and stopped there."""
        what = preview(what, _SHOWN_CHARS)
        if self.is_running:
            self._tell(f"{what} waits until {self._what} ended")
        self._queue.put_nowait((work, what, has_terminal))

    def stop(self) -> None:
        """Stop what runs, and go on with the next."""
        if self._running is not None:
            self._running.cancel()

    async def run(self) -> None:
        """Do what is called until the caller cancels, which stops it; raises what is no `LashError`."""
        loop = asyncio.get_running_loop()
        while True:
            work, self._what, has_terminal = await self._queue.get()
            said = f"{self._what} runs; Ctrl-C stops it, where there is no draft and no turn"
            slow = None if has_terminal else loop.call_later(SLOW_SECONDS, self._tell, said)
            running = self._running = loop.create_task(work)
            try:
                await asyncio.wait({running})
            finally:
                if slow is not None:
                    slow.cancel()
                running.cancel()
                await asyncio.wait({running})
                self._running = None
            if running.cancelled():
                self._tell(f"{self._what} was stopped")
            elif isinstance(error := running.exception(), LashError):
                self._tell_error(error)
            elif error is not None:
                raise error
            self._on_end()

    def close(self) -> None:
        """Drop what was not begun."""
        while not self._queue.empty():
            self._queue.get_nowait()[0].close()
