"""What follows a turn of a chat, in whatever order its end is learned of (contract 08 §7.1, §7.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lash_cli.api import LashCore, LashSession
from lash_cli.cli.chat_desk import ChatDesk
from lash_cli.cli.globals import GlobalOptions
from lash_cli.cli.invocation import Invocation
from lash_cli.core.content import Role, TurnInput, message_text
from lash_cli.core.ingress import NextTurn
from lash_cli.core.outcome import AssistantMessage, Finished
from lash_cli.errors import LashError, SessionExecutionBusy, StoreLocked
from lash_cli.paths import resolve_paths
from lash_cli.repl.client import ChatClient, ChatOptions
from lash_cli.repl.driving import Ending, OwnTurns
from lash_cli.repl.memory import ReplMemory
from lash_cli.repl.outbox import Outbox
from lash_cli.repl.watching import Watch
from lash_cli.settings import load_settings
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemIds
from lash_cli.wiring import open_core


class SilentFace:
    """Shows nothing and is never typed at."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class RecordingFace(SilentFace):
    """Keeps what it is asked to show."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.calls.append((name, *given))


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
    async with open_core(settings, paths, environment=environment, needs_model=True) as core:
        yield core


class OpenChat:
    """A chat of session `s` whose keys a test presses; its stream is not followed."""

    def __init__(self, core: LashCore, session: LashSession, row: SessionRow, directory: Path) -> None:
        self.session = session
        self.desk = SlowDesk(Invocation(GlobalOptions(), {"LASH_HOME": str(directory / "home")}))
        self.memory = ReplMemory(str(directory / "state"), "s")
        self.watch = Watch(core, row, self.desk)
        self.outbox = Outbox(core.store, core.queue("s"), self.memory, SystemIds())
        self.client = ChatClient(core, session, self.watch, self.outbox, self.desk, ChatOptions())
        face: Any = SilentFace()
        self.client._face = self.watch.face = face

    async def queue(self, text: str) -> None:
        """Queue a text for the next turn."""
        await self.outbox.enqueue(self.outbox.take(text), TurnInput.text(text), NextTurn())
        await self.watch.look()

    async def users(self) -> list[str]:
        """What was said and answered, once every turn is over."""
        await self.client.turns.join()
        await asyncio.sleep(0)
        assert self.client._calls.empty(), "something failed"
        await self.session.refresh()
        return [message_text(item) for item in self.session.read_view().messages if item.role is Role.USER]


@pytest.fixture
async def chat(core: LashCore, tmp_path: Path) -> AsyncIterator[OpenChat]:
    session = await core.open_session("s")
    row = await core.store.session_row("s")
    assert row is not None
    chat = OpenChat(core, session, row, tmp_path)
    await chat.outbox.begin()
    await chat.watch.begin(replay=0)
    yield chat
    session.close_handle()
    chat.memory.close()


async def test_an_end_that_is_seen_while_the_chat_looks_around_begins_the_next_turn_once(chat: OpenChat) -> None:
    await chat.queue("!text two")
    chat.desk.is_asked.clear()
    chat.desk.may_answer.clear()
    chat.client.turns.send(None, "!text one")
    # Its driver is told first and looks what the session cost; the stream tells of the same end meanwhile.
    await chat.desk.is_asked.wait()
    await chat.client._turn_ended("t_1", Finished(AssistantMessage("one")))
    assert chat.client.turns.is_active
    chat.desk.may_answer.set()
    assert await chat.users() == ["!text one", "!text two"]


async def test_what_was_held_for_a_cancel_that_came_too_late_goes_on(chat: OpenChat, tmp_path: Path) -> None:
    await chat.queue("!text two")
    chat.client.turns.send(None, f"!wait-file {tmp_path / 'gate'}\n!text one")
    hold = chat.client._queue.hold

    async def late(reason: str) -> bool:
        (tmp_path / "gate").touch()
        # The turn ends while what waits is being held.
        held = await hold(reason)
        await chat.client.turns.join()
        return held

    queue: Any = chat.client._queue
    queue.hold = late
    await chat.client._cancel(None)
    assert [text.split("\n")[-1] for text in await chat.users()] == ["!text one", "!text two"]
    assert chat.watch.row.meta.held_at_ms is None


async def test_a_cancel_where_no_turn_of_ours_runs_holds_and_sends_nothing(chat: OpenChat) -> None:
    await chat.queue("!text two")
    await chat.client._cancel(None)
    assert chat.watch.row.meta.held_at_ms is None
    assert await chat.users() == []


async def test_who_leaves_a_chat_waits_for_what_the_end_of_a_turn_began_and_begins_no_other(chat: OpenChat) -> None:
    await chat.queue("!text two")
    chat.desk.is_asked.clear()
    chat.desk.may_answer.clear()
    chat.client.turns.send(None, "!text one")
    await chat.desk.is_asked.wait()
    assert not chat.client.turns.is_active
    chat.client.stop("quit")
    leaving = asyncio.ensure_future(chat.client._leave())
    await asyncio.wait({leaving}, timeout=0.1)
    assert not leaving.done()
    # The stream tells of the same end, and what waits is ours.
    await chat.client._turn_ended("t_1", Finished(AssistantMessage("one")))
    chat.desk.may_answer.set()
    await asyncio.wait({leaving}, timeout=30)
    assert leaving.done()
    assert await chat.users() == ["!text one"]


@pytest.mark.parametrize("failure", [SessionExecutionBusy("busy"), StoreLocked("busy")])
async def test_a_text_that_was_not_taken_is_the_draft_again_and_it_is_told_why(
    chat: OpenChat, failure: LashError
) -> None:
    face: Any = RecordingFace()
    chat.client._face = chat.watch.face = face
    key = chat.outbox.take("hello")
    await chat.client._own_turn_failed(failure, key)
    assert chat.outbox.draft.text == "hello"
    told = "offer" if isinstance(failure, SessionExecutionBusy) else "show"
    calls = [call for call in face.calls if call[0] in ("set_text", "offer", "show")]
    assert calls[0] == ("set_text", "hello") and [name for name, _ in calls[1:]] == [told]


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
