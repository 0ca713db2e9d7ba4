"""Which texts can be names and ids of sessions, and ids of turns (contract 08 §4)."""

from __future__ import annotations

from lash_cli.core.ids import is_session_id
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


def require_id(text: str, what: str = "session id") -> None:
    """Raise `UsageError` for a text that cannot be the id of a session, or of `what` is named in the same way."""
    if not is_session_id(text):
        raise UsageError(
            f"{text!r} cannot be a {what}",
            hint=f"use up to {LONGEST_NAME} letters, digits, '.', '_', ':' or '-', beginning with a letter or digit",
        )
