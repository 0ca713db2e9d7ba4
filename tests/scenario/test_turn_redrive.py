"""Crashed turns driven again, and handles that others have left behind (contract 01 §3, design §3)."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable

import msgspec
import pytest
from support.clock import LIMIT_S, settle
from support.doubling import doubling
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, text
from support.unadvertised import Unadvertised

from lash_cli.api import (
    AwaitEventKey,
    FunctionToolProvider,
    LashCore,
    LeaseTimings,
    ModelSpec,
    PendingCompletion,
    ResolvedOk,
    RetryHint,
    SafeRetry,
    SessionConfigPatch,
    SessionSpec,
    Stopped,
    ToolContext,
    tool,
)
from lash_cli.core.activity import AssistantProseDelta
from lash_cli.core.content import Message, Role, TextPart, message_text
from lash_cli.core.outcome import TurnCancellationEvidence
from lash_cli.core.tools import failure, success
from lash_cli.errors import ConflictError, EffectError, HeadRevisionConflict, StoreError, StoreLocked, StoreUnusable
from lash_cli.runtime.demand import is_passing

NO_PLAN = "UPDATE turns SET plan = CAST('{}' AS BLOB) WHERE state = 'running'"
BROKEN = failure("execution", "broken", "it broke", retry=RetryHint("safe"))


class Nothing(msgspec.Struct):
    """No arguments."""


async def test_a_lane_lost_in_mid_turn_commits_nothing_and_the_turn_is_finished_by_the_next_owner(make_core) -> None:
    caller = ScriptedCaller([text("from the first")])
    caller.gate = asyncio.Event()
    first_core = make_core(caller, lease_timings=LeaseTimings(60_000, 100))
    first = await first_core.open_session("s1")
    running = asyncio.create_task(first.turn("x").run())
    await caller.entered.wait()
    fence = (await first_core.store.session_row("s1")).lease
    await _expire(first_core, fence)
    caller.gate.set()
    with pytest.raises(Exception) as raised:
        await running
    assert raised.value.code == "session_execution_lease_lost"
    second = await make_core(ScriptedCaller([text("from the second")])).open_session("s1")
    output = await second.redrive().run()
    assert output.result.assistant_message() == "from the second"
    assert [message_text(m) for m in second.read_view().messages] == ["x", "from the second"]


async def _expire(core: LashCore, lease: object) -> None:
    """Release the lane behind the owner's back, as an expiry does."""
    from lash_cli.core.lease import LeaseFence

    owner = lease.owner
    await core.store.release_lease(
        LeaseFence("s1", owner.owner_id, owner.incarnation_id, lease.token, lease.fencing_token)
    )


async def test_a_crashed_turn_is_finished_under_the_model_it_was_started_with(make_core) -> None:
    first_caller = ScriptedCaller([text("recorded")])
    first = make_core(first_caller, crash_point=CrashPoints("before:commit"))
    spec = SessionSpec(inherit="stored", model=ModelSpec("special"))
    session = await first.open_session("s1", spec=spec)
    with pytest.raises(Crash):
        await session.turn("x").run()
    second_caller = ScriptedCaller([text("next")])
    second = make_core(second_caller)
    reopened = await second.open_session("s1", spec=SessionSpec(inherit="stored"))
    output = await reopened.turn("y").run()
    assert [result.assistant_message() for result in output.redriven] == ["recorded"]
    assert output.result.assistant_message() == "next"
    assert [request.model.id for request in second_caller.requests] == ["special"]
    assert [message_text(m) for m in reopened.read_view().messages] == ["x", "recorded", "y", "next"]


@pytest.mark.parametrize("turn_id", ["t1", "the first; one"])
async def test_a_turn_whose_plan_does_not_decode_names_the_way_to_drop_it(make_core, turn_id: str) -> None:
    points = CrashPoints("before:commit")
    doomed = make_core(ScriptedCaller([text("lost")]), crash_point=points)
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("x", turn_id=turn_id).run()
    store = doomed.store
    await store.db.write(lambda connection: connection.execute(NO_PLAN), durable=False)
    core = make_core(ScriptedCaller([text("again"), text("next")]))
    session = await core.open_session("s1")
    with pytest.raises(StoreUnusable) as raised:
        await session.turn("y").run()
    assert (raised.value.code, raised.value.details["turn_id"]) == ("store_corrupt", turn_id)
    claim_id = raised.value.details["claim_id"]
    reason, _, command = str(raised.value.hint).partition(": ")
    assert reason == "give back what it took, and it is dropped"
    assert shlex.split(command) == ["lash", "queue", "abandon", claim_id]
    await core.store.abandon_turn_input_claims([await core.store.find_claim(claim_id)])
    assert (await session.turn("y").run()).result.assistant_message() == "again"


