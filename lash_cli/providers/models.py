"""The shipped catalogue: what the large providers document about their current models (contract 06 §4).

Limits, prices and reasoning abilities are data, found by the exact id and by
nothing else: a model under another name, on another server or newer than this
file has no entry, and nothing is guessed for it. The user's `[models.NAME]`
overrides every field. Figures were read in the providers' public pages (the
`source` of each entry) or in dated quotations of them, on the day of
`looked_up`; what could not be read is None. Imported only where a model is
described, never by a listing of sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lash_cli.core.codec import Record, from_builtins
from lash_cli.core.policy import ModelCapability, ReasoningCapability
from lash_cli.core.pricing import MICROS, BucketPrices, Prices

LOOKED_UP = "2026-11-26"
PRICE_BUCKETS = ("input", "cache_read", "cache_write", "output")


class KnownModel(Record):
    """What is known about one model; None is unknown. `kind` is the provider kind it is documented for."""

    id: str
    kind: str | None = None
    context_window_tokens: int | None = None
    max_output_tokens: int | None = None
    prices: Prices | None = None
    capability: ModelCapability | None = None
    source: str | None = None
    looked_up: str | None = None


def find(model_id: str) -> KnownModel | None:
    """The entry of exactly this id."""
    return CATALOGUE.get(model_id)


def described(model_id: str, overrides: Mapping[str, Any]) -> KnownModel:
    """The entry of `model_id`, or an empty one, with the user's fields laid over it.

    `overrides` holds the fields of a `[models.NAME]` table that are set. A
    `prices` table replaces the buckets it names; the provider's long-context
    and temporary prices end with it. A `reasoning` table replaces the fields it
    names. `cache_control = "none"` takes the dialect away, and
    `thought_signatures = "optional"` the demand for them. Raises `ValueError`
    for a table that does not decode, or says what could never be asked for.
    """
    known = find(model_id) or KnownModel(model_id)
    changes: dict[str, Any] = {
        name: overrides[name] for name in ("context_window_tokens", "max_output_tokens") if name in overrides
    }
    if "prices" in overrides:
        changes["prices"] = _repriced(known.prices, overrides["prices"])
    capability = known.capability or ModelCapability()
    abilities: dict[str, Any] = {}
    if "reasoning" in overrides:
        abilities["reasoning"] = _reasoning(capability.reasoning, overrides["reasoning"])
    if "cache_control" in overrides:
        dialect = overrides["cache_control"]
        abilities["cache_control"] = None if dialect == "none" else dialect
    if "stream_termination" in overrides:
        abilities["stream_termination"] = overrides["stream_termination"]
    if "thought_signatures" in overrides:
        abilities["thought_signatures"] = "required" if overrides["thought_signatures"] == "required" else None
    if abilities:
        changes["capability"] = msgspec.structs.replace(capability, **abilities)
    return msgspec.structs.replace(known, **changes)


def _repriced(known: Prices | None, table: Mapping[str, Any]) -> Prices:
    given = {name: micros(table[name]) for name in PRICE_BUCKETS if name in table}
    base = known.buckets if known is not None else BucketPrices()
    return Prices(
        msgspec.structs.replace(base, **given),
        currency=table.get("currency", known.currency if known is not None else "USD"),
        looked_up=table.get("looked_up"),
    )


def _reasoning(known: ReasoningCapability | None, table: Mapping[str, Any]) -> ReasoningCapability:
    from lash_cli.providers.reasoning import malformed  # most models are described without

    try:
        given: ReasoningCapability = from_builtins(dict(table), ReasoningCapability)
    except msgspec.ValidationError as error:
        raise ValueError(f"reasoning: {error}") from error
    whole = msgspec.structs.replace(known or ReasoningCapability(), **{name: getattr(given, name) for name in table})
    problem = malformed(whole)
    if problem is not None:
        raise ValueError(f"reasoning: {problem}")
    return whole


def micros(amount: float | str) -> int:
    """Micro-units of an amount of money as people write it: 0.25 is 250000."""
    return round(float(amount) * MICROS)


def _rates(input: str, cache_read: str, cache_write: str | None, output: str) -> BucketPrices:
    return BucketPrices(
        micros(input), micros(cache_read), None if cache_write is None else micros(cache_write), micros(output)
    )


def _prices(
    rates: BucketPrices,
    *,
    above: int | None = None,
    long_context: BucketPrices | None = None,
    valid_until: str | None = None,
) -> Prices:
    return Prices(
        rates,
        looked_up=LOOKED_UP,
        valid_until=valid_until,
        long_context_above_tokens=above,
        long_context=long_context,
    )


_GPT_6_LONG = 272_000
_HAIKU_LONG = 100_000
_OPENAI_PAGE = "https://developers.openai.com/api/docs/models/"
_CLAUDE_PAGE = "https://platform.claude.com/docs/en/models/"
_GEMINI_PAGE = "https://ai.google.dev/gemini-api/docs/pricing"
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


def _gpt(model_id: str, prices: Prices, reasoning: ReasoningCapability) -> KnownModel:
    return KnownModel(
        model_id,
        "openai_responses",
        1_050_000,
        128_000,
        prices,
        ModelCapability(reasoning),
        _OPENAI_PAGE + model_id,
        LOOKED_UP,
    )


def _claude(model_id: str, page: str, prices: Prices, reasoning: ReasoningCapability) -> KnownModel:
    return KnownModel(
        model_id,
        "anthropic",
        1_000_000,
        128_000,
        prices,
        ModelCapability(reasoning, cache_control="anthropic"),
        f"{_CLAUDE_PAGE}{page}/overview",
        LOOKED_UP,
    )


def _gemini(model_id: str, prices: Prices, reasoning: ReasoningCapability) -> KnownModel:
    # Prompt caching needs no marks on this wire: it is implicit. Models from Gemini 3 on refuse a call without its
    # signature (https://ai.google.dev/gemini-api/docs/thought-signatures).
    capability = ModelCapability(reasoning, thought_signatures="required")
    return KnownModel(model_id, "google", 1_048_576, 65_536, prices, capability, _GEMINI_PAGE, LOOKED_UP)


# A request that asks for effort `none` is refused by these models, so their reasoning is mandatory.
_GPT_ALWAYS = ReasoningCapability(_EFFORTS, mandatory=True)
_GPT_OPTIONAL = ReasoningCapability(_EFFORTS, disable="effort(none)")
# `thinking: disabled` is refused by these models.
_CLAUDE_ALWAYS = ReasoningCapability(_EFFORTS, default_effort="high", mandatory=True)
# No way to turn the thinking of these off is documented.
_GEMINI_4 = ReasoningCapability(("low", "medium", "high", "xhigh"), default_effort="high")

CATALOGUE: dict[str, KnownModel] = {
    model.id: model
    for model in (
        _gpt(
            "gpt-6.2-astra",
            _prices(_rates("8", "0.40", "10", "40"), above=_GPT_6_LONG, long_context=_rates("16", "0.80", "20", "60")),
            _GPT_ALWAYS,
        ),
        _gpt(
            "gpt-6.2-sol",
            _prices(_rates("2", "0.10", "2.50", "10"), above=_GPT_6_LONG, long_context=_rates("4", "0.20", "5", "15")),
            _GPT_ALWAYS,
        ),
        _gpt("gpt-6.1-terra", _prices(_rates("1", "0.05", "1.25", "5"), above=_GPT_6_LONG), _GPT_OPTIONAL),
        _gpt(
            "gpt-6-luna",
            _prices(
                _rates("0.10", "0.01", "0.125", "0.50"),
                above=_GPT_6_LONG,
                long_context=_rates("0.20", "0.02", "0.25", "0.75"),
            ),
            _GPT_OPTIONAL,
        ),
        # The newest small one whose tools work over Chat Completions; with an explicit effort they do not.
        KnownModel(
            "gpt-5.4-mini",
            "openai_chat",
            400_000,
            128_000,
            _prices(_rates("0.75", "0.075", None, "4.50")),
            ModelCapability(ReasoningCapability(("low", "medium", "high", "xhigh"), disable="effort(none)")),
            _OPENAI_PAGE + "gpt-5.4-mini",
            LOOKED_UP,
        ),
        # Its provider shuts it down on 2026-12-11.
        KnownModel(
            "gpt-5-mini",
            "openai_chat",
            400_000,
            128_000,
            _prices(_rates("0.25", "0.025", None, "2")),
            ModelCapability(ReasoningCapability(("minimal", "low", "medium", "high"), default_effort="medium")),
            _OPENAI_PAGE + "gpt-5-mini",
            LOOKED_UP,
        ),
        _claude("claude-fable-5-1", "fable-5-1", _prices(_rates("10", "0.25", "12.50", "50")), _CLAUDE_ALWAYS),
        _claude(
            "claude-opus-5-5",
            "opus-5-5",
            _prices(_rates("4", "0.20", "5", "20")),
            msgspec.structs.replace(_CLAUDE_ALWAYS, default_effort="medium"),
        ),
        _claude("claude-sonnet-5-5", "sonnet-5-5", _prices(_rates("2", "0.10", "2.50", "10")), _CLAUDE_ALWAYS),
        _claude(
            "claude-haiku-5-5",
            "haiku-5-5",
            _prices(
                _rates("0.10", "0.01", "0.125", "0.50"),
                above=_HAIKU_LONG,
                long_context=_rates("0.50", "0.05", "0.625", "2.50"),
            ),
            ReasoningCapability(_EFFORTS, default_effort="medium", disable="native"),
        ),
        _gemini("gemini-4-neon", _prices(_rates("3", "0.15", None, "15")), _GEMINI_4),
        _gemini("gemini-4-hydrogen", _prices(_rates("1.50", "0.075", None, "7.50")), _GEMINI_4),
        _gemini(
            "gemini-3.8-flash",
            _prices(_rates("0.75", "0.075", None, "3.75"), valid_until="2026-12-31"),
            ReasoningCapability(("low", "medium", "high"), default_effort="medium"),
        ),
    )
}
