"""From a finished machine to what a caller is told: the outcome and the answer's text (contract 01 §7.1).

A turn is cancelled if and only if there is cancellation evidence. Text comes
from the transcript only: what was merely streamed is never salvaged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lash_cli.core.codec import encode
from lash_cli.core.content import Message, ProsePart, Role, ToolResultPart
from lash_cli.core.machine_records import DoneEffect
from lash_cli.core.outcome import (
    AssistantMessage,
    AssistantOutput,
    FinalValue,
    Finished,
    Stopped,
    TurnCancellationEvidence,
    TurnIssue,
    TurnOutcome,
)
from lash_cli.errors import LashRuntimeError

RECOVERED_CODE = "assistant_output_recovered_from_state"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def assemble_outcome(
    done: DoneEffect | None, cancellation: TurnCancellationEvidence | None
) -> tuple[TurnOutcome, tuple[TurnIssue, ...]]:
    """How the turn ended and what to report about it.

    Evidence wins over whatever the machine said: the gate decided. A machine
    that never finished is a `runtime_error` with the issue `missing_done`.
    Raises `LashRuntimeError` (`turn_cancellation_evidence_missing`) when the
    machine says cancelled and nobody asked for it.
    """
    issues = done.issues if done is not None else ()
    if cancellation is not None:
        return Stopped("cancelled"), issues
    if done is None:
        issue = TurnIssue("runtime", "the turn ended without an outcome", code="missing_done", retryable=False)
        return Stopped("runtime_error"), (issue,)
    if done.outcome == Stopped("cancelled"):
        raise LashRuntimeError("turn_cancellation_evidence_missing", "the turn stopped as cancelled without a request")
    return done.outcome, issues


def assistant_output(
    outcome: TurnOutcome, messages: Sequence[Message]
) -> tuple[AssistantOutput, tuple[TurnIssue, ...]]:
    """The answer's text, and the issues of finding it.

    A prose answer is its own text, a final value its JSON. Any other outcome recovers what the model
    said after the latest user message; that adds a non-blocking issue, and the
    state `recovered_from_error` when the turn stopped short.
    """
    match outcome:
        case Finished(finish=AssistantMessage(text=text)):
            return AssistantOutput(_safe(text), text, "usable" if text.strip() else "empty_output"), ()
        case Finished(finish=FinalValue(value=value)):
            text = value if isinstance(value, str) else encode(value).decode("utf-8")
            return AssistantOutput(_safe(text), text, "usable"), ()
    text = _said_since_user(messages)
    if not text.strip():
        return AssistantOutput("", "", "empty_output"), ()
    state = AssistantOutput(_safe(text), text, "recovered_from_error" if isinstance(outcome, Stopped) else "usable")
    issue = TurnIssue("runtime", "the answer's text was taken from the transcript", code=RECOVERED_CODE, blocking=False)
    return state, (issue,)


def _said_since_user(messages: Sequence[Message]) -> str:
    """The prose after the latest message of a user, one paragraph per message; tool results are no user's words."""
    said: list[str] = []
    for message in reversed(messages):
        if message.role is Role.USER and not any(isinstance(part, ToolResultPart) for part in message.parts):
            break
        if message.role is Role.ASSISTANT and not message.is_transient:
            text = "".join(part.content for part in message.parts if isinstance(part, ProsePart))
            if text.strip():
                said.append(text)
    return "\n\n".join(reversed(said))


def _safe(text: str) -> str:
    """`text` without control characters, except line feeds and tabs: C0, DEL and C1 can drive a terminal."""
    return _CONTROLS.sub("", text)
