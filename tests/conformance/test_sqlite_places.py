"""Where nodes stand in the file (design D23): what a message costs, and how every statement finds it."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.old_files import with_nodes_by_session

import lash_cli.store.sqlite
from lash_cli.cli import completion_rows
from lash_cli.core.commit import Append, ReplaceFull
from lash_cli.core.content import Role
from lash_cli.core.frames import initial_frame_id
from lash_cli.core.graph import chain
from lash_cli.store.base import SessionCreate, SessionFork
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.search import found, say, search
from lash_cli.store.sqlite import places
from lash_cli.store.sqlite.invariants import broken_rules
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
PAGE_BYTES = 4096

# What looks at the nodes of all sessions because that is asked for, and what is to move or to check all of them.
WALKS_EVERYTHING = {
    "node_tables._COPY",
    "maintenance._ALL_HIDDEN",
    "maintenance._AGED_HIDDEN",
    "secrets._PLACES",
    "invariants._ORPHANS",
    "invariants._RECORDS",
}
_STATEMENT = re.compile(r"\s*(SELECT|UPDATE|DELETE|WITH)\b.*\bnodes\b", re.DOTALL)


def statements() -> Iterator[tuple[str, str]]:
    """Every whole statement of the program that names the nodes, by where it stands."""
    modules = [
        importlib.import_module(f"lash_cli.store.sqlite.{module.name}")
        for module in pkgutil.iter_modules(lash_cli.store.sqlite.__path__)
    ]
    for module in (*modules, completion_rows):
        for name, value in vars(module).items():
            if isinstance(value, str) and name.isupper() and _STATEMENT.match(value):
                yield f"{module.__name__.rpartition('.')[2]}.{name}", value


def plan_of(connection: sqlite3.Connection, statement: str) -> list[str]:
    named = dict.fromkeys(re.findall(r":(\w+)", statement), 1)
    count = max([statement.count("?"), *map(int, re.findall(r"\?(\d+)", statement))])
    values = named or [1] * count
    while True:
        try:
            rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        except sqlite3.ProgrammingError as error:
            # A number may be used more than once.
            needed = re.search(r"uses (\d+)", str(error))
            assert needed is not None, error
            values = [1] * int(needed[1])
        else:
            return [row[3] for row in rows]


async def test_no_statement_walks_nodes_that_it_does_not_want(open_store: OpenStore) -> None:
    looked_at = set()
    connection = open_store().db.read(lambda connection: connection)
    for name, statement in statements():
        if name in WALKS_EVERYTHING:
            continue
        looked_at.add(name)
        for step in plan_of(connection, statement):
            assert not re.match(r"SCAN (nodes|n)\b", step), (name, step)
            # A session is found by it, and a node in it; all nodes of a session are found by their places.
            assert "nodes_by_id (session_key=?)" not in step, (name, step)
    assert len(looked_at) >= 25
    assert {"graph._RUN", "lineage._RUN_START", "searching._FIND", "completion_rows._NODES"} <= looked_at


@pytest.mark.parametrize(("length", "most"), [(800, 1_400), (1_500, 2_300), (3_500, PAGE_BYTES + 300)])
async def test_a_long_message_takes_little_more_than_its_bytes(
    open_store: OpenStore, clock: ManualClock, database_path: Path, length: int, most: int
) -> None:
    store, fence = await make.held(open_store, clock)
    count, parent = 200, None
    for number in range(count):
        said = make.message(f"m{number}", "x" * length, Role.ASSISTANT)
        nodes = chain([said], parent_node_id=parent, agent_frame_id=make.frames()[0].frame_id, at_ms=1)
        parent = nodes[-1].node_id
        await store.commit_runtime_state(make.commit(fence, Append(nodes, parent), expected=number or None))
    store.close()
    with contextlib.closing(sqlite3.connect(database_path)) as connection:
        taken = _bytes_of(connection, "nodes")
    assert taken / count <= most


def _bytes_of(connection: sqlite3.Connection, table: str) -> int:
    """What dropping a table gives back."""
    (before,) = connection.execute("PRAGMA freelist_count").fetchone()
    indexes = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ?", (table,))
    for (name,) in indexes.fetchall():
        connection.execute(f"DROP INDEX {name}")
    (without_indexes,) = connection.execute("PRAGMA freelist_count").fetchone()
    connection.execute(f"DROP TABLE {table}")
    (after,) = connection.execute("PRAGMA freelist_count").fetchone()
    assert before <= without_indexes < after
    return int((after - without_indexes) * PAGE_BYTES)


async def test_what_an_older_lash_has_written_is_found_and_forgotten_as_before(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store = open_store()
    first, second = await say(store, clock, "the first of them", "the second of them")
    assert await found(store, "them") == [second, first]
    store.close()
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as connection:
        with_nodes_by_session(connection)
    again = open_store()
    assert await found(again, "them") == [second, first]

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE nodes SET body = replace(body, 'second', 'last') WHERE node_id = ?", (second,))

    await again.db.write(change, durable=False)
    assert await found(again, "last") == [second]
    await again.delete_session(make.SESSION, clock.now_ms())
    assert await found(again, "them") == []
    (texts,) = again.db.read(lambda connection: connection.execute("SELECT count(*) FROM message_text").fetchone())
    assert texts == 0


async def test_what_is_written_at_the_places_of_one_session_is_not_told_of_another(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    _, second = await say(store, clock, "first", "the needle")
    await say(store, clock, "one", "two", "three", session_id="next")
    branch = [make.message("branch", "beside three", Role.USER)]
    fence = await make.fence_of(store, session_id="next")
    nodes = chain(branch, parent_node_id="next-m1", agent_frame_id=initial_frame_id("next"), at_ms=2)
    await store.commit_runtime_state(make.commit(fence, Append(nodes, "branch"), expected=1, release=True))
    (hit,) = (await search(store, "needle", context=3)).found
    assert hit.node_id == second and hit.later == ()


async def test_clusters_that_nobody_shows_any_more_are_given_back_whatever_stands_beside_them(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    names = ["a", "b", "c", "d"]
    for name in names:
        await say(store, clock, "shared", session_id=name)
    for name in names:
        await store.fork_session(SessionFork(name, f"{name}-fork", clock.now_ms()))
    for name in ("a", "b", "d"):
        await store.delete_session(name, clock.now_ms())
    for name in ("a", "b", "d"):
        fork = f"{name}-fork"
        fence = await make.fence_of(store, session_id=fork)
        fresh = chain(
            [make.message(f"{fork}-new", "new")], parent_node_id=None, agent_frame_id=initial_frame_id(fork), at_ms=2
        )
        replacing = make.commit(fence, ReplaceFull(fresh, f"{fork}-new"), with_frames=make.frames(fork), release=True)
        await store.commit_runtime_state(replacing)
    assert (await store.vacuum(None))["nodes"] == 3
    left = store.db.read(lambda connection: connection.execute("SELECT node_id FROM nodes ORDER BY 1").fetchall())
    assert left == [("a-fork-new",), ("b-fork-new",), ("c-m0",), ("d-fork-new",)]


async def test_a_vacuum_of_one_session_leaves_what_others_have_hidden(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    for session_id in ("a", "b", "c"):
        await say(store, clock, "old", session_id=session_id)
        fence = await make.fence_of(store, session_id=session_id)
        await store.commit_runtime_state(make.commit(fence, ReplaceFull((), None), with_frames=make.frames(session_id)))
    assert (await store.vacuum("b"))["nodes"] == 1
    assert (await store.vacuum(None))["nodes"] == 2


async def test_a_node_at_the_place_of_the_next_one_is_told_as_broken(open_store: OpenStore, clock: ManualClock) -> None:
    store = open_store()
    await say(store, clock, "one", "two")
    await say(store, clock, "beside it", session_id="next")
    assert store.db.read(broken_rules) == []
    await store.db.write(
        lambda connection: connection.execute("UPDATE sessions SET next_seq = 2 WHERE session_id = ?", (make.SESSION,)),
        durable=False,
    )
    assert [(broken.code, broken.session_id) for broken in store.db.read(broken_rules)] == [
        ("seq_reused", make.SESSION)
    ]


async def test_what_a_younger_session_names_keeps_no_attachment_of_one_that_is_gone(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    await store.create_session(SessionCreate(make.SESSION, make.CONFIG, clock.now_ms()))
    shared, own = [
        await store.put_attachment(make.SESSION, data, media_type="text/plain", owner=None, now_ms=1)
        for data in (b"shared", b"own")
    ]
    first, _ = await say(store, clock, f"see {shared}", f"see {own}")
    await store.fork_session(SessionFork(make.SESSION, "fork", clock.now_ms(), first))
    await say(store, clock, f"also {own}", session_id="younger")
    await store.delete_session(make.SESSION, clock.now_ms())
    left = store.db.read(lambda connection: connection.execute("SELECT attachment_ref FROM attachments").fetchall())
    assert set(left) == {(shared,)}


def test_completion_knows_the_places_as_the_store_does() -> None:
    assert (completion_rows._PLACE_BITS, completion_rows._LAST_SEQ) == (places.POSITION_BITS, places.LAST_POSITION)
