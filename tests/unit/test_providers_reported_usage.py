"""Reports of token usage, merged as they came and then made disjoint (contract 06 §1)."""

from __future__ import annotations

from typing import Any

import pytest

from lash_cli.core.llm import UsageReported
from lash_cli.core.usage import TokenUsage
from lash_cli.providers.reported_usage import ReportedUsage, anthropic_usage, google_usage, openai_usage


def test_a_prompt_that_turns_out_to_be_cached_whole_is_not_counted_twice() -> None:
    reported = ReportedUsage(openai_usage)
    reported.take({"prompt_tokens": 100, "completion_tokens": 1})
    reported.take({"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 100}})
    assert reported.usage == TokenUsage(0, 5, 100)
    google = ReportedUsage(google_usage)
    google.take({"promptTokenCount": 100})
    google.take({"promptTokenCount": 100, "cachedContentTokenCount": 100, "candidatesTokenCount": 5})
    assert google.usage == TokenUsage(0, 5, 100)


def test_a_later_report_that_leaves_something_out_takes_nothing_away() -> None:
    reported = ReportedUsage(google_usage)
    reported.take({"promptTokenCount": 9, "thoughtsTokenCount": 50})
    reported.take({"candidatesTokenCount": 10, "thoughtsTokenCount": 0})
    assert (reported.usage, reported.reasoning_tokens) == (TokenUsage(9, 60, 0, 0, 50), 50)
    anthropic = ReportedUsage(anthropic_usage)
    anthropic.take({"input_tokens": 9, "cache_read_input_tokens": 7, "output_tokens": 1})
    anthropic.take({"input_tokens": 0, "output_tokens": 20, "output_tokens_details": {"thinking_tokens": 4}})
    assert (anthropic.usage, anthropic.reasoning_tokens) == (TokenUsage(9, 20, 7, 0, 4), 4)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        # counted in the output, as OpenAI does
        ({"prompt_tokens": 32, "completion_tokens": 103, "total_tokens": 135}, TokenUsage(32, 103, 0, 0, 94)),
        # counted beside it: the sum says so
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}, TokenUsage(32, 103, 0, 0, 94)),
        ({"prompt_tokens": 32, "completion_tokens": 100, "total_tokens": 226}, TokenUsage(32, 194, 0, 0, 94)),
        # no sum, but it cannot be a part of less
        ({"prompt_tokens": 32, "completion_tokens": 9}, TokenUsage(32, 103, 0, 0, 94)),
    ],
)
def test_reasoning_is_part_of_the_output_however_a_server_counts_it(
    report: dict[str, Any], expected: TokenUsage
) -> None:
    reported = ReportedUsage(openai_usage)
    reported.take({**report, "completion_tokens_details": {"reasoning_tokens": 94}})
    assert (reported.usage, reported.reasoning_tokens) == (expected, 94)


@pytest.mark.parametrize(
    "report",
    [
        None,
        [],
        "x",
        {},
        {"prompt_tokens": None},
        {"prompt_tokens": "9"},
        {"prompt_tokens": -1},
        {"prompt_tokens": True},
        {"prompt_tokens": 2.5},
        {"prompt_tokens": 2**64 - 1},
        {"prompt_tokens": 10**12 + 1, "completion_tokens_details": {"reasoning_tokens": 2**63}},
    ],
)
def test_what_is_no_report_says_nothing(report: Any) -> None:
    reported = ReportedUsage(openai_usage)
    assert reported.take({"prompt_tokens": 3}) == [UsageReported(TokenUsage(3))]
    reported.take(report)
    assert (reported.usage, reported.reasoning_tokens) == (TokenUsage(3), None)
    assert ReportedUsage(openai_usage).take(report) == []


def test_a_whole_number_counts_however_it_is_written() -> None:
    reported = ReportedUsage(openai_usage)
    reported.take({"prompt_tokens": 12.0, "completion_tokens_details": {"reasoning_tokens": 0.0}})
    assert (reported.usage, reported.reasoning_tokens) == (TokenUsage(12), 0)
