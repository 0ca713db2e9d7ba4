"""Configuration, keys and what must never be printed (contract 08 §6.6–§6.8).

`schema` says which keys exist and what they hold, `loading` merges flags,
environment and files into one `Settings` that knows where each value came from,
`editing` writes one value back, `keys` turns a key source into a key at the
moment a provider is built, and `redact` keeps keys out of everything shown.
"""

from lash_cli.settings.loading import load_settings
from lash_cli.settings.values import ModelEntry, ProviderEntry, Settings

__all__ = ["ModelEntry", "ProviderEntry", "Settings", "load_settings"]
