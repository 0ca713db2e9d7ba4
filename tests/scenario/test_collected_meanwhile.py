"""Who reads a session while another process replaces its tools and collects the old ones reads the new ones
(contract 01 §9.6, §10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from support.driving import S
from support.scripted import ScriptedCaller, text
from support.tools import NamedTools

from lash_cli.api import LashCore, ModelSpec, SqliteStore
from lash_cli.errors import MissingCheckpointComponent

TOOLS = (("one", "one"), ("two", "two"))


def answers() -> ScriptedCaller:
    return ScriptedCaller([text("ok")], repeat=True)


def elsewhere(path: Path, present: bool) -> None:
    """Change the tools of the session and collect what nothing names any more, over other connections."""

    async def change() -> None:
        store = SqliteStore.open(path)
        core = LashCore(
            provider=answers(), model=ModelSpec("model-1"), store=store, tools=[NamedTools(*TOOLS)], queue_driver="none"
        )
        async with core, await core.open_session(S) as session:
            await session.tools().set_membership("one", present)
            assert (await store.gc_unreachable())["blobs"] > 0

    asyncio.run(change())


def before_tools_are_read(core: LashCore, work: Callable[[], None], times: int = 1) -> None:
    """Have `work` done between the read of a head and that of the tools it names."""
    load, left = core.store.load_component, [times]

    async def load_late(ref: str) -> bytes:
        if left[0]:
            left[0] -= 1
            await asyncio.to_thread(work)
        return await load(ref)

    core.store.load_component = load_late


async def begun(make_core) -> LashCore:
    core = make_core(answers(), tools=[NamedTools(*TOOLS)])
    async with await core.open_session(S) as session:
        await session.turn("a").run()
    return core


def members(session) -> list[str]:
    return [manifest.name for manifest in session.tools().active_manifests()]


@pytest.mark.parametrize("times", [1, 2])
async def test_a_session_that_is_opened_takes_the_tools_of_the_head_that_stands(make_core, tmp_path, times) -> None:
    await begun(make_core)
    core, path = make_core(answers(), tools=[NamedTools(*TOOLS)]), tmp_path / "home" / "lash.db"
    states = iter([False, True])
    before_tools_are_read(core, lambda: elsewhere(path, next(states)), times)
    async with await core.open_session(S) as session:
        assert members(session) == (["two"] if times == 1 else ["one", "two"])
        assert (await session.turn("b").run()).result.is_success


async def test_a_turn_that_catches_up_does_so_too(make_core, tmp_path) -> None:
    core, path = await begun(make_core), tmp_path / "home" / "lash.db"
    async with await core.open_session(S) as session:
        await asyncio.to_thread(elsewhere, path, False)
        before_tools_are_read(core, lambda: elsewhere(path, True))
        await session.refresh()
        assert members(session) == ["one", "two"]
        assert (await session.turn("b").run()).result.is_success


async def test_an_observer_is_shown_the_tools_that_stand(make_core, tmp_path) -> None:
    core, path = await begun(make_core), tmp_path / "home" / "lash.db"
    before_tools_are_read(core, lambda: elsewhere(path, False))
    assert [manifest.name for manifest in await core.observe(S).active_tool_manifests()] == ["two"]


async def test_tools_that_are_really_gone_are_an_error_and_nothing_is_taken_over(make_core, tmp_path) -> None:
    core, path = await begun(make_core), tmp_path / "home" / "lash.db"
    async with await core.open_session(S) as session:
        await asyncio.to_thread(elsewhere, path, False)

        async def refuse(ref: str) -> bytes:
            raise MissingCheckpointComponent(f"{ref} is not stored")

        core.store.load_component = refuse
        # The handle is still behind what it could not take over, and says so again.
        for _ in range(2):
            with pytest.raises(MissingCheckpointComponent):
                await session.refresh()
        assert (session.read_view().head_revision, members(session)) == (1, ["one", "two"])
