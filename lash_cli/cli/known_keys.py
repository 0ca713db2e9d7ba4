"""Every key this machine uses, made known to the redactor (contract 08 §6.8)."""

from __future__ import annotations

from lash_cli.cli.invocation import current
from lash_cli.settings.redact import remember, remember_credentials


def load_known_keys() -> None:
    """Let the redactor know every key this machine uses. No command is run and no keyring asked."""
    from lash_cli.settings.keys import read_keys
    from lash_cli.settings.providers import WELL_KNOWN

    invocation = current()
    read_keys(invocation.paths)
    variables = {known.key_variable for known in WELL_KNOWN.values()}
    for name in invocation.settings.names("providers"):
        scheme, _, variable = str(invocation.settings.get(f"providers.{name}.key") or "").partition(":")
        if scheme == "env":
            variables.add(variable.strip())
        entry = invocation.settings.provider(name)
        if entry is not None:
            remember_credentials(entry.options)
    for variable in variables:
        remember(invocation.environment.get(variable, "").strip())
