"""What a trace shows of a request, an answer, a tool output and the end of a turn (contract 04 §9).

Pure: records of the runtime go in, events of a trace come out. Of a long
conversation the system prompt and the newest messages are kept; everything
else about size is `core.trace_limits`' business.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from lash_cli.core import trace_events as traced
from lash_cli.core.activity import (
    AssistantProseDelta,
    ModelAttemptReset,
    ReasoningShown,
    RetryWait,
    ToolProgress,
    TurnEvent,
)
from lash_cli.core.codec import canonical_hash, decode_json, sha256_hex, tag_of, to_builtins
from lash_cli.core.content import Message, ProsePart
from lash_cli.core.llm import AttemptRecord, LlmCallResult, LlmRequest, LlmResponse, NormalizedError
from lash_cli.core.outcome import AgentFrameSwitch, Finished, Stopped, TurnOutcome
from lash_cli.core.policy import PromptLayer, ProviderDefault, ReasoningDisabled, ReasoningEffort, ReasoningSelection
from lash_cli.core.tools import ToolCallOutput, ToolCancelled, ToolFailed, ToolSuccess
from lash_cli.core.trace import moment
from lash_cli.core.trace_limits import MAX_RECORD_CHARS, MAX_TEXT_CHARS
from lash_cli.errors import EffectDiverged, LashError

MAX_BODY_BYTES = 2_048  # of what is embedded of the wire; length and hash are always there
MAX_MESSAGES = 128
# Messages share a record with the tools and the system prompt.
MAX_MESSAGE_CHARS = MAX_RECORD_CHARS // 2

_HASH_CHARS = 32


def prompt_built(request: LlmRequest, *layers: PromptLayer) -> traced.PromptBuilt:
    """The hashes and sizes of the system prompt, of what it was put together from, and of the tools."""
    components: list[traced.PromptComponent] = []
    for depth, layer in enumerate(layers):
        for slot, change in layer.slots.items():
            if change.reset:
                components = [component for component in components if component.kind != slot]
            components += [
                traced.PromptComponent(f"{depth}.{slot}.{index}", slot, _hash(part.content), len(part.content))
                for index, part in enumerate(change.contributions)
            ]
    components += [
        traced.PromptComponent(tool.name, "tool", canonical_hash(tool)[:_HASH_CHARS]) for tool in request.tools
    ]
    return traced.PromptBuilt(_hash(request.system), len(request.system), tuple(components))


def _hash(text: str) -> str:
    return sha256_hex(text.encode("utf-8", "surrogatepass"))[:_HASH_CHARS]


def shown_request(request: LlmRequest) -> traced.LlmRequestShown:
    """A request with its system prompt and its newest messages."""
    newest = _newest(request)
    total = len(request.messages)
    return traced.LlmRequestShown(
        model=request.model.id,
        messages=(*_system(request.system), *(_plain(message) for message in newest)),
        tool_choice=request.tool_choice.value,
        stream=request.stream,
        model_variant=_variant(request.model.variant),
        tools=tuple(to_builtins(tool) for tool in request.tools),
        messages_total=total if len(newest) < total else None,
        output_spec=None if request.output_spec is None else to_builtins(request.output_spec),
    )


def _variant(selection: ReasoningSelection) -> str | None:
    """The effort that is asked for, or `off`."""
    match selection:
        case ReasoningEffort(effort=effort):
            return effort
        case ReasoningDisabled():
            return "off"
        case ProviderDefault():
            return None


def _system(text: str) -> tuple[Any, ...]:
    return ({"role": "system", "parts": [{"kind": "text", "content": text}]},) if text else ()


def _newest(request: LlmRequest) -> list[Message]:
    """The last messages that fit, oldest first; at least one."""
    messages = request.messages
    newest: list[Message] = []
    room = MAX_MESSAGE_CHARS
    for position in range(len(messages) - 1, max(-1, len(messages) - 1 - MAX_MESSAGES), -1):
        message = messages[position]
        room -= sum(min(MAX_TEXT_CHARS, _size(part)) for part in message.parts)
        if room < 0 and newest:
            break
        newest.append(message)
    return newest[::-1]


def _size(part: Any) -> int:
    return len(getattr(part, "content", "")) + len(getattr(part, "input_json", ""))


def _plain(value: Any) -> Any:
    """Plain JSON types, with bytes left as they are: the limiter counts them and drops them."""
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def ended_call(
    result: LlmCallResult | object, duration_ms: int, replayed: bool
) -> traced.LlmCallCompleted | traced.LlmCallFailed:
    """The one end of a model call: its result, or the exception that broke the turn meanwhile."""
    if not isinstance(result, LlmCallResult):
        return traced.LlmCallFailed(_broken(result), duration_ms)
    attempts = tuple(_attempt(attempt) for attempt in result.record.attempts)
    response = result.response
    if response is None:
        error = result.error or NormalizedError("unknown", "the call has neither an answer nor an error")
        return traced.LlmCallFailed(_provider_error(error), duration_ms, attempts, replayed)
    return traced.LlmCallCompleted(
        traced.LlmResponseShown(response.full_text, duration_ms, response.terminal_reason.value, _parts(response)),
        response.usage,
        attempts,
        to_builtins(response.evidence) if response.evidence is not None else None,
        replayed,
    )


def _parts(response: LlmResponse) -> tuple[Any, ...]:
    """The parts of an answer, left out when they are its text and nothing else."""
    if all(isinstance(part, ProsePart) for part in response.parts):
        return ()
    return tuple(_plain(part) for part in response.parts)


def _attempt(attempt: AttemptRecord) -> traced.AttemptShown:
    return traced.AttemptShown(
        ordinal=attempt.ordinal,
        started_at=moment(attempt.started_at_ms),
        duration_ms=attempt.duration_ms,
        outcome=attempt.outcome,
        error=to_builtins(attempt.error) if attempt.error is not None else None,
        retry=to_builtins(attempt.retry_decision) if attempt.retry_decision is not None else None,
        usage=attempt.usage if attempt.usage.total else None,
    )


def _provider_error(error: NormalizedError) -> traced.LlmErrorShown:
    raw = {"kind": error.kind, "status": error.status}
    known = {name: value for name, value in raw.items() if value is not None}
    return traced.LlmErrorShown(error.message, error.retryable, error.terminal_reason.value, error.code, known)


def _broken(error: object) -> traced.LlmErrorShown:
    if isinstance(error, LashError):
        return traced.LlmErrorShown(error.message, error.retryable, code=error.code)
    return traced.LlmErrorShown(str(error), False, code=_code(error))


def shown_output(output: ToolCallOutput) -> dict[str, Any]:
    """An output as `{"outcome": {"status", "payload", "attachments"?}, "control"?}`."""
    outcome: dict[str, Any] = {"status": output.status}
    match output.outcome:
        case ToolSuccess(value=value, attachments=attachments):
            outcome["payload"] = value
            if attachments:
                outcome["attachments"] = [_plain(attachment) for attachment in attachments]
        case ToolFailed(failure=failure):
            outcome["payload"] = to_builtins(failure)
        case ToolCancelled(cancellation=cancellation):
            outcome["payload"] = to_builtins(cancellation)
    shown = {"outcome": outcome}
    if output.control is not None:
        shown["control"] = to_builtins(output.control)
    return shown


def stream_event(event: TurnEvent, sequence: int, elapsed_ms: int) -> traced.RuntimeStreamEvent | None:
    """A live event as a trace shows it, None for one that has a record of its own."""
    text: str | None = None
    detail: Any = None
    match event:
        case AssistantProseDelta(text=text) | ReasoningShown(text=text) | ToolProgress(text=text):
            pass
        case ModelAttemptReset() | RetryWait():
            detail = {name: value for name, value in to_builtins(event).items() if name != "type"}
        case _:
            return None
    name = tag_of(event)
    return traced.RuntimeStreamEvent(traced.RuntimeStreamShown(sequence, elapsed_ms, name, text, detail))


def embedded(body: bytes) -> tuple[Any, Any]:
    """The JSON of a small body, or why it is left out."""
    if len(body) > MAX_BODY_BYTES:
        return None, "size_limit"
    try:
        return decode_json(body), None
    except msgspec.DecodeError:
        return None, "invalid_json"


def envelope_diff(error: EffectDiverged) -> traced.EffectEnvelopeDiff:
    """Both sides of a divergence."""
    return traced.EffectEnvelopeDiff(
        error.code,
        _envelope(error.stored),
        _envelope(error.rebuilt),
        error.details["divergent_path_count"],
        tuple(error.details["first_divergent_paths"]),
    )


def _envelope(canonical: bytes) -> traced.EnvelopeShown:
    is_shown = len(canonical) <= MAX_BODY_BYTES
    value = decode_json(canonical) if is_shown else None
    return traced.EnvelopeShown(len(canonical), sha256_hex(canonical), value, None if is_shown else "size_limit")


def provider_event(provider: str, data: str, sequence: int, elapsed_ms: int) -> traced.ProviderStreamShown:
    """An event of a provider's stream; what it is called and what it is about, as far as its data says that."""
    raw = data.encode("utf-8", "surrogatepass")
    try:
        known = decode_json(raw)
    except msgspec.DecodeError:
        known = None
    about: dict[str, Any] = known if isinstance(known, dict) else {}
    item = about.get("item")
    item_id = about.get("item_id") or (item.get("id") if isinstance(item, dict) else None)
    index = about.get("output_index", about.get("index"))
    name = about.get("type") or about.get("object")
    return traced.ProviderStreamShown(
        provider=provider,
        sequence=sequence,
        elapsed_ms=elapsed_ms,
        event_name=name if isinstance(name, str) else "data",
        raw_len=len(raw),
        raw_sha256=sha256_hex(raw),
        item_id=item_id if isinstance(item_id, str) else None,
        output_index=index if isinstance(index, int) and not isinstance(index, bool) else None,
        raw_json=known if len(raw) <= MAX_BODY_BYTES else None,
    )


def ended_turn(
    outcome: TurnOutcome | None, duration_ms: int, errors: list[Any], broken_by: BaseException | None
) -> traced.TurnCompleted:
    """The end of a turn: by its outcome, or by what it raised instead of one."""
    match outcome:
        case Finished(finish=finish):
            return traced.TurnCompleted("completed", tag_of(finish), duration_ms, tuple(errors))
        case AgentFrameSwitch(frame_id=frame_id, task=task):
            switch = {"frame_id": frame_id, "task": task}
            return traced.TurnCompleted("completed", "agent_frame_switch", duration_ms, tuple(errors), switch)
        case Stopped(reason=reason):
            return traced.TurnCompleted("failed", reason, duration_ms, tuple(errors))
        case None:
            code = _code(broken_by)
            issue = {"kind": "raised", "code": code, "message": str(broken_by)}
            return traced.TurnCompleted("failed", code, duration_ms, (*errors, issue))


def _code(error: object) -> str:
    if isinstance(error, LashError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
