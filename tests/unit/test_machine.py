"""The turn machine: effects, answers, limits, terminal reasons, cancellation (contract 01 §6)."""

import msgspec
import pytest
from support.machine_driving import (
    OPENING,
    TURN,
    answer,
    call,
    drive,
    failed,
    machine,
    record,
    results,
    run_to,
    user,
)

from lash_cli.core.activity import AssistantProseDelta, ErrorShown, ModelRequestStarted, UsageShown
from lash_cli.core.content import (
    Message,
    PluginOrigin,
    ProsePart,
    ReasoningPart,
    Role,
    TextPart,
    ToolResultPart,
    is_safe_to_resume,
    message_text,
)
from lash_cli.core.llm import LlmCallResult, LlmResponse, NormalizedError, TerminalReason
from lash_cli.core.machine import TurnMachine
from lash_cli.core.machine_records import (
    Append,
    CheckpointDelivery,
    CheckpointEffect,
    DoneEffect,
    Emit,
    EmitEffect,
    EnvironmentSynced,
    ExecCodeEffect,
    ExecCompleted,
    Finish,
    LlmCallEffect,
    LlmComplete,
    MachineConfig,
    ProgressEffect,
    StartCheckpoint,
    StartExec,
    StartLlm,
    StartTools,
    SyncEnvironmentEffect,
    ToolCallsEffect,
    ToolResults,
)
from lash_cli.core.machine_rules import provider_issue
from lash_cli.core.machine_table import MachineState
from lash_cli.core.outcome import AssistantMessage, FinalValue, Finished, Stopped, TurnIssue
from lash_cli.core.pricing import BucketPrices, CostLimit, Prices
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import LashRuntimeError
from lash_cli.modes.standard import StandardProtocol
from lash_cli.runtime.results import answer_node_id, result_of, summarise

ANSWERED = Finished(AssistantMessage("hi"))
WAITS = {
    SyncEnvironmentEffect: MachineState.WAITING_EXECUTION_ENVIRONMENT,
    LlmCallEffect: MachineState.WAITING_LLM,
    ToolCallsEffect: MachineState.WAITING_TOOLS,
    CheckpointEffect: MachineState.WAITING_CHECKPOINT,
}


def test_a_plain_turn_syncs_calls_offers_completion_and_finishes() -> None:
    turn = machine()
    assert turn.state is MachineState.PREPARING_PROTOCOL
    run = drive(turn, [answer("hi")])
    assert run.kinds() == ["sync", "llm", "before_completion"]
    assert run.done.outcome == ANSWERED
    assert run.done.messages == (*OPENING, Message("t_1.m1", Role.ASSISTANT, (ProsePart("hi"),)))
    assert run.done.iterations == 1
    assert turn.finished and turn.state is MachineState.FINISHED and turn.poll() is None


def test_the_environment_is_synced_once_per_iteration_before_the_model_call() -> None:
    run = drive(machine(), [answer(call()), answer("hi")])
    assert run.kinds() == ["sync", "llm", "tools", "after_work", "sync", "llm", "before_completion"]
    assert [effect.iteration for effect in run.of(SyncEnvironmentEffect, LlmCallEffect)] == [0, 0, 1, 1]


def test_awaited_effect_ids_start_at_one_and_grow() -> None:
    run = drive(machine(), [answer(call()), answer("hi")])
    awaited = run.of(SyncEnvironmentEffect, LlmCallEffect, ToolCallsEffect, CheckpointEffect)
    assert [effect.effect_id for effect in awaited] == list(range(1, 8))


def test_the_model_sees_the_whole_tail_of_its_turn() -> None:
    run = drive(machine(), [answer(call()), answer("hi")])
    first, second = run.of(LlmCallEffect)
    assert first.tail == OPENING
    assert [message.id for message in second.tail] == ["in_1", "t_1.m1", "t_1.m2"]


@pytest.mark.parametrize(("kind", "state"), WAITS.items())
def test_an_awaited_effect_is_handed_out_once_and_then_nothing_until_its_answer(
    kind: type, state: MachineState
) -> None:
    turn = machine()
    run_to(turn, kind, [answer(call())])
    assert turn.state is state
    assert turn.poll() is None and turn.poll() is None


