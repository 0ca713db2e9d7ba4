"""One writer at a time for what is read, changed and replaced: configuration, keys, trust (contract 08 §6.7).

Each of them is replaced whole, so of two commands that read the same content
the later one would undo what the earlier one said it did. The directory is
what is locked, because the file itself is another one afterwards; the lock
goes with its process, whatever ends it.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Concatenate, ParamSpec, TypeVar

from lash_cli.errors import StoreLocked
from lash_cli.paths import Paths, ensure_private_directory, unusable_path

# As long as a writer of the database waits; a change itself takes milliseconds, one in a keyring may take seconds.
WAIT_SECONDS = 15.0
_NAP_SECONDS = 0.01

_P = ParamSpec("_P")
_R = TypeVar("_R")


def one_writer(
    file: Callable[[Paths], str], *, may_begin: bool
) -> Callable[[Callable[Concatenate[Paths, _P], _R]], Callable[Concatenate[Paths, _P], _R]]:
    """Let nobody else change the file that `file` names while the function reads and replaces it.

    `may_begin` says that the function makes the file where there is none; one
    that does not has nothing to lock without its directory. What is decorated
    raises `StoreLocked` when another change takes longer than 15 seconds, and
    as `unusable_path` for a directory that cannot be made or opened.
    """

    def decorate(change: Callable[Concatenate[Paths, _P], _R]) -> Callable[Concatenate[Paths, _P], _R]:
        @functools.wraps(change)
        def alone(paths: Paths, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
            with only_writer(file(paths), may_begin=may_begin):
                return change(paths, *args, **kwargs)

        return alone

    return decorate


@contextmanager
def only_writer(file: str, *, may_begin: bool) -> Iterator[None]:
    """See `one_writer`."""
    directory = os.path.dirname(file)
    was_there = os.path.isdir(directory)
    if not was_there:
        if not may_begin:
            yield
            return
        ensure_private_directory(directory)
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unusable_path(directory, error, "open the directory") from error
    try:
        _lock(descriptor, file)
        yield
    except BaseException:
        if not was_there:
            with suppress(OSError):  # somebody began something in it meanwhile
                os.rmdir(directory)
        raise
    finally:
        os.close(descriptor)


def _lock(descriptor: int, file: str) -> None:
    import fcntl

    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreLocked(f"another process keeps changing {file}; nothing was written") from None
            time.sleep(_NAP_SECONDS)
        except OSError as error:
            raise unusable_path(file, error, "lock") from error
