"""Whoever runs each turn in an event loop of its own gets back what the loop and its store took (design D1)."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from support.driving import S
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, ModelSpec
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

TESTS = Path(__file__).parent.parent


def test_a_loop_that_is_closed_is_let_go_of_with_its_store(tmp_path: Path) -> None:
    loops: list[weakref.ref[object]] = []
    stores: list[weakref.ref[object]] = []

    async def one_turn() -> None:
        store = SqliteStore.open(tmp_path / "lash.db", clock=SystemClock(), ids=SystemIds())
        caller = ScriptedCaller([text("yes")])
        core = LashCore(provider=caller, store=store, queue_driver="none", model=ModelSpec("model-1"))
        async with await core.open_session(S) as session:
            await session.turn("x").run()
        await core.aclose()
        loops.append(weakref.ref(asyncio.get_running_loop()))
        stores.append(weakref.ref(store))

    for _ in range(4):
        asyncio.run(one_turn())
    gc.collect()
    assert [loop() is not None for loop in loops[:-1]] == [False] * 3
    assert [store() is not None for store in stores[:-1]] == [False] * 3


# In a process of its own: what a closed loop leaves behind complains when it is collected.
LEFT_BEHIND = """
import asyncio, sys
from lash_cli.api import LashCore, ModelSpec, SqliteStore
from support.scripted import ScriptedCaller, text

caller = ScriptedCaller([text("first"), text("second")])
core = LashCore(
    provider=caller, store=SqliteStore.open(sys.argv[1]), queue_driver="none", model=ModelSpec("model-1")
)

async def leave_a_turn_behind():
    session = await core.open_session("s1")
    caller.gate = asyncio.Event()
    running = asyncio.ensure_future(session.turn("one").run())
    await caller.entered.wait()
    return session, running

loop = asyncio.new_event_loop()
session, left = loop.run_until_complete(leave_a_turn_behind())
loop.close()
caller.gate = None
print(session.cancel_running_turns())

async def go_on():
    output = await session.turn("two").run()
    print(*[result.assistant_message() for result in output.turns])
    await session.close()

if "close" in sys.argv:
    asyncio.run(core.aclose())
else:
    asyncio.run(go_on())
    asyncio.run(core.aclose())
print("closed")
"""


@pytest.mark.parametrize(
    ("then", "said"), [("close", ["0", "closed"]), ("go on", ["0", "first second", "closed"])], ids=["close", "go-on"]
)
def test_a_turn_that_went_with_its_loop_is_in_nobodys_way(tmp_path: Path, then: str, said: list[str]) -> None:
    command = [sys.executable, "-c", LEFT_BEHIND, str(tmp_path / "lash.db"), then]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(TESTS)}
    )
    assert (ran.returncode, ran.stdout.splitlines()) == (0, said), ran.stderr


# The same of a drive: what the driver took in the loop that is gone is taken up by it in the next one.
DRIVEN = """
import asyncio, sys
from lash_cli.api import LashCore, ModelSpec, SqliteStore
from support.scripted import ScriptedCaller, text

caller = ScriptedCaller([text("first"), text("second")])
core = LashCore(provider=caller, store=SqliteStore.open(sys.argv[1]), queue_driver="inline", model=ModelSpec("model-1"))

async def leave_a_drive_behind():
    await core.open_session("s1")
    caller.gate = asyncio.Event()
    await core.queue("s1").enqueue("one")
    await caller.entered.wait()

loop = asyncio.new_event_loop()
loop.run_until_complete(leave_a_drive_behind())
loop.close()
caller.gate = None

async def go_on():
    before = await core.store.session_row("s1")
    await core.queue("s1").enqueue("two")
    await core._driver.settled()
    after = await core.store.session_row("s1")
    print(before.running_turn_id is not None, after.running_turn_id, after.pending_inputs, after.turn_state.turn_index)
    print(after.last_commit_at_ms < before.lease.expires_at_ms)
    await core.aclose()

asyncio.run(go_on())
"""


def test_a_drive_that_went_with_its_loop_is_taken_up_in_the_next_one_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVEN, str(tmp_path / "lash.db")]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert ran.stdout.splitlines() == ["True None 0 2", "True"], ran.stdout + ran.stderr