def test_equal_answers_give_equal_effects() -> None:
    script = [answer("a", call("x"), call("x")), answer("", call("")), answer("b")]
    assert drive(machine(), script).effects == drive(machine(), script).effects


def test_an_environment_error_ends_the_turn_without_a_model_call() -> None:
    turn = machine()
    effect = run_to(turn, SyncEnvironmentEffect)
    assert turn.respond(effect.effect_id, EnvironmentSynced("no such tool source"))
    done = drive(turn).done
    assert done.outcome == Stopped("runtime_error")
    assert (done.issues[0].code, done.issues[0].message) == ("reconfigure_failed", "no such tool source")
    assert done.llm_calls == ()


def test_progress_is_reported_after_each_iteration_and_at_the_end() -> None:
    run = drive(machine(), [answer(call()), answer("hi")])
    assert run.of(ProgressEffect) == [ProgressEffect(0), ProgressEffect(1)]
    assert isinstance(run.effects[-1], DoneEffect)


@pytest.mark.parametrize("kind", list(WAITS))
def test_an_answer_with_a_wrong_id_or_of_a_wrong_kind_changes_nothing(kind: type) -> None:
    turn = machine()
    effect = run_to(turn, kind, [answer(call())])
    before = (turn.state, turn.messages)
    responses = [EnvironmentSynced(), answer("late"), ToolResults(()), CheckpointDelivery(), ExecCompleted()]
    accepted_kind = {
        SyncEnvironmentEffect: EnvironmentSynced,
        LlmCallEffect: LlmComplete,
        ToolCallsEffect: ToolResults,
        CheckpointEffect: CheckpointDelivery,
    }[kind]
    for response in responses:
        assert not turn.respond(effect.effect_id + 1, response)
        assert not turn.respond(effect.effect_id - 1, response)
        if not isinstance(response, accepted_kind):
            assert not turn.respond(effect.effect_id, response)
    assert (turn.state, turn.messages) == before
    assert turn.poll() is None


def test_a_second_answer_to_the_same_effect_is_ignored() -> None:
    turn = machine()
    effect = run_to(turn, LlmCallEffect)
    assert turn.respond(effect.effect_id, answer("hi"))
    assert not turn.respond(effect.effect_id, answer("again"))
    assert drive(turn).done.outcome == ANSWERED


def test_an_answer_before_the_effect_was_handed_out_is_ignored() -> None:
    turn = machine()
    effect = run_to(turn, SyncEnvironmentEffect)
    turn.respond(effect.effect_id, EnvironmentSynced())
    assert not turn.respond(effect.effect_id + 1, answer("hasty"))
    assert drive(turn, [answer("hi")]).done.outcome == ANSWERED


class Untouchable(StandardProtocol):
    """A protocol that must never see a response."""

    def model_answered(self, turn, response):  # type: ignore[no-untyped-def]
        raise AssertionError("the protocol saw a response that was terminal")


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        (TerminalReason.OUTPUT_LIMIT, "incomplete"),
        (TerminalReason.CONTEXT_OVERFLOW, "provider_error"),
        (TerminalReason.CONTENT_FILTER, "provider_error"),
        (TerminalReason.PROVIDER_ERROR, "provider_error"),
    ],
)
def test_a_terminal_reason_stops_the_turn_and_runs_no_call(reason: TerminalReason, stop: str) -> None:
    run = drive(machine(Untouchable()), [answer("par", call(), reason=reason, diagnostic="why")])
    assert run.done.outcome == Stopped(stop)  # type: ignore[arg-type]
    assert run.kinds() == ["sync", "llm"]
    assert run.done.issues == (TurnIssue("llm_provider", "why", reason.value, reason.value, retryable=False),)
    assert run.events[-1] == ErrorShown(run.done.issues[0])


@pytest.mark.parametrize("reason", [TerminalReason.STOP, TerminalReason.TOOL_USE, TerminalReason.UNKNOWN])
def test_other_reasons_are_the_protocols_to_judge(reason: TerminalReason) -> None:
    assert drive(machine(), [answer("hi", reason=reason)]).done.outcome == ANSWERED


