"""The wait laws over SQLite: in one process, and across real processes that share only the file."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.processes import start_process

from lash_cli.core.codec import decode, decode_any, encode, to_builtins
from lash_cli.core.commit import TurnSummary
from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.effect import TurnScope
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.outcome import (
    AssistantMessage,
    CancelRequested,
    CompletionSealed,
    Finished,
    Stopped,
    TerminalCommitted,
    TurnCancellationEvidence,
    TurnOutcome,
)
from lash_cli.core.wait import (
    AwaitEventKey,
    CustomWait,
    ProcessSignalWait,
    Resolution,
    ResolvedOk,
    ResolveOutcome,
    ToolCompletionWait,
    TurnCancelGateWait,
    TurnTerminalWait,
)
from lash_cli.effects.resolver import StoreResolver
from lash_cli.errors import EffectError
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.waits import SCOPE, SESSION, WaitLaws
from lash_cli.store.sqlite.listing import first_page
from lash_cli.store.sqlite.places import place_at
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

OpenStore = Callable[[], SqliteStore]

# Operations on the file, as another program would do them: key and resolution go in and out as JSON.
OTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from lash_cli.core.codec import decode, decode_any, encode
from lash_cli.core.effect import TurnScope
from lash_cli.core.wait import AwaitEventKey, Resolution, WaitIdentity
from lash_cli.effects.resolver import StoreResolver
from lash_cli.errors import EffectError
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

async def main(path, action, *values):
    clock = SystemClock()
    store = SqliteStore.open(Path(path), clock, SystemIds())
    resolver = StoreResolver(store, clock)
    for first, second in zip(values[::2], values[1::2] or [""]):
        if action == "mint":
            answer = await resolver.await_event_key(decode(first, TurnScope), decode_any(second, WaitIdentity))
        elif action == "resolve":
            answer = await resolver.resolve_await_event(decode(first, AwaitEventKey), decode_any(second, Resolution))
        else:
            print("waiting", flush=True)
            answer = await resolver.await_await_event(decode(first, AwaitEventKey))
        print(encode(answer).decode(), flush=True)
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def start(path: Path, action: str, *values: Any) -> subprocess.Popen[str]:
    arguments = [encode(value).decode() for value in values]
    return start_process(
        [sys.executable, "-c", OTHER_PROCESS, str(path), action, *arguments], stdout=subprocess.PIPE, text=True
    )


def answers_of(process: subprocess.Popen[str]) -> list[str]:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.splitlines()


def answer_of(process: subprocess.Popen[str]) -> str:
    return answers_of(process)[-1]


class TestSqliteWaits(WaitLaws):
    """SQLite keeps every law."""


async def commit_turn(store: SqliteStore, turn_id: str, summary: TurnSummary) -> None:
    """The row a terminal commit leaves behind."""

    def write(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO turns (session_key, turn_id, turn_index, state, origin, started_at_ms, generation, summary,"
            " head_revision, committed_at_ms) VALUES (1, ?, 1, 'committed', 'prompt', 1, 1, ?, 4, 9)",
            (turn_id, encode(summary).decode()),
        )

    await store.db.write(write, durable=True)


def summary_of(outcome: TurnOutcome, evidence: TurnCancellationEvidence | None = None) -> TurnSummary:
    return TurnSummary(outcome, 1, 2, cancellation=evidence)


async def test_a_committed_turn_answers_its_gate_and_its_terminal(open_store: OpenStore, clock: ManualClock) -> None:
    store = await make.opened(open_store, clock, SESSION)
    gate, terminal = [await store.wait_key(SCOPE, wait) for wait in (TurnCancelGateWait(), TurnTerminalWait())]
    assert [await store.peek_wait(gate), await store.peek_wait(terminal)] == [None, None]
    outcome = Finished(AssistantMessage("hello"))
    await commit_turn(store, "t1", summary_of(outcome))
    sealed = ResolvedOk(to_builtins(CompletionSealed()))
    assert await store.peek_wait(gate) == sealed
    assert await store.peek_wait(terminal) == ResolvedOk(to_builtins(TerminalCommitted(outcome, None, 4)))
    late = ResolvedOk(to_builtins(CancelRequested(TurnCancellationEvidence("late"))))
    loser = await store.resolve_wait(gate, late, 1)
    assert (loser.kind, loser.terminal) == ("already_resolved", sealed)
    assert await store.cancel_gate(SESSION, "t1") == CompletionSealed()


async def test_the_terminal_has_the_answer_that_is_stored_in_its_node(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = await make.opened(open_store, clock, SESSION)
    message = Message("m1", Role.ASSISTANT, (TextPart("the answer"),))
    body = encode(ConversationPayload(message)).decode()

    def write(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO nodes (place, node_id, frame_ordinal, at_ms, body) VALUES (?, 'm1', 0, 1, ?)",
            (place_at(1, 1), body),
        )

    await store.db.write(write, durable=True)
    await commit_turn(store, "t1", TurnSummary(Finished(AssistantMessage("")), 1, 2, answer_node_id="m1"))
    terminal = await store.peek_wait(await store.wait_key(SCOPE, TurnTerminalWait()))
    ended = TerminalCommitted(Finished(AssistantMessage("the answer")), None, 4)
    assert terminal == ResolvedOk(to_builtins(ended))


async def test_the_gate_of_a_cancelled_turn_keeps_the_request_that_won(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = await make.opened(open_store, clock, SESSION)
    evidence = TurnCancellationEvidence("r1", "cli")
    assert await store.request_turn_cancel(SESSION, "t1", evidence, 1) is None
    gate, terminal = [await store.wait_key(SCOPE, wait) for wait in (TurnCancelGateWait(), TurnTerminalWait())]
    requested = ResolvedOk(to_builtins(CancelRequested(evidence)))
    assert await store.peek_wait(gate) == requested
    await commit_turn(store, "t1", summary_of(Stopped("cancelled"), evidence))
    assert await store.peek_wait(gate) == requested
    ended = TerminalCommitted(Stopped("cancelled"), evidence, 4)
    assert await store.peek_wait(terminal) == ResolvedOk(to_builtins(ended))


async def test_minted_in_one_process_resolved_in_another_observed_in_a_third(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    waits = (ToolCompletionWait("call-1"), ProcessSignalWait("p1", "go", 2), CustomWait("x"), TurnCancelGateWait())
    await make.create(open_store(), clock, SESSION)
    minting = start(database_path, "mint", *[value for wait in waits for value in (SCOPE, wait)])
    keys = [decode(answer, AwaitEventKey) for answer in answers_of(minting)]
    # Each its own, but for what only a cancel can resolve.
    found = [
        ResolvedOk(to_builtins(CancelRequested(TurnCancellationEvidence(f"r{number}")))) for number in range(len(keys))
    ]
    resolving = start(database_path, "resolve", *[value for pair in zip(keys, found, strict=True) for value in pair])
    outcomes = [decode(answer, ResolveOutcome).kind for answer in answers_of(resolving)]
    assert outcomes == ["accepted"] * len(waits)
    assert [await open_store().peek_wait(key) for key in keys] == found


async def test_a_waiting_process_wakes_when_another_resolves(open_store: OpenStore, database_path: Path) -> None:
    store = open_store()
    key = await store.wait_key(SCOPE, CustomWait("x"))
    waiter = start(database_path, "await", key)
    assert waiter.stdout is not None
    assert await asyncio.to_thread(waiter.stdout.readline) == "waiting\n"
    await store.resolve_wait(key, ResolvedOk({"from": "here"}), 1)
    answer = await asyncio.to_thread(answer_of, waiter)
    assert decode_any(answer, Resolution) == ResolvedOk({"from": "here"})


async def test_a_waiter_of_this_process_learns_what_another_process_resolved(database_path: Path) -> None:
    clock = SystemClock()
    store = SqliteStore.open(database_path, clock, SystemIds())
    resolver = StoreResolver(store, clock)
    key = await resolver.await_event_key(SCOPE, CustomWait("x"))
    waiter = asyncio.create_task(resolver.await_await_event(key))
    resolved = start(database_path, "resolve", key, ResolvedOk(1))
    assert await waiter == ResolvedOk(1)
    await asyncio.to_thread(answer_of, resolved)
    await store.aclose()


async def test_of_two_racing_processes_one_wins_and_the_other_learns_the_winner(
    open_store: OpenStore, database_path: Path
) -> None:
    key = await open_store().wait_key(TurnScope(SESSION, "t1"), CustomWait("x"))
    racers = [start(database_path, "resolve", key, ResolvedOk(name)) for name in ("a", "b")]
    outcomes = [decode(answer_of(racer), ResolveOutcome) for racer in racers]
    assert sorted(outcome.kind for outcome in outcomes) == ["accepted", "already_resolved"]
    winner = ResolvedOk("ab"[[outcome.kind for outcome in outcomes].index("accepted")])
    assert [outcome.terminal for outcome in outcomes if outcome.kind == "already_resolved"] == [winner]
    assert await open_store().peek_wait(key) == winner


async def test_a_revocation_survives_into_another_process(open_store: OpenStore, database_path: Path) -> None:
    store = open_store()
    key = await store.wait_key(SCOPE, CustomWait("x"))
    await store.revoke_session_waits(SESSION, 1)
    outcome = decode(answer_of(start(database_path, "resolve", key, ResolvedOk(1))), ResolveOutcome)
    assert outcome.kind == "unknown_or_revoked"


async def test_a_session_waits_while_a_turn_of_its_own_does(open_store: OpenStore, clock: ManualClock) -> None:
    store = open_store()
    for session_id in ("one", "two"):
        await make.create(store, clock, session_id)
    await store.open_lane(make.lane_request(clock, session_id="one", input_id="i-one"))
    # Of a turn that runs in another session only, and of one that runs nowhere.
    for turn_id in ("t1", "t2"):
        await store.register_wait(await store.wait_key(TurnScope("two", turn_id), ToolCompletionWait("c")), None, 1)
    for is_waiting in (False, True):
        listed = first_page(str(store.db.path), limit=9, now_ms=clock.now_ms())
        assert listed is not None
        assert {row.session_id: bool(row.is_waiting) for row in listed} == {"one": False, "two": is_waiting}
        rows = (await store.list_sessions(limit=9))[0]
        assert {row.meta.session_id: row.is_waiting for row in rows} == {"one": False, "two": is_waiting}
        await store.open_lane(make.lane_request(clock, session_id="two", input_id="i-two"))


async def test_a_deletion_is_whole_before_anything_else_is_asked_of_the_file(
    database_path: Path, clock: ManualClock
) -> None:
    """Whoever could not write what is written already would be told that the session it deleted is still there."""
    store = SqliteStore.open(database_path, clock, SystemIds(), lock_timeout_s=0.05)
    await make.create(store, clock, SESSION)
    key = await store.wait_key(SCOPE, CustomWait("answer"))
    await store.register_wait(key, None, clock.now_ms())
    assert await store.delete_session(SESSION, clock.now_ms())
    other = sqlite3.connect(database_path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        await store.revoke_session_waits(SESSION, clock.now_ms())
        assert other.execute("SELECT count(*) FROM waits").fetchone() == (0,)
    finally:
        other.close()
    with pytest.raises(EffectError):
        await store.peek_wait(key)
    await store.aclose()
