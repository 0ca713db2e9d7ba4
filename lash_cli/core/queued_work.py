"""Queued work: session commands and background work that waits for a session (contract 02 §3).

Never user text: that is an input (`core.ingress`). What may be claimed next is
decided here, by pure functions over candidates in `enqueue_seq` order, so every
store selects alike. The head of the line decides: nothing skips it, except a
caller that names batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, Literal

from lash_cli.core.claim_limits import MAX_CLAIMED_BATCHES
from lash_cli.core.codec import Record, reread, tag_of
from lash_cli.core.content import ProtocolTurnOptions
from lash_cli.errors import InvalidQueuedWorkBatch

# Candidates read beyond `max_batches`, so that a claim sees where its group ends.
SCAN_MARGIN = 32

# A failing batch is tried again after 1, 2, 4 … seconds, then parked (design D20).
MAX_ATTEMPTS = 5
FIRST_RETRY_MS = 1_000
LONGEST_RETRY_MS = 60_000

# The highest sequence settled for a process is kept in 64 bits.
MAX_SEQUENCE: Final = 2**63 - 1


class RefreshToolCatalog(Record, tag="refresh_tool_catalog", tag_field="kind"):
    """Recompute the tool surface from its live sources (contract 02 §6.2)."""

    reason: str


class ResetSession(Record, tag="reset_session", tag_field="kind"):
    """Start over under the same id and policy; the stored graph is replaced (contract 02 §6.2)."""

    reason: str


SessionCommand = RefreshToolCatalog | ResetSession


class ProcessWake(Record, tag="process_wake", tag_field="type"):
    """An event of a background process that wakes the session (contract 03 §4.8).

    `sequence` is the event's place in its process; a wake at or below the
    highest one settled for `process_id` is never delivered again.
    """

    wake_id: str
    process_id: str
    sequence: int
    event_type: str
    input: Any = None
    dedupe_key: str | None = None
    created_at_ms: int = 0


_FOLLOWING: Final = ":agent-frame:"


def following_turn_id(root_turn_id: str, switches: int) -> str:
    """The id of the turn that stands behind so many switches of one that began as `root_turn_id`."""
    return f"{root_turn_id}{_FOLLOWING}{switches}"


def followed_turn_id(turn_id: str) -> tuple[str, int] | None:
    """The turn that began what a turn of that id goes on with, and how many switches led there; None for an id that
    `following_turn_id` did not make. A caller may have chosen one that only looks like it."""
    root_turn_id, mark, switches = turn_id.rpartition(_FOLLOWING)
    is_made = bool(root_turn_id and mark) and switches.isascii() and switches.isdecimal()
    return (root_turn_id, int(switches)) if is_made else None


class AgentFrameTask(Record, tag="agent_frame_task", tag_field="type"):
    """The task a turn handed to the frame it switched to.

    `root_turn_id` is the turn that switched first and `switches` how many
    switches led here, so that whoever runs the task can count on.
    """

    frame_id: str
    task: str
    protocol_turn_options: ProtocolTurnOptions | None = None
    root_turn_id: str = ""
    switches: int = 1

    @property
    def turn_id(self) -> str | None:
        """The id of the turn that follows the switch (contract 01 §5.4), whoever starts it; None for a task that does
        not say what switched."""
        return following_turn_id(self.root_turn_id, self.switches) if self.root_turn_id else None


class CommandWork(Record, tag="session_command", tag_field="type"):
    """A session command waiting for its turn."""

    command: SessionCommand


QueuedWorkPayload = ProcessWake | AgentFrameTask | CommandWork


class QueuedWorkClass(StrEnum):
    """What a batch is for; derived from its payloads."""

    SESSION_COMMAND = "session_command"
    TURN_WORK = "turn_work"


class DeliveryPolicy(StrEnum):
    """When a batch may be taken."""

    EARLIEST_SAFE_BOUNDARY = "earliest_safe_boundary"
    AFTER_CURRENT_TURN_COMMIT = "after_current_turn_commit"


class SlotPolicy(StrEnum):
    """Whether a batch may share a turn."""

    JOIN = "join"
    EXCLUSIVE = "exclusive"


class NeverMerge(Record, tag="never", tag_field="kind"):
    """Joins nothing."""


class PayloadDefault(Record, tag="payload_default", tag_field="kind"):
    """Joins batches of the same default."""


class MergeGroup(Record, tag="group", tag_field="kind"):
    """Joins batches of the same group."""

    key: str


MergeKey = NeverMerge | PayloadDefault | MergeGroup

QueuedWorkClaimBoundary = Literal["active_turn_checkpoint", "idle"]


class BatchState(StrEnum):
    """Stored state of a batch. `dead` failed too often and waits for a person; settled rows wait for `vacuum`."""

    PENDING = "pending"
    DEAD = "dead"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class QueuedWorkBatchDraft(Record):
    """A batch to be stored (contract 02 §3.2). `source_key` makes it idempotent: a key seen before answers with what
    stands there."""

    session_id: str
    payloads: tuple[QueuedWorkPayload, ...]
    delivery_policy: DeliveryPolicy
    slot_policy: SlotPolicy
    merge_key: MergeKey = NeverMerge()
    source_key: str | None = None
    available_at_ms: int = 0


class QueuedWorkBatch(Record):
    """One batch as a caller sees it (contract 02 §3.1). Item `i` of its payloads is `{batch_id}:item:{i}`."""

    batch_id: str
    session_id: str
    enqueue_seq: int
    work_class: QueuedWorkClass
    delivery_policy: DeliveryPolicy
    slot_policy: SlotPolicy
    merge_key: MergeKey
    available_at_ms: int
    enqueued_at_ms: int
    payloads: tuple[QueuedWorkPayload, ...]
    source_key: str | None = None
    state: BatchState = BatchState.PENDING
    attempts: int = 0
    last_error: str | None = None


class QueuedWorkReceipt(Record):
    """What an enqueue answers (contract 02 §3.2). `already_settled` says the key's batch was completed or cancelled
    before."""

    batch_id: str
    source_key: str | None = None
    already_settled: bool = False


class QueuedWorkClaim(Record):
    """A claim on batches under one lease generation; see `TurnInputClaim` (contract 02 §3.1)."""

    session_id: str
    claim_id: str
    claim_token: str
    generation: int
    turn_id: str | None
    batches: tuple[QueuedWorkBatch, ...]
    fencing_token: int = 1


class QueuedWorkCompletion(Record):
    """What a commit presents to settle a claim."""

    claim_id: str
    claim_token: str
    batch_ids: tuple[str, ...]


class SessionCommandReceipt(Record):
    """Proof that a command is durable, not that it was applied; `source_key` is its batch id without a key (contract 02
    §6.2)."""

    session_id: str
    batch_id: str
    source_key: str


def work_completion_of(claim: QueuedWorkClaim) -> QueuedWorkCompletion:
    """The completion that settles every batch of `claim`."""
    return QueuedWorkCompletion(claim.claim_id, claim.claim_token, tuple(batch.batch_id for batch in claim.batches))


def class_of(payloads: Sequence[QueuedWorkPayload]) -> QueuedWorkClass:
    """The class all payloads share; raises `InvalidQueuedWorkBatch` when there are none or they differ."""
    classes = {
        QueuedWorkClass.SESSION_COMMAND if isinstance(payload, CommandWork) else QueuedWorkClass.TURN_WORK
        for payload in payloads
    }
    if len(classes) != 1:
        raise InvalidQueuedWorkBatch("a batch holds payloads of exactly one class")
    return classes.pop()


def readable_draft(draft: QueuedWorkBatchDraft) -> QueuedWorkBatchDraft:
    """What a program submits, as it is read again (`codec.reread`); raises `InvalidQueuedWorkBatch` for a batch that
    nobody could ever read."""
    try:
        readable: QueuedWorkBatchDraft = reread(draft, QueuedWorkBatchDraft)
        for payload in readable.payloads:
            if isinstance(payload, ProcessWake) and abs(payload.sequence) > MAX_SEQUENCE:
                raise ValueError("the sequence of a wake is beyond 64 bits")
    except ValueError as error:
        raise InvalidQueuedWorkBatch(f"that is no batch of queued work: {error}") from error
    return readable


def validate_draft(draft: QueuedWorkBatchDraft) -> QueuedWorkClass:
    """The class of a draft that may be stored (contract 02 §3.1).

    Raises `InvalidQueuedWorkBatch` for an empty or mixed batch, and for a
    command batch that is not exactly one exclusive payload: claims could never
    make sense of those.
    """
    work_class = class_of(draft.payloads)
    is_single = len(draft.payloads) == 1 and draft.slot_policy is SlotPolicy.EXCLUSIVE
    if work_class is QueuedWorkClass.SESSION_COMMAND and not is_single:
        raise InvalidQueuedWorkBatch("a session command is a batch of its own, and exclusive")
    return work_class


def command_draft(session_id: str, command: SessionCommand, source_key: str) -> QueuedWorkBatchDraft:
    """The batch of a session command."""
    return QueuedWorkBatchDraft(
        session_id,
        (CommandWork(command),),
        DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT,
        SlotPolicy.EXCLUSIVE,
        source_key=source_key,
    )


def command_source_key(command: SessionCommand, idempotency_key: str) -> str:
    """The source key of a command under a caller's key; raises `InvalidQueuedWorkBatch` for what is no command."""
    if not isinstance(command, SessionCommand):
        raise InvalidQueuedWorkBatch(f"a session command cannot be of the type {type(command).__name__}")
    return f"command:{tag_of(command)}:{idempotency_key}"


