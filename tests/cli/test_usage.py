"""`lash usage` over sessions: groups, prices, and the chart a terminal gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.terminal import Terminal

PRICES = {
    "LASH_CFG__models__loopback__id": "loopback",
    "LASH_CFG__models__loopback__prices": "{input = 1.0, output = 2.0, cache_read = 0.5, cache_write = 1.0}",
}


@pytest.fixture
def spent(lash: Any) -> None:
    for name in ("a", "b"):
        lash("open", name, "--name", f"name-{name}")
    lash("turn", "a", "!usage 1000 10\n!text x")
    lash("turn", "a", "!usage 2000 20\n!text x")
    lash("turn", "b", "!usage 4000 40\n!text x")


def rows(lash: Any, *options: str, **more: Any) -> list[Any]:
    done = lash("usage", *options, "-o", "json", **more)
    assert done.code == 0, done.err
    assert done.json["kind"] == "UsageList"
    return list(done.json["items"])


def test_all_sessions_by_whatever_is_named(lash: Any, spent: None) -> None:
    (day,) = rows(lash)
    assert (day["total_tokens"], day["session"], day["model"]) == (7070, None, None) and day["id"] == day["day"]
    by_session = rows(lash, "--by", "session")
    assert [(row["session"], row["session_name"], row["total_tokens"]) for row in by_session] == [
        ("a", "name-a", 3030),
        ("b", "name-b", 4040),
    ]
    (all_of_it,) = rows(lash, "--by", "source,model")
    assert (all_of_it["source"], all_of_it["model"], all_of_it["input_tokens"]) == ("turn", "loopback", 7000)
    assert [row["total_tokens"] for row in rows(lash, "name-b", "--by", "day")] == [4040]
    assert rows(lash, "--since", "2100-01-01") == []
    assert [row["total_tokens"] for row in rows(lash, "a", "--since", "1h")] == [3030]


def test_money_is_told_where_the_price_is_known_and_never_guessed(lash: Any, spent: None) -> None:
    assert [row["cost_micros"] for row in rows(lash, "--by", "session")] == [None, None]
    priced = rows(lash, "--by", "session", env=PRICES)
    assert [(row["cost_micros"], row["currency"], row["cost_is_estimate"]) for row in priced] == [
        (3060, "USD", False),
        (4080, "USD", False),
    ]
    one = lash("usage", "a", "-o", "json", env=PRICES).json
    assert (one["kind"], one["cost_micros"], one["currency"]) == ("SessionUsage", 3060, "USD")
    assert "cost        <$0.01" in lash("usage", "a", env=PRICES).out


def test_the_session_of_the_environment_is_the_default_and_all_means_all(lash: Any, spent: None) -> None:
    env = {"LASH_SESSION": "b"}
    assert lash("usage", "-o", "json", env=env).json["session"] == "b"
    assert [row["total_tokens"] for row in rows(lash, "--by", "day", env=env)] == [4040]
    assert [row["total_tokens"] for row in rows(lash, "--all", env=env)] == [7070]


def test_without_a_database_nothing_was_spent(lash: Any, home: Path) -> None:
    assert rows(lash) == [] and lash("usage").out == ""
    assert not home.exists()


@pytest.mark.parametrize("options", [("--by", "moon"), ("--since", "whenever"), ("a", "--all")])
def test_what_cannot_be_meant_is_refused(lash: Any, spent: None, options: tuple[str, ...]) -> None:
    done = lash("usage", *options, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "usage")


def test_text_has_a_sum_and_bars_on_a_terminal_only(lash: Any, home: Path, spent: None) -> None:
    text = lash("usage", "--by", "session").out
    assert text.splitlines()[0].split() == ["SESSION", "IN", "CACHED", "OUT", "TOKENS", "COST"]
    assert text.splitlines()[-1].split() == ["total", "7,000", "0", "70", "7,070", "-"] and "█" not in text
    terminal = Terminal(home, "usage", "--by", "session")
    try:
        terminal.wait_for("total")
        assert "█" * 24 in terminal.text
    finally:
        terminal.close()