def test_a_cancelled_answer_stops_as_cancelled_without_an_issue() -> None:
    for response in (answer("par", reason=TerminalReason.CANCELLED), failed(reason=TerminalReason.CANCELLED)):
        done = drive(machine(), [response]).done
        assert (done.outcome, done.issues, done.messages) == (Stopped("cancelled"), (), OPENING)
        assert len(done.llm_calls) == 1


def test_at_the_output_limit_only_completed_prose_becomes_history() -> None:
    cut = answer(ReasoningPart("hm"), "half an ans", call(), reason=TerminalReason.OUTPUT_LIMIT)
    done = drive(machine(), [cut]).done
    assert done.messages == (*OPENING, Message("t_1.m1", Role.ASSISTANT, (ProsePart("half an ans"),)))
    assert done.tool_calls == ()


def test_at_the_output_limit_calls_alone_leave_no_history() -> None:
    for nothing_said in ((call(),), (" \n", call())):
        assert drive(machine(), [answer(*nothing_said, reason=TerminalReason.OUTPUT_LIMIT)]).done.messages == OPENING


@pytest.mark.parametrize(
    ("usage", "window", "code"),
    [
        (TokenUsage(95, 0), 100, "context_overflow"),
        (TokenUsage(50, 0, 40, 5), 100, "context_overflow"),
        (TokenUsage(94, 0), 100, "output_limit"),
        (TokenUsage(99, 1), 100, "output_limit"),
        (TokenUsage(95, 0), None, "output_limit"),
    ],
)
def test_zero_output_of_a_full_window_is_a_context_overflow(usage: TokenUsage, window: int | None, code: str) -> None:
    turn = machine(context_window_tokens=window)
    done = drive(turn, [answer(reason=TerminalReason.OUTPUT_LIMIT, usage=usage)]).done
    assert done.issues[0].code == code
    assert done.outcome == Stopped("incomplete" if code == "output_limit" else "provider_error")


def test_a_provider_error_stops_without_a_checkpoint_and_leaves_no_history() -> None:
    run = drive(machine(), [failed("quota", retryable=True, code="insufficient_quota")])
    assert run.kinds() == ["sync", "llm"]
    assert run.done.outcome == Stopped("provider_error")
    assert run.done.messages == OPENING
    issue = run.done.issues[0]
    assert (issue.kind, issue.code, issue.retryable) == ("llm_provider", "insufficient_quota", True)
    assert issue.provider_failure_kind == "quota"
    told_to_wait = provider_issue(NormalizedError("quota", "HTTP 429: slow", retry_after_ms=86_399_001))
    assert told_to_wait.message == "HTTP 429: slow (it asks to wait 86400 s)"
    assert issue.terminal_reason == "provider_error"


def test_what_the_provider_said_beside_its_message_is_told_and_enters_no_history() -> None:
    done = drive(machine(), [failed("http", raw='{"param": "tools"}')]).done
    assert (done.issues[0].message, done.issues[0].raw) == ("it broke", '{"param": "tools"}')
    assert done.messages == OPENING


@pytest.mark.parametrize(
    ("said", "raw"), [("SAFETY", "SAFETY"), ("token sk-canary123456", "token [redacted]"), (None, None), ("why", None)]
)
def test_what_the_provider_itself_called_the_end_of_an_answer_is_told(said: str | None, raw: str | None) -> None:
    ended = answer("par", reason=TerminalReason.CONTENT_FILTER, diagnostic="it says why", finish_reason=said)
    assert drive(machine(), [ended]).done.issues[0].raw == raw


def test_a_provider_error_without_a_code_is_named_by_its_kind() -> None:
    assert drive(machine(), [failed("timeout")]).done.issues[0].code == "timeout"


@pytest.mark.parametrize(
    "result",
    [
        LlmCallResult(record()),
        LlmCallResult(record(), LlmResponse(), NormalizedError("http", "both")),
    ],
)
def test_a_result_that_is_neither_or_both_is_a_runtime_error(result: LlmCallResult) -> None:
    done = drive(machine(), [LlmComplete(result)]).done
    assert (done.outcome, done.issues[0].code) == (Stopped("runtime_error"), "llm_result_invalid")


