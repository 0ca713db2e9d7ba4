"""Nodes whose parent is gone or hidden: a check finds each, and a load brings the rest (contract 01 §8.2, §10).

The oracle walks by parents, row by row. Nothing is timed: rows on a path are
counted where they stand, and only what is beside it is looked at one by one.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable

import pytest
from support.forking import STEPS_OF_ONE_WALK, Walk

from lash_cli.core.commit import Append, Unchanged
from lash_cli.core.frames import initial_frame_id
from lash_cli.core.graph import chain
from lash_cli.errors import CorruptNode
from lash_cli.store.base import ReadScope, SessionFork
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite import invariants
from lash_cli.store.sqlite.invariants import broken_rules
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
S = make.SESSION


async def change(store: SqliteStore, statement: str) -> None:
    await store.db.write(lambda connection: connection.execute(statement), durable=False)


async def move(store: SqliteStore, node_id: str | None, session_id: str = S) -> None:
    """Move the head by hand, as `lash rewind` does."""
    position = await store.head_position(session_id)
    fence = await make.fence_of(store, session_id=session_id)
    delta = Unchanged(node_id)
    await store.commit_runtime_state(make.commit(fence, delta, expected=position.head_revision, release=True))


async def branch(store: SqliteStore, parent: str, *ids: str, session_id: str = S) -> None:
    """Say something below `parent`; the head stands there then."""
    position = await store.head_position(session_id)
    fence = await make.fence_of(store, session_id=session_id)
    messages = [make.message(node_id) for node_id in ids]
    nodes = chain(messages, parent_node_id=parent, agent_frame_id=initial_frame_id(S), at_ms=2)
    delta = Append(nodes, ids[-1])
    await store.commit_runtime_state(make.commit(fence, delta, expected=position.head_revision, release=True))


def told(store: SqliteStore) -> list[tuple[str, str | None]]:
    return [(broken.code, broken.session_id) for broken in store.db.read(broken_rules)]


async def loaded(store: SqliteStore, session_id: str = S) -> tuple[list[str], list[str]]:
    """What a load of the whole graph brings: the nodes that lead to a root, and those that do not."""
    read = await store.load_session(session_id, ReadScope.FULL_GRAPH)
    assert read is not None
    return [node.node_id for node in read.nodes], [node.node_id for node in read.cut_off]


@pytest.fixture
async def store(open_store: OpenStore, clock: ManualClock) -> SqliteStore:
    """One session of six messages, n1 to n6."""
    made = open_store()
    await make.create(made, clock)
    fence = await make.fence_of(made)
    nodes = make.nodes([f"n{number}" for number in range(1, 7)])
    await made.commit_runtime_state(make.commit(fence, Append(nodes, "n6"), release=True))
    return made


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM nodes WHERE seq = 4",
        "UPDATE nodes SET tombstoned = 1 WHERE seq = 4",
        "UPDATE nodes SET parent_seq = 6 WHERE seq = 5",
        "UPDATE nodes SET parent_seq = 40 WHERE seq = 5",
    ],
    ids=["gone", "hidden", "younger", "unknown"],
)
async def test_a_node_that_leads_to_no_root_is_told_when_the_head_stands_elsewhere(
    store: SqliteStore, clock: ManualClock, damage: str
) -> None:
    await move(store, "n3")
    assert told(store) == []
    await change(store, damage)
    assert told(store) == [("node_cut_off", S)]


async def test_a_hidden_node_on_the_path_breaks_it_as_one_that_is_gone(store: SqliteStore) -> None:
    await change(store, "UPDATE nodes SET tombstoned = 1 WHERE seq = 4")
    with pytest.raises(CorruptNode):
        await store.load_session(S, ReadScope.ACTIVE_PATH)
    (broken,) = store.db.read(broken_rules)
    assert (broken.code, broken.whole_until) == ("path_broken", "n3")


async def test_one_hole_is_told_once_however_many_nodes_hang_below_it(store: SqliteStore, clock: ManualClock) -> None:
    for number in range(30):
        await branch(store, "n4", f"b{number}")
    await move(store, "n3")
    await change(store, "DELETE FROM nodes WHERE seq = 4")
    assert told(store) == [("node_cut_off", S)]


async def test_what_forks_share_and_hang_elsewhere_is_no_hole(store: SqliteStore, clock: ManualClock) -> None:
    await store.fork_session(SessionFork(S, "fork", clock.now_ms()))
    await branch(store, "n2", "f1", "f2", session_id="fork")
    await branch(store, "n6", "f3", session_id="fork")
    await store.fork_session(SessionFork("fork", "again", clock.now_ms()))
    await branch(store, "n4", "g1", session_id="again")
    await branch(store, "f3", "g2", session_id="again")
    assert told(store) == []
    # What the source hides, and what outlives it, is shown by its forks all the same.
    await move(store, "n1")
    await store.tombstone_nodes(S, ["n2"])
    assert told(store) == []
    await store.delete_session(S, clock.now_ms())
    assert told(store) == []


@pytest.mark.parametrize("source", ["there", "deleted"])
async def test_a_hole_in_what_a_fork_shares_is_told_for_it_wherever_the_head_stands(
    store: SqliteStore, clock: ManualClock, source: str
) -> None:
    await store.fork_session(SessionFork(S, "fork", clock.now_ms()))
    await branch(store, "n6", "f1", session_id="fork")
    await branch(store, "n2", "f2", session_id="fork")
    if source == "deleted":
        await store.delete_session(S, clock.now_ms())
    await change(store, "DELETE FROM nodes WHERE node_id = 'n4'")
    of_source = [("path_broken", S)] if source == "there" else []
    assert told(store) == [*of_source, ("node_cut_off", "fork")]


async def test_a_fork_whose_shared_root_is_gone_is_told(store: SqliteStore, clock: ManualClock) -> None:
    await store.fork_session(SessionFork(S, "fork", clock.now_ms()))
    await move(store, None, session_id="fork")
    await store.delete_session(S, clock.now_ms())
    await change(store, "DELETE FROM nodes WHERE seq = 1")
    assert told(store) == [("node_cut_off", "fork")]


@pytest.mark.parametrize("damage", ["DELETE FROM nodes WHERE seq = 4", "UPDATE nodes SET tombstoned = 1 WHERE seq = 4"])
async def test_a_load_of_every_branch_brings_what_is_cut_off_apart_from_the_rest(
    store: SqliteStore, clock: ManualClock, damage: str
) -> None:
    await branch(store, "n5", "b1", "b2")
    await branch(store, "n3", "n7")
    await change(store, damage)
    read = await store.load_session(S, ReadScope.FULL_GRAPH)
    assert read is not None and read.leaf_node_id == "n7"
    assert [node.node_id for node in read.nodes] == ["n1", "n2", "n3", "n7"]
    below = [(node.node_id, node.parent_node_id) for node in read.cut_off]
    assert below == [("n5", None), ("n6", "n5"), ("b1", "n5"), ("b2", "b1")]


@pytest.mark.parametrize(
    "damage", ["DELETE FROM nodes WHERE seq IN (1, 4)", "UPDATE nodes SET tombstoned = 1 WHERE seq = 6"]
)
async def test_a_load_of_every_branch_is_refused_while_the_head_leads_to_no_root(
    store: SqliteStore, damage: str
) -> None:
    await change(store, damage)
    with pytest.raises(CorruptNode):
        await store.load_session(S, ReadScope.FULL_GRAPH)


async def test_a_fork_shows_what_is_left_of_the_nodes_it_shares(store: SqliteStore, clock: ManualClock) -> None:
    await branch(store, "n2", "b1", "b2")  # 7 and 8: what begins a branch is where runs begin
    await store.fork_session(SessionFork(S, "fork", clock.now_ms()))
    await branch(store, "b2", "f1", session_id="fork")
    await store.fork_session(SessionFork("fork", "again", clock.now_ms()))
    await branch(store, "f1", "g1", session_id="again")
    await move(store, "n2", session_id="again")
    await change(store, "DELETE FROM nodes WHERE node_id = 'b1'")
    kept, cut_off = await loaded(store, "again")
    # What the missing row hung below is not known; nothing that is left is passed over for that.
    assert {"n1", "n2"} <= set(kept) and cut_off == ["b2", "f1", "g1"]
    await change(store, "DELETE FROM nodes WHERE node_id = 'n1'")
    await move(store, None, session_id="again")
    kept, cut_off = await loaded(store, "again")
    assert kept == [] and cut_off[-4:] == ["n6", "b2", "f1", "g1"]


class Rows:
    """What is in the file, by session: the nodes it shows, each with its parent, and where its head stands."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.by_place = {
            (key, seq): (node_id, parent, bool(hidden))
            for key, seq, node_id, parent, hidden in connection.execute(
                "SELECT session_key, seq, node_id, parent_seq, tombstoned FROM nodes"
            )
        }
        self.origins: dict[int, list[tuple[int, int]]] = {}
        for key, upto, origin in connection.execute("SELECT * FROM node_origins ORDER BY upto_seq"):
            self.origins.setdefault(key, []).append((upto, origin))
        self.sessions = connection.execute("SELECT session_id, session_key, leaf_seq FROM sessions").fetchall()

    def place(self, key: int, seq: int) -> tuple[int, int]:
        return next(((origin, seq) for upto, origin in self.origins.get(key, ()) if seq <= upto), (key, seq))

    def leads_to_root(self, key: int, seq: int | None) -> bool:
        while seq is not None:
            place = self.place(key, seq)
            row = self.by_place.get(place)
            if row is None or (row[2] and place[0] == key):
                return False
            seq = row[1]
        return True

    def shared_until(self, key: int) -> int | None:
        """The last node that a fork shares; None for any other session."""
        return max((upto for upto, _ in self.origins.get(key, ())), default=None)

    def own(self, key: int) -> dict[str, int]:
        """The live rows of the session itself."""
        return {row[0]: seq for (owner, seq), row in self.by_place.items() if owner == key and not row[2]}


