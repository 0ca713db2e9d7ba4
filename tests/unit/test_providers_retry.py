"""The ladder: what is repeated, when, and what the ledger says (contract 06 §2, §3.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from support.clock import ManualCancel, ManualClock, settle

from lash_cli.core.codec import encode
from lash_cli.core.content import ProsePart, ReasoningPart, ToolCallPart
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
    LlmScope,
    ReasoningDelta,
    RetryStatus,
    StreamEvent,
    TerminalReason,
    TextDelta,
    UsageReported,
)
from lash_cli.core.policy import ModelCapability, ModelSpec, ReasoningCapability, ReasoningDisabled, ReasoningEffort
from lash_cli.core.protocols import EventSink
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LlmTransportError
from lash_cli.providers.classify import MAX_ERROR_CHARS
from lash_cli.providers.limiter import RateLimiter, RateLimits
from lash_cli.providers.retry import RetryingCaller, RetryPolicy

REASONS = ModelCapability(ReasoningCapability(("high",), aliases={"most": "high"}))
ANSWER = LlmResponse((ProsePart("hi"),), TokenUsage(3, 1))
REQUEST = LlmRequest(model=ModelSpec("m"), messages=(), scope=LlmScope("s", "s:turn:t:llm:0"))
Step = LlmResponse | Exception | Callable[[EventSink], Awaitable[LlmResponse]]


class ScriptedProvider:
    kind = "scripted"

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.calls = 0

    async def complete(self, request: LlmRequest, sink: EventSink) -> LlmResponse:
        self.calls += 1
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, LlmResponse) else await step(sink)

    async def aclose(self) -> None:
        pass


class Call:
    """One call of a scripted provider on a clock that never waits."""

    def __init__(self, *steps: Step, clock: ManualClock | None = None, bits: int = 0, **policy: object) -> None:
        self.provider = ScriptedProvider(*steps)
        self.clock = clock or ManualClock(auto_advance=True)
        self.cancel = ManualCancel()
        self.events: list[StreamEvent] = []
        self.limiter: RateLimiter | None = policy.pop("limiter", None)
        # Without jitter unless a test is about it, so that delays can be read off.
        ladder = RetryPolicy(**{"jitter": 0.0, **policy})
        self.caller = RetryingCaller(
            self.provider,
            provider_id="p",
            clock=self.clock,
            random_bits=lambda _: bits,
            policy=ladder,
            secrets=("topsecret",),
            limiter=self.limiter,
        )

    async def sink(self, event: StreamEvent) -> None:
        self.events.append(event)

    async def run(self, request: LlmRequest = REQUEST) -> LlmCallResult:
        return await self.caller.call(request, sink=self.sink, cancel=self.cancel)


def transport() -> LlmTransportError:
    return LlmTransportError("no route", kind="transport", retryable=True)


def throttled(retry_after_ms: int | None) -> LlmTransportError:
    return LlmTransportError("slow down", kind="quota", status=429, retryable=True, retry_after_ms=retry_after_ms)


def cut_after(*events: StreamEvent, **partial: object) -> Step:
    async def play(sink: EventSink) -> LlmResponse:
        for event in events:
            await sink(event)
        raise LlmTransportError(
            "cut", kind="stream", code="stream_ended_before_finish_reason", retryable=True,
            partial=LlmResponse(**partial),
        )  # fmt: skip

    return play


def decisions(result: LlmCallResult) -> list[str | None]:
    return [a.retry_decision.reason if a.retry_decision else None for a in result.record.attempts]


async def test_a_success_seals_one_attempt() -> None:
    call = Call(ANSWER)
    result = await call.run()
    assert result.response == ANSWER
    assert result.error is None
    assert result.record.call_id == "s:turn:t:llm:0"
    (attempt,) = result.record.attempts
    assert (attempt.ordinal, attempt.outcome, attempt.protocol_position) == (1, "completed", "terminal_observed")
    assert (attempt.usage, attempt.started_at_ms) == (TokenUsage(3, 1), 1_700_000_000_000)


async def test_transient_failures_back_off_exponentially_to_the_cap_and_then_give_up() -> None:
    call = Call(*(transport() for _ in range(6)), max_attempts=6)
    result = await call.run()
    assert call.clock.slept == [2, 4, 8, 10, 10]
    assert decisions(result) == ["retryable_failure"] * 5 + ["retry_budget_exhausted"]
    assert result.response is None
    assert (result.error.kind, result.error.message) == ("transport", "no route")


@pytest.mark.parametrize(("base", "delay"), [(2_000, 10_000), (0, 0)])
async def test_a_server_that_stays_away_for_hours_is_still_asked_again(base: int, delay: int) -> None:
    call = Call(*(transport() for _ in range(1100)), ANSWER, max_attempts=2000, base_delay_ms=base)
    result = await call.run()
    assert result.response == ANSWER
    assert call.events[-1] == RetryStatus(delay, 1101, 2000, "retryable_failure: transport")


async def test_the_default_budget_is_four_attempts() -> None:
    call = Call(*(transport() for _ in range(9)))
    await call.run()
    assert call.provider.calls == 4


@pytest.mark.parametrize(("bits", "slept"), [(0, 0.0), (1 << 31, 1.0), ((1 << 32) - 1, 1.999)])
async def test_full_jitter_comes_from_the_injected_random_bits(bits: int, slept: float) -> None:
    call = Call(transport(), ANSWER, bits=bits, jitter=1.0)
    await call.run()
    assert call.clock.slept == [slept]


def test_the_defaults_are_those_of_the_contract() -> None:
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.base_delay_ms, policy.factor, policy.max_delay_ms) == (4, 2_000, 2.0, 10_000)
    assert (policy.retry_after_cap_ms, policy.throttle_wait_budget_ms) == (60_000, 90_000)
    assert policy.jitter == 1.0, "full jitter (06 §3.2)"
    assert policy.retry_after_output == "refuse", "refuse unless guaranteed (06 §3.2, §18)"


async def test_what_cannot_be_retried_is_not() -> None:
    call = Call(LlmTransportError("bad key", kind="auth", status=401), ANSWER)
    result = await call.run()
    assert call.provider.calls == 1
    assert decisions(result) == ["not_retryable"]
    assert not any(isinstance(event, AttemptReset | RetryStatus) for event in call.events)


async def test_context_overflow_is_never_retried_and_keeps_its_reason() -> None:
    failure = LlmTransportError("too long", kind="validation", terminal_reason="context_overflow")
    result = await Call(failure).run()
    assert result.error.terminal_reason is TerminalReason.CONTEXT_OVERFLOW


async def test_reset_then_status_precede_every_wait_and_the_retry_s_first_delta() -> None:
    async def answers(sink: EventSink) -> LlmResponse:
        await sink(TextDelta("hi"))
        return ANSWER

    call = Call(cut_after(TextDelta("ha")), answers, retry_after_output="reset")
    result = await call.run()
    assert call.events == [
        TextDelta("ha"),
        AttemptReset(),
        RetryStatus(2000, 2, 4, "retryable_failure: stream_ended_before_finish_reason"),
        TextDelta("hi"),
    ]
    assert result.text_streamed


async def test_reset_mode_asks_again_even_after_visible_output() -> None:
    cut = cut_after(TextDelta("half"), parts=(ProsePart("half"),))
    result = await Call(cut, ANSWER, retry_after_output="reset").run()
    assert result.response == ANSWER
    assert [a.protocol_position for a in result.record.attempts] == ["output_started", "terminal_observed"]
    assert not result.text_streamed


@pytest.mark.parametrize(
    "failing",
    [
        cut_after(TextDelta("half")),
        cut_after(ReasoningDelta("hm")),
        cut_after(parts=(ProsePart("unshown"),)),
    ],
    ids=["text", "reasoning", "unshown partial"],
)
async def test_nothing_is_asked_again_by_default_once_output_started(failing: Step) -> None:
    call = Call(failing, ANSWER)
    result = await call.run()
    assert call.provider.calls == 1
    assert (result.error.code, result.error.retryable) == ("unsafe_retry_after_output_started", False)
    assert decisions(result) == ["output_started_without_retry_guarantee"]


async def test_what_showed_nothing_is_still_retried() -> None:
    result = await Call(transport(), cut_after(), ANSWER).run()
    assert result.response == ANSWER


@pytest.mark.parametrize(
    "unseen",
    [ReasoningPart("a long thought"), ToolCallPart("c_1", "write", '{"text": "a long')],
    ids=["thought", "call"],
)
async def test_what_was_cut_while_nobody_was_shown_anything_is_asked_again(unseen: LlmPart) -> None:
    call = Call(cut_after(parts=(unseen,)), ANSWER)
    result = await call.run()
    assert result.response == ANSWER
    assert decisions(result) == ["retryable_failure", None]
    assert result.record.attempts[0].protocol_position == "output_started"


async def test_blank_lines_before_a_call_are_nothing_that_anybody_has_seen() -> None:
    parts = (ProsePart("\n\n"), ToolCallPart("c_1", "write", '{"text": "a long'))
    call = Call(cut_after(TextDelta("\n\n"), parts=parts), ANSWER)
    result = await call.run()
    assert result.response == ANSWER
    assert AttemptReset() in call.events


async def test_what_nobody_is_shown_is_asked_again_whatever_had_come_of_it() -> None:
    call = Call(cut_after(TextDelta("half"), parts=(ProsePart("half"),)), ANSWER)
    result = await call.run(msgspec.structs.replace(REQUEST, is_shown=False))
    assert result.response == ANSWER
    assert decisions(result) == ["retryable_failure", None]
    assert result.record.attempts[0].protocol_position == "output_started"


async def test_a_throttle_with_retry_after_is_obeyed_even_after_output() -> None:
    async def throttles(sink: EventSink) -> LlmResponse:
        await sink(TextDelta("half"))
        raise throttled(3_000)

    result = await Call(throttles, ANSWER).run()
    assert result.response == ANSWER
    assert decisions(result) == ["provider_retry_after", None]


async def test_a_refused_retry_keeps_what_the_failure_was() -> None:
    result = await Call(cut_after(TextDelta("half"))).run()
    assert (result.error.kind, result.error.message) == ("stream", "cut")
    (attempt,) = result.record.attempts
    assert (attempt.outcome, attempt.protocol_position) == ("failed", "output_started")


async def test_a_throttle_with_retry_after_consumes_no_attempt_until_its_budget_is_gone() -> None:
    call = Call(*(throttled(30_000) for _ in range(9)))
    result = await call.run()
    assert decisions(result) == ["provider_retry_after"] * 3 + ["retryable_failure"] * 3 + ["retry_budget_exhausted"]
    assert [a.retry_budget_consumed for a in result.record.attempts] == [False] * 3 + [True] * 4
    assert call.clock.slept == [30] * 6
    assert [event.attempt for event in call.events if isinstance(event, RetryStatus)] == [1, 1, 1, 2, 3, 4]


async def test_a_throttle_without_retry_after_consumes_attempts() -> None:
    call = Call(*(throttled(None) for _ in range(9)))
    result = await call.run()
    assert call.provider.calls == 4
    assert all(a.retry_budget_consumed for a in result.record.attempts)


async def test_retry_after_is_capped() -> None:
    call = Call(throttled(3_600_000), ANSWER)
    await call.run()
    assert call.clock.slept == [60]


async def test_zero_retry_after_waits_a_second_and_at_most_eight_times() -> None:
    call = Call(*(throttled(0) for _ in range(20)))
    result = await call.run()
    assert call.clock.slept[:8] == [1] * 8
    assert decisions(result)[7:9] == ["provider_retry_after", "retryable_failure"]


async def test_no_courtesy_wait_without_a_budget_for_it() -> None:
    result = await Call(throttled(1000), ANSWER, throttle_wait_budget_ms=0).run()
    assert decisions(result) == ["retryable_failure", None]


async def test_a_server_error_with_retry_after_waits_as_told_but_consumes() -> None:
    failure = LlmTransportError("busy", kind="http", status=503, retryable=True, retry_after_ms=5_000)
    call = Call(failure, ANSWER)
    result = await call.run()
    assert call.clock.slept == [5]
    assert result.record.attempts[0].retry_budget_consumed


async def test_cancel_during_the_wait_ends_the_call_without_another_attempt() -> None:
    async def shows_and_fails(sink: EventSink) -> LlmResponse:
        await sink(TextDelta("half"))
        raise LlmTransportError("reset", kind="transport", code="read_error", retryable=True)

    clock = ManualClock()
    call = Call(shows_and_fails, ANSWER, clock=clock, retry_after_output="reset")
    running = asyncio.create_task(call.run())
    await clock.wait_for_sleepers()
    assert call.events[-2:] == [AttemptReset(), RetryStatus(2000, 2, 4, "retryable_failure: read_error")]
    call.cancel.set()
    result = await running
    assert call.provider.calls == 1
    assert result.error.terminal_reason is TerminalReason.CANCELLED
    assert [a.outcome for a in result.record.attempts] == ["failed"]
    assert not result.text_streamed
    assert clock.sleeping == 0


async def test_cancel_during_an_attempt_aborts_it_and_books_its_usage() -> None:
    closed = []

    served = ExecutionEvidence(served_model="m-2", provider_response_id="id-of-topsecret")

    async def hangs(sink: EventSink) -> LlmResponse:
        await sink(EvidenceReported(served))
        await sink(TextDelta("th"))
        await sink(UsageReported(TokenUsage(7, 2)))
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.append(True)
        raise AssertionError

    started = asyncio.Event()
    call = Call(hangs)
    running = asyncio.create_task(call.run())
    await started.wait()
    call.cancel.set()
    result = await running
    assert closed == [True]
    (attempt,) = result.record.attempts
    assert (attempt.outcome, attempt.protocol_position, attempt.usage) == (
        "aborted",
        "output_started",
        TokenUsage(7, 2),
    )
    assert attempt.evidence == ExecutionEvidence(served_model="m-2", provider_response_id="id-of-[redacted]")
    assert result.error.code == "cancelled"
    assert result.text_streamed
    assert call.events == [TextDelta("th"), UsageReported(TokenUsage(7, 2))], "evidence is shown to nobody"


@pytest.mark.parametrize(
    ("said", "position"),
    [
        ((), "no_response"),
        ((EvidenceReported(ExecutionEvidence(served_model="m")),), "response_observed"),
        ((ReasoningDelta("hm"),), "output_started"),
    ],
    ids=["nothing", "its name", "reasoning"],
)
async def test_an_aborted_attempt_tells_how_far_it_had_come(said: tuple[StreamEvent, ...], position: str) -> None:
    started = asyncio.Event()

    async def hangs(sink: EventSink) -> LlmResponse:
        for event in said:
            await sink(event)
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    call = Call(hangs)
    running = asyncio.create_task(call.run())
    await started.wait()
    call.cancel.set()
    (attempt,) = (await running).record.attempts
    assert (attempt.outcome, attempt.protocol_position) == ("aborted", position)


async def test_a_deliberate_stop_is_recorded_as_interrupted_and_what_was_shown_is_the_answer() -> None:
    usage, closed = TokenUsage(7, 2), []

    async def goes_on(sink: EventSink) -> LlmResponse:
        try:
            for event in (ReasoningDelta("h"), ReasoningDelta("m"), TextDelta("enough"), UsageReported(usage)):
                await sink(event)
            for _ in range(99):
                await sink(TextDelta(" more"))
        finally:
            closed.append(True)
        raise AssertionError

    async def until_more(event: StreamEvent) -> None:
        if event == TextDelta(" more"):
            raise DeliberateStop

    call = Call(goes_on, ANSWER)
    result = await call.caller.call(REQUEST, sink=until_more, cancel=call.cancel)
    assert closed == [True]
    assert (result.error, result.response.usage) == (None, usage)
    assert result.response.parts == (ReasoningPart("hm"), ProsePart("enough more"))
    (attempt,) = result.record.attempts
    assert (attempt.outcome, attempt.protocol_position, attempt.usage) == ("interrupted", "output_started", usage)
    assert call.provider.calls == 1


async def test_evidence_of_a_failed_attempt_is_kept_without_secrets() -> None:
    evidence = ExecutionEvidence(served_model="m", provider_request_id="topsecret")
    result = await Call(cut_after(evidence=evidence), ANSWER).run()
    failed = result.record.attempts[0]
    assert failed.evidence == ExecutionEvidence(served_model="m", provider_request_id="[redacted]")


@pytest.mark.parametrize("is_proved", [False, True])
async def test_what_a_provider_says_about_an_attempt_is_cut_like_an_error(is_proved: bool) -> None:
    evidence = ExecutionEvidence("m" * 5000, "topsecret" + "i" * 5000, None, 3, "stop")
    answer = LlmResponse((ProsePart("hi"),), evidence=evidence)
    result = await Call(answer if is_proved else cut_after(evidence=evidence), ANSWER).run()
    kept = result.record.attempts[0].evidence
    assert len(kept.served_model) == len(kept.provider_response_id) == MAX_ERROR_CHARS
    assert kept.provider_response_id.startswith("[redacted]iii")
    assert (kept.reasoning_output_tokens, kept.provider_finish_reason) == (3, "stop")


async def test_what_a_proved_answer_says_about_itself_holds_no_secret() -> None:
    echoing = LlmResponse(
        (ProsePart("hi"),), terminal_diagnostic="refused topsecret", evidence=ExecutionEvidence("topsecret")
    )
    result = await Call(echoing).run()
    assert "topsecret" not in repr(result)
    assert result.response.parts == (ProsePart("hi"),)


def test_an_attempt_that_succeeded_at_once_is_stored_in_few_bytes() -> None:
    record = LlmCallRecord("s:turn:t:llm:0", (AttemptRecord(1, 1_700_000_000_000, 12, usage=TokenUsage(10, 5)),))
    assert encode(record) == (
        b'{"call_id":"s:turn:t:llm:0","attempts":[{"ordinal":1,"started_at_ms":1700000000000,"duration_ms":12,'
        b'"usage":{"input_tokens":10,"output_tokens":5}}]}'
    )


async def test_a_permit_is_held_by_every_attempt_and_by_no_wait() -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), ManualClock())
    held: list[int] = []

    async def fails(sink: EventSink) -> LlmResponse:
        held.append(limiter.in_flight)
        raise transport()

    class Watching(ManualClock):
        async def sleep(self, seconds: float) -> None:
            held.append(limiter.in_flight)
            await super().sleep(seconds)

    call = Call(fails, ANSWER, clock=Watching(auto_advance=True), limiter=limiter)
    assert (await call.run()).response == ANSWER
    assert (held, limiter.in_flight) == ([1, 0], 0)


async def test_cancelling_while_waiting_for_a_permit_asks_nobody_and_leaves_the_line() -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), ManualClock())
    with await limiter.acquire():
        call = Call(ANSWER, limiter=limiter)
        running = asyncio.create_task(call.run())
        await settle()
        assert limiter.waiting == 1
        call.cancel.set()
        result = await running
        assert (limiter.waiting, call.provider.calls, result.record.attempts) == (0, 0, ())
        assert result.error.code == "cancelled"
    assert limiter.in_flight == 0


@pytest.mark.parametrize("steps", range(6))
async def test_a_permit_granted_in_the_moment_of_a_cancellation_is_given_back(steps: int) -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), ManualClock())
    permit = await limiter.acquire()
    running = asyncio.create_task(Call(lambda _: asyncio.Event().wait(), limiter=limiter).run())
    await settle()
    permit.release()
    for _ in range(steps):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert (limiter.in_flight, limiter.waiting) == (0, 0)


@pytest.mark.parametrize("way_out", ["answer", "failure", "cancel", "panic", "sink", "task"])
async def test_a_permit_is_released_on_every_way_out(way_out: str) -> None:
    limiter = RateLimiter(RateLimits(max_concurrent=1), ManualClock())
    started = asyncio.Event()

    async def plays(sink: EventSink) -> LlmResponse:
        started.set()
        match way_out:
            case "failure":
                raise LlmTransportError("no", kind="auth")
            case "panic":
                raise ZeroDivisionError
            case "sink":
                await sink(TextDelta("x"))
            case "cancel" | "task":
                await asyncio.Event().wait()
        return ANSWER

    async def broken(event: StreamEvent) -> None:
        raise OSError("observer gone")

    call = Call(plays, limiter=limiter)
    running = asyncio.create_task(
        call.caller.call(REQUEST, sink=broken if way_out == "sink" else call.sink, cancel=call.cancel)
    )
    await started.wait()
    if way_out == "cancel":
        call.cancel.set()
    if way_out == "task":
        running.cancel()
    await asyncio.wait([running])
    if way_out == "sink":
        assert isinstance(running.exception(), OSError)
    assert limiter.in_flight == 0


async def test_a_call_cancelled_before_it_starts_asks_nobody() -> None:
    call = Call(ANSWER)
    call.cancel.set()
    result = await call.run()
    assert call.provider.calls == 0
    assert result.record.attempts == ()
    assert result.error.terminal_reason is TerminalReason.CANCELLED


async def test_cancelling_the_calling_task_passes_through_and_stops_the_provider() -> None:
    stopped = asyncio.Event()
    started = asyncio.Event()

    async def hangs(sink: EventSink) -> LlmResponse:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    running = asyncio.create_task(Call(hangs).run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stopped.is_set()


async def test_a_provider_bug_becomes_a_record_and_is_not_retried() -> None:
    call = Call(ZeroDivisionError("boom"), ANSWER)
    result = await call.run()
    assert (result.error.code, result.error.retryable) == ("provider_panicked", False)
    assert "ZeroDivisionError: boom" in result.error.message
    assert call.provider.calls == 1


async def test_where_a_provider_failed_is_logged_without_secrets(caplog) -> None:
    async def has_a_bug(sink: EventSink) -> LlmResponse:
        raise OSError("topsecret \udcff")

    await Call(has_a_bug).run()
    (record,) = caplog.records
    assert "the provider p raised" in record.getMessage()
    assert "in has_a_bug" in record.getMessage()
    assert "topsecret" not in caplog.text
    assert record.getMessage().encode()


async def test_a_failing_sink_is_not_mistaken_for_a_failing_provider() -> None:
    async def answers(sink: EventSink) -> LlmResponse:
        await sink(TextDelta("hi"))
        return ANSWER

    async def sink(event: StreamEvent) -> None:
        raise OSError("observer gone")

    call = Call(answers)
    with pytest.raises(OSError, match="observer gone"):
        await call.caller.call(REQUEST, sink=sink, cancel=call.cancel)


async def test_tokens_of_failed_attempts_are_summed() -> None:
    usage = TokenUsage(5, 2)
    result = await Call(cut_after(UsageReported(usage), usage=usage), ANSWER).run()
    assert result.record.usage == TokenUsage(8, 3)
    told = await Call(cut_after(UsageReported(usage), usage=TokenUsage()), ANSWER).run()
    assert told.record.usage == TokenUsage(8, 3)


async def test_a_secret_in_an_error_never_reaches_the_record() -> None:
    provider = ScriptedProvider(ValueError("header 'topsecret' is bad"))
    caller = RetryingCaller(
        provider, provider_id="p", clock=ManualClock(), random_bits=lambda _: 0, secrets=("topsecret",)
    )

    async def sink(event: StreamEvent) -> None: ...

    result = await caller.call(REQUEST, sink=sink, cancel=ManualCancel())
    assert "topsecret" not in repr(result)
    assert "[redacted]" in result.error.message


@pytest.mark.parametrize("bad", [{"max_attempts": 0}, {"jitter": 2.0}, {"base_delay_ms": -1}])
def test_a_policy_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RetryPolicy(**bad)


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (ModelSpec("m", ReasoningEffort("high")), "effort_not_configurable"),
        (ModelSpec("m", ReasoningEffort("huge"), capability=REASONS), "unsupported_effort"),
        (ModelSpec("m", ReasoningDisabled(), capability=REASONS), "effort_required"),
    ],
)
async def test_a_selection_the_model_does_not_have_is_refused_before_any_attempt_whoever_provides_it(
    model: ModelSpec, code: str
) -> None:
    call = Call(ANSWER)
    result = await call.run(msgspec.structs.replace(REQUEST, model=model))
    assert result.error is not None and (result.error.kind, result.error.code) == ("validation", code)
    assert (result.record.attempts, call.provider.calls, call.events) == ((), 0, [])


async def test_a_selection_the_model_has_is_asked_for() -> None:
    call = Call(ANSWER)
    model = ModelSpec("m", ReasoningEffort("most"), capability=REASONS)
    assert (await call.run(msgspec.structs.replace(REQUEST, model=model))).response == ANSWER


async def test_a_provider_needs_nothing_but_itself_to_be_called_again() -> None:
    caller = RetryingCaller(ScriptedProvider(transport(), ANSWER), policy=RetryPolicy(base_delay_ms=0))

    async def sink(event: StreamEvent) -> None: ...

    result = await caller.call(REQUEST, sink=sink, cancel=ManualCancel())
    assert (caller.provider_id, result.response) == ("scripted", ANSWER)
    assert [attempt.outcome for attempt in result.record.attempts] == ["failed", "completed"]
