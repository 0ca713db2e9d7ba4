"""`lash config show|path|set` (contract 08 §6.7)."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_many, emit_one, say
from lash_cli.errors import UsageError
from lash_cli.settings.redact import MASK, redact


def show(
    origin: Annotated[bool, typer.Option("--origin", help="Also show where each value came from.")] = False,
) -> int:
    """Show every configuration key with the value in force.

    Flags win over -c, then the environment, the project file, the profile, the
    user's file and the built-in defaults.
    """
    items: list[Document] = [
        {"id": key, "key": key, "value": _shown(key, value), "origin": came_from}
        for key, value, came_from in current().settings.rows()
    ]
    emit_many("ConfigList", items, columns=("key", "value", "origin") if origin else ("key", "value"))
    return 0


def _shown(key: str, value: Any) -> Any:
    """A value as it may be shown: whole headers are masked, since they carry credentials."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: _shown_option(name, item) for name, item in value.items()}
    return value


def _shown_option(name: str, value: Any) -> Any:
    if name == "headers" and isinstance(value, dict):
        return dict.fromkeys(value, MASK)
    return _shown(name, value)


def path() -> int:
    """Show where lash keeps its files, whether they exist or not."""
    emit_one("Paths", {"id": current().paths.config_file, **current().paths.rows()}, text=_paths_text())
    return 0


def _paths_text() -> str:
    from lash_cli.views.tables import pairs

    return pairs([(name, place or "-") for name, place in current().paths.rows().items()])


def set_value(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as defaults.model.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="A text, number, true, false or [list].")],
) -> int:
    """Write one value into the user's configuration file.

    Everything else in the file stays as it is. A key of a provider is never
    written here, only where it is kept: keys:NAME, env:NAME, file:PATH,
    cmd:COMMAND or keyring:NAME.
    """
    from lash_cli.settings import editing

    if key.startswith("profiles."):
        raise UsageError("a profile is edited in the file itself", hint=f"edit {current().paths.config_file}")
    stored = editing.set_value(current().paths, key, value)
    document = {"id": key, "key": key, "value": _shown(key, stored), "file": current().paths.config_file}
    emit_one("ConfigValue", document, text="")
    say(f"set {key} in {current().paths.config_file}")
    return 0
