"""From a reasoning selection to what a wire has to say (contract 06 §4).

A model's abilities are data of the host; a selection they do not allow is
refused before anything is sent. Each wire writes the intent in its own words
and refuses an intent it has no words for.
"""

from __future__ import annotations

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
    """`disable` is native, toggle_false, omit, `effort(NAME)` or `budget(TOKENS)`."""
    way = capability.disable
    if capability.mandatory or way is None:
        raise refused("effort_required", f"the reasoning of model {model.id!r} cannot be turned off")
    if way == "omit":
        return None
    if way in ("native", "toggle_false"):
        return ToggleOff()
    kind, _, argument = way.removesuffix(")").partition("(")
    if kind == "effort" and argument:
        return Effort(argument)
    if kind == "budget" and argument.isdigit():
        return Budget(int(argument))
    raise refused("malformed_capability", f"model {model.id!r} has an unknown way to turn reasoning off: {way!r}")


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
