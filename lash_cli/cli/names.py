"""Which texts can be names of sessions (contract 08 §4)."""

from __future__ import annotations

from lash_cli.errors import UsageError

LONGEST_NAME = 128


def require_name(text: str | None) -> None:
    """Raise `UsageError` for a name that would not fit into a listing or could not be given on a command line."""
    if text is None:
        return
    is_word = bool(text) and text.isprintable() and text == text.strip() and len(text) <= LONGEST_NAME
    if not is_word or text.startswith(("@", "-")):
        raise UsageError(
            f"{text!r} cannot be a session's name",
            hint=f"use up to {LONGEST_NAME} printable characters without spaces around them, not beginning with @",
        )
