"""A turn that is over is gone at once: nothing of it waits in a circle for the garbage collector (contract 09 §6).

Kept in circles, what every turn showed would stay in memory until a full collection comes by, and a host of many
sessions would pay for those collections in every turn.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import pytest
from support.driving import S
from support.scripted import ScriptedCaller, calls, error, text
from support.tools import NamedTools

from lash_cli.api import ByInputId, LashCore, LashSession

TURNS = 5
Doing = Callable[[LashSession], Awaitable[object]]


async def _turn(session: LashSession) -> None:
    await session.turn("one").run()


async def _stream(session: LashSession) -> None:
    async with session.turn("one").stream() as stream:
        async for _ in stream:
            pass
        await stream.result()


async def _enqueue_and_drain(session: LashSession) -> None:
    await session.enqueue("one")
    await session.queued_turn().run()


async def _enqueue_and_cancel(session: LashSession) -> None:
    row = await session.enqueue("one")
    await session.cancel_pending_turn_inputs([ByInputId(row.input_id)])


async def _left_by(doing: Doing, session: LashSession, times: int) -> list[str]:
    """What only the garbage collector frees after `doing` it."""
    flags = gc.get_debug()
    await doing(session)  # what comes once: threads, caches, the first row
    gc.collect()
    # What other tests still hold is not looked at, whenever they let go of it; nor is it thawed, for with it would be
    # what all tests share.
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(times):
            await doing(session)
        gc.collect()
        return [f"{type(left).__name__} {left!r:.80}" for left in gc.garbage]
    finally:
        gc.set_debug(flags)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    ("answers", "doing"),
    [
        pytest.param([text("done")], _turn, id="plain"),
        pytest.param([calls(("c1", "plain", "{}"), ("c2", "plain", "{}")), text("done")], _turn, id="tools"),
        pytest.param([error(), text("done")], _turn, id="failed"),
        pytest.param([text("done")], _stream, id="streamed"),
        pytest.param([text("done")], _enqueue_and_drain, id="queued"),
        pytest.param([text("done")], _enqueue_and_cancel, id="cancelled"),
    ],
)
async def test_a_turn_leaves_nothing_to_the_garbage_collector(make_core, answers: list, doing: Doing) -> None:
    caller = ScriptedCaller(answers * (TURNS + 1))
    core: LashCore = make_core(caller, tools=[NamedTools(("tool:plain", "plain"))])
    session = await core.open_session(S)
    left = await _left_by(doing, session, TURNS)
    assert left == []
