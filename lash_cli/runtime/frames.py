"""Handing a turn on to another agent frame: what is opened, what enters it, and when to stop (contract 01 §5.4, §11).

A switch is part of the switching turn's commit: the frame, its first nodes and
the task waiting in the queue appear together or not at all. The turn that
follows is started from that task, so a crash in between leaves ordinary work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from lash_cli.core.codec import from_builtins_any, reread, to_builtins
from lash_cli.core.content import ProtocolTurnOptions, is_safe_to_resume
from lash_cli.core.delivery import frame_task_of
from lash_cli.core.frames import AgentFrame, current_frame, open_frame
from lash_cli.core.graph import CausalRef, ConversationPayload, NodePayload, SessionNode, messages_on
from lash_cli.core.outcome import AgentFrameSwitch, TurnIssue
from lash_cli.core.queued_work import AgentFrameTask, QueuedWorkClaim, following_turn_id
from lash_cli.errors import ConflictError, UsageError

MAX_FRAME_SWITCHES = 16
MAX_INITIAL_NODES = 256

LIMIT_CODE = "agent_frame_switch_limit"
NODES_CODE = "agent_frame_nodes_invalid"
REASON = "continue_as"


class FrameChain(msgspec.Struct, frozen=True):
    """Where a physical turn stands in its logical one: the turn that began it, and how many switches led here."""

    root_turn_id: str
    switches: int = 0

    @property
    def next_turn_id(self) -> str:
        """The id of the turn that follows a switch of this one."""
        return following_turn_id(self.root_turn_id, self.switches + 1)


def chain_of(turn_id: str, work: QueuedWorkClaim | None) -> FrameChain:
    """The chain a turn belongs to: that of the frame task it was started from, else its own."""
    task = frame_task_of(work.batches) if work is not None else None
    if task is None or not task.root_turn_id:
        return FrameChain(turn_id)
    return FrameChain(task.root_turn_id, task.switches)


class FrameHandoff(msgspec.Struct, frozen=True):
    """A planned switch: the session's frames after it, the first nodes of the frame, and the task. `is_opened` is
    False when the task goes on in the current frame."""

    frames: tuple[AgentFrame, ...]
    nodes: tuple[SessionNode, ...]
    task: AgentFrameTask
    is_opened: bool = True


def plan_handoff(
    frames: tuple[AgentFrame, ...],
    switch: AgentFrameSwitch,
    chain: FrameChain,
    *,
    turn_id: str,
    leaf_node_id: str | None,
    now_ms: int,
    options: ProtocolTurnOptions | None = None,
) -> FrameHandoff | TurnIssue:
    """What the commit of a switching turn adds, or why the switch is not followed.

    `leaf_node_id` is the last node of the turn itself; `options` are its own
    and go on with the task. The current frame's own id opens nothing: the task
    goes on where it is.
    """
    if chain.switches >= MAX_FRAME_SWITCHES:
        text = f"the turn switched agent frames {MAX_FRAME_SWITCHES} times; this switch was not followed"
        return TurnIssue("runtime", text, code=LIMIT_CODE, retryable=False)
    try:
        after, is_opened = open_frame(frames, switch.frame_id, REASON, now_ms, CausalRef("turn", turn_id))
        payloads = _payloads(switch.initial_nodes)
    except ConflictError as error:
        return TurnIssue("runtime", error.message, code=error.code, retryable=False)
    except (msgspec.ValidationError, ValueError) as error:
        text = f"the first nodes of an agent frame are not usable: {error}"
        return TurnIssue("runtime", text, code=NODES_CODE, retryable=False)
    frame_id = current_frame(after).frame_id
    nodes = first_nodes(payloads, name=handed_on_name(turn_id), parent=leaf_node_id, frame_id=frame_id, now_ms=now_ms)
    if not is_safe_to_resume(messages_on(nodes)):
        text = "the first nodes of an agent frame leave tool calls without a result"
        return TurnIssue("runtime", text, code=NODES_CODE, retryable=False)
    task = AgentFrameTask(frame_id, switch.task, options, chain.root_turn_id, chain.switches + 1)
    return FrameHandoff(after, nodes, task, is_opened)


def _payloads(initial_nodes: tuple[Any, ...]) -> tuple[NodePayload, ...]:
    """The payloads a switch names. A replayed switch comes from the journal, where they are plain JSON."""
    if len(initial_nodes) > MAX_INITIAL_NODES:
        raise ValueError(f"at most {MAX_INITIAL_NODES} of them, not {len(initial_nodes)}")
    return tuple(from_builtins_any(to_builtins(node), NodePayload) for node in initial_nodes)


def readable_nodes(given: Any, kind: Any) -> Any:
    """What a program hands in to be added to a session, as a `kind` that is read again (`codec.reread`); raises
    `UsageError` (`node_invalid`)."""
    try:
        return reread(given, kind)
    except ValueError as error:
        raise UsageError(f"those are no nodes a session can have: {error}", code="node_invalid") from error


def handed_on_name(turn_id: str) -> str:
    """What the ids of the nodes begin with that the commit of a turn adds for the frame it hands on to."""
    return f"{turn_id}.f"


def first_nodes(
    payloads: Sequence[NodePayload], *, name: str, parent: str | None, frame_id: str, now_ms: int
) -> tuple[SessionNode, ...]:
    """The nodes a frame begins with, one under another below `parent`; transient messages are left out.

    Ids of nodes and of their messages are `name` and the place, so whoever opens the frame again makes the same ones.
    """
    nodes: list[SessionNode] = []
    for index, payload in enumerate(payloads):
        node_id = f"{name}{index}"
        if isinstance(payload, ConversationPayload):
            if payload.message.is_transient:
                continue
            payload = ConversationPayload(msgspec.structs.replace(payload.message, id=node_id))
        nodes.append(SessionNode(node_id, parent, frame_id, now_ms, payload))
        parent = node_id
    return tuple(nodes)
