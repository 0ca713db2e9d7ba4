"""The queue of a session as JSON documents: inputs, batches, cancel outcomes (contract 08 §5.2, §5.3, §6.1).

As in `documents`, a record goes in and a plain dictionary with all of its keys
comes out. An input and a batch have the same keys as items of one list; what
only the other family has is null. `state` is what a person would call it: an
input or a batch that somebody holds is `accepted`, whatever the row says.
"""

from __future__ import annotations

from collections.abc import Iterable

from lash_cli.cli.documents import Document, spelled_out
from lash_cli.core.codec import tag_of
from lash_cli.core.content import AttachmentSource, TextItem
from lash_cli.core.ingress import (
    HOST_PREFIX,
    ActiveTurn,
    AlreadyClaimed,
    InputState,
    PendingTurnInput,
    PendingTurnInputCancelOutcome,
    PendingTurnInputCancelTarget,
)
from lash_cli.core.queued_work import (
    AgentFrameTask,
    BatchState,
    CommandWork,
    ProcessWake,
    QueuedWorkBatch,
    QueuedWorkPayload,
)
from lash_cli.store.base import SessionMeta
from lash_cli.views.safe_text import preview
from lash_cli.views.times import rfc3339

PREVIEW_CHARS = 80
ACCEPTED = "accepted"

PENDING_INPUT_STATES = frozenset({InputState.PENDING_ACTIVE, InputState.DEFERRED_NEXT_TURN})


def callers_key(source_key: str | None) -> str | None:
    """The key as its caller gave it: what `--key` takes. Keys that were made by lash itself stay whole."""
    return source_key.removeprefix(HOST_PREFIX) if source_key is not None else None


def input_preview(row: PendingTurnInput) -> str:
    """What an input says, on one line; an attachment is only named."""
    words = [item.text if isinstance(item, TextItem) else attachment_word(item.attachment) for item in row.input.items]
    return preview(" ".join(words), PREVIEW_CHARS)


def attachment_word(source: AttachmentSource) -> str:
    """An attachment in a line of text: by the name it was given, if it was."""
    label = getattr(source, "label", None) or getattr(source, "url", None)
    return f"[attachment {label}]" if label else "[attachment]"


def _payload_preview(payload: QueuedWorkPayload) -> str:
    match payload:
        case ProcessWake(process_id=process_id, sequence=sequence, event_type=event_type):
            return f"wake of process {process_id}: {event_type} (event {sequence})"
        case AgentFrameTask(task=task):
            return f"task of a frame: {task}"
        case CommandWork(command=command):
            return f"{tag_of(command)}: {command.reason}"


def batch_preview(batch: QueuedWorkBatch) -> str:
    """What a batch is, on one line; settled ones have no payloads any more."""
    return preview("; ".join(_payload_preview(payload) for payload in batch.payloads), PREVIEW_CHARS)


def input_item(
    row: PendingTurnInput, meta: SessionMeta, *, turn_id: str | None, running_turn_id: str | None, is_held: bool = False
) -> Document:
    """One input as an item of a queue.

    `turn_id` is the turn that took or used it, as far as the caller knows;
    `delivery` says where it goes: into the turn that runs, or into the next one.
    """
    enters_running_turn = isinstance(row.ingress, ActiveTurn) and row.ingress.turn_id == running_turn_id is not None
    return {
        "id": row.input_id,
        "type": "input",
        "session": row.session_id,
        "session_name": meta.name,
        "seq": row.enqueue_seq,
        "delivery": "this_turn" if enters_running_turn else "next_turn",
        "state": ACCEPTED if is_held else row.state.value,
        "key": callers_key(row.source_key),
        "enqueued_at": rfc3339(row.enqueued_at_ms),
        "preview": input_preview(row),
        "turn_id": turn_id,
        "ingress": spelled_out(row.ingress),
        "items": spelled_out(row.input.items),
        "batch": None,
    }


def batch_document(batch: QueuedWorkBatch, *, is_held: bool = False) -> Document:
    """One batch by itself."""
    return {
        "id": batch.batch_id,
        "session": batch.session_id,
        "seq": batch.enqueue_seq,
        "state": ACCEPTED if is_held else batch.state.value,
        "class": batch.work_class.value,
        "delivery_policy": batch.delivery_policy.value,
        "slot_policy": batch.slot_policy.value,
        "merge_key": spelled_out(batch.merge_key),
        "key": batch.source_key,
        "enqueued_at": rfc3339(batch.enqueued_at_ms),
        "available_at": rfc3339(batch.available_at_ms or None),
        "attempts": batch.attempts,
        "last_error": batch.last_error,
        "preview": batch_preview(batch),
        "payloads": spelled_out(batch.payloads),
    }


def batch_item(batch: QueuedWorkBatch, meta: SessionMeta, *, is_held: bool = False) -> Document:
    """One batch as an item of a queue."""
    document = batch_document(batch, is_held=is_held)
    return {
        "id": batch.batch_id,
        "type": "batch",
        "session": batch.session_id,
        "session_name": meta.name,
        "seq": batch.enqueue_seq,
        "delivery": "background",
        "state": document["state"],
        "key": batch.source_key,
        "enqueued_at": document["enqueued_at"],
        "preview": document["preview"],
        "turn_id": None,
        "ingress": None,
        "items": None,
        "batch": document,
    }


def held_batch_ids(all_batches: Iterable[QueuedWorkBatch], free: Iterable[QueuedWorkBatch]) -> frozenset[str]:
    """Of the unsettled batches, the pending ones that somebody holds: those not free."""
    free_ids = {batch.batch_id for batch in free}
    return frozenset(
        batch.batch_id for batch in all_batches if batch.state is BatchState.PENDING and batch.batch_id not in free_ids
    )


def outcome_item(
    target: PendingTurnInputCancelTarget, outcome: PendingTurnInputCancelOutcome, meta: SessionMeta | None
) -> Document:
    """What became of one target of a cancel. `id` is the input's id, null when there is none."""
    row: PendingTurnInput | None = getattr(outcome, "input", None)
    claim = outcome.claim if isinstance(outcome, AlreadyClaimed) else None
    described = None
    if row is not None and meta is not None:
        turn_id = claim.turn_id if claim is not None else None
        is_held = isinstance(outcome, AlreadyClaimed)
        described = input_item(row, meta, turn_id=turn_id, running_turn_id=turn_id, is_held=is_held)
    return {
        "id": row.input_id if row is not None else None,
        "target": spelled_out(target),
        "outcome": tag_of(outcome),
        "preview": input_preview(row) if row is not None else None,
        "input": described,
        "claim": spelled_out(claim),
    }
