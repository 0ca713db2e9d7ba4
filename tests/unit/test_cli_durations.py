"""Durations, moments and bare options as a command line gives them (contract 08 §5.1)."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from lash_cli.cli.durations import FOREVER_MS, duration_ms, heartbeat_seconds, moment_ms
from lash_cli.errors import UsageError

NOW_MS = 1_795_000_000_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0", 0), ("500ms", 500), ("30", 30_000), ("30s", 30_000), ("2m", 120_000), ("1.5h", 5_400_000),
        ("7d", 604_800_000), (" 5 s ", 5_000), ("0.0004s", 0), ("forever", FOREVER_MS),
        ("9" * 40 + "d", 1_000 * FOREVER_MS),
    ],
)  # fmt: skip
def test_a_duration_is_a_number_and_a_unit(text: str, milliseconds: int) -> None:
    assert duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "1w", "1h30m", "nan", "inf", "1e3", "0x10", "1.", "soon", "1_0s", "１s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        duration_ms(text)


def test_a_moment_is_a_date_a_time_or_how_long_ago_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        assert moment_ms(None, NOW_MS) is None
        assert moment_ms("2h", NOW_MS) == NOW_MS - 7_200_000
        assert moment_ms("500ms", NOW_MS) == NOW_MS - 500
        assert moment_ms("2026-03-01", NOW_MS) == int(datetime(2026, 3, 1, 5, tzinfo=UTC).timestamp() * 1000)
        assert moment_ms("2026-03-01T09:00Z", NOW_MS) == int(datetime(2026, 3, 1, 9, tzinfo=UTC).timestamp() * 1000)
        assert moment_ms("0001-01-01", NOW_MS) < 0 < moment_ms("9999-12-31", NOW_MS)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "2026", "1795000000", "1.5", "soon", "2026-13-01", "-2h"])
def test_a_number_alone_is_no_moment(text: str) -> None:
    # It may be meant as a year, or as seconds since 1970, which would both be a moment that nobody asked for.
    with pytest.raises(UsageError, match="not a time"):
        moment_ms(text, NOW_MS)


def test_a_heartbeat_is_longer_than_nothing_and_for_a_stream() -> None:
    assert heartbeat_seconds(None, is_stream=False) is None
    assert heartbeat_seconds("250ms", is_stream=True) == 0.25
    for text, is_stream in (("15s", False), ("0", True), ("0.4ms", True)):
        with pytest.raises(UsageError):
            heartbeat_seconds(text, is_stream=is_stream)
