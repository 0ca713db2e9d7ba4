"""What a ledger comes to: rows grouped, and priced where a price is known (contract 08 §5.1 `usage`, 06 §4).

A price that is not known is never guessed: what it is part of has no cost. The
ledger sums requests, so whether one of them was so long that it has a price of
its own is known only where no row is as large as that; else the cost is an
estimate and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

from lash_cli.cli.documents import Document, usage_document
from lash_cli.cli.word_lists import words_of
from lash_cli.core.pricing import Prices
from lash_cli.core.usage import TokenUsage
from lash_cli.store.shelf_records import UsageTotal

GROUPS = ("day", "model", "session", "source")
_DAY_SECONDS = 86_400

PriceOf = Callable[[str], Prices | None]


class Cost(NamedTuple):
    """Micro-units of a currency; both None when any part has no price."""

    micros: int | None = None
    currency: str | None = None
    is_estimate: bool = False


class Spent(NamedTuple):
    """A group of ledger rows."""

    values: tuple[str | None, ...]
    session_name: str | None
    usage: TokenUsage
    cost: Cost


def parse_groups(texts: Sequence[str] | None) -> tuple[str, ...]:
    """The words of `--by`, each once, in order. Raises `UsageError` for a word that is none of `GROUPS`."""
    return tuple(dict.fromkeys(words_of("--by", texts, GROUPS, "cannot group by"))) if texts else ()


def day_text(day: int) -> str:
    """`2026-01-31` of days since 1970."""
    return datetime.fromtimestamp(day * _DAY_SECONDS, UTC).strftime("%Y-%m-%d")


def cost_of(totals: Iterable[UsageTotal], price_of: PriceOf) -> Cost:
    """The price of ledger rows; nothing costs nothing, in no currency."""
    micros = 0
    currency: str | None = None
    is_estimate = False
    for total in totals:
        prices = price_of(total.model)
        if prices is None or (currency is not None and prices.currency != currency):
            return Cost()
        # The buckets alone: of a sum it is not known how long its requests were.
        part = _without_long(prices).cost_micros(total.usage)
        if part is None:
            return Cost()
        micros, currency = micros + part, prices.currency
        above = prices.long_context_above_tokens
        is_estimate |= above is not None and total.largest_prompt > above
    return Cost(micros, currency, is_estimate) if currency is not None else Cost()


def _without_long(prices: Prices) -> Prices:
    return Prices(prices.buckets, prices.currency)


def grouped(totals: Sequence[UsageTotal], groups: Sequence[str], price_of: PriceOf) -> list[Spent]:
    """One row for each combination of the groups' values, in their order."""
    cached = cache(price_of)
    rows: dict[tuple[str, ...], list[UsageTotal]] = {}
    for total in totals:
        rows.setdefault(tuple(_value(total, group) for group in groups), []).append(total)
    return [_spent(values, rows[values], groups, cached) for values in sorted(rows)]


def _value(total: UsageTotal, group: str) -> str:
    match group:
        case "day":
            return day_text(total.day)
        case "model":
            return total.model
        case "session":
            return total.session_id
        case _:
            return total.source


def _spent(values: tuple[str, ...], totals: list[UsageTotal], groups: Sequence[str], price_of: PriceOf) -> Spent:
    usage = sum((total.usage for total in totals), TokenUsage())
    by_name = dict(zip(groups, values, strict=True))
    name = totals[0].session_name if "session" in by_name else None
    return Spent(tuple(by_name.get(group) for group in GROUPS), name, usage, cost_of(totals, price_of))


def spent_document(spent: Spent) -> Document:
    """A UsageRow."""
    named = dict(zip(GROUPS, spent.values, strict=True))
    return {
        "id": "/".join(value for value in spent.values if value is not None) or "total",
        "day": named["day"],
        "session": named["session"],
        "session_name": spent.session_name,
        "source": named["source"],
        "model": named["model"],
        **usage_document(spent.usage),
        **cost_document(spent.cost),
    }


def cost_document(cost: Cost) -> Document:
    """The keys that say what something cost."""
    return {"cost_micros": cost.micros, "currency": cost.currency, "cost_is_estimate": cost.is_estimate}
