"""One pass over a session's queue: what it takes, in which order, and what it answers (contract 02 §6.1)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from support.driving import Crash, CrashPoints, S, later_wake, said, wake
from support.scripted import ScriptedCaller, error, text

from lash_cli.api import (
    ActiveTurn,
    AttachmentItem,
    ByInputId,
    LashCore,
    ModelSpec,
    NextTurn,
    RefreshToolCatalog,
    SessionConfigPatch,
    Stopped,
    TextItem,
    TurnInput,
)
from lash_cli.core.activity import QueuedWorkStarted, TurnStarted
from lash_cli.core.content import ProtocolTurnOptions, Role, Stored, message_text
from lash_cli.core.ingress import InputDraft, InputState
from lash_cli.core.queued_work import (
    BatchState,
    DeliveryPolicy,
    MergeGroup,
    ProcessWake,
    QueuedWorkBatchDraft,
    SlotPolicy,
)
from lash_cli.errors import (
    ConfigError,
    ConflictError,
    LashRuntimeError,
    PendingTurnInputSourceKeyConflict,
    SessionExecutionBusy,
    UsageError,
    WaitTimeout,
)


async def test_waiting_inputs_become_one_turn_in_their_order(make_core) -> None:
    caller = ScriptedCaller([text("all three")])
    session = await make_core(caller).open_session(S)
    stored = [await session.enqueue(word) for word in ("one", "two", "three")]
    output = await session.queued_turn().run()
    assert output.result.assistant_message() == "all three"
    assert said(caller.requests[0].messages) == ["one\ntwo\nthree"]
    assert output.result.input_ids == tuple(row.input_id for row in stored)
    assert session.read_view().messages[0].id == f"m_ingress_{stored[0].input_id}"
    started = output.activities[0].event
    assert isinstance(started, TurnStarted) and (started.origin, started.redriven) == ("queue", False)
    assert await session.queued_turn().run() is None


async def test_a_core_enqueues_for_a_session_it_has_not_opened(make_core) -> None:
    """The seed's name for it (contract 02 §1.2): the key, the ingress and the receipt are those of a session's own."""
    core = make_core(ScriptedCaller([text("done")]))
    (session := await core.open_session(S)).close_handle()
    stored = await core.enqueue_turn_input(S, "one", NextTurn(), "k")
    assert stored == await core.enqueue_turn_input(S, TurnInput.text("one"), id="k")
    assert (stored.source_key, stored.ingress) == ("host:k", NextTurn())
    active = await core.enqueue_turn_input(S, "two", ActiveTurn("t9"))
    assert active.state is InputState.PENDING_ACTIVE
    session = await core.open_session(S)
    assert await session.pending_turn_inputs() == (stored, active)
    with pytest.raises(LashRuntimeError) as raised:
        await LashCore(provider=ScriptedCaller([]), model=ModelSpec("m")).enqueue_turn_input(S, "no store")
    assert raised.value.code == "missing_session_store_factory"


async def test_more_than_one_turn_can_hold_wait_for_the_next(make_core) -> None:
    session = await make_core(ScriptedCaller([text("a"), text("b")])).open_session(S)
    for number in range(70):
        await session.enqueue(str(number))
    first = await session.queued_turn().run()
    assert len(first.result.input_ids) == 64 and first.has_waiting
    second = await session.queued_turn().run()
    assert len(second.result.input_ids) == 6 and not second.has_waiting


async def test_the_first_options_and_the_first_turn_id_of_several_inputs_count(make_core) -> None:
    session = await make_core(ScriptedCaller([text("x")])).open_session(S)
    await session.enqueue("plain")
    options = ProtocolTurnOptions(payload={"a": 1})
    await session.enqueue(TurnInput((TextItem("named"),), options, "t_wanted"))
    await session.enqueue(TurnInput((TextItem("other"),), ProtocolTurnOptions(payload={"a": 2}), "t_other"))
    output = await session.queued_turn(drain_id="drain").run()
    assert output.result.turn_id == "t_wanted"


async def test_a_drain_id_begins_the_id_of_every_turn_it_starts_and_never_repeats_one(make_core) -> None:
    session = await make_core(ScriptedCaller([text("x"), text("y")])).open_session(S)
    ids = []
    for word in ("one", "two"):
        await session.enqueue(word)
        ids.append((await session.queued_turn(drain_id="nightly").run()).result.turn_id)
    assert len(set(ids)) == 2 and all(turn_id.startswith("nightly:") for turn_id in ids)
    for wrong in ({"drain_id": " "}, {"batch_ids": [""]}, {"max_turns": 0}):
        with pytest.raises(UsageError):
            session.queued_turn(**wrong)


async def test_an_empty_queue_a_busy_lane_and_a_held_queue_are_answers(make_core) -> None:
    caller = ScriptedCaller([text("slow")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    first, second = await core.open_session(S), await make_core(ScriptedCaller([])).open_session(S)
    empty = second.queued_turn()
    assert (await empty.run(), empty.idle_reason) == (None, "empty")
    running = asyncio.create_task(first.turn("go").run())
    await caller.entered.wait()
    await second.enqueue("later")
    busy = second.queued_turn()
    assert (await busy.run(), busy.idle_reason) == (None, "lane_busy")
    with pytest.raises(SessionExecutionBusy):
        await second.turn("now").run()
    assert [row.state for row in await second.pending_turn_inputs()] == [InputState.DEFERRED_NEXT_TURN]
    caller.gate.set()
    await running
    assert await core.queue(S).hold("a person looks")
    held = second.queued_turn()
    assert (await held.run(), held.idle_reason) == (None, "held")
    assert len(await second.pending_turn_inputs()) == 1


async def test_a_busy_lane_says_until_when(make_core) -> None:
    caller = ScriptedCaller([text("slow")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    first, second = await core.open_session(S), await make_core(ScriptedCaller([])).open_session(S)
    running = asyncio.create_task(first.turn("go").run())
    await caller.entered.wait()
    await second.enqueue("later")
    async with second.queued_turn().stream() as stream:
        output = await stream.result()
    lease = (await core.store.session_row(S)).lease
    assert (output.result, output.idle, output.busy_until_ms) == (None, "lane_busy", lease.expires_at_ms)
    caller.gate.set()
    await running


async def test_a_session_without_a_store_has_no_queue() -> None:
    session = await LashCore(provider=ScriptedCaller([]), model=ModelSpec("m")).open_session(S)
    for verb in (
        lambda: session.enqueue("x"),
        session.pending_turn_inputs,
        session.queued_work,
        lambda: session.cancel_pending_turn_input("in"),
        lambda: session.cancel_pending_turn_inputs([ByInputId("in")]),
        lambda: session.cancel_pending_turn_input_suffix(ByInputId("in")),
        lambda: session.cancel_queued_work_batch("b"),
        lambda: session.await_queued_work_batch("b"),
    ):
        with pytest.raises(LashRuntimeError) as raised:
            await verb()
        assert raised.value.code == "store_commit_failed"
    builder = session.queued_turn()
    assert (await builder.run(), builder.idle_reason) == (None, "no_store")


async def test_users_words_go_before_work_whatever_their_age(make_core) -> None:
    caller = ScriptedCaller([text("to the user"), text("to the process"), text("to nobody")])
    core = make_core(caller)
    session = await core.open_session(S)
    await core.queue(S).enqueue_work(later_wake())
    await session.enqueue("hello")
    assert (await session.queued_turn().run()).result.assistant_message() == "to the user"
    output = await session.queued_turn().run()
    assert output.result.assistant_message() == "to the process"
    assert await session.queued_turn().run() is None


async def test_a_turn_from_a_wake_has_no_blank_words_of_a_user(make_core) -> None:
    core = make_core(ScriptedCaller([text("noted")]))
    session = await core.open_session(S)
    receipt = await core.queue(S).enqueue_work(wake(3))
    output = await session.queued_turn().run()
    event, answer = session.read_view().messages
    assert (event.role, event.id, answer.role) == (Role.EVENT, f"m_work_{receipt.batch_id}_0", Role.ASSISTANT)
    started, taken = (item.event for item in output.activities[:2])
    assert started.origin == "wake"
    assert isinstance(taken, QueuedWorkStarted) and (taken.boundary, taken.batch_ids) == ("idle", (receipt.batch_id,))
    assert (await session.await_queued_work_batch(receipt.batch_id)).state is BatchState.COMPLETED


async def test_joining_batches_share_a_turn(make_core) -> None:
    core = make_core(ScriptedCaller([text("noted")]))
    session = await core.open_session(S)
    for number in (1, 2):
        payload = ProcessWake(f"w{number}", f"p{number}", 1, "done", f"news {number}")
        draft = QueuedWorkBatchDraft(
            S, (payload,), DeliveryPolicy.EARLIEST_SAFE_BOUNDARY, SlotPolicy.JOIN, MergeGroup("news")
        )
        await core.queue(S).enqueue_work(draft)
    await session.queued_turn().run()
    assert [message_text(message)[-6:] for message in session.read_view().messages[:2]] == ["news 1", "news 2"]


async def test_named_batches_may_go_out_of_order_and_leave_the_rest_alone(make_core) -> None:
    core = make_core(ScriptedCaller([text("second"), text("x")]))
    session = await core.open_session(S)
    first = await core.queue(S).enqueue_work(later_wake(1))
    second = await core.queue(S).enqueue_work(later_wake(2))
    assert (await session.queued_turn([second.batch_id]).run()).result.assistant_message() == "second"
    assert [batch.batch_id for batch in await session.queued_work()] == [first.batch_id]
    again = session.queued_turn([second.batch_id])
    assert (await again.run(), again.idle_reason) == (None, "already_satisfied")
    together = session.queued_turn([first.batch_id, "qwb:unknown"])
    assert (await together.run(), together.idle_reason) == (None, "unclaimable_together")


async def test_a_selected_pass_leaves_the_users_words_where_they_are(make_core) -> None:
    core = make_core(ScriptedCaller([text("to the wake")]))
    session = await core.open_session(S)
    await session.enqueue("hello")
    receipt = await core.queue(S).enqueue_work(wake())
    await session.queued_turn([receipt.batch_id]).run()
    assert len(await session.pending_turn_inputs()) == 1


async def test_work_that_is_not_due_yet_says_when(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    session = await core.open_session(S)
    draft = QueuedWorkBatchDraft(
        S,
        (ProcessWake("w", "p", 1, "done"),),
        DeliveryPolicy.EARLIEST_SAFE_BOUNDARY,
        SlotPolicy.EXCLUSIVE,
        available_at_ms=core.host.clock.now_ms() + 3_600_000,
    )
    await core.queue(S).enqueue_work(draft)
    async with session.queued_turn().stream() as stream:
        output = await stream.result()
    assert (output.idle, output.available_at_ms) == ("not_yet_available", draft.available_at_ms)
    assert len(await session.queued_work()) == 1


async def test_an_unusable_provider_claims_nothing(make_core) -> None:
    class Unconfigured:
        default_id = "gone"

        def resolve(self, provider_id: str):
            raise ConfigError("no key", code="key_missing")

        async def aclose(self) -> None:
            """Nothing to release."""

    core = LashCore(
        providers=Unconfigured(), model=ModelSpec("m"), store=make_core(ScriptedCaller([])).store, queue_driver="none"
    )
    session = await core.open_session(S)
    await session.enqueue("hello")
    with pytest.raises(ConfigError):
        await session.queued_turn().run()
    assert len(await session.pending_turn_inputs()) == 1
    assert await core.store.unfinished_turns(S) == ()
    assert (await core.store.session_row(S)).lease.token is None


async def test_what_another_process_configured_holds_for_the_next_pass(make_core) -> None:
    caller = ScriptedCaller([text("x"), text("y")])
    behind = await make_core(caller).open_session(S)
    await behind.turn("first").run()
    other = await make_core(ScriptedCaller([])).open_session(S)
    await other.configure(SessionConfigPatch(model=ModelSpec("chosen")))
    await behind.enqueue("hello")
    await behind.queued_turn().run()
    assert caller.requests[1].model.id == "chosen"


@pytest.mark.parametrize("step", [error("auth"), text("fine")])
async def test_an_input_is_used_up_by_its_turn_however_that_ends(make_core, step) -> None:
    session = await make_core(ScriptedCaller([step])).open_session(S)
    await session.enqueue("hello")
    await session.queued_turn().run()
    assert await session.pending_turn_inputs() == ()
    assert await session.queued_turn().run() is None


async def test_a_poisoned_input_is_settled_by_a_turn_that_says_why(make_core) -> None:
    caller = ScriptedCaller([])
    session = await make_core(caller).open_session(S)
    broken = AttachmentItem(Stored("sha256:" + "0" * 64, "image/png", 3))
    await session.enqueue(TurnInput((TextItem("look"), broken)))
    output = await session.queued_turn().run()
    assert output.result.outcome == Stopped("invalid_input")
    assert output.result.errors[0].code == "invalid_turn_input"
    assert (said(session.read_view().messages), caller.requests) == (["look"], [])
    assert await session.queued_turn().run() is None


async def test_an_input_for_a_turn_that_never_runs_becomes_the_next_turn_at_its_old_place(make_core) -> None:
    session = await make_core(ScriptedCaller([text("x")])).open_session(S)
    early = await session.enqueue("early", ingress=ActiveTurn("t_never"))
    late = await session.enqueue("late")
    output = await session.queued_turn().run()
    assert output.result.input_ids == (early.input_id, late.input_id)


async def test_a_crashed_queued_turn_is_finished_by_the_next_pass_under_its_own_id(make_core) -> None:
    first = make_core(ScriptedCaller([text("lost")]), crash_point=CrashPoints("before:commit"))
    session = await first.open_session(S)
    await session.enqueue("hello", id="k")
    with pytest.raises(Crash):
        await session.queued_turn().run()
    (crashed,) = await first.store.unfinished_turns(S)
    core = make_core(ScriptedCaller([text("unused")]))
    other = await core.open_session(S)
    assert await other.pending_turn_inputs() == ()
    assert (await other.enqueue("hello", id="k")).state is InputState.DEFERRED_NEXT_TURN
    output = await other.queued_turn().run()
    assert (output.result.turn_id, output.result.assistant_message()) == (crashed.turn_id, "lost")
    assert output.activities[0].event.redriven
    assert (await other.enqueue("hello", id="k")).state is InputState.COMPLETED
    assert await other.queued_turn().run() is None


async def test_a_selected_pass_finishes_a_crashed_turn_first_and_then_its_batches(make_core) -> None:
    first = make_core(ScriptedCaller([text("crashed one")]), crash_point=CrashPoints("before:commit"))
    session = await first.open_session(S)
    await session.enqueue("hello")
    with pytest.raises(Crash):
        await session.queued_turn().run()
    core = make_core(ScriptedCaller([text("the wake")]))
    receipt = await core.queue(S).enqueue_work(later_wake())
    later = await core.open_session(S)
    output = await later.queued_turn([receipt.batch_id]).run()
    assert [result.assistant_message() for result in output.turns] == ["crashed one", "the wake"]


async def test_a_crashed_wake_turn_is_finished_with_its_work(make_core) -> None:
    first = make_core(ScriptedCaller([text("noted")]), crash_point=CrashPoints("before:commit"))
    await first.open_session(S)
    receipt = await first.queue(S).enqueue_work(wake())
    with pytest.raises(Crash):
        await (await first.open_session(S)).queued_turn().run()
    core = make_core(ScriptedCaller([]))
    session = await core.open_session(S)
    assert await session.queued_work() == ()
    assert await session.cancel_queued_work_batch(receipt.batch_id) is None
    output = await session.queued_turn().run()
    assert output.result.assistant_message() == "noted"
    assert (await session.await_queued_work_batch(receipt.batch_id)).state is BatchState.COMPLETED


async def test_waiting_for_a_batch_ends_when_it_is_settled_and_not_when_it_is_taken(make_core) -> None:
    caller = ScriptedCaller([text("noted")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    receipt = await core.queue(S).enqueue_work(wake())
    waiting = asyncio.create_task(session.await_queued_work_batch(receipt.batch_id))
    draining = asyncio.create_task(session.queued_turn().run())
    await caller.entered.wait()
    await asyncio.sleep(0.08)
    assert not waiting.done()
    caller.gate.set()
    await draining
    assert (await waiting).state is BatchState.COMPLETED
    assert (await session.await_queued_work_batch("qwb:unknown")).state is None


async def test_waiting_for_a_batch_ends_at_the_callers_limit_and_leaves_it_where_it_is(make_core) -> None:
    core = make_core(ScriptedCaller([text("noted")]))
    session = await core.open_session(S)
    receipt = await core.queue(S).enqueue_work(wake())
    with pytest.raises(WaitTimeout):
        await session.await_queued_work_batch(receipt.batch_id, timeout_ms=40)
    await session.queued_turn().run()
    settled = await session.await_queued_work_batch(receipt.batch_id, timeout_ms=0)
    assert settled.state is BatchState.COMPLETED


async def test_a_queued_turn_that_is_cancelled_uses_its_input_up(make_core) -> None:
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    session = await make_core(caller).open_session(S)
    await session.enqueue("hello")
    running = asyncio.create_task(session.queued_turn().run())
    await caller.entered.wait()
    assert session.cancel_running_turns(origin="person") == 1
    output = await running
    assert (output.result.outcome, output.result.cancellation.origin) == (Stopped("cancelled"), "person")
    assert await session.queued_turn().run() is None


async def test_a_cancel_that_precedes_a_named_turn_reaches_it(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    session = await core.open_session(S)
    await session.enqueue(TurnInput((TextItem("hello"),), trace_turn_id="t_named"))
    await core.request_turn_cancel(S, turn_id="t_named", request_id="r1")
    output = await session.queued_turn().run()
    assert output.result.cancellation.request_id == "r1"


@pytest.mark.parametrize("turn_id", ["", " "])
async def test_no_input_is_taken_for_a_turn_without_a_name(make_core, turn_id: str) -> None:
    core = make_core(ScriptedCaller([]))
    session = await core.open_session(S)
    ingress = ActiveTurn(turn_id)
    draft = InputDraft(S, "in-1", TurnInput.text("x"), ingress)
    for submit in (
        lambda: session.enqueue("x", ingress=ingress),
        lambda: core.queue(S).enqueue_all([draft]),
        lambda: core.inject_turn_input(S, turn_id, "k", "x"),
    ):
        with pytest.raises(UsageError) as refused:
            await submit()
        assert refused.value.code == "missing_execution_scope_id"
    assert await session.pending_turn_inputs() == ()


async def test_enqueue_is_idempotent_by_its_key_and_refuses_changed_text(make_core) -> None:
    session = await make_core(ScriptedCaller([])).open_session(S)
    first = await session.enqueue("hello", id="k")
    assert await session.enqueue("hello", id="k") == first
    assert first.source_key == "host:k"
    with pytest.raises(PendingTurnInputSourceKeyConflict):
        await session.enqueue("goodbye", id="k")
    for wrong in (" ", "a\nb", "a\x1b[0m"):
        with pytest.raises(UsageError) as raised:
            await session.enqueue("x", id=wrong)
        assert raised.value.code == "invalid_key"
    assert len(await session.pending_turn_inputs()) == 1


DRAFT = InputDraft(S, "in-1", TurnInput.text("x"))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"source_key": " "}, "invalid_key"),
        ({"source_key": "host: "}, "invalid_key"),
        ({"source_key": "host:a\nb"}, "invalid_key"),
        ({"source_key": "host:a\x1b[0m"}, "invalid_key"),
        ({"input": TurnInput(("only its text",))}, "invalid_turn_input"),
        ({"input": TurnInput((TextItem("half \ud83d"),))}, "prompt_not_utf8"),
        ({"input": None}, "invalid_turn_input"),
    ],
)
async def test_of_several_inputs_none_is_stored_when_one_is_none_that_could_be_stored_alone(
    make_core, changed: dict[str, Any], code: str
) -> None:
    core = make_core(ScriptedCaller([]))
    session = await core.open_session(S)
    with pytest.raises(UsageError) as refused:
        await core.queue(S).enqueue_all([DRAFT, msgspec.structs.replace(DRAFT, input_id="in-2", **changed)])
    assert refused.value.code == code
    assert await session.pending_turn_inputs() == ()


async def test_several_inputs_get_what_each_would_get_alone(make_core) -> None:
    core = make_core(ScriptedCaller([]))
    await core.open_session(S)
    plain, unnamed = await core.queue(S).enqueue_all(
        [
            msgspec.structs.replace(DRAFT, input="a text"),
            msgspec.structs.replace(DRAFT, input_id="", source_key="host:k"),
        ]
    )
    assert plain.input == TurnInput.text("a text")
    assert unnamed.input_id.startswith("in")
    assert await core.queue(S).enqueue("x", key="k") == unnamed


async def test_queue_verbs_do_not_wait_for_a_running_turn_of_the_same_handle(make_core) -> None:
    caller = ScriptedCaller([text("slow")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    running = asyncio.create_task(session.turn("go").run())
    await caller.entered.wait()
    row = await session.enqueue("later", ingress=NextTurn())
    assert len(await session.pending_turn_inputs()) == 1
    receipt = await session.submit_session_command(RefreshToolCatalog("look again"), "k")
    assert [batch.batch_id for batch in await session.queued_work()] == [receipt.batch_id]
    assert (await session.cancel_pending_turn_input(row.input_id)).input.state is InputState.CANCELLED
    assert await session.cancel_queued_work_batch(receipt.batch_id) is not None
    assert await session.revoke_durable_waits() == 0
    assert (await core.running_turn(S)).turn_id
    caller.gate.set()
    await running
    assert await core.running_turn(S) is None


async def test_claims_a_host_made_itself_can_be_given_back(make_core) -> None:
    core = make_core(ScriptedCaller([text("x")]))
    session = await core.open_session(S)
    stored = await session.enqueue("hello")
    receipt = await core.queue(S).enqueue_work(wake())
    lease = await core.store.try_claim_lease(S, core._new_owner(), ttl_ms=30_000, token="t")
    inputs = await core.store.claim_next_turn_inputs(lease.fence(), claim_token="c1")
    work = await core.store.claim_ready_queued_work(lease.fence(), "idle", claim_token="c2")
    assert (await session.pending_turn_inputs(), await session.queued_work()) == ((), ())
    assert await session.abandon_turn_input_claim(inputs) == (stored.input_id,)
    assert await session.abandon_queued_work_claim(work) == (receipt.batch_id,)
    assert await session.abandon_queued_work_claim(work) == ()
    assert len(await session.pending_turn_inputs()) == len(await session.queued_work()) == 1
    await core.store.release_lease(lease.fence())


async def test_an_input_already_used_under_a_turn_of_another_text_is_a_conflict(make_core) -> None:
    session = await make_core(ScriptedCaller([text("x")])).open_session(S)
    row = await session.enqueue("hello", id="k")
    await session.cancel_pending_turn_input(row.input_id)
    with pytest.raises(ConflictError) as raised:
        await session.turn("hello", key="k").run()
    assert raised.value.code == "input_cancelled"
