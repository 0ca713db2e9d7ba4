"""How much work something is, counted and not timed: the same on every machine, however busy it is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TooMuchWork(AssertionError):
    """More calls were made than there should be."""


@contextmanager
def at_most(calls: int) -> Iterator[None]:
    """Raise `TooMuchWork` as soon as the block has made more than `calls` calls, of Python's functions and of those of
    C: what would go on for minutes is told at once."""
    made = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        if event in ("call", "c_call"):
            made += 1
            if made > calls:
                sys.setprofile(None)
                raise TooMuchWork(f"more than {calls} calls")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


class BytesBound:
    """How many bytes came under names in functions."""

    total = 0


@contextmanager
def bytes_bound_in_threads() -> Iterator[BytesBound]:
    """Count the bytes that the threads which begin inside of the block give names to: a copy is another thing than what
    it was made of, and what grows in its place is the same."""
    counted = BytesBound()
    known: dict[tuple[FrameType, str], bytes | bytearray] = {}

    def look(frame: FrameType, event: str, argument: object) -> Any:
        for name, value in frame.f_locals.items():
            if isinstance(value, bytes | bytearray):
                if known.get((frame, name)) is not value:
                    counted.total += len(value)
                known[frame, name] = value
                if event == "return":
                    del known[frame, name]
        return look

    before = threading.gettrace()
    threading.settrace(look)
    try:
        yield counted
    finally:
        threading.settrace(before)  # type: ignore[arg-type]
