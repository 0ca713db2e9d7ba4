"""Session commands: before turn work, never prompt text, and never in the way (contract 02 §6.2, design D20)."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing

import msgspec
import pytest
from support.clock import LIMIT_S
from support.driving import AtPoint, Crash, CrashPoints, S, from_afar, later_wake, said
from support.scripted import ScriptedCaller, calls, text
from support.tools import NamedTools

from lash_cli.api import FunctionToolProvider, LashCore, LashSession, ModelSpec, RefreshToolCatalog, ResetSession, tool
from lash_cli.core.codec import to_builtins
from lash_cli.core.queued_work import BatchState, command_draft
from lash_cli.errors import LashRuntimeError, SessionClosed, SessionExecutionBusy, StoreError, UsageError
from lash_cli.store.base import ReadScope


class Nothing(msgspec.Struct):
    """No arguments."""


class ChangingTools(NamedTools):
    """A source that can be told to offer something else, or to fail."""

    is_broken = False
    fault: Exception = RuntimeError("the source is down")

    def manifests(self):
        if self.is_broken:
            raise self.fault
        return super().manifests()


async def test_a_pass_over_commands_only_runs_no_turn(make_core) -> None:
    caller = ScriptedCaller([text("x")])
    core = make_core(caller)
    session = await core.open_session(S)
    await session.turn("hello").run()
    receipt = await session.commands().reset("start over", "k1")
    builder = session.queued_turn()
    assert (await builder.run(), builder.idle_reason) == (None, "commands_only")
    assert len(caller.requests) == 1
    assert (await session.await_queued_work_batch(receipt.batch_id)).state is BatchState.COMPLETED
    assert (await core.store.session_row(S)).lease.token is None


async def test_a_reset_empties_the_transcript_and_keeps_policy_cost_and_count(make_core) -> None:
    caller = ScriptedCaller([text("old"), text("new")])
    core = make_core(caller, tools=[NamedTools(("t", "look"))])
    session = await core.open_session(S)
    await session.turn("hello").run()
    await session.tools().set_membership("look", False)
    spent = session.usage_report().usage.total
    old_view = session.read_view()
    await session.commands().reset("start over", "k1")
    await session.queued_turn().run()
    view = session.read_view()
    assert (list(view.messages), view.turn_index, view.policy) == ([], 1, old_view.policy)
    assert said(old_view.messages) == ["hello", "old"]
    assert session.usage_report().usage.total == spent
    assert [manifest.id for manifest in session.tools().active_manifests()] == ["t"]
    output = await session.turn("again").run()
    assert said(caller.requests[1].messages) == ["again"]
    assert session.read_view().turn_index == 2 and output.result.is_success
    read = await core.store.load_session(S, ReadScope.ACTIVE_PATH)
    assert said(node.payload.message for node in read.nodes) == ["again", "new"]


async def test_a_resident_handle_follows_a_reset_that_ran_elsewhere(make_core) -> None:
    caller = ScriptedCaller([text("old"), text("new")])
    resident = await make_core(caller).open_session(S)
    await resident.turn("hello").run()
    other = await make_core(ScriptedCaller([])).open_session(S)
    await other.commands().reset("start over", "k1")
    await other.queued_turn().run()
    await resident.turn("again").run()
    assert said(caller.requests[1].messages) == ["again"]


async def test_a_refresh_shows_the_next_turn_what_the_sources_offer_now(make_core) -> None:
    source = ChangingTools(("a", "alpha"))
    caller = ScriptedCaller([text("one"), text("two"), text("three")])
    session = await make_core(caller, tools=[source]).open_session(S)
    await session.turn("hello").run()
    source.offered.append(NamedTools._manifest(("b", "beta")))
    await session.turn("still").run()
    await session.commands().refresh_tool_catalog("a tool was added", "k1")
    await session.turn("now").run()
    assert [[spec.name for spec in request.tools] for request in caller.requests] == [
        ["alpha"],
        ["alpha"],
        ["alpha", "beta"],
    ]
    assert len(session.read_view().messages) == 6


async def test_a_refresh_that_ran_in_another_runtime_reaches_a_resident_handle(make_core) -> None:
    source = ChangingTools(("a", "alpha"))
    caller = ScriptedCaller([text("one"), text("two")])
    core = make_core(caller, tools=[source])
    resident = await core.open_session(S)
    await resident.turn("hello").run()
    source.offered.append(NamedTools._manifest(("b", "beta")))
    other = await core.open_session(S)
    await other.commands().refresh_tool_catalog("a tool was added", "k1")
    await other.queued_turn().run()
    await resident.turn("now").run()
    assert [spec.name for spec in caller.requests[1].tools] == ["alpha", "beta"]


async def test_a_handle_that_cannot_follow_another_runtime_since_a_source_is_down_follows_it_later(make_core) -> None:
    source = ChangingTools(("t", "look"), ("u", "listen"))
    caller = ScriptedCaller([text("one"), text("two")])
    session = await make_core(caller, tools=[source]).open_session(S)
    await session.turn("hello").run()
    tools = [NamedTools(("t", "look"), ("u", "listen"))]
    async with await make_core(ScriptedCaller([]), tools=tools).open_session(S) as other:
        await other.tools().set_membership("look", False)
    source.is_broken = True
    with pytest.raises(RuntimeError, match="the source is down"):
        await session.turn("again").run()
    source.is_broken = False
    output = await session.turn("again").run()
    assert output.result.assistant_message() == "two"
    assert [spec.name for spec in caller.requests[-1].tools] == ["listen"]
    async with await make_core(ScriptedCaller([]), tools=tools).open_session(S) as other:
        assert [manifest.name for manifest in other.tools().active_manifests()] == ["listen"]


async def test_commands_at_the_head_go_before_a_turn_of_a_person_and_all_of_them_go(make_core) -> None:
    caller = ScriptedCaller([text("old"), text("new")])
    session = await make_core(caller).open_session(S)
    await session.turn("hello").run()
    await session.commands().refresh_tool_catalog("first", "k1")
    await session.commands().reset("then", "k2")
    output = await session.turn("again").run()
    assert [receipt.source_key for receipt in output.commands] == [
        "command:refresh_tool_catalog:k1",
        "command:reset_session:k2",
    ]
    assert said(caller.requests[1].messages) == ["again"]


@pytest.mark.parametrize("age_ms", [0, 1], ids=["tie", "older"])
async def test_only_a_strictly_older_command_goes_before_an_input(make_core, age_ms: int) -> None:
    from support.clock import ManualClock

    clock = ManualClock()
    caller = ScriptedCaller([text("answer")], repeat=True)
    core = core_with_clock(make_core, caller, clock)
    session = await core.open_session(S)
    await session.commands().reset("why", "k1")
    clock.tick(age_ms / 1000)
    await session.enqueue("hello")
    output = await session.queued_turn().run()
    assert (len(output.commands) == 1) == (age_ms == 1)
    assert output.result.assistant_message() == "answer"
    waiting = await session.queued_work()
    assert (waiting == ()) == (age_ms == 1)
    await core.aclose()


def core_with_clock(make_core, caller, clock) -> LashCore:
    from lash_cli.api import SqliteStore
    from lash_cli.system import SystemIds

    path = make_core(ScriptedCaller([])).store.db.path
    store = SqliteStore.open(path, clock=clock, ids=SystemIds())
    return LashCore(provider=caller, model=ModelSpec("model-1"), store=store, clock=clock, queue_driver="none")


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "cancelled"])
@pytest.mark.parametrize("is_drain", [True, False], ids=["drain", "turn"])
async def test_commands_that_are_held_or_cancelled_as_the_lane_is_taken_are_in_nobodys_way(
    make_core, tmp_path, is_held: bool, is_drain: bool
) -> None:
    async def intervene(store) -> None:
        if is_held:
            await store.set_queue_hold(S, held_at_ms=1)
        else:
            assert await store.cancel_queued_work_batch(S, receipt.batch_id) is not None

    hook = AtPoint("after:lane", lambda: from_afar(tmp_path / "home" / "lash.db", intervene))
    core = make_core(ScriptedCaller([text("x")]), crash_point=hook)
    session = await core.open_session(S)
    receipt = await session.commands().reset("start over", "k1")
    if is_drain:
        builder = session.queued_turn()
        assert (await builder.run(), builder.idle_reason) == (None, "held" if is_held else "empty")
    else:
        assert (await session.turn("hello").run()).result.is_success
    assert (await core.store.session_row(S)).lease.token is None
    expected = BatchState.PENDING if is_held else BatchState.CANCELLED
    assert (await core.store.queued_work_batch(S, receipt.batch_id)).state is expected


async def test_a_command_that_nobody_can_read_is_in_nobodys_way(make_core, tmp_path) -> None:
    core = make_core(ScriptedCaller([text("x"), text("y")]))
    session = await core.open_session(S)
    for key in ("k1", "k2"):
        receipt = await session.commands().reset("start over", key)
        with closing(sqlite3.connect(tmp_path / "home" / "lash.db")) as connection, connection:
            spoilt = connection.execute(
                "UPDATE queued_work SET payloads = 'nonsense' WHERE batch_id = ?", (receipt.batch_id,)
            )
            assert spoilt.rowcount == 1
        if key == "k1":
            assert (await session.turn("hello").run()).result.is_success
        else:
            await session.enqueue("from the queue")
            assert (await session.queued_turn().run()).result.is_success
        assert (await core.store.queued_work_batch(S, receipt.batch_id)).state is BatchState.DEAD


async def test_a_younger_command_waits_behind_turn_work(make_core) -> None:
    core = make_core(ScriptedCaller([text("the wake")]))
    session = await core.open_session(S)
    await core.queue(S).enqueue_work(later_wake())
    await session.commands().reset("later", "k1")
    output = await session.queued_turn().run()
    assert (output.result.assistant_message(), output.commands) == ("the wake", ())
    builder = session.queued_turn()
    assert (await builder.run(), builder.idle_reason) == (None, "commands_only")


async def test_a_command_that_fails_waits_for_its_next_attempt_and_lets_everything_pass(make_core) -> None:
    source = ChangingTools(("a", "alpha"))
    core = make_core(ScriptedCaller([text("the input"), text("the wake")]), tools=[source])
    session = await core.open_session(S)
    failing = await session.commands().refresh_tool_catalog("look", "k1")
    fine = await session.commands().reset("start over", "k2")
    await core.queue(S).enqueue_work(later_wake())
    source.is_broken = True
    output = await session.queued_turn().run()
    assert [receipt.batch_id for receipt in output.commands] == [fine.batch_id]
    assert output.result.assistant_message() == "the input"
    batch = await core.store.queued_work_batch(S, failing.batch_id)
    assert (batch.state, batch.attempts) == (BatchState.PENDING, 1)
    assert "the source is down" in batch.last_error
    assert [manifest.id for manifest in session.tools().active_manifests()] == ["a"]


class Speechless(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError("no \udcff"), "OSError: no \\udcff"),
        (LashRuntimeError("down", "no \udcff"), "down: no \\udcff"),
        (Speechless(), "Speechless: its text cannot be read (ValueError)"),
    ],
    ids=["raises what no UTF-8 can hold", "an error of ours that says so", "cannot say what it raised"],
)
async def test_a_command_is_in_nobodys_way_whatever_its_failure_says(
    make_core, monkeypatch, fault: Exception, said: str
) -> None:
    # What the tests keep of a log has to be UTF-8.
    monkeypatch.setattr(logging.getLogger("lash.commands"), "disabled", True)
    source = ChangingTools(("a", "alpha"))
    core = make_core(ScriptedCaller([text("the input")]), tools=[source])
    session = await core.open_session(S)
    failing = await session.commands().refresh_tool_catalog("look", "k1")
    source.is_broken, source.fault = True, fault
    assert (await session.turn("hello").run()).result.assistant_message() == "the input"
    batch = await core.store.queued_work_batch(S, failing.batch_id)
    assert (batch.state, batch.attempts) == (BatchState.PENDING, 1)
    assert batch.last_error.endswith(said)


async def test_a_failing_command_changes_nothing_in_memory(make_core) -> None:
    class Refusing(ScriptedCaller):
        """Nothing is asked."""

    core = make_core(Refusing([text("old")]), tools=[NamedTools(("t1", "one"), ("t2", "two"))])
    session = await core.open_session(S)
    await session.turn("hello").run()
    await session.tools().set_membership("one", False)
    before, tools = session.read_view(), session.export_state().tool_state
    await session.commands().reset("start over", "k1")
    commit = core.store.commit_runtime_state

    async def refuse(commit_):
        raise UsageError("the disk said no", code="refused")

    core.store.commit_runtime_state = refuse
    builder = session.queued_turn()
    assert await builder.run() is None
    core.store.commit_runtime_state = commit
    view = session.read_view()
    assert (list(view.messages), view.frames, view.leaf_node_id) == (
        list(before.messages),
        before.frames,
        before.leaf_node_id,
    )
    assert session.export_state().tool_state == tools
    assert not session._shared.state.is_dirty and not session._shared.state.replaces_graph


async def test_a_command_is_submitted_once_per_key_and_a_blank_key_is_refused(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    session = await core.open_session(S)
    first = await session.commands().reset("why", "k")
    assert await session.submit_session_command(ResetSession("why else"), "k") == first
    assert first.source_key == "command:reset_session:k"
    with pytest.raises(LashRuntimeError) as raised:
        await session.commands().reset("why", " ")
    assert raised.value.code == "session_command_idempotency_key"
    await session.queued_turn().run()
    assert await session.submit_session_command(ResetSession("late"), "k") == first
    assert await session.queued_work() == ()


async def test_without_a_store_a_command_is_applied_at_once() -> None:
    source = ChangingTools(("a", "alpha"))
    caller = ScriptedCaller([text("one"), text("two")])
    core = LashCore(provider=caller, model=ModelSpec("m"), tools=[source])
    session = await core.open_session(S)
    await session.turn("hello").run()
    source.offered.append(NamedTools._manifest(("b", "beta")))
    receipt = await session.commands().refresh_tool_catalog("look", "k")
    assert receipt.batch_id.startswith("inline-command:")
    assert receipt.source_key == "command:refresh_tool_catalog:k"
    again = await session.commands().reset("start over", "k")
    assert again.batch_id != receipt.batch_id
    await session.turn("again").run()
    assert said(caller.requests[1].messages) == ["again"]
    assert [spec.name for spec in caller.requests[1].tools] == ["alpha", "beta"]
    with pytest.raises(LashRuntimeError):
        await session.commands().reset("start over", "")


async def test_one_command_can_be_drained_at_a_time(make_core) -> None:
    core = make_core(ScriptedCaller([text("old")]))
    session = await core.open_session(S)
    await session.turn("hello").run()
    first = await session.commands().refresh_tool_catalog("look", "k1")
    second = await session.commands().reset("start over", "k2")
    assert await session.drain_next_session_command() == first
    assert len(session.read_view().messages) == 2
    lease = await core.store.try_claim_lease(S, session._shared.owner, ttl_ms=30_000, token="t")
    assert await session.drain_next_session_command(lease.fence()) == second
    await core.store.release_lease(lease.fence())
    assert await session.drain_next_session_command() is None
    assert list(session.read_view().messages) == []


async def test_a_single_command_never_overtakes_a_crashed_turn(make_core) -> None:
    first = make_core(ScriptedCaller([text("finished")]), crash_point=CrashPoints("before:commit"))
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("hello").run()
    core = make_core(ScriptedCaller([]))
    session = await core.open_session(S)
    await session.commands().refresh_tool_catalog("look", "k1")
    assert await session.drain_next_session_command() is not None
    assert await core.running_turn(S) is None
    assert said(session.read_view().messages) == ["hello", "finished"]


async def test_a_single_command_looks_for_a_crashed_turn_under_its_own_lane(make_core, monkeypatch) -> None:
    """A turn may begin and crash between the look and the lane."""
    first = make_core(ScriptedCaller([text("finished")]), crash_point=CrashPoints("before:commit"))
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("hello").run()
    core = make_core(ScriptedCaller([]))
    session = await core.open_session(S)
    await session.commands().reset("start over", "k1")
    looks = []
    run = session._run

    async def sees_nothing_at_first(*arguments):
        looks.append(arguments)
        return await run(*arguments) if len(looks) > 1 else None

    monkeypatch.setattr(session, "_run", sees_nothing_at_first)
    assert await session.drain_next_session_command() is not None
    assert len(looks) == 2 and await core.running_turn(S) is None
    assert (await core.store.turns(S, limit=9))[0].state == "committed"


@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_a_crashed_turn_that_comes_before_a_single_command_can_be_stopped(make_core, way: str) -> None:
    first = make_core(ScriptedCaller([text("lost")]), crash_point=CrashPoints("before:model_recorded"))
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("hello").run()
    caller = ScriptedCaller([])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    receipt = await session.commands().refresh_tool_catalog("look", "k1")
    draining = asyncio.create_task(session.drain_next_session_command())
    await caller.entered.wait()
    async with asyncio.timeout(LIMIT_S):
        if way == "cancel":
            assert session.cancel_running_turns() == 1
            assert await draining == receipt
        else:
            await core.aclose()
            with pytest.raises(SessionClosed):
                await draining
    store = make_core(ScriptedCaller([])).store
    assert [turn.state for turn in await store.turns(S, limit=9)] == ["committed"]


async def test_a_tool_of_the_turn_before_a_single_command_is_not_let_wait_for_itself(make_core) -> None:
    sessions: list[LashSession] = []

    @tool(name="again")
    async def again(arguments: Nothing, context: object) -> None:
        await sessions[-1].turn("inner").run()

    tools = [FunctionToolProvider([again])]
    asks = calls(("c1", "again", "{}"))
    first = make_core(ScriptedCaller([asks]), tools=tools, crash_point=CrashPoints("before:model_recorded"))
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("hello").run()
    caller = ScriptedCaller([asks, text("over")])
    sessions.append(await make_core(caller, tools=tools).open_session(S))
    async with asyncio.timeout(LIMIT_S):
        assert await sessions[-1].drain_next_session_command() is None
    assert "the turn this was called from" in str(to_builtins(caller.requests[1].messages[-1]))


async def test_a_busy_lane_refuses_a_single_command(make_core) -> None:
    caller = ScriptedCaller([text("slow")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session, other = await core.open_session(S), await core.open_session(S)
    running = asyncio.create_task(session.turn("go").run())
    await caller.entered.wait()
    await other.commands().reset("now", "k1")
    with pytest.raises(SessionExecutionBusy):
        await other.drain_next_session_command()
    assert len(await other.queued_work()) == 1
    caller.gate.set()
    await running


async def test_a_crash_within_a_command_runs_it_again_and_once(make_core) -> None:
    """The commit settles the command with its effect: a claim without a commit is open again at once."""
    core = make_core(ScriptedCaller([text("old")]))
    session = await core.open_session(S)
    await session.turn("hello").run()
    receipt = await session.commands().reset("start over", "k1")
    lease = await core.store.try_claim_lease(S, session._shared.owner, ttl_ms=30_000, token="t")
    assert await core.store.claim_leading_session_command(lease.fence(), claim_token="dead") is not None
    await core.store.release_lease(lease.fence())
    other = await make_core(ScriptedCaller([])).open_session(S)
    await other.queued_turn().run()
    assert (await other.await_queued_work_batch(receipt.batch_id)).state is BatchState.COMPLETED
    assert list(other.read_view().messages) == []


@pytest.mark.parametrize("stands", [True, False], ids=["committed", "not_committed"])
async def test_a_command_whose_commit_is_of_unknown_outcome_is_no_failed_one_and_keeps_its_lane(
    make_core, monkeypatch, stands: bool
) -> None:
    core = make_core(ScriptedCaller([text("old")]))
    session = await core.open_session(S)
    await session.turn("hello").run()
    receipt = await session.commands().reset("start over", "k1")
    commit = core.store.commit_runtime_state

    async def unknown(*args, **options):
        if stands:
            await commit(*args, **options)
        raise StoreError("the answer was lost")

    monkeypatch.setattr(core.store, "commit_runtime_state", unknown)
    with pytest.raises(StoreError):
        await session.queued_turn().run()
    monkeypatch.undo()
    batch = await core.store.queued_work_batch(S, receipt.batch_id)
    assert (batch.state, batch.attempts) == (BatchState.COMPLETED if stands else BatchState.PENDING, 0)
    # Only the expiry frees it: nobody else may go on from a head that may change yet.
    assert (await core.store.session_row(S)).lease.token is not None


async def test_a_command_queued_during_a_turn_waits_for_its_commit(make_core) -> None:
    @tool(name="work")
    async def work(args: Nothing, context) -> str:
        await holder[0].commands().reset("in the middle", "k1")
        return "worked"

    from support.scripted import calls

    holder: list = []
    core = make_core(ScriptedCaller([calls(("a", "work", "{}")), text("done")]), tools=[FunctionToolProvider([work])])
    session = await core.open_session(S)
    holder.append(session)
    output = await session.turn("go").run()
    assert output.result.assistant_message() == "done" and output.has_waiting
    assert len(session.read_view().messages) == 4
    await session.queued_turn().run()
    assert list(session.read_view().messages) == []


async def test_a_command_that_keeps_failing_is_parked_and_can_be_cancelled(make_core) -> None:
    from support.clock import ManualClock

    clock = ManualClock()
    core = core_with_clock(make_core, ScriptedCaller([]), clock)
    source = ChangingTools(("a", "alpha"))
    core._tools = (source,)
    session = await core.open_session(S)
    receipt = await core.queue(S).enqueue_work(command_draft(S, RefreshToolCatalog("look"), "command:x:1"))
    source.is_broken = True
    for _ in range(5):
        await session.queued_turn().run()
        clock.tick(120)
    batch = await core.store.queued_work_batch(S, receipt.batch_id)
    assert (batch.state, batch.attempts) == (BatchState.DEAD, 5)
    assert (await session.await_queued_work_batch(receipt.batch_id)).state is BatchState.DEAD
    assert (await session.cancel_queued_work_batch(receipt.batch_id)).batch_id == receipt.batch_id
    await core.aclose()
