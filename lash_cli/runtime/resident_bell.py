"""The doorbell of a session that only this process holds: no socket, no polling (contract 04 §5).

Nothing can happen there that does not ring, on whatever thread it happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

Listen = Callable[[Callable[[], None]], Callable[[], None]]


class ResidentBell:
    """Rings in the running loop whenever `listen` calls back; see `runtime.bells.Bell`. Make it where it is waited
    on."""

    def __init__(self, listen: Listen) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._stop: Callable[[], None] | None = listen(self._ring)

    def _ring(self) -> None:
        # A loop that has ended waits for nothing, and what rings is a turn that must not notice.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, *, is_busy: bool) -> None:
        """Return when it has rung since the last wait; it carries nothing. Cancelling loses no ring."""
        await self._event.wait()
        self._event.clear()

    def close(self) -> None:
        """Stop listening; whoever waits goes on. May be repeated."""
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()
            self._event.set()
