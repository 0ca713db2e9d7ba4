"""Every statement of a verb that is no turn fails once: all of it was done or nothing, and asking again ends as if
nothing had been (contract 01 §11, 02 §1.3, design D10)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from scenario.test_statement_faults import KINDS, WAIT_S, Faults, Kind
from support.clock import ManualClock
from support.driving import S, later_wake
from support.made_files import lay
from support.scripted import ScriptedCaller, text

from lash_cli.api import (
    ByInputId,
    LashCore,
    ModelSpec,
    OpenAgentFrameRequest,
    RefreshToolCatalog,
    SessionConfigPatch,
    SqliteStore,
)
from lash_cli.core.content import Message, ProtocolTurnOptions, Role, TextPart
from lash_cli.core.graph import ConversationPayload
from lash_cli.errors import ConflictError, LashError, SessionDeleted, StoreError
from lash_cli.store.conformance.factory import CountingIds
from lash_cli.store.sqlite import backup, connections, ownership
from lash_cli.store.sqlite.invariants import broken_rules, integrity
from lash_cli.store.sqlite.maintenance import Maintenance

# Of the statements of a verb every so many fails by each kind, and each of these begins at another.
STRIDE = 4
BUSY = Kind(sqlite3.SQLITE_BUSY, False)
# What is drawn anew for each attempt: ids, names, and hashes of what has ids in it.
DRAWN = re.compile(r"\d{26}|[0-9a-f]{62,64}|(?<=')[a-z]+-[a-z]+(?=')|qwc:\d:\d")
# What tells of an attempt that ended in nothing: who watches, and how often the lane was taken.
PASSING = {"live_log", "live_row"}
LANE = ("lease_", "live_", "claim", "attempt")
# What is recorded of an attempt that ended in nothing: a model that was asked.
KEPT = {"session_compact": "usage_deltas"}


class Ids(CountingIds):
    def __init__(self, begin: int) -> None:
        super().__init__()
        self._count = begin


class World:
    """A file in which something was said and queued, and one process that has it open."""

    def __init__(self, path: Path, clock: ManualClock, begin: int) -> None:
        self.path, self.clock = path, clock
        self.store = SqliteStore.open(path, clock, Ids(begin), synchronous="normal")
        self.core = LashCore(
            provider=ScriptedCaller([text("answer")], repeat=True),
            model=ModelSpec("m"),
            store=self.store,
            queue_driver="none",
            clock=clock,
            ids=Ids(begin + 500),
        )
        self.passing = PASSING
        self.session: Any = None
        self.archive: Any = None
        self.parked: Any = None

    @property
    def queue(self) -> Any:
        return self.core.queue(S)

    async def ready(self, verb: str) -> None:
        """What the verb is given."""
        self.passing = PASSING | {KEPT.get(verb, "")}
        if verb.startswith("session_"):
            self.session = await self.core.open_session(S)
        if verb == "import":
            self.archive = await self.store.export_session(S)
        if verb == "hide":
            await self.core.branch_to_node(S, await _node(self, 1))
        if verb == "resume":
            self.parked = await (await self.core.open_session(S)).park()

    def rows(self) -> dict[str, list[Any]]:
        return self.stored(self.path, self.passing)

    @staticmethod
    def stored(path: Path, passing: set[str]) -> dict[str, list[Any]]:
        """What is stored, by table; ids by their kind."""
        found: dict[str, list[Any]] = {}
        with sqlite3.connect(path) as connection:
            names = [
                name
                for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                if not name.startswith(("sqlite_", "_sqlite", "message_search")) and name not in passing
            ]
            for name in names:
                rows = connection.execute(f"SELECT * FROM {name}")
                kept = [at for at, column in enumerate(rows.description) if not column[0].startswith(LANE)]
                found[name] = sorted(repr([row[at] for at in kept]) for row in rows)
        connection.close()
        return {name: [DRAWN.sub("#", row) for row in rows] for name, rows in found.items()}


async def _node(world: World, index: int) -> str:
    read = await world.core.session_graph(S)
    return read.nodes[index].node_id


async def _input(world: World) -> ByInputId:
    return ByInputId((await world.queue.pending_inputs())[0].input_id)


async def _batch(world: World) -> str:
    return str((await world.queue.batches())[0].batch_id)


MESSAGE = Message("", Role.USER, (TextPart("said beside"),))
FRAME = OpenAgentFrameRequest("f2", "test", (ConversationPayload(MESSAGE),))
OPTIONS = ProtocolTurnOptions()

Verb = Callable[[World], Awaitable[Any]]


async def _branch(world: World) -> Any:
    return await world.core.branch_to_node(S, await _node(world, 0))


async def _before(world: World) -> Any:
    return await world.core.branch_before_node(S, await _node(world, 2))


async def _hide(world: World) -> Any:
    return await world.store.tombstone_nodes(S, [await _node(world, 2)])


async def _cancel_inputs(world: World) -> Any:
    return await world.queue.cancel_inputs([await _input(world)])


async def _cancel_suffix(world: World) -> Any:
    return await world.queue.cancel_suffix(await _input(world))


async def _cancel_batch(world: World) -> Any:
    return await world.queue.cancel_batch(await _batch(world))


async def _park(world: World) -> Any:
    return await (await world.core.open_session(S)).park()


VERBS: dict[str, Verb] = {
    "open": lambda world: world.core.open_session("new"),
    "open_fresh": lambda world: world.core.open_fresh(S),
    "delete": lambda world: world.core.delete_session(S),
    "fork": lambda world: world.core.fork_session(S, session_id="fork"),
    "branch": _branch,
    "before": _before,
    "import": lambda world: world.store.import_sessions([(world.archive, "copy")]),
    "hide": _hide,
    "park": _park,
    "resume": lambda world: world.core.resume(world.parked),
    "enqueue": lambda world: world.queue.enqueue("more", key="k9"),
    "cancel_inputs": _cancel_inputs,
    "cancel_suffix": _cancel_suffix,
    "cancel_batch": _cancel_batch,
    "hold": lambda world: world.queue.hold("why"),
    "command": lambda world: world.queue.submit_command(RefreshToolCatalog("c"), "c"),
    "work": lambda world: world.queue.enqueue_work(later_wake(7)),
    "shut": lambda world: world.store.set_session_flags(S, closed_at_ms=5, parked_at_ms=None),
    "label": lambda world: world.store.change_meta(S, name="other", labels={"a": "b"}, now_ms=5),
    "vacuum": lambda world: world.store.vacuum(S),
    "gc": lambda world: world.store.gc_unreachable(),
    "collect": lambda world: Maintenance(world.store.db).collect(world.clock.now_ms() + 1),
    "attach": lambda world: world.store.put_attachment(
        S, b"bytes", media_type="image/png", owner=None, now_ms=world.clock.now_ms()
    ),
    "session_configure": lambda world: world.session.configure(SessionConfigPatch(model=ModelSpec("m2"))),
    "session_append": lambda world: world.session.admin().append_messages([MESSAGE], operation_id="again"),
    "session_frame": lambda world: world.session.admin().open_agent_frame(FRAME),
    "session_replace": lambda world: world.session.admin().replace_active_read_state([MESSAGE]),
    "session_options": lambda world: world.session.admin().set_protocol_turn_options_all_frames(OPTIONS),
    "session_compact": lambda world: world.session.admin().compact_with_report("shortly", operation_id="c"),
    "session_fork": lambda world: world.session.admin().fork(),
    "session_close": lambda world: world.session.close(),
}


async def _made(path: Path, clock: ManualClock) -> None:
    world = World(lay(path), clock, 0)
    session = await world.core.open_session(S)
    for number in range(2):
        await session.turn(f"text {number}", turn_id=f"t{number}").run()
    await session.close()
    await world.queue.submit_command(RefreshToolCatalog("first"), "first")
    for number in range(3):
        await world.queue.enqueue(f"queued {number}", key=f"k{number}")
    await world.queue.enqueue_work(later_wake(1))
    await world.core.aclose()


@pytest.mark.parametrize("name", VERBS)
async def test_whichever_statement_of_a_verb_fails_once_it_is_done_or_not_and_can_be_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    clock, faults, verb = ManualClock(), Faults(monkeypatch), VERBS[name]
    await _made(tmp_path / "made.db", clock)

    async def world_of(label: str) -> World:
        path = tmp_path / f"{label}.db"
        shutil.copy(tmp_path / "made.db", path)
        world = World(path, clock, 10_000)
        await world.ready(name)
        return world

    faults.nth = 0
    sound = await world_of("sound")
    before = sound.rows()
    faults.seen = 0
    await verb(sound)
    count = faults.seen
    after = sound.rows()
    await sound.core.aclose()
    for begin, kind in enumerate((*KINDS, BUSY)):
        for nth in range(1 + begin, count + 1, STRIDE):
            world = await world_of(f"{kind.code}-{nth}")
            assert world.rows() == before
            faults.seen, faults.nth, faults.kind = 0, nth, kind
            is_told = False
            try:
                await asyncio.wait_for(verb(world), WAIT_S)
            except StoreError:
                is_told, there = True, world.rows()
                faults.nth = 0
                assert there in (before, after), (nth, kind, _difference(before, there), _difference(after, there))
                try:
                    await asyncio.wait_for(verb(world), WAIT_S)
                except (ConflictError, SessionDeleted):
                    assert there == after
            faults.nth = 0
            there = world.rows()
            assert there == after, (nth, kind, _difference(after, there))
            row = None if name == "delete" else await world.store.session_row(S)
            # Where only giving the lane back failed, all was done, and it runs out.
            assert row is None or row.lease.token is None or not is_told, (nth, kind)
            assert world.store.db.read(integrity) == []
            assert world.store.db.read(broken_rules) == []
            await world.core.aclose()


def _difference(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> dict[str, Any]:
    return {
        name: (sorted(set(one[name]) - set(other[name])), sorted(set(other[name]) - set(one[name])))
        for name in one
        if one[name] != other[name]
    }


CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY)


class FailingConnection(sqlite3.Connection):
    """A connection of whoever replaces a database as a whole: the `nth` step of all of them fails."""

    seen = nth = 0
    code = 0

    def _step(self) -> None:
        FailingConnection.seen += 1
        if FailingConnection.seen == FailingConnection.nth:
            error = sqlite3.OperationalError("it failed")
            error.sqlite_errorcode = FailingConnection.code
            raise error

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if not statement.startswith("ROLLBACK"):
            self._step()
        return super().execute(statement, *values)

    def backup(self, target: sqlite3.Connection, **options: Any) -> None:
        self._step()
        super().backup(target, **options)
        self._step()


@pytest.mark.parametrize("name", ["restore", "erase", "back_up"])
async def test_whichever_step_of_replacing_a_database_fails_it_is_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    clock = ManualClock()
    await _made(tmp_path / "made.db", clock)
    copy = tmp_path / "copy.db"
    backup.back_up(lay(tmp_path / "other.db"), copy)

    def work(place: Path, aside: Path) -> None:
        if name == "restore":
            backup.restore(copy, place, aside, clock)
        elif name == "erase":
            backup.erase(place, clock)
        else:
            backup.back_up(place, aside)

    def connect(path: Any, pragmas: Any, **options: Any) -> sqlite3.Connection:
        return connections.connect(path, pragmas, **{**options, "factory": FailingConnection})

    monkeypatch.setattr(backup, "connect", connect)
    monkeypatch.setattr(ownership, "connect", connect)
    nth, has_failed = 0, True
    while has_failed:
        nth += 1
        code = CODES[nth % len(CODES)]
        FailingConnection.seen, FailingConnection.nth, FailingConnection.code = 0, nth, code
        home = tmp_path / f"{code}-{nth}"
        home.mkdir()
        place, aside = home / "lash.db", home / "aside.db"
        shutil.copy(tmp_path / "made.db", place)
        before = World.stored(place, PASSING)
        with contextlib.suppress(LashError):
            work(place, aside)
        has_failed = FailingConnection.seen >= nth
        FailingConnection.nth = 0
        there = World.stored(place, PASSING)
        is_new = name != "back_up" and there["sessions"] == []
        assert is_new or there == before, (code, nth)
        if name == "restore" and is_new:
            assert World.stored(aside, PASSING) == before, (code, nth)
        left = sorted(path.name for path in home.iterdir() if not path.name.startswith("lash.db-"))
        assert left in (["lash.db"], ["aside.db", "lash.db"]), (code, nth, left)
        again = home / "again.db"
        work(place, again)
        if name == "back_up":
            assert World.stored(again, PASSING) == before, (code, nth)
        else:
            assert World.stored(place, PASSING)["sessions"] == [], (code, nth)
        store = SqliteStore.open(place, clock)
        assert store.db.read(integrity) == [] and store.db.read(broken_rules) == []
        await store.aclose()
    assert nth > 5, "there were some to fail"
