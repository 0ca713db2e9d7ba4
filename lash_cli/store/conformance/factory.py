"""What a backend hands to the laws: handles of one storage, and the clock they share.

A backend's test module subclasses `StoreLaws` and provides two pytest fixtures.
`clock` is a `MovableClock`; `open_store` is an `OpenStore`: every call opens one
more handle of the same storage, as another process would, and the fixture closes
them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import pytest

from lash_cli.core.protocols import Clock
from lash_cli.store.base import RuntimePersistence


class MovableClock(Clock, Protocol):
    """A clock a test moves."""

    def tick(self, seconds: float) -> None:
        """Move time."""
        ...


OpenStore = Callable[[], RuntimePersistence]


class StoreLaws:
    """Base of the laws of a store: what the backend's fixtures gave to the law that runs."""

    open_store: OpenStore
    clock: MovableClock

    @pytest.fixture(autouse=True)
    def _given(self, open_store: OpenStore, clock: MovableClock) -> None:
        self.open_store, self.clock = open_store, clock


class CountingIds:
    """Ids in sequence and the same random bits every time, so that names collide on purpose."""

    def __init__(self) -> None:
        self._count = 0

    def new(self, prefix: str) -> str:
        """`prefix` and the next number."""
        self._count += 1
        return f"{prefix}_{self._count:026d}"

    def token(self) -> str:
        """The next number as a token."""
        return self.new("token")

    def bits(self, count: int) -> int:
        """The count of earlier calls, spread over the upper bits only: the first two names are equal."""
        self._count += 1
        return (self._count << 12) & ((1 << count) - 1)
