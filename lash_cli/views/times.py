"""Times and durations as people and scripts read them (contract 08 §6.1).

Scripts get RFC 3339 in UTC with milliseconds; people get how long ago it was.
The present is always an argument: nothing here looks at a clock.
"""

from __future__ import annotations

import time

_SECOND_MS = 1000
_MINUTE_MS = 60 * _SECOND_MS
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS


def rfc3339(epoch_ms: int | None) -> str | None:
    """`2026-01-31T12:03:04.005Z`, or None for None."""
    if epoch_ms is None:
        return None
    seconds, milliseconds = divmod(epoch_ms, _SECOND_MS)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03d}Z"


def duration(milliseconds: int) -> str:
    """A length of time in at most two units: `8ms`, `1.2s`, `3m 20s`, `2h 5m`, `4d 1h`."""
    value = max(0, milliseconds)
    if value < _SECOND_MS:
        return f"{value}ms"
    if value < _MINUTE_MS:
        return f"{value / _SECOND_MS:.1f}s"
    if value < _HOUR_MS:
        return f"{value // _MINUTE_MS}m {value % _MINUTE_MS // _SECOND_MS}s"
    if value < _DAY_MS:
        return f"{value // _HOUR_MS}h {value % _HOUR_MS // _MINUTE_MS}m"
    return f"{value // _DAY_MS}d {value % _DAY_MS // _HOUR_MS}h"


def stopwatch(milliseconds: int) -> str:
    """A length of time that is still growing, `02:05`."""
    minutes, seconds = divmod(max(0, milliseconds) // _SECOND_MS, 60)
    return f"{minutes:02d}:{seconds:02d}"


def age_since(moment: str, now_ms: int) -> str:
    """`age` of an RFC 3339 time."""
    from datetime import datetime  # programs are told the time itself (design D16)

    return age(round(datetime.fromisoformat(moment).timestamp() * 1000), now_ms)


def age(epoch_ms: int | None, now_ms: int) -> str:
    """How long ago `epoch_ms` was, in one unit; `-` for None and `now` within the last second or ahead of it."""
    if epoch_ms is None:
        return "-"
    passed = now_ms - epoch_ms
    for unit, length in (("d", _DAY_MS), ("h", _HOUR_MS), ("m", _MINUTE_MS), ("s", _SECOND_MS)):
        if passed >= length:
            return f"{passed // length}{unit} ago"
    return "now"
