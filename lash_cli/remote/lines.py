"""Lines between this process and the one that started it, over two descriptors (contract 08 §1.1, §6.5).

Reading and writing each have a thread, because a descriptor may be a pipe, a
file or a terminal and only threads take them all; whether it blocks is for
others to say. The reader holds at most a few lines that nobody asked for yet,
so a peer that writes without end waits; a line that is too long is told as an
error and skipped. The writer never makes its caller wait; that the reader of a
pipe went away is noticed at once, also while there is nothing to write.
"""

from __future__ import annotations

import asyncio
import os
import queue
import select
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final

from lash_cli.errors import LashError, UsageError
from lash_cli.system import in_a_thread, is_write_end

MAX_LINE_BYTES: Final = 32 * 1024 * 1024
_CHUNK: Final = 65_536
_AHEAD: Final = 64


class LineReader:
    """The lines of a descriptor."""

    def __init__(self, descriptor: int, *, limit: int = MAX_LINE_BYTES) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._lines: asyncio.Queue[bytes | LashError | None] = asyncio.Queue()
        self._ahead = threading.Semaphore(_AHEAD)
        self._loop = asyncio.get_running_loop()

    async def lines(self) -> AsyncIterator[bytes | LashError]:
        """Every line without its end, and an error for each that was too long, until the end or `stop`."""
        threading.Thread(target=self._run, name="lash-stdin", daemon=True).start()
        while (line := await self._lines.get()) is not None:
            self._ahead.release()
            yield line

    def stop(self) -> None:
        """Let `lines` end; what was not asked for yet is dropped."""
        while not self._lines.empty():
            self._lines.get_nowait()
        self._lines.put_nowait(None)

    def _run(self) -> None:
        held = bytearray()
        is_skipping = False
        while chunk := self._read():
            for number, piece in enumerate(chunk.split(b"\n")):
                if number:  # before it a line ended
                    if not is_skipping:
                        self._give(bytes(held))
                    held.clear()
                    is_skipping = False
                if not is_skipping:
                    held += piece
                if len(held) > self._limit:
                    self._give(self._too_long())
                    held.clear()
                    is_skipping = True
        if held:
            self._give(bytes(held))
        self._give(None)

    def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._descriptor, _CHUNK)
            except BlockingIOError:
                _wait_for(self._descriptor, select.POLLIN)
            except OSError:
                return b""  # a terminal that hung up has said everything it will

    def _too_long(self) -> LashError:
        return UsageError(f"a line is longer than {self._limit} bytes and was skipped", code="request_too_large")

    def _give(self, line: bytes | LashError | None) -> None:
        self._ahead.acquire()
        try:
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
        except RuntimeError:
            return  # the loop is closed: nobody reads any more


class LineWriter:
    """Whole lines to a descriptor, in the order in which they are given."""

    def __init__(self, descriptor: int, *, on_closed: Callable[[], None]) -> None:
        """`on_closed` is called once, on the loop, when the peer went away."""
        self._descriptor = descriptor
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._items: queue.SimpleQueue[bytes | asyncio.Future[None] | None] = queue.SimpleQueue()
        self.is_closed = False
        self._has_told = False
        self._thread = threading.Thread(target=self._run, name="lash-stdout", daemon=True)
        self._thread.start()
        self._is_watched = is_write_end(descriptor)
        if self._is_watched:
            self._loop.add_reader(descriptor, self._left)

    def write(self, text: str) -> None:
        """Queue `text`; never blocks."""
        self._items.put(text.encode("utf-8", "backslashreplace"))

    async def flush(self) -> None:
        """Return when what was queued is written, or nobody reads it any more."""
        written = self._loop.create_future()
        self._items.put(written)
        await written

    async def close(self) -> None:
        """Write what is queued, and end."""
        self._items.put(None)
        await in_a_thread(self._thread.join)
        self._unwatch()

    def _left(self) -> None:
        """The peer went away. On the loop."""
        self._unwatch()
        if not self._has_told:
            self._has_told = self.is_closed = True
            self._on_closed()

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._descriptor)

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            if isinstance(item, asyncio.Future):
                self._loop.call_soon_threadsafe(_settle, item)
            elif not self.is_closed:
                self._write_all(item)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:
                    _wait_for(self._descriptor, select.POLLOUT)
        except OSError:
            # A closed pipe or a full disk: either way the peer will not get it.
            self.is_closed = True
            self._loop.call_soon_threadsafe(self._left)


def _wait_for(descriptor: int, event: int) -> None:
    """Until a descriptor that does not block can be used, or can never be again."""
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
