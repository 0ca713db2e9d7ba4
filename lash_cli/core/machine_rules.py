"""Judgements about content a turn makes, as pure functions (contract 01 §6.3, 05 §1.3, 06 §10).

How a terminal reason ends a turn, how calls get their ids and results, which
tool control decides. The invariant all of them serve: a transcript never
holds a call without exactly one result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from lash_cli.core.codec import decode_written, to_builtins
from lash_cli.core.content import (
    AttachmentPart,
    Message,
    Part,
    ProsePart,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from lash_cli.core.llm import LlmPart, LlmResponse, NormalizedError, TerminalReason
from lash_cli.core.outcome import (
    AgentFrameSwitch,
    Finished,
    Stopped,
    StopReason,
    ToolValue,
    TurnIssue,
    TurnOutcome,
)
from lash_cli.core.pricing import CostLimit
from lash_cli.core.tools import (
    FailControl,
    FinishControl,
    SwitchAgentFrameControl,
    ToolCallOutput,
    ToolCallRecord,
    project_output,
)

OVERFLOW_PERCENT = 95  # a zero-output answer to a prompt this full of the window is an overflow
LLM_ISSUE = "llm_provider"

_STOP_OF_REASON: dict[TerminalReason, StopReason] = {
    TerminalReason.OUTPUT_LIMIT: "incomplete",
    TerminalReason.CONTEXT_OVERFLOW: "provider_error",
    TerminalReason.CONTENT_FILTER: "provider_error",
    TerminalReason.PROVIDER_ERROR: "provider_error",
    TerminalReason.CANCELLED: "cancelled",
}
_DEFAULT_DIAGNOSTIC: dict[TerminalReason, str] = {
    TerminalReason.OUTPUT_LIMIT: "the answer was cut off at the output limit",
    TerminalReason.CONTEXT_OVERFLOW: "the conversation does not fit into the model's context window",
    TerminalReason.CONTENT_FILTER: "the provider's content filter stopped the answer",
    TerminalReason.PROVIDER_ERROR: "the provider ended the answer with an error",
}


def effective_reason(response: LlmResponse, context_window_tokens: int | None) -> TerminalReason:
    """The reason a response ended, with the zero-output rule applied.

    `output_limit` without a single output token and with a prompt of at least
    95 % of the window is `context_overflow`: there was no room to answer.
    """
    usage = response.usage
    if (
        response.terminal_reason is TerminalReason.OUTPUT_LIMIT
        and context_window_tokens is not None
        and usage.output_tokens == 0
        and usage.prompt * 100 >= context_window_tokens * OVERFLOW_PERCENT
    ):
        return TerminalReason.CONTEXT_OVERFLOW
    return response.terminal_reason


def stop_of_reason(reason: TerminalReason) -> StopReason | None:
    """How a terminal reason ends the turn; None means the protocol decides."""
    return _STOP_OF_REASON.get(reason)


def terminal_issue(reason: TerminalReason, response: LlmResponse) -> TurnIssue | None:
    """The issue of a response that ended the turn; a cancel is not an issue. Never retryable. What the provider itself
    called the reason is its `raw`."""
    if reason not in _DEFAULT_DIAGNOSTIC:
        return None
    from lash_cli.core.redaction import kept_raw  # hardly any turn ends here

    message = response.terminal_diagnostic or _DEFAULT_DIAGNOSTIC[reason]
    said = response.evidence.provider_finish_reason if response.evidence is not None else None
    return TurnIssue(
        LLM_ISSUE,
        message,
        code=reason.value,
        terminal_reason=reason.value,
        retryable=False,
        raw=kept_raw(said, message),
    )


def provider_issue(error: NormalizedError, raw: str | None = None) -> TurnIssue:
    """The issue of a call whose attempts all failed; `raw` is that of the call."""
    wait = error.retry_after_ms
    return TurnIssue(
        LLM_ISSUE,
        error.message if wait is None else f"{error.message} (it asks to wait {-(-wait // 1000)} s)",
        code=error.code or error.kind,
        terminal_reason=error.terminal_reason.value,
        retryable=error.retryable,
        provider_failure_kind=error.kind,
        raw=raw,
    )


def truncated_message(response: LlmResponse) -> Message | None:
    """What of an answer cut at the output limit becomes history: its prose, or nothing.

    The user saw the prose and the provider proved that the answer ended there,
    so the next turn may build on it ("go on"). Calls never ran and are left
    out. Reasoning and wire ids are left out too: wires refuse a reasoning item
    whose successor is missing, and a message id without its reasoning.
    """
    parts = tuple(
        ProsePart(part.content) for part in response.parts if isinstance(part, ProsePart) and part.content.strip()
    )
    return Message("", Role.ASSISTANT, parts) if parts else None


def substantial_parts(parts: Iterable[LlmPart]) -> tuple[LlmPart, ...]:
    """The parts that say something, in wire order: blank prose and empty reasoning without replay data dropped."""
    return tuple([part for part in parts if _is_substantial(part)])


def _is_substantial(part: LlmPart) -> bool:
    match part:
        case ProsePart(content=content):
            return bool(content.strip())
        case ReasoningPart(content=content, replay=replay):
            return bool(content.strip()) or replay is not None
        case _:
            return True


def with_unique_call_ids(response: LlmResponse, taken: Sequence[AbstractSet[str]], prefix: str) -> LlmResponse:
    """The response with every call under a non-blank id of its own that is none of those `taken` by the conversation.

    Some wires send no ids and some count from zero in every answer; others, to
    which a session may be switched, refuse a conversation with an id twice. Such an id
    becomes `{prefix}.c{index}`, a function of the position only, so a replay
    finds it again. Other ids stay what the provider sent.
    """
    ids = [part.tool_call_id for part in response.tool_calls]
    own = set(ids)
    if len(own) == len(ids) and all(map(own.isdisjoint, taken)) and all(map(str.strip, ids)):
        return response
    seen: set[str] = set()
    parts: list[LlmPart] = []
    for index, part in enumerate(response.parts):
        if isinstance(part, ToolCallPart):
            call_id = part.tool_call_id
            if not call_id.strip() or call_id in seen or any(call_id in others for others in taken):
                call_id = f"{prefix}.c{index}"
                while any(call_id in others for others in (seen, own, *taken)):
                    call_id += "x"
            seen.add(call_id)
            if call_id != part.tool_call_id:
                part = msgspec.structs.replace(part, tool_call_id=call_id)
        parts.append(part)
    return msgspec.structs.replace(response, parts=tuple(parts))


def without_calls(response: LlmResponse) -> LlmResponse:
    """The response without calls: the answer to a request that allowed none."""
    kept = tuple(part for part in response.parts if not isinstance(part, ToolCallPart))
    return msgspec.structs.replace(response, parts=kept)


def tool_results_message(records: Sequence[ToolCallRecord], projections: Sequence[str] = ()) -> Message:
    """The one user message that answers a batch, without an id.

    All results come first, in source order, then the attachments of the
    calls: wires demand that nothing stands between a call and its result. A
    label before them names the call they came from (contract 06 §7).
    """
    texts = projections or [project_output(record.output) for record in records]
    parts: list[Part] = [
        ToolResultPart(record.call_id, record.tool, text, record.output.status)
        for record, text in zip(records, texts, strict=True)
    ]
    for record in records:
        if record.output.attachments:
            parts.append(TextPart(attachments_label(record.tool, record.call_id)))
            parts += [AttachmentPart(attachment) for attachment in record.output.attachments]
    return Message("", Role.USER, tuple(parts))


def attachments_label(tool_name: str, call_id: str) -> str:
    """What stands before the attachments of one call."""
    return f"Attached by {tool_name} ({call_id}):"


def shown_arguments(call: ToolCallPart) -> Any:
    """The arguments of a call as JSON where they parse, else the text the model sent."""
    try:
        return decode_written(call.input_json) if call.input_json.strip() else {}
    except msgspec.DecodeError:
        return call.input_json


def record_of(call: ToolCallPart, output: ToolCallOutput) -> ToolCallRecord:
    """The record of a call the engine answers itself."""
    return ToolCallRecord(call.tool_call_id, call.tool_name, shown_arguments(call), output)


def ordered_results(
    calls: Sequence[ToolCallPart], records: Sequence[ToolCallRecord], projections: Sequence[str]
) -> tuple[tuple[ToolCallRecord, ...], tuple[str, ...]] | None:
    """Records and their texts in the source order of `calls`; None unless each call is answered exactly once."""
    texts = projections or [project_output(record.output) for record in records]
    if len(texts) != len(records) or len(records) != len(calls):
        return None
    by_id = {record.call_id: (record, text) for record, text in zip(records, texts, strict=True)}
    if by_id.keys() != {call.tool_call_id for call in calls}:
        return None
    pairs = [by_id[call.tool_call_id] for call in calls]
    return tuple(record for record, _ in pairs), tuple(text for _, text in pairs)


def control_outcome(records: Iterable[ToolCallRecord]) -> TurnOutcome | None:
    """The outcome a tool control asks for: the first effective one in source order (contract 05 §1.3).

    Controls count on success only. A frame switch that names no task is not
    terminal and is passed over; one whose frame id or task is blank is a tool
    error.
    """
    for record in records:
        if record.output.status != "success":
            continue
        match record.output.control:
            case FinishControl(value=value):
                return Finished(ToolValue(record.tool, value))
            case FailControl(failure=failure):
                return Stopped("tool_error", to_builtins(failure), record.tool)
            case SwitchAgentFrameControl(frame_id=frame_id, task=str() as task, initial_nodes=nodes):
                if frame_id.strip() and task.strip():
                    return AgentFrameSwitch(frame_id, task, nodes)
                return Stopped("tool_error", "an agent frame switch needs a frame id and a task", record.tool)
    return None


def turn_limit_message(max_turns: int, *, is_grace: bool) -> Message:
    """What the transcript says when the limit is reached, without an id."""
    rest = (
        "Conclude now with what you have; no tools can be called any more."
        if is_grace
        else "The turn was stopped before the work was complete."
    )
    return Message("", Role.SYSTEM, (TextPart(f"Turn limit reached ({max_turns}). {rest}"),))


def cost_limit_message(limit: CostLimit) -> Message:
    """What the transcript says when a turn may cost no more, without an id."""
    text = f"Cost limit reached ({limit}). The turn was stopped before the work was complete."
    return Message("", Role.SYSTEM, (TextPart(text),))
