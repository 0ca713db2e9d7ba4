"""From a reasoning selection to what a wire has to say (contract 06 §4).

A model's abilities are data of the host; a selection they do not allow is
refused before anything is sent. Each wire writes the intent in its own words
and refuses an intent it has no words for.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from lash_cli.core.policy import ModelSpec, ProviderDefault, ReasoningCapability, ReasoningDisabled, ReasoningEffort
from lash_cli.errors import LlmTransportError


class Effort(msgspec.Struct, frozen=True):
    """Ask for an effort by its name on the wire."""

    name: str


class Budget(msgspec.Struct, frozen=True):
    """Ask for at most this many reasoning tokens."""

    tokens: int


class ToggleOff(msgspec.Struct, frozen=True):
    """Say that there is to be no reasoning."""


#: What the `reasoning` object of an endpoint that follows OpenAI understands: efforts, or OpenRouter's three ways.
ReasoningDialect = Literal["openai", "openrouter"]
_WITH_ARGUMENT = re.compile(r"effort\(([^()\s]+)\)|budget\(([0-9]{1,9})\)")
Intent = Effort | Budget | ToggleOff | None


def intent_of(model: ModelSpec) -> Intent:
    """What `model.variant` asks for; None asks for nothing.

    Raises `LlmTransportError` (`effort_not_configurable`, `effort_required`,
    `unsupported_effort`, `malformed_capability`), never retryable.
    """
    selection = model.variant
    if isinstance(selection, ProviderDefault):
        return None
    capability = model.capability.reasoning if model.capability else None
    if capability is None:
        raise refused("effort_not_configurable", f"nothing is known about the reasoning of model {model.id!r}")
    if isinstance(selection, ReasoningDisabled):
        return _disabled(model, capability)
    return _effort(model, selection, capability)


def malformed(reasoning: ReasoningCapability) -> str | None:
    """What of `reasoning` could never be asked for as it is written; None when all of it could."""
    if reasoning.disable is not None and _turned_off(reasoning.disable) is None:
        ways = "native, omit, toggle_false, effort(NAME) or budget(TOKENS)"
        return f"disable is {ways}, not {reasoning.disable!r}"
    for name, effort in reasoning.aliases.items():
        if effort not in reasoning.efforts:
            return f"alias {name!r} stands for {effort!r}, which is not one of the efforts"
    unpriced = [effort for effort in reasoning.efforts if effort not in reasoning.budgets]
    if reasoning.encoding == "budget" and unpriced:
        return f"budgets has no tokens for effort {unpriced[0]!r}"
    return None


def reasoning_object(intent: Intent, dialect: ReasoningDialect, wire: str) -> dict[str, Any]:
    """The members of a `reasoning` object that say `intent`; raises what `unrepresentable` returns."""
    match intent:
        case None:
            return {}
        case Effort(name=name):
            return {"effort": name}
        case Budget(tokens=tokens) if dialect == "openrouter":
            return {"max_tokens": tokens}
        case ToggleOff() if dialect == "openrouter":
            return {"enabled": False}
    raise unrepresentable(intent, wire)


def unrepresentable(intent: Intent, wire: str) -> LlmTransportError:
    """The refusal of an intent that `wire` has no words for."""
    return refused("reasoning_encoding_unrepresentable", f"the {wire} wire cannot say {intent!r}")


def refused(code: str, message: str) -> LlmTransportError:
    """A request that is wrong before it is sent."""
    return LlmTransportError(message, kind="validation", code=code)


def _disabled(model: ModelSpec, capability: ReasoningCapability) -> Intent:
    way = capability.disable
    if capability.mandatory or way is None:
        raise refused("effort_required", f"the reasoning of model {model.id!r} cannot be turned off")
    intent = _turned_off(way)
    if intent is None:
        raise refused("malformed_capability", f"model {model.id!r} has an unknown way to turn reasoning off: {way!r}")
    return None if way == "omit" else intent


def _turned_off(way: str) -> Effort | Budget | ToggleOff | None:
    """What `disable` asks for: native, toggle_false, omit, `effort(NAME)` or `budget(TOKENS)`; None for anything
    else."""
    if way in ("native", "toggle_false", "omit"):
        return ToggleOff()
    match = _WITH_ARGUMENT.fullmatch(way)
    if match is None:
        return None
    return Effort(match[1]) if match[1] is not None else Budget(int(match[2]))


def _effort(model: ModelSpec, selection: ReasoningEffort, capability: ReasoningCapability) -> Intent:
    name = capability.aliases.get(selection.effort, selection.effort)
    if name not in capability.efforts:
        known = ", ".join(capability.efforts) or "none"
        raise refused("unsupported_effort", f"model {model.id!r} has no effort {name!r}; it has: {known}")
    if capability.encoding == "effort":
        return Effort(name)
    if capability.encoding == "budget" and name in capability.budgets:
        return Budget(capability.budgets[name])
    raise refused("malformed_capability", f"model {model.id!r} says nothing usable on how effort {name!r} is written")
