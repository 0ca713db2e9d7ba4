"""The transcript page by page, newest first (contract 04 §8).

A page begins at a node and not at a number, so what is said meanwhile moves
nothing: the next page begins where the last one ended. Only what a page holds
is read, however long the transcript is, and a page stays in the frame it
began in.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from lash_cli.core.content import Message
from lash_cli.core.graph import ConversationPayload, SessionNode
from lash_cli.store.base import ReadScope, RuntimePersistence
from lash_cli.store.live import LiveReading

# The nodes from one of them back to the root, none when there is no such node. A leaf that is None is the end of what a
# session holds that no store has.
WalkBack = Callable[[str | None], AsyncGenerator[SessionNode, None]]


class TranscriptPage(msgspec.Struct, frozen=True):
    """Some messages of a transcript, newest first. `before` asks for the next older page; None when there is none."""

    messages: tuple[Message, ...]
    before: str | None = None


def stored_path(store: RuntimePersistence, session_id: str) -> WalkBack:
    """The nodes of a stored session, read one by one."""

    async def walk(node_id: str | None) -> AsyncGenerator[SessionNode, None]:
        while node_id is not None:
            node = await store.load_node(session_id, node_id)
            if node is None:
                return
            yield node
            node_id = node.parent_node_id

    return walk


def resident_path(log: LiveReading, session_id: str) -> WalkBack:
    """The nodes of a session that only this process holds."""

    async def walk(node_id: str | None) -> AsyncGenerator[SessionNode, None]:
        read = (await log.cut(session_id, ReadScope.FULL_GRAPH)).read
        if read is None:
            return
        nodes = {node.node_id: node for node in read.nodes}
        node = nodes.get(node_id or read.leaf_node_id or "")
        while node is not None:
            yield node
            node = nodes.get(node.parent_node_id or "")

    return walk


async def read_page(
    walk: WalkBack, leaf_node_id: str | None, frame_id: str | None, limit: int, *, is_behind: bool
) -> TranscriptPage | None:
    """Up to `limit` messages from a node back, those of the frame only (None: that of the node). `is_behind` leaves the
    node itself out. None when there is no such node."""
    found: list[SessionNode] = []
    is_known = False
    async with aclosing(walk(leaf_node_id)) as nodes:
        async for node in nodes:
            frame_id = frame_id or node.agent_frame_id
            if node.agent_frame_id != frame_id or len(found) > limit:
                break
            if isinstance(node.payload, ConversationPayload) and (is_known or not is_behind):
                found.append(node)
            is_known = True
    if is_behind and not is_known:
        return None
    shown = found[:limit]
    messages = tuple(node.payload.message for node in shown if isinstance(node.payload, ConversationPayload))
    return TranscriptPage(messages, shown[-1].node_id if len(found) > limit else None)