def wake_draft(session_id: str, wake: ProcessWake) -> QueuedWorkBatchDraft:
    """The batch of a process wake."""
    return QueuedWorkBatchDraft(
        session_id,
        (wake,),
        DeliveryPolicy.EARLIEST_SAFE_BOUNDARY,
        SlotPolicy.EXCLUSIVE,
        source_key=f"process:{wake.process_id}:event:{wake.sequence}:wake",
    )


def frame_task_key(turn_id: str) -> str:
    """The key of the batch that a switching turn hands on."""
    return f"agent-frame-handoff:{turn_id}"


def frame_task_draft(session_id: str, turn_id: str, task: AgentFrameTask) -> QueuedWorkBatchDraft:
    """The batch that hands the task of switching turn `turn_id` to its new frame."""
    return QueuedWorkBatchDraft(
        session_id,
        (task,),
        DeliveryPolicy.AFTER_CURRENT_TURN_COMMIT,
        SlotPolicy.EXCLUSIVE,
        source_key=frame_task_key(turn_id),
    )


class Candidate(Record):
    """What selection looks at of one ready, claimable batch."""

    batch_id: str
    work_class: QueuedWorkClass
    delivery_policy: DeliveryPolicy
    slot_policy: SlotPolicy
    merge_key: MergeKey = NeverMerge()


