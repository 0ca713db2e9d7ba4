"""A turn that is over is gone at once: nothing of it waits in a circle for the garbage collector (contract 09 §6).

Kept in circles, what every turn showed would stay in memory until a full collection comes by, and a host of many
sessions would pay for those collections in every turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path

import msgspec
import pytest
from support.clock import LIMIT_S
from support.driving import S
from support.scripted import ScriptedCaller, SteppedCaller, calls, error, text
from support.tools import NamedTools

from lash_cli.api import ByInputId, FunctionToolProvider, LashCore, LashSession, ModelSpec, SqliteStore, tool
from lash_cli.runtime.gate import GATE_POLL_S
from lash_cli.store.sqlite import log

TURNS = 5
Doing = Callable[[LashSession], Awaitable[object]]


class Nothing(msgspec.Struct):
    """No arguments."""


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


def descriptors() -> list[str]:
    """What this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


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


class Held:
    """What somebody keeps in a variable of his task."""


HELD: ContextVar[Held] = ContextVar("held")


async def test_a_turn_that_is_over_is_let_go_of_with_its_task_while_others_go_on(make_core) -> None:
    """The timers that turns share are not those of whichever turn was the first to need them."""
    quick, slow = SteppedCaller(), SteppedCaller()
    core: LashCore = make_core(quick)
    first, other = await core.open_session("first"), await core.open_session("other")

    async def run(held: Held) -> None:
        HELD.set(held)
        await first.turn("one").run()

    held = Held()
    kept = weakref.ref(held)
    begun = asyncio.create_task(run(held))
    await quick.parked.wait()
    running = asyncio.create_task(other.turn("two").provider(slow).run())
    await slow.parked.wait()
    quick.reply.set_result(text("done"))
    await begun
    del held, begun
    await core.store.db.write(lambda connection: None, durable=False)
    await asyncio.sleep(3 * GATE_POLL_S)
    gc.collect()
    assert kept() is None
    slow.reply.set_result(text("done"))
    await running


async def test_a_session_that_is_closed_is_let_go_of_whatever_its_tools_have_begun(make_core) -> None:
    begun: list[asyncio.Task[None]] = []

    @tool(name="begin")
    async def begin(args: Nothing, context: object) -> str:
        """Begin something that goes on behind the turn."""
        begun.append(asyncio.create_task(asyncio.sleep(LIMIT_S)))
        return "begun"

    caller = ScriptedCaller([calls(("c1", "begin", "{}")), text("done")])
    core: LashCore = make_core(caller, tools=[FunctionToolProvider([begin])])
    session = await core.open_session(S)
    await session.turn("one").run()
    state = weakref.ref(session._state)
    await session.close()
    del session
    await core.store.db.write(lambda connection: None, durable=False)
    gc.collect()
    assert state() is None
    begun[0].cancel()


# Python 3.13 tells who closes nothing: a connection that is collected open is worth a warning there.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
async def test_a_core_that_is_dropped_without_being_closed_keeps_neither_threads_nor_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_WAL_RESTART_BYTES", 1)

    def open_here() -> tuple[set[threading.Thread], set[str]]:
        return set(threading.enumerate()), {path for path in descriptors() if str(tmp_path) in path}

    async def use_one() -> None:
        store = SqliteStore.open(tmp_path / "lash.db")
        caller = ScriptedCaller([text("done")])
        core = LashCore(provider=caller, store=store, model=ModelSpec("model-1"), queue_driver="none")
        session = await core.open_session(S)
        await session.turn("one").run()
        assert len(open_here()[0] - before[0]) == 2, "one that writes, and one that copies back the log"

    gc.collect()
    before = open_here()
    await use_one()
    async with asyncio.timeout(LIMIT_S):
        # What others have left may end meanwhile.
        while any(here - there for here, there in zip(open_here(), before, strict=True)):
            gc.collect()
            await asyncio.sleep(0.01)
