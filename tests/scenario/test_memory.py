"""What a session that is parked keeps of the memory of its process (design §5, contract 01 §4.3)."""

from __future__ import annotations

import gc
import tracemalloc

from support.scripted import ScriptedCaller, text

from lash_cli.api import ParkedSession

SESSIONS = 12
TURNS = 3
BUDGET_BYTES = 2_048
QUESTION = "a question of some length " * 400
ANSWER = "an answer of some length " * 400
SAID_BYTES = TURNS * (len(QUESTION) + len(ANSWER))


def allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def test_a_parked_session_keeps_less_than_two_kibibytes_whatever_was_said_in_it(make_core) -> None:
    caller = ScriptedCaller([text(ANSWER)] * (SESSIONS + 1) * TURNS)
    core = make_core(caller)

    async def parked_after_turns(name: str) -> ParkedSession:
        session = await core.open_session(name)
        for _ in range(TURNS):
            await session.turn(QUESTION).run()
        caller.requests.clear()
        return await session.park()

    tracemalloc.start()
    try:
        await parked_after_turns("first")  # what a process learns once
        before = allocated()
        parked = [await parked_after_turns(f"s{index}") for index in range(SESSIONS)]
        # The thread that wrote the last of them lets go of it before it writes again, and maybe not before it is told.
        await core.store.db.write(lambda connection: None, durable=False)
        holding = allocated()
        names = [one.session_id for one in parked]
        parked.clear()
        released = (holding - allocated()) / SESSIONS
    finally:
        tracemalloc.stop()
    assert 0 < released < BUDGET_BYTES
    # Nor does anything else keep what was said there.
    assert (holding - before) / SESSIONS < SAID_BYTES / 2
    assert names == [f"s{index}" for index in range(SESSIONS)]
