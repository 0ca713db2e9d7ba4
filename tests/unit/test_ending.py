"""Ending a task one started (`runtime.ending`)."""

from __future__ import annotations

import asyncio
import gc

import pytest

from lash_cli.runtime.ending import end, tidied


class Slow:
    """A task that takes its time to clean up once it is cancelled."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.is_cleaning = asyncio.Event()
        self.may_end = asyncio.Event()
        self.has_cleaned = False
        self._failure = failure
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.is_cleaning.set()
            await self.may_end.wait()
            self.has_cleaned = True
            if self._failure is not None:
                raise self._failure


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("failure", [None, ValueError("its own")])
async def test_who_is_cancelled_while_ending_a_task_is_cancelled_once_the_task_has_cleaned_up(
    failure: Exception | None, times: int
) -> None:
    slow = Slow(failure)
    await asyncio.sleep(0)
    ending = asyncio.ensure_future(end(slow.task))
    await slow.is_cleaning.wait()
    for _ in range(times):
        ending.cancel()
        await asyncio.sleep(0)
    assert not ending.done() and not slow.task.done()
    slow.may_end.set()
    with pytest.raises(asyncio.CancelledError) as raised:
        await ending
    assert slow.has_cleaned and raised.value.__cause__ is failure


async def test_a_time_limit_of_who_ends_a_task_is_kept_in_mind() -> None:
    slow = Slow()
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, slow.may_end.set)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await end(slow.task)
    assert slow.has_cleaned


async def test_a_task_that_fails_while_it_cleans_up_fails_who_ends_it() -> None:
    slow = Slow(ValueError("its own"))
    await asyncio.sleep(0)
    slow.may_end.set()
    with pytest.raises(ValueError, match="its own"):
        await end(slow.task)


async def test_a_task_that_is_over_is_not_waited_for() -> None:
    slow = Slow()
    slow.task.cancel()
    await asyncio.wait((slow.task,))
    await end(slow.task)
    assert slow.task.cancelled()


async def test_what_is_owed_is_put_away_when_everything_is_cancelled_before_it_begins(
    recwarn: pytest.WarningsRecorder,
) -> None:
    async def owed() -> None:
        """Never begun."""

    owing = asyncio.create_task(tidied(owed(), within_s=1.0))
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(others) == 2
    for task in others:
        task.cancel()
    await asyncio.wait(others)
    assert owing.cancelled()
    del owing, others, task
    gc.collect()
    assert not recwarn.list
