"""Text edits as a pure function: bytes and replacements in, bytes and a diff out (contract 05 §6).

All edits are matched against the original text and applied together or not at
all. Matching ignores how lines end; when the exact text is absent it also
ignores trailing space, Unicode compatibility forms and the look of quotes,
dashes and spaces. Lines that an edit does not change, and everything outside
of it, keep their exact bytes, including a byte order mark and CRLF.
"""

from __future__ import annotations

import codecs
import difflib
import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, islice, pairwise

import msgspec

from lash_cli.tools.faults import invalid

DIFF_LINES = 240
DIFF_CONTEXT = 3
# A text of one character may occur at every place of a large file.
COUNTED_PLACES = 1000
# To compare two texts line by line, or to put marks in order, takes time that grows with the square of their number.
COMPARED_LINES = 2000
MARKS_TOGETHER = 30

_LOOKALIKES = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′", "'"),
        **dict.fromkeys("“”„‟″", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        **dict.fromkeys("\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a", " "),
        **dict.fromkeys("\u202f\u205f\u3000", " "),
    }
)


class Replacement(msgspec.Struct, frozen=True):
    """One edit as the model asked for it; `old` is not empty."""

    old: str
    new: str


class Edited(msgspec.Struct, frozen=True):
    """The new content and what changed; `diff` is capped for reading, `patch` is complete."""

    content: bytes
    diff: str
    patch: str
    first_changed_line: int


class _Span(msgspec.Struct, frozen=True):
    """A replaced stretch of the text (in characters) and what comes in its place."""

    start: int
    end: int
    old: str
    new: str


def apply_edits(
    content: bytes, replacements: Sequence[Replacement], path: str, check: Callable[[], None] = lambda: None
) -> Edited:
    """Apply all replacements to `content`; raises `ToolFault` (invalid_request) if any of them cannot be applied.

    Each is looked for in all of the text, and there may be thousands: `check` is called before each, and raises when
    nobody waits any longer.
    """
    text, bom = _decode(content, path)
    flat, origins = _flatten(text)
    searched = _Searched(flat)
    spans: list[_Span] = []
    for index, item in enumerate(replacements, 1):
        check()
        spans.append(searched.locate(item, index))
    spans.sort(key=lambda span: span.start)
    for before, after in pairwise(spans):
        if after.start < before.end:
            raise invalid("edit_overlap", "two edits touch the same text; merge them into one. Nothing was written")
    parts = [part for span in spans for part in _changed_parts(flat, span)]
    result = _splice(text, origins, parts)
    if result == text:
        raise invalid("edit_no_change", "the edits change nothing; the file already has this content")
    lines, first = _diff(flat, parts)
    shown = lines
    if len(lines) > DIFF_LINES:
        shown = [*lines[:DIFF_LINES], f"... {len(lines) - DIFF_LINES} more lines"]
    patch = [f"--- a/{path}", f"+++ b/{path}", *lines] if lines else []
    return Edited(bom + result.encode(), "\n".join(shown), "\n".join(patch), first)


