"""Searches files for a regular expression in a process of its own; run as a script, standard library only.

Python's matcher holds the interpreter lock and cannot be interrupted, so a
pattern that backtracks without end would freeze the whole runtime. In a child
process it is simply killed, and takes no more memory than it may. Input (JSON
on stdin): `pattern`, `files` as [shown, real] pairs, `denied` as [device, inode]
pairs of what is not to be read, `limit`, `file_bytes`, `line_chars`. Output: one
JSON line per match `[shown, line, text]`, then one object: `is_cut` and how many
files were left out, or an `error`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from typing import Any

BINARY_PROBE_BYTES = 8192
# To grep and ripgrep a kind of characters, to Python a set of those very letters: it would find nothing, or the wrong.
_POSIX_CLASS = re.compile(
    r"(?<!\\)\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)


# A directory on the way to a file: to pass through it takes no right to read it.
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Directories:
    """Opens files by absolute path without following a link anywhere on it; keeps the last directory open, because
    files come sorted."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._descriptor = -1

    def open_file(self, path: str) -> int | None:
        """A descriptor for reading a regular file, which blocks on nothing; None for what is none, because to open it
        wakes who waits for a reader of a pipe. Raises `OSError`."""
        directory, _, name = path.rpartition("/")
        if directory != self._path:
            self.close()
            self._descriptor = _opened(directory)
            self._path = directory
        if not stat.S_ISREG(os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode):
            return None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self._descriptor)

    def close(self) -> None:
        """Let go of the directory that is kept."""
        if self._path is not None:
            self._path = None
            os.close(self._descriptor)


def _opened(directory: str) -> int:
    current = os.open("/", _DIRECTORY)
    for name in filter(None, directory.split("/")):
        try:
            following = os.open(name, _DIRECTORY, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


class LeftOut:
    """How many files were not searched, and why; those that are gone, links or no files at all are none."""

    def __init__(self) -> None:
        self.binary = 0
        self.large = 0
        self.unreadable = 0


def read_text(
    directories: Directories, path: str, denied: set[tuple[int, int]], file_bytes: int, left_out: LeftOut
) -> str | None:
    """The text of a regular file; None for one that is `left_out` or `denied`, and for what is no file."""
    try:
        descriptor = directories.open_file(path)
    except OSError as error:
        left_out.unreadable += error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
        return None
    if descriptor is None:
        return None
    try:
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) in denied:
                return None
            data = file.read(file_bytes + 1)
    except OSError:
        left_out.unreadable += 1
        return None
    if len(data) > file_bytes:
        left_out.large += 1
        return None
    if b"\0" in data[:BINARY_PROBE_BYTES]:
        left_out.binary += 1
        return None
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def matches(text: str, pattern: re.Pattern[str], line_chars: int) -> Iterator[tuple[int, str]]:
    """Numbered lines that contain the pattern, of a longer one than `line_chars` the stretch with its first match."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()  # a line feed ends a line, it does not begin one
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        found = pattern.search(line)
        if found is not None:
            yield number, _stretch(line, found, line_chars)


def _stretch(line: str, found: re.Match[str], line_chars: int) -> str:
    start = 0 if found.end() <= line_chars else max(0, min(found.start() - line_chars // 4, len(line) - line_chars))
    end = start + line_chars
    return f"{'...' if start else ''}{line[start:end]}{'...' if end < len(line) else ''}"


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
    left_out = LeftOut()
    directories = Directories()
    denied = {(device, inode) for device, inode in request["denied"]}
    for shown, real in request["files"]:
        text = read_text(directories, real, denied, request["file_bytes"], left_out)
        if text is None:
            continue
        for number, line in matches(text, pattern, request["line_chars"]):
            found += 1
            if found > request["limit"]:
                break
            yield [shown, number, line]
        if found > request["limit"]:
            break
    directories.close()
    yield {"is_cut": found > request["limit"], **vars(left_out)}


def main() -> None:
    """Serve the one request on stdin."""
    request = json.load(sys.stdin)
    try:
        for item in search(request):
            sys.stdout.write(json.dumps(item) + "\n")
            sys.stdout.flush()
    except MemoryError:
        print(json.dumps({"error": "it takes more memory than there is for it; nested groups that repeat do"}))


if __name__ == "__main__":
    main()
