"""Searches files for a regular expression in a process of its own; run as a script, standard library only.

Python's matcher holds the interpreter lock and cannot be interrupted, so a
pattern that backtracks without end would freeze the whole runtime. In a child
process it is simply killed. Input (JSON on stdin): `pattern`, `files` as
[shown, real] pairs, `limit`, `file_bytes`, `line_chars`. Output: one JSON line
per match `[shown, line, text]`, then one object: `is_cut` or an `error`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

BINARY_PROBE_BYTES = 8192
# To grep and ripgrep a kind of characters, to Python a set of those very letters: it would find nothing, or the wrong.
_POSIX_CLASS = re.compile(
    r"(?<!\\)\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)


def read_text(path: str, file_bytes: int) -> str | None:
    """The text of a regular file without following a link; None for binary, oversized or unreadable files."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if os.fstat(descriptor).st_size > file_bytes:
                return None
            data = file.read(file_bytes + 1)
    except OSError:
        return None
    if len(data) > file_bytes or b"\0" in data[:BINARY_PROBE_BYTES]:
        return None
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def matches(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Numbered lines that contain the pattern."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if pattern.search(line):
            yield number, line


def search(request: dict[str, Any]) -> Iterator[Any]:
    """The output lines of one request, in order."""
    posix = _POSIX_CLASS.search(request["pattern"])
    if posix is not None:
        yield {"error": f"{posix[0]} is no class of Python's; write what it stands for, such as [A-Za-z] or \\s"}
        return
    try:
        pattern = re.compile(request["pattern"])
    except (re.error, OverflowError, RecursionError) as error:
        yield {"error": str(error)}
        return
    found = 0
    for shown, real in request["files"]:
        text = read_text(real, request["file_bytes"])
        if text is None:
            continue
        for number, line in matches(text, pattern):
            found += 1
            if found > request["limit"]:
                yield {"is_cut": True}
                return
            yield [shown, number, line[: request["line_chars"]]]
    yield {"is_cut": False}


def main() -> None:
    """Serve the one request on stdin."""
    for item in search(json.load(sys.stdin)):
        sys.stdout.write(json.dumps(item) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
