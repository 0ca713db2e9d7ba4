"""A durable turn with an instant model, against the raw SQLite transaction that stores the same rows.

    python tests/bench/turn.py [--rounds N] [--turns N]

Prints, per transcript length: the turn through the public API, the raw
transaction on the same file at the same synchronous level, their ratio, and
the ratio of each length to the shortest. Also a turn with one instant tool
call, turns per second with 100 sessions at once and with one session, and the
bytes a turn keeps, before and after the journal and the settled inputs were
swept. Processor time per turn is what to compare on a machine others use too.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
from measuring import (
    LENGTHS,
    MODEL,
    REPLY,
    InstantCaller,
    ToolCaller,
    clock,
    emit,
    median_us,
    percentile,
    store_bytes,
    user_text,
)

from lash_cli.api import LashCore, SqliteStore
from lash_cli.core.commit import Append
from lash_cli.core.content import Message, ProsePart, Role, TextPart
from lash_cli.core.graph import chain
from lash_cli.core.observation import MAX_EVENTS
from lash_cli.core.protocols import ModelCaller, ToolContext
from lash_cli.store.sqlite.places import place_at
from lash_cli.system import SystemClock, SystemIds
from lash_cli.tools.function import FunctionToolProvider, tool

# More than the live log keeps of one session, at four events a turn.
FILLING_TURNS = MAX_EVENTS // 4 + 50

RAW_STATEMENTS = (
    "UPDATE sessions SET lease_fencing_token = lease_fencing_token + 1, lease_token = ?, lease_expires_at_ms = ?"
    " WHERE session_key = 1",
    "INSERT INTO inputs(input_id, session_key, ingress, submitted_ingress, state, input, enqueued_at_ms)"
    " VALUES(?, 1, '{}', '{}', 'completed', ?, 0)",
    "INSERT INTO turns(session_key, turn_id, turn_index, state, origin, started_at_ms, generation, content_hash,"
    " summary) VALUES(1, ?, ?, 'committed', 'prompt', 0, 1, ?, ?)",
    "INSERT INTO effects(scope_key, replay_key, session_key, status, envelope_hash, envelope, outcome, attempt,"
    " created_at_ms) VALUES(?, ?, 1, 'completed', ?, ?, ?, 1, 0)",
    "INSERT INTO nodes(place, node_id, parent_seq, frame_ordinal, at_ms, body) VALUES(?, ?, ?, 0, 0, ?)",
    "INSERT INTO usage_deltas(session_key, revision, ordinal, source, model, input_tokens, output_tokens,"
    " cache_read_input_tokens, cache_write_input_tokens, reasoning_output_tokens, turn_id, at_ms)"
    " VALUES(1, ?, 0, 'turn', 'm', 100, 200, 0, 0, 0, ?, 0)",
    "UPDATE sessions SET head_revision = head_revision + 1, leaf_seq = ?, next_seq = ?, lease_token = NULL"
    " WHERE session_key = 1",
)


class RawTurns:
    """The rows of a turn in one transaction, by hand, in another file of the same schema and the same length."""

    def __init__(self, path: Path, length: int) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("PRAGMA wal_autocheckpoint=0")
        self.seq = length + 1_000_000

    def turn(self, index: int, *, effects: int = 1) -> None:
        """Store one turn with `effects` journal rows and a message more for each."""
        execute = self.connection.execute
        lease, use_input, add_turn, add_effect, add_node, add_usage, head = RAW_STATEMENTS
        turn_id = f"t_raw{index:022d}"
        execute("BEGIN IMMEDIATE")
        execute(lease, ("x" * 32, 1))
        execute(use_input, (f"in_raw{index:020d}", '{"items":[{"text":"' + user_text(index) + '"}]}'))
        execute(add_turn, (turn_id, 1_000_000 + index, "0" * 64, '{"outcome":{"type":"finished"}}'))
        for effect in range(effects):
            key = f"k{effect:019d}"
            execute(add_effect, ("s" * 90 + turn_id, key, "0" * 64, b"e" * 300, ("r" * 300 + REPLY).encode()))
        between = [f"a note between {index}"] * (effects - 1)
        for part, text in enumerate((user_text(index), *between, REPLY)):
            self.seq += 1
            body = '{"message":{"content":"' + text + '"}}'
            execute(add_node, (place_at(1, self.seq), f"n{self.seq}-{part}", self.seq - 1, body))
        execute(add_usage, (1_000_000 + index, turn_id))
        execute(head, (self.seq, self.seq + 1))
        execute("COMMIT")


async def seed(store: SqliteStore, core: LashCore, session_id: str, length: int) -> None:
    """Bring a session to `length` stored messages by ordinary commits."""
    session = await core.open_session(session_id)
    await session.turn(user_text(0)).run()
    state = session._shared.state
    while len(state.messages) < length:
        batch = min(500, length - len(state.messages))
        messages = [
            Message(
                f"seed{len(state.messages) + index}",
                Role.USER if index % 2 == 0 else Role.ASSISTANT,
                (TextPart(user_text(index)),) if index % 2 == 0 else (ProsePart(REPLY),),
            )
            for index in range(batch)
        ]
        owner = core._new_owner()
        lease = await store.try_claim_lease(session_id, owner, ttl_ms=30_000, token=core.host.ids.token())
        nodes = chain(messages, parent_node_id=state.leaf_node_id, agent_frame_id=state.frame_id, at_ms=1)
        commit = state.commit(fence=lease.fence(), now_ms=core.host.clock.now_ms(), nodes=nodes)
        assert isinstance(commit.graph, Append)
        state.adopt_commit(commit, await store.commit_runtime_state(commit), messages)
    await session.close()


def new_core(directory: Path, caller: ModelCaller | None = None) -> tuple[LashCore, SqliteStore]:
    """A core over a fresh store."""
    store = SqliteStore.open(directory / "lash.db", clock=SystemClock(), ids=SystemIds())
    tools = (FunctionToolProvider([note]),) if isinstance(caller, ToolCaller) else ()
    return LashCore(provider=caller or InstantCaller(), model=MODEL, store=store, tools=tools), store


class _Note(msgspec.Struct):
    text: str


@tool(name="note")
async def note(arguments: _Note, context: ToolContext) -> str:
    """Keeps a note."""
    return arguments.text


async def one_length(directory: Path, length: int, turns: int) -> tuple[float, float]:
    core, store = new_core(directory)
    await seed(store, core, "s", length)
    session = await core.open_session("s")
    (directory / "raw").mkdir()
    raw_core, raw_store = new_core(directory / "raw")
    await seed(raw_store, raw_core, "s", length)
    await raw_core.aclose()
    raw = RawTurns(directory / "raw" / "lash.db", length)
    ours: list[float] = []
    theirs: list[float] = []
    for index in range(turns + 10):
        started = clock()
        await session.turn(user_text(index)).run()
        middle = clock()
        raw.turn(index)
        ended = clock()
        if index >= 10:
            ours.append(middle - started)
            theirs.append(ended - middle)
    raw.connection.close()
    await session.close()
    await core.aclose()
    emit("durable_turn_us", median_us(ours), "us", length=length, p99=round(percentile(ours, 0.99) * 1e6))
    emit("raw_transaction_us", median_us(theirs), "us", length=length)
    emit("durable_turn_to_raw", median_us(ours) / median_us(theirs), "ratio", length=length)
    # The budget: at most twice the raw transaction plus a fixed cost of the machine under 1 000 µs.
    emit("fixed_cost_us", median_us(ours) - 2 * median_us(theirs), "us", length=length)
    return median_us(ours), median_us(theirs)


async def processor_us(directory: Path, caller: ModelCaller | None, turns: int) -> float:
    """Processor time of a turn in a session of its own."""
    core, _ = new_core(directory, caller)
    session = await core.open_session("s")
    for index in range(20):
        await session.turn(user_text(index)).run()
    before = time.process_time()
    for index in range(turns):
        await session.turn(user_text(index)).run()
    spent = (time.process_time() - before) / turns * 1e6
    await session.close()
    await core.aclose()
    return spent


async def tool_turn(directory: Path, turns: int) -> None:
    """A turn whose model asks for one tool that answers at once: two model calls, one attempt, four messages."""
    spent: dict[str, list[float]] = {"plain": [], "tool": []}
    for attempt in range(4):
        for name, caller in (("plain", None), ("tool", ToolCaller())):
            where = directory / f"{name}{attempt}"
            where.mkdir()
            spent[name].append(await processor_us(where, caller, turns))
    emit("tool_turn_processor_us", min(spent["tool"]), "us")
    emit("tool_turn_to_plain_turn_processor", min(spent["tool"]) / min(spent["plain"]), "ratio")
    core, _ = new_core(directory, ToolCaller())
    session = await core.open_session("s")
    (directory / "raw").mkdir()
    raw_core, raw_store = new_core(directory / "raw")
    await seed(raw_store, raw_core, "s", 10)
    await raw_core.aclose()
    raw = RawTurns(directory / "raw" / "lash.db", 10)
    ours: list[float] = []
    theirs: list[float] = []
    for index in range(turns + 10):
        started = clock()
        output = await session.turn(user_text(index)).run()
        middle = clock()
        raw.turn(index, effects=3)
        ended = clock()
        assert output.result is not None and output.result.execution.had_tool_calls
        if index >= 10:
            ours.append(middle - started)
            theirs.append(ended - middle)
    raw.connection.close()
    await session.close()
    await core.aclose()
    emit("tool_turn_us", median_us(ours), "us", p99=round(percentile(ours, 0.99) * 1e6))
    emit("tool_turn_raw_us", median_us(theirs), "us")
    emit("tool_turn_to_raw", median_us(ours) / median_us(theirs), "ratio")


async def many_sessions(directory: Path, sessions: int, turns: int) -> None:
    core, _ = new_core(directory)
    handles = [await core.open_session(f"s{index}") for index in range(sessions)]
    started, processor = clock(), time.process_time()

    async def work(handle: object) -> None:
        for index in range(turns):
            await handle.turn(user_text(index)).run()  # type: ignore[attr-defined]

    await asyncio.gather(*(work(handle) for handle in handles))
    count = sessions * turns
    emit("turns_per_second", count / (clock() - started), "turns/s", sessions=sessions)
    emit("processor_us_per_turn", (time.process_time() - processor) / count * 1e6, "us", sessions=sessions)
    for handle in handles:
        await handle.close()
    await core.aclose()


async def bytes_kept(directory: Path, turns: int) -> None:
    """What a turn adds for good: measured once the live log, which keeps a fixed number of events, is full."""
    core, _ = new_core(directory)
    session = await core.open_session("s")
    for index in range(FILLING_TURNS):
        await session.turn(user_text(index)).run()
    await session.close()
    await core.aclose()
    path = directory / "lash.db"
    emit("live_log_bytes", live_log_bytes(path), "B", events=MAX_EVENTS)
    before = store_bytes(path)
    core, _ = new_core(directory)
    session = await core.open_session("s")
    for index in range(turns):
        await session.turn(user_text(index)).run()
    await session.close()
    await core.aclose()
    emit("bytes_kept_per_turn", (store_bytes(path) - before) / turns, "B", payload=1_000)
    core, store = new_core(directory)
    await store.gc_unreachable()
    await store.vacuum(None)
    await core.aclose()
    emit("bytes_kept_per_turn_swept", (used_bytes(path) - before) / turns, "B", payload=1_000)


def live_log_bytes(path: Path) -> int:
    """The size of the events a session keeps for those who watch it."""
    connection = sqlite3.connect(path)
    (size,) = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM live_row").fetchone()
    connection.close()
    return int(size)


def used_bytes(path: Path) -> int:
    """What of a database file holds something: its pages without the free ones, which the next turns use again."""
    connection = sqlite3.connect(path)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    connection.close()
    return int(size * (pages - free))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--lengths", type=int, nargs="*", default=list(LENGTHS))
    options = parser.parse_args()
    by_length: dict[int, list[float]] = {length: [] for length in options.lengths}
    for _ in range(options.rounds):
        for length in options.lengths:
            with tempfile.TemporaryDirectory() as directory:
                ours, _ = await one_length(Path(directory), length, options.turns)
                by_length[length].append(ours)
    shortest = statistics.median(by_length[options.lengths[0]])
    for length, samples in by_length.items():
        emit("durable_turn_growth", statistics.median(samples) / shortest, "ratio", length=length)
    with tempfile.TemporaryDirectory() as directory:
        await tool_turn(Path(directory), options.turns)
    for sessions, turns in ((1, 500), (100, 20)):
        with tempfile.TemporaryDirectory() as directory:
            await many_sessions(Path(directory), sessions, turns)
    with tempfile.TemporaryDirectory() as directory:
        await bytes_kept(Path(directory), 500)


if __name__ == "__main__":
    asyncio.run(main())
