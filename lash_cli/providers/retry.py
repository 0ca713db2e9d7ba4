"""The one retry ladder and its attempt ledger (contract 06 §2, §3.2).

Every attempt of a model call passes here and leaves an `AttemptRecord`;
transports and providers never retry. A call ends in a result, never in an
exception, unless the event sink itself fails or the calling task is cancelled.
Before every wait whatever the failed attempt showed is retracted, and no wait
holds a permit of the rate limiter. Nothing leaves with a secret in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from lash_cli.core.codec import Record, described, reread, storable
from lash_cli.core.content import AttachmentSource, ProsePart, ReasoningPart
from lash_cli.core.llm import (
    AttemptRecord,
    AttemptReset,
    DeliberateStop,
    EvidenceReported,
    ExecutionEvidence,
    LlmCallRecord,
    LlmCallResult,
    LlmPart,
    LlmRequest,
    LlmResponse,
    NormalizedError,
    ProtocolPosition,
    ReasoningDelta,
    RetryDecision,
    RetryStatus,
    StreamEvent,
    TerminalReason,
    TextDelta,
    UsageReported,
    kept_response,
)
from lash_cli.core.policy import ModelSpec, ProviderDefault
from lash_cli.core.protocols import CancelSignal, Clock, EventSink, JudgesAttachments, Provider
from lash_cli.core.redaction import kept_raw, redact
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import ConfigError, LlmTransportError
from lash_cli.providers.classify import MAX_ERROR_CHARS, from_exception, presentable
from lash_cli.stragglers import end
from lash_cli.system import SystemIds, clock_of

_log = logging.getLogger("lash.models")

if TYPE_CHECKING:
    from lash_cli.providers.limiter import RateLimiter
    from lash_cli.providers.metadata import Capture

JITTER_BITS = 32
MIN_THROTTLE_WAIT_MS = 1_000
MAX_THROTTLE_WAITS = 8
#: How long a provider may take to end a call that is cancelled: what closing a connection takes.
CANCEL_GRACE_S = 1.0
UNSAFE_RETRY = "unsafe_retry_after_output_started"


class RetryPolicy(Record):
    """How a failing call is repeated; the defaults of contract 06 §3.2. Times are milliseconds.

    `jitter` is the share of a delay that is random: 0 is none, 1 is full
    jitter, which keeps clients that failed together from coming back together.
    `retry_after_output="refuse"` fails a call whose output had started, because
    whoever watched has seen half an answer that a second attempt does not
    continue; "reset" retracts it and asks again, for hosts that can take
    back what they showed and for providers that say the same twice.
    """

    max_attempts: int = 4
    base_delay_ms: int = 2_000
    factor: float = 2.0
    max_delay_ms: int = 10_000
    jitter: float = 1.0
    retry_after_cap_ms: int = 60_000
    throttle_wait_budget_ms: int = 90_000
    retry_after_output: Literal["reset", "refuse"] = "refuse"

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be between 0 and 1, got {self.jitter}")
        if min(self.base_delay_ms, self.max_delay_ms, self.retry_after_cap_ms, self.throttle_wait_budget_ms) < 0:
            raise ValueError("delays must not be negative")

    def backoff_ms(self, failures: int, random_bits: Callable[[int], int]) -> int:
        """The delay after the `failures`-th failed attempt, counted from 1."""
        delay: float
        try:
            delay = min(self.base_delay_ms * self.factor ** (failures - 1), self.max_delay_ms)
        except OverflowError:  # after a thousand failures
            delay = self.max_delay_ms if self.base_delay_ms else 0
        if self.jitter:
            share = random_bits(JITTER_BITS) / (1 << JITTER_BITS)
            delay = delay * (1 - self.jitter) + delay * self.jitter * share
        return int(delay)


class _Attempt:
    """What one attempt showed, seen between the provider and the caller's sink."""

    def __init__(self, sink: EventSink, capture: Capture | None) -> None:
        self._sink = sink
        self._shown: list[TextDelta | ReasoningDelta] = []
        self._was_heard = False
        self.capture = capture
        self.has_text = False
        self.usage = TokenUsage()
        self.evidence: ExecutionEvidence | None = None
        self.is_stopped = False
        self.sink_fault: Exception | None = None

    @property
    def has_output(self) -> bool:
        """Whether anything of the answer was seen, reasoning included; blank lines, which many a model sends before a
        call, are not."""
        return any(_is_visible(delta.text) for delta in self._shown)

    @property
    def position(self) -> ProtocolPosition:
        """How far the answer had come, as far as the stream told."""
        if self._shown:
            return "output_started"
        return "response_observed" if self._was_heard else "no_response"

    async def emit(self, event: StreamEvent) -> None:
        """Pass `event` on, remembering what it was and whether the sink failed or has seen enough."""
        if isinstance(event, TextDelta):
            self.has_text = True
            self._shown.append(event)
        elif isinstance(event, ReasoningDelta):
            self._shown.append(event)
        elif isinstance(event, UsageReported):
            self._was_heard = True
            usage = self.usage.merged_with(event.usage)
            if not usage.is_countable:
                raise ValueError("a number of tokens that nobody can have used")
            self.usage = usage
        elif isinstance(event, EvidenceReported):
            self._was_heard = True
            self.evidence = reread(event.evidence, ExecutionEvidence)
            return
        try:
            await self._sink(event)
        except DeliberateStop:
            self.is_stopped = True
            raise
        except Exception as fault:
            self.sink_fault = fault
            raise

    def shown_response(self) -> LlmResponse:
        """What was shown, as the answer it is after a deliberate stop."""
        parts: list[LlmPart] = []
        for delta in self._shown:
            kind: type[ProsePart | ReasoningPart] = ProsePart if isinstance(delta, TextDelta) else ReasoningPart
            if parts and type(parts[-1]) is kind:
                parts[-1] = kind(parts[-1].content + delta.text)
            else:
                parts.append(kind(delta.text))
        return LlmResponse(tuple(parts), self.usage, TerminalReason.STOP, None, self.evidence)


