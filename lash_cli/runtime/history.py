"""Moving the head of a session to another node (contract 01 §8.2 `branch_to`, §10, 08 §5.1 `rewind`).

A move is one commit without nodes: nothing is deleted, so it is undone by
moving back. It is committed before the call returns, needs the lane, and reads
the target node and its neighbours only, so it costs the same in a short and in
a long session. Whether a node above the target is missing is therefore not
looked at: `require_rooted` does, for who can wait for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from lash_cli.core.commit import Checkpoint, RuntimeCommit, Unchanged
from lash_cli.core.content import Message, ToolCallPart, ToolResultPart, is_safe_to_resume
from lash_cli.core.frames import current_frame, return_to_frame
from lash_cli.core.graph import SessionNode, message_of
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.errors import ConflictError, NotFoundError, SessionClosed
from lash_cli.runtime.ending import seen_through
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import claimed_lane
from lash_cli.store.base import ReadScope, RuntimePersistence


class HeadMove(msgspec.Struct, frozen=True):
    """Where the head stands after a move and where it stood; None is before everything that was said. `is_moved` is
    False when it stood there already, and then nothing was written."""

    session_id: str
    leaf_node_id: str | None
    previous_leaf_node_id: str | None
    frame_id: str
    previous_frame_id: str
    head_revision: int
    is_moved: bool


async def require_movable(store: RuntimePersistence, session_id: str) -> None:
    """Raise `SessionClosed`, or `ConflictError` (`turn_unfinished`) while a turn that was cut off waits to be finished.

    It would go on from the head as it finds it. The caller holds the lane, so no other turn can be running.
    """
    row = await store.session_row(session_id)
    if row is not None and row.meta.closed_at_ms is not None:
        raise SessionClosed(f"session {session_id} is closed", details={"session": session_id})
    await require_finished(store, session_id)


async def require_finished(store: RuntimePersistence, session_id: str) -> None:
    """Raise `ConflictError` (`turn_unfinished`) while a turn that was cut off waits to be finished: it is driven again
    under what it began with. The caller holds the lane."""
    unfinished = await store.unfinished_turns(session_id)
    if unfinished:
        raise ConflictError(
            f"turn {unfinished[0].turn_id} of session {session_id} was cut off and is not finished",
            code="turn_unfinished",
            hint=f"finish it first: lash resume {session_id}",
            details={"session": session_id, "turn_id": unfinished[0].turn_id},
        )


async def find_node(store: RuntimePersistence, session_id: str, node_id: str) -> SessionNode:
    """A node of the session; raises `NotFoundError` (`node_not_found`)."""
    node = await store.load_node(session_id, node_id)
    if node is None:
        raise NotFoundError(
            f"session {session_id} has no node {node_id!r}",
            code="node_not_found",
            hint=f"see what it has: lash tree {session_id}",
            details={"session": session_id, "node": node_id},
        )
    return node


async def require_rooted(store: RuntimePersistence, session_id: str, node_id: str) -> None:
    """Raise `ConflictError` (`node_cut_off`) for a node of the session that leads to no root, because one above it is
    missing or hidden: the next turn could not read what was said before it. Nothing for any other name.

    Takes longer the more was said above the node, each of which is counted.
    """
    if await store.is_cut_off(session_id, node_id):
        raise ConflictError(
            f"node {node_id} is cut off: a message above it is missing, and nothing goes on from there",
            code="node_cut_off",
            hint="see where the session goes on: lash db check",
            details={"session": session_id, "node": node_id},
        )


async def require_resumable(store: RuntimePersistence, node: SessionNode, session_id: str) -> None:
    """Raise `ConflictError` (`node_not_resumable`) for a node in the middle of an exchange with tools: no model can
    go on from calls without results (contract 01 §5.4)."""
    exchange: list[Message] = []
    cursor: SessionNode | None = node
    while cursor is not None:
        message = message_of(cursor)
        if message is not None:
            exchange.append(message)
            if not any(isinstance(part, ToolResultPart) for part in message.parts):
                break
        cursor = None if cursor.parent_node_id is None else await store.load_node(session_id, cursor.parent_node_id)
    if is_safe_to_resume(exchange):
        return
    last = exchange[-1]
    calls = any(isinstance(part, ToolCallPart) for part in last.parts)
    before = cursor.parent_node_id if cursor is not None and calls else None
    raise ConflictError(
        f"node {node.node_id} stands between tool calls and their results",
        code="node_not_resumable",
        hint=f"choose the node before the calls, {before}, or one after the results" if before else None,
        details={"session": session_id, "node": node.node_id, "before": before},
    )


async def move_head(
    host: RuntimeHost,
    store: RuntimePersistence,
    owner: LeaseOwnerIdentity,
    session_id: str,
    node_id: str | None,
    *,
    is_before: bool = False,
    follow: Callable[[], Awaitable[None]] | None = None,
) -> HeadMove:
    """Make `node_id` the head; None moves before everything that was said. With `is_before` the head is what that node
    hangs below, in its own frame: what is said next stands beside it. `follow` is how an opened handle takes over
    the head that stands then, whoever is cancelled meanwhile.

    A node of an older frame makes that frame current again. Turns keep
    counting and cost stays booked; how full the context is is unknown until the
    next model call. Raises `SessionExecutionBusy`, `SessionClosed`,
    `NotFoundError` (`session_not_found`, `node_not_found`) and `ConflictError`
    (`node_not_resumable`, `turn_unfinished`, `session_empty`).
    """
    async with claimed_lane(host, store, owner, session_id) as lease:
        await require_movable(store, session_id)
        read = await store.load_session(session_id, ReadScope.HEAD)
        if read is None:
            raise ConflictError(f"nothing was said in session {session_id} yet", code="session_empty")
        was = current_frame(read.frames).frame_id
        frame_id = read.frames[0].frame_id
        if node_id is not None:
            node = await find_node(store, session_id, node_id)
            frame_id = node.agent_frame_id
            if is_before:
                node_id = node.parent_node_id
                node = node if node_id is None else await find_node(store, session_id, node_id)
            if node_id is not None:
                await require_resumable(store, node, session_id)
        if (node_id, frame_id) == (read.leaf_node_id, was):
            if follow is not None:
                await follow()
            return HeadMove(session_id, node_id, node_id, was, was, read.head_revision, is_moved=False)
        frames = return_to_frame(read.frames, frame_id) if frame_id != was else None
        commit = RuntimeCommit(
            session_id=session_id,
            fence=lease.fence(),
            config=read.config,
            graph=Unchanged(node_id),
            checkpoint=Checkpoint(read.turn_state.elsewhere()),
            now_ms=host.clock.now_ms(),
            expected_head_revision=read.head_revision,
            release_lease=True,
            frames=frames,
        )
        revision = await seen_through(_moved(store, commit, follow))
    return HeadMove(session_id, node_id, read.leaf_node_id, frame_id, was, revision, is_moved=True)


async def _moved(store: RuntimePersistence, commit: RuntimeCommit, follow: Callable[[], Awaitable[None]] | None) -> int:
    result = await store.commit_runtime_state(commit)
    if follow is not None:
        await follow()
    return result.head_revision
