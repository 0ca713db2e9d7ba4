"""Options that name several words, by commas or given several times: `--status idle,running` (contract 08 §5.1)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lash_cli.errors import UsageError


def words_of(
    option: str, texts: Sequence[str], known: Collection[str], unknown: str, *, silent: Iterable[str] = ()
) -> list[str]:
    """The words of an option that was given, in order.

    Raises `UsageError`, which names the nearest or lists the `known` words, for one that is neither of them nor
    `silent`, as `unknown` has it, and for an option that names none: a variable that is not set would seem to be a
    choice.
    """
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    listed = f"choose from: {', '.join(known)}"
    if not words:
        raise UsageError(f"{option} names nothing", hint=listed)
    for word in words:
        if word not in known and word not in silent:
            from lash_cli.core.nearest import did_you_mean

            hint, nearest = did_you_mean(word, known, listed)
            raise UsageError(f"{unknown} {word!r}", hint=hint, details={"word": word, "nearest": nearest})
    return words
