"""History without an opened session: forking, moving a head, the message tree (contract 01 §4.8, §8.2, 08 §5.1).

All of it reads and writes through the store and keeps every node: a fork
shares what was said, a moved head leaves its branch where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lash_cli.api.across import AcrossProcesses, require_described, require_session_id
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.errors import NotFoundError
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionFork, SessionMeta

if TYPE_CHECKING:
    from lash_cli.core.graph import SessionGraph, SessionNode
    from lash_cli.core.history import TreeEntry
    from lash_cli.runtime.history import HeadMove


class SessionHistories(AcrossProcesses):
    """The part of `LashCore` that works on the history of any session. Every verb raises `LashRuntimeError`
    (`missing_session_store_factory`) for a core without a store."""

    async def fork_session(
        self,
        source_session_id: str,
        *,
        session_id: str | None = None,
        at: str | None = None,
        name: str | None = None,
        cwd: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> SessionMeta:
        """A new session that goes on from the head of another, or `at` one of its nodes or turns.

        Its cost does not depend on how much was said: the nodes are shared, and
        stay when the source is deleted. The fork takes the configuration and
        the directory of the source and starts with no turns and no cost. Nobody
        is waited for: what a running turn of the source has not committed is
        not in it. Raises `UsageError` for an id, a name or labels of the wrong shape,
        `NotFoundError` (`session_not_found`, `node_not_found`),
        `SessionDeleted`, and `ConflictError` (`session_exists`,
        `session_name_taken`, `node_not_resumable`).
        """
        store = self.store
        if session_id is not None:
            require_session_id(session_id)
        require_described(name, cwd, None, labels)
        node_id = None if at is None else await self._node_at(store, source_session_id, at)
        if node_id is not None:
            from lash_cli.runtime.history import find_node, require_resumable

            await require_resumable(store, await find_node(store, source_session_id, node_id), source_session_id)
        request = SessionFork(
            source_session_id,
            self.host.ids.new("s") if session_id is None else session_id,
            self.host.clock.now_ms(),
            node_id,
            name,
            cwd,
            labels or {},
        )
        return await store.fork_session(request)

    async def _node_at(self, store: RuntimePersistence, session_id: str, at: str) -> str:
        """The node `at` names: one of that id, or the last one of a committed turn of that id."""
        if await store.load_node(session_id, at) is not None:
            return at
        turn = await store.turn(session_id, at)
        if turn is not None and turn.last_node_id is not None:
            return turn.last_node_id
        raise NotFoundError(
            f"session {session_id} has no node and no committed turn {at!r}",
            code="node_not_found",
            hint=f"see what it has: lash tree {session_id}",
            details={"session": session_id, "node": at},
        )

    async def branch_to_node(
        self, session_id: str, node_id: str | None, *, owner: LeaseOwnerIdentity | None = None
    ) -> HeadMove:
        """Move the head of a session to one of its nodes, None for before everything; committed before it returns.

        What is said next makes a branch there. A node of an older frame makes
        that frame current again. Turns keep counting and cost stays booked.
        Raises `SessionExecutionBusy`, `SessionClosed`, `NotFoundError`
        (`session_not_found`, `node_not_found`) and `ConflictError`
        (`node_not_resumable`, `turn_unfinished`, `session_empty`).
        """
        from lash_cli.runtime.history import move_head

        with self._borrowing():
            return await move_head(self.host, self.store, self._owner_of(session_id, owner), session_id, node_id)

    async def branch_before_node(
        self, session_id: str, node_id: str, *, owner: LeaseOwnerIdentity | None = None
    ) -> HeadMove:
        """Move the head to where a node was said, so that what is said next stands beside it.

        Raises as `branch_to_node`.
        """
        from lash_cli.runtime.history import move_head

        owner = self._owner_of(session_id, owner)
        with self._borrowing():
            return await move_head(self.host, self.store, owner, session_id, node_id, is_before=True)

    async def session_graph(self, session_id: str) -> SessionGraph:
        """Every committed node of a session, those of other branches and of older frames included, and its head; apart
        from them those that lead to no root, because a node above them is gone."""
        from lash_cli.core.graph import SessionGraph

        read = await self.store.load_session(session_id, ReadScope.FULL_GRAPH)
        return SessionGraph() if read is None else SessionGraph(read.nodes, read.leaf_node_id, read.cut_off)

    async def get_historic_node(self, session_id: str, node_id: str) -> SessionNode:
        """One committed node of a session, on whatever branch it is, read alone (contract 01 §10).

        Raises `NotFoundError` (`node_not_found`) for one that is not there, or hidden.
        """
        from lash_cli.runtime.history import find_node

        return await find_node(self.store, session_id, node_id)

    async def message_tree(self, session_id: str) -> tuple[TreeEntry, ...]:
        """Every message of a session, those of other branches and frames included; empty when nothing was said."""
        from lash_cli.core.history import message_tree

        read = await self.store.load_session(session_id, ReadScope.FULL_GRAPH)
        return () if read is None else message_tree(read.nodes, read.leaf_node_id, read.cut_off)
