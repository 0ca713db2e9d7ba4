"""TOML as people write it, read whole or refused with a place (contract 08 §6.7).

Python's reader has two more ways to end than the error it documents: a number
of thousands of digits and brackets nested by the hundred. A file of a user must
not end a command in either; here all of them are one error.
"""

from __future__ import annotations

import re
from typing import Any

# More digits than Python makes a number of (`sys.set_int_max_str_digits`).
_ENDLESS_NUMBER = re.compile(r"[0-9_]{4301,}")


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of `text`; raises `ValueError`, which says where, for anything else."""
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:
        found = _ENDLESS_NUMBER.search(text)
        raise ValueError(_at("Number of too many digits", text, found.start() if found else 0)) from error
    except RecursionError as error:
        deepest = max(text.splitlines(keepends=True), key=lambda line: line.count("[") + line.count("{"))
        raise ValueError(_at("Nested too deeply", text, text.index(deepest))) from error


def _at(message: str, text: str, position: int) -> str:
    """As the reader words it."""
    before = text[:position]
    return f"{message} (at line {before.count(chr(10)) + 1}, column {position - before.rfind(chr(10))})"
