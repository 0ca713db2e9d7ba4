"""What a turn is told by its queue: inputs and work as messages of its transcript (contract 02 §1.5, 03 §4.8).

Pure, and a function of what was taken: message ids come from the ids of rows,
so the same rows make the same messages in every drive of a turn. Only user
text speaks as a user; a wake is an event.
"""

from __future__ import annotations

from collections.abc import Iterable

from lash_cli.core.codec import encode
from lash_cli.core.content import Message, ProcessOrigin, ProtocolTurnOptions, Role, TextPart, TurnInput, user_message
from lash_cli.core.graph import CausalRef
from lash_cli.core.ingress import TurnInputClaim, TurnInputCompletion, completion_of
from lash_cli.core.queued_work import (
    AgentFrameTask,
    ProcessWake,
    QueuedWorkBatch,
    QueuedWorkClaim,
    QueuedWorkCompletion,
    work_completion_of,
)


class TurnClaims:
    """Everything one turn took: what it was started from, then what its checkpoints brought, in that order: the claims
    themselves, and the ids of their inputs and batches.

    Whatever stands here must be settled by the turn's one commit.
    """

    def __init__(self, inputs: TurnInputClaim | None = None, work: QueuedWorkClaim | None = None) -> None:
        self.inputs: list[TurnInputCompletion] = []
        self.work: list[QueuedWorkCompletion] = []
        self.input_ids: tuple[str, ...] = ()
        self.batch_ids: tuple[str, ...] = ()
        self.add(None if inputs is None else completion_of(inputs), None if work is None else work_completion_of(work))

    def add(self, inputs: TurnInputCompletion | None, work: QueuedWorkCompletion | None) -> None:
        """Note what was taken; a claim noted before is not noted twice."""
        if inputs is not None and inputs not in self.inputs:
            self.inputs.append(inputs)
            self.input_ids += inputs.input_ids
        if work is not None and work not in self.work:
            self.work.append(work)
            self.batch_ids += work.batch_ids


def work_message_id(batch_id: str, index: int) -> str:
    """The id of the message that payload `index` of a batch becomes."""
    return f"m_work_{batch_id}_{index}"


def work_messages(batches: Iterable[QueuedWorkBatch]) -> tuple[Message, ...]:
    """The messages of turn work, in order: a wake speaks as an event, a frame's task as the user."""
    messages: list[Message] = []
    for batch in batches:
        for index, payload in enumerate(batch.payloads):
            message_id = work_message_id(batch.batch_id, index)
            match payload:
                case ProcessWake():
                    origin = ProcessOrigin(payload.process_id)
                    messages.append(Message(message_id, Role.EVENT, (TextPart(wake_text(payload)),), origin))
                case AgentFrameTask(task=task):
                    messages.append(user_message(message_id, TurnInput.text(task)))
    return tuple(messages)


def work_causes(batches: Iterable[QueuedWorkBatch]) -> tuple[CausalRef, ...]:
    """What turn work came from: process events, and turns that switched to another frame."""
    causes: list[CausalRef] = []
    for batch in batches:
        for payload in batch.payloads:
            match payload:
                case ProcessWake(process_id=process_id, sequence=sequence):
                    causes.append(CausalRef("process_event", process_id, sequence))
                case AgentFrameTask(root_turn_id=turn_id):
                    causes.append(CausalRef("turn", turn_id))
    return tuple(causes)


def frame_task_of(batches: Iterable[QueuedWorkBatch]) -> AgentFrameTask | None:
    """The frame task among turn work, None when there is none; such a batch is exclusive, so it is the only one."""
    return next(
        (payload for batch in batches for payload in batch.payloads if isinstance(payload, AgentFrameTask)), None
    )


def turn_options(inputs: TurnInputClaim | None, work: QueuedWorkClaim | None) -> ProtocolTurnOptions | None:
    """The options a turn was asked for with: the first ones among its inputs, or those of a frame's task."""
    for row in inputs.inputs if inputs is not None else ():
        if row.input.protocol_turn_options is not None:
            return row.input.protocol_turn_options
    task = frame_task_of(work.batches) if work is not None else None
    return None if task is None else task.protocol_turn_options


def wake_text(wake: ProcessWake) -> str:
    """What the model reads about a wake."""
    lines = ["Background process wake", f"process: {wake.process_id}", f"event: {wake.event_type} #{wake.sequence}"]
    if wake.input is not None:
        lines.append("input: " + (wake.input if isinstance(wake.input, str) else encode(wake.input).decode()))
    return "\n".join(lines)
