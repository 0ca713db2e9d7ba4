"""`lash key set|ls|rm` (contract 08 §6.8): a key comes in by a hidden prompt or stdin and never goes out again."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lash_cli.cli.invocation import current
from lash_cli.cli.output import Document, emit_many, emit_one, say
from lash_cli.errors import LashError, UsageError
from lash_cli.settings import keys
from lash_cli.settings.redact import remember

_LONGEST_KEY_BYTES = 64 * 1024
_TOKEN_LENGTH = 20  # no name is this long by accident


class KeyCommand(TyperCommand):
    """Refuses a key given as an argument before the parser could repeat it in an error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse at most one positional argument. Raises `UsageError`."""
        positional = [argument for argument in args if not argument.startswith("-")]
        if len(positional) > 1:
            raise UsageError(
                "a key is never given as an argument: others can see it in the process list",
                hint="use the hidden prompt, or --stdin",
            )
        return super().parse_args(ctx, args)


command_class = KeyCommand


def set_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it, such as openai.")],
    from_stdin: Annotated[bool, typer.Option("--stdin", help="Read the key from stdin.")] = False,
) -> int:
    """Store an API key, from a hidden prompt or with --stdin.

    The key is kept in keys.toml, which only you can read. Use it as
    key = "keys:NAME" of a provider.
    """
    keys.check_name(name)
    replaced = name in keys.read_keys(current().paths)
    keys.store_key(current().paths, name, _read_stdin() if from_stdin else _ask(name))
    emit_one("Key", _document(name, replaced=replaced), text="")
    say(f"{'replaced' if replaced else 'stored'} key {name}; use it with: lash config set providers.{name}.key "
        f"keys:{name}")  # fmt: skip
    return 0


def _read_stdin() -> str:
    from lash_cli.cli.stdin import read_secret

    return read_secret(_LONGEST_KEY_BYTES)


def _ask(name: str) -> str:
    if not current().can_ask:
        raise UsageError(
            "there is no terminal to ask for the key", code="not_a_tty", hint=f"pipe it in: lash key set {name} --stdin"
        )
    import getpass

    try:
        return getpass.getpass(f"key for {name} (not shown): ", stream=sys.stderr)
    except EOFError:
        raise UsageError("no key was given; nothing was stored") from None


def list_keys() -> int:
    """List stored keys and the key sources of providers: name, source and the last four characters."""
    invocation = current()
    stored = keys.read_keys(invocation.paths)
    items = [_row(name, f"keys:{name}", value) for name, value in sorted(stored.items())]
    items += _provider_rows(stored)
    if os.environ.get("OPENAI_API_KEY"):
        items.append(_row("openai", "env:OPENAI_API_KEY", os.environ["OPENAI_API_KEY"]))
    emit_many("KeyList", items, columns=("name", "source", "last_four"), id_field="name")
    return 0


def _provider_rows(stored: dict[str, str]) -> list[Document]:
    """Sources configured for providers. Only those that cost nothing to look at are read: never a command."""
    settings = current().settings
    rows: list[Document] = []
    for name in settings.names("providers"):
        entry = settings.provider(name)
        if entry is None or entry.key is None or entry.key.removeprefix("keys:") in stored:
            continue
        scheme, _, place = entry.key.partition(":")
        value = os.environ.get(place) if scheme == "env" else None
        rows.append(_row(name, entry.key, value))
    return rows


def _document(name: str, *, replaced: bool | None = None, removed: bool | None = None) -> Document:
    return {"id": name, "name": name, "source": f"keys:{name}", "replaced": replaced, "removed": removed}


def _row(name: str, source: str, value: str | None) -> Document:
    return {"name": name, "source": source, "last_four": keys.last_four(value) if value else None}


def remove_key(name: Annotated[str, typer.Argument(metavar="NAME", help="As `lash key ls` shows it.")]) -> int:
    """Forget a stored key."""
    try:
        keys.forget_key(current().paths, name)
    except LashError:
        if len(name) >= _TOKEN_LENGTH:
            remember(name)  # somebody pasted the key itself; do not repeat it
        raise
    emit_one("Key", _document(name, removed=True), text="")
    say(f"removed key {name}")
    return 0
