"""Running a direct completion: checks, the same retry ladder as a turn's calls, and the value (contract 06 §15)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from lash_cli.core.codec import reread, to_builtins
from lash_cli.core.content import AttachmentPart, Message, ToolCallPart
from lash_cli.core.direct import DirectLlmCompletion, DirectRequest, direct_scope, substantial_messages
from lash_cli.core.llm import LlmCallRecord, LlmRequest, StreamEvent, ToolChoice
from lash_cli.core.machine_rules import effective_reason, stop_of_reason
from lash_cli.core.policy import ModelSpec
from lash_cli.core.structured import INVALID_OUTPUT, FittingAnswer, UnfitAnswer
from lash_cli.errors import DirectCompletionError, LlmTransportError
from lash_cli.runtime.asking import asked
from lash_cli.runtime.attachments import reader_of
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.structured import check_output, judged

INVALID_REQUEST = "invalid_request"


async def complete_directly(
    host: RuntimeHost, request: DirectRequest, *, model: ModelSpec, provider_id: str
) -> DirectLlmCompletion:
    """Ask once, through the ladder; `model` and `provider_id` stand in for what the request leaves open.

    Raises `UsageError` for a schema or an attachment source that cannot be
    used, `DirectCompletionError` (`invalid_request`) before anything is sent,
    (`invalid_structured_output`) for an answer that does not fit, which is not
    asked for again, and with the provider's code for a failed call; its details
    hold the call's record. Cancelling the awaiting task cancels the call.
    """
    request = readable_request(request)
    llm_request = _llm_request(host, request, request.model or model)
    caller = host.providers.resolve(request.provider_id or provider_id)
    result = await asked(caller, llm_request, sink=_unseen, cancel=CancelToken(), is_strict=host.is_strict)
    error, response = result.error, result.response
    if response is None:
        assert error is not None, "a result is a response or an error"
        raise _failed(error.code or error.kind, error.message, result.record)
    reason = effective_reason(response, llm_request.model.limits.context_window_tokens)
    if stop_of_reason(reason) is not None:
        raise _failed(reason.value, response.terminal_diagnostic or f"the answer ended: {reason.value}", result.record)
    if any(isinstance(part, ToolCallPart) for part in response.parts):
        raise _failed("unexpected_tool_call", "the model made a call although it has no tools", result.record)
    value = None
    if request.output is not None:
        match judged(response.full_text, request.output):
            case FittingAnswer(value=fitting):
                value = fitting
            case UnfitAnswer(problem=problem):
                raise _failed(INVALID_OUTPUT, f"the answer does not have the required form: {problem}", result.record)
    return DirectLlmCompletion(response, result.record.usage, result.record, value)


def readable_request(request: object) -> DirectRequest:
    """`request` with its messages in a tuple. Raises `DirectCompletionError` (`invalid_request`) for what is no request
    of messages, such as a bare text."""
    if isinstance(request, DirectRequest) and isinstance(request.messages, Iterable):
        messages = tuple(request.messages)
        if all(isinstance(said, Message) for said in messages):
            return msgspec.structs.replace(request, messages=messages)
    raise DirectCompletionError(
        'a completion takes a DirectRequest of messages: DirectRequest((Message("1", Role.USER, (TextPart(text),)),))',
        code=INVALID_REQUEST,
    )


def _llm_request(host: RuntimeHost, request: DirectRequest, model: ModelSpec) -> LlmRequest:
    from lash_cli.providers.reasoning import intent_of

    try:
        intent_of(model)
    except LlmTransportError as refused:
        raise DirectCompletionError(
            refused.message, code=INVALID_REQUEST, details={"reason": refused.code}
        ) from refused
    try:
        reread(request.caused_by, str | None)
    except ValueError as error:
        raise DirectCompletionError(f"nothing can be booked to that: {error}", code=INVALID_REQUEST) from error
    messages = substantial_messages(request.messages)
    if not messages:
        raise DirectCompletionError("a completion needs a message that says something", code=INVALID_REQUEST)
    for message in messages:
        for part in message.parts:
            if isinstance(part, AttachmentPart):
                host.attachments.check(part.attachment)
    if request.output is not None:
        check_output(request.output)
    has_store = host.store is not None and request.session_id is not None
    return LlmRequest(
        model=model,
        messages=messages,
        scope=direct_scope(request.session_id, host.ids.new("d")),
        system=request.system,
        tool_choice=ToolChoice.NONE,
        output_token_cap=request.output_token_cap or model.limits.output_token_capacity,
        generation=request.generation,
        output_spec=request.output,
        fetch=reader_of(host.store, request.session_id or "") if has_store and host.store is not None else None,
        is_shown=False,
    )


def _failed(code: str, message: str, record: LlmCallRecord) -> DirectCompletionError:
    details: dict[str, Any] = {"call": to_builtins(record)}
    error = DirectCompletionError(message, code=code, details=details)
    error.record = record
    return error


async def _unseen(event: StreamEvent) -> None:
    """Nobody watches a direct completion."""
