"""Asking a model caller, which may be anybody's: whatever it does, its call has a result (contract 01 §0, 05 §3.6).

A caller of a program's own may raise, answer something else, or take no notice of a cancel. A turn that could not end
for that would begin again with every next one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

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
from lash_cli.runtime.cancellation import CancelToken

_log = logging.getLogger("lash.models")

# The code of what a provider raised that is no failure of its endpoint: a bug in it (contract 05 §3.6).
PROVIDER_PANICKED = "provider_panicked"
# How long a caller may take to return once its call is cancelled: what closing a connection and cleaning up behind it
# need. Then it is cancelled itself.
CANCEL_GRACE_S = 1.0
_MAX_TEXT_CHARS: Final = 1_024


async def asked(
    caller: ModelCaller, request: LlmRequest, *, sink: EventSink, cancel: CancelToken, is_strict: bool = False
) -> LlmCallResult:
    """What `caller` answers, or the error that stands for what it did instead. Raises what `sink` raises, and with
    `is_strict` what the caller does."""
    heard = _Heard(sink)
    cut = _CutOff(cancel)
    try:
        with cut:
            result = await caller.call(request, sink=heard.take, cancel=cancel)
    except asyncio.CancelledError:
        if not cut.is_self_inflicted:
            raise
        return _panicked(request, "cancelled itself", heard)
    except Exception as raised:
        if raised is heard.fault or is_strict:
            raise
        _log.exception("the model caller raised")
        return _panicked(request, f"raised {described(raised, _MAX_TEXT_CHARS)}", heard)
    if cut.is_done:
        return LlmCallResult(LlmCallRecord(request.scope.request_id), error=_CANCELLED, text_streamed=heard.has_any)
    if not getattr(caller, "checks_answers", False):
        try:
            result = kept_result(result)
        except ValueError as flaw:
            return _panicked(request, str(flaw), heard)
    ended = result.error or result.response
    if ended is not None and ended.terminal_reason is TerminalReason.CANCELLED and not cancel.is_set:
        return _not_cancelled(result)
    return result


def refusal_of(caller: ModelCaller, source: AttachmentSource, *, is_strict: bool) -> str | None:
    """Why `caller` cannot be sent an attachment, None when it can, as far as it says. One that fails to say has refused
    it, and with `is_strict` what it raises passes through."""
    if not isinstance(caller, JudgesAttachments):
        return None
    try:
        refusal: object = caller.attachment_refusal(source)
    except Exception as raised:
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
    """The sink of a call, which remembers what it raised itself."""

    __slots__ = ("_sink", "fault", "has_any")

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self.fault: Exception | None = None
        self.has_any = False

    async def take(self, event: StreamEvent) -> None:
        self.has_any = True
        try:
            await self._sink(event)
        except Exception as fault:
            self.fault = fault
            raise


class _CutOff:
    """Cancels the task that is in its block when the block has not been left `CANCEL_GRACE_S` after the token was
    tripped, as `asyncio.timeout` does it, and takes that back as the block is left: then it `is_done`."""

    __slots__ = ("_alarm", "_before", "_cancel", "_task", "is_done", "is_self_inflicted")

    def __init__(self, cancel: CancelToken) -> None:
        self._cancel = cancel
        self._task: asyncio.Task[Any] | None = None
        self._before = 0
        self._alarm: asyncio.TimerHandle | None = None
        self.is_done = False
        self.is_self_inflicted = False

    def _begin(self) -> None:
        """Told when the token is tripped."""
        if self._alarm is None and self._task is not None:
            self._alarm = self._task.get_loop().call_later(CANCEL_GRACE_S, self._cut)

    def _cut(self) -> None:
        if self._task is not None:
            self.is_done = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None, "a call is made in a task"
        self._before = task.cancelling()
        self._cancel.tell(self._begin)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._cancel.tell_no_more(self._begin)
        task, self._task = self._task, None
        assert task is not None, "the block was entered"
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        elif kind is None:
            return False
        is_ours = self.is_done and task.uncancel() <= self._before
        self.is_self_inflicted = not self.is_done and task.cancelling() <= self._before
        return is_ours and kind is not None and issubclass(kind, asyncio.CancelledError)


def _panicked(request: LlmRequest, what: str, heard: _Heard) -> LlmCallResult:
    error = NormalizedError("unknown", f"the model caller {what}", code=PROVIDER_PANICKED)
    return LlmCallResult(LlmCallRecord(request.scope.request_id), error=error, text_streamed=heard.has_any)
