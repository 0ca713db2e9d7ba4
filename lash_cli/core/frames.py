"""Agent frames: the stretches of history a model sees, and what they ran under (contract 01 §11).

Exactly one frame is active. Opening another supersedes it; a superseded frame
keeps its assignment for as long as it stays superseded, and its id is never
given to another frame. Moving the head to a node of an older frame makes that
one current again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from lash_cli.core.codec import Record
from lash_cli.core.content import ProtocolTurnOptions
from lash_cli.core.graph import CausalRef
from lash_cli.core.policy import SessionPolicy
from lash_cli.errors import ConflictError


class FrameStatus(StrEnum):
    """Whether a frame is the current one."""

    ACTIVE = "active"
    SUPERSEDED = "superseded"


class FrameAssignment(Record):
    """What a frame runs under; the current frame's policy is the effective policy of everything. Its turns are booked
    to `usage_source` in the ledger, to `turn` without one."""

    policy: SessionPolicy
    plugin_source: Literal["current_host_fresh", "current_session_fork"] = "current_host_fresh"
    usage_source: str | None = None


class AgentFrame(Record):
    """One frame. `reason` is an open label: initial, continue_as, compaction, …"""

    frame_id: str
    session_id: str
    status: FrameStatus
    reason: str
    created_at_ms: int
    assignment: FrameAssignment
    previous_frame_id: str | None = None
    caused_by: CausalRef | None = None
    protocol_turn_options: ProtocolTurnOptions = ProtocolTurnOptions()
    execution_state_ref: str | None = None


def initial_frame_id(session_id: str) -> str:
    """The id of a session's first frame."""
    return f"{session_id}:frame:initial"


def initial_frame(session_id: str, policy: SessionPolicy, now_ms: int) -> AgentFrame:
    """The first frame of a session."""
    return AgentFrame(
        initial_frame_id(session_id), session_id, FrameStatus.ACTIVE, "initial", now_ms, FrameAssignment(policy)
    )


def current_frame(frames: tuple[AgentFrame, ...]) -> AgentFrame:
    """The one active frame; raises `ValueError` unless there is exactly one."""
    active = [frame for frame in frames if frame.status is FrameStatus.ACTIVE]
    if len(active) != 1:
        raise ValueError(f"a session has exactly one active frame, found {len(active)}")
    return active[0]


def with_policy(frames: tuple[AgentFrame, ...], policy: SessionPolicy) -> tuple[AgentFrame, ...]:
    """The frames with `policy` assigned to the current one; superseded frames keep what they ran under."""
    return tuple(
        msgspec.structs.replace(frame, assignment=msgspec.structs.replace(frame.assignment, policy=policy))
        if frame.status is FrameStatus.ACTIVE
        else frame
        for frame in frames
    )


def with_turn_options(
    frames: tuple[AgentFrame, ...], options: ProtocolTurnOptions, *, is_for_all: bool = False
) -> tuple[AgentFrame, ...]:
    """The frames with `options` on the current one, or on all of them."""
    return tuple(
        msgspec.structs.replace(frame, protocol_turn_options=options)
        if is_for_all or frame.status is FrameStatus.ACTIVE
        else frame
        for frame in frames
    )


def frame_of_session(frame: AgentFrame, session_id: str) -> AgentFrame:
    """`frame` as one of another session, which its policy names too."""
    policy = msgspec.structs.replace(frame.assignment.policy, session_id=session_id)
    assignment = msgspec.structs.replace(frame.assignment, policy=policy)
    return msgspec.structs.replace(frame, session_id=session_id, assignment=assignment)


def return_to_frame(frames: tuple[AgentFrame, ...], frame_id: str) -> tuple[AgentFrame, ...]:
    """The frames with `frame_id` current again, under the policy of the session as it is now.

    Raises `ConflictError` (`agent_frame_unknown`).
    """
    policy = current_frame(frames).assignment.policy
    if all(frame.frame_id != frame_id for frame in frames):
        raise ConflictError(f"agent frame {frame_id!r} is not in the session", code="agent_frame_unknown")
    moved = tuple(
        msgspec.structs.replace(
            frame, status=FrameStatus.ACTIVE if frame.frame_id == frame_id else FrameStatus.SUPERSEDED
        )
        for frame in frames
    )
    return with_policy(moved, policy)


def open_frame(
    frames: tuple[AgentFrame, ...], frame_id: str, reason: str, now_ms: int, caused_by: CausalRef | None = None
) -> tuple[tuple[AgentFrame, ...], bool]:
    """Open a frame after the current one; returns the frames and whether anything was opened.

    A blank or already current id changes nothing, so a replay is harmless. The
    id of an older frame raises `ConflictError` (`agent_frame_reused`).
    """
    current = current_frame(frames)
    if not frame_id.strip() or frame_id == current.frame_id:
        return frames, False
    if any(frame.frame_id == frame_id for frame in frames):
        raise ConflictError(f"agent frame {frame_id!r} was used before", code="agent_frame_reused")
    opened = AgentFrame(
        frame_id,
        current.session_id,
        FrameStatus.ACTIVE,
        reason,
        now_ms,
        current.assignment,
        previous_frame_id=current.frame_id,
        caused_by=caused_by,
        protocol_turn_options=current.protocol_turn_options,
    )
    closed = tuple(
        msgspec.structs.replace(frame, status=FrameStatus.SUPERSEDED) if frame.frame_id == current.frame_id else frame
        for frame in frames
    )
    return (*closed, opened), True