@pytest.mark.parametrize("seed", range(12))
async def test_a_check_names_a_session_exactly_where_a_load_finds_something_cut_off(
    open_store: OpenStore, clock: ManualClock, seed: int
) -> None:
    walk = Walk(open_store(), clock, seed)
    await walk.create()
    for _ in range(STEPS_OF_ONE_WALK):
        await walk.step()
        assert told(walk.store) == []
    chance = random.Random(seed)
    places = walk.store.db.read(lambda connection: connection.execute("SELECT place FROM nodes").fetchall())
    for verb in ("DELETE FROM nodes", "UPDATE nodes SET tombstoned = 1"):
        await change(walk.store, f"{verb} WHERE place = {chance.choice(places)[0]}")
    rows = walk.store.db.read(Rows)
    broken = walk.store.db.read(broken_rules)
    for session_id, key, leaf_seq in rows.sessions:
        codes = {one.code for one in broken if one.session_id == session_id}
        if not rows.leads_to_root(key, leaf_seq):
            assert codes - {"leaf_missing"} == {"path_broken"}
            continue
        read = await walk.store.load_session(session_id, ReadScope.FULL_GRAPH)
        assert read is not None
        own = rows.own(key)
        lost = {node_id for node_id, seq in own.items() if not rows.leads_to_root(key, seq)}
        assert {node.node_id for node in read.cut_off} & own.keys() == lost
        assert {node_id for node_id in own if await walk.store.is_cut_off(session_id, node_id)} == lost
        assert {node.node_id for node in read.nodes} & own.keys() == own.keys() - lost
        # A fork may lack the very last node it shares: nothing hangs below that, and it is gone all the same.
        is_sound = not read.cut_off and rows.leads_to_root(key, rows.shared_until(key))
        assert codes == (set() if is_sound else {"node_cut_off"}), session_id


async def test_what_is_on_a_path_is_counted_and_only_what_is_beside_it_is_looked_at_row_by_row(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    rule = next(rule for rule in invariants._RULES if rule.__name__ == "_broken_paths")
    steps = 0

    def tick() -> int:
        nonlocal steps
        steps += 1
        return 0

    def cost(connection: sqlite3.Connection) -> int:
        nonlocal steps
        steps = 0
        connection.set_progress_handler(tick, 1)
        assert list(rule(connection)) == []
        connection.set_progress_handler(None, 0)
        return steps

    costs = [store.db.read(cost)]
    for session_id, head in (("on", "on-999"), ("beside", "beside-0")):
        await make.create(store, clock, session_id)
        fence = await make.fence_of(store, session_id=session_id)
        ids = [f"{session_id}-{number}" for number in range(1000)]
        nodes = make.nodes(ids, session_id=session_id)
        await store.commit_runtime_state(make.commit(fence, Append(nodes, ids[-1]), release=True))
        if head != ids[-1]:
            await move(store, head, session_id)
        costs.append(store.db.read(cost))
    on_path, beside = costs[1] - costs[0], costs[2] - costs[1]
    assert on_path <= 5 * 1000 and beside <= 30 * 1000
