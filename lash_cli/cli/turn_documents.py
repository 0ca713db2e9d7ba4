"""Turns as JSON documents: stored ones, results, attempts and cancel receipts (contract 08 §6.1).

As in `documents`, a record goes in and a plain dictionary with all of its keys
comes out.
"""

from __future__ import annotations

from collections.abc import Iterable

from lash_cli.cli.documents import Document, ledger_document, spelled_out, usage_document
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
from lash_cli.core.tools import ToolCallRecord
from lash_cli.store.base import TurnRecord
from lash_cli.views.times import rfc3339


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
        "generation": spelled_out(attempt.generation),
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
        "partial_text": None
        if text is not None or result.has_final_value
        else result.assistant_output.raw_text or None,
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
