"""Random lives of a store full of forks, beside copies of what each session must show."""

from __future__ import annotations

import random
from typing import Any

from lash_cli.core.commit import Append, ReplaceFull, Unchanged
from lash_cli.core.graph import chain
from lash_cli.errors import ConflictError
from lash_cli.store.base import ReadScope, SessionFork
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite.store import SqliteStore

STEPS_OF_ONE_WALK = 120


class Copy:
    """What a session must show: the parent of every node, and its leaf."""

    def __init__(self, parents: dict[str, str | None], leaf: str | None, inherited: frozenset[str]) -> None:
        self.parents = parents
        self.leaf = leaf
        self.inherited = inherited

    def path(self, leaf: str | None) -> list[str]:
        path = []
        while leaf is not None:
            path.append(leaf)
            leaf = self.parents[leaf]
        return path[::-1]


class Walk:
    """One random life of a store full of forks."""

    def __init__(self, store: SqliteStore, clock: ManualClock, seed: int) -> None:
        self.store = store
        self.clock = clock
        self.random = random.Random(seed)
        self.sessions: dict[str, Copy] = {}
        self.frame_of: dict[str, str] = {}
        self.count = 0

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    async def commit(self, name: str, graph: Append | ReplaceFull | Unchanged) -> None:
        position = await self.store.head_position(name)
        fence = await make.fence_of(self.store, session_id=name)
        expected = None if isinstance(graph, ReplaceFull) else position.head_revision
        frames = make.frames(name) if expected is None else None
        await self.store.commit_runtime_state(
            make.commit(fence, graph, expected=expected, with_frames=frames, release=True)
        )

    async def create(self) -> None:
        name = self.fresh("s")
        await make.create(self.store, self.clock, name)
        nodes = self.nodes(name, None)
        await self.commit(name, ReplaceFull(nodes, nodes[-1].node_id))
        self.frame_of[name] = make.frames(name)[0].frame_id
        self.adopt(name, Copy({}, None, frozenset()), nodes)

    def nodes(self, name: str, parent: str | None) -> Any:
        frame_id = self.frame_of.get(name, make.frames(name)[0].frame_id)
        messages = [make.message(self.fresh("n")) for _ in range(self.random.randint(1, 4))]
        return chain(messages, parent_node_id=parent, agent_frame_id=frame_id, at_ms=1)

    def adopt(self, name: str, copy: Copy, nodes: Any) -> None:
        copy.parents.update({node.node_id: node.parent_node_id for node in nodes})
        copy.leaf = nodes[-1].node_id
        self.sessions[name] = copy

    async def step(self) -> None:
        if not self.sessions:
            await self.create()
            return
        name = self.random.choice(list(self.sessions))
        copy = self.sessions[name]
        await getattr(self, "do_" + self.random.choice(ACTIONS))(name, copy)

    async def do_append(self, name: str, copy: Copy) -> None:
        nodes = self.nodes(name, copy.leaf)
        await self.commit(name, Append(nodes, nodes[-1].node_id))
        self.adopt(name, copy, nodes)

    async def do_move(self, name: str, copy: Copy) -> None:
        copy.leaf = self.random.choice([*copy.parents, None])
        await self.commit(name, Unchanged(copy.leaf))

    async def do_fork(self, name: str, copy: Copy) -> None:
        at = self.random.choice([None, *copy.parents])
        target = self.fresh("s")
        await self.store.fork_session(SessionFork(name, target, self.clock.now_ms(), at))
        path = copy.path(copy.leaf if at is None else at)
        self.sessions[target] = Copy({node: copy.parents[node] for node in path}, (path or [None])[-1], frozenset(path))
        self.frame_of[target] = self.frame_of[name]

    async def do_replace(self, name: str, copy: Copy) -> None:
        self.frame_of.pop(name)
        nodes = self.nodes(name, None)
        await self.commit(name, ReplaceFull(nodes, nodes[-1].node_id))
        self.frame_of[name] = make.frames(name)[0].frame_id
        self.adopt(name, Copy({}, None, frozenset()), nodes)

    async def do_tombstone(self, name: str, copy: Copy) -> None:
        node = self.random.choice([*copy.parents, None])
        below = [other for other in copy.parents if node in copy.path(other)]
        on_path = set(copy.path(copy.leaf))
        try:
            await self.store.tombstone_nodes(name, [] if node is None else [node])
        except ConflictError as error:
            is_inherited = node in copy.inherited
            assert error.code == ("node_inherited" if is_inherited else "node_on_active_path")
            assert is_inherited or on_path.intersection(below)
            return
        assert node not in copy.inherited and not on_path.intersection(below)
        for other in below:
            del copy.parents[other]

    async def do_vacuum(self, name: str, copy: Copy) -> None:
        await self.store.vacuum(self.random.choice([name, None]))

    async def do_delete(self, name: str, copy: Copy) -> None:
        await self.store.delete_session(name, self.clock.now_ms())
        del self.sessions[name]

    async def check(self) -> None:
        for name, copy in self.sessions.items():
            whole = await self.store.load_session(name, ReadScope.FULL_GRAPH)
            active = await self.store.load_session(name, ReadScope.ACTIVE_PATH)
            said = await self.store.load_session(name, ReadScope.CONVERSATION)
            assert whole is not None and active is not None and said is not None
            assert {node.node_id: node.parent_node_id for node in whole.nodes} == copy.parents
            assert [node.node_id for node in active.nodes] == copy.path(copy.leaf)
            assert [message.id for message in said.messages] == copy.path(copy.leaf)
            assert whole.leaf_node_id == active.leaf_node_id == copy.leaf
            for node_id in (f"n{number}" for number in range(1, self.count, 7)):
                node = await self.store.load_node(name, node_id)
                assert (node is not None) == (node_id in copy.parents)


ACTIONS = ("append", "append", "append", "move", "move", "fork", "fork", "replace", "tombstone", "vacuum", "delete")
