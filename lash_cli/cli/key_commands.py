"""`lash key set|ls|rm|test|path` (contract 08 §6.8): a key comes in by a hidden prompt or stdin and never goes out."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_many, emit_one, say
from lash_cli.cli.secret_input import KeylessCommand, read_key
from lash_cli.errors import ConfigError, LashError, NotFoundError, UsageError
from lash_cli.settings import keys
from lash_cli.settings.providers import LOOPBACK, WELL_KNOWN, default_provider, provider_names
from lash_cli.settings.redact import redact, remember

_TOKEN_LENGTH = 20  # no name is this long by accident
_PLACES: dict[str, keys.Place] = {"file": "file", "keyring": "keyring"}

command_class = KeylessCommand


def set_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it, such as openai.")],
    from_stdin: Annotated[bool, typer.Option("--stdin", help="Read the key from stdin.")] = False,
    place: Annotated[
        str | None, typer.Option("--in", metavar="file|keyring", help="Where to keep it; see above.")
    ] = None,
) -> int:
    """Store an API key, from a hidden prompt or with --stdin.

    With the extra lash-cli[keyring] and a keyring that works it is kept there,
    otherwise in keys.toml, which only you can read. Use it as key =
    "keyring:NAME" or "keys:NAME" of a provider.
    """
    if place is not None and place not in _PLACES:
        raise UsageError(f"--in takes file or keyring, got {place!r}")
    keys.check_name(name)
    replaced = keys.read_stored(current().paths).source(name) is not None
    value = read_key(name, from_stdin=from_stdin, command=f"lash key set {name}")
    source = keys.store_key(current().paths, name, value, place=_PLACES[place] if place is not None else None)
    emit_one("Key", _document(name, source, replaced=replaced), text="")
    say(f"{'replaced' if replaced else 'stored'} key {name}; use it with: {_use_of(name, source)}")
    return 0


def _use_of(name: str, source: str) -> str:
    """The command that gives the key to the provider of that name, which may have to be added."""
    settings, environment = current().settings, current().environment
    if name in provider_names(settings, environment):
        return f"lash config set providers.{name}.key {source}"
    address = "" if name in WELL_KNOWN else " --base-url URL"
    default = " --default" if default_provider(settings, environment) == LOOPBACK else ""
    return f"lash provider add {name}{address} --key {source}{default}"


def list_keys() -> int:
    """List stored keys and the key sources of providers: name, source and the last four characters.

    A key in the keyring is not looked at, and no command is run.
    """
    invocation = current()
    stored = keys.read_stored(invocation.paths)
    items = [_row(name, f"keys:{name}", value) for name, value in sorted(stored.in_file.items())]
    items += [_row(name, f"keyring:{name}", None) for name in sorted(stored.in_keyring)]
    items += _provider_rows({item["source"] for item in items})
    for name, known in WELL_KNOWN.items():
        source = f"env:{known.key_variable}"
        if os.environ.get(known.key_variable) and source not in {item["source"] for item in items}:
            items.append(_row(name, source, os.environ[known.key_variable]))
    emit_many("KeyList", items, columns=("name", "source", "last_four"), id_field="name")
    return 0


def _provider_rows(listed: set[str]) -> list[Document]:
    """Sources configured for providers. Only those that cost nothing to look at are read: never a command."""
    settings = current().settings
    rows: list[Document] = []
    for name in settings.names("providers"):
        entry = settings.provider(name)
        if entry is None or entry.key is None or entry.key in listed:
            continue
        scheme, _, place = entry.key.partition(":")
        value = os.environ.get(place) if scheme == "env" else None
        rows.append(_row(name, entry.key, value))
    return rows


def _document(name: str, source: str, *, replaced: bool | None = None, removed: bool | None = None) -> Document:
    return {"id": name, "name": name, "source": source, "replaced": replaced, "removed": removed}


def _row(name: str, source: str, value: str | None) -> Document:
    return {"name": name, "source": redact(source), "last_four": keys.last_four(value) if value else None}


def test(name: Annotated[str, typer.Argument(metavar="NAME", help="A stored key, or a provider.")]) -> int:
    """Fetch a key from where it is kept, and show only how it ends.

    A key command is run and a keyring is asked, but no server: whether a
    provider takes the key tells lash provider test.
    """
    from lash_cli.settings.providers import available_provider, provider_names

    invocation = current()
    source = keys.read_stored(invocation.paths).source(name)
    if source is None and name in provider_names(invocation.settings, invocation.environment):
        source = available_provider(invocation.settings, invocation.environment, name).key
        if source is None:
            raise ConfigError(
                f"provider {name!r} has no key", code="key_missing", hint=f"lash config set providers.{name}.key SOURCE"
            )
    if source is None:
        if len(name) >= _TOKEN_LENGTH:
            remember(name)  # somebody pasted the key itself; do not repeat it
        raise NotFoundError(
            f"no key and no provider {name!r}", code="key_not_found", hint="list them with: lash key ls"
        )
    value = keys.fetch_key(source, invocation.paths, invocation.environment, wanted_by=f"key {name}")
    document = {"id": name, "name": name, "source": redact(source), "last_four": keys.last_four(value)}
    emit_one("KeyTest", document, text=f"{redact(source)} has a key that ends with {document['last_four']}")
    return 0


def path() -> int:
    """Print the file that stored keys are in, whether it exists or not."""
    place = current().paths.keys_file
    emit_one("KeyPath", {"id": place, "file": place, "exists": os.path.exists(place)}, text=place)
    return 0


def remove_key(name: Annotated[str, typer.Argument(metavar="NAME", help="As `lash key ls` shows it.")]) -> int:
    """Forget a stored key, in the file or in the keyring."""
    current().stand_alone()
    try:
        source = keys.forget_key(current().paths, name)
    except LashError:
        if len(name) >= _TOKEN_LENGTH:
            remember(name)  # somebody pasted the key itself; do not repeat it
        raise
    emit_one("Key", _document(name, source, removed=True), text="")
    say(f"removed key {name}")
    return 0
