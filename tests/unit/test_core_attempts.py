"""What attempts add up to (contract 06 §2): every attempt is counted once, and every token once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.attempts import AttemptReport, attempt_report
from lash_cli.core.llm import AttemptRecord, ExecutionEvidence, LlmCallRecord, RetryDecision
from lash_cli.core.usage import TokenUsage

usages = st.builds(TokenUsage, *(st.integers(0, 9) for _ in range(5)))
attempts = st.builds(
    AttemptRecord,
    st.just(1),
    st.just(0),
    st.integers(0, 9),
    st.sampled_from(("completed", "failed", "aborted", "interrupted")),
    retry_decision=st.none() | st.builds(RetryDecision, st.booleans(), st.just("why"), st.integers(0, 9)),
    evidence=st.none() | st.builds(ExecutionEvidence, st.sampled_from((None, "a", "b"))),
    usage=usages,
)
calls = st.lists(st.builds(LlmCallRecord, st.just("c"), st.lists(attempts, max_size=4).map(tuple)), max_size=5)


@given(calls)
def test_attempts_and_tokens_are_counted_once(made: list[LlmCallRecord]) -> None:
    report = attempt_report(made)
    assert report.calls == len(made)
    assert report.attempts == report.completed + report.failed + report.aborted + report.interrupted
    assert report.attempts == sum(len(call.attempts) for call in made) == sum(s.attempts for s in report.served)
    total = sum((call.usage.total for call in made), 0)
    assert sum(served.usage.total for served in report.served) == total
    assert report.unanswered_usage.total <= total
    names = [served.model for served in report.served]
    assert names == sorted(set(names), key=lambda name: (name is None, name or ""))


def test_only_scheduled_retries_are_waited_for_and_only_answers_are_answers() -> None:
    made = LlmCallRecord(
        "c",
        (
            AttemptRecord(1, 0, 0, "failed", retry_decision=RetryDecision(True, "x", 30), usage=TokenUsage(5)),
            AttemptRecord(2, 0, 0, "interrupted", usage=TokenUsage(7)),
            AttemptRecord(3, 0, 0, "aborted", retry_decision=RetryDecision(False, "x", 99), usage=TokenUsage(2)),
        ),
    )
    report = attempt_report([made])
    assert (report.retry_wait_ms, report.unanswered_usage) == (30, TokenUsage(7))


def test_nothing_is_an_empty_report() -> None:
    assert attempt_report([]) == AttemptReport()
