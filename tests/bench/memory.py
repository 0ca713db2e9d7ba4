"""What a session keeps of the memory of its process: held open and idle, parked, and closed.

    python tests/bench/memory.py

Prints what Python gets back per session when sessions that had 2, 10 and 100
messages are let go, and how much a process grows by each session it opens and
closes, which is its caches: they fill up once. Every session is another one and
ran its turns in this process, so that all a turn leaves behind counts.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

from measuring import emit, user_text
from turn import new_core

from lash_cli.api import LashCore, LashSession

SESSIONS = 50
CLOSED = 2_000
MESSAGES = (2, 10, 100)

Keep = Callable[[LashSession], Awaitable[object]]


async def held(session: LashSession) -> LashSession:
    return session


async def turned(core: LashCore, name: str, messages: int, keep: Keep) -> object:
    """What is kept of a session with that many messages, all of them of turns that ran here."""
    session = await core.open_session(name)
    for index in range(messages // 2):
        await session.turn(user_text(index)).run()
    return await keep(session)


def allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def released(messages: int, keep: Keep) -> float:
    """Bytes a session gives back when it is let go."""
    with tempfile.TemporaryDirectory() as name:
        core, _ = new_core(Path(name))
        tracemalloc.start()
        kept = [await turned(core, f"s{index}", messages, keep) for index in range(SESSIONS)]
        before = allocated()
        for one in kept:
            if isinstance(one, LashSession):
                await one.close()
        kept.clear()
        value = (before - allocated()) / SESSIONS
        tracemalloc.stop()
        await core.aclose()
    return value


async def growth() -> float:
    """Bytes by which a process grows for each session that it opens, turns once, and closes."""
    with tempfile.TemporaryDirectory() as name:
        core, _ = new_core(Path(name))
        tracemalloc.start()
        before = allocated()
        for index in range(CLOSED):
            await turned(core, f"s{index}", 2, LashSession.close)
        value = (allocated() - before) / CLOSED
        tracemalloc.stop()
        await core.aclose()
    return value


async def main() -> None:
    for messages in MESSAGES:
        for figure, keep in (("parked_bytes", LashSession.park), ("held_bytes", held)):
            emit(figure, await released(messages, keep), "bytes/session", messages=messages, sessions=SESSIONS)
    emit("closed_bytes", await growth(), "bytes/session", sessions=CLOSED)


if __name__ == "__main__":
    asyncio.run(main())