class _Ladder:
    """The bookkeeping of one call: its attempts and what is left of its budgets."""

    def __init__(self, policy: RetryPolicy, random_bits: Callable[[int], int]) -> None:
        self.policy = policy
        self.random_bits = random_bits
        self.attempts: list[AttemptRecord] = []
        self.consumed = 0
        self.throttle_waits = 0
        self.throttle_waited_ms = 0

    def judge(self, error: NormalizedError, was_seen: bool) -> tuple[RetryDecision, bool]:
        """Decide what follows a failure; also whether the attempt consumed retry budget. `was_seen` says that somebody
        may have seen some of the answer."""
        policy = self.policy
        if not error.retryable:
            self.consumed += 1
            return RetryDecision(False, "not_retryable"), True
        asked = error.retry_after_ms
        is_throttle = error.kind == "quota" and asked is not None
        if was_seen and policy.retry_after_output == "refuse" and not is_throttle:
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
    """A provider behind the ladder; implements `core.protocols.ModelCaller` (contract 06 §3.2)."""

    checks_answers = True

    def __init__(
        self,
        provider: Provider,
        *,
        provider_id: str | None = None,
        clock: Clock | None = None,
        random_bits: Callable[[int], int] | None = None,
        policy: RetryPolicy | None = None,
        secrets: tuple[str, ...] = (),
        limiter: RateLimiter | None = None,
        captures_metadata: bool = False,
    ) -> None:
        """`provider_id` is what sessions remember, the provider's kind unless given. `clock` and `random_bits`, for
        the jitter, are those of the machine unless given. `secrets` are taken out of everything a provider says about
        a call. `captures_metadata` tells that the provider's transport is a `metadata.CapturingTransport`, whose
        findings go into the record. Raises `ConfigError` for what makes no attempts."""
        missing = [name for name in ("kind", "complete", "aclose") if not hasattr(provider, name)]
        if missing:
            raise ConfigError(
                f"what makes attempts cannot be of the type {type(provider).__name__}: it has no {missing[0]}",
                hint="it is an object with the members of Provider; what provider(…) returns has its retries already",
            )
        self._provider = provider
        self._provider_id = provider_id or provider.kind
        self._clock = clock_of(clock)
        self._random_bits = random_bits or SystemIds().bits
        self._policy = policy or RetryPolicy()
        self._secrets = secrets
        self._limiter = limiter
        self._captures_metadata = captures_metadata

    @property
    def provider_id(self) -> str:
        """The id a session records."""
        return self._provider_id

    async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
        """Run attempts until one is proved complete, none is left, or `cancel` is set.

        Returns the response or the error of the last attempt, with the record
        of all of them: none for a reasoning selection that the model's data do
        not allow, whoever provides the model. Raises only what `sink` raises,
        except `DeliberateStop`.
        """
        ladder = _Ladder(self._policy, self._random_bits)
        refusal = _selection_refusal(request.model)
        if refusal is not None:
            return LlmCallResult(_record(request, ladder), error=from_exception(refusal, self._secrets))
        while not cancel.is_set:
            permit = await self._permitted(request, cancel)
            if permit is None:
                break
            with permit:
                attempt = _Attempt(sink, self._new_capture())
                result, wait = await self._try_once(request, ladder, attempt, cancel)
            if result is not None:
                return result
            assert wait is not None
            await sink(AttemptReset())
            await sink(wait)
            await _first(asyncio.ensure_future(self._clock.sleep(wait.wait_ms / 1000)), cancel)
        return LlmCallResult(_record(request, ladder), error=_CANCELLED)

    def attachment_refusal(self, source: AttachmentSource) -> str | None:
        """See `core.protocols.JudgesAttachments`; a provider that does not judge takes everything."""
        provider = self._provider
        return provider.attachment_refusal(source) if isinstance(provider, JudgesAttachments) else None

    async def aclose(self) -> None:
        """Release the provider's connections."""
        await self._provider.aclose()

    def _new_capture(self) -> Capture | None:
        """Where one attempt keeps what its transport finds."""
        if not self._captures_metadata:
            return None
        from lash_cli.providers.metadata import Capture

        return Capture(self._secrets)

    async def _permitted(self, request: LlmRequest, cancel: CancelSignal) -> AbstractContextManager[object] | None:
        """The right to send one attempt; None when `cancel` was set while waiting for it."""
        if self._limiter is None:
            return nullcontext()
        waiting = asyncio.ensure_future(self._limiter.acquire_for(request))
        try:
            return waiting.result() if await _first(waiting, cancel) else None
        except BaseException:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                waiting.result().release()  # granted in the moment the calling task was cancelled
            raise

    async def _try_once(
        self, request: LlmRequest, ladder: _Ladder, attempt: _Attempt, cancel: CancelSignal
    ) -> tuple[LlmCallResult | None, RetryStatus | None]:
        """One attempt, recorded: the result it ends the call with, or the wait before the next one."""
        started_at_ms, started = self._clock.now_ms(), self._clock.monotonic()
        outcome = await self._attempt(request, attempt, cancel)
        base = AttemptRecord(
            ordinal=len(ladder.attempts) + 1,
            started_at_ms=started_at_ms,
            duration_ms=round((self._clock.monotonic() - started) * 1000),
            response_metadata=attempt.capture.values if attempt.capture is not None else {},
        )
        if isinstance(outcome, LlmTransportError):
            decision, error = self._settle(ladder, base, attempt, outcome, is_shown=request.is_shown)
            if decision.scheduled:
                status = RetryStatus(
                    decision.delay_ms, ladder.consumed + 1, self._policy.max_attempts, _reason(decision, error)
                )
                return None, status
            raw = kept_raw(outcome.raw, error.message, self._secrets)
            return LlmCallResult(_record(request, ladder), error=error, text_streamed=attempt.has_text, raw=raw), None
        if outcome is None:
            ladder.attempts.append(self._aborted(base, attempt))
            return LlmCallResult(_record(request, ladder), error=_CANCELLED, text_streamed=attempt.has_text), None
        response = self._cleaned(outcome)
        sealed = msgspec.structs.replace(
            base, evidence=response.evidence, usage=response.usage, generation=response.generation
        )
        if attempt.is_stopped:
            sealed = msgspec.structs.replace(sealed, outcome="interrupted", protocol_position=attempt.position)
        ladder.attempts.append(sealed)
        return LlmCallResult(_record(request, ladder), response=response, text_streamed=attempt.has_text), None

    def _settle(
        self, ladder: _Ladder, base: AttemptRecord, attempt: _Attempt, failure: LlmTransportError, *, is_shown: bool
    ) -> tuple[RetryDecision, NormalizedError]:
        """Record a failed attempt and what follows it."""
        partial = failure.partial if isinstance(failure.partial, LlmResponse) else None
        parts = partial.parts if partial else ()
        # A call, which is run only when it is whole, and reasoning that nobody was shown are half of nothing seen.
        prose = (part.content for part in parts if isinstance(part, ProsePart))
        has_spoken = attempt.has_output or any(map(_is_visible, prose))
        error = from_exception(failure, self._secrets)
        decision, consumed = ladder.judge(error, has_spoken and is_shown)
        if decision.reason == "output_started_without_retry_guarantee":
            error = msgspec.structs.replace(error, code=UNSAFE_RETRY, retryable=False)
        evidence = partial.evidence if partial and partial.evidence else attempt.evidence
        ladder.attempts.append(
            msgspec.structs.replace(
                base,
                outcome="failed",
                protocol_position="output_started" if has_spoken or parts else failure.protocol_position,
                retry_budget_consumed=consumed,
                retry_decision=decision,
                error=error,
                evidence=self._cleaned_evidence(evidence),
                usage=attempt.usage.merged_with(partial.usage) if partial else attempt.usage,
            )
        )
        return decision, error

    def _aborted(self, base: AttemptRecord, attempt: _Attempt) -> AttemptRecord:
        """The record of an attempt that was cancelled: what it cost and who served it, as far as it told."""
        return msgspec.structs.replace(
            base,
            outcome="aborted",
            protocol_position=attempt.position,
            retry_decision=RetryDecision(False, "cancelled"),
            error=_CANCELLED,
            evidence=self._cleaned_evidence(attempt.evidence),
            usage=attempt.usage,
        )

    def _cleaned(self, response: LlmResponse) -> LlmResponse:
        """The answer without secrets in what the provider says about it; the answer itself stays verbatim."""
        evidence = self._cleaned_evidence(response.evidence)
        diagnostic = response.terminal_diagnostic
        if diagnostic is not None:
            diagnostic = presentable(diagnostic, self._secrets)
        if evidence is response.evidence and diagnostic == response.terminal_diagnostic:
            return response
        return msgspec.structs.replace(response, evidence=evidence, terminal_diagnostic=diagnostic)

    def _cleaned_evidence(self, evidence: ExecutionEvidence | None) -> ExecutionEvidence | None:
        """Evidence without secrets and as short as an error: an endpoint that echoes its request may put the key into
        an id, and one that names itself with megabytes would have every listing of the turn repeat them."""
        texts = {} if evidence is None else _texts_of(evidence)
        if not any(len(text) > MAX_ERROR_CHARS or _holds(text, self._secrets) for text in texts.values()):
            return evidence
        assert evidence is not None
        cleaned = {name: presentable(text, self._secrets) for name, text in texts.items()}
        return msgspec.structs.replace(evidence, **cleaned)

    async def _attempt(
        self, request: LlmRequest, attempt: _Attempt, cancel: CancelSignal
    ) -> LlmResponse | LlmTransportError | None:
        """One attempt: its answer, its failure, or None when it was cancelled."""
        running = asyncio.ensure_future(self._contained(request, attempt))
        if await _first(running, cancel):
            return self._panicked("cancelled itself") if running.cancelled() else running.result()
        return None

    async def _contained(self, request: LlmRequest, attempt: _Attempt) -> LlmResponse | LlmTransportError:
        try:
            if attempt.capture is None:
                answer = await self._provider.complete(request, attempt.emit)
            else:
                with attempt.capture:
                    answer = await self._provider.complete(request, attempt.emit)
        except Exception as raised:
            if attempt.is_stopped:
                return attempt.shown_response()
            if isinstance(raised, LlmTransportError):
                return self._kept(raised)
            if raised is attempt.sink_fault:
                raise
            self._tell_bug(raised)
            return self._panicked(f"raised {described(raised)}")
        try:
            return kept_response(answer)
        except ValueError as flaw:
            return self._panicked(str(flaw))

    def _kept(self, failure: LlmTransportError) -> LlmTransportError:
        """The failure, or the one that stands for it where what is recorded of it could not be read again."""
        partial = failure.partial
        try:
            position: Any = failure.protocol_position  # what a provider of a program's own says it is
            reread(AttemptRecord(1, 0, 0, "failed", position, error=from_exception(failure)), AttemptRecord)
            reread(failure.raw, str | None)
            if isinstance(partial, LlmResponse):
                kept_response(msgspec.structs.replace(partial, parts=()))
        except (TypeError, ValueError) as flaw:
            return self._panicked(f"raised what cannot be kept: {flaw}")
        return failure

    def _tell_bug(self, raised: Exception) -> None:
        """Log where a provider failed, as is done for all foreign code. Its text may name a key, its frames do not."""
        import traceback  # a provider that works needs none of it (design D16)

        where = storable(redact("".join(traceback.format_exception(raised)), self._secrets)).rstrip()
        _log.error("the provider %s raised\n%s", self._provider_id, where)

    def _panicked(self, what: str) -> LlmTransportError:
        """The failure that stands for a bug of the provider."""
        text = presentable(f"the provider {what}", self._secrets)
        return LlmTransportError(text, kind="unknown", code="provider_panicked", retryable=False)