@pytest.mark.parametrize("point", ["after:model_recorded", "before:commit"])
@pytest.mark.parametrize("opened", ["fresh", "with-a-state"])
async def test_a_handle_that_starts_over_finishes_a_crashed_turn_on_the_history_it_began_on(
    make_core, opened, point
) -> None:
    first = await make_core(ScriptedCaller([text("one")])).open_session("s1")
    await first.turn("a").run()
    await first.tools().add_provider(doubling())
    points = CrashPoints(point)
    doomed = await make_core(ScriptedCaller([text("two")]), crash_point=points, tools=[doubling()]).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("b").run()
    core = make_core(ScriptedCaller([text("three")]), tools=[doubling()])
    other = await make_core(ScriptedCaller([text("elsewhere")])).open_session("s2")
    await other.turn("of another").run()
    if opened == "fresh":
        session, kept = await core.open_fresh("s1"), []
    else:
        session = await core.open_with_state("s1", other.export_state().rebound_to("s1"))
        kept = ["of another", "elsewhere"]
    output = await session.turn("c").run()
    assert [result.assistant_message() for result in output.turns] == ["two", "three"]
    assert [message_text(message) for message in session.read_view().messages] == [*kept, "c", "three"]
    again = await make_core(ScriptedCaller([])).open_session("s1")
    assert [message_text(message) for message in again.read_view().messages] == [*kept, "c", "three"]


@pytest.mark.parametrize("opened", ["fresh", "with-a-state"])
async def test_nothing_that_starts_over_is_committed_under_a_turn_that_is_not_finished(make_core, opened) -> None:
    first = await make_core(ScriptedCaller([text("one")])).open_session("s1")
    await first.turn("a").run()
    state = first.export_state()
    crash = CrashPoints("after:model_recorded")
    with pytest.raises(Crash):
        await (await make_core(ScriptedCaller([text("two")]), crash_point=crash).open_session("s1")).turn("b").run()
    core = make_core(ScriptedCaller([]))
    session = await (core.open_fresh("s1") if opened == "fresh" else core.open_with_state("s1", state))
    said = Message("", Role.USER, (TextPart("c"),))
    for change in (
        session.flush,
        lambda: session.configure(SessionConfigPatch(model=ModelSpec("special"))),
        lambda: session.admin().append_messages([said]),
        lambda: session.admin().branch_to_node(None),
        session.park,
        session.close,
    ):
        with pytest.raises(ConflictError) as refused:
            await change()
        assert refused.value.code == "turn_unfinished"
    output = await (await make_core(ScriptedCaller([])).open_session("s1")).redrive().run()
    assert output.result.assistant_message() == "two"
    await session.close()
    stored = await make_core(ScriptedCaller([])).open_session("s1")
    kept = [] if opened == "fresh" else ["a", "one"]
    assert [message_text(message) for message in stored.read_view().messages] == kept
    assert stored.read_view().turn_index == 2


@pytest.mark.parametrize("opened", ["fresh", "with-a-state"])
async def test_a_turn_that_crashed_as_it_started_over_is_finished_where_it_began(make_core, opened) -> None:
    first = await make_core(ScriptedCaller([text("one"), text("more")])).open_session("s1")
    await first.turn("a").run()
    state = first.export_state()
    await first.turn("a again").run()
    core = make_core(ScriptedCaller([text("two")]), crash_point=CrashPoints("after:model_recorded"))
    doomed = await (core.open_fresh("s1") if opened == "fresh" else core.open_with_state("s1", state))
    with pytest.raises(Crash):
        await doomed.turn("b").run()
    session = await make_core(ScriptedCaller([])).open_session("s1")
    output = await session.redrive().run()
    assert output.result.assistant_message() == "two"
    kept = [] if opened == "fresh" else ["a", "one"]
    assert [message_text(message) for message in session.read_view().messages] == [*kept, "b", "two"]
    assert session.read_view().turn_index == 3