def test_text_is_shown_exactly_once() -> None:
    shown = drive(machine(), [answer("a", "b", streamed=False)]).events
    assert [event for event in shown if isinstance(event, AssistantProseDelta)] == [AssistantProseDelta("ab")]
    assert not [e for e in drive(machine(), [answer("ab")]).events if isinstance(e, AssistantProseDelta)]


def test_unstreamed_text_of_a_terminal_response_is_still_shown_once() -> None:
    shown = drive(machine(), [answer("ab", reason=TerminalReason.CONTENT_FILTER, streamed=False)]).events
    assert [type(event) for event in shown] == [ModelRequestStarted, UsageShown, AssistantProseDelta, ErrorShown]


def test_usage_is_shown_per_call_and_sums_all_attempts() -> None:
    retried = LlmComplete(
        LlmCallResult(record(TokenUsage(7, 1), TokenUsage(10, 5)), LlmResponse((call(),), TokenUsage(10, 5)))
    )
    run = drive(machine(), [retried, answer("hi", usage=TokenUsage(20, 2))])
    assert [event for event in run.events if isinstance(event, UsageShown)] == [
        UsageShown(0, TokenUsage(17, 6), TokenUsage(17, 6)),
        UsageShown(1, TokenUsage(20, 2), TokenUsage(37, 8)),
    ]
    assert run.done.usage == TokenUsage(37, 8)
    assert run.done.last_usage == TokenUsage(20, 2)
    assert len(run.done.llm_calls) == 2


def test_a_failed_call_costs_but_does_not_change_the_context_accounting() -> None:
    done = drive(machine(), [answer(call(), usage=TokenUsage(10, 5)), failed(usage=TokenUsage(3))]).done
    assert (done.usage, done.last_usage) == (TokenUsage(13, 5), TokenUsage(10, 5))


def test_a_call_that_reports_no_tokens_leaves_what_is_known_of_the_context() -> None:
    done = drive(machine(), [answer(call(), usage=TokenUsage(10, 5)), answer("hi", usage=TokenUsage())]).done
    assert done.last_usage == TokenUsage(10, 5)


def test_the_cancelled_result_of_a_call_keeps_its_cost() -> None:
    done = drive(machine(), [failed(reason=TerminalReason.CANCELLED, usage=TokenUsage(3))]).done
    assert (done.outcome, done.usage) == (Stopped("cancelled"), TokenUsage(3))


def test_messages_delivered_before_completion_lead_to_another_iteration_after_the_answer() -> None:
    turn = machine()
    run = drive(turn, [answer("one"), answer("two")], deliveries=[CheckpointDelivery((user("m_ingress_2"),))])
    assert run.kinds() == ["sync", "llm", "before_completion", "sync", "llm", "before_completion"]
    assert [message.id for message in run.done.messages] == ["in_1", "t_1.m1", "m_ingress_2", "t_1.m2"]
    assert run.done.outcome == Finished(AssistantMessage("two"))
    assert run.done.iterations == 2


def test_delivered_messages_keep_their_order_and_enter_once() -> None:
    plugin = Message("p1", Role.SYSTEM, (TextPart("note"),), PluginOrigin("plan"))
    transient = Message("x1", Role.SYSTEM, (TextPart("hint"),), PluginOrigin("plan", transient=True))
    cause = Message("e1", Role.EVENT, (TextPart("process done"),))
    first = CheckpointDelivery((user("u1"), user("u2"), plugin, transient, cause, user("u1")))
    again = CheckpointDelivery((user("u2"), plugin))
    run = drive(machine(), [answer(call()), answer("hi")], deliveries=[first, again])
    assert [message.id for message in run.done.messages] == [
        "in_1", "t_1.m1", "t_1.m2", "u1", "u2", "p1", "x1", "e1", "t_1.m3",
    ]  # fmt: skip
    assert run.done.outcome == ANSWERED


