"""A turn of one kibibyte of text keeps at most three in the store, without any sweep (contract 09 §4).

Counted in pages, as the disk pays for them; no clock and no machine has a part in it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, SqliteStore
from lash_cli.core.policy import ModelSpec
from lash_cli.system import SystemClock, SystemIds

TARGET = 3 * 1024
TURNS = 250
QUESTION = "q" * 224
ANSWER = "a" * 800
# What is kept for a while only: a ring of events for those who watch (contract 04 §10.2).
FORGET_EVENTS = "DELETE FROM live_row"


async def bytes_after(path: Path, turns: int) -> int:
    """What a store in `path` holds once its one session has had so many turns more."""
    file = path / "lash.db"
    core = LashCore(
        provider=ScriptedCaller([text(ANSWER, tokens=(1_234, 200))], repeat=True),
        model=ModelSpec("model-1"),
        store=SqliteStore.open(file, clock=SystemClock(), ids=SystemIds()),
        queue_driver="none",
    )
    session = await core.open_session("notes")
    for _ in range(turns):
        await session.turn(QUESTION).run()
    await session.close()
    await core.aclose()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(FORGET_EVENTS)
        size, pages, free = [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        ]
    return int(size * (pages - free))


async def test_a_turn_of_one_kibibyte_keeps_at_most_three(tmp_path: Path) -> None:
    first = await bytes_after(tmp_path, TURNS)
    kept = (await bytes_after(tmp_path, TURNS) - first) / TURNS
    assert len(QUESTION + ANSWER) == 1024
    assert kept <= TARGET
