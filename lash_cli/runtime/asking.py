"""Asking a model caller, which may be anybody's: whatever it does, its call has a result (contract 01 §0, 05 §3.6).

A caller of a program's own may raise, answer something else, or take no notice of a cancel. A turn that could not end
for that would begin again with every next one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from lash_cli.core.codec import described, storable
from lash_cli.core.content import AttachmentSource
from lash_cli.core.llm import (
    LlmCallRecord,
    LlmCallResult,
    LlmRequest,
    NormalizedError,
    StreamEvent,
    TerminalReason,
    kept_result,
)
from lash_cli.core.protocols import EventSink, JudgesAttachments, ModelCaller
from lash_cli.errors import SessionExecutionLeaseExpired
from lash_cli.runtime.cancellation import FAILURES, CancelCause, CancelToken
from lash_cli.runtime.foreign import CutOff, within_turn

_log = logging.getLogger("lash.models")

# The code of what a provider raised that is no failure of its endpoint: a bug in it (contract 05 §3.6).
PROVIDER_PANICKED = "provider_panicked"
# How long a caller may take to return once its call is cancelled: what closing a connection and cleaning up behind it
# need. Then it is cancelled itself, and has as long again.
CANCEL_GRACE_S = 1.0
_MAX_TEXT_CHARS: Final = 1_024


async def asked(
    caller: ModelCaller, request: LlmRequest, *, sink: EventSink, cancel: CancelToken, is_strict: bool = False
) -> LlmCallResult:
    """What `caller` answers, or the error that stands for what it did instead. Raises what `sink` raises, with
    `is_strict` what the caller does, and `SessionExecutionLeaseExpired` when `cancel` says that the lane was lost."""
    heard = _Heard(sink)
    try:
        if getattr(caller, "checks_answers", False):
            result = await caller.call(request, sink=heard.take, cancel=cancel)
        else:
            calling = asyncio.ensure_future(_called(caller, request, heard, cancel))
            result = await within_turn(
                calling, "the model caller", cancel, request.scope.session_id, grace_s=CANCEL_GRACE_S
            )
    except CutOff:
        return LlmCallResult(LlmCallRecord(request.scope.request_id), error=_CANCELLED, text_streamed=heard.has_any)
    except Exception as raised:
        is_lane_lost = cancel.cause is CancelCause.LEASE_LOST and isinstance(raised, SessionExecutionLeaseExpired)
        if raised is heard.fault or is_strict or is_lane_lost:
            raise
        _log.exception("the model caller raised")
        return _panicked(request, f"raised {described(raised, _MAX_TEXT_CHARS)}", heard)
    finally:
        heard.is_over = True
    ended = result.error or result.response
    if ended is not None and ended.terminal_reason is TerminalReason.CANCELLED and not cancel.is_set:
        return _not_cancelled(result)
    return result


async def _called(caller: ModelCaller, request: LlmRequest, heard: _Heard, cancel: CancelToken) -> LlmCallResult:
    """What a caller answers that nobody has checked, in a task of its own."""
    try:
        answer: object = await caller.call(request, sink=heard.take, cancel=cancel)
    except asyncio.CancelledError:
        return _panicked(request, "cancelled itself", heard)
    try:
        return kept_result(answer)
    except ValueError as flaw:
        return _panicked(request, str(flaw), heard)


def refusal_of(caller: ModelCaller, source: AttachmentSource, *, is_strict: bool) -> str | None:
    """Why `caller` cannot be sent an attachment, None when it can, as far as it says. One that fails to say has refused
    it, and with `is_strict` what it raises passes through."""
    if not isinstance(caller, JudgesAttachments):
        return None
    try:
        refusal: object = caller.attachment_refusal(source)
    except FAILURES as raised:
        if is_strict:
            raise
        _log.exception("the model caller raised")
        return f"the model caller raised {described(raised, _MAX_TEXT_CHARS)}"
    if refusal is None:
        return None
    return storable(refusal) if isinstance(refusal, str) else f"the model caller answered {type(refusal).__name__}"


def _not_cancelled(result: LlmCallResult) -> LlmCallResult:
    """A call of which only its provider says that it was cancelled, as the failure of the provider it is: a turn is
    cancelled by a request alone, and without one would have no outcome (contract 01 §6.6)."""
    error, response = result.error, result.response
    if error is not None:
        error = msgspec.structs.replace(error, terminal_reason=TerminalReason.PROVIDER_ERROR)
    if response is not None:
        said = response.terminal_diagnostic or "the provider says that the answer was cancelled"
        response = msgspec.structs.replace(
            response, terminal_reason=TerminalReason.PROVIDER_ERROR, terminal_diagnostic=said
        )
    return msgspec.structs.replace(result, response=response, error=error)


_CANCELLED: Final = NormalizedError(
    kind="unknown", message="the model call was cancelled", code="cancelled", terminal_reason=TerminalReason.CANCELLED
)


class _Heard:
    """The sink of a call, which remembers what it raised itself, and is deaf once the call is over."""

    __slots__ = ("_sink", "fault", "has_any", "is_over")

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self.fault: Exception | None = None
        self.has_any = False
        self.is_over = False

    async def take(self, event: StreamEvent) -> None:
        if self.is_over:
            return
        self.has_any = True
        try:
            await self._sink(event)
        except Exception as fault:
            self.fault = fault
            raise


def _panicked(request: LlmRequest, what: str, heard: _Heard) -> LlmCallResult:
    error = NormalizedError("unknown", f"the model caller {what}", code=PROVIDER_PANICKED)
    return LlmCallResult(LlmCallRecord(request.scope.request_id), error=error, text_streamed=heard.has_any)
