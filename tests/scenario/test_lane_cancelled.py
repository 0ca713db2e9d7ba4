"""A task that is cancelled while it takes or gives back a lane leaves none held (contract 02 §5, 01 §13).

The holder is a living process, so nobody else could have the session before the lease expires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.driving import S, unseen
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, LashSession, LeaseTimings, SessionConfigPatch
from lash_cli.core.ingress import BySourceKey
from lash_cli.runtime import lane


class AnswerLost:
    """The store does what it is asked, or with `is_dropped` does not, and its answer never comes."""

    def __init__(self, core: LashCore, name: str, *, is_dropped: bool = False) -> None:
        self.reached = asyncio.Event()
        self._store, self._name = core.store, name
        self._ask = getattr(core.store, name)
        self._is_dropped = is_dropped
        setattr(core.store, name, self)

    async def __call__(self, *arguments: Any, **options: Any) -> Any:
        setattr(self._store, self._name, self._ask)
        if not self._is_dropped:
            await self._ask(*arguments, **options)
        self.reached.set()
        await asyncio.Event().wait()


async def a_pass(session: LashSession) -> None:
    await session.drain_once(unseen)


async def a_command(session: LashSession) -> None:
    await session.cancel_pending_turn_input_suffix(BySourceKey("host:first"))
    await session.commands().reset("why", "k")
    await session.drain_once(unseen)


async def a_change(session: LashSession) -> None:
    await session.configure(SessionConfigPatch(max_turns=3))


@pytest.mark.parametrize(
    ("work", "name", "is_dropped"),
    [
        (a_pass, "open_lane", False),
        (a_pass, "open_lane", True),
        (a_pass, "commit_runtime_state", True),
        (a_pass, "claim_checkpoint_work", False),
        (a_command, "release_lease", True),
        (a_change, "try_claim_lease", False),
        (a_change, "try_claim_lease", True),
        (a_change, "release_lease", True),
    ],
)
async def test_a_cancelled_task_leaves_no_lane_held(
    make_core, work: Callable[[LashSession], Awaitable[None]], name: str, is_dropped: bool
) -> None:
    core = make_core(ScriptedCaller([text("said")], repeat=True), lease_timings=LeaseTimings(600_000, 200_000))
    session = await core.open_session(S)
    await session.enqueue("hello", id="first")
    lost = AnswerLost(core, name, is_dropped=is_dropped)
    task = asyncio.create_task(work(session))
    await lost.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await core.store.session_row(S)).lease.token is None

    other = await make_core(ScriptedCaller([text("said")], repeat=True)).open_session(S)
    await other.queued_turn().run()
    assert await other.pending_turn_inputs() == ()


@pytest.mark.parametrize(("work", "names"), [(a_pass, ["open_lane", "try_claim_lease"]), (a_change, ["release_lease"])])
async def test_a_cancelled_task_ends_although_the_store_answers_nobody(
    make_core, monkeypatch, work: Callable[[LashSession], Awaitable[None]], names: list[str]
) -> None:
    monkeypatch.setattr(lane, "CLEANING_S", 0.01)
    core = make_core(ScriptedCaller([text("said")], repeat=True))
    session = await core.open_session(S)
    await session.enqueue("hello")
    reached = asyncio.Event()

    async def never(*arguments: Any, **options: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    for name in names:
        monkeypatch.setattr(core.store, name, never)
    task = asyncio.create_task(work(session))
    await reached.wait()
    task.cancel()
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError):
            await task
    monkeypatch.undo()
