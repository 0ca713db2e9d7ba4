"""Which providers there are, which one is meant, and where its key comes from (design D13, contract 08 §6.7).

A provider is configured by its `[providers.NAME]` table, or by nothing but the
variable its users have anyway: `OPENAI_API_KEY`, `ANTHROPIC_API_KEY` or
`GEMINI_API_KEY`. `loopback` is always there. A key from the environment is
never sent to another server than the one it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lash_cli.errors import ProviderUnconfigured
from lash_cli.settings.values import ProviderEntry, Settings

LOOPBACK = "loopback"
OPENAI = "openai"
_OPENAI_BASE_URL = "OPENAI_BASE_URL"


class WellKnown(NamedTuple):
    """A provider that the environment alone can make available.

    `model` is used only when neither an option nor the configuration nor
    `model_variable` names one: a small one, so that nothing dear is chosen
    for anybody.
    """

    kind: str
    key_variable: str
    model: str
    model_variable: str | None = None


# In the order in which one of them becomes the default.
WELL_KNOWN: dict[str, WellKnown] = {
    OPENAI: WellKnown("openai_chat", "OPENAI_API_KEY", "gpt-5.4-mini", "OPENAI_MODEL"),
    "anthropic": WellKnown("anthropic", "ANTHROPIC_API_KEY", "claude-haiku-5-5"),
    "google": WellKnown("google", "GEMINI_API_KEY", "gemini-3.8-flash"),
}
# The variable that holds the key of the server a kind calls when no address is given.
KEY_VARIABLES = {
    "openai_chat": "OPENAI_API_KEY",
    "openai_responses": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GEMINI_API_KEY",
}
KIND_ALIASES = {"openai": "openai_chat"}


class AvailableProvider(NamedTuple):
    """A provider a session may name. `key` is where its key comes from, None when it has none; `origin` is what makes
    it available: `built-in`, `env NAME` or the place in a file."""

    name: str
    kind: str
    base_url: str | None
    key: str | None
    options: dict[str, object]
    origin: str


def provider_names(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """Every provider a session may name, sorted."""
    from_environment = (name for name in WELL_KNOWN if _variable_of(name, environment) is not None)
    return sorted({*settings.names("providers"), LOOPBACK, *from_environment})


def default_provider(settings: Settings, environment: Mapping[str, str]) -> str:
    """The provider of a new session when none is named (design D13)."""
    if settings.default_provider is not None:
        return settings.default_provider
    return next((name for name in WELL_KNOWN if _variable_of(name, environment) is not None), LOOPBACK)


def _variable_of(name: str, environment: Mapping[str, str]) -> str | None:
    """The variable that makes a well-known provider available, None when none does."""
    variables = [WELL_KNOWN[name].key_variable, *([_OPENAI_BASE_URL] if name == OPENAI else [])]
    return next((variable for variable in variables if environment.get(variable)), None)


def require_provider(settings: Settings, environment: Mapping[str, str], name: str) -> str:
    """`name`, if it is a provider; raises `ProviderUnconfigured` otherwise."""
    known = provider_names(settings, environment)
    if name in known:
        return name
    if name in WELL_KNOWN:
        hint = f"set {WELL_KNOWN[name].key_variable}, or: lash provider add {name}"
    else:
        from lash_cli.core.nearest import did_you_mean

        hint, _ = did_you_mean(name, known, f"configured: {', '.join(known)}")
    raise ProviderUnconfigured(f"no provider {name!r} is configured", hint=hint, details={"provider": name})


def available_provider(settings: Settings, environment: Mapping[str, str], name: str) -> AvailableProvider:
    """The provider as it would be built. Raises `ProviderUnconfigured`."""
    require_provider(settings, environment, name)
    entry = settings.provider(name)
    options = entry.options if entry is not None else {}
    if name == LOOPBACK:
        return AvailableProvider(LOOPBACK, LOOPBACK, None, None, options, _origin(settings, name))
    if entry is None:
        entry = ProviderEntry(name, WELL_KNOWN[name].kind, None, None, {})
    if name == OPENAI and entry.base_url is None:
        entry = entry._replace(base_url=environment.get(_OPENAI_BASE_URL) or None)
    kind = KIND_ALIASES.get(entry.kind, entry.kind)
    variable = _variable_of(name, environment) if name in WELL_KNOWN else None
    origin = f"env {variable}" if settings.provider(name) is None else _origin(settings, name)
    return AvailableProvider(
        name, kind, entry.base_url, _key_source(entry._replace(kind=kind), environment), entry.options, origin
    )


def _origin(settings: Settings, name: str) -> str:
    """The place of the first of the provider's keys that is set."""
    origins = [origin for key, _, origin in settings.rows() if key.startswith(f"providers.{name}.")]
    return origins[0] if origins else "built-in"


def _key_source(entry: ProviderEntry, environment: Mapping[str, str]) -> str | None:
    """The configured source; without one the variable of the kind, but only for the server that variable is for."""
    if entry.key is not None:
        return entry.key
    variable = KEY_VARIABLES.get(entry.kind)
    if variable is None or not environment.get(variable):
        return None
    is_its_own = entry.name in WELL_KNOWN and WELL_KNOWN[entry.name].key_variable == variable
    return f"env:{variable}" if is_its_own or entry.base_url is None else None


def default_model(settings: Settings, environment: Mapping[str, str], provider: str) -> str | None:
    """The model of a new session when none is named, None when nothing says which."""
    if settings.default_model is not None:
        return settings.default_model
    if provider == LOOPBACK:
        return LOOPBACK
    known = WELL_KNOWN.get(provider)
    if known is None:
        return None
    named = environment.get(known.model_variable) if known.model_variable is not None else None
    return named or known.model
