"""Whoever is told of a worker's work: a fault of theirs ends the worker, and is none of a session."""

from __future__ import annotations

import asyncio

import pytest
from support.driving import S
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, WorkOptions
from lash_cli.runtime.work_events import ActivityShown, LaneGivenUp, SessionLeft, SessionTaken, TurnEnded


def answering() -> ScriptedCaller:
    return ScriptedCaller([text("answered")], repeat=True)


async def with_text(core: LashCore) -> LashCore:
    """The core, with a session in whose queue a text waits."""
    (await core.open_session(S)).close_handle()
    await core.queue(S).enqueue("x")
    return core


@pytest.mark.parametrize("kind", [SessionTaken, ActivityShown, TurnEnded, SessionLeft])
async def test_a_worker_whose_listener_cancels_itself_ends_with_that(make_core, kind: type) -> None:
    told: list[object] = []

    async def leave(event: object) -> None:
        told.append(event)
        if isinstance(event, kind):
            raise asyncio.CancelledError("the listener is gone")

    core = await with_text(make_core(answering()))
    async with asyncio.timeout(30):
        with pytest.raises(asyncio.CancelledError, match="the listener is gone"):
            await core.worker(WorkOptions(until_empty=True), on_event=leave).run()
    assert sum(isinstance(event, kind) for event in told) == 1
    assert (await core.store.session_row(S)).lease.token is None


@pytest.mark.parametrize("kind", [SessionTaken, ActivityShown, TurnEnded, SessionLeft])
async def test_a_fault_of_the_listener_ends_the_worker_after_its_turn_and_holds_no_queue(make_core, kind: type) -> None:
    async def stumble(event: object) -> None:
        if isinstance(event, kind):
            raise RuntimeError("a fault of the listener")

    core = await with_text(make_core(answering()))
    async with asyncio.timeout(30):
        with pytest.raises(RuntimeError, match="a fault of the listener"):
            await core.worker(WorkOptions(until_empty=True), on_event=stumble).run()
    assert (await core.store.session_row(S)).meta.held_at_ms is None
    assert await core.store.unfinished_turns(S) == ()
    assert len(await core.queue(S).pending_inputs()) == (1 if kind is SessionTaken else 0)


async def test_a_fault_of_the_listener_between_turns_ends_the_worker(make_core) -> None:
    async def stumble(event: object) -> None:
        if isinstance(event, LaneGivenUp):
            raise RuntimeError("a fault of the listener")

    caller = answering()
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session(S)
    running = asyncio.create_task(session.turn("now").run())
    await caller.entered.wait()
    await session.enqueue("later")
    async with asyncio.timeout(30):
        with pytest.raises(RuntimeError, match="a fault of the listener"):
            await make_core(answering()).worker(WorkOptions(lease_wait_ms=1), on_event=stumble).run()
    caller.gate.set()
    await running


@pytest.mark.parametrize("kind", [SessionTaken, ActivityShown])
async def test_a_listener_that_makes_a_fault_of_its_cancellation_keeps_no_worker_from_ending(
    make_core, kind: type
) -> None:
    told = asyncio.Event()

    async def stumble(event: object) -> None:
        if isinstance(event, kind) and not told.is_set():
            told.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise RuntimeError("a fault of the listener") from None

    caller = answering()
    caller.gate = asyncio.Event()
    core = await with_text(make_core(caller))
    running = asyncio.create_task(core.worker(WorkOptions(until_empty=True), on_event=stumble).run())
    await told.wait()
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=10)
    caller.gate.set()
    assert done and running.cancelled()
    assert (await core.store.session_row(S)).meta.held_at_ms is None
