"""A model caller whose answers are written down beforehand, for scenario tests and benchmarks.

It implements the seam the runtime calls, records every request, and can wait
at a gate so that a test acts exactly while a call is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from lash_cli.core.content import ProsePart, ToolCallPart
from lash_cli.core.llm import (
    AttemptRecord,
    LlmCallRecord,
    LlmCallResult,
    LlmRequest,
    LlmResponse,
    NormalizedError,
    TerminalReason,
    TextDelta,
)
from lash_cli.core.protocols import CancelSignal, EventSink
from lash_cli.core.usage import TokenUsage

Step = LlmResponse | NormalizedError | Callable[[LlmRequest], LlmResponse]


def text(content: str, *, tokens: tuple[int, int] = (10, 5)) -> LlmResponse:
    """An answer in prose."""
    return LlmResponse((ProsePart(content),), TokenUsage(*tokens))


def calls(*wanted: tuple[str, str, str], tokens: tuple[int, int] = (10, 5)) -> LlmResponse:
    """An answer that makes calls, each `(call id, tool name, arguments text)`."""
    parts = tuple(ToolCallPart(call_id, name, arguments) for call_id, name, arguments in wanted)
    return LlmResponse(parts, TokenUsage(*tokens), TerminalReason.TOOL_USE)


def error(kind: str = "transport", *, code: str | None = None, retryable: bool = False) -> NormalizedError:
    """A failed call."""
    return NormalizedError(kind, f"scripted {kind}", code=code, retryable=retryable)


class ScriptedCaller:
    """Answers from a script, in order; the last step repeats when `repeat` is set."""

    def __init__(self, steps: Iterable[Step], *, provider_id: str = "scripted", repeat: bool = False) -> None:
        self.steps = list(steps)
        self.requests: list[LlmRequest] = []
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self._provider_id = provider_id
        self._repeat = repeat

    @property
    def provider_id(self) -> str:
        return self._provider_id

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        self.requests.append(request)
        self.entered.set()
        if self.gate is not None:
            opened = asyncio.ensure_future(self.gate.wait())
            stopped = asyncio.ensure_future(cancel.wait())
            await asyncio.wait({opened, stopped}, return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
            stopped.cancel()
        if cancel.is_set:
            return LlmCallResult(
                LlmCallRecord(request.scope.request_id),
                error=NormalizedError("cancelled", "cancelled", terminal_reason=TerminalReason.CANCELLED),
            )
        step = self.steps[0] if self._repeat and len(self.steps) == 1 else self.steps.pop(0)
        if callable(step):
            step = step(request)
        record = LlmCallRecord(request.scope.request_id)
        if isinstance(step, NormalizedError):
            return LlmCallResult(record, error=step)
        attempt = AttemptRecord(1, 0, 0, "completed", "terminal_observed", usage=step.usage)
        if step.full_text:
            await sink(TextDelta(step.full_text))
        return LlmCallResult(
            LlmCallRecord(record.call_id, (attempt,)), response=step, text_streamed=bool(step.full_text)
        )

    async def aclose(self) -> None:
        pass


class SteppedCaller(ScriptedCaller):
    """Answers a call with `reply`, when a test sets it; `parked` says that one waits for that."""

    def __init__(self) -> None:
        super().__init__([])
        self.parked = asyncio.Event()
        self.reply: asyncio.Future[Step] | None = None

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        self.reply = asyncio.get_running_loop().create_future()
        stopped = asyncio.ensure_future(cancel.wait())
        self.parked.set()
        try:
            await asyncio.wait({self.reply, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.parked.clear()
            stopped.cancel()
        self.steps = [self.reply.result()] if self.reply.done() else []
        return await super().call(request, sink=sink, cancel=cancel)
