"""The message tree of a session: who said what below what, and which of it is active (contract 01 §8.2).

Nodes that are no messages are left out; a message hangs below the nearest
message above it. Siblings stand in the order they were said. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from lash_cli.core.content import Message
from lash_cli.core.graph import ConversationPayload, SessionNode


class TreeEntry(msgspec.Struct, frozen=True):
    """One message of the tree, in the order of a walk from the root, siblings by age (contract 01 §8.2).

    `branch` counts the places above it where history went more than one way,
    `children` the messages below it. `is_active` is on the path of the head,
    `is_head` is the last message on it. `is_cut_off` is one of those that lead to no root, because a node above them is
    gone; they stand behind all others, each piece of them from its own top.
    """

    message: Message
    node_id: str
    parent_node_id: str | None
    agent_frame_id: str
    at_ms: int
    branch: int
    children: int
    is_active: bool
    is_head: bool
    is_cut_off: bool = False


def message_tree(
    nodes: Iterable[SessionNode], leaf_node_id: str | None, cut_off: Iterable[SessionNode] = ()
) -> tuple[TreeEntry, ...]:
    """The tree of `nodes`, whose parents stand before their children; `leaf_node_id` is the head. `cut_off` are the
    nodes that lead to no root; the topmost name no parent."""
    lost = (msgspec.structs.replace(entry, is_cut_off=True) for entry in _entries(cut_off, None))
    return (*_entries(nodes, leaf_node_id), *lost)


def _entries(nodes: Iterable[SessionNode], leaf_node_id: str | None) -> Iterator[TreeEntry]:
    by_id: dict[str, SessionNode] = {}
    nearest: dict[str, str | None] = {}
    children: dict[str | None, list[str]] = {None: []}
    for node in nodes:
        by_id[node.node_id] = node
        parent = node.parent_node_id
        above = None if parent is None else nearest.get(parent)
        if isinstance(node.payload, ConversationPayload) and not node.payload.message.is_transient:
            nearest[node.node_id] = node.node_id
            children.setdefault(above, []).append(node.node_id)
            children.setdefault(node.node_id, [])
        else:
            nearest[node.node_id] = above
    active: set[str] = set()
    head = None if leaf_node_id is None else nearest.get(leaf_node_id)
    cursor = leaf_node_id
    while cursor is not None and cursor in by_id:
        active.add(cursor)
        cursor = by_id[cursor].parent_node_id
    yield from _walk(by_id, nearest, children, active, head)


def _walk(
    by_id: dict[str, SessionNode],
    nearest: dict[str, str | None],
    children: dict[str | None, list[str]],
    active: set[str],
    head: str | None,
) -> Iterable[TreeEntry]:
    roots = children[None]
    waiting = [(node_id, int(len(roots) > 1)) for node_id in reversed(roots)]
    while waiting:
        node_id, branch = waiting.pop()
        node = by_id[node_id]
        assert isinstance(node.payload, ConversationPayload), "only messages were put into the tree"
        below = children[node_id]
        parent = node.parent_node_id
        yield TreeEntry(
            node.payload.message,
            node_id,
            None if parent is None else nearest[parent],
            node.agent_frame_id,
            node.at_ms,
            branch,
            len(below),
            node_id in active,
            node_id == head,
        )
        waiting.extend((child, branch + int(len(below) > 1)) for child in reversed(below))
