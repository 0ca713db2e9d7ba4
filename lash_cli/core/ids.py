"""Identifiers: their shapes, their validation and how sortable ones are made (contract 08 §4).

Pure: the time and the random bits come from the caller, so tests can replay
any sequence. A generated id is a prefix and 26 Crockford base-32 digits: 48
bits of milliseconds, then 80 random bits, so ids of one kind sort by age.
"""

from __future__ import annotations

import re
from functools import lru_cache

from lash_cli.errors import UsageError

SESSION_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
_SESSION_ID = re.compile(SESSION_ID_PATTERN)
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
# For every byte the digit of its low five bits.
_DIGIT_OF_BYTE = bytes(ord(_ALPHABET[byte & 0x1F]) for byte in range(256))


def is_session_id(given: object) -> bool:
    """Whether `given` may name a session: 1 to 128 characters of `[A-Za-z0-9._:-]`, first one alphanumeric."""
    return isinstance(given, str) and _SESSION_ID.fullmatch(given) is not None


def require_named(what: str, given: str | None) -> None:
    """Raise `UsageError` (`missing_execution_scope_id`) for a blank id: no effect has a scope without a name, so a turn
    of that id would never end; and for what is no text. None is for no id."""
    if given is None:
        return
    if not isinstance(given, str):
        raise UsageError(f"{what} is a text, not {type(given).__name__}", code="missing_execution_scope_id")
    if not given.strip():
        raise UsageError(f"{what} must not be blank", code="missing_execution_scope_id")


def sortable_id(prefix: str, now_ms: int, randomness: bytes) -> str:
    """`prefix` + `_` + 26 base-32 digits: ten of `now_ms`, and one of the low five bits of each of 16 random bytes."""
    digits = randomness.translate(_DIGIT_OF_BYTE).decode()
    return f"{prefix}_{_high_digits(now_ms >> 10)}{_ALPHABET[now_ms >> 5 & 0x1F]}{_ALPHABET[now_ms & 0x1F]}{digits}"


@lru_cache(maxsize=1)
def _high_digits(seconds: int) -> str:
    """The first eight digits of a time: they stay for about a second."""
    return "".join(_ALPHABET[seconds >> shift & 0x1F] for shift in range(35, -1, -5))


_ADJECTIVES = (
    "amber", "brave", "brisk", "calm", "clear", "clever", "cosy", "crisp", "deep", "eager", "early", "fair",
    "fleet", "fond", "gentle", "glad", "golden", "grand", "green", "happy", "keen", "kind", "light", "lively",
    "lucky", "mellow", "mild", "misty", "neat", "noble", "open", "pale", "plain", "proud", "quick", "quiet",
    "rapid", "ready", "royal", "sharp", "silent", "silver", "sleek", "smooth", "snowy", "soft", "solid", "steady",
    "still", "stout", "sunny", "swift", "tidy", "true", "vivid", "warm", "wide", "wild", "wise", "young",
)  # fmt: skip
_NOUNS = (
    "acorn", "alder", "anchor", "aspen", "badger", "beacon", "birch", "brook", "canyon", "cedar", "cliff", "cloud",
    "comet", "coral", "crane", "creek", "delta", "dune", "eagle", "ember", "falcon", "fern", "finch", "fjord",
    "forest", "fox", "garden", "glade", "grove", "harbor", "hazel", "heron", "hill", "island", "lake", "lark",
    "leaf", "lynx", "maple", "marsh", "meadow", "moon", "moss", "oak", "ocean", "otter", "owl", "pearl",
    "pine", "pond", "raven", "reef", "ridge", "river", "robin", "sparrow", "spruce", "star", "stone", "willow",
)  # fmt: skip


def readable_name(randomness: int, attempt: int = 0) -> str:
    """An `adjective-noun` name; from the third `attempt` on a number is added so that a free one exists."""
    adjective = _ADJECTIVES[randomness % len(_ADJECTIVES)]
    noun = _NOUNS[(randomness // len(_ADJECTIVES)) % len(_NOUNS)]
    suffix = "" if attempt < 2 else f"-{(randomness // 4096) % (10 ** min(attempt, 6))}"
    return f"{adjective}-{noun}{suffix}"
