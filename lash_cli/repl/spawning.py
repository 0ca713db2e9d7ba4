"""Running another program for a chat: keeping what it says, and giving it a text to edit (contract 08 §7.2, §7.3)."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from lash_cli.views.safe_text import safe_text

SECONDS = 600.0
KEPT_CHARS = 200_000


class Said(NamedTuple):
    """How a program ended and what it said, safe for a terminal."""

    status: int
    text: str


async def said_by(command: Sequence[str]) -> Said:
    """Run `command` without a keyboard; it is killed when it takes too long or is not waited for any more."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate()
    except TimeoutError:
        return Said(124, f"killed after {SECONDS:.0f} s\n")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Said(process.returncode or 0, safe_text(said.decode("utf-8", "replace")[:KEPT_CHARS]))


async def at_terminal(command: Sequence[str]) -> int:
    """Give the terminal to `command` and return its exit status; it is told to end when it is not waited for any
    more."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@contextmanager
def private_copy(text: str) -> Iterator[str]:
    """The path of a file with `text` that only its owner can read; it is removed at the end."""
    descriptor, path = tempfile.mkstemp(prefix="lash-draft-", suffix=".md")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        yield path
    finally:
        os.unlink(path)


def text_of(path: str) -> str:
    """What an editor left in a file, without the line feed that editors add."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().removesuffix("\n")
