"""Records as JSON documents: what scripts read from the session verbs (contract 08 §6.1).

Every document spells out all of its keys (null when unknown), times are
RFC 3339 in UTC with milliseconds, durations end in `_ms`, and nothing here
writes: a record goes in, a plain dictionary comes out. Status words are
derived from rows, never stored, so they cannot lie. Imported by `lash ls`, so
nothing but core records is imported here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any

import msgspec

from lash_cli.core.content import AttachmentPart, Message, ReasoningPart, ToolCallPart, message_text
from lash_cli.core.frames import AgentFrame
from lash_cli.core.lease import LeaseOwnerIdentity, LeaseRow, LocalProcess, is_row_live
from lash_cli.core.llm import AttemptRecord, ExecutionEvidence, LlmCallRecord
from lash_cli.core.outcome import (
    AgentFrameSwitch,
    AssistantMessage,
    FinalValue,
    Finished,
    Stopped,
    ToolValue,
    TurnCancelReceipt,
    TurnIssue,
    TurnOutcome,
    TurnResult,
)
from lash_cli.core.policy import SessionPolicy
from lash_cli.core.prompt import render_prompt
from lash_cli.core.tools import ToolCallRecord, ToolManifest
from lash_cli.core.usage import SessionUsageReport, TokenLedgerEntry, TokenUsage
from lash_cli.store.base import SessionRow, TurnRecord
from lash_cli.views.times import rfc3339

Document = dict[str, Any]
IsDead = Callable[[LocalProcess], bool]

STATUSES = ("running", "stuck", "closed", "queued", "parked", "idle")


# --- plain values -------------------------------------------------------------------------------


def spelled_out(value: Any) -> Any:
    """`value` as plain JSON types with every field of every record present, defaults included."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        document: Document = {config.tag_field: config.tag} if config.tag_field else {}
        for name in value.__struct_fields__:
            document[name] = spelled_out(getattr(value, name))
        return document
    if isinstance(value, dict):
        return {str(key): spelled_out(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spelled_out(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.value if isinstance(value, Enum) else value


def usage_document(usage: TokenUsage) -> Document:
    """The five counts and the billable total."""
    return {**spelled_out(usage), "total_tokens": usage.total}


def ledger_document(entries: Iterable[TokenLedgerEntry]) -> list[Document]:
    """One row per `(source, model)`."""
    return [{"source": entry.source, "model": entry.model, **usage_document(entry.usage)} for entry in entries]


def usage_report_document(report: SessionUsageReport) -> Document:
    """The ledger of a session, summed three ways."""
    return {
        **usage_document(report.usage),
        "by_source": {name: usage_document(usage) for name, usage in report.by_source.items()},
        "by_model": {name: usage_document(usage) for name, usage in report.by_model.items()},
        "by_source_model": ledger_document(report.by_source_model),
    }


# --- sessions -----------------------------------------------------------------------------------


def is_lease_live(lease: LeaseRow, now_ms: int, is_dead: IsDead) -> bool:
    """Whether somebody really holds the lane: unexpired, and the holder is not provably dead."""
    if not is_row_live(lease, now_ms):
        return False
    liveness = lease.owner.liveness if lease.owner is not None else None
    return not (isinstance(liveness, LocalProcess) and is_dead(liveness))


def session_status(row: SessionRow, now_ms: int, is_dead: IsDead) -> str:
    """One of `STATUSES`, derived from rows: a running turn whose lane nobody holds is `stuck`."""
    if row.running_turn_id is not None:
        return "running" if is_lease_live(row.lease, now_ms, is_dead) else "stuck"
    if row.meta.closed_at_ms is not None:
        return "closed"
    if row.pending_inputs or row.pending_batches:
        return "queued"
    return "parked" if row.meta.parked_at_ms is not None else "idle"


def owner_document(owner: LeaseOwnerIdentity | None) -> Document | None:
    """Who holds a lane, as far as it said so."""
    if owner is None:
        return None
    process = owner.liveness if isinstance(owner.liveness, LocalProcess) else None
    return {
        "owner_id": owner.owner_id,
        "label": owner.label or None,
        "pid": process.pid if process else None,
        "host": process.host_id if process else None,
    }


def lease_document(lease: LeaseRow, now_ms: int, is_dead: IsDead) -> Document | None:
    """The lane of a session, None while it is free. `live` is false when the holder is gone."""
    if lease.token is None:
        return None
    return {
        "holder": owner_document(lease.owner),
        "generation": lease.fencing_token,
        "claimed_at": rfc3339(lease.claimed_at_ms),
        "expires_at": rfc3339(lease.expires_at_ms),
        "expires_in_ms": max(0, lease.expires_at_ms - now_ms),
        "live": is_lease_live(lease, now_ms, is_dead),
    }


def session_document(row: SessionRow, now_ms: int, is_dead: IsDead) -> Document:
    """A session as listings show it.

    `last_activity_at` is its last commit, or its creation; `context_tokens` is
    how full its context was after the last model call.
    """
    meta = row.meta
    prompt = row.turn_state.last_prompt_usage
    return {
        "id": meta.session_id,
        "name": meta.name,
        "status": session_status(row, now_ms, is_dead),
        "provider": row.config.provider_id,
        "model": row.config.model.id,
        "turns": row.turn_state.turn_index,
        "pending_inputs": row.pending_inputs,
        "pending_batches": row.pending_batches,
        "running_turn": row.running_turn_id,
        "head_revision": row.head_revision,
        "created_at": rfc3339(meta.created_at_ms),
        "last_activity_at": rfc3339(row.last_commit_at_ms or meta.created_at_ms),
        "closed_at": rfc3339(meta.closed_at_ms),
        "parked_at": rfc3339(meta.parked_at_ms),
        "held_at": rfc3339(meta.held_at_ms),
        "hold_reason": meta.hold_reason,
        "cwd": meta.cwd,
        "parent": meta.parent_session_id,
        "labels": dict(meta.labels),
        "context_tokens": prompt.context_budget_tokens if prompt else None,
        "lease": lease_document(row.lease, now_ms, is_dead),
    }


# What only a session in full says; where nobody looked it up it is null.
_DETAIL_KEYS = (
    "policy", "head", "frames", "usage", "queue", "batches", "unfinished_turn", "warnings", "tools",
)  # fmt: skip


def bare_session_document(row: SessionRow, now_ms: int, is_dead: IsDead) -> Document:
    """A session by itself, with the keys of one in full."""
    return {**session_document(row, now_ms, is_dead), **dict.fromkeys(_DETAIL_KEYS)}


def policy_document(policy: SessionPolicy) -> Document:
    """The effective policy; `system` is the rendered prompt layer of the session, null when it has none."""
    return {
        "provider": policy.provider_id,
        "model": spelled_out(policy.model),
        "max_steps": policy.max_turns,
        "autonomous": policy.autonomous,
        "system": render_prompt((policy.prompt,)) or None,
    }


def frame_document(frame: AgentFrame) -> Document:
    """One frame, without what it ran under."""
    return {
        "id": frame.frame_id,
        "status": frame.status.value,
        "reason": frame.reason,
        "previous": frame.previous_frame_id,
        "created_at": rfc3339(frame.created_at_ms),
    }


def tool_document(manifest: ToolManifest) -> Document:
    """One tool a session may call."""
    return {
        "id": manifest.id,
        "name": manifest.name,
        "description": manifest.description,
        "approval": manifest.approval,
        "retry": spelled_out(manifest.retry_policy)["type"],
        "timeout_ms": manifest.timeout_ms,
    }


# --- turns --------------------------------------------------------------------------------------


def outcome_document(outcome: TurnOutcome) -> Document:
    """How a turn ended: `type` finished, agent_frame_switch or stopped, and what belongs to it."""
    document: Document = dict.fromkeys(("type", "finish", "reason", "value", "tool_name", "frame_id"))
    match outcome:
        case Finished(finish=AssistantMessage()):
            document.update(type="finished", finish="assistant_message")
        case Finished(finish=FinalValue(value=value)):
            document.update(type="finished", finish="final_value", value=spelled_out(value))
        case Finished(finish=ToolValue(tool_name=tool_name, value=value)):
            document.update(type="finished", finish="tool_value", value=spelled_out(value), tool_name=tool_name)
        case AgentFrameSwitch(frame_id=frame_id):
            document.update(type="agent_frame_switch", frame_id=frame_id)
        case Stopped(reason=reason, value=value, tool_name=tool_name):
            document.update(type="stopped", reason=reason, value=spelled_out(value), tool_name=tool_name)
    return document


def issue_document(issue: TurnIssue) -> Document:
    """One issue a turn reports."""
    document: Document = spelled_out(issue)
    return document


def tool_call_document(record: ToolCallRecord) -> Document:
    """One finished call of a turn."""
    return {
        "call_id": record.call_id,
        "name": record.tool,
        "args": spelled_out(record.args),
        "status": record.output.status,
        "output": spelled_out(record.output.outcome),
        "duration_ms": record.duration_ms,
    }


def attempts_document(calls: Iterable[LlmCallRecord]) -> list[Document]:
    """The attempts behind each model call, failed ones included."""
    return [
        {
            "call_id": call.call_id,
            "label": call.label,
            "usage": usage_document(call.usage),
            "attempts": [_attempt_document(attempt) for attempt in call.attempts],
        }
        for call in calls
    ]


def _attempt_document(attempt: AttemptRecord) -> Document:
    """One attempt; what the provider did not say about itself is null, never taken from the request."""
    evidence = attempt.evidence or ExecutionEvidence()
    return {
        "ordinal": attempt.ordinal,
        "outcome": attempt.outcome,
        "protocol_position": attempt.protocol_position,
        "started_at": rfc3339(attempt.started_at_ms),
        "duration_ms": attempt.duration_ms,
        "error": spelled_out(attempt.error),
        "retry": spelled_out(attempt.retry_decision),
        "retry_budget_consumed": attempt.retry_budget_consumed,
        "served_model": evidence.served_model,
        "response_id": evidence.provider_response_id,
        "request_id": evidence.provider_request_id,
        "finish_reason": evidence.provider_finish_reason,
        "reasoning_tokens": evidence.reasoning_output_tokens,
        "usage": usage_document(attempt.usage),
        "response_metadata": spelled_out(attempt.response_metadata),
    }


def turn_document(record: TurnRecord, text: str | None) -> Document:
    """A stored turn; `text` is its answer, which lives in a node and not in the turn row."""
    summary = record.summary
    return {
        "id": record.turn_id,
        "session": record.session_id,
        "state": record.state,
        "index": record.turn_index,
        "origin": record.origin,
        "started_at": rfc3339(record.started_at_ms),
        "duration_ms": summary.duration_ms if summary else None,
        "head_revision": record.head_revision,
        "first_node": record.first_node_id,
        "last_node": record.last_node_id,
        "outcome": outcome_document(summary.outcome) if summary else None,
        "text": text,
        "usage": usage_document(summary.usage) if summary else None,
        "cancellation": spelled_out(summary.cancellation) if summary else None,
        "errors": [issue_document(issue) for issue in summary.errors] if summary else [],
        "input_ids": list(summary.input_ids) if summary else [],
        "tool_call_count": summary.tool_call_count if summary else 0,
        "model_calls": attempts_document(summary.llm_calls) if summary else [],
    }


def turn_result_document(result: TurnResult, *, name: str | None, replayed: bool = False) -> Document:
    """What `lash turn -o json` prints, and what `details.turn` of a stopped turn holds."""
    text = result.assistant_message()
    return {
        "session": result.session_id,
        "session_name": name,
        "turn_id": result.turn_id,
        "ok": result.is_success,
        "replayed": replayed,
        "outcome": outcome_document(result.outcome),
        "text": text,
        "partial_text": None if text is not None or _has_value(result) else result.assistant_output.raw_text or None,
        "usage": usage_document(result.usage),
        "children_usage": ledger_document(result.children_usage),
        "total_usage": usage_document(result.total_usage()),
        "tool_calls": [tool_call_document(record) for record in result.tool_calls],
        "errors": [issue_document(issue) for issue in result.errors],
        "model_calls": attempts_document(result.llm_calls),
        "cancellation": spelled_out(result.cancellation),
        "head_revision": result.head_revision,
        "input_ids": list(result.input_ids),
        "started_at": rfc3339(result.execution.started_at_ms),
        "duration_ms": result.execution.duration_ms,
    }


def _has_value(result: TurnResult) -> bool:
    """Whether the turn answered with a value, which is in its outcome."""
    match result.outcome:
        case Finished(finish=FinalValue()):
            return True
    return False


def turn_usage_document(result: TurnResult) -> Document:
    """What `lash turn --usage-file` writes."""
    return {
        "session": result.session_id,
        "turn_id": result.turn_id,
        "usage": usage_document(result.usage),
        "children_usage": ledger_document(result.children_usage),
        "total_usage": usage_document(result.total_usage()),
        "model_calls": attempts_document(result.llm_calls),
    }


def receipt_document(receipt: TurnCancelReceipt) -> Document:
    """The answer to a cancel request."""
    return {
        "session": receipt.address.session_id,
        "turn_id": receipt.address.turn_id,
        "outcome": receipt.outcome,
        "durability_tier": receipt.durability_tier,
        "evidence": spelled_out(receipt.evidence),
    }


# --- transcripts --------------------------------------------------------------------------------


def _part_document(part: Any) -> Document:
    document: Document = spelled_out(part)
    if isinstance(part, ToolCallPart | ReasoningPart):
        # Replay data is opaque to everybody but the provider that made it.
        document.pop("replay", None)
    document.pop("response_meta", None)
    if isinstance(part, AttachmentPart):
        document["attachment"].pop("data", None)
    return document


def message_document(
    message: Message, *, at_ms: int | None = None, turn_id: str | None = None, frame_id: str | None = None
) -> Document:
    """One message with its parts in order."""
    return {
        "id": message.id,
        "role": message.role.value,
        "at": rfc3339(at_ms),
        "turn_id": turn_id,
        "frame": frame_id,
        "text": message_text(message),
        "origin": spelled_out(message.origin),
        "parts": [_part_document(part) for part in message.parts],
    }


def transcript_document(
    row: SessionRow, messages: Sequence[Document], frames: Iterable[AgentFrame] = (), *, cursor: str | None = None
) -> Document:
    """What `lash log -o json` prints; `cursor` is where to go on from, as far as it was looked up."""
    return {
        "session": row.meta.session_id,
        "session_name": row.meta.name,
        "head_revision": row.head_revision,
        "cursor": cursor,
        "frames": [frame_document(frame) for frame in frames],
        "items": list(messages),
    }
