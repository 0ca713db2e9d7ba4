"""Options that name several words, by commas or given several times: `--status idle,running` (contract 08 §5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lash_cli.errors import UsageError


def words_of(option: str, texts: Sequence[str], known: Iterable[str]) -> list[str]:
    """The words of an option that was given, in order. Raises `UsageError`, which lists the `known` words, for one
    that names none: a variable that is not set would seem to be a choice."""
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{option} names nothing", hint=f"choose from: {', '.join(known)}")
    return words
