"""Opening an agent frame outside a turn: one commit of the frame, its first nodes and what it cost (contract 01 §11).

A blank id and the id of the current frame open nothing, so a repeat is
harmless; the id of an older frame is refused. Nodes are named after the frame,
so a retried opening makes the same ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from lash_cli.core.commit import RuntimeCommit
from lash_cli.core.content import is_safe_to_resume
from lash_cli.core.frames import AgentFrame, open_frame
from lash_cli.core.graph import CausalRef, NodePayload, SessionNode, messages_on
from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity
from lash_cli.core.observation import AgentFrameSwitched
from lash_cli.core.usage import TokenLedgerEntry
from lash_cli.errors import ConflictError
from lash_cli.runtime.attachments import kept_payloads
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.runtime.ending import seen_through
from lash_cli.runtime.ephemeral import publish_commit
from lash_cli.runtime.frames import NODES_CODE, first_nodes, readable_nodes
from lash_cli.runtime.history import require_movable
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import LaneGuard, claimed_lane
from lash_cli.runtime.session import ResidentSession
from lash_cli.store.base import RuntimePersistence


class OpenAgentFrameRequest(msgspec.Struct, frozen=True):
    """A frame to open (contract 01 §11). Conversation nodes get ids of their own, whatever their messages are
    called."""

    frame_id: str
    reason: str
    initial_nodes: tuple[NodePayload, ...] = ()
    caused_by: CausalRef | None = None


class OpenAgentFrameResult(msgspec.Struct, frozen=True):
    """What became of a request; without `opened` nothing changed (contract 01 §11)."""

    frame_id: str
    opened: bool
    initial_node_ids: tuple[str, ...] = ()


class PlannedFrame(msgspec.Struct, frozen=True):
    """The frames of a session with the new one current, and its first nodes. `is_new` False changes nothing."""

    frames: tuple[AgentFrame, ...]
    nodes: tuple[SessionNode, ...]
    is_new: bool


def plan_frame(session: ResidentSession, request: OpenAgentFrameRequest, now_ms: int) -> PlannedFrame:
    """What opening the frame would write.

    Raises `ConflictError`: `agent_frame_reused`, and `agent_frame_nodes_invalid` when its nodes leave tool calls
    without a result.
    """
    frames, is_new = open_frame(session.frames, request.frame_id, request.reason, now_ms, request.caused_by)
    if not is_new:
        return PlannedFrame(session.frames, (), is_new=False)
    nodes = first_nodes(
        request.initial_nodes,
        name=f"{request.frame_id}.",
        parent=session.leaf_node_id,
        frame_id=request.frame_id,
        now_ms=now_ms,
    )
    if not is_safe_to_resume(messages_on(nodes)):
        raise ConflictError("the first nodes of an agent frame leave tool calls without a result", code=NODES_CODE)
    return PlannedFrame(frames, nodes, is_new=True)


async def commit_frame(
    host: RuntimeHost,
    store: RuntimePersistence | None,
    session: ResidentSession,
    fence: LeaseFence | None,
    planned: PlannedFrame,
    spent: tuple[TokenLedgerEntry, ...] = (),
) -> None:
    """Write a planned frame and what it cost, and go on in it; with a plan that opens nothing, only the cost.

    The lane of `fence` stays held. How full the new frame is is unknown until the next model call. What no
    commit is known to have booked stays owed.
    """
    session.owe(spent)
    state = session.turn_state
    if planned.is_new:
        state = state.elsewhere()
    if store is None or fence is None:
        session.turn_state = state
        if planned.is_new:
            session.enter_frame(planned.frames, messages_on(planned.nodes))
        publish_commit(session, (AgentFrameSwitched(session.frame_id),) if planned.is_new else ())
        return
    commit = session.commit(
        fence=fence,
        now_ms=host.clock.now_ms(),
        nodes=planned.nodes,
        turn_state=state,
        release_lease=False,
    )
    if planned.is_new:
        commit = msgspec.structs.replace(commit, frames=planned.frames)
    host.reach("before:frame")
    await seen_through(_enter_committed(store, session, commit, planned))
    host.reach("after:frame")


async def _enter_committed(
    store: RuntimePersistence,
    session: ResidentSession,
    commit: RuntimeCommit,
    planned: PlannedFrame,
) -> None:
    await session.committed(store, commit)
    if planned.is_new:
        session.enter_frame(planned.frames, messages_on(planned.nodes))


async def open_agent_frame(
    host: RuntimeHost, session: ResidentSession, owner: LeaseOwnerIdentity, request: OpenAgentFrameRequest
) -> OpenAgentFrameResult:
    """Open a frame for whoever asks, while the caller holds the session's writer lock.

    Raises `UsageError` (`node_invalid`), `SessionExecutionBusy`,
    `SessionClosed`, what `kept_payloads` raises, and `ConflictError`
    (`turn_unfinished`, and those of `plan_frame`).
    """
    request = readable_nodes(request, OpenAgentFrameRequest)
    store = host.store
    if store is None:
        return await _opened(host, None, session, None, request)
    async with held_lane(host, store, session, owner, CancelToken()) as fence:
        await require_movable(store, session.session_id)
        return await _opened(host, store, session, fence, request)


async def _opened(
    host: RuntimeHost,
    store: RuntimePersistence | None,
    session: ResidentSession,
    fence: LeaseFence | None,
    request: OpenAgentFrameRequest,
) -> OpenAgentFrameResult:
    planned = plan_frame(session, request, host.clock.now_ms())
    if planned.is_new:
        nodes = await kept_payloads(host, session, request.initial_nodes)
        planned = plan_frame(session, msgspec.structs.replace(request, initial_nodes=nodes), host.clock.now_ms())
        await commit_frame(host, store, session, fence, planned)
    return OpenAgentFrameResult(session.frame_id, planned.is_new, tuple(node.node_id for node in planned.nodes))


@asynccontextmanager
async def held_lane(
    host: RuntimeHost,
    store: RuntimePersistence,
    session: ResidentSession,
    owner: LeaseOwnerIdentity,
    token: CancelToken,
) -> AsyncIterator[LeaseFence]:
    """A lane that is renewed while a model answers; the session is up to date inside the block."""
    async with claimed_lane(host, store, owner, session.session_id) as lease:
        guard = LaneGuard(store, host.clock, host.timings, lease, lambda: _lose(token))
        guard.start()
        try:
            await session.catch_up()
            yield lease.fence()
        finally:
            await guard.stop()


def _lose(token: CancelToken) -> None:
    token.trip(CancelCause.LEASE_LOST)
