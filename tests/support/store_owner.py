"""What happens to a store and its processes as a whole in a random life: one is stopped and wakes up later, somebody
only looks, copies are made and put back, everything is erased, or the file is that of an older lash.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from support.cli import run_lash
from support.life_process import Process
from support.old_files import (
    with_checks_by_list,
    with_nodes_by_session,
    with_numbers_of_sqlite,
    with_two_indexes_of_what_is_held,
    without_imports,
)
from support.witness import Witness

from lash_cli.core.observation import GENESIS
from lash_cli.errors import SessionStillInUse
from lash_cli.runtime.requests import TurnRequest
from lash_cli.store.base import ReadScope
from lash_cli.store.sqlite.backup import back_up, erase, restore
from lash_cli.store.sqlite.connections import connect
from lash_cli.store.sqlite.inspection import compact
from lash_cli.store.sqlite.invariants import broken_rules, integrity
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemIds

COMMANDS = (("db", "check"), ("ls",), ("db", "vacuum"), ("gc",), ("usage",))
OLDER = (
    without_imports,
    with_numbers_of_sqlite,
    with_checks_by_list,
    with_two_indexes_of_what_is_held,
    with_nodes_by_session,
)


class StoreOwner:
    """The part of `StoreLife` that is about the whole of it."""

    random: Any
    clock: Any
    path: Path
    witness: Witness
    world: Any
    processes: list[Process]
    parked: list[Any]
    states: list[Any]
    log: list[str]
    # Copies of the file, each with what had been seen of it.
    copies: list[tuple[Path, Any]]

    async def do_sleep(self, process: Process) -> None:
        """Somebody stops a process in the middle of what it does: its time stands still, and nothing of it runs."""
        others = [other for other in self.processes if other is not process and not other.is_stopped]
        if not others or (process.drive is None and self.random.random() < 0.5):
            return
        process.is_stopped = True
        if process.driven is not None and self.random.random() < 0.6:
            # Its lane runs out, and somebody else takes its turn over.
            await self._tick(130.0)
            await self._drive(self._any(), process.driven.session_id, TurnRequest(None))

    async def do_wake(self, process: Process) -> None:
        """It goes on, and knows what time it is now; or not yet, as a machine that was asleep."""
        for other in self.processes:
            if other.is_stopped:
                other.is_stopped = False
                if self.random.random() < 0.6:
                    other.catch_up()
                await self._until_paused(other)
                if other in self.processes and self.random.random() < 0.6:
                    await self.do_answer(other)

    async def do_look(self, process: Process) -> None:
        """Somebody looks who may write nothing."""
        store = SqliteStore.open(self.path, self.clock, SystemIds(), read_only=True)
        rows, _ = await store.list_sessions(limit=10)
        assert {row.meta.session_id for row in rows} == self.witness.sessions().keys()
        for row in rows:
            await store.load_session(row.meta.session_id, ReadScope.CONVERSATION)
            await store.live.cut(row.meta.session_id, ReadScope.HEAD)
        await store.aclose()

    async def do_outside(self, process: Process) -> None:
        """Another program does something, in a process of its own that knows the real time."""
        command = self.random.choice(COMMANDS)
        ran = await asyncio.to_thread(run_lash, [*command, "--db", str(self.path)], home=self.path.parent / "home")
        assert ran.code == 0, (command, ran.out, ran.err)

    async def do_compact_file(self, process: Process) -> None:
        """The file is rewritten while others have it open."""
        compact(self.path)

    async def do_back_up(self, process: Process) -> None:
        made = self.path.with_name(f"{self._name('backup')}.db")
        back_up(self.path, made)
        store = SqliteStore.open(made, self.clock, SystemIds(), read_only=True)
        assert store.db.read(broken_rules) == [] and store.db.read(integrity) == []
        await store.aclose()
        self.copies.append((made, self.witness.remembered()))

    async def do_restore(self, process: Process) -> None:
        """Put a copy back, or take everything out; what others had of it is no more."""
        if self.copies and self.random.random() < 0.5:
            await self._alone(self._put_back if self.random.random() < 0.85 else self._erase)

    async def do_age(self, process: Process) -> None:
        """The file is that of an older lash, and the next one to come brings it up to date."""
        await self._alone(self._make_older)

    async def _alone(self, work: Any) -> None:
        """Do `work` while nobody else has the file open; then others come."""
        for process in self.processes:
            await process.stop()
        watched = dict(self.witness._watched)
        self.witness.close()
        await self.witness.store.aclose()
        if self.random.random() < 0.7:
            self.clock.tick(600.0)  # whatever is held has run out
        remembered = None
        try:
            remembered = work()
        except SessionStillInUse as refusal:
            self.log.append(f"  {refusal.code}")
        self.witness.reopen(self.path, SqliteStore.open(self.path, clock=self.clock, ids=SystemIds()))
        self.processes = [self._process() for _ in self.processes]
        if remembered is None:
            return
        self.witness.remember(remembered)
        self.parked, self.states, self.world.keys = [], [], []
        self.world.ran.clear()
        for session_id, key in self.witness.sessions().items():
            cursor, _ = watched.get(key, (None, 0))
            if cursor is not None and cursor.session_id == session_id and cursor.epoch != GENESIS:
                found = await self.witness.store.live.replay(cursor)
                assert found.gap is not None, "who watched is not told that all is different"

    def _put_back(self) -> Any:
        made, remembered = self.random.choice(self.copies)
        aside = self.path.with_name(f"{self._name('aside')}.db")
        before = self._stored(self.path)
        done = restore(made, self.path, aside, self.clock)
        assert done.kept == aside and self._stored(aside) == before, "what was there is kept"
        assert self._stored(self.path) == self._stored(made), "what was put back is the copy"
        aside.unlink()
        return remembered

    def _erase(self) -> Any:
        erase(self.path, self.clock)
        return {}

    def _stored(self, path: Path) -> list[Any]:
        connection = connect(path, ())
        try:
            return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("sessions", "turns", "nodes")]
        finally:
            connection.close()

    def _make_older(self) -> None:
        connection = connect(self.path, ())
        try:
            connection.execute("BEGIN IMMEDIATE")
            self.random.choice(OLDER)(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()
