"""`lash config show|get|set|unset|path|schema` (contract 08 §6.7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_many, emit_one, say
from lash_cli.errors import UsageError
from lash_cli.settings.redact import masked


def show(
    origin: Annotated[bool, typer.Option("--origin", help="Also show where each value came from.")] = False,
) -> int:
    """Show every configuration key with the value in force.

    Flags win over -c, then the environment, the project file, the profile, the
    user's file and the built-in defaults.
    """
    items: list[Document] = [
        {"id": key, "key": key, "value": masked(value), "origin": came_from}
        for key, value, came_from in current().settings.rows()
    ]
    emit_many("ConfigList", items, columns=("key", "value", "origin") if origin else ("key", "value"))
    return 0


def get(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as defaults.model.")],
    origin: Annotated[bool, typer.Option("--origin", help="Also show where the value came from.")] = False,
) -> int:
    """Show the value of one key that is in force; nothing when it has none."""
    from lash_cli.settings.editing import unknown_key
    from lash_cli.settings.schema import UnknownKey, find_option

    settings = current().settings
    try:
        _, base, inside = find_option(key)
    except UnknownKey as error:
        raise unknown_key(error, key) from error
    value = masked(settings.get(base))
    for name in inside:
        value = value.get(name) if isinstance(value, dict) else None
    document = {"id": key, "key": key, "value": value, "origin": settings.origin(base)}
    emit_one("ConfigEntry", document, text=_value_text(document, with_origin=origin), name=_plain(value))
    return 0


def _value_text(document: Document, *, with_origin: bool) -> str:
    from lash_cli.views.safe_text import safe_text

    text = safe_text(_plain(document["value"]))
    return f"{text}  ({safe_text(document['origin'])})".lstrip() if with_origin else text


def _plain(value: Any) -> str:
    """A text as it is, anything else as TOML writes it."""
    from lash_cli.settings.editing import literal

    return "" if value is None else value if isinstance(value, str) else literal(value)


def unset(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as defaults.model, or models.quick for a table.")],
) -> int:
    """Take one key, or one table you named, out of the user's configuration file.

    What is in force then is the next in line; see it with: lash config get KEY
    """
    current().stand_alone()
    from lash_cli.settings import editing

    paths = current().paths
    editing.unset_value(paths, key)
    emit_one("ConfigRemoved", {"id": key, "key": key, "file": paths.config_file}, text="")
    say(f"took {key} out of {paths.config_file}")
    return 0


def schema() -> int:
    """Print the JSON Schema of the configuration file, for editors that check TOML with one."""
    current().stand_alone()
    import json

    from lash_cli.cli.output import to_json, write_line
    from lash_cli.settings.json_schema import config_schema

    options = current().output
    if options.is_chosen_from:
        raise UsageError("a schema is printed whole", hint="choose from it with: lash config schema | jq .properties")
    document = config_schema()
    write_line(to_json(document) if options.is_machine else json.dumps(document, indent=2))
    return 0


def path() -> int:
    """Show where lash keeps its files, whether they exist or not."""
    current().stand_alone()
    emit_one("Paths", {"id": current().paths.config_file, **current().paths.rows()}, text=_paths_text())
    return 0


def _paths_text() -> str:
    from lash_cli.views.tables import pairs

    return pairs([(name, place or "-") for name, place in current().paths.rows().items()])


def _check_of(key: str) -> Callable[[Any], None] | None:
    """What judges the value of a key of the chat before it is written; None for every other setting."""
    *_, section, table, action = ("", "", *key.split("."))
    if (section, table) != ("repl", "keys"):
        return None
    from lash_cli.repl.bindings import check_keys

    return lambda keys: check_keys({action: keys})


def set_value(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as defaults.model.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="A text, number, true, false or [list].")],
) -> int:
    """Write one value into the user's configuration file.

    Everything else in the file stays as it is. A key of a provider is never
    written here, only where it is kept: keys:NAME, env:NAME, file:PATH,
    cmd:COMMAND or keyring:NAME. A key of a profile is profiles.NAME.KEY.
    """
    current().stand_alone()
    from lash_cli.settings import editing

    stored = editing.set_value(current().paths, key, value, check=_check_of(key))
    document = {"id": key, "key": key, "value": masked(stored), "file": current().paths.config_file}
    emit_one("ConfigValue", document, text="")
    say(f"set {key} in {current().paths.config_file}")
    return 0
