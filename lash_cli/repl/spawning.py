"""Running another program for a chat and keeping what it says (contract 08 §7.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
