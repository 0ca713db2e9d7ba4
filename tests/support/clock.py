"""A clock and a cancel flag that tests move by hand.

`ManualClock` implements `core.protocols.Clock`: time stands still until
`advance`, or, with `auto_advance=True`, every sleep moves time to its end at
once. `slept` lists the seconds of every sleep that was asked for.
"""

from __future__ import annotations

import asyncio

SETTLE_STEPS = 50
# A time-out that no machine reaches by being busy; where one is to run out, a test moves the time of the loop past it.
LIMIT_S = 30.0


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(SETTLE_STEPS):
        await asyncio.sleep(0)


class ManualClock:
    """Time under the control of a test."""

    def __init__(self, now_ms: int = 1_700_000_000_000, *, auto_advance: bool = False) -> None:
        self.auto_advance = auto_advance
        self.slept: list[float] = []
        self._now_ms = float(now_ms)
        self._monotonic = 1_000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._arrival: asyncio.Event | None = None

    def now_ms(self) -> int:
        """Wall time in epoch milliseconds."""
        return round(self._now_ms)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    @property
    def sleeping(self) -> int:
        """How many tasks sleep."""
        return sum(1 for _, wake in self._sleepers if not wake.done())

    async def sleep(self, seconds: float) -> None:
        """Suspend until the time was advanced by `seconds`."""
        self.slept.append(seconds)
        if self.auto_advance or seconds <= 0:
            self.tick(max(0.0, seconds))
            await asyncio.sleep(0)
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic + seconds, wake))
        if self._arrival is not None:
            self._arrival.set()
        await wake

    def tick(self, seconds: float) -> None:
        """Move time and wake who is due, without letting anyone run yet."""
        self._monotonic += seconds
        self._now_ms += seconds * 1000
        due = [entry for entry in self._sleepers if entry[0] <= self._monotonic + 1e-9]
        self._sleepers = [entry for entry in self._sleepers if entry not in due]
        for _, wake in sorted(due, key=lambda entry: entry[0]):
            if not wake.done():
                wake.set_result(None)

    def jump(self, seconds: float) -> None:
        """Set the wall by `seconds`, back as well; who sleeps does not sleep shorter or longer for it."""
        self._now_ms += seconds * 1000

    async def advance(self, seconds: float) -> None:
        """Move time by `seconds`, stopping at every wake-up on the way so that tasks see their own moment."""
        target = self._monotonic + seconds
        while True:
            await settle()
            ends = [end for end, wake in self._sleepers if not wake.done() and end <= target]
            if not ends:
                break
            self.tick(max(0.0, min(ends) - self._monotonic))
        self.tick(max(0.0, target - self._monotonic))
        await settle()

    async def wait_for_sleepers(self, count: int = 1) -> None:
        """Return once at least `count` tasks sleep."""
        while self.sleeping < count:
            self._arrival = asyncio.Event()
            await self._arrival.wait()


class ManualCancel:
    """A `core.protocols.CancelSignal` that a test sets."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def is_set(self) -> bool:
        """Whether cancellation was requested."""
        return self._event.is_set()

    def set(self) -> None:
        """Request cancellation."""
        self._event.set()

    async def wait(self) -> None:
        """Return once cancellation is requested."""
        await self._event.wait()
