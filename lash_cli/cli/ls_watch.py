"""`lash ls --watch`: the sessions of a store as they change (contract 08 §5.1, §8).

Nothing is taken or written. The store is read when somebody has committed, at
most twice a second and never for more than a small part of the time, and now
and then because a holder can die without writing. A terminal gets one screen;
everything else gets JSON lines with what changed.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from lash_cli.cli.documents import Document
from lash_cli.cli.following import Following, FollowLines, following, require_stream_format
from lash_cli.cli.invocation import current
from lash_cli.cli.reading import reading_store
from lash_cli.cli.signals import given_back, handling, suspending, write_at_once
from lash_cli.errors import LashError
from lash_cli.store.base import RuntimePersistence
from lash_cli.system import SystemClock
from lash_cli.views.watch import in_order, watch_lines

# Two screens a second at most.
SHORTEST_LOOK_S = 0.5
# How often the change mark is asked for; that costs microseconds.
_MARK_S = 0.25
# Without a change: a dead holder shows after the first, ages are kept true by the second.
_LOOK_WHILE_RUNNING_S = 1.0
_LOOK_WHILE_QUIET_S = 10.0
# Reading may take this part of the time, however many sessions there are.
_MOST_OF_THE_TIME = 0.05
_ABSENT_S = 0.5

_SCREEN = "\x1b[?1049h\x1b[?25l"
_LEAVE_SCREEN = "\x1b[?25h\x1b[?1049l"
_HOME = "\x1b[H"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"

ListSessions = Callable[[RuntimePersistence], Awaitable[list[Document]]]


async def watch_sessions(listing: ListSessions, limit: int) -> int:
    """Show what `listing` gives until told to stop; the exit status. `limit` 0 shows all. Raises what it raises."""
    wants_lines = require_stream_format("--watch") or not sys.stdout.isatty()
    error: LashError | None = None
    async with following() as state:
        shown: _Lines | _Plain | _Screen
        if wants_lines:
            shown = _Lines(state)
        elif current().output.plain:
            shown = _Plain(state)
        else:
            shown = _Screen(state)
        with handling({signal.SIGWINCH: shown.touch}), shown.open():
            try:
                while not state.is_over:
                    await _watch_store(state, listing, limit, shown)
            except Exception as failure:  # noqa: BLE001 - told by the last line, and raised when that is written
                error = await state.told_as(failure)
            shown.close(error)
    if error is not None:
        raise error
    return state.exit_status


async def _watch_store(state: Following, listing: ListSessions, limit: int, shown: _Lines | _Plain | _Screen) -> None:
    """Watch the store while there is one; without one, show that nothing is there and return after a while."""
    async with reading_store() as store:
        if store is None:
            await shown.show([], 0)
            await state.rest(_ABSENT_S)
            return
        loop = asyncio.get_running_loop()
        mark: int | None = None
        looked_at = earliest = patience = 0.0
        while not state.is_over:
            # The mark is read before the look: what is committed in between is looked at again.
            present = await store.change_mark()
            now = loop.time()
            if now >= earliest and (present != mark or now - looked_at >= patience or shown.is_stale):
                mark, looked_at = present, now
                items = in_order(await listing(store))
                await shown.show(items[:limit] if limit else items, len(items))
                earliest = now + max(SHORTEST_LOOK_S, (loop.time() - now) / _MOST_OF_THE_TIME)
                is_running = any(item["lease"] is not None for item in items)
                patience = _LOOK_WHILE_RUNNING_S if is_running else _LOOK_WHILE_QUIET_S
            await state.until(shown.touched.wait(), _MARK_S)
            shown.touched.clear()


class _Plain:
    """A terminal that is not to be steered: the table again whenever it changed."""

    def __init__(self, state: Following) -> None:
        self._state = state
        self._last: list[str] | None = None
        self.is_stale = False
        self.touched = asyncio.Event()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Nothing is prepared."""
        yield

    def touch(self) -> None:
        """Draw again, because the terminal changed."""
        self.is_stale = True
        self.touched.set()

    async def show(self, items: list[Document], total: int) -> None:
        """Draw if there is something new to see."""
        self.is_stale = False
        lines = self._drawn(items, total)
        if lines != self._last:
            self._last = lines
            await self._state.write(self._framed(lines))

    def _drawn(self, items: list[Document], total: int) -> list[str]:
        options = current().output
        width, _ = shutil.get_terminal_size()
        now_ms = SystemClock().now_ms()
        return watch_lines(items, total=total, now_ms=now_ms, width=width, height=None, ascii_only=options.ascii)

    def _framed(self, lines: list[str]) -> str:
        return "\n".join(lines) + "\n\n"

    def close(self, error: LashError | None) -> None:
        """The last table stays."""


class _Screen(_Plain):
    """A terminal: one screen of its own, given back at the end."""

    @contextmanager
    def open(self) -> Iterator[None]:
        """Take a screen, and give it back however this ends, and while it is suspended."""
        is_suspended = False

        def give_back() -> None:
            write_at_once(sys.stdout.fileno(), _LEAVE_SCREEN)

        def suspended() -> None:
            nonlocal is_suspended
            is_suspended = True

        def resumed() -> None:
            nonlocal is_suspended
            if is_suspended:
                is_suspended = False
                self._state.put(_SCREEN)
                self.touch()

        with given_back(give_back), handling(suspending(suspended, resumed)):
            self._state.put(_SCREEN)
            try:
                yield
            finally:
                self._state.put(_LEAVE_SCREEN)

    def touch(self) -> None:
        """See `_Plain.touch`; what a resize left on the screen is wiped."""
        self._last = None
        super().touch()

    def _drawn(self, items: list[Document], total: int) -> list[str]:
        options = current().output
        width, height = shutil.get_terminal_size()
        return watch_lines(
            items,
            total=total,
            now_ms=SystemClock().now_ms(),
            width=width,
            height=height,
            color=options.color,
            ascii_only=options.ascii,
        )

    def _framed(self, lines: list[str]) -> str:
        # No line feed after the last line: on a full screen it would scroll.
        return _HOME + "\r\n".join(line + _CLEAR_LINE for line in lines) + _CLEAR_BELOW


class _Lines(_Plain):
    """JSON lines: a `session` for each that came, changed or went."""

    def __init__(self, state: Following) -> None:
        super().__init__(state)
        self._lines = FollowLines(state, "ls")
        self._known: dict[str, Document] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """Begin the stream."""
        self._lines.start()
        yield

    async def show(self, items: list[Document], total: int) -> None:
        """Write the differences to the last look."""
        self.is_stale = False
        known, self._known = self._known, {item["id"]: item for item in items}
        for item in items:
            before = known.pop(item["id"], None)
            if before is None:
                self._write("added", item)
            elif _lasting(before) != _lasting(item):
                self._write("changed", item)
        for gone in known.values():
            self._write("removed", gone)
        await self._state.drained()

    def _write(self, change: str, item: Document) -> None:
        self._lines.line("session", item["id"], None, {"change": change, "item": item})

    def close(self, error: LashError | None) -> None:
        """End the stream."""
        self._lines.end(None, self._state, error)


def _lasting(item: Document) -> Document:
    """A session without what changes by the mere passing of time: a lease that is renewed is no news."""
    lease = item["lease"]
    return item if lease is None else {**item, "lease": {**lease, "expires_at": None, "expires_in_ms": None}}
