"""Tokens and the ledger (contract 01 §12)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from lash_cli.core.usage import (
    TokenLedgerEntry,
    TokenUsage,
    diff_token_ledger,
    diff_usage_reports,
    ledger_beyond,
    merge_ledger,
    prompt_usage,
    usage_report,
)
from lash_cli.errors import UsageError

counts = st.integers(0, 1_000)
usages = st.builds(TokenUsage, counts, counts, counts, counts, counts)
entries = st.lists(
    st.builds(TokenLedgerEntry, st.sampled_from(["turn", "child"]), st.sampled_from(["m1", "m2"]), usages), max_size=8
)


def entry(source: str, model: str, tokens: int) -> TokenLedgerEntry:
    return TokenLedgerEntry(source, model, TokenUsage(tokens))


def test_reasoning_is_part_of_output_and_never_added() -> None:
    assert TokenUsage(1, 2, 4, 8, 16).total == 15


@given(usages, usages)
def test_usages_are_summed_count_by_count(one: TokenUsage, other: TokenUsage) -> None:
    sums = tuple(left + right for left, right in zip(astuple(one), astuple(other), strict=True))
    assert astuple(one + other) == sums
    assert TokenUsage() + one == one + TokenUsage() == sum([one], TokenUsage()) == one


def test_a_later_report_overwrites_only_with_values_above_zero() -> None:
    assert TokenUsage(5, 1, 3).merged_with(TokenUsage(0, 9, 0, 2)) == TokenUsage(5, 9, 3, 2)


def test_the_context_budget_is_prompt_and_answer() -> None:
    report = prompt_usage(TokenUsage(10, 5, 20, 3))
    assert report is not None
    assert (report.prompt_context_tokens, report.context_budget_tokens) == (33, 38)


def test_a_provider_that_reported_nothing_gives_no_context_accounting() -> None:
    assert prompt_usage(TokenUsage()) is None
    assert prompt_usage(TokenUsage(0, 1)) is not None


def test_the_ledger_is_summed_per_key_sorted_and_free_of_zero_rows() -> None:
    rows = [entry("turn", "b", 1), entry("child", "b", 0), entry("turn", "a", 2), entry("turn", "b", 3)]
    assert merge_ledger(rows) == (entry("turn", "a", 2), entry("turn", "b", 4))


@given(entries)
def test_the_report_sums_the_same_tokens_three_ways(rows: list[TokenLedgerEntry]) -> None:
    report = usage_report(rows)
    assert report.usage.total == sum(row.usage.total for row in rows)
    assert sum(usage.total for usage in report.by_source.values()) == report.usage.total
    assert sum(usage.total for usage in report.by_model.values()) == report.usage.total
    assert report.entry_count == len(report.by_source_model)


@given(entries, entries)
def test_a_difference_of_ledgers_is_what_was_appended(
    before: list[TokenLedgerEntry], added: list[TokenLedgerEntry]
) -> None:
    difference = diff_token_ledger(before, [*before, *added])
    assert difference == merge_ledger(added)


@given(entries, entries)
def test_what_a_ledger_lacks_of_another_is_as_little_as_covers_it(
    stored: list[TokenLedgerEntry], claimed: list[TokenLedgerEntry]
) -> None:
    lacking = ledger_beyond(stored, claimed)
    covered = {(row.source, row.model): astuple(row.usage) for row in merge_ledger([*stored, *lacking])}
    known, wanted = (
        {(row.source, row.model): astuple(row.usage) for row in merge_ledger(rows)} for rows in (stored, claimed)
    )
    nothing = astuple(TokenUsage())
    for key in known.keys() | wanted.keys():
        pairs = zip(known.get(key, nothing), wanted.get(key, nothing), strict=True)
        assert covered[key][:4] == tuple(map(max, pairs))[:4]
    assert ledger_beyond([*stored, *lacking], claimed) == ()


@pytest.mark.parametrize("after", [[], [entry("turn", "m", 4)], [entry("turn", "other", 9)]])
def test_a_ledger_that_shrank_is_refused(after: list[TokenLedgerEntry]) -> None:
    before = [entry("turn", "m", 5)]
    with pytest.raises(UsageError) as refused:
        diff_token_ledger(before, after)
    assert refused.value.code == "ledger_shrank"
    with pytest.raises(UsageError):
        diff_usage_reports(usage_report(before), usage_report(after))


@given(entries, entries)
def test_a_difference_of_reports_is_the_report_over_what_was_appended(
    before: list[TokenLedgerEntry], added: list[TokenLedgerEntry]
) -> None:
    difference = diff_usage_reports(usage_report(before), usage_report([*before, *added]))
    assert difference == usage_report(added)


@given(entries)
def test_every_group_of_a_report_is_sorted(rows: list[TokenLedgerEntry]) -> None:
    report = usage_report(rows)
    for group in (report.by_source, report.by_model):
        assert list(group) == sorted(group)
