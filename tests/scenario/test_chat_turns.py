"""What follows a turn of a chat, in whatever order its end is learned of (contract 08 §7.1, §7.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lash_cli.api import LashCore
from lash_cli.cli.chat_desk import ChatDesk
from lash_cli.cli.globals import GlobalOptions
from lash_cli.cli.invocation import Invocation
from lash_cli.core.content import Role, TurnInput, message_text
from lash_cli.core.ingress import NextTurn
from lash_cli.core.outcome import AssistantMessage, Finished
from lash_cli.errors import LashError, StoreLocked
from lash_cli.paths import resolve_paths
from lash_cli.repl.client import ChatClient, ChatOptions
from lash_cli.repl.driving import Ending, OwnTurns
from lash_cli.repl.memory import ReplMemory
from lash_cli.repl.outbox import Outbox
from lash_cli.repl.watching import Watch
from lash_cli.settings import load_settings
from lash_cli.store.base import RuntimePersistence
from lash_cli.system import SystemIds
from lash_cli.wiring import open_core


class SilentFace:
    """Shows nothing and is never typed at."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class SlowDesk(ChatDesk):
    """Looks up what a session cost only when it is let."""

    def __init__(self, invocation: Invocation) -> None:
        super().__init__(invocation)
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def cost(self, store: RuntimePersistence, session_id: str) -> str | None:
        self.is_asked.set()
        await self.may_answer.wait()
        return None


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[LashCore]:
    environment = {"LASH_HOME": str(tmp_path / "home")}
    paths = resolve_paths(environment)
    settings = load_settings(paths, environment=environment, cwd=str(tmp_path))
    async with open_core(settings, paths, environment=environment, needs_model=True, with_tools=False) as core:
        yield core


async def test_an_end_that_is_seen_while_the_chat_looks_around_begins_the_next_turn_once(
    core: LashCore, tmp_path: Path
) -> None:
    session = await core.open_session("s")
    row = await core.store.session_row("s")
    assert row is not None
    desk = SlowDesk(Invocation(GlobalOptions(), {"LASH_HOME": str(tmp_path / "home")}))
    memory = ReplMemory(str(tmp_path / "state"), "s")
    watch, outbox = Watch(core, row, desk), Outbox(core.store, core.queue("s"), memory, SystemIds())
    client = ChatClient(core, session, watch, outbox, desk, ChatOptions())
    face: Any = SilentFace()
    client._face = watch.face = face
    await outbox.begin()
    await watch.begin(replay=0)
    await outbox.enqueue(outbox.take("!text two"), TurnInput.text("!text two"), NextTurn())
    await watch.look()
    desk.is_asked.clear()
    desk.may_answer.clear()
    client.turns.send(None, "!text one")
    # Its driver is told first and looks what the session cost; the stream tells of the same end meanwhile.
    await desk.is_asked.wait()
    await client._turn_ended("t_1", Finished(AssistantMessage("one")))
    assert client.turns.is_active
    desk.may_answer.set()
    await client.turns.join()
    await asyncio.sleep(0)
    assert client._calls.empty(), "nothing failed"
    await session.refresh()
    said = [message_text(message) for message in session.read_view().messages if message.role is Role.USER]
    assert said == ["!text one", "!text two"]
    session.close_handle()
    memory.close()


async def test_a_turn_that_begins_while_a_failure_is_told_is_known_to_run() -> None:
    gate = asyncio.Event()

    class Session:
        """The first turn fails, the second runs until it is let go."""

        def turn(self, content: str, *, key: str | None) -> Any:
            return self

        async def stream_to(self, sink: object) -> None:
            if not told:
                raise StoreLocked("busy")
            await gate.wait()

    told: list[LashError] = []

    async def failed(error: LashError, key: str | None) -> None:
        told.append(error)
        turns.send(None, "again")
        await asyncio.sleep(0)

    async def over(ending: Ending | None) -> None:
        """Nothing follows."""

    session: Any = Session()
    turns = OwnTurns(session, on_taken=lambda key: None, on_end=over, on_error=failed, on_done=lambda task: None)
    turns.send(None, "once")
    first = turns._task
    assert first is not None
    await first
    assert [error.code for error in told] == ["store_locked"] and turns.is_active
    gate.set()
    await turns.join()
    assert not turns.is_active
