"""Nodes whose parent is gone or hidden: a check finds each (contract 01 §8.2, §10).

Nothing is timed: rows on a path are counted where they stand, and only what is
beside it is looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lash_cli.core.commit import Append, Unchanged
from lash_cli.core.frames import initial_frame_id
from lash_cli.core.graph import chain
from lash_cli.errors import CorruptNode
from lash_cli.store.base import ReadScope, SessionFork
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite.invariants import broken_rules
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]
S = make.SESSION


async def change(store: SqliteStore, statement: str) -> None:
    await store.db.write(lambda connection: connection.execute(statement), durable=False)


async def move(store: SqliteStore, clock: ManualClock, node_id: str | None, session_id: str = S) -> None:
    """Move the head by hand, as `lash rewind` does."""
    position = await store.head_position(session_id)
    fence = await make.fence_of(store, clock, session_id=session_id)
    delta = Unchanged(node_id)
    await store.commit_runtime_state(make.commit(fence, delta, expected=position.head_revision, release=True))


async def branch(store: SqliteStore, clock: ManualClock, parent: str, *ids: str, session_id: str = S) -> None:
    """Say something below `parent`; the head stands there then."""
    position = await store.head_position(session_id)
    fence = await make.fence_of(store, clock, session_id=session_id)
    messages = [make.message(node_id) for node_id in ids]
    nodes = chain(messages, parent_node_id=parent, agent_frame_id=initial_frame_id(S), at_ms=2)
    delta = Append(nodes, ids[-1])
    await store.commit_runtime_state(make.commit(fence, delta, expected=position.head_revision, release=True))


def told(store: SqliteStore) -> list[tuple[str, str | None]]:
    return [(broken.code, broken.session_id) for broken in store.db.read(broken_rules)]


@pytest.fixture
async def store(open_store: OpenStore, clock: ManualClock) -> SqliteStore:
    """One session of six messages, n1 to n6."""
    made = open_store()
    await make.create(made, clock)
    fence = await make.fence_of(made, clock)
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
    await move(store, clock, "n3")
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
        await branch(store, clock, "n4", f"b{number}")
    await move(store, clock, "n3")
    await change(store, "DELETE FROM nodes WHERE seq = 4")
    assert told(store) == [("node_cut_off", S)]


async def test_what_forks_share_and_hang_elsewhere_is_no_hole(store: SqliteStore, clock: ManualClock) -> None:
    await store.fork_session(SessionFork(S, "fork", clock.now_ms()))
    await branch(store, clock, "n2", "f1", "f2", session_id="fork")
    await branch(store, clock, "n6", "f3", session_id="fork")
    await store.fork_session(SessionFork("fork", "again", clock.now_ms()))
    await branch(store, clock, "n4", "g1", session_id="again")
    await branch(store, clock, "f3", "g2", session_id="again")
    assert told(store) == []
    # What the source hides, and what outlives it, is shown by its forks all the same.
    await move(store, clock, "n1")
    await store.tombstone_nodes(S, ["n2"])
    assert told(store) == []
    await store.delete_session(S, clock.now_ms())
    assert told(store) == []


@pytest.mark.parametrize("source", ["there", "deleted"])
async def test_a_hole_in_what_a_fork_shares_is_told_for_it_wherever_the_head_stands(
    store: SqliteStore, clock: ManualClock, source: str
) -> None:
    await store.fork_session(SessionFork(S, "fork", clock.now_ms()))
    await branch(store, clock, "n6", "f1", session_id="fork")
    await branch(store, clock, "n2", "f2", session_id="fork")
    if source == "deleted":
        await store.delete_session(S, clock.now_ms())
    await change(store, "DELETE FROM nodes WHERE node_id = 'n4'")
    of_source = [("path_broken", S)] if source == "there" else []
    assert told(store) == [*of_source, ("node_cut_off", "fork")]


async def test_a_fork_whose_shared_root_is_gone_is_told(store: SqliteStore, clock: ManualClock) -> None:
    await store.fork_session(SessionFork(S, "fork", clock.now_ms()))
    await move(store, clock, None, session_id="fork")
    await store.delete_session(S, clock.now_ms())
    await change(store, "DELETE FROM nodes WHERE seq = 1")
    assert told(store) == [("node_cut_off", "fork")]