def _decode(content: bytes, path: str) -> tuple[str, bytes]:
    bom = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    if b"\0" in content[:8192]:
        raise invalid("binary_file", f"{path} is a binary file and cannot be edited as text")
    try:
        return content[len(bom) :].decode(), bom
    except UnicodeDecodeError as error:
        raise invalid("not_utf8", f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _flatten(text: str) -> tuple[str, Sequence[int]]:
    """The text with CRLF as LF, and for each of its positions (and its end) the position in the original."""
    if "\r\n" not in text:
        return text, range(len(text) + 1)
    origins: list[int] = []
    pieces: list[str] = []
    position = 0
    for line in text.split("\r\n"):
        origins.extend(range(position, position + len(line)))
        position += len(line)
        origins.append(position)
        pieces.append(line)
        position += 2
    return "\n".join(pieces), origins


class _Searched:
    """A text that several edits are looked for in; its comparable form is made once, when the first needs it."""

    def __init__(self, flat: str) -> None:
        self._flat = flat

    @cached_property
    def _comparable(self) -> tuple[str, Sequence[int]]:
        return _lenient(self._flat)

    def locate(self, item: Replacement, index: int) -> _Span:
        """The only place an edit fits; exact matches win over lenient ones."""
        old, new = (side.replace("\r\n", "\n") for side in (item.old, item.new))
        places = list(islice(_occurrences(self._flat, old), COUNTED_PLACES + 1))
        places = places or list(islice(self._lenient_occurrences(old), COUNTED_PLACES + 1))
        if not places:
            raise invalid("edit_not_found", f"edit {index}: oldText was not found in the file. Nothing was written")
        if len(places) > 1:
            count = len(places) if len(places) <= COUNTED_PLACES else f"more than {COUNTED_PLACES}"
            text = f"oldText occurs {count} times; add surrounding lines until it is unique. Nothing was written"
            raise invalid("edit_not_unique", f"edit {index}: {text}")
        return _Span(*places[0], old, new)

    def _lenient_occurrences(self, old: str) -> Iterator[tuple[int, int]]:
        wanted, _ = _lenient(old)
        if not wanted.strip():
            return
        text, origins = self._comparable
        for start, end in _occurrences(text, wanted):
            # A match must not begin or end inside of what one original character became.
            is_split = (start > 0 and origins[start] == origins[start - 1]) or origins[end] == origins[end - 1]
            if not is_split:
                yield origins[start], origins[end]


def _occurrences(text: str, wanted: str) -> Iterator[tuple[int, int]]:
    position = text.find(wanted)
    while position >= 0:
        yield position, position + len(wanted)
        position = text.find(wanted, position + 1)


def _lenient(text: str) -> tuple[str, Sequence[int]]:
    """The text in its comparable form, and for each position (and the end) where it comes from."""
    odd = _odd_clusters(text)
    pieces: list[str] = []
    origins = array("q")
    position = 0
    for line in text.split("\n"):
        if odd is None or line.isascii():  # it is what it looks like; most lines are, and a file may have many
            pieces.append(line.rstrip(" \t\r"))
            origins.extend(range(position, position + len(pieces[-1])))
        else:
            pieces.append(_comparable_line(line, position, odd, origins))
        position += len(line)
        origins.append(position)
        position += 1
    return "\n".join(pieces), origins


def _comparable_line(line: str, position: int, odd: re.Pattern[str], origins: array[int]) -> str:
    """The comparable form of a line that begins at `position`; adds the origins of its characters."""
    pieces: list[str] = []
    begin, end = len(origins), 0
    for cluster in odd.finditer(line):
        start = cluster.start()
        comparable = _comparable(cluster[0])
        pieces += (line[end:start], comparable)
        origins.extend(range(position + end, position + start))
        origins.extend([position + start] * len(comparable))
        end = cluster.end()
    origins.extend(range(position + end, position + len(line)))
    converted = "".join((*pieces, line[end:]))
    kept = converted.rstrip(" \t\r")
    del origins[begin + len(kept) :]
    return kept


def _odd_clusters(text: str) -> re.Pattern[str] | None:
    """What in `text` is compared as something else: a character that is, with the combining marks that follow it, or
    any with at least one such mark, because they only compose together; more marks than any script has are taken in
    parts. None when nothing is."""
    distinct = {character for character in set(text) if not character.isascii()}
    marks = {character for character in distinct if unicodedata.combining(character)}
    odd = {character for character in distinct - marks if _comparable(character) != character}
    if not odd and not marks:
        return None
    follow = f"{_one_of(marks)}{{0,{MARKS_TOGETHER}}}" if marks else ""
    ways = [f"{_one_of(odd)}{follow}"] if odd else []
    if marks:
        ways.append(f".?{_one_of(marks)}{{1,{MARKS_TOGETHER}}}")
    return re.compile("|".join(ways), re.DOTALL)


def _one_of(characters: set[str]) -> str:
    return f"[{''.join(map(re.escape, sorted(characters)))}]"


@lru_cache(maxsize=4096)
def _comparable(cluster: str) -> str:
    return unicodedata.normalize("NFKC", cluster.translate(_LOOKALIKES)).translate(_LOOKALIKES)


def _changed_parts(flat: str, span: _Span) -> list[_Span]:
    """The span without the lines that `old` and `new` have in common; of very long ones, without those that they
    begin and end with.

    The request is compared with itself, not with the file: a lenient match
    must not rewrite context lines the model only quoted in another spelling.
    A match has as many lines as `old`, whatever they look like.
    """
    found, old, new = _lines(flat[span.start : span.end]), _lines(span.old), _lines(span.new)
    starts = list(accumulate((len(line) for line in found), initial=span.start))
    if len(old) + len(new) > COMPARED_LINES:
        middle = _without_equal_ends(old, _Change(0, len(old), new))
        cut = "".join(old[middle.first : middle.last])
        return [_Span(starts[middle.first], starts[middle.last], cut, "".join(middle.new))]
    return [
        _Span(starts[old_from], starts[old_to], "".join(old[old_from:old_to]), "".join(new[new_from:new_to]))
        for tag, old_from, old_to, new_from, new_to in difflib.SequenceMatcher(None, old, new).get_opcodes()
        if tag != "equal"
    ]


def _lines(text: str) -> list[str]:
    """The lines with their line feeds; only a line feed ends a line."""
    *full, last = text.split("\n")
    return [f"{line}\n" for line in full] + ([last] if last else [])


def _splice(text: str, origins: Sequence[int], spans: Sequence[_Span]) -> str:
    crlf = text.count("\r\n")
    default = "\r\n" if crlf > text.count("\n") - crlf else "\n"
    pieces: list[str] = []
    position = 0
    for span in spans:
        start, end = origins[span.start], origins[span.end]
        replaced = text[start:end]
        ending = default if "\n" not in replaced else "\r\n" if "\r\n" in replaced else "\n"
        pieces += [text[position:start], span.new.replace("\n", ending)]
        position = end
    return "".join([*pieces, text[position:]])


class _Change(msgspec.Struct, frozen=True):
    """Whole lines in the place of the lines `first` up to `last`, counted from 0 and without `last`."""

    first: int
    last: int
    new: list[str]


def _diff(flat: str, parts: Sequence[_Span]) -> tuple[list[str], int]:
    """Unified hunks without file headers, and the first changed line of the new text, from 1.

    Made from what is replaced, not by comparing the texts: a matcher of lines
    takes minutes over a file of many equal lines.
    """
    before = _lines(flat)
    changes = _changes(flat, before, parts)
    lines: list[str] = []
    shift = 0
    for group in _grouped(changes):
        start = max(0, group[0].first - DIFF_CONTEXT)
        end = min(len(before), group[-1].last + DIFF_CONTEXT)
        growth = sum(len(change.new) - (change.last - change.first) for change in group)
        lines.append(f"@@ -{_range(start, end - start)} +{_range(start + shift, end - start + growth)} @@")
        shift += growth
        position = start
        for change in group:
            lines += _marked(" ", before[position : change.first])
            lines += [*_marked("-", before[change.first : change.last]), *_marked("+", change.new)]
            position = change.last
        lines += _marked(" ", before[position:end])
    first = changes[0].first + 1 if changes else 1
    return lines, max(1, min(first, len(before) + shift))


def _changes(flat: str, before: Sequence[str], parts: Sequence[_Span]) -> list[_Change]:
    """The replaced stretches widened to whole lines; those of one line together, without lines that stay equal."""
    starts = list(accumulate((len(line) for line in before), initial=0))
    # First line, end of the last stretch, line behind it, and the new text from the start of the first line on.
    blocks: list[tuple[int, int, int, str]] = []
    for part in parts:
        # The end of a text without a last line feed is no line of its own.
        first = min(bisect_right(starts, part.start) - 1, len(before) - (not flat.endswith("\n")))
        begin, text = starts[first], ""
        if blocks and first < blocks[-1][2]:
            first, begin, _, text = blocks.pop()
        text += flat[begin : part.start] + part.new
        last = bisect_left(starts, part.end)
        if starts[last] == part.end and text and not text.endswith("\n"):
            last = min(last + 1, len(before))  # the next line is joined to this one
        blocks.append((first, part.end, last, text))
    changes = [
        _without_equal_ends(before, _Change(first, last, _lines(text + flat[end : starts[last]])))
        for first, end, last, text in blocks
    ]
    return [change for change in changes if change.new or change.first < change.last]


def _without_equal_ends(before: Sequence[str], change: _Change) -> _Change:
    old, new = before[change.first : change.last], change.new
    shortest = min(len(old), len(new))
    head = tail = 0
    while head < shortest and old[head] == new[head]:
        head += 1
    while tail < shortest - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return _Change(change.first + head, change.last - tail, new[head : len(new) - tail])


def _grouped(changes: Sequence[_Change]) -> list[list[_Change]]:
    """Changes whose contexts touch, for one hunk each."""
    groups: list[list[_Change]] = []
    for change in changes:
        if groups and change.first - groups[-1][-1].last <= 2 * DIFF_CONTEXT:
            groups[-1].append(change)
        else:
            groups.append([change])
    return groups


def _range(start: int, count: int) -> str:
    """A range of a hunk header; an empty one is named by the line before it."""
    return f"{start + (count > 0)},{count}"


def _marked(mark: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield mark + line.removesuffix("\n")
        if not line.endswith("\n"):
            yield "\\ No newline at end of file"
