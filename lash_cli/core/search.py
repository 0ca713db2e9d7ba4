"""What a person searches for: words, phrases, beginnings of words, and what must not be there (contract 08 §5.1).

A query is plain words that must all occur. `"two words"` is a phrase, `word*`
any word that begins so, `-word` excludes. Nothing else has a meaning, so no
text is a broken query: a store turns the terms into whatever it searches with.

Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese do not put a space
between words, or not between all of them. There every character counts as a
word, in texts and in queries, so that a word is found inside a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lash_cli.core.codec import Record
from lash_cli.core.content import Message, message_text
from lash_cli.errors import UsageError

MAX_QUERY_CHARS = 1000
# Stands between characters that count as words; no text that is searched has it.
SEPARATOR = "\x04"
# Thai and Lao, Burmese, Khmer, kana, Han with its compatibility forms and later planes, Hangul.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
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


def separated(text: str) -> str:
    """`text` with `SEPARATOR` around every character that counts as a word by itself."""
    return text if text.isascii() else _UNSPACED.sub(f"{SEPARATOR}\\g<0>{SEPARATOR}", text)


def split_marks(marked: str, opening: str, closing: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text without separators and marks, and where these stood: pairs of character positions, the second exclusive.

    `opening` and `closing` are single characters that alternate.
    """
    plain: list[str] = []
    spans: list[tuple[int, int]] = []
    position = start = 0
    for piece in _pieces(marked.replace(SEPARATOR, ""), opening + closing):
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
