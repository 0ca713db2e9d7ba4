"""What to do about a key that a provider refused (contract 08 §6.4, §6.8): it depends on where the key is kept."""

from __future__ import annotations

from lash_cli.cli.invocation import current
from lash_cli.errors import ConfigError
from lash_cli.settings.providers import AvailableProvider, available_provider


def key_hint_of(name: str | None) -> str:
    """The next step for the provider of that name, as it is configured here; None is one that is not known."""
    invocation = current()
    try:
        provider = available_provider(invocation.settings, invocation.environment, name or "")
    except ConfigError:
        return f"set a valid key with: lash key set {name or 'PROVIDER'}"
    return key_hint(provider)


def key_hint(provider: AvailableProvider) -> str:
    """The next step for `provider`."""
    scheme, _, place = (provider.key or "").partition(":")
    match scheme:
        case "keys" | "keyring":
            return f"store a key that is valid here: lash key set {place}"
        case "env":
            return f"set {place} to a key that is valid here"
        case "file":
            return f"put a key that is valid here into {place}"
        case "cmd":
            return "let the key command print a key that is valid here"
    setting = f"lash config set providers.{provider.name}.key keys:{provider.name}"
    return f"this server wants a key: lash key set {provider.name}, then: {setting}"
