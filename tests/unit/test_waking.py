"""A wait that ends within the pass of the loop that ended it (`runtime.waking`)."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from lash_cli.runtime.waking import PromptWait

who: ContextVar[str] = ContextVar("who", default="nobody")


def waiting(told: list[str]) -> tuple[PromptWait[str], asyncio.Task[None]]:
    """A task that waits, and says when it goes on."""
    wait: PromptWait[str] = PromptWait(loop=asyncio.get_running_loop())

    async def go() -> None:
        who.set("the task")
        try:
            brought = await wait
        except asyncio.CancelledError:
            told.append("cancelled")
            raise
        told.append(f"went on as {who.get()} with {brought}")

    return wait, asyncio.ensure_future(go())


async def test_the_task_goes_on_before_anything_else_the_loop_has_to_do_and_in_its_own_context() -> None:
    told: list[str] = []
    wait, task = waiting(told)
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    loop.call_soon(wait.end_now, "news")
    loop.call_soon(told.append, "something else")
    await task
    await asyncio.sleep(0)
    assert told == ["went on as the task with news", "something else"]


async def test_a_running_task_ends_the_wait_of_another_in_the_next_pass() -> None:
    told: list[str] = []
    wait, task = waiting(told)
    await asyncio.sleep(0)
    wait.end_soon("news")
    wait.end_soon("news")
    assert told == []
    await task
    assert told == ["went on as the task with news"]


@pytest.mark.parametrize("end", [PromptWait.end_now, PromptWait.end_soon])
async def test_what_is_over_is_not_waited_for(end) -> None:
    told: list[str] = []
    wait, task = waiting(told)
    end(wait, "news")
    await task
    assert told == ["went on as the task with news"]


@pytest.mark.parametrize("ends_too", [False, True])
async def test_a_cancelled_task_is_cancelled_once_whatever_ends_its_wait_meanwhile(ends_too: bool) -> None:
    told: list[str] = []
    wait, task = waiting(told)
    await asyncio.sleep(0)
    task.cancel()
    if ends_too:
        wait.end_soon("news")
        asyncio.get_running_loop().call_soon(wait.end_now, "news")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["cancelled"]


async def test_a_task_cancelled_after_its_wait_ended_goes_on_and_is_cancelled_at_its_next_wait() -> None:
    told: list[str] = []
    wait, task = waiting(told)
    await asyncio.sleep(0)
    wait.end_soon("news")
    assert not wait.cancel()
    await task
    assert told == ["went on as the task with news"]


async def test_a_time_out_ends_the_wait_and_nothing_of_it_is_left() -> None:
    wait: PromptWait[str] = PromptWait(loop=asyncio.get_running_loop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await wait
    wait.end_now("news")


async def test_what_the_task_raises_is_the_tasks() -> None:
    wait: PromptWait[str] = PromptWait(loop=asyncio.get_running_loop())

    async def go() -> None:
        await wait
        raise ValueError("mine")

    task = asyncio.ensure_future(go())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(wait.end_now, "news")
    with pytest.raises(ValueError, match="mine"):
        await task


@pytest.mark.parametrize("is_over", [False, True])
async def test_it_is_waited_for_with_everything_asyncio_waits_with(is_over: bool) -> None:
    for wait_for_it in (
        lambda wait: asyncio.wait_for(wait, 30),
        lambda wait: asyncio.wait((wait,)),
        lambda wait: asyncio.gather(wait),
        asyncio.shield,
    ):
        wait: PromptWait[str] = PromptWait(loop=asyncio.get_running_loop())
        end = asyncio.get_running_loop().call_soon
        if is_over:
            wait.end_now("news")
        else:
            end(end, wait.end_now, "news")
        async with asyncio.timeout(30):
            await wait_for_it(wait)
        assert wait.result() == "news"
