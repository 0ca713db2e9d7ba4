"""A task that is cancelled again while its turn is committed as cancelled waits for that all the same (01 §5.3, §6.6).

`asyncio.timeout` around a task that somebody stops does it, and so does whoever loses patience.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.driving import S
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, LashSession
from lash_cli.errors import StoreError


class SlowCommit:
    """A store that commits only when it may."""

    def __init__(self, core: LashCore) -> None:
        self.reached = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self._commit = core.store.commit_runtime_state
        core.store.commit_runtime_state = self  # type: ignore[method-assign]

    async def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.reached.set()
        await self.may_go_on.wait()
        return await self._commit(*arguments, **options)


async def run(session: LashSession) -> None:
    await session.turn("x").run()


async def stream(session: LashSession) -> None:
    async with session.turn("x").stream() as activities:
        async for _ in activities:
            pass


async def leave_a_stream(session: LashSession) -> None:
    async with session.turn("x").stream() as activities:
        await anext(activities)


@pytest.mark.parametrize("work", [run, stream, leave_a_stream])
async def test_a_second_cancel_of_the_calling_task_waits_for_the_commit_too(
    make_core, work: Callable[[LashSession], Awaitable[None]]
) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    commit = SlowCommit(core)
    running = asyncio.create_task(work(session))
    await caller.entered.wait()
    if work is not leave_a_stream:
        running.cancel()
    await commit.reached.wait()
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    is_waiting = not running.done()
    commit.may_go_on.set()
    assert is_waiting, "its turn was not committed"
    with pytest.raises(asyncio.CancelledError):
        await running
    assert session.read_view().turn_index == 1
    row = await core.store.session_row(S)
    assert (row.running_turn_id, row.lease.token) == (None, None)


async def test_a_core_is_closed_when_its_block_is_left_by_a_task_that_is_cancelled(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    commit = SlowCommit(core)

    async def leave() -> None:
        async with core:
            await caller.entered.wait()

    running = asyncio.create_task(run(session))
    leaving = asyncio.create_task(leave())
    await commit.reached.wait()
    for _ in range(2):
        leaving.cancel()
        await asyncio.sleep(0.01)
    assert not leaving.done()
    commit.may_go_on.set()
    await asyncio.wait({leaving, running}, timeout=30)
    assert leaving.cancelled() and running.done()
    with pytest.raises(StoreError):
        await core.store.session_row(S)
