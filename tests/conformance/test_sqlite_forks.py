"""Forks over SQLite against copies, and what forking and moving a head cost (contract 01 §8.2, 08 §5.1).

The oracle copies the path of every fork into a dictionary of its own. What the
shared rows show must be the same after any sequence of appends, moves, forks,
replacements, tombstones, sweeps and deletions. Nothing is timed: a cost is
flat when SQLite's virtual machine takes no more steps for it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.forking import STEPS_OF_ONE_WALK, Walk
from support.old_files import with_nodes_by_session

from lash_cli.core.commit import Append, ReplaceFull, Unchanged
from lash_cli.core.graph import chain
from lash_cli.store.base import ReadScope, SessionFork
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite.invariants import broken_rules
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]


@pytest.mark.parametrize("seed", range(8))
async def test_shared_history_is_what_a_copy_would_be(open_store: OpenStore, clock: ManualClock, seed: int) -> None:
    walk = Walk(open_store(), clock, seed)
    await walk.create()
    for index in range(STEPS_OF_ONE_WALK):
        await walk.step()
        if index % 4 == 0:
            await walk.check()
    await walk.check()
    for name in list(walk.sessions):
        await walk.do_delete(name, walk.sessions[name])
    left = walk.store.db.read(
        lambda connection: [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("sessions", "nodes", "frames", "node_origins", "attachments")
        ]
    )
    # What a replaced fork of a deleted session let go of is found by a sweep.
    if left[1]:
        await walk.store.vacuum(None)
        left[1] = walk.store.db.read(lambda connection: connection.execute("SELECT count(*) FROM nodes").fetchone()[0])
    assert left == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(20, 24))
async def test_history_that_an_older_lash_has_written_is_kept_and_goes_on(
    open_store: OpenStore, clock: ManualClock, database_path: Path, seed: int
) -> None:
    walk = Walk(open_store(), clock, seed)
    await walk.create()
    for _ in range(STEPS_OF_ONE_WALK):
        await walk.step()
    walk.store.close()
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as connection:
        with_nodes_by_session(connection)
    walk.store = open_store()
    await walk.check()
    assert walk.store.db.read(broken_rules) == []
    for _ in range(STEPS_OF_ONE_WALK):
        await walk.step()
    await walk.check()
    assert walk.store.db.read(broken_rules) == []


async def steps_of(store: SqliteStore, call: Callable[[], Awaitable[Any]]) -> int:
    """The steps of SQLite's virtual machine that `call` takes."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    def attach(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(tick, 1)

    def detach(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(None, 0)

    store.db.read(attach)
    await store.db.write(attach, durable=False)
    count = 0
    await call()
    steps = count
    store.db.read(detach)
    await store.db.write(detach, durable=False)
    return steps


async def cost(store: SqliteStore, clock: ManualClock, name: str, length: int) -> list[int]:
    """What it costs in a session of `length` messages: to fork its head, its middle, and a fork; to move its head back
    and to the end again; and to go on in a fork."""
    await make.create(store, clock, name)
    walk = Walk(store, clock, 0)
    walk.frame_of[name] = make.frames(name)[0].frame_id
    parent: str | None = None
    for start in range(0, length, 500):
        ids = [f"{name}-{number}" for number in range(start, min(start + 500, length))]
        nodes = make.nodes(ids, parent=parent, session_id=name)
        await walk.commit(name, ReplaceFull(nodes, ids[-1]) if parent is None else Append(nodes, ids[-1]))
        parent = ids[-1]
    middle, last = f"{name}-{length // 2}", f"{name}-{length - 1}"

    async def forked(target: str, source: str, at: str | None = None) -> None:
        await store.fork_session(SessionFork(source, target, clock.now_ms(), at))

    async def grown() -> None:
        nodes = chain([make.message(f"{name}-x")], parent_node_id=last, agent_frame_id=walk.frame_of[name], at_ms=1)
        await walk.commit(f"{name}-f1", Append(nodes, f"{name}-x"))

    return [
        await steps_of(store, lambda: forked(f"{name}-f1", name)),
        await steps_of(store, lambda: forked(f"{name}-f2", name, middle)),
        await steps_of(store, lambda: forked(f"{name}-f3", f"{name}-f2")),
        await steps_of(store, grown),
        await steps_of(store, lambda: walk.commit(name, Unchanged(middle))),
        await steps_of(store, lambda: walk.commit(name, Unchanged(last))),
        await steps_of(store, lambda: walk.commit(f"{name}-f1", Unchanged(middle))),
        await steps_of(store, lambda: store.load_node(f"{name}-f1", last)),
    ]


async def test_a_fork_and_a_move_of_the_head_cost_the_same_whatever_was_said(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    await cost(store, clock, "warm", 10)
    short = await cost(store, clock, "short", 10)
    long = await cost(store, clock, "long", 4_000)
    assert long == pytest.approx(short, rel=0.1)


async def test_a_session_that_was_written_before_forks_could_share_is_read_and_forked(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store, fence = await make.held(open_store, clock)
    await store.commit_runtime_state(make.commit(fence, make.append(["m1", "m2", "m3"])))
    await store.commit_runtime_state(make.commit(fence, make.append(["b2", "b3"], parent="m1"), expected=1))
    store.close()
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as connection:
        with_nodes_by_session(connection)
        for statement in (
            "DROP TABLE node_origins",
            "DROP INDEX nodes_branching",
            "ALTER TABLE sessions DROP COLUMN leaf_key",
            "DELETE FROM _sqlite_migrations WHERE name = '0005_shared_nodes'",
            "PRAGMA user_version = 4",
        ):
            connection.execute(statement)
    again = open_store()
    read = await again.load_session(make.SESSION, ReadScope.CONVERSATION)
    assert read is not None and [message.id for message in read.messages] == ["m1", "b2", "b3"]
    await again.fork_session(SessionFork(make.SESSION, "fork", clock.now_ms(), "m3"))
    forked = await again.load_session("fork", ReadScope.ACTIVE_PATH)
    assert forked is not None and [node.node_id for node in forked.nodes] == ["m1", "m2", "m3"]
