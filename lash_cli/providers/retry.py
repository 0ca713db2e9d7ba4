"""The one retry ladder and its attempt ledger (contract 06 §2, §3.2).

Every attempt of a model call passes here and leaves an `AttemptRecord`;
transports and providers never retry. A call ends in a result, never in an
exception, unless the event sink itself fails or the calling task is cancelled.
Before every wait whatever the failed attempt showed is retracted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from lash_cli.core.codec import Record
from lash_cli.core.llm import (
    AttemptRecord,
    AttemptReset,
    ExecutionEvidence,
    LlmCallRecord,
    LlmCallResult,
    LlmRequest,
    LlmResponse,
    NormalizedError,
    ReasoningDelta,
    RetryDecision,
    RetryStatus,
    StreamEvent,
    TerminalReason,
    TextDelta,
    UsageReported,
)
from lash_cli.core.protocols import CancelSignal, Clock, EventSink, Provider
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LlmTransportError
from lash_cli.providers.classify import from_exception, presentable

JITTER_BITS = 32
MIN_THROTTLE_WAIT_MS = 1_000
MAX_THROTTLE_WAITS = 8
UNSAFE_RETRY = "unsafe_retry_after_output_started"


class RetryPolicy(Record):
    """How a failing call is repeated; the defaults of contract 06 §3.2. Times are milliseconds.

    `jitter` is the share of a delay that is random: 0 is none, 1 is full
    jitter. `retry_after_output="reset"` retracts what was shown and asks
    again, so that a cut stream is never taken for an answer; "refuse" fails
    the call instead, for hosts that cannot retract.
    """

    max_attempts: int = 4
    base_delay_ms: int = 2_000
    factor: float = 2.0
    max_delay_ms: int = 10_000
    jitter: float = 0.0
    retry_after_cap_ms: int = 60_000
    throttle_wait_budget_ms: int = 90_000
    retry_after_output: Literal["reset", "refuse"] = "reset"

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be between 0 and 1, got {self.jitter}")
        if min(self.base_delay_ms, self.max_delay_ms, self.retry_after_cap_ms, self.throttle_wait_budget_ms) < 0:
            raise ValueError("delays must not be negative")

    def backoff_ms(self, failures: int, random_bits: Callable[[int], int]) -> int:
        """The delay after the `failures`-th failed attempt, counted from 1."""
        delay = min(self.base_delay_ms * self.factor ** (failures - 1), self.max_delay_ms)
        if self.jitter:
            share = random_bits(JITTER_BITS) / (1 << JITTER_BITS)
            delay = delay * (1 - self.jitter) + delay * self.jitter * share
        return int(delay)


class _Attempt:
    """What one attempt showed, seen between the provider and the caller's sink."""

    def __init__(self, sink: EventSink) -> None:
        self._sink = sink
        self.has_text = False
        self.has_output = False
        self.usage = TokenUsage()
        self.sink_fault: Exception | None = None

    async def emit(self, event: StreamEvent) -> None:
        """Pass `event` on, remembering what it was and whether the sink failed."""
        if isinstance(event, TextDelta):
            self.has_text = self.has_output = True
        elif isinstance(event, ReasoningDelta):
            self.has_output = True
        elif isinstance(event, UsageReported):
            self.usage = self.usage.merged_with(event.usage)
        try:
            await self._sink(event)
        except Exception as fault:
            self.sink_fault = fault
            raise


class _Ladder:
    """The bookkeeping of one call: its attempts and what is left of its budgets."""

    def __init__(self, policy: RetryPolicy, random_bits: Callable[[int], int]) -> None:
        self.policy = policy
        self.random_bits = random_bits
        self.attempts: list[AttemptRecord] = []
        self.consumed = 0
        self.throttle_waits = 0
        self.throttle_waited_ms = 0

    def judge(self, error: NormalizedError, output_started: bool) -> tuple[RetryDecision, bool]:
        """Decide what follows a failure; also whether the attempt consumed retry budget."""
        policy = self.policy
        if not error.retryable:
            self.consumed += 1
            return RetryDecision(False, "not_retryable"), True
        asked = error.retry_after_ms
        is_throttle = error.kind == "quota" and asked is not None
        if output_started and policy.retry_after_output == "refuse" and not is_throttle:
            self.consumed += 1
            return RetryDecision(False, "output_started_without_retry_guarantee"), True
        if is_throttle and asked is not None:
            wait = max(MIN_THROTTLE_WAIT_MS, min(asked, policy.retry_after_cap_ms))
            fits = self.throttle_waited_ms + wait <= policy.throttle_wait_budget_ms
            if fits and self.throttle_waits < MAX_THROTTLE_WAITS:
                self.throttle_waits += 1
                self.throttle_waited_ms += wait
                return RetryDecision(True, "provider_retry_after", wait), False
        self.consumed += 1
        if self.consumed >= policy.max_attempts:
            return RetryDecision(False, "retry_budget_exhausted"), True
        if asked is None:
            return RetryDecision(True, "retryable_failure", policy.backoff_ms(self.consumed, self.random_bits)), True
        return RetryDecision(True, "retryable_failure", min(asked, policy.retry_after_cap_ms)), True


