"""Identifiers: their shapes, their validation and how sortable ones are made (contract 08 §4).

Pure: the time and the random bits come from the caller, so tests can replay
any sequence. A generated id is a prefix and 26 Crockford base-32 digits: 48
bits of milliseconds, then 80 random bits, so ids of one kind sort by age.
"""

from __future__ import annotations

import re

SESSION_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
_SESSION_ID = re.compile(SESSION_ID_PATTERN)
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_RANDOM_BITS = 80


def is_session_id(text: str) -> bool:
    """Whether `text` may name a session: 1 to 128 characters of `[A-Za-z0-9._:-]`, first one alphanumeric."""
    return _SESSION_ID.fullmatch(text) is not None


def sortable_id(prefix: str, now_ms: int, randomness: int) -> str:
    """`prefix` + `_` + 26 base-32 digits of (`now_ms`, low 80 bits of `randomness`)."""
    number = (now_ms << _RANDOM_BITS) | (randomness & ((1 << _RANDOM_BITS) - 1))
    # 130 bits, ten at a time: two digits come out of one look-up.
    pairs = [_PAIRS[(number >> shift) & 0x3FF] for shift in range(120, -1, -10)]
    return f"{prefix}_{''.join(pairs)}"


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
