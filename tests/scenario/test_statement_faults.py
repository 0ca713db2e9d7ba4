"""Every statement that a session's life writes with fails once: the caller is told, and asking again ends as if nothing
had been (contract 01 §11, 02 §1.3, design D10)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from support.made_files import lay
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import FunctionToolProvider, LashCore, ModelSpec, SqliteStore, ToolContext, tool
from lash_cli.core.content import message_text
from lash_cli.core.llm import LlmRequest, LlmResponse
from lash_cli.errors import SessionDeleted, StoreError
from lash_cli.store.sqlite.announcing import WriterConnection
from lash_cli.store.sqlite.invariants import broken_rules, integrity

WAIT_S = 30
# Of the statements of a life every so many fails, and each of the kinds begins at another: of four in a row one fails.
STRIDE = 12


class Kind(NamedTuple):
    """What SQLite says, and whether it has undone the transaction by itself, as it does of some errors."""

    code: int
    undoes: bool


KINDS = (Kind(sqlite3.SQLITE_FULL, True), Kind(sqlite3.SQLITE_IOERR, False), Kind(sqlite3.SQLITE_INTERRUPT, True))


class Faults:
    """Lets the `nth` statement of the writing connections fail, once; 0 for none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen = self.nth = 0
        self.kind = KINDS[0]
        for name in ("execute", "executemany"):
            monkeypatch.setattr(WriterConnection, name, self._failing(name), raising=False)

    def _failing(self, name: str) -> Callable[..., Any]:
        run = getattr(sqlite3.Connection, name)

        def failing(connection: WriterConnection, statement: str, *values: Iterable[Any]) -> Any:
            if not statement.startswith(("PRAGMA", "ROLLBACK")):
                self.seen += 1
                if self.seen == self.nth:
                    self._fail(connection)
            return run(connection, statement, *values)

        return failing

    def _fail(self, connection: WriterConnection) -> None:
        if self.kind.undoes and connection.in_transaction:
            sqlite3.Connection.execute(connection, "ROLLBACK")
        error = sqlite3.OperationalError("it failed")
        error.sqlite_errorcode = self.kind.code
        raise error


class Nothing(msgspec.Struct):
    """No arguments."""


class Life:
    """A session that talks, calls a tool, has a queue and is swept, beside one that is deleted."""

    def __init__(self, path: Path) -> None:
        self.told = self.looked = 0

        @tool(name="look", tool_id="look")
        def look(arguments: Nothing, context: ToolContext) -> str:
            """Look around."""
            self.looked += 1
            return "seen"

        self.caller = ScriptedCaller([self._answer], repeat=True)
        # What is synced is no matter of statements.
        self.store = SqliteStore.open(lay(path), synchronous="normal")
        self.core = LashCore(
            provider=self.caller,
            model=ModelSpec("m"),
            store=self.store,
            queue_driver="none",
            tools=[FunctionToolProvider([look])],
        )

    @staticmethod
    def _answer(request: LlmRequest) -> LlmResponse:
        """The same however often it is asked for: one that could not be recorded is asked for again."""
        last = request.messages[-1]
        return calls(("c1", "look", "{}")) if message_text(last) == "look" else text("done")

    async def again(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """What `ask` answers, at the second time where the first one is told of the fault."""
        try:
            return await asyncio.wait_for(ask(), WAIT_S)
        except StoreError:
            self.told += 1
            return await asyncio.wait_for(ask(), WAIT_S)

    async def pass_by(self) -> list[str]:
        """Live it, and say who spoke."""
        core, again = self.core, self.again
        session = await again(lambda: core.open_session("s"))
        await again(lambda: session.turn("look", turn_id="t1").run())
        await again(lambda: session.enqueue("queued", id="k1"))
        cut = await again(lambda: session.enqueue("cut", id="k2"))
        await again(lambda: session.cancel_pending_turn_input(cut.input_id))
        await again(lambda: session.queued_turn().run())
        await again(lambda: session.queued_turn().run())
        gone = await again(lambda: core.open_session("gone"))
        await again(lambda: gone.turn("hello", turn_id="t2").run())
        gone.close_handle()
        await again(lambda: core.delete_session("gone"))
        await again(lambda: self.store.vacuum("s"))
        await again(self.store.gc_unreachable)
        await again(lambda: session.turn("last", turn_id="t3").run())
        return [message.role.value for message in session.read_view().messages]

    async def left(self) -> list[Any]:
        """What must not be there in the end, in the file or in this process."""
        row = await self.store.session_row("s")
        assert row is not None
        with pytest.raises(SessionDeleted):
            await self.store.session_row("gone")
        return [
            *self.store.db.read(integrity),
            *self.store.db.read(broken_rules),
            *await self.store.unfinished_turns(),
            *await self.store.inputs("s", pending_only=True),
            *([] if row.lease.token is None else [row.lease]),
        ]


async def live(path: Path) -> tuple[Life, list[str]]:
    """One life over a new file, to its end."""
    life = Life(path)
    try:
        said = await life.pass_by()
        assert await life.left() == []
    finally:
        await life.core.aclose()
    return life, said


async def test_whichever_statement_fails_once_the_life_ends_as_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    sound, sound_said = await live(tmp_path / "sound.db")
    count, told = faults.seen, 0
    assert (sound.told, sound.looked, len(sound.caller.requests)) == (0, 1, 5) and count > 100
    for number, kind in enumerate(KINDS):
        for nth in range(1 + 4 * number, count, STRIDE):
            faults.seen, faults.nth, faults.kind = 0, nth, kind
            life, said = await live(tmp_path / f"{kind.code}-{nth}.db")
            assert said == sound_said, nth
            assert (life.looked, life.told <= 1) == (1, True), nth
            assert len(life.caller.requests) - 5 in (0, life.told), nth
            told += life.told
    assert told > count // STRIDE, "most faults reach their caller"
