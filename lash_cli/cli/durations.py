"""Durations and moments as options take them, and options whose value may be left out (contract 08 §5.1).

`--wait` alone waits without limit, `--wait=30s` for half a minute. Typer has no
optional option values, so a command of this class completes the bare form
before it is parsed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from typer.core import TyperCommand

from lash_cli.errors import UsageError

FOREVER = "forever"
FOREVER_MS = 10 * 365 * 24 * 3_600_000


def duration_ms(text: str) -> int:
    """Milliseconds of `500ms`, `30s`, `2m`, `1.5h`, `7d`, a bare number of seconds, or `forever`; 10 000 years at most.

    Raises `UsageError` for anything else.
    """
    if text == FOREVER:
        return FOREVER_MS
    from lash_cli.settings.schema import duration_seconds

    try:
        return round(duration_seconds(text) * 1000)
    except ValueError:
        raise UsageError(f"not a duration: {text!r}", hint="write it as 500ms, 30s, 2m or 1h") from None


def heartbeat_seconds(text: str | None, *, is_stream: bool) -> float | None:
    """Seconds of `--heartbeat DUR`; None without one. Raises `UsageError` for none above 0, and where no JSON lines are
    written."""
    if text is None:
        return None
    if not is_stream:
        raise UsageError(
            "--heartbeat is for a stream of JSON lines", hint="use -o jsonl, without --fields and --format"
        )
    seconds = duration_ms(text) / 1000
    if seconds <= 0:
        raise UsageError(f"--heartbeat cannot be {text!r}", hint="give a duration above 0, such as 15s")
    return seconds


def moment_ms(text: str | None, now_ms: int) -> int | None:
    """Epoch milliseconds of a date, a time, or how long ago it was; None for None.

    A date or time without an offset is local. Raises `UsageError`, also for a number alone: it may be meant as a year
    or as seconds since 1970.
    """
    if text is None:
        return None
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        if text.strip()[-1:].isalpha():
            with suppress(UsageError):
                return now_ms - duration_ms(text)
        hint = "give a date (2026-03-01), a time (2026-03-01T09:00), or how long ago it was (30m, 2h, 7d)"
        raise UsageError(f"not a time: {text!r}", hint=hint) from error
    try:
        since_epoch = (moment if moment.tzinfo else moment.astimezone()).timestamp()
    except (ValueError, OverflowError):
        # The ends of the calendar have no local time everywhere, and nothing of ours happened within a day of them.
        since_epoch = moment.replace(tzinfo=UTC).timestamp()
    return round(since_epoch * 1000)


class WaitCommand(TyperCommand):
    """A command whose `--wait` may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with a bare `--wait` completed, up to `--`."""
        end = args.index("--") if "--" in args else len(args)
        completed = [f"--wait={FOREVER}" if arg == "--wait" else arg for arg in args[:end]]
        return super().parse_args(ctx, completed + args[end:])
