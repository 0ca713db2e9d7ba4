"""Adding to a session from outside a turn: messages and records of plugins (contract 01 §8.3).

One path for everybody: the lane, the newest head, the check of the branch, the
commit, and then memory. An append is named by its operation, and its nodes by
the operation and their place, so that repeating it adds nothing.
"""

from __future__ import annotations

import msgspec

from lash_cli.core.codec import Record, encode
from lash_cli.core.content import is_safe_to_resume
from lash_cli.core.graph import (
    CausalRef,
    ConversationPayload,
    NodePayload,
    SessionNode,
    active_path,
    messages_on,
)
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.errors import ConflictError
from lash_cli.runtime.attachments import kept_payloads
from lash_cli.runtime.ending import seen_through
from lash_cli.runtime.frames import first_nodes, readable_nodes
from lash_cli.runtime.history import require_movable
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import borrowed_lane
from lash_cli.runtime.session import ResidentSession
from lash_cli.store.base import ReadScope, RuntimePersistence


class SessionAppendNode(msgspec.Struct, frozen=True):
    """One node to add (contract 01 §8.3): a message, an event of a protocol or a record of a plugin, and what caused
    it."""

    payload: NodePayload
    caused_by: CausalRef | None = None


class AppendSessionNodesRequest(msgspec.Struct, frozen=True):
    """What to add below the head, in order (contract 01 §8.3). Messages get ids of their own; transient ones are left
    out.

    `requires_ancestor_node_id` names a node that must still be on the path of the head, "" and None none: newer nodes
    below it are no obstacle. `operation_id` makes a repeat harmless.
    """

    nodes: tuple[SessionAppendNode, ...]
    requires_ancestor_node_id: str | None = None
    operation_id: str | None = None


class Appended(Record, tag="appended", tag_field="status"):
    """The nodes stand in the session, and what the head is now (contract 01 §8.3)."""

    node_ids: tuple[str, ...]
    leaf_node_id: str | None


class StaleBranch(Record, tag="stale_branch", tag_field="status"):
    """The required ancestor is not on the path of the head any more (contract 01 §8.3): nothing was written."""

    current_leaf_node_id: str | None


async def append_session_nodes(
    host: RuntimeHost,
    store: RuntimePersistence,
    session: ResidentSession,
    owner: LeaseOwnerIdentity,
    request: AppendSessionNodesRequest,
) -> Appended | StaleBranch:
    """Commit the nodes below the newest head, in its frame, while the caller holds the session's writer lock.

    Raises `UsageError` (`node_invalid`), `SessionExecutionBusy`, `SessionClosed`, what `kept_messages` raises, and
    `ConflictError`: `turn_unfinished`, `node_not_resumable` when the messages leave tool calls without a result, and
    `node_exists` when the operation added something else before.
    """
    request = readable_nodes(request, AppendSessionNodesRequest)
    operation = request.operation_id or host.ids.new("op")
    async with borrowed_lane(host, store, owner, session) as fence:
        await require_movable(store, session.session_id)
        ancestor = request.requires_ancestor_node_id
        nodes = await _nodes(host, session, request, operation)
        if not nodes:
            return Appended((), session.leaf_node_id)
        if await _stands(store, session.session_id, nodes, operation):
            return Appended(tuple(node.node_id for node in nodes), session.leaf_node_id)
        if ancestor and not await _is_on_path(store, session, ancestor):
            return StaleBranch(session.leaf_node_id)
        messages = messages_on(nodes)
        if not is_safe_to_resume(messages):
            raise ConflictError("the messages leave tool calls without a result", code="node_not_resumable")
        commit = session.commit(fence=fence, now_ms=host.clock.now_ms(), nodes=nodes)
        host.reach("before:append")
        result = await seen_through(session.committed(store, commit, messages))
        host.reach("after:append")
    return Appended(tuple(node.node_id for node in nodes), result.leaf_node_id)


async def _nodes(
    host: RuntimeHost, session: ResidentSession, request: AppendSessionNodesRequest, operation: str
) -> tuple[SessionNode, ...]:
    kept = [node for node in request.nodes if not _is_transient(node.payload)]
    nodes = first_nodes(
        await kept_payloads(host, session, [node.payload for node in kept]),
        name=_node_id(operation, ""),
        parent=session.leaf_node_id,
        frame_id=session.frame_id,
        now_ms=host.clock.now_ms(),
    )
    pairs = zip(nodes, kept, strict=True)
    return tuple(msgspec.structs.replace(node, caused_by=given.caused_by) for node, given in pairs)


def _node_id(operation: str, place: int | str) -> str:
    return f"{operation}.n{place}"


def _is_transient(payload: NodePayload) -> bool:
    return isinstance(payload, ConversationPayload) and payload.message.is_transient


async def _stands(store: RuntimePersistence, session_id: str, nodes: tuple[SessionNode, ...], operation: str) -> bool:
    """Whether the operation was done before; raises `ConflictError` (`node_exists`) when it added something else."""
    first = await store.load_node(session_id, nodes[0].node_id)
    if first is None:
        return False
    found = [first, *[await store.load_node(session_id, node.node_id) for node in nodes[1:]]]
    beyond = await store.load_node(session_id, _node_id(operation, len(nodes)))
    if beyond is not None or [_said(node) for node in found] != [_said(node) for node in nodes]:
        raise ConflictError(
            f"operation {operation!r} has added other nodes to session {session_id}",
            code="node_exists",
            details={"session": session_id, "operation": operation},
        )
    return True


def _said(node: SessionNode | None) -> bytes:
    """What a node says, as it is stored: the body of a plugin comes back as JSON."""
    return b"" if node is None else encode((node.payload, node.caused_by))


async def _is_on_path(store: RuntimePersistence, session: ResidentSession, node_id: str) -> bool:
    """Whether a node is on the path of the head. The nodes of other frames, and those that are no messages, are looked
    for in the store."""
    if node_id == session.leaf_node_id or any(message.id == node_id for message in session.messages):
        return True
    read = await store.load_session(session.session_id, ReadScope.FULL_GRAPH)
    return read is not None and any(node.node_id == node_id for node in active_path(read.nodes, read.leaf_node_id))
