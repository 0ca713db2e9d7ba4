"""What of a value may stand in a trace record: bounded in size, free of secrets (contract 04 §9, 08 §6.8).

A record stays below about a megabyte, whatever a tool or a model produced.
What is cut keeps its beginning, and a `Cut` names the place and how long the
original was, so that a reader never takes a part for the whole. Secrets are
masked before anything is cut: half a key would not be recognised any more.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Literal

from lash_cli.core.codec import Record, storable

MAX_TEXT_CHARS = 16_384  # of one text
MAX_RECORD_CHARS = 262_144  # of all texts of a record together; short ones are kept beyond it
SHORT_TEXT_CHARS = 256  # also the most of a key
MAX_ITEMS = 256  # of one list or object
MAX_VALUES = 8_192  # of a record together
MAX_DEPTH = 24  # of nested lists and objects
MAX_CUTS = 64  # that a record names
MAX_PATH_CHARS = 200
# A longer text is searched for secrets only this far, and what comes last in there is dropped unseen: a secret that
# begins inside the window and ends outside of it is not recognised, and lies in what is dropped.
WINDOW_CHARS = 262_144
GUARD_CHARS = 8_192

Redact = Callable[[str], str]
Unit = Literal["characters", "items", "levels", "bytes"]


class Cut(Record):
    """One shortened value: its path inside the record, what was kept of it, and what it had."""

    path: str
    kept: int
    length: int
    unit: Unit


class Limiter:
    """Limits the values of one record; `cuts` lists what was shortened."""

    def __init__(self, redact: Redact) -> None:
        self._redact = redact
        self._chars = MAX_RECORD_CHARS
        self._values = MAX_VALUES
        self._cuts: list[Cut] = []

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """What was shortened so far, in the order of the record; at most `MAX_CUTS`."""
        return tuple(self._cuts)

    def limited(self, value: Any, path: str = "", depth: int = 0) -> Any:
        """`value`, built of plain JSON types and bytes, as it may be written.

        Objects keep their first keys, lists their first items. Bytes are never
        written, only counted.
        """
        match value:
            case str():
                return self._text(value, path)
            case bytes():
                self._note(path, 0, len(value), "bytes")
                return None
            case dict() | list() | tuple() if depth >= MAX_DEPTH:
                self._note(path, depth, depth + 1, "levels")
                return None
            case dict():
                room = self._room_for(len(value), path)
                return {
                    self._key(name): self.limited(item, f"{path}.{name}" if path else str(name), depth + 1)
                    for name, item in islice(value.items(), room)
                }
            case list() | tuple():
                room = self._room_for(len(value), path)
                return [self.limited(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value[:room])]
            case _:
                return value

    def _room_for(self, count: int, path: str) -> int:
        """How many of `count` items may stay."""
        room = min(count, MAX_ITEMS, self._values)
        self._values -= room
        if room < count:
            self._note(path, room, count, "items")
        return room

    def _key(self, name: Any) -> str:
        return storable(self._redact(str(name)[:WINDOW_CHARS])[:SHORT_TEXT_CHARS])

    def _text(self, text: str, path: str) -> str:
        clean = self._redact(text[:WINDOW_CHARS])
        is_whole = len(text) <= WINDOW_CHARS
        known = len(clean) if is_whole else max(0, len(clean) - GUARD_CHARS)
        kept = min(known, MAX_TEXT_CHARS, max(self._chars, SHORT_TEXT_CHARS))
        if kept < len(clean) or not is_whole:
            self._note(path, kept, len(text), "characters")
            clean = clean[:kept]
        self._chars -= kept
        return storable(clean)

    def _note(self, path: str, kept: int, length: int, unit: Unit) -> None:
        if len(self._cuts) < MAX_CUTS:
            shown = self._redact(path[:WINDOW_CHARS])
            self._cuts.append(Cut(storable(shown[:MAX_PATH_CHARS]), kept, length, unit))
