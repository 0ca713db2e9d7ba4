"""Names and paths inside commands that are shown to be typed or pasted (contract 08 §6.2, §7.5).

A name may hold spaces and whatever else is printable, also that of a session
somebody else exported: a command that shows one must mean that session in a
shell and do nothing else.
"""

from __future__ import annotations

from typing import Final

_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./_-")


def shell_word(text: str) -> str:
    """`text` as one word of a POSIX command line."""
    if text and _PLAIN.issuperset(text):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"