async def test_turns_keep_counting_over_a_history_that_was_replaced(make_core) -> None:
    core = make_core(ScriptedCaller([text("one"), text("two")]))
    first = await core.open_session("s1")
    await first.turn("a").run()
    await (await core.open_fresh("s1")).close()
    session = await core.open_session("s1")
    assert (list(session.read_view().messages), session.read_view().turn_index) == ([], 1)
    await session.turn("b").run()
    assert [turn.turn_index for turn in await core.store.turns("s1", limit=9)] == [2, 1]


@pytest.mark.parametrize("asked", ["here", "from-afar"])
async def test_a_turn_that_crashed_on_its_way_to_stop_is_stopped_by_whoever_comes_next(make_core, asked) -> None:
    caller = ScriptedCaller([])
    caller.gate = asyncio.Event()
    doomed = await make_core(caller, crash_point=CrashPoints("before:commit")).open_session("s1")
    running = asyncio.ensure_future(doomed.turn("first", turn_id="t1").run())
    await caller.entered.wait()
    if asked == "here":
        doomed.cancel_running_turns(origin="a test", reason="enough")
    else:
        await doomed.request_turn_cancel("t1", "r1")
    with pytest.raises(Crash):
        await running
    next_caller = ScriptedCaller([text("second answer")])
    session = await make_core(next_caller).open_session("s1")
    output = await session.turn("second").run()
    assert output.redriven[0].outcome == Stopped("cancelled")
    here = TurnCancellationEvidence("internal:t1", "a test", "enough")
    assert output.redriven[0].cancellation == (here if asked == "here" else TurnCancellationEvidence("r1"))
    assert output.result.assistant_message() == "second answer"


@pytest.mark.parametrize("by", ["the turn", "its session"])
async def test_a_cancel_from_another_thread_ends_the_turn_all_the_same(make_core, by: str) -> None:
    asyncio.get_running_loop().set_debug(True)
    caller = ScriptedCaller([])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    turn = session.turn("first")
    running = asyncio.ensure_future(turn.run())
    await caller.entered.wait()
    await asyncio.sleep(0)  # the model waits
    assert await asyncio.to_thread(turn.cancel if by == "the turn" else session.cancel_running_turns)
    async with asyncio.timeout(30):
        assert (await running).result.outcome == Stopped("cancelled")


async def test_a_cancel_that_cannot_be_recorded_ends_the_turn_all_the_same(make_core, monkeypatch) -> None:
    async def failing(*_: object) -> None:
        raise StoreError("the disk had a moment")

    caller = ScriptedCaller([])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session("s1")
    running = asyncio.ensure_future(session.turn("first").run())
    await caller.entered.wait()
    monkeypatch.setattr(core.store, "request_turn_cancel", failing)
    assert session.cancel_running_turns() == 1
    assert (await running).result.outcome == Stopped("cancelled")


