"""Tokens and the cost ledger (contract 01 §12).

Two books that never mix: the *ledger* is cost, appended per commit and summed;
the *last usage* of a turn is context accounting. The four first buckets of
`TokenUsage` are disjoint; reasoning is a subset of output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from lash_cli.core.codec import Record
from lash_cli.errors import UsageError

# What one call is never told to have cost: a store holds 64 bits, and adds.
MAX_TOKENS: Final = 2**53


class TokenUsage(Record):
    """Token counts of one call or of many (contract 01 §12). `input_tokens` excludes cached ones."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    reasoning_output_tokens: int = 0

    @property
    def prompt(self) -> int:
        """Tokens of the whole request, cached ones included."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_write_input_tokens

    @property
    def total(self) -> int:
        """Billable tokens; reasoning is already inside output."""
        return self.input_tokens + self.output_tokens + self.cache_read_input_tokens + self.cache_write_input_tokens

    @property
    def is_countable(self) -> bool:
        """Whether a store can hold each count and a sum of some."""
        return all(0 <= getattr(self, name) < MAX_TOKENS for name in _FIELDS)

    def __add__(self, other: TokenUsage) -> TokenUsage:
        if self == NO_USAGE:  # how every sum begins
            return other
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_input_tokens + other.cache_read_input_tokens,
            self.cache_write_input_tokens + other.cache_write_input_tokens,
            self.reasoning_output_tokens + other.reasoning_output_tokens,
        )

    def merged_with(self, later: TokenUsage) -> TokenUsage:
        """This usage overlaid by a later report of the same call: only values above 0 overwrite (contract 06 §1)."""
        return TokenUsage(*(getattr(later, name) or getattr(self, name) for name in _FIELDS))


_FIELDS = TokenUsage.__struct_fields__
NO_USAGE: Final = TokenUsage()


class TokenLedgerEntry(Record):
    """Cost booked to one `(source, model)`; sources (contract 01 §12): turn, subagent, compaction, observer, child."""

    source: str
    model: str
    usage: TokenUsage


class PromptUsage(Record):
    """How full the context was at the last model call."""

    prompt_context_tokens: int
    input_tokens: int
    cache_read_input_tokens: int
    cache_write_input_tokens: int
    context_budget_tokens: int


def prompt_usage(usage: TokenUsage) -> PromptUsage | None:
    """The context accounting of one call, or None when the provider reported nothing."""
    prompt = usage.prompt
    if prompt == 0 and usage.output_tokens == 0:
        return None
    return PromptUsage(
        prompt_context_tokens=prompt,
        input_tokens=usage.input_tokens,
        cache_read_input_tokens=usage.cache_read_input_tokens,
        cache_write_input_tokens=usage.cache_write_input_tokens,
        context_budget_tokens=prompt + usage.output_tokens,
    )


def merge_ledger(entries: Iterable[TokenLedgerEntry]) -> tuple[TokenLedgerEntry, ...]:
    """Entries summed per `(source, model)`, zero totals dropped, sorted by key."""
    sums: dict[tuple[str, str], TokenLedgerEntry] = {}
    for entry in entries:
        key = (entry.source, entry.model)
        if key in sums:
            entry = TokenLedgerEntry(entry.source, entry.model, sums[key].usage + entry.usage)
        sums[key] = entry
    return tuple([entry for _, entry in sorted(sums.items()) if entry.usage.total])


def ledger_beyond(
    stored: Iterable[TokenLedgerEntry], claimed: Iterable[TokenLedgerEntry]
) -> tuple[TokenLedgerEntry, ...]:
    """What has to be added to `stored` so that no count is less than `claimed` says; sorted."""
    known = {(entry.source, entry.model): entry.usage for entry in merge_ledger(stored)}
    rows = []
    for entry in merge_ledger(claimed):
        base = known.get((entry.source, entry.model), NO_USAGE)
        more = TokenUsage(*(max(0, getattr(entry.usage, name) - getattr(base, name)) for name in _FIELDS))
        if more.total:
            rows.append(TokenLedgerEntry(entry.source, entry.model, more))
    return tuple(rows)


class SessionUsageReport(Record):
    """The ledger of a session, summed three ways (contract 01 §12)."""

    entry_count: int
    usage: TokenUsage
    by_source: dict[str, TokenUsage]
    by_model: dict[str, TokenUsage]
    by_source_model: tuple[TokenLedgerEntry, ...]


def usage_report(entries: Iterable[TokenLedgerEntry]) -> SessionUsageReport:
    """The report over `entries`; rows and groups sorted by key."""
    merged = merge_ledger(entries)
    total = NO_USAGE
    by_source: dict[str, TokenUsage] = {}
    by_model = dict.fromkeys(sorted({entry.model for entry in merged}), NO_USAGE)
    for entry in merged:
        total = total + entry.usage
        by_source[entry.source] = by_source.get(entry.source, NO_USAGE) + entry.usage
        by_model[entry.model] = by_model[entry.model] + entry.usage
    return SessionUsageReport(len(merged), total, by_source, by_model, merged)


def diff_token_ledger(
    before: Sequence[TokenLedgerEntry], after: Sequence[TokenLedgerEntry]
) -> tuple[TokenLedgerEntry, ...]:
    """What `after` added over `before`, per key; zero rows dropped, sorted.

    Raises `UsageError` (`ledger_shrank`) when any count decreased: ledgers never shrink, so these are not of one
    session, or not in this order.
    """
    old = {(entry.source, entry.model): entry.usage for entry in merge_ledger(before)}
    rows = []
    for entry in merge_ledger(after):
        base = old.pop((entry.source, entry.model), NO_USAGE)
        change = TokenUsage(*(getattr(entry.usage, name) - getattr(base, name) for name in _FIELDS))
        if any(getattr(change, name) < 0 for name in _FIELDS):
            raise _shrank(f"the ledger of {entry.source}/{entry.model} shrank")
        if change.total:
            rows.append(TokenLedgerEntry(entry.source, entry.model, change))
    if old:
        lost = ", ".join(f"{source}/{model}" for source, model in sorted(old))
        raise _shrank(f"the ledger lost {lost}")
    return tuple(rows)


def _shrank(message: str) -> UsageError:
    return UsageError(message, code="ledger_shrank", hint="give the earlier one first, and both of the same session")


def diff_usage_reports(before: SessionUsageReport, after: SessionUsageReport) -> SessionUsageReport:
    """The report over what `after` has more than `before`: what a session cost in between. Raises as
    `diff_token_ledger`."""
    return usage_report(diff_token_ledger(before.by_source_model, after.by_source_model))
