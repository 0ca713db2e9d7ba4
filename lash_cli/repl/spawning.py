"""Running another program for a chat: keeping what it says, and giving it a text to edit (contract 08 §7.2, §7.3)."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, cast

from lash_cli import umask
from lash_cli.errors import LashRuntimeError
from lash_cli.foreground import left_to_another
from lash_cli.paths import unusable_path
from lash_cli.views.safe_text import safe_text

SECONDS = 600.0
KEPT_CHARS = 200_000
# How long a program that has the terminal may take to give it back.
END_SECONDS = 5.0


class Said(NamedTuple):
    """How a program ended and what it said, safe for a terminal."""

    status: int
    text: str


async def said_by(command: Sequence[str]) -> Said:
    """Run `command` without a keyboard; it is killed, with what it started, when it takes too long or is not waited for
    any more.

    Raises `LashRuntimeError` (`command_not_started`).
    """
    process = await _started(command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    try:
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate()
    except TimeoutError:
        return Said(124, f"killed after {SECONDS:.0f} s\n")
    finally:
        if process.returncode is None:
            _signal(process, signal.SIGKILL)
            # It counts as ended when nobody can write what it says any more, and a daemon it started still could.
            process._transport.close()  # type: ignore[attr-defined]  # nothing public gives its pipe up
            await process.wait()
    text = safe_text(said.decode("utf-8", "replace"))
    if len(text) > KEPT_CHARS:
        text = f"{text[:KEPT_CHARS]}\n({len(text) - KEPT_CHARS} more characters are not shown)\n"
    return Said(process.returncode or 0, text)


async def at_terminal(command: Sequence[str], over: asyncio.Event) -> int:
    """Give the terminal to `command` and return its exit status; when `over` is set, or it is not waited for any more,
    it is told to end, with what it started, and killed when it does not.

    Raises `LashRuntimeError` (`command_not_started`).
    """
    with left_to_another(signal.SIGQUIT):
        process = await _started(command)
        waits = [asyncio.ensure_future(wait) for wait in (process.wait(), over.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            if process.returncode is None:
                _signal(process, signal.SIGTERM)
                try:
                    async with asyncio.timeout(END_SECONDS):
                        await process.wait()
                except TimeoutError:
                    _signal(process, signal.SIGKILL)
                    await process.wait()
    return cast("int", process.returncode)


def _signal(process: Process, number: signal.Signals) -> None:
    """Signal a program that was not waited for yet, and whatever it started that did not leave it: a shell that ends
    leaves its commands running, and one whose command ends begins the next, so who started something is the first to be
    told. They are in our own process group, which has the terminal, so it cannot be signalled as one. Without /proc
    only the program itself is."""
    for pid in (process.pid, *_descendants(process.pid)):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants(pid: int) -> tuple[int, ...]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if fields := file.read().rpartition(b")")[2].split():
                    children.setdefault(int(fields[1]), []).append(int(name))
    found = children.get(pid, [])
    for child in found:  # which grows meanwhile
        found += children.pop(child, [])
    return tuple(found)


async def _started(
    command: Sequence[str], *, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
) -> Process:
    try:
        mask = umask.of_user()
        return await asyncio.create_subprocess_exec(
            *command, stdin=stdin, stdout=stdout, stderr=stderr, umask=-1 if mask is None else mask
        )
    except (OSError, ValueError) as error:
        raise LashRuntimeError("command_not_started", f"cannot start {command[0]}: {error}") from error


@contextmanager
def private_copy(text: str, directory: str) -> Iterator[str]:
    """The path of a file with `text` that only its owner can read; it is removed at the end. Raises as
    `unusable_path` where it cannot be written."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="draft-", suffix=".md", dir=directory)
    except OSError as error:
        raise unusable_path(directory, error, "write to") from error
    try:
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise unusable_path(directory, error, "write to") from error
        yield path
    finally:
        with suppress(FileNotFoundError):  # an editor may have taken it away
            os.unlink(path)


def text_of(path: str) -> str | None:
    """What an editor left in a file, without the line feed that editors add; None when it left no file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().removesuffix("\n")
    except FileNotFoundError:
        return None
