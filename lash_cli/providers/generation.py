"""From a generation intent to the fields of a body, with a receipt for each option (contract 06 §4).

What an endpoint's own `extra_body` says there is its default, which an intent
replaces; what its `omit_body` takes away stays away. A wire's bounds are its
documentation's, and whatever lies beyond is sent as far as it goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lash_cli.core.llm import GenerationReceipt, Handling
from lash_cli.core.policy import NO_GENERATION, Generation

OPTIONS = ("temperature", "seed", "stop_sequences")


class GenerationWords(NamedTuple):
    """What a wire calls each option, None where it has no word, and how far it goes."""

    temperature: str | None = None
    seed: str | None = None
    stop_sequences: str | None = None
    most_temperature: float = 2.0
    most_stop_sequences: int | None = None


class Spoken(NamedTuple):
    """The fields of a body that say an intent, and what became of each of its options."""

    fields: dict[str, Any]
    receipt: GenerationReceipt | None


_NOTHING = Spoken({}, None)


def spoken(generation: Generation, words: GenerationWords, defaults: Mapping[str, Any]) -> Spoken:
    """`generation` in the words of a wire, at an endpoint whose `extra_body` holds `defaults` there."""
    if generation == NO_GENERATION:
        return _NOTHING
    fields: dict[str, Any] = {}
    receipt: dict[str, Handling] = {}
    for option in OPTIONS:
        wanted = getattr(generation, option)
        if wanted is None or wanted == ():
            continue
        word = getattr(words, option)
        if word is None or defaults.get(word, word) is None:
            receipt[option] = "omitted"
            continue
        said = _within(option, wanted, words)
        fields[word] = said
        receipt[option] = "applied" if said == wanted else "clamped"
    return Spoken(fields, GenerationReceipt(**receipt) if receipt else None)


def _within(option: str, wanted: Any, words: GenerationWords) -> Any:
    """`wanted` as far as the wire goes."""
    match option:
        case "temperature":
            return min(wanted, words.most_temperature)
        case "stop_sequences":
            return wanted[: words.most_stop_sequences]
        case _:
            return wanted
