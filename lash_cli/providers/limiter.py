"""How much one provider is asked at a time (contract 06 §3.4): in this process, for all sessions of a handle.

Three limits, each optional: requests in flight, requests per window, tokens per
window. Windows are fixed: one begins with the first request after the last one
ended. Whoever waits is served in the order of arrival: only the first in line
looks at the limits, so nobody small overtakes somebody large. A waiter that is
cancelled leaves the line, and a permit is given back on every way out. The line
is one for all event loops of the process; what a closed one left behind in it
counts no more.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from lash_cli.core.codec import Record
from lash_cli.core.llm import LlmRequest
from lash_cli.core.protocols import Clock

CHARS_PER_TOKEN = 4
# Of a loop that is closed nobody is told, and a task somebody still holds gives nothing back: who waits looks.
_LOOKS_AGAIN_SECONDS = 1.0


class RateLimits(Record):
    """What a provider may be asked; None is no limit."""

    max_concurrent: int | None = None
    requests_per_window: int | None = None
    tokens_per_window: int | None = None
    window_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_concurrent", "requests_per_window", "tokens_per_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.window_seconds > 0:
            raise ValueError(f"window_seconds must be above 0, got {self.window_seconds}")


class Permit:
    """The right to have one request in flight. A context manager; `release` may be called more than once."""

    __slots__ = ("_on_release",)

    def __init__(self, on_release: Callable[[], None] | None = None) -> None:
        self._on_release = on_release

    def release(self) -> None:
        """Give it back."""
        on_release, self._on_release = self._on_release, None
        if on_release is not None:
            on_release()

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


#: Held for the moment in which a line is changed; entered again where what is collected inside of it leaves one.
_guard = threading.RLock()


def _guard_anew() -> None:
    """In the child of a fork nobody changes a line, whatever a thread of the parent was doing."""
    global _guard
    _guard = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guard_anew)


class _Place:
    """Somebody in line, in the event loop it waits in."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.called = asyncio.Event()


class RateLimiter:
    """The line in front of one provider."""

    def __init__(self, limits: RateLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._process = os.getpid()
        self._line: deque[_Place] = deque()
        self._out: dict[Permit, asyncio.AbstractEventLoop] = {}
        self._window_ends = float("-inf")
        self._requests = 0
        self._tokens = 0

    @property
    def in_flight(self) -> int:
        """Permits that are out."""
        return len(self._out)

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    async def acquire_for(self, request: LlmRequest) -> Permit:
        """`acquire` for a request; its size is looked at only where tokens are limited."""
        return await self.acquire(estimated_tokens(request) if self._limits.tokens_per_window is not None else 0)

    async def acquire(self, tokens: int = 0) -> Permit:
        """Wait for a place, in the order of the calls. Cancelling the waiting task leaves the line.

        A request of more than `tokens_per_window` is let through at the
        beginning of a window, alone: it could never fit, and only the provider
        can say whether it accepts it.
        """
        place = _Place()
        with _guard:
            if self._process != os.getpid():  # a fork: whom the parent let through is no affair of its child
                self._process = os.getpid()
                self._line.clear()
                self._out.clear()
            self._line.append(place)
        try:
            while True:
                place.called.clear()
                admitted = self._admitted(place, tokens)
                if isinstance(admitted, Permit):
                    return admitted
                if admitted is None:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOKS_AGAIN_SECONDS):
                            await place.called.wait()
                else:
                    await self._clock.sleep(admitted)
        finally:
            with _guard:
                if place in self._line:
                    self._line.remove(place)
                self._call_first()

    def _admitted(self, place: _Place, tokens: int) -> Permit | float | None:
        """The permit where it is this one's turn and there is room; else the seconds until there may be, None until it
        is called."""
        limits = self._limits
        with _guard:
            self._forget_closed_loops()
            if self._line[0] is not place:
                return None
            if limits.max_concurrent is not None and len(self._out) >= limits.max_concurrent:
                return None
            now = self._clock.monotonic()
            if now >= self._window_ends:
                self._window_ends = now + limits.window_seconds
                self._requests = self._tokens = 0
            if not self._fits(tokens):
                return self._window_ends - now
            self._requests += 1
            self._tokens += tokens
            permit = Permit(lambda: self._give_back(permit))
            self._out[permit] = place.loop
            return permit

    def _fits(self, tokens: int) -> bool:
        limits = self._limits
        if limits.requests_per_window is not None and self._requests >= limits.requests_per_window:
            return False
        if limits.tokens_per_window is None or self._tokens == 0:
            return True
        return self._tokens + tokens <= limits.tokens_per_window

    def _give_back(self, permit: Permit) -> None:
        with _guard:
            self._out.pop(permit, None)
            self._call_first()

    def _call_first(self) -> None:
        """Have the first in line look again, in its own loop."""
        self._forget_closed_loops()
        if self._line:
            first = self._line[0]
            with suppress(RuntimeError):  # closed in this very moment: the next in line looks again
                first.loop.call_soon_threadsafe(first.called.set)

    def _forget_closed_loops(self) -> None:
        """Who waited in a loop that is closed comes no more, and gives nothing back."""
        while self._line and self._line[0].loop.is_closed():
            self._line.popleft()
        for permit, loop in self._out.copy().items():  # what is collected meanwhile gives back its own
            if loop.is_closed():
                self._out.pop(permit, None)


def estimated_tokens(request: LlmRequest) -> int:
    """A guess at the size of a request, from its characters (contract 06 §3.4); rounded up."""
    chars = len(request.system)
    for message in request.messages:
        for part in message.parts:
            chars += len(getattr(part, "content", "")) + len(getattr(part, "input_json", ""))
    return -(-chars // CHARS_PER_TOKEN)
