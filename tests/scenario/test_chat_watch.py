"""What a chat shows of its session: everything once, also what it missed (contract 08 §7.1, 04 §5)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lash_cli.api import LashCore
from lash_cli.cli.chat_desk import ChatDesk
from lash_cli.cli.globals import GlobalOptions
from lash_cli.cli.invocation import Invocation
from lash_cli.paths import resolve_paths
from lash_cli.repl.watching import Watch
from lash_cli.settings import load_settings
from lash_cli.views.chat_picture import Block
from lash_cli.wiring import open_core


class Shown:
    """A face that only remembers what was shown."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.has_shown = asyncio.Event()

    def show(self, blocks: Sequence[Block]) -> None:
        self.blocks += blocks
        self.has_shown.set()

    def refresh(self) -> None:
        """Nothing is drawn."""

    def said(self) -> list[tuple[str, str]]:
        return [(block.kind, block.text) for block in self.blocks]


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[LashCore]:
    environment = {"LASH_HOME": str(tmp_path / "home")}
    paths = resolve_paths(environment)
    settings = load_settings(paths, environment=environment, cwd=str(tmp_path))
    async with open_core(settings, paths, environment=environment, needs_model=True) as core:
        yield core


async def watch_of(core: LashCore, tmp_path: Path) -> tuple[Watch, Shown]:
    row = await core.store.session_row("s")
    assert row is not None
    invocation = Invocation(GlobalOptions(), {"LASH_HOME": str(tmp_path / "home")})
    watch, shown = Watch(core, row, ChatDesk(invocation)), Shown()
    face: Any = shown
    watch.face = face

    async def ended(turn_id: str, outcome: object) -> None:
        """Nobody waits for an end."""

    watch.on_turn_end = ended
    return watch, shown


async def test_after_a_gap_only_what_was_not_shown_is_shown(core: LashCore, tmp_path: Path) -> None:
    session = await core.open_session("s")
    await session.turn("!text first").run()
    watch, shown = await watch_of(core, tmp_path)
    await watch.begin(replay=0)
    assert shown.said() == []
    await session.turn("!text second").run()
    await watch._resync(await core.observe("s").current_observation(), "trimmed")
    assert shown.said() == [
        ("note", "some live events were missed (trimmed)"),
        ("user", "!text second"),
        ("assistant", "second"),
    ]
    await watch._resync(await core.observe("s").current_observation(), "trimmed")
    assert shown.said()[3:] == [("note", "some live events were missed (trimmed)")]
    session.close_handle()


async def test_a_head_that_others_moved_is_told_also_where_the_session_was_looked_at_before(
    core: LashCore, tmp_path: Path
) -> None:
    session = await core.open_session("s")
    await session.turn("!text first").run()
    watch, shown = await watch_of(core, tmp_path)
    await watch.begin(replay=0)
    await core.branch_to_node("s", None)
    await watch.look()
    following = asyncio.create_task(watch.follow())
    async with asyncio.timeout(30):
        await shown.has_shown.wait()
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    assert shown.said() == [("note", "the head was moved: what is said next stands at the beginning")]
    session.close_handle()


async def test_a_replay_shows_the_last_messages_and_says_what_it_left_out(core: LashCore, tmp_path: Path) -> None:
    session = await core.open_session("s")
    for text in ("one", "two"):
        await session.turn(f"!text {text}").run()
    watch, shown = await watch_of(core, tmp_path)
    await watch.begin(replay=3)
    assert [kind for kind, _ in shown.said()] == ["note", "assistant", "user", "assistant"]
    assert shown.said()[0] == ("note", "1 earlier messages: /log shows them")
    session.close_handle()


async def test_a_cost_is_told_when_the_price_of_the_model_is_known(core: LashCore, tmp_path: Path) -> None:
    session = await core.open_session("s")
    await session.turn("!usage 1000000 500000\n!text said").run()
    desk = ChatDesk(Invocation(GlobalOptions(), {"LASH_HOME": str(tmp_path / "home")}))
    assert await desk.cost(core.store, "s") is None
    priced = Invocation(
        GlobalOptions(),
        {"LASH_HOME": str(tmp_path / "home"), "LASH_CFG__models__loopback__prices": "{input = 2, output = 4}"},
    )
    assert await ChatDesk(priced).cost(core.store, "s") == "$4.00"
    session.close_handle()
