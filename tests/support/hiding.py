"""Nodes a host hides for good, as after a rewind, so that what a turn answered cannot be shown any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lash_cli.api import SqliteStore
from lash_cli.core.graph import orphaned_node_ids
from lash_cli.store.base import ReadScope
from lash_cli.system import SystemClock, SystemIds


def hide_what_was_left(path: Path, session_id: str) -> None:
    """Hide every node that is not on the path of the head, as a host may."""

    async def hide() -> None:
        store = SqliteStore.open(path, clock=SystemClock(), ids=SystemIds())
        try:
            graph = await store.load_session(session_id, ReadScope.FULL_GRAPH)
            assert graph is not None
            await store.tombstone_nodes(session_id, orphaned_node_ids(graph.nodes, graph.leaf_node_id))
        finally:
            await store.aclose()

    asyncio.run(hide())
