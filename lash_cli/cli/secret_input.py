"""How a key gets in: a hidden prompt or stdin, and never an argument (contract 08 §6.8)."""

from __future__ import annotations

import sys
from typing import Any

from typer.core import TyperCommand

from lash_cli.cli.invocation import current
from lash_cli.errors import UsageError


class KeylessCommand(TyperCommand):
    """Refuses what nobody asked for as an argument, since it may be a key, before the parser could repeat it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; raises `UsageError` for one argument too many."""
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if ctx.args:
            raise UsageError(
                "a key is never given as an argument: others can see it in the process list",
                hint="use the hidden prompt, or --stdin",
            )
        return rest


def read_key(name: str, *, from_stdin: bool, command: str) -> str:
    """The key of `name` from stdin or a hidden prompt; `command` is what to type to pipe it in.

    Raises `UsageError`, `not_a_tty` when there is no terminal to ask.
    """
    if from_stdin:
        from lash_cli.cli.stdin import read_secret

        return read_secret()
    if not current().can_ask:
        raise UsageError(
            "there is no terminal to ask for the key", code="not_a_tty", hint=f"pipe it in: {command} --stdin"
        )
    import getpass

    try:
        return getpass.getpass(f"key for {name} (not shown): ", stream=sys.stderr)
    except EOFError:
        raise UsageError("no key was given; nothing was stored") from None
