"""What a ledger comes to, and how it is shown: nothing unknown is priced, nothing that is something vanishes."""

from __future__ import annotations

import pytest

from lash_cli.cli.spending import Cost, cost_of, day_text, grouped, parse_groups, spent_document
from lash_cli.core.pricing import BucketPrices, Prices
from lash_cli.core.search import split_marks
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import UsageError
from lash_cli.store.shelf_records import UsageTotal
from lash_cli.views.usage import bar, money, usage_table

CHEAP = Prices(BucketPrices(input=1_000_000, cache_read=100_000, output=2_000_000))
LONG = Prices(
    BucketPrices(input=1_000_000, output=1_000_000),
    long_context_above_tokens=1_000,
    long_context=BucketPrices(input=9_000_000, output=9_000_000),
)
EUROS = Prices(BucketPrices(input=1_000_000, output=1_000_000), currency="EUR")
PRICES = {"cheap": CHEAP, "long": LONG, "euros": EUROS, "half": Prices(BucketPrices(input=1))}


def total(model: str, tokens: int = 1_000_000, *, day: int = 0, session: str = "s", largest: int = 10) -> UsageTotal:
    return UsageTotal(day, session, f"name of {session}", "turn", model, TokenUsage(tokens), largest)


def test_a_cost_is_the_sum_of_what_is_known_and_unknown_when_any_part_is() -> None:
    assert cost_of([total("cheap"), total("cheap")], PRICES.get) == Cost(2_000_000, "USD")
    assert cost_of([total("cheap"), total("nobody-knows")], PRICES.get) == Cost()
    assert cost_of([total("cheap"), total("euros")], PRICES.get) == Cost()
    assert cost_of([], PRICES.get) == Cost()
    spent = UsageTotal(0, "s", "n", "turn", "half", TokenUsage(5, 5), 5)
    assert cost_of([spent], PRICES.get) == Cost(), "output has no price"


def test_a_sum_that_may_hold_a_long_request_is_an_estimate_of_the_usual_price() -> None:
    assert cost_of([total("long", largest=1_000)], PRICES.get) == Cost(1_000_000, "USD", False)
    assert cost_of([total("long", largest=1_001)], PRICES.get) == Cost(1_000_000, "USD", True)


def test_rows_are_grouped_by_what_is_named_in_that_order() -> None:
    totals = [total("cheap", 1, day=1), total("cheap", 2, session="t"), total("long", 4, day=1)]
    assert [row.values for row in grouped(totals, ("day",), PRICES.get)] == [
        ("1970-01-01", None, None, None),
        ("1970-01-02", None, None, None),
    ]
    by_two = [spent_document(row) for row in grouped(totals, ("session", "model"), PRICES.get)]
    assert [(row["session"], row["session_name"], row["model"], row["total_tokens"]) for row in by_two] == [
        ("s", "name of s", "cheap", 1),
        ("s", "name of s", "long", 4),
        ("t", "name of t", "cheap", 2),
    ]
    assert parse_groups(["day,model", "day"]) == ("day", "model") and parse_groups(None) == ()
    with pytest.raises(UsageError):
        parse_groups(["week"])
    assert day_text(20_000) == "2024-10-04"


def test_money_is_rounded_up_and_says_when_it_is_less_or_a_guess() -> None:
    assert money(None, None) == "-" and money(0, "USD") == "$0.00"
    assert money(1, "USD") == "<$0.01" and money(10_000, "USD") == "$0.01" and money(10_001, "USD") == "$0.02"
    assert money(1_230_000, "EUR") == "1.23 EUR" and money(50_000, "USD", is_estimate=True) == "~$0.05"


def test_a_bar_is_a_share_of_the_largest_and_what_is_something_shows() -> None:
    assert bar(0, 10) == "" and bar(10, 10) == "█" * 24 and bar(5, 10) == "█" * 12
    assert bar(1, 10_000_000) == "▏" and bar(1, 10_000_000, ascii_only=True) == "#"
    assert bar(10, 10, ascii_only=True) == "#" * 24


def test_a_table_has_a_column_for_what_was_grouped_by_and_no_other() -> None:
    rows = [spent_document(row) for row in grouped([total("cheap")], ("model",), PRICES.get)]
    (whole,) = [spent_document(row) for row in grouped([total("cheap")], (), PRICES.get)]
    header, line, last = usage_table(rows, whole).splitlines()
    assert header.split() == ["MODEL", "IN", "CACHED", "OUT", "TOKENS", "COST"]
    assert line.split() == ["cheap", "1,000,000", "0", "0", "1,000,000", "$1.00"] and last.split()[0] == "total"
    narrow = usage_table(rows, whole, width=44, bars=True)
    assert all(len(text) <= 44 for text in narrow.splitlines())
    assert usage_table([], whole) == ""


def test_a_narrow_terminal_cuts_no_figure_that_fits_and_no_bar() -> None:
    days = [
        UsageTotal(day, "s", "fjord", "turn", "nobody-knows", TokenUsage(1, output), 1)
        for day, output in ((20_000, 29), (20_001, 14))
    ]
    rows = [spent_document(row) for row in grouped(days, ("day",), PRICES.get)]
    (whole,) = [spent_document(row) for row in grouped(days, (), PRICES.get)]
    for width in (40, 48, 60):
        _, first, second, last = usage_table(rows, whole, width=width, bars=True).splitlines()
        assert [cell for cell in first.split() if cell.isdigit()] == ["1", "0", "29", "30"]
        assert last.split()[1:5] == ["2", "0", "43", "45"]
        longer, shorter = (line.count("█") for line in (first, second))
        assert "…" not in first[len("2024-10-04") :] and (longer == shorter == 0 or longer > shorter > 0)
    assert "█" in first and "█" not in usage_table(rows, whole, width=40, bars=True)


@pytest.mark.parametrize(
    ("marked", "plain", "spans"),
    [
        ("", "", ()),
        ("none", "none", ()),
        ("a <b> c", "a b c", ((2, 3),)),
        ("<a><b>", "ab", ((0, 1), (1, 2))),
        ("…<süß> <b>", "…süß b", ((1, 4), (5, 6))),
    ],
)
def test_marks_become_places_of_the_text_without_them(
    marked: str, plain: str, spans: tuple[tuple[int, int], ...]
) -> None:
    assert split_marks(marked, "<", ">") == (plain, spans)