_CANCELLED = NormalizedError(
    kind="unknown",
    message="the model call was cancelled",
    code="cancelled",
    terminal_reason=TerminalReason.CANCELLED,
)


async def _first(work: asyncio.Task[Any], cancel: CancelSignal) -> bool:
    """Whether `work` ended before `cancel` was set; if not, it is cancelled, and awaited as long as that may take."""
    watch = asyncio.ensure_future(cancel.wait())
    try:
        await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        watch.cancel()
        await end(work, CANCEL_GRACE_S, _log, "the provider")


def _selection_refusal(model: ModelSpec) -> LlmTransportError | None:
    """Why the reasoning selection of `model` cannot be asked for, if it cannot (contract 06 §4)."""
    if isinstance(model.variant, ProviderDefault):
        return None
    from lash_cli.providers.reasoning import intent_of

    try:
        intent_of(model)
    except LlmTransportError as refusal:
        return refusal
    return None


def _is_visible(text: object) -> bool:
    """Whether anything can be seen of what a provider, which may be anybody's, says is a text."""
    return bool(str(text).strip())


def _record(request: LlmRequest, ladder: _Ladder) -> LlmCallRecord:
    return LlmCallRecord(request.scope.request_id, tuple(ladder.attempts))


def _texts_of(evidence: ExecutionEvidence) -> dict[str, str]:
    """The textual fields that are set."""
    fields = {name: getattr(evidence, name) for name in evidence.__struct_fields__}
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def _holds(text: str, secrets: tuple[str, ...]) -> bool:
    return any(secret in text for secret in secrets)


def _reason(decision: RetryDecision, error: NormalizedError) -> str:
    """Why the caller waits, for a status line."""
    return f"{decision.reason}: {error.code or error.kind}"
