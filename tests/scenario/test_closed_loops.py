"""Whoever runs each turn in an event loop of its own gets back what the loop and its store took (design D1)."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

from support.driving import S
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, ModelSpec
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds


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