def test_delivered_messages_without_an_id_are_given_one_each() -> None:
    run = drive(machine(), [answer("a"), answer("b")], deliveries=[CheckpointDelivery((user(""), user("")))])
    assert [message.id for message in run.done.messages] == ["in_1", "t_1.m1", "t_1.m2", "t_1.m3", "t_1.m4"]


def test_given_ids_skip_ids_that_are_taken() -> None:
    run = drive(machine(opening=(user("t_1.m1"),)), [answer("hi")])
    assert [message.id for message in run.done.messages] == ["t_1.m1", "t_1.m2"]


def test_a_delivery_that_would_break_the_transcript_stops_the_turn_and_is_left_out() -> None:
    bad = Message("p1", Role.ASSISTANT, (call("c9"),))
    done = drive(machine(), [answer("hi")], deliveries=[CheckpointDelivery((bad,))]).done
    assert (done.outcome, done.issues[0].code) == (Stopped("runtime_error"), "checkpoint_delivery_invalid")
    assert is_safe_to_resume(done.messages)


def test_a_checkpoint_that_brings_nothing_ends_the_turn_with_its_open_calls_closed() -> None:
    said = Append((Message("", Role.ASSISTANT, (call(),)),))
    driver = Scripted(said, StartCheckpoint("before_completion", Finish(ANSWERED)))
    done = drive(machine(driver)).done
    assert done.outcome == ANSWERED and is_safe_to_resume(done.messages)


def test_an_abort_at_a_checkpoint_takes_the_messages_in_and_stops() -> None:
    veto = TurnIssue("plugin", "not today", code="budget")
    done = drive(machine(), [answer("hi")], deliveries=[CheckpointDelivery((user("u1"),), veto)]).done
    assert (done.outcome, done.issues) == (Stopped("plugin_abort"), (veto,))
    assert done.messages[-1].id == "u1"


def test_the_limit_stops_after_the_results_without_a_checkpoint() -> None:
    run = drive(machine(max_turns=2), [answer(call("a")), answer(call("b"))])
    assert run.kinds() == ["sync", "llm", "tools", "after_work", "sync", "llm", "tools"]
    assert run.done.outcome == Stopped("max_turns")
    assert run.of(ProgressEffect) == [ProgressEffect(0), ProgressEffect(1)]
    last = run.done.messages[-1]
    assert (last.role, message_text(last)[:22]) == (Role.SYSTEM, "Turn limit reached (2)")
    assert is_safe_to_resume(run.done.messages)
    assert run.done.iterations == 2


def test_an_answer_in_the_last_iteration_is_an_ordinary_answer() -> None:
    assert drive(machine(max_turns=1), [answer("hi")]).done.outcome == ANSWERED


def test_input_before_completion_at_the_limit_is_taken_in_and_the_turn_stops() -> None:
    run = drive(machine(max_turns=1), [answer("hi")], deliveries=[CheckpointDelivery((user("u1"),))])
    assert run.done.outcome == Stopped("max_turns")
    assert [message.id for message in run.done.messages] == ["in_1", "t_1.m1", "u1", "t_1.m2"]


def test_the_limit_counts_from_the_run_offset() -> None:
    run = drive(machine(max_turns=1, run_offset=5), [answer(call())])
    assert run.done.outcome == Stopped("max_turns")
    assert run.of(LlmCallEffect)[0].iteration == 5
    assert run.done.iterations == 1


def test_a_limit_of_zero_stops_before_the_first_call() -> None:
    run = drive(machine(max_turns=0))
    assert (run.kinds(), run.done.outcome, run.done.iterations) == ([], Stopped("max_turns"), 0)


# A call of `answer` costs 20 micro-units.
PRICES = Prices(BucketPrices(input=1_000_000, output=2_000_000))


def test_no_call_is_made_once_those_before_cost_the_limit() -> None:
    run = drive(machine(cost_limit=CostLimit(40, PRICES)), [answer(call("a")), answer(call("b"))])
    assert run.kinds() == ["sync", "llm", "tools", "after_work", "sync", "llm", "tools"]
    assert run.done.outcome == Stopped("max_cost")
    last = run.done.messages[-1]
    assert (last.role, message_text(last)[:32]) == (Role.SYSTEM, "Cost limit reached (0.00004 USD)")
    assert is_safe_to_resume(run.done.messages)