class Selected(Record):
    """The batches to claim together, in claim order; at least one."""

    batch_ids: tuple[str, ...]


class Refused(Record):
    """Why nothing may be claimed."""

    reason: Literal["empty", "command_at_head", "boundary_blocked", "unclaimable_together"]


Selection = Selected | Refused


def _is_admitted(candidate: Candidate, boundary: QueuedWorkClaimBoundary) -> bool:
    return boundary == "idle" or candidate.delivery_policy is DeliveryPolicy.EARLIEST_SAFE_BOUNDARY


def _joins(head: Candidate, other: Candidate) -> bool:
    """Whether `other` may share a claim with `head`; `never` never merges."""
    return (
        other.work_class is QueuedWorkClass.TURN_WORK
        and head.slot_policy is other.slot_policy is SlotPolicy.JOIN
        and other.delivery_policy is head.delivery_policy
        and other.merge_key == head.merge_key
        and not isinstance(head.merge_key, NeverMerge)
    )


def select_leading_command(candidates: Sequence[Candidate]) -> str | None:
    """The batch at the head of the line if it is a session command; delivery policy is not consulted."""
    head = candidates[0] if candidates else None
    return head.batch_id if head is not None and head.work_class is QueuedWorkClass.SESSION_COMMAND else None


def select_turn_work(candidates: Sequence[Candidate], boundary: QueuedWorkClaimBoundary, max_batches: int) -> Selection:
    """The group at the head of the line.

    A command at the head blocks, and so does, at a checkpoint, a head that
    waits for the commit: it shields what stands behind it. An exclusive head is
    taken alone, a joining one with the joining batches right behind it.
    """
    if max_batches < 1 or not candidates:
        return Refused("empty")
    head = candidates[0]
    if head.work_class is QueuedWorkClass.SESSION_COMMAND:
        return Refused("command_at_head")
    if not _is_admitted(head, boundary):
        return Refused("boundary_blocked")
    group = [head.batch_id]
    for candidate in candidates[1:max_batches]:
        if not _joins(head, candidate):
            break
        group.append(candidate.batch_id)
    return Selected(tuple(group))


def select_named(
    named: Sequence[Candidate | None], boundary: QueuedWorkClaimBoundary, max_batches: int = MAX_CLAIMED_BATCHES
) -> Selection:
    """The batches a caller named, in that order: all of them, or none.

    `named` holds the candidate of each id, None for one that is absent, not
    ready or held. They may stand anywhere in the line but must be distinct turn
    work that forms one legal group.
    """
    if not named:
        return Refused("empty")
    found = [candidate for candidate in named if candidate is not None]
    ids = tuple(candidate.batch_id for candidate in found)
    is_group = (
        len(found) == len(named) <= max_batches
        and len(set(ids)) == len(ids)
        and found[0].work_class is QueuedWorkClass.TURN_WORK
        and all(_is_admitted(candidate, boundary) for candidate in found)
        and all(_joins(found[0], candidate) for candidate in found[1:])
    )
    return Selected(ids) if is_group else Refused("unclaimable_together")


def retry_at_ms(attempts: int, now_ms: int) -> int | None:
    """When a batch that has failed `attempts` times (from 1) is tried again; None parks it as dead (design D20)."""
    if attempts >= MAX_ATTEMPTS:
        return None
    return now_ms + min(FIRST_RETRY_MS << (attempts - 1), LONGEST_RETRY_MS)
