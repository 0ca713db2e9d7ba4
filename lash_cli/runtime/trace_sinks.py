"""Where trace records go: a file of JSON lines, stderr, or several sinks at once (contract 04 §9).

A sink takes one record at a time on the turn's path and never waits. It raises
what went wrong; the tracer above logs that and the turn goes on. Several
processes may share one file: every record is one write to an append-only
descriptor, so lines are never torn by each other.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lash_cli.core.trace import TraceRecord, TraceSink
from lash_cli.paths import PRIVATE_DIRECTORY_MODE, PRIVATE_FILE_MODE, is_stream

SHARED_BITS = 0o077  # of a file that was there before, whose mode is its owner's business
# How every record begins, and so every trace; what a blank line or a few may stand before.
_FIRST_BYTES = b'{"schema_version":'
_HEAD_BYTES = 64

_log = logging.getLogger("lash.trace")


class JsonlTraceSink:
    """One UTF-8 line per record in `path`, which is created, with its directories, by the first record (contract 04
    §9)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # the same file, wherever the program goes to
        self._descriptor: int | None = None
        self._place: tuple[int, int] | None = None  # device and inode, if it is a file
        self._is_torn = False

    def open(self) -> None:
        """Create and open the file now, to learn early whether that works; raises `OSError`, for a file that holds
        something else than a trace too."""
        if self._descriptor is None:
            is_readable = _require_trace(self.path)
            _make_private_directories(self.path.parent)
            # Without O_NONBLOCK a named pipe nobody reads would hold up the turn; it means nothing to a file.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(self.path, flags, PRIVATE_FILE_MODE)  # prompts and tool results are inside
            status = os.fstat(self._descriptor)
            self._place = (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
            self._is_torn = is_readable and _ends_within_a_line(self._descriptor, self.path)
            if self._place is not None and status.st_mode & SHARED_BITS:
                _log.warning("others can read the trace %s; it holds prompts and tool results: chmod 600", self.path)

    def append(self, record: TraceRecord) -> None:
        """Write the record's line with a single system call; raises `OSError` when it was not written whole. A file
        that was moved away or removed meanwhile is made anew."""
        if self._place is not None and self._place != _place_of(self.path):
            self.close()
        self.open()
        assert self._descriptor is not None
        # A line that a full disk or a kill cut short, here or in another process, is ended first, so that it does not
        # swallow the next record as well.
        line = (b"\n" if self._is_torn else b"") + record.line() + b"\n"
        written = os.write(self._descriptor, line)
        self._is_torn = written < len(line)
        if self._is_torn:
            raise OSError(f"only {written} of {len(line)} bytes of a trace record were written to {self.path}")

    def flush(self) -> None:
        """Sync the file to the disk; of a pipe or a device nothing is on one. A file that was never written to is not
        created."""
        if self._descriptor is not None and self._place is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; the next record opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = self._place = None


class StderrTraceSink:
    """One line per record on stderr (contract 04 §9)."""

    def append(self, record: TraceRecord) -> None:
        """Write the line at once."""
        sys.stderr.write(record.line().decode() + "\n")

    def flush(self) -> None:
        """Push out what stderr holds back."""
        sys.stderr.flush()

    def close(self) -> None:
        """Stderr is not ours to close."""


class TeeTraceSink:
    """Several sinks in order (contract 04 §9). One that fails does not keep a record from the others.

    The first failure of each sink is a warning, its later ones are logged for
    debugging only: a full disk fails with every record. Once `let_through` was
    called, the first failure is raised instead, after every sink was tried.
    """

    def __init__(self, sinks: Sequence[TraceSink]) -> None:
        self._sinks = tuple(sinks)
        self._failed: set[int] = set()
        self._is_strict = False

    def let_through(self) -> None:
        """Contain nothing any more, here and in tees behind this one: for the tests of a host (contract 05 §3.6)."""
        self._is_strict = True
        for sink in self._sinks:
            if isinstance(sink, TeeTraceSink):
                sink.let_through()

    def append(self, record: TraceRecord) -> None:
        """Give the record to every sink."""
        self._each("append", lambda sink: sink.append(record))

    def flush(self) -> None:
        """Flush every sink."""
        self._each("flush", lambda sink: sink.flush())

    def close(self) -> None:
        """Close every sink."""
        self._each("close", lambda sink: sink.close())

    def _each(self, what: str, act: Callable[[TraceSink], None]) -> None:
        first: Exception | None = None
        for number, sink in enumerate(self._sinks):
            try:
                act(sink)
            except Exception as error:  # noqa: BLE001 - contract 04 §9: try all sinks, log failures
                if self._is_strict:
                    first = first or error
                    continue
                level = logging.DEBUG if number in self._failed else logging.WARNING
                self._failed.add(number)
                _log.log(level, "trace sink %s failed to %s: %s", type(sink).__name__, what, error)
        if first is not None:
            raise first


def _place_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of what has this name now; None for nothing."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _require_trace(path: Path) -> bool:
    """Whether there is a file that we may read. Raises `FileExistsError` where it holds something else than a trace,
    which would be spoilt. What a descriptor leads to, as /dev/stderr does, is chosen by who opened it."""
    if is_stream(str(path)) or not path.is_file() or not os.access(path, os.R_OK):
        return False
    with open(path, "rb") as file:
        begin = file.read(_HEAD_BYTES).lstrip()[: len(_FIRST_BYTES)]
    if not _FIRST_BYTES.startswith(begin):
        raise FileExistsError(errno.EEXIST, "it is there, and is no trace")
    return True


def _ends_within_a_line(descriptor: int, path: Path) -> bool:
    """Whether a trace was left in the middle of a line. That of another process which is being written looks alike,
    but grows: to set the time of a file waits for a write under way."""
    with open(path, "rb") as file:
        while True:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read(1) in (b"", b"\n"):
                return False
            os.utime(descriptor)
            if os.fstat(descriptor).st_size == size:
                return True


def _make_private_directories(directory: Path) -> None:
    """Create what is missing of `directory`, every new level with mode 0700; `os.makedirs` guards only the last."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for level in reversed(missing):
        level.mkdir(mode=PRIVATE_DIRECTORY_MODE, exist_ok=True)
