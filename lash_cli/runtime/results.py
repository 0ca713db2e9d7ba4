"""From what the machine did to what is stored and told: summary and result (contract 01 §7).

Pure. How the outcome is decided stands in `core.machine_assembly`.
"""

from __future__ import annotations

import msgspec

from lash_cli.core.commit import TurnSummary
from lash_cli.core.content import Message, Role, message_text
from lash_cli.core.machine_assembly import assistant_output
from lash_cli.core.machine_records import DoneEffect
from lash_cli.core.outcome import (
    AssistantMessage,
    ExecutionSummary,
    Finished,
    TurnCancellationEvidence,
    TurnIssue,
    TurnOutcome,
    TurnResult,
)
from lash_cli.core.tools import ToolCallRecord


def answer_node_id(outcome: TurnOutcome, messages: tuple[Message, ...]) -> str | None:
    """The message whose text is the answer, when the last one the model wrote is exactly it."""
    match outcome:
        case Finished(finish=AssistantMessage(text=text)):
            for message in reversed(messages):
                if message.role is Role.ASSISTANT:
                    return message.id if message_text(message) == text else None
    return None


def summarise(
    *,
    outcome: TurnOutcome,
    evidence: TurnCancellationEvidence | None,
    issues: tuple[TurnIssue, ...],
    done: DoneEffect,
    messages: tuple[Message, ...],
    started_at_ms: int,
    duration_ms: int,
    input_ids: tuple[str, ...],
) -> TurnSummary:
    """What is stored with the turn's stamp; the answer's text is left to its node."""
    answer = answer_node_id(outcome, messages)
    return TurnSummary(
        outcome=Finished(AssistantMessage("")) if answer is not None else outcome,
        started_at_ms=started_at_ms,
        duration_ms=duration_ms,
        usage=done.usage,
        cancellation=evidence,
        llm_calls=done.llm_calls,
        errors=issues,
        input_ids=input_ids,
        tool_call_count=len(done.tool_calls),
        answer_node_id=answer,
        had_code_execution=done.had_code_execution,
    )


def result_of(
    session_id: str,
    turn_id: str,
    outcome: TurnOutcome,
    summary: TurnSummary,
    done: DoneEffect | None,
    head_revision: int | None,
    stored: tuple[Message, ...] = (),
    calls: tuple[ToolCallRecord, ...] = (),
) -> TurnResult:
    """The result of a turn: of one that just ended, or (`done` None) of one read from its stored summary, and from
    what is `stored` of its messages and its `calls`."""
    output, notes = assistant_output(outcome, done.messages if done is not None else stored)
    return TurnResult(
        session_id=session_id,
        turn_id=turn_id,
        outcome=outcome,
        assistant_output=output,
        execution=ExecutionSummary(
            had_tool_calls=summary.tool_call_count > 0,
            had_code_execution=summary.had_code_execution,
            started_at_ms=summary.started_at_ms,
            duration_ms=summary.duration_ms,
        ),
        head_revision=head_revision,
        cancellation=summary.cancellation,
        usage=summary.usage,
        llm_calls=summary.llm_calls,
        tool_calls=done.tool_calls if done is not None else calls,
        errors=(*summary.errors, *notes),
        input_ids=summary.input_ids,
    )


def replayed_outcome(summary: TurnSummary, answer: Message | None) -> TurnOutcome:
    """The outcome of a stored summary, with the answer's text put back from its node."""
    if summary.answer_node_id is not None and answer is not None:
        finish = AssistantMessage(message_text(answer))
        return msgspec.structs.replace(summary.outcome, finish=finish)
    return summary.outcome
