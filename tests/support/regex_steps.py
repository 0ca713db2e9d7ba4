"""How many characters a pattern looks at in a text, counted and not timed.

A matcher that goes the way of `re`, which tries one way after the other, without
what that does to be faster: what is linear here is no worse there. Patterns with
references to groups are not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

_SINGLE = {op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN}
_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    op.CATEGORY_DIGIT: str.isdecimal,
    op.CATEGORY_SPACE: str.isspace,
    op.CATEGORY_WORD: lambda character: character.isalnum() or character == "_",
}


def steps(pattern: re.Pattern[str], text: str) -> int:
    """The characters that are looked at to find all of `pattern` in `text`, each as often as it is."""
    nodes = list(_parser.parse(pattern.pattern, pattern.flags))
    search = _Search(text)
    position = 0
    while position <= len(text):
        end = next(search.ends(nodes, position, pattern.flags), None)
        position = end if end is not None and end > position else position + 1
    return search.steps


class _Search:
    def __init__(self, text: str) -> None:
        self.text = text
        self.steps = 0

    def ends(self, nodes: list[Any], position: int, flags: int) -> Iterator[int]:
        """Where `nodes` can end, in the order in which that is tried."""
        if not nodes:
            yield position
            return
        for end in self._node(nodes[0], position, flags):
            yield from self.ends(nodes[1:], end, flags)

    def _node(self, node: Any, position: int, flags: int) -> Iterable[int]:
        kind, value = node
        if kind in _SINGLE:
            return (position + 1,) if self._is_one(node, position, flags) else ()
        if kind is op.SUBPATTERN:
            _, added, removed, inner = value
            return self.ends(list(inner), position, (flags | added) & ~removed)
        if kind is op.BRANCH:
            return (end for way in value[1] for end in self.ends(list(way), position, flags))
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            least, most, inner = value
            return self._repeated(list(inner), least, most, position, flags, is_greedy=kind is op.MAX_REPEAT)
        if kind in (op.ASSERT, op.ASSERT_NOT):
            direction, inner = value
            start = position if direction > 0 else position - inner.getwidth()[0]
            is_there = start >= 0 and next(self.ends(list(inner), start, flags), None) is not None
            return (position,) if is_there is (kind is op.ASSERT) else ()
        if kind is op.AT:
            return (position,) if self._is_at(value, position) else ()
        raise NotImplementedError(kind)

    def _repeated(
        self, inner: list[Any], least: int, most: int, position: int, flags: int, *, is_greedy: bool
    ) -> Iterator[int]:
        begun = [(position, iter(self.ends(inner, position, flags)))]
        if not is_greedy and least == 0:
            yield position
        while begun:
            here, ways = begun[-1]
            end = next(ways, None) if len(begun) <= most else None
            if end is None:
                begun.pop()
                if is_greedy and len(begun) >= least:
                    yield here
            elif end > here:
                begun.append((end, iter(self.ends(inner, end, flags))))
                if not is_greedy and len(begun) > least:
                    yield end

    def _is_one(self, node: Any, position: int, flags: int) -> bool:
        if position >= len(self.text):
            return False
        self.steps += 1
        character = self.text[position]
        if flags & re.IGNORECASE:
            return any(_fits(node, case, flags) for case in (character.lower(), character.upper()))
        return _fits(node, character, flags)

    def _is_at(self, place: Any, position: int) -> bool:
        if place in (op.AT_BEGINNING, op.AT_BEGINNING_STRING):
            return position == 0
        if place in (op.AT_END, op.AT_END_STRING):
            return position == len(self.text)
        is_word = _CATEGORIES[op.CATEGORY_WORD]
        before = position > 0 and is_word(self.text[position - 1])
        behind = position < len(self.text) and is_word(self.text[position])
        return (before is not behind) is (place is op.AT_BOUNDARY)


def _fits(node: Any, character: str, flags: int) -> bool:
    kind, value = node
    if kind is op.LITERAL:
        return ord(character) == value
    if kind is op.NOT_LITERAL:
        return ord(character) != value
    if kind is op.ANY:
        return bool(flags & re.DOTALL) or character != "\n"
    is_negated = value[0][0] is op.NEGATE
    return any(_is_member(item, character) for item in value[is_negated:]) is not is_negated


def _is_member(item: Any, character: str) -> bool:
    kind, value = item
    if kind is op.LITERAL:
        return ord(character) == value
    if kind is op.RANGE:
        return value[0] <= ord(character) <= value[1]
    return _CATEGORIES[value](character)
