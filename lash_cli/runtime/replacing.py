"""Having a session go on from another conversation than the one it has (contract 01 §8.2).

What both have in common from the beginning stays where it is; the rest is
appended beside what was said there, in one commit. No node is edited or
removed: what is not part of the new conversation is a branch of the old one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lash_cli.core.commit import Unchanged
from lash_cli.core.content import Message, is_safe_to_resume
from lash_cli.core.graph import ConversationPayload, SessionNode, common_beginning, messages_on
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.errors import ConflictError
from lash_cli.runtime.attachments import kept_messages
from lash_cli.runtime.ending import seen_through
from lash_cli.runtime.frames import first_nodes, readable_nodes
from lash_cli.runtime.history import require_movable
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import borrowed_lane
from lash_cli.runtime.session import ResidentSession
from lash_cli.store.base import ReadScope, RuntimePersistence


class ReadStateReplaced(msgspec.Struct, frozen=True):
    """What a session goes on from now: how many of the given messages it had already, the nodes of the others, and
    where the head stands and stood. Nothing was written where both are the same."""

    session_id: str
    kept: int
    node_ids: tuple[str, ...]
    leaf_node_id: str | None
    previous_leaf_node_id: str | None


async def replace_active_read_state(
    host: RuntimeHost,
    store: RuntimePersistence,
    session: ResidentSession,
    owner: LeaseOwnerIdentity,
    messages: Sequence[Message],
    *,
    operation_id: str | None = None,
) -> ReadStateReplaced:
    """Make `messages` the conversation of the current frame, while the caller holds the session's writer lock and
    nothing is left to flush.

    Raises `UsageError` (`node_invalid`), `SessionExecutionBusy`, `SessionClosed`, what `kept_messages` raises, and
    `ConflictError`: `turn_unfinished`, `node_not_resumable` when the messages leave tool calls without a result, and
    `node_exists` when the operation added something else before.
    """
    messages = readable_nodes(tuple(messages), tuple[Message, ...])
    wanted = tuple(message for message in messages if not message.is_transient)
    operation = operation_id or host.ids.new("op")
    async with borrowed_lane(host, store, owner, session) as fence:
        await require_movable(store, session.session_id)
        if not is_safe_to_resume(wanted):
            raise ConflictError("the messages leave tool calls without a result", code="node_not_resumable")
        wanted = await kept_messages(host, session, wanted)
        before = session.leaf_node_id
        done = await _added_before(store, session.session_id, wanted, operation)
        if done:
            return ReadStateReplaced(session.session_id, len(wanted) - len(done), done, before, before)
        kept, beginning = common_beginning(await _path(store, session.session_id), wanted, before)
        nodes = first_nodes(
            [ConversationPayload(message) for message in wanted[kept:]],
            name=_name(operation),
            parent=beginning,
            frame_id=session.frame_id,
            now_ms=host.clock.now_ms(),
        )
        if not nodes and beginning == before:
            return ReadStateReplaced(session.session_id, kept, (), before, before)
        state = session.turn_state if beginning == before else session.turn_state.elsewhere()
        commit = session.commit(fence=fence, now_ms=host.clock.now_ms(), nodes=nodes, turn_state=state)
        if not nodes:
            commit = msgspec.structs.replace(commit, graph=Unchanged(beginning))
        host.reach("before:replace")
        result = await seen_through(session.committed(store, commit, messages_on(nodes), kept=kept))
        host.reach("after:replace")
    return ReadStateReplaced(
        session.session_id, kept, tuple(node.node_id for node in nodes), result.leaf_node_id, before
    )


async def _path(store: RuntimePersistence, session_id: str) -> tuple[SessionNode, ...]:
    """The stored path of the current frame: memory holds its messages only."""
    read = await store.load_session(session_id, ReadScope.ACTIVE_PATH)
    return () if read is None else read.nodes


def _name(operation: str) -> str:
    return f"{operation}.n"


async def _added_before(
    store: RuntimePersistence, session_id: str, wanted: Sequence[Message], operation: str
) -> tuple[str, ...]:
    """The nodes that the operation has added before, none when it is new; raises `ConflictError` (`node_exists`) when
    they are not what `wanted` ends with."""
    found: list[SessionNode] = []
    while (node := await store.load_node(session_id, f"{_name(operation)}{len(found)}")) is not None:
        found.append(node)
    if not found:
        return ()
    stood, _ = common_beginning(found, wanted[-len(found) :], None)
    if stood < len(found) or len(found) > len(wanted):
        raise ConflictError(
            f"operation {operation!r} has added other nodes to session {session_id}",
            code="node_exists",
            details={"session": session_id, "operation": operation},
        )
    return tuple(node.node_id for node in found)