def test_an_answer_that_costs_more_than_the_limit_is_an_ordinary_answer() -> None:
    assert drive(machine(cost_limit=CostLimit(1, PRICES)), [answer("hi")]).done.outcome == ANSWERED


def test_a_turn_below_its_cost_limit_is_not_stopped() -> None:
    run = drive(machine(cost_limit=CostLimit(21, PRICES)), [answer(call("a")), answer("hi")])
    assert run.done.outcome == ANSWERED


def test_a_cost_that_nobody_knows_is_taken_for_one_that_is_too_high() -> None:
    unpriced = answer(call("a"), usage=TokenUsage(1, 1, cache_read_input_tokens=1))
    assert drive(machine(cost_limit=CostLimit(1000, PRICES)), [unpriced]).done.outcome == Stopped("max_cost")


def test_no_grace_is_given_beyond_a_cost_limit() -> None:
    driver = StandardProtocol(has_grace=True)
    run = drive(machine(driver, max_turns=1, cost_limit=CostLimit(1, PRICES)), [answer(call("a"))])
    assert run.done.outcome == Stopped("max_cost")


def test_a_grace_iteration_is_granted_once_without_tools() -> None:
    run = drive(machine(StandardProtocol(has_grace=True), max_turns=1), [answer(call()), answer("hi")])
    assert [effect.tools_allowed for effect in run.of(LlmCallEffect)] == [True, False]
    assert run.done.outcome == ANSWERED
    limits = [m for m in run.done.messages if m.role is Role.SYSTEM]
    assert [message_text(m)[:22] for m in limits] == ["Turn limit reached (1)"]


def test_input_after_a_grace_iteration_stops_the_turn_and_says_so_once() -> None:
    run = drive(
        machine(StandardProtocol(has_grace=True), max_turns=1),
        [answer(call()), answer("hi")],
        deliveries=[CheckpointDelivery(), CheckpointDelivery((user("u1"),))],
    )
    assert run.done.outcome == Stopped("max_turns")
    assert sum(m.role is Role.SYSTEM for m in run.done.messages) == 1


def test_calls_of_an_answer_that_allowed_none_are_not_run() -> None:
    turn = machine(StandardProtocol(has_grace=True), max_turns=1)
    run = drive(turn, [answer(call("a")), answer("hi", call("b"))])
    assert len(run.of(ToolCallsEffect)) == 1
    assert run.done.outcome == ANSWERED


def test_results_in_another_order_are_put_into_source_order() -> None:
    turn = machine()
    effect = run_to(turn, ToolCallsEffect, [answer(call("a"), call("b"))])
    given = results(effect, projections=("A", "B"))
    assert turn.respond(effect.effect_id, ToolResults(given.records[::-1], given.projections[::-1]))
    parts = drive(turn, [answer("hi")]).done.messages[2].parts
    assert parts == (ToolResultPart("a", "read", "A"), ToolResultPart("b", "read", "B"))


def test_results_that_do_not_answer_the_batch_stop_the_turn_and_keep_what_is_known() -> None:
    turn = machine()
    effect = run_to(turn, ToolCallsEffect, [answer(call("a"), call("b"))])
    assert turn.respond(effect.effect_id, ToolResults(results(effect).records[:1]))
    done = drive(turn).done
    assert (done.outcome, done.issues[0].code) == (Stopped("runtime_error"), "tool_results_mismatch")
    assert [part.status for part in done.messages[-1].parts] == ["success", "failure"]  # type: ignore[union-attr]
    assert "Its effects are unknown" in done.messages[-1].parts[1].content  # type: ignore[union-attr]
    assert is_safe_to_resume(done.messages)


