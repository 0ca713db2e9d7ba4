"""Numbers as the command line takes them: plain digits, as every other program reads them (contract 08 §5.1)."""

from __future__ import annotations

from typing import Any


def plain(text: str) -> str:
    """`text` as it is. Raises `ValueError` for what only Python reads as a number: `1_000`, digits beyond ASCII."""
    if not text.isascii() or "_" in text or text != text.strip():
        raise ValueError(text)
    return text


def read_plainly(kind: Any) -> None:
    """Let the parser take only plain digits for `kind`, its type of a whole number."""
    convert = kind.convert

    def converted(value: Any, parameter: Any, context: Any) -> Any:
        try:
            number = int(plain(value)) if isinstance(value, str) else value
        except ValueError:
            kind.fail(f"{value!r} is not a whole number", parameter, context)
        return convert(number, parameter, context)

    kind.convert = converted
