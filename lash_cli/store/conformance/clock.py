"""A clock the laws move by hand; `core.protocols.Clock` without the wall.

The suite must not depend on the project's tests, so it brings its own.
"""

from __future__ import annotations

import asyncio

_START_MS = 1_700_000_000_000


class ManualClock:
    """Time stands still until `tick`; a sleep moves it to the sleep's end at once."""

    def __init__(self, now_ms: int = _START_MS) -> None:
        self._now_ms = now_ms
        self._monotonic = 0.0

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return self._now_ms

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Move time and let the other tasks run."""
        self.tick(max(0.0, seconds))
        await asyncio.sleep(0)

    def tick(self, seconds: float) -> None:
        """Move time."""
        self._monotonic += seconds
        self._now_ms += round(seconds * 1000)
