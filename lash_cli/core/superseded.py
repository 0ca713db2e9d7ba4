"""What was said beside the conversation of a session that no store has (contract 01 §10, §11).

Pure. Such a session holds the messages of its current frame as they are, for
that is all a turn needs; what was said in older frames, and on other branches
of this one, is kept beside them as nodes, so that its graph is the one a store
would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from lash_cli.core.codec import Record
from lash_cli.core.content import Message
from lash_cli.core.graph import SessionNode, chain, message_of


class SupersededNodes(Record):
    """The nodes of every frame but the current one, and of its other branches, in their order, and what the first
    message of the current one hangs below."""

    nodes: tuple[SessionNode, ...] = ()
    base_node_id: str | None = None

    def said(self, messages: Sequence[Message], agent_frame_id: str) -> tuple[SessionNode, ...]:
        """The nodes of the messages of the current frame, whose moments nobody knows."""
        return chain(messages, parent_node_id=self.base_node_id, agent_frame_id=agent_frame_id, at_ms=0)

    def graph(self, said: tuple[SessionNode, ...]) -> tuple[SessionNode, ...]:
        """All nodes with those that are `said` in the current frame, every parent before its children."""
        if not self.nodes:
            return said
        before: dict[str | None, SessionNode] = {}
        behind: list[SessionNode] = []
        for node in self.nodes:
            if node.parent_node_id is None or node.parent_node_id in before:
                before[node.node_id] = node
            else:
                behind.append(node)
        return (*before.values(), *said, *behind)

    def leaf(self, said: tuple[SessionNode, ...]) -> str | None:
        """The head, when those were `said` in the current frame."""
        return said[-1].node_id if said else self.base_node_id

    def left(self, messages: Sequence[Message], agent_frame_id: str) -> SupersededNodes:
        """What there is once the current frame, with its messages, is superseded too."""
        said = self.said(messages, agent_frame_id)
        return SupersededNodes(self.graph(said), self.leaf(said))


NOTHING_SUPERSEDED = SupersededNodes()


def superseded_in(nodes: Iterable[SessionNode], path: Sequence[SessionNode], agent_frame_id: str) -> SupersededNodes:
    """Those of a graph, whose nodes stand behind their parents, that are not on `path` in the frame; of those that are
    the messages go on. What hung below another node of them hangs below the nearest that does."""
    on_path = {node.node_id for node in path if node.agent_frame_id == agent_frame_id}
    known: dict[str | None, str | None] = {None: None}
    kept: list[SessionNode] = []
    for node in nodes:
        parent = known[node.parent_node_id]
        if node.node_id not in on_path:
            known[node.node_id] = node.node_id
            kept.append(msgspec.structs.replace(node, parent_node_id=parent))
        else:
            message = _message(node)
            known[node.node_id] = parent if message is None else message.id
    first = next((node for node in path if node.agent_frame_id == agent_frame_id and _message(node) is not None), None)
    if first is not None:
        return SupersededNodes(tuple(kept), known[first.parent_node_id])
    return SupersededNodes(tuple(kept), known[path[-1].node_id] if path else None)


def _message(node: SessionNode) -> Message | None:
    """The message that a node keeps for good."""
    message = message_of(node)
    return None if message is None or message.is_transient else message
