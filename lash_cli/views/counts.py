"""Numbers as people read them: with their word, or short where there is little room. Pure."""

from __future__ import annotations


def counted(count: int, word: str) -> str:
    """`1 session`, `2 sessions`; for words that take an s."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def short_count(tokens: int) -> str:
    """A number of tokens where there is little room: `950`, `12.4k`."""
    return str(tokens) if tokens < 1_000 else f"{tokens / 1_000:.1f}k"
