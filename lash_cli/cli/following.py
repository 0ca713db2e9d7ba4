"""Commands that go on until they are told to stop: `ls --watch` and `log --follow` (contract 08 §5.1, §6.4).

Three things end them: a signal (128 plus its number), a reader that went away
(141), and an error. stdout has one writer thread, so a stalled reader cannot
keep a signal from being seen; what the command reads waits for what it wrote,
so a slow reader loses nothing and costs no memory. A reader that leaves a pipe
is noticed at once, also while nothing happens.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from lash_cli.cli.documents import Document
from lash_cli.cli.exit_status import CLOSED_STDOUT_EXIT
from lash_cli.cli.failure import error_document
from lash_cli.cli.invocation import current
from lash_cli.cli.signals import SignalState, interrupted_before, turn_signals
from lash_cli.cli.turn_stream import OutputPump, StreamLines
from lash_cli.errors import LashError, UsageError
from lash_cli.system import SystemClock, is_write_end
from lash_cli.views.safe_text import ascii_text

T = TypeVar("T")


class Stoppable(ABC):
    """What goes on until it is told to stop: somebody to write to, and the word to stop."""

    # Why it ended when it was told to.
    stopped_by = "signal"

    def __init__(self) -> None:
        self._over = asyncio.Event()

    def stop(self) -> None:
        """End it; what it waits for is given up."""
        self._over.set()

    @property
    def is_over(self) -> bool:
        """Whether it was told to stop, or nobody is there any more."""
        return self._over.is_set()

    @property
    def exit_status(self) -> int:
        """What it being told to stop stands for."""
        return 0

    @abstractmethod
    async def write(self, text: str) -> None:
        """Return when the reader has `text`."""

    async def until(self, event: Awaitable[Any], seconds: float | None = None) -> None:
        """Wait for `event`, at most `seconds`; returns at once when it is over, and `event` is given up then. Raises
        what `event` raises."""
        awaited, over = asyncio.ensure_future(event), asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((awaited, over), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if awaited.done():
                awaited.result()
        finally:
            awaited.cancel()
            over.cancel()
            await asyncio.gather(awaited, over, return_exceptions=True)

    async def rest(self, seconds: float) -> None:
        """Do nothing for `seconds`, or until it is over."""
        await self.until(asyncio.sleep(seconds))


class Following(Stoppable):
    """What such a command writes to and waits on. Made by `following`."""

    def __init__(self, pump: OutputPump) -> None:
        super().__init__()
        self._pump = pump
        self.signals = SignalState()

    @property
    def is_over(self) -> bool:
        """Whether a signal came or the reader left."""
        return super().is_over or self._pump.is_closed

    @property
    def exit_status(self) -> int:
        """128 plus the signal, which a reader that left may have had too; 141 without a reader, else 0."""
        return self.signals.exit_status or (CLOSED_STDOUT_EXIT if self._pump.is_closed else 0)

    def left(self) -> None:
        """The reader went away."""
        self._pump.is_closed = True
        self.stop()

    async def write(self, text: str) -> None:
        """Write `text` and return as `drained` does. A reader that keeps up costs no change of thread."""
        if not self._pump.write_at_once(_shown(text)):
            await self.drained()

    def put(self, text: str) -> None:
        """Queue `text`."""
        self._pump.write(_shown(text))

    async def drained(self) -> None:
        """Return when everything queued was written, or nobody reads it any more; raises the `OSError` of a failed
        write."""
        await self._pump.drained()

    async def told_as(self, error: Exception) -> LashError:
        """See `OutputPump.told_as`."""
        return await self._pump.told_as(error)


def _shown(text: str) -> str:
    return ascii_text(text) if current().output.ascii and not text.isascii() else text


class FollowLines:
    """A JSONL stream that follows something: `stream_start` first, `stream_end` always last."""

    def __init__(self, following: Following, mode: str) -> None:
        options = current().output
        self._lines = StreamLines(following.put, now_ms=SystemClock().now_ms, ascii_only=options.ascii)
        self._mode = mode
        self.line = self._lines.line
        self.gap = self._lines.gap

    def start(self, session_id: str | None = None, session_name: str | None = None, begun: str | None = None) -> None:
        """Write `stream_start`; `begun` is the cursor asked for."""
        self._lines.start(self._mode, session_id, session_name=session_name, begun=begun)

    def end(self, session_id: str | None, following: Following, error: LashError | None) -> None:
        """Write `stream_end`, once."""
        status = error.exit_status if error is not None else following.exit_status
        reason = "signal" if error is None else "error"
        document: Document | None = error_document(error) if error is not None else None
        self._lines.end(session_id, None, reason, status, document)


@asynccontextmanager
async def following() -> AsyncIterator[Following]:
    """Signals and the reader of stdout are watched while inside; a second signal kills."""
    sys.stdout.flush()
    descriptor = sys.stdout.fileno()
    state = Following(OutputPump(descriptor))
    with turn_signals(state.stop) as state.signals, watched_reader(descriptor, state.left):
        await interrupted_before()
        try:
            yield state
        finally:
            await state.drained()


@contextmanager
def watched_reader(descriptor: int, on_left: Callable[[], None]) -> Iterator[None]:
    """While inside, call `on_left` in the running loop, once, when the reader of a pipe goes away. Other files have
    nobody who could, and tell it when they are written."""
    if not is_write_end(descriptor):
        yield
        return
    loop = asyncio.get_running_loop()

    def left() -> None:
        loop.remove_reader(descriptor)
        on_left()

    loop.add_reader(descriptor, left)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


async def while_read(waiting: Coroutine[Any, Any, T]) -> T:
    """What `waiting` returns or raises.

    When the reader of stdout leaves meanwhile nobody waits any more: `waiting`,
    which must leave nothing half done, is cancelled. Raises `BrokenPipeError` then.
    """
    awaited = asyncio.ensure_future(waiting)
    has_left = False

    def left() -> None:
        nonlocal has_left
        has_left = True
        awaited.cancel()

    with watched_reader(sys.stdout.fileno(), left):
        try:
            return await awaited
        except asyncio.CancelledError:
            if not has_left:
                raise
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def require_stream_format(option: str) -> bool:
    """Whether JSON lines are asked for. Raises `UsageError` for a form that cannot go on without end."""
    options = current().output
    if options.format in ("json", "name") or options.is_chosen_from:
        raise UsageError(
            f"{option} goes on without end and prints text or JSON lines",
            hint=f"use {option} with -o jsonl, and without --fields and --format",
        )
    return options.is_stream