def test_calls_without_an_id_or_with_a_used_one_get_ids_of_their_own() -> None:
    run = drive(machine(), [answer(call("x"), call("x"), call(" ")), answer(call("x")), answer("hi")])
    asked = [part.tool_call_id for effect in run.of(ToolCallsEffect) for part in effect.calls]
    assert asked == ["x", "t_1.i0.c1", "t_1.i0.c2", "t_1.i1.c0"]
    assert is_safe_to_resume(run.done.messages)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (("a", "b"), ["a", "b"]),
        (("a", "a"), ["a", "t_1.i0.c1"]),
        (("a", " "), ["a", "t_1.i0.c1"]),
        (("t_1.i0.c1", "", "b"), ["t_1.i0.c1", "t_1.i0.c1x", "b"]),
        (("", "t_1.i0.c0"), ["t_1.i0.c0x", "t_1.i0.c0"]),
    ],
)
def test_the_calls_of_one_answer_keep_the_ids_that_can_be_kept(given: tuple[str, ...], asked: list[str]) -> None:
    run = drive(machine(), [answer(*map(call, given)), answer("hi")])
    (effect,) = run.of(ToolCallsEffect)
    assert [part.tool_call_id for part in effect.calls] == asked


@pytest.mark.parametrize("kind", list(WAITS))
def test_cancel_ends_every_wait_and_a_late_answer_is_ignored(kind: type) -> None:
    turn = machine()
    effect = run_to(turn, kind, [answer("a", call())])
    turn.cancel("user")
    assert not turn.respond(effect.effect_id, answer("late"))
    done = drive(turn).done
    assert done.outcome == Stopped("cancelled")
    assert is_safe_to_resume(done.messages)


def test_cancel_before_the_first_poll_leaves_the_opening_only() -> None:
    turn = machine()
    turn.cancel()
    run = drive(turn)
    assert (run.done.outcome, run.done.messages, run.kinds()) == (Stopped("cancelled"), OPENING, [])


def test_cancel_drops_an_effect_that_was_not_handed_out() -> None:
    turn = machine()
    effect = run_to(turn, SyncEnvironmentEffect)
    turn.respond(effect.effect_id, EnvironmentSynced())
    assert turn.poll() == EmitEffect(ModelRequestStarted(0))  # the call itself waits behind it
    turn.cancel()
    assert drive(turn).kinds() == []


def test_cancel_answers_open_calls_as_cancelled_and_names_the_reason() -> None:
    turn = machine()
    run_to(turn, ToolCallsEffect, [answer(call("a", args='{"path": "x"}'), call("b", args="{broken"))])
    turn.cancel("stop it")
    done = drive(turn).done
    assert done.messages[-1].parts == tuple(
        ToolResultPart(i, "read", "[Tool execution cancelled]\ntool call cancelled: stop it", "cancelled")
        for i in ("a", "b")
    )
    assert [record.args for record in done.tool_calls] == [{"path": "x"}, "{broken"]
    assert all(record.output.status == "cancelled" for record in done.tool_calls)


def test_cancel_after_the_outcome_stands_changes_nothing() -> None:
    turn = machine()
    effect = run_to(turn, CheckpointEffect, [answer("hi")])
    turn.respond(effect.effect_id, CheckpointDelivery())
    turn.cancel("too late")
    assert drive(turn).done.outcome == ANSWERED
    turn.cancel("much too late")
    assert turn.poll() is None


class Scripted(StandardProtocol):
    """A protocol that decides what it was told: actions to prepare with, to begin with, and after a program."""

    def __init__(self, *begin, prepare=(), after_exec=()):  # type: ignore[no-untyped-def]
        super().__init__()
        self.begin, self.setup, self.after_exec = begin, prepare, after_exec

    def prepare(self, turn):  # type: ignore[no-untyped-def]
        return self.setup

    def begin_iteration(self, turn):  # type: ignore[no-untyped-def]
        return self.begin

    def exec_answered(self, turn, completed):  # type: ignore[no-untyped-def]
        return self.after_exec


def test_setup_messages_stand_before_the_first_call() -> None:
    note = Message("", Role.SYSTEM, (TextPart("rules"),))
    driver = Scripted(StartLlm(), prepare=(Append((note,)),))
    assert [m.id for m in drive(machine(driver), [answer("hi")]).of(LlmCallEffect)[0].tail] == ["in_1", "t_1.m1"]


