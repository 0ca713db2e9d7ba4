"""What model calls cost, and the most that those of a turn may cost (contract 06 §4, 08 §5.1 `--max-cost`).

Money is counted in micro-units of a currency, so that sums are exact. A price
that is not known is never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from lash_cli.core.codec import Record
from lash_cli.core.usage import TokenUsage

MICROS: Final = 1_000_000
_TOKENS_PER_PRICE: Final = 1_000_000


class BucketPrices(Record):
    """Micro-units of the currency for a million tokens of each usage bucket; None is unknown.

    `input` is uncached input, `output` includes reasoning: the buckets of
    `core.usage.TokenUsage`, which do not overlap.
    """

    input: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    output: int | None = None


class Prices(Record):
    """What a model costs, in the standard tier.

    A whole request of more than `long_context_above_tokens` prompt tokens costs
    `long_context` instead of `buckets`; None there is unknown too.
    `valid_until` is the last day of an announced temporary price.
    """

    buckets: BucketPrices
    currency: str = "USD"
    looked_up: str | None = None
    valid_until: str | None = None
    long_context_above_tokens: int | None = None
    long_context: BucketPrices | None = None

    def cost_micros(self, usage: TokenUsage) -> int | None:
        """The price of one request in micro-units, rounded up; None when a bucket that was used has no price."""
        is_long = self.long_context_above_tokens is not None and usage.prompt > self.long_context_above_tokens
        rates = self.long_context if is_long else self.buckets
        if rates is None:
            return None
        counted = (
            (usage.input_tokens, rates.input),
            (usage.cache_read_input_tokens, rates.cache_read),
            (usage.cache_write_input_tokens, rates.cache_write),
            (usage.output_tokens, rates.output),
        )
        total = 0
        for tokens, rate in counted:
            if not tokens:
                continue
            if rate is None:
                return None
            total += tokens * rate
        return -(-total // _TOKENS_PER_PRICE)


class CostLimit(Record):
    """The most that the model calls of a turn may cost, by the prices of the model that is asked.

    It is looked at before every call but the first, so what a call costs that
    was begun below it comes on top. A cost that cannot be known, because a
    bucket that was used has no price, ends a turn like one that is too high.
    """

    micros: int
    prices: Prices

    def after(self, spent: int | None, requests: Iterable[TokenUsage]) -> int | None:
        """What was spent when `requests` came on top, in micro-units; None is unknown, and stays so."""
        for usage in requests:
            cost = self.prices.cost_micros(usage)
            if spent is None or cost is None:
                return None
            spent += cost
        return spent

    def is_reached(self, spent: int | None) -> bool:
        """Whether no other call may be made."""
        return spent is None or spent >= self.micros

    def __str__(self) -> str:
        """`0.50 EUR`: at least two places, and as many as it has."""
        places = f"{self.micros / MICROS:.6f}".rstrip("0")
        whole, _, fraction = places.partition(".")
        return f"{whole}.{fraction.ljust(2, '0')} {self.prices.currency}"
