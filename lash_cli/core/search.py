"""What a person searches for: words, phrases, beginnings of words, and what must not be there (contract 08 §5.1).

A query is plain words that must all occur. `"two words"` is a phrase, `word*`
any word that begins so, `-word` excludes. Nothing else has a meaning, so no
text is a broken query: a store turns the terms into whatever it searches with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lash_cli.core.codec import Record
from lash_cli.core.content import Message, message_text
from lash_cli.errors import UsageError

MAX_QUERY_CHARS = 1000
_TERM = re.compile(r'(?P<no>-)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')


class SearchTerm(Record):
    """Words that stand next to each other, in order. With `is_prefix` the last one is the beginning of a word."""

    words: str
    is_prefix: bool = False
    is_excluded: bool = False


def parse_query(text: str) -> tuple[SearchTerm, ...]:
    """The terms of a query; those without a letter or digit match nothing and are left out.

    Raises `UsageError` when nothing is left that a message could have, or the
    query is longer than `MAX_QUERY_CHARS`.
    """
    if len(text) > MAX_QUERY_CHARS:
        raise UsageError(f"a query has at most {MAX_QUERY_CHARS} characters, not {len(text)}")
    terms = []
    for found in _TERM.finditer(text.replace("\0", " ")):
        words = found["word"] if found["phrase"] is None else found["phrase"]
        if any(character.isalnum() for character in words):
            is_prefix = found["phrase"] is None and words.endswith("*")
            terms.append(SearchTerm(words.rstrip("*") if is_prefix else words, is_prefix, found["no"] is not None))
    if not any(not term.is_excluded for term in terms):
        raise UsageError(
            "there is nothing to search for",
            hint='give words that must all occur, "a phrase", begin*, or beside those -without',
        )
    return tuple(terms)


def searchable_text(message: Message) -> str:
    """What of a message is searched: what was said. Reasoning, calls and what tools returned are not."""
    return message_text(message)


def split_marks(marked: str, opening: str, closing: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text without its marks, and where they stood: pairs of character positions, the second exclusive.

    `opening` and `closing` are single characters that alternate.
    """
    plain: list[str] = []
    spans: list[tuple[int, int]] = []
    position = start = 0
    for piece in _pieces(marked, opening + closing):
        if piece == opening:
            start = position
        elif piece == closing:
            spans.append((start, position))
        else:
            plain.append(piece)
            position += len(piece)
    return "".join(plain), tuple(spans)


def _pieces(text: str, marks: str) -> Iterable[str]:
    return (piece for piece in re.split(f"([{re.escape(marks)}])", text) if piece)
