"""The provider of a program that embeds lash, from a few words (contract 06 §3.1).

The command reads providers from its configuration (`wiring`); a program names
one here. Nothing is read from the environment or from a file.
"""

from __future__ import annotations

from typing import Any

from lash_cli.core.protocols import Clock, Ids, ModelCaller
from lash_cli.errors import ConfigError
from lash_cli.providers.catalog import ProviderSettings, build_caller
from lash_cli.system import clock_of, ids_of


def provider(
    kind: str,
    *,
    name: str | None = None,
    base_url: str | None = None,
    key: str | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    **options: Any,
) -> ModelCaller:
    """A model provider behind its retry ladder, for `LashCore(provider=...)` (contract 06 §3.1). Opens nothing.

    `kind` is one of those of `lash help providers`: `anthropic`, `google`, `loopback`, `openai_chat` (any server that
    speaks that wire, by its `base_url`) or `openai_responses`. `name` is what sessions remember it by, the kind unless
    given. `options` are the options of a configured provider, under the same names, such as `max_attempts`. `clock` and
    `ids` are those of the machine unless given. Raises `ConfigError`: `config_invalid` for an unknown kind or
    option, `invalid_provider_endpoint`, and `key_missing` for an address that answers nobody without a key.
    """
    settings = ProviderSettings(name or kind, kind, base_url, key, options)
    try:
        return build_caller(settings, clock=clock_of(clock), ids_bits=ids_of(ids).bits)
    except ConfigError as error:
        if error.code == "key_missing":
            # The hint of the command names a variable that nobody reads here.
            error.hint = f"pass it: provider({kind!r}, key=…), or the base_url of a server that needs none"
        raise
