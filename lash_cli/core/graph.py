"""The session graph: append-only nodes, one leaf, branches by parent (contract 01 §8, design D6).

Nodes are never rewritten. The active path runs from the leaf to the root by
parents. A commit appends nodes and moves the leaf; moving the leaf elsewhere
makes a branch of what follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from lash_cli.core.codec import Record
from lash_cli.core.content import AttachmentPart, AttachmentSource, Inline, Message, Stored


class CausalRef(Record):
    """What caused a node; `kind` is turn, effect, tool_call, process, process_event, trigger_occurrence or node."""

    kind: str
    id: str
    sequence: int | None = None


class ConversationPayload(Record, tag="conversation", tag_field="kind"):
    """A message of the conversation."""

    message: Message


class ProtocolPayload(Record, tag="protocol", tag_field="kind"):
    """An event owned by a turn protocol."""

    plugin_id: str
    payload: Any = None


class PluginPayload(Record, tag="plugin", tag_field="kind"):
    """A record owned by a plugin."""

    plugin_type: str
    body: Any = None


NodePayload = ConversationPayload | ProtocolPayload | PluginPayload


class SessionNode(Record):
    """One node. `at_ms` is when it was committed; the frame scopes it to one agent frame."""

    node_id: str
    parent_node_id: str | None
    agent_frame_id: str
    at_ms: int
    payload: NodePayload
    caused_by: CausalRef | None = None


class SessionGraph(Record):
    """Every node of a session, parents before their children, and where its head stands (contract 01 §8.1).

    `cut_off` are those that lead to no root, because one above them is gone; they are read and never gone on from.
    """

    nodes: tuple[SessionNode, ...] = ()
    leaf_node_id: str | None = None
    cut_off: tuple[SessionNode, ...] = ()

    def active_path(self) -> tuple[SessionNode, ...]:
        """The nodes from the root to the head, those of older frames included; raises as the function."""
        return active_path(self.nodes, self.leaf_node_id)

    def node(self, node_id: str) -> SessionNode | None:
        """A node of any branch, None when there is none of that id."""
        return next((node for node in (*self.nodes, *self.cut_off) if node.node_id == node_id), None)


class ChronologicalEntry(Record):
    """One thing that happened in a session, a message or an event of its protocol; `index` counts from 0 without gaps
    (contract 04 §8)."""

    index: int
    payload: ConversationPayload | ProtocolPayload


def active_path(nodes: Iterable[SessionNode], leaf_node_id: str | None) -> tuple[SessionNode, ...]:
    """The nodes from the root to `leaf_node_id`.

    Raises `ValueError` when the leaf or a parent is missing or the parents
    form a cycle: such a graph must be repaired, not read.
    """
    by_id = {node.node_id: node for node in nodes}
    path: list[SessionNode] = []
    cursor = leaf_node_id
    while cursor is not None:
        node = by_id.pop(cursor, None)
        if node is None:
            raise ValueError(f"node {cursor!r} is missing or repeats on the path of {leaf_node_id!r}")
        path.append(node)
        cursor = node.parent_node_id
    path.reverse()
    return tuple(path)


def orphaned_node_ids(nodes: Sequence[SessionNode], leaf_node_id: str | None) -> tuple[str, ...]:
    """Ids off the active path, in insertion order: what a host may tombstone (contract 01 §9.6)."""
    kept = {node.node_id for node in active_path(nodes, leaf_node_id)}
    return tuple(node.node_id for node in nodes if node.node_id not in kept)


def message_of(node: SessionNode) -> Message | None:
    """The message a node holds, None for a node of another kind."""
    return node.payload.message if isinstance(node.payload, ConversationPayload) else None


def chain(
    messages: Sequence[Message],
    *,
    parent_node_id: str | None,
    agent_frame_id: str,
    at_ms: int,
) -> tuple[SessionNode, ...]:
    """Message nodes hanging one under another below `parent_node_id`; transient messages are left out.

    A node's id is its message's id, so a retried append produces the same nodes.
    """
    nodes: list[SessionNode] = []
    parent = parent_node_id
    for message in messages:
        if message.is_transient:
            continue
        nodes.append(SessionNode(message.id, parent, agent_frame_id, at_ms, ConversationPayload(message)))
        parent = message.id
    return tuple(nodes)


def messages_on(path: Iterable[SessionNode], agent_frame_id: str | None = None) -> list[Message]:
    """The conversation messages of a path, optionally of one frame only, deduplicated by id."""
    seen: set[str] = set()
    messages: list[Message] = []
    for node in path:
        if agent_frame_id is not None and node.agent_frame_id != agent_frame_id:
            continue
        if isinstance(node.payload, ConversationPayload):
            message = node.payload.message
            if message.id not in seen and not message.is_transient:
                seen.add(message.id)
                messages.append(message)
    return messages


def attachments_of(nodes: Iterable[SessionNode]) -> tuple[AttachmentSource, ...]:
    """The attachments that the messages of `nodes` have, in order."""
    return attached_to(node.payload.message for node in nodes if isinstance(node.payload, ConversationPayload))


def attached_to(messages: Iterable[Message]) -> tuple[AttachmentSource, ...]:
    """The attachments that `messages` have, in order."""
    return tuple(part.attachment for message in messages for part in message.parts if isinstance(part, AttachmentPart))


def refs_of(nodes: Iterable[SessionNode]) -> set[str]:
    """References of the stored attachments that the messages of `nodes` name."""
    return {source.attachment_ref for source in attachments_of(nodes) if isinstance(source, Stored)}


def with_bytes(nodes: Iterable[SessionNode], stored: dict[str, bytes]) -> tuple[SessionNode, ...]:
    """`nodes` with the bytes of their stored attachments, which `stored` has by reference, in place."""

    def filled(node: SessionNode) -> SessionNode:
        if not any(isinstance(source, Stored) for source in attachments_of((node,))):
            return node
        assert isinstance(node.payload, ConversationPayload), "only messages have attachments"
        message = node.payload.message
        parts = tuple(
            AttachmentPart(
                Inline(part.attachment.media_type, stored[part.attachment.attachment_ref], part.attachment.label)
            )
            if isinstance(part, AttachmentPart) and isinstance(part.attachment, Stored)
            else part
            for part in message.parts
        )
        return msgspec.structs.replace(node, payload=ConversationPayload(msgspec.structs.replace(message, parts=parts)))

    return tuple(map(filled, nodes))


def events_on(path: Iterable[SessionNode], agent_frame_id: str) -> tuple[SessionNode, ...]:
    """The messages and the events of the protocol on a path that belong to a frame; records of plugins are none."""
    return tuple(
        node
        for node in path
        if node.agent_frame_id == agent_frame_id and isinstance(node.payload, ConversationPayload | ProtocolPayload)
    )


def chronological(events: Iterable[SessionNode], messages: Iterable[Message] = ()) -> tuple[ChronologicalEntry, ...]:
    """What happened, in order: `events`, then the `messages` that are not among them yet (contract 04 §8).

    Transient messages are left out, and so is a message whose id was there before.
    """
    seen: set[str] = set()
    payloads: list[ConversationPayload | ProtocolPayload] = []

    def add(payload: ConversationPayload) -> None:
        if not payload.message.is_transient and payload.message.id not in seen:
            seen.add(payload.message.id)
            payloads.append(payload)

    for node in events:
        if isinstance(node.payload, ConversationPayload):
            add(node.payload)
        elif isinstance(node.payload, ProtocolPayload):
            payloads.append(node.payload)
    for message in messages:
        add(ConversationPayload(message))
    return tuple(ChronologicalEntry(index, payload) for index, payload in enumerate(payloads))


def common_beginning(
    path: Sequence[SessionNode], messages: Sequence[Message], leaf_node_id: str | None
) -> tuple[int, str | None]:
    """How many of `messages` a path says from its beginning, and the last node before it says something else, which is
    `leaf_node_id`, the end of the path, where it does not (contract 01 §8.2).

    What counts is what is said and by whom: ids are given by whoever appends.
    """
    said = 0
    seen: set[str] = set()
    for node in path:
        if not isinstance(node.payload, ConversationPayload):
            continue
        message = node.payload.message
        if message.is_transient or message.id in seen:
            continue
        seen.add(message.id)
        if said == len(messages) or not _says_the_same(message, messages[said]):
            return said, node.parent_node_id
        said += 1
    return said, leaf_node_id


def _says_the_same(one: Message, other: Message) -> bool:
    return (one.role, one.parts, one.origin) == (other.role, other.parts, other.origin)
