"""A stamp leaves out what its row says already, and loses nothing by it (contract 01 §9.2 steps 2 and 14)."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from lash_cli.core.commit import CheckpointComponent, GraphDelta, TurnStamp, TurnSummary, Unchanged
from lash_cli.core.effect import TurnScope
from lash_cli.core.ingress import ActiveTurn
from lash_cli.core.llm import AttemptRecord, LlmCallRecord
from lash_cli.core.outcome import AssistantMessage, Finished, Stopped, TurnIssue
from lash_cli.core.protocols import Clock
from lash_cli.core.usage import TokenUsage
from lash_cli.core.wait import TurnTerminalWait
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.sqlite.invariants import broken_rules
from lash_cli.store.sqlite.stamps import decode_summary, encode_summary
from lash_cli.store.sqlite.store import SqliteStore

S = make.SESSION
OpenStore = Callable[[], SqliteStore]

ANSWERED = Finished(AssistantMessage(""))
FAILED = AttemptRecord(1, 1_000, 20, "failed", usage=TokenUsage(input_tokens=7))
PAID = AttemptRecord(2, 1_100, 30, usage=TokenUsage(100, 200, 3, 4, 5))
CALLS = (LlmCallRecord("s1:t1:llm:0", (FAILED, PAID)), LlmCallRecord("s1:t1:llm:1", (PAID,)))
SPENT = TokenUsage(207, 400, 6, 8, 10)
ORDINARY = TurnSummary(
    ANSWERED, 1_000, 60, SPENT, llm_calls=CALLS, input_ids=("in_1", "in_2"), tool_call_count=3, answer_node_id="m2"
)
# The same, and its result, as schema 7 stored them.
OLD_SUMMARY = (
    '{"outcome":{"type":"finished","finish":{"type":"assistant_message","text":""}},"started_at_ms":1000,'
    '"duration_ms":60,"usage":{"input_tokens":207,"output_tokens":400,"cache_read_input_tokens":6,'
    '"cache_write_input_tokens":8,"reasoning_output_tokens":10},"llm_calls":[{"call_id":"s1:t1:llm:0","attempts":'
    '[{"ordinal":1,"started_at_ms":1000,"duration_ms":20,"outcome":"failed","usage":{"input_tokens":7}},{"ordinal":2,'
    '"started_at_ms":1100,"duration_ms":30,"usage":{"input_tokens":100,"output_tokens":200,'
    '"cache_read_input_tokens":3,"cache_write_input_tokens":4,"reasoning_output_tokens":5}}]},{"call_id":'
    '"s1:t1:llm:1","attempts":[{"ordinal":2,"started_at_ms":1100,"duration_ms":30,"usage":{"input_tokens":100,'
    '"output_tokens":200,"cache_read_input_tokens":3,"cache_write_input_tokens":4,"reasoning_output_tokens":5}}]}],'
    '"input_ids":["in_1","in_2"],"tool_call_count":3,"answer_node_id":"m2"}'
)
OLD_RESULT = '{{"head_revision":1,"leaf_node_id":"m2","checkpoint_ref":"{ref}","component_refs":{{"tools":"{tools}"}}}}'

SUMMARIES = {
    "an answer in its node": ORDINARY,
    "an answer without words": TurnSummary(ANSWERED, 1_000, 0),
    "an answer that no node holds": TurnSummary(Finished(AssistantMessage("words")), 1_000, 2),
    "another ending": TurnSummary(Stopped("cancelled"), 1_000, 2, errors=(TurnIssue("a", "b"),)),
    "what the provider said itself": TurnSummary(
        Stopped("provider_error"), 1_000, 2, errors=(TurnIssue("a", "b", raw='{"c":"d"}'),)
    ),
    "a turn that ran code": msgspec.structs.replace(ORDINARY, had_code_execution=True),
    "costs that no call explains": msgspec.structs.replace(ORDINARY, usage=TokenUsage(1)),
    "calls that cost, in a turn that did not": msgspec.structs.replace(ORDINARY, usage=TokenUsage()),
}
GRAPHS: dict[str, GraphDelta] = {
    "the answer": make.append(["m1", "m2"]),
    "behind the answer": make.append(["m1", "m2", "m3"]),
    "nothing": Unchanged(None),
}


async def commit(
    store: SqliteStore, clock: Clock, summary: TurnSummary, graph: GraphDelta
) -> tuple[make.RuntimeCommit, make.RuntimeCommitResult]:
    """The terminal commit of turn `t1` with a component and a wake, and what it answered."""
    await make.create(store, clock)
    proposal = make.commit(
        await make.fence_of(store),
        graph,
        turn=TurnStamp("t1", "h1", summary),
        turn_index=1,
        components={"tools": CheckpointComponent(body=b"tools")},
    )
    return proposal, await store.commit_runtime_state(proposal)


@pytest.mark.parametrize("summary", SUMMARIES.values(), ids=SUMMARIES.keys())
async def test_a_summary_is_read_as_it_was_committed(
    open_store: OpenStore, clock: ManualClock, summary: TurnSummary
) -> None:
    store = open_store()
    await commit(store, clock, summary, make.append(["m1", "m2"]))
    turn = await store.turn(S, "t1")
    assert turn is not None and (turn.summary, turn.started_at_ms) == (summary, summary.started_at_ms)
    await store.import_sessions([(await store.export_session(S), "again")])
    again = await store.turn("again", "t1")
    assert again is not None and (again.summary, again.started_at_ms) == (summary, summary.started_at_ms)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
@pytest.mark.parametrize("summary", [ORDINARY, SUMMARIES["another ending"]], ids=["answered", "stopped"])
async def test_a_replay_answers_what_the_commit_answered_wherever_the_head_is_by_then(
    open_store: OpenStore, clock: ManualClock, summary: TurnSummary, graph: GraphDelta
) -> None:
    store = open_store()
    proposal, first = await commit(store, clock, summary, graph)
    assert first.component_refs
    later = make.append(["later"], parent=first.leaf_node_id)
    await store.commit_runtime_state(make.commit(proposal.fence, later, expected=1))
    assert await store.commit_runtime_state(proposal) == msgspec.structs.replace(first, replayed=True)
    await store.import_sessions([(await store.export_session(S), "again")])
    (turn,) = (await store.export_session("again")).turns
    assert turn.result == first


async def test_a_row_of_an_archive_keeps_what_the_archive_says_otherwise(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    await commit(store, clock, ORDINARY, make.append(["m1", "m2"]))
    archive = await store.export_session(S)
    (turn,) = archive.turns
    odd = msgspec.structs.replace(
        turn, started_at_ms=999, result=msgspec.structs.replace(turn.result, head_revision=8, leaf_node_id=None)
    )
    await store.import_sessions([(msgspec.structs.replace(archive, turns=(odd,)), "odd")])
    assert (await store.export_session("odd")).turns == (odd,)


def test_an_issue_that_was_stored_without_what_was_said_is_read_and_written_as_it_was() -> None:
    row = (
        '{"duration_ms":2,"outcome":{"type":"stopped","reason":"provider_error"},"errors":[{"kind":"a","message":"b"}]}'
    )
    summary = decode_summary(row, 1_000)
    assert summary.errors == (TurnIssue("a", "b", raw=None),)
    assert encode_summary(summary, 1_000) == row


async def test_rows_of_schema_7_are_read_replayed_and_exported_as_they_were(
    open_store: OpenStore, clock: ManualClock, database_path: Path
) -> None:
    store = open_store()
    proposal, first = await commit(store, clock, ORDINARY, make.append(["m1", "m2"]))
    key = await store.wait_key(TurnScope(S, "t1"), TurnTerminalWait())
    waiting = await make.enqueue(store, "in_3", "wait", key="a")
    steering = await make.enqueue(store, "in_4", "steer", key="b", ingress=ActiveTurn("t2"))

    async def told(told_by: SqliteStore) -> object:
        return (
            await told_by.turn(S, "t1"),
            await told_by.peek_wait(key),
            msgspec.structs.replace(await told_by.commit_runtime_state(proposal), has_waiting=False),
            await told_by.export_session(S),
            await make.enqueue(told_by, "other", "wait", key="a"),
            await make.enqueue(told_by, "other", "steer", key="b", ingress=ActiveTurn("t2")),
            told_by.db.read(broken_rules),
        )

    before = await told(store)
    assert before == (
        await store.turn(S, "t1"),
        await store.peek_wait(key),
        msgspec.structs.replace(first, replayed=True),
        await store.export_session(S),
        waiting,
        steering,
        [],
    )
    store.close()
    with contextlib.closing(sqlite3.connect(database_path, isolation_level=None)) as connection:
        old_result = OLD_RESULT.format(ref=first.checkpoint_ref, tools=first.component_refs["tools"])
        connection.execute("UPDATE turns SET summary = ?, result = ?", (OLD_SUMMARY, old_result))
        connection.execute("UPDATE inputs SET submitted_ingress = ingress")
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = '0008_rows_say_things_once'")
        connection.execute("PRAGMA user_version = 7")
    assert await told(open_store()) == before


async def test_a_turn_has_the_index_that_its_commit_says(open_store: OpenStore, clock: ManualClock) -> None:
    store, lane = await make.running(open_store, clock)
    assert lane.turn is not None and lane.turn.turn_index == 1
    commit = make.commit(
        make.fence_of_lane(lane), make.append(["m1"]), turn=make.stamp("t1"), turn_index=7, claim=lane.claim
    )
    await store.commit_runtime_state(commit)
    assert [turn.turn_index for turn in await store.turns(make.SESSION, limit=2)] == [7]
    assert await store.turns(make.SESSION, limit=2, before=7) == ()
