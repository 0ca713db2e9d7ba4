"""JSON that is nested as deep as asked for."""

from __future__ import annotations

from typing import Any


def nested(depth: int) -> Any:
    """Lists and objects in turn, `depth` of them around a number."""
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"inner": value}
    return value
