"""What the tests of more than one wire need: time-outs that run out when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.clock import LIMIT_S


@pytest.fixture
async def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it takes the event loop past every time-out of `LIMIT_S` that runs.

    None runs out before, and one that begins afterwards has all its time, however busy the machine is.
    """
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0

    def skip() -> None:
        nonlocal passed
        passed += LIMIT_S + 1

    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    return skip