async def test_a_turn_that_cannot_be_replayed_says_where_and_can_be_ended_by_a_cancel(make_core) -> None:
    first = await make_core(
        ScriptedCaller([text("x")]), tools=[doubling()], crash_point=CrashPoints("before:commit")
    ).open_session("s1")
    with pytest.raises(Crash):
        await first.turn("begin").run()
    without_tools = make_core(ScriptedCaller([text("y")]))
    second = await without_tools.open_session("s1")
    with pytest.raises(EffectError) as raised:
        await second.redrive().run()
    assert raised.value.details["first_divergent_paths"] == ["command.shape"]
    assert "let the program that began it go on with it" in raised.value.hint
    assert raised.value.hint.endswith("lash cancel s1 --wait")
    await without_tools.request_turn_cancel("s1")
    output = await second.redrive().run()
    assert output.result.outcome == Stopped("cancelled")
    assert (await second.turn("go on").run()).result.assistant_message() == "y"
    assert [message_text(m) for m in second.read_view().messages] == ["begin", "go on", "y"]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("outcome = x'00'", "sqlite_effect_replay_corrupt_row"),
        ("outcome = x'ff'", "sqlite_effect_replay_corrupt_row"),
        ("outcome = x'01ff'", "sqlite_effect_replay_corrupt_row"),
        ("outcome = x''", "sqlite_effect_replay_corrupt_row"),
        ("outcome = NULL", "sqlite_effect_replay_corrupt_row"),
        ("envelope_hash = '0'", "runtime_effect_envelope_canonical_hash_invariant"),
        ("envelope = x'00', envelope_hash = '0'", "runtime_effect_envelope_canonical_decode"),
    ],
)
async def test_a_turn_whose_journal_is_damaged_can_be_ended_by_a_cancel_and_says_so(
    make_core, caplog, damage: str, code: str
) -> None:
    first = await make_core(
        ScriptedCaller([calls(("c1", "double", '{"n": 2}')), text("x")]),
        tools=[doubling()],
        crash_point=CrashPoints("before:commit"),
    ).open_session("s1")
    with pytest.raises(Crash):
        await first.turn("begin").run()
    core = make_core(ScriptedCaller([text("y")]), tools=[doubling()])
    await core.store.db.write(lambda connection: connection.execute(f"UPDATE effects SET {damage}"), durable=True)
    with pytest.raises(EffectError) as raised:
        await (await core.open_session("s1")).redrive().run()
    assert (raised.value.code, is_passing(raised.value)) == (code, False)
    assert raised.value.hint == "the turn cannot be finished as it was begun; end it with: lash cancel s1 --wait"
    await core.request_turn_cancel("s1")
    session = await core.open_session("s1")
    assert (await session.redrive().run()).result.outcome == Stopped("cancelled")
    assert (await session.turn("go on").run()).result.assistant_message() == "y"
    # Somebody outside may still work on what such a row was about.
    assert ("llm_call" in caplog.text) == ("x'" in damage)


async def test_a_choice_made_after_a_crash_outlives_the_redrive_of_the_crashed_turn(make_core) -> None:
    stored = SessionSpec(inherit="stored")
    first = await make_core(ScriptedCaller([text("x")]), crash_point=CrashPoints("before:commit")).open_session("s1")
    with pytest.raises(Crash):
        await first.turn("begin").run()
    second = await make_core(ScriptedCaller([])).open_session("s1", spec=stored)
    await second.configure(SessionConfigPatch(model=ModelSpec("chosen")))
    caller = ScriptedCaller([text("y")])
    third = await make_core(ScriptedCaller([])).open_session("s1", spec=stored)
    await third.redrive().run()
    # The commit of the crashed turn did not write its own model over the choice: a process that opens next finds it.
    fourth = await make_core(caller).open_session("s1", spec=stored)
    await fourth.turn("go on").run()
    assert [request.model.id for request in caller.requests] == ["chosen"]


@pytest.mark.parametrize("point", ["after:model_recorded", "before:commit"])
async def test_a_crashed_turn_of_a_handle_that_fell_behind_is_finished_under_what_it_ran_with(make_core, point) -> None:
    stored = SessionSpec(inherit="stored")
    caller = ScriptedCaller([text("x")])
    behind = await make_core(caller, crash_point=CrashPoints(point)).open_session("s1")
    await behind.configure(SessionConfigPatch(max_turns=3))
    other = await make_core(ScriptedCaller([])).open_session("s1", spec=stored)
    await other.configure(SessionConfigPatch(model=ModelSpec("chosen")))
    with pytest.raises(Crash):
        await behind.turn("begin").run()
    assert [request.model.id for request in caller.requests] == ["chosen"]
    after = await make_core(ScriptedCaller([])).open_session("s1", spec=stored)
    output = await after.redrive().run()
    assert output.result is not None and output.result.assistant_message() == "x"
    assert after.policy_snapshot.model.id == "chosen"


async def test_a_handle_that_fell_behind_finishes_a_turn_that_crashed_on_the_head_it_does_not_know(make_core) -> None:
    caller = ScriptedCaller([])
    behind = await make_core(caller).open_session("s1")
    other = make_core(ScriptedCaller([text("one"), text("two")]), crash_point=CrashPoints("before:commit", nth=2))
    session = await other.open_session("s1")
    await session.turn("a").run()
    with pytest.raises(Crash):
        await session.turn("b").run()
    output = await behind.redrive().run()
    assert output.result is not None and output.result.assistant_message() == "two"
    assert [message_text(message) for message in behind.read_view().messages] == ["a", "one", "b", "two"]
    assert caller.requests == []


