"""Cancelling at every step of the event loop.

The steps of every task are counted, so a run is cancelled before its first
step, before its second, and so on until a run ends before its turn comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

MOST_STEPS = 2_000


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that reports each of its steps before it takes it."""

    def __init__(self, inner: Coroutine[Any, Any, Any], step: Callable[[], None]) -> None:
        self._inner = inner
        self._step = step

    def send(self, value: Any) -> Any:
        self._step()
        return self._inner.send(value)

    def throw(self, *raised: Any) -> Any:
        self._step()
        return self._inner.throw(*raised)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()


@contextmanager
def _steps(step: Callable[[], None]) -> Iterator[None]:
    """Within the block every new task reports its steps."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, inner, **named: asyncio.Task(_Counted(inner, step), loop=loop, **named))  # type: ignore[arg-type]
    try:
        yield
    finally:
        loop.set_task_factory(None)


async def cancelled_at(work: Awaitable[Any], at: frozenset[int], *, every_task: bool) -> bool:
    """Run `work`, cancelling it (or every task but the caller's) before the steps `at`; whether all of them came."""
    caller = asyncio.current_task()
    taken = 0

    def step() -> None:
        nonlocal taken
        taken += 1
        if taken not in at:
            return
        for task in asyncio.all_tasks() if every_task else {running}:
            if task is not caller:
                task.cancel()

    with _steps(step):
        running = asyncio.ensure_future(work)
        await asyncio.wait({running}, timeout=30)
    assert running.done(), f"a run cancelled at step {sorted(at)} never ended"
    if not running.cancelled() and running.exception() is not None:
        raise running.exception() or AssertionError
    return taken >= max(at)


async def settle() -> None:
    """Wait for what a cancelled run left behind to end by itself."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=30)
    assert not asyncio.all_tasks() - {asyncio.current_task()}