class RetryingCaller:
    """A provider behind the ladder; implements `core.protocols.ModelCaller`."""

    def __init__(
        self,
        provider: Provider,
        provider_id: str,
        clock: Clock,
        random_bits: Callable[[int], int],
        policy: RetryPolicy | None = None,
        *,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self._provider = provider
        self._provider_id = provider_id
        self._clock = clock
        self._random_bits = random_bits
        self._policy = policy or RetryPolicy()
        self._secrets = secrets

    @property
    def provider_id(self) -> str:
        """The id a session records."""
        return self._provider_id

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        """Run attempts until one is proved complete, none is left, or `cancel` is set.

        Returns the response or the error of the last attempt, with the record
        of all of them. Raises only what `sink` raises.
        """
        ladder = _Ladder(self._policy, self._random_bits)
        while not cancel.is_set:
            attempt = _Attempt(sink)
            started_at_ms, started = self._clock.now_ms(), self._clock.monotonic()
            outcome = await self._attempt(request, attempt, cancel)
            base = AttemptRecord(
                ordinal=len(ladder.attempts) + 1,
                started_at_ms=started_at_ms,
                duration_ms=round((self._clock.monotonic() - started) * 1000),
                outcome="completed",
                protocol_position="terminal_observed",
            )
            if isinstance(outcome, LlmResponse):
                sealed = msgspec.structs.replace(base, evidence=outcome.evidence, usage=outcome.usage)
                ladder.attempts.append(sealed)
                return LlmCallResult(_record(request, ladder), response=outcome, text_streamed=attempt.has_text)
            if outcome is None:
                ladder.attempts.append(_aborted(base, attempt))
                return LlmCallResult(_record(request, ladder), error=_CANCELLED, text_streamed=attempt.has_text)
            decision, error = self._settle(ladder, base, attempt, outcome)
            if not decision.scheduled:
                return LlmCallResult(_record(request, ladder), error=error, text_streamed=attempt.has_text)
            await sink(AttemptReset())
            await sink(
                RetryStatus(decision.delay_ms, ladder.consumed + 1, self._policy.max_attempts, _reason(decision, error))
            )
            await self._wait(decision.delay_ms, cancel)
        return LlmCallResult(_record(request, ladder), error=_CANCELLED)

    async def aclose(self) -> None:
        """Release the provider's connections."""
        await self._provider.aclose()

    def _settle(
        self, ladder: _Ladder, base: AttemptRecord, attempt: _Attempt, failure: LlmTransportError
    ) -> tuple[RetryDecision, NormalizedError]:
        """Record a failed attempt and what follows it."""
        partial = failure.partial if isinstance(failure.partial, LlmResponse) else None
        output_started = attempt.has_output or bool(partial and partial.parts)
        error = from_exception(failure, self._secrets)
        decision, consumed = ladder.judge(error, output_started)
        if decision.reason == "output_started_without_retry_guarantee":
            error = msgspec.structs.replace(error, code=UNSAFE_RETRY, retryable=False)
        evidence: ExecutionEvidence | None = partial.evidence if partial else None
        ladder.attempts.append(
            msgspec.structs.replace(
                base,
                outcome="failed",
                protocol_position="output_started" if output_started else failure.protocol_position,
                retry_budget_consumed=consumed,
                retry_decision=decision,
                error=error,
                evidence=evidence,
                usage=attempt.usage.merged_with(partial.usage) if partial else attempt.usage,
            )
        )
        return decision, error

    async def _attempt(
        self, request: LlmRequest, attempt: _Attempt, cancel: CancelSignal
    ) -> LlmResponse | LlmTransportError | None:
        """One attempt: its answer, its failure, or None when it was cancelled."""
        running = asyncio.ensure_future(self._contained(request, attempt))
        if await _first(running, cancel):
            return running.result()
        return None

    async def _contained(self, request: LlmRequest, attempt: _Attempt) -> LlmResponse | LlmTransportError:
        try:
            return await self._provider.complete(request, attempt.emit)
        except LlmTransportError as failure:
            return failure
        except Exception as panic:
            if panic is attempt.sink_fault:
                raise
            text = f"the provider raised {type(panic).__name__}: {panic}"
            return LlmTransportError(
                presentable(text, self._secrets), kind="unknown", code="provider_panicked", retryable=False
            )

    async def _wait(self, delay_ms: int, cancel: CancelSignal) -> None:
        """Sleep, or return early once cancelled."""
        await _first(asyncio.ensure_future(self._clock.sleep(delay_ms / 1000)), cancel)


_CANCELLED = NormalizedError(
    kind="unknown",
    message="the model call was cancelled",
    code="cancelled",
    terminal_reason=TerminalReason.CANCELLED,
)


async def _first(work: asyncio.Future[Any], cancel: CancelSignal) -> bool:
    """Whether `work` ended before `cancel` was set; if not, `work` is cancelled and awaited."""
    watch = asyncio.ensure_future(cancel.wait())
    try:
        await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        for task in (work, watch):
            if not task.done():
                task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


def _record(request: LlmRequest, ladder: _Ladder) -> LlmCallRecord:
    return LlmCallRecord(request.scope.request_id, tuple(ladder.attempts))


def _aborted(base: AttemptRecord, attempt: _Attempt) -> AttemptRecord:
    return msgspec.structs.replace(
        base,
        outcome="aborted",
        protocol_position="output_started" if attempt.has_output else "no_response",
        retry_decision=RetryDecision(False, "cancelled"),
        error=_CANCELLED,
        usage=attempt.usage,
    )


def _reason(decision: RetryDecision, error: NormalizedError) -> str:
    """Why the caller waits, for a status line."""
    return f"{decision.reason}: {error.code or error.kind}"