async def test_a_handle_that_fell_behind_keeps_what_others_configured(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    core = make_core(caller)
    behind = await core.open_session("s1")
    await behind.turn("a").run()
    other = await make_core(ScriptedCaller([])).open_session("s1")
    await other.configure(SessionConfigPatch(model=ModelSpec("chosen")))
    await behind.configure(SessionConfigPatch(max_turns=3))
    assert (behind.policy_snapshot.model.id, behind.policy_snapshot.max_turns) == ("chosen", 3)
    await other.configure(SessionConfigPatch(model=ModelSpec("chosen-again")))
    await behind.turn("b").run()
    assert caller.requests[1].model.id == "chosen-again"
    assert other.policy_snapshot.model.id == "chosen-again"


@pytest.mark.parametrize("spec", [SessionSpec(), SessionSpec(inherit="stored")], ids=["core", "stored"])
async def test_a_handle_opened_before_the_first_commit_follows_what_others_chose_before_its_own(
    make_core, spec
) -> None:
    behind = await make_core(ScriptedCaller([text("ok")])).open_session("s1", spec=spec)
    mine = await make_core(ScriptedCaller([])).open_session("s1", spec=SessionSpec(model=ModelSpec("my-model")))
    other = await make_core(ScriptedCaller([text("ok")])).open_session("s1", spec=SessionSpec(inherit="stored"))
    await other.configure(SessionConfigPatch(model=ModelSpec("model-2")))
    await behind.turn("one").run()
    assert behind.policy_snapshot.model.id == "model-2"
    await mine.flush()
    await mine.refresh()
    assert mine.policy_snapshot.model.id == "my-model", "what was asked for at its open is a choice of its own"


@pytest.mark.parametrize(
    ("answers", "recorded", "expected"),
    [
        ([success("there")], 1, success("there")),
        ([BROKEN, success("there")], 2, success("there")),
        ([BROKEN, BROKEN], 1, BROKEN),
        ([BROKEN, BROKEN], 2, failure("execution", "broken", "it broke", retry=RetryHint("exhausted", attempts=2))),
        ([PendingCompletion()], 1, success("from outside")),
    ],
    ids=["a success", "a second attempt", "a first attempt", "all attempts", "a pending call"],
)
async def test_what_a_tool_had_done_is_used_though_the_tool_is_gone(make_core, answers, recorded, expected) -> None:
    keys: list[AwaitEventKey] = []

    @tool(name="work", retry=SafeRetry(2))
    async def work(arguments: Nothing, context: ToolContext) -> object:
        keys.append(await context.completion_key())
        return answers.pop(0)

    points = CrashPoints("after:tool_recorded", recorded)
    caller = ScriptedCaller([calls(("a", "work", "{}"))])
    offered = Unadvertised(FunctionToolProvider([work]))
    doomed = await make_core(caller, tools=[offered], crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("go").run()
    core = make_core(ScriptedCaller([text("done")]))
    await core.effect_host.resolve_await_event(keys[0], ResolvedOk("from outside"))
    session = await core.open_session("s1")
    result = (await session.redrive().run()).result
    assert (result.tool_calls[0].output, result.assistant_message()) == (expected, "done")
    await session.close()


async def test_a_call_that_was_never_made_is_refused_where_its_tool_is_gone(make_core) -> None:
    points = CrashPoints("before:tool_started")
    caller = ScriptedCaller([calls(("a", "double", '{"value":1}'))])
    doomed = await make_core(caller, tools=[Unadvertised(doubling())], crash_point=points).open_session("s1")
    with pytest.raises(Crash):
        await doomed.turn("go").run()
    session = await make_core(ScriptedCaller([text("done")])).open_session("s1")
    result = (await session.redrive().run()).result
    assert result.tool_calls[0].output.outcome.failure.code == "tool_unavailable"
    await session.close()


async def crashed_before_its_commit(make_core, said: str, **options: object) -> None:
    """Leave a turn of `s1` unfinished that was answered `said`."""
    core = make_core(ScriptedCaller([text(said)]), crash_point=CrashPoints("before:commit"))
    session = await core.open_session("s1", **options)
    with pytest.raises(Crash):
        await session.turn("x").run()


async def test_the_time_a_turn_was_given_is_not_that_of_the_crashed_one_before_it(
    make_core, pass_time: Callable[[], None]
) -> None:
    core = make_core(ScriptedCaller([text("lost")]), crash_point=CrashPoints("before:model_recorded"))
    with pytest.raises(Crash):
        await (await core.open_session("s1")).turn("x").run()
    caller = ScriptedCaller([text("late"), text("in time")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session("s1")
    running = asyncio.create_task(session.turn("y", timeout_ms=int(LIMIT_S * 1000)).run())
    await caller.entered.wait()
    pass_time()
    await settle()
    caller.gate.set()
    output = await running
    assert [result.assistant_message() for result in output.turns] == ["late", "in time"]


SPECIAL = SessionSpec(model=ModelSpec("special"))


async def test_a_handle_goes_on_under_what_it_asked_for_once_it_has_finished_a_crashed_turn(make_core) -> None:
    await crashed_before_its_commit(make_core, "recorded", spec=SPECIAL)
    caller = ScriptedCaller([text("mine")])
    session = await make_core(caller).open_session("s1", spec=SessionSpec(model=ModelSpec("my-model")))
    output = await session.turn("y").run()
    assert [result.assistant_message() for result in output.turns] == ["recorded", "mine"]
    assert [request.model.id for request in caller.requests] == ["my-model"]
    assert session.policy_snapshot.model.id == "my-model"


async def test_a_handle_that_asked_for_nothing_goes_on_under_what_the_crashed_turn_has_committed(make_core) -> None:
    await (await make_core(ScriptedCaller([text("one")])).open_session("s1")).turn("a").run()
    await crashed_before_its_commit(make_core, "recorded", spec=SPECIAL)
    caller = ScriptedCaller([text("two")])
    session = await make_core(caller).open_session("s1", spec=SessionSpec(inherit="stored"))
    assert session.policy_snapshot.model.id == "model-1"
    await session.turn("b").run()
    assert [request.model.id for request in caller.requests] == ["special"]
    assert session.policy_snapshot.model.id == "special"


async def test_a_handle_that_could_not_finish_a_crashed_turn_is_as_it_was(make_core) -> None:
    await (await make_core(ScriptedCaller([text("one")])).open_session("s1")).turn("a").run()
    await crashed_before_its_commit(make_core, "recorded", spec=SPECIAL)
    core = make_core(ScriptedCaller([]), crash_point=CrashPoints("before:commit"))
    session = await core.open_session("s1", spec=SessionSpec(inherit="stored"))
    with pytest.raises(Crash):
        await session.redrive().run()
    assert session.policy_snapshot.model.id == "model-1"


async def test_a_text_that_was_recorded_and_shown_to_nobody_here_is_shown(make_core) -> None:
    await crashed_before_its_commit(make_core, "recorded")
    session = await make_core(ScriptedCaller([])).open_session("s1")
    output = await session.redrive().run()
    shown = [activity.event for activity in output.activities]
    assert [event.text for event in shown if isinstance(event, AssistantProseDelta)] == ["recorded"]


@pytest.mark.parametrize(("error", "is_kept"), [(StoreError("disk I/O error"), True), (StoreLocked("busy"), False)])
@pytest.mark.parametrize("commit", ["of the turn", "that starts over", "of a command"])
async def test_a_lane_is_kept_only_while_nobody_knows_what_became_of_the_commit(
    make_core, monkeypatch, commit: str, error: StoreError, is_kept: bool
) -> None:
    core = make_core(ScriptedCaller([text("one"), text("two")]))
    session = await core.open_session("s1")
    await session.turn("before").run()
    if commit == "that starts over":
        session = await core.open_fresh("s1")
    if commit == "of a command":
        await session.commands().reset("start over", "k")

    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(core.store, "commit_runtime_state", fail)
    with pytest.raises(type(error)):
        await session.turn("a").run()
    row = await core.store.session_row("s1")
    assert (row.lease.token is not None) is is_kept
    for batch in await core.store.queued_work("s1", pending_only=False):
        assert batch.attempts == (0 if is_kept else 1), "what may have happened has not failed"


async def test_a_head_that_is_announced_and_cannot_be_loaded_is_not_looked_for_again_and_again(
    make_core, monkeypatch
) -> None:
    behind = await make_core(ScriptedCaller([])).open_session("s1")
    other = await make_core(ScriptedCaller([text("one"), text("two")])).open_session("s1")
    await other.turn("a").run()

    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(behind._core.store, "load_session", nothing)
    with pytest.raises(HeadRevisionConflict):
        await behind.turn("b").run()
    assert (await other.turn("c").run()).result is not None