def test_setup_may_end_the_turn() -> None:
    driver = Scripted(prepare=(Finish(Stopped("invalid_input")),))
    run = drive(machine(driver))
    assert (run.done.outcome, run.kinds()) == (Stopped("invalid_input"), [])


def test_actions_after_finish_are_dropped() -> None:
    dropped = Emit(AssistantProseDelta("never"))
    run = drive(machine(Scripted(Finish(ANSWERED), dropped, StartLlm(), Finish(Stopped("runtime_error")))))
    assert run.done.outcome == ANSWERED
    assert run.events == []


def test_finish_closes_calls_the_protocol_left_open() -> None:
    driver = Scripted(Append((Message("", Role.ASSISTANT, (call(),)),)), Finish(ANSWERED))
    assert is_safe_to_resume(drive(machine(driver)).done.messages)


@pytest.mark.parametrize(
    "actions",
    [
        (StartLlm(), StartLlm()),
        (StartLlm(), Append((user("u"),))),
        (StartTools((call(),)), StartCheckpoint("after_work")),
    ],
)
def test_an_action_while_an_answer_is_awaited_raises(actions: tuple[object, ...]) -> None:
    with pytest.raises(LashRuntimeError) as raised:
        drive(machine(Scripted(*actions)))
    assert raised.value.code == "illegal_turn_transition"


def test_a_start_during_setup_raises() -> None:
    with pytest.raises(LashRuntimeError, match="preparing_protocol cannot take llm_requested"):
        drive(machine(Scripted(prepare=(StartLlm(),))))


def test_a_decision_that_leads_nowhere_raises() -> None:
    with pytest.raises(LashRuntimeError) as raised:
        drive(machine(Scripted(Append((user(""),)))))
    assert raised.value.code == "protocol_stalled"


def test_a_program_is_run_and_its_calls_are_recorded() -> None:
    driver = Scripted(StartExec("return 1"), after_exec=(Finish(Finished(FinalValue(1))),))
    nested = results(ToolCallsEffect(1, 0, (call("n1"),))).records
    run = drive(machine(driver), programs=[ExecCompleted("1", tool_calls=nested)])
    assert run.of(ExecCodeEffect) == [ExecCodeEffect(2, 0, "lua", "return 1")]
    assert run.done.outcome == Finished(FinalValue(1))
    assert run.done.tool_calls == nested
    summary = summarise(
        outcome=run.done.outcome, evidence=None, issues=(), done=run.done, messages=run.done.messages,
        started_at_ms=1, duration_ms=2, input_ids=(),
    )  # fmt: skip
    assert result_of("s", "t", run.done.outcome, summary, None, None).execution.had_code_execution
    assert not drive(machine(Scripted(Finish(ANSWERED)))).done.had_code_execution


def test_an_after_work_checkpoint_may_finish_when_empty() -> None:
    driver = Scripted(StartCheckpoint("after_work", Finish(ANSWERED)))
    assert drive(machine(driver)).done.outcome == ANSWERED


@pytest.mark.parametrize(
    "opening",
    [
        (user("a"), user("a")),
        (user(""),),
        (Message("a", Role.ASSISTANT, (call(),)),),
    ],
)
def test_an_opening_that_is_not_a_transcript_is_refused(opening: tuple[Message, ...]) -> None:
    with pytest.raises(ValueError, match="opening"):
        machine(opening=opening)


def test_effects_and_answers_are_plain_data() -> None:
    run = drive(machine(), [answer(call()), answer("hi")])
    for effect in run.effects:
        assert msgspec.json.decode(msgspec.json.encode(effect), type=type(effect)) == effect
    assert TurnMachine(MachineConfig(TURN), StandardProtocol(), ()).messages == ()


def test_the_node_of_an_answer_is_one_that_says_just_that() -> None:
    asked = Message("asked", Role.ASSISTANT, (ProsePart("let me look"),))
    assert answer_node_id(Finished(AssistantMessage("let me look")), (asked, user("told"))) == "asked"
    assert answer_node_id(Finished(AssistantMessage("")), (asked, user("told"))) is None
    assert answer_node_id(Stopped("cancelled"), (asked,)) is None
