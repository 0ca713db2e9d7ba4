"""Shapes of queues: inputs, batches, and what becomes of them (contract 08 §5.2, §5.3)."""

from __future__ import annotations

from lash_cli.cli.schemas.shape import Count, Object, Shape, Time
from lash_cli.core.content import AttachmentItem, TextItem
from lash_cli.core.ingress import ActiveTurn, ByInputId, BySourceKey, ClaimDiagnostics, NextTurn
from lash_cli.core.queued_work import AgentFrameTask, CommandWork, MergeGroup, NeverMerge, PayloadDefault, ProcessWake


class Batch(Shape, rename={"work_class": "class"}):
    """Background work or a session command. `state`: pending, accepted, dead, completed or cancelled."""

    id: str
    session: str
    seq: int
    state: str
    work_class: str
    delivery_policy: str
    slot_policy: str
    merge_key: NeverMerge | PayloadDefault | MergeGroup
    key: str | None
    enqueued_at: Time
    available_at: Time | None
    attempts: Count
    last_error: str | None
    preview: str
    payloads: list[ProcessWake | AgentFrameTask | CommandWork]


class BatchCancel(Batch):
    """A batch that was cancelled now (`cancelled`) or before (`already_cancelled`)."""

    outcome: str


class _Waiting(Shape):
    id: str
    type: str
    session: str
    session_name: str
    seq: int
    delivery: str
    state: str
    key: str | None
    enqueued_at: Time
    preview: str
    turn_id: str | None
    ingress: ActiveTurn | NextTurn | None
    items: list[TextItem | AttachmentItem] | None


class PendingItem(_Waiting):
    """One item of a queue. `type`: input or batch; `delivery`: this_turn, next_turn or background; what only the
    other type has is null. `turn_id` is the turn that took it."""

    batch: Batch | None


class PendingInput(_Waiting):
    """The receipt of a text that was put into a queue. `replayed`: it stood there before; `outcome` and `text` are
    those of the turn that used it, in the last of its frames, known after `--wait`."""

    replayed: bool
    outcome: Object | None
    text: str | None


class CancelOutcome(Shape):
    """What became of one target of a cancel. `outcome`: cancelled, already_claimed, already_completed,
    already_cancelled or not_found."""

    id: str | None
    target: ByInputId | BySourceKey
    outcome: str
    preview: str | None
    input: PendingItem | None
    claim: ClaimDiagnostics | None


class QueueHold(Shape):
    """A queue that was held or released; `changed` is false when it was so before."""

    id: str
    name: str
    held: bool
    changed: bool
    held_at: Time | None
    hold_reason: str | None
    pending_inputs: Count
    pending_batches: Count


class ClaimAbandoned(Shape):
    """What an abandoned claim gave back. `family`: input or batch."""

    id: str
    session: str
    session_name: str
    family: str
    generation: int
    released: list[str]
    dropped_turn: str | None


class WaitsRevoked(Shape):
    """How many open waits of a session were ended."""

    id: str
    name: str
    revoked: Count


class QueueEdit(Shape):
    """An edit of a queue: what is in it again, and what was dropped."""

    id: str
    session: str
    session_name: str
    running_turn: str | None
    changed: bool
    items: list[PendingItem]
    cancelled: list[str]
    dropped: list[str]
    in_use: list[str]


class RecoveredEdit(Shape):
    """What became of an edit that was cut off."""

    id: str
    session: str
    session_name: str
    outcome: str
    inputs: list[str]
    file: str | None
    code: str | None
