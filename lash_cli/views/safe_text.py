"""Text from models, tools and files made harmless for a terminal (contract 08 §6.8).

Everything a terminal would obey — C0 and C1 controls with the escape sequences
they start, and the bidirectional overrides that reorder what follows — becomes
a visible escape. Line feeds and tabs stay. What is shown therefore reads the
same, and can neither move the cursor nor set a title nor hide a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

# Makes what came from a model, a tool or a user harmless; the identity where nothing can obey it.
Clean = Callable[[str], str]

# What a terminal obeys is never a printable character, so most text needs no pattern; the patterns are made when the
# first text does, because making one costs a short command more than all it prints (design D16).
# C0 except tab and line feed, DEL and C1, zero-width marks that reorder text, and lone surrogates.
_UNSAFE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
_UNSAFE_IN_LINE = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
# In JSON text these can only stand inside strings, where an escape means the same character.
_UNSAFE_IN_JSON = "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


@cache
def _pattern(characters: str) -> re.Pattern[str]:
    return re.compile(characters)


def safe_text(text: str) -> str:
    """`text` with every unsafe character as `\\xNN` or `\\uNNNN`; a carriage return before a line feed is dropped."""
    if text.isprintable():
        return text
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    return _pattern(_UNSAFE).sub(_visible, text)


def safe_line(text: str) -> str:
    """Like `safe_text`, for one line of a list: line feeds and tabs become visible too."""
    return text if text.isprintable() else _pattern(_UNSAFE_IN_LINE).sub(_visible, text)


def safe_json(text: str) -> str:
    """JSON text that decodes to the same value, has a UTF-8 form, and holds no character a terminal obeys."""
    if text.isprintable():
        return text
    return _pattern(_UNSAFE_IN_JSON).sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def preview(text: str, limit: int) -> str:
    """`text` on one line, cut to `limit` characters with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def ascii_text(text: str) -> str:
    """`text` with every character beyond ASCII as a visible escape, for `--ascii`."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


# Marks and lines of ours and of Rich, in characters that every terminal has.
_MARKS = str.maketrans({
    **dict.fromkeys("─╌┄", "-"), **dict.fromkeys("━═", "="), **dict.fromkeys("│┃▌", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┡┩╇╺╸", "+"),
    "·": "-", "•": "*", "…": "...", "↑": "Up", "↳": "-", "◆": "now", "◇": "next", "❯": ">", "▸": ">", "▶": "*",
})  # fmt: skip


def ascii_marks(text: str) -> str:
    """`text` with the marks that views draw as plain characters, wherever they stand."""
    return text if text.isascii() else text.translate(_MARKS)


def _visible(match: re.Match[str]) -> str:
    character = match.group()
    named = _NAMED.get(character)
    if named is not None:
        return named
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
