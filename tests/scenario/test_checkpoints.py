"""Input and work that enter a running turn: when, in which order, and exactly once (contract 02 §1.5)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from support.driving import AtPoint, Crash, CrashPoints, S, from_afar, said, unseen, wake
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    ActiveTurn,
    AttachmentItem,
    FunctionToolProvider,
    LashCore,
    LeaseTimings,
    Stopped,
    TextItem,
    TurnInput,
    tool,
)
from lash_cli.core.activity import QueuedInputAccepted, QueuedWorkStarted
from lash_cli.core.content import Role, Stored, is_safe_to_resume, message_text
from lash_cli.core.ingress import InputDraft, InputState
from lash_cli.core.queued_work import BatchState
from lash_cli.errors import SessionExecutionLeaseExpired
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.requests import TurnRequest
from lash_cli.store.base import ReadScope
from lash_cli.store.queueing import CheckpointRequest

CLAIMED_POINTS = ("before:checkpoint_claimed", "after:checkpoint_claimed", "after:checkpoint_recorded")


class Nothing(msgspec.Struct):
    """No arguments."""


def injecting(holder: dict[str, LashCore]) -> FunctionToolProvider:
    """A tool that has a text injected into its turn, and queues a wake."""

    @tool(name="work")
    async def work(args: Nothing, context) -> str:
        await holder["core"].inject_turn_input(S, context.turn_id, "k", "a word")
        await holder["core"].queue(S).enqueue_work(wake())
        return "worked"

    return FunctionToolProvider([work])


def database(tmp_path: Path) -> Path:
    return tmp_path / "home" / "lash.db"


async def committed_texts(store) -> list[str]:
    read = await store.load_session(S, ReadScope.ACTIVE_PATH)
    return said(node.payload.message for node in read.nodes)


async def test_injected_text_reaches_the_next_model_call_of_the_running_turn_and_is_kept_once(make_core) -> None:
    holder = {}

    @tool(name="work")
    async def work(args: Nothing, context) -> str:
        await holder["core"].inject_turn_input(S, context.turn_id, "steer-1", "also do that")
        return "worked"

    caller = ScriptedCaller([calls(("a", "work", "{}")), text("both done")])
    core = holder["core"] = make_core(caller, tools=[FunctionToolProvider([work])])
    session = await core.open_session(S)
    output = await session.turn("do this").run()
    assert said(caller.requests[1].messages) == ["do this", "also do that"]
    accepted = [item.event for item in output.activities if isinstance(item.event, QueuedInputAccepted)]
    assert [(event.checkpoint, len(event.input_ids)) for event in accepted] == [("after_work", 1)]
    assert await committed_texts(core.store) == ["do this", "also do that", "both done"]
    inputs = await core.store.inputs(S, pending_only=False)
    assert [row.state for row in inputs] == [InputState.COMPLETED] * 2
    assert output.result.input_ids == tuple(row.input_id for row in inputs)
    assert await session.queued_turn().run() is None


async def test_an_input_is_a_user_message_with_an_id_of_its_own(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    running = asyncio.create_task(session.turn("go", turn_id="t1").run())
    await caller.entered.wait()
    stored = await core.inject_turn_input(S, "t1", "k", "and this")
    caller.gate.set()
    await running
    (message,) = [item for item in session.read_view().messages if message_text(item) == "and this"]
    assert (message.id, message.role, message.origin) == (f"m_ingress_{stored.input_id}", Role.USER, None)
    assert stored.source_key == "injection:k"


async def test_text_that_arrives_while_the_model_concludes_makes_it_go_on(make_core) -> None:
    caller = ScriptedCaller([text("done"), text("done with that too")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    running = asyncio.create_task(session.turn("go", turn_id="t1").run())
    await caller.entered.wait()
    await session.enqueue("wait", ingress=ActiveTurn("t1", "before_completion"))
    caller.gate.set()
    output = await running
    assert output.result.assistant_message() == "done with that too"
    assert said(session.read_view().messages) == ["go", "done", "wait", "done with that too"]


async def test_an_input_waits_for_the_boundary_it_asked_for(make_core) -> None:
    holder = {}

    @tool(name="work")
    async def work(args: Nothing, context) -> str:
        await holder["session"].enqueue("last", ingress=ActiveTurn(context.turn_id, "before_completion"))
        return "worked"

    caller = ScriptedCaller([calls(("a", "work", "{}")), text("first"), text("second")])
    core = make_core(caller, tools=[FunctionToolProvider([work])])
    session = holder["session"] = await core.open_session(S)
    output = await session.turn("go").run()
    assert said(caller.requests[1].messages) == ["go"]
    assert said(caller.requests[2].messages) == ["go", "first", "last"]
    assert output.result.assistant_message() == "second"


async def test_text_after_the_last_checkpoint_becomes_the_next_turn(make_core, tmp_path: Path) -> None:
    async def inject(store) -> None:
        ingress = ActiveTurn("t1")
        await store.enqueue_turn_input(InputDraft(S, "in-late", TurnInput.text("too late"), ingress, "injection:late"))

    caller = ScriptedCaller([text("one"), text("two")])
    hook = AtPoint("before:commit", lambda: from_afar(database(tmp_path), inject))
    core = make_core(caller, crash_point=hook)
    session = await core.open_session(S)
    first = await session.turn("go", turn_id="t1").run()
    assert first.has_waiting
    assert said(session.read_view().messages) == ["go", "one"]
    (pending,) = await session.pending_turn_inputs()
    assert (pending.input_id, pending.state) == ("in-late", InputState.DEFERRED_NEXT_TURN)
    second = await session.queued_turn().run()
    assert second.result.input_ids == ("in-late",)
    assert said(session.read_view().messages) == ["go", "one", "too late", "two"]
    assert await session.queued_turn().run() is None


async def test_next_turn_input_never_enters_a_running_turn(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    running = asyncio.create_task(session.turn("go").run())
    await caller.entered.wait()
    await session.enqueue("later")
    caller.gate.set()
    assert (await running).result.assistant_message() == "one"
    assert (await session.queued_turn().run()).result.assistant_message() == "two"


async def test_work_at_a_checkpoint_comes_after_the_users_words_and_speaks_as_an_event(make_core) -> None:
    holder = {}

    @tool(name="work")
    async def work(args: Nothing, context) -> str:
        await holder["core"].queue(S).enqueue_work(wake(7))
        await holder["core"].inject_turn_input(S, context.turn_id, "k", "a word")
        return "worked"

    caller = ScriptedCaller([calls(("a", "work", "{}")), text("ok")])
    core = holder["core"] = make_core(caller, tools=[FunctionToolProvider([work])])
    session = await core.open_session(S)
    output = await session.turn("go").run()
    messages = list(session.read_view().messages)
    roles = [(message.role, message_text(message)) for message in messages[3:]]
    assert roles == [
        (Role.USER, "a word"),
        (Role.EVENT, "Background process wake\nprocess: p1\nevent: done #7\ninput: 7"),
        (Role.ASSISTANT, "ok"),
    ]
    (started,) = [item.event for item in output.activities if isinstance(item.event, QueuedWorkStarted)]
    assert (started.boundary, started.causes[0].id, started.causes[0].sequence) == ("active_turn_checkpoint", "p1", 7)
    assert (await session.queued_work()) == ()
    assert (await core.store.queued_work_batch(S, started.batch_ids[0])).state is BatchState.COMPLETED


async def test_a_session_without_a_queue_passes_its_checkpoints(make_core) -> None:
    from lash_cli.api import LashCore, ModelSpec

    core = LashCore(provider=ScriptedCaller([text("x")]), model=ModelSpec("m"))
    session = await core.open_session(S)
    assert (await session.turn("go").run()).result.is_success


async def test_a_cancelled_turn_keeps_what_it_took_and_nothing_is_offered_again(make_core) -> None:
    holder = {}
    entered = asyncio.Event()

    class Stalling(ScriptedCaller):
        async def call(self, request, *, sink, cancel):
            if len(self.requests) == 1:
                self.gate = asyncio.Event()
                entered.set()
            return await super().call(request, sink=sink, cancel=cancel)

    caller = Stalling([calls(("a", "work", "{}")), text("never")])
    core = holder["core"] = make_core(caller, tools=[injecting(holder)])
    session = await core.open_session(S)
    running = asyncio.create_task(session.turn("go").run())
    await entered.wait()
    session.cancel_running_turns()
    output = await running
    assert output.result.outcome == Stopped("cancelled")
    assert said(session.read_view().messages)[1:2] == ["a word"]
    assert [row.state for row in await core.store.inputs(S, pending_only=False)] == [InputState.COMPLETED] * 2
    assert await core.store.queued_work(S, pending_only=False) == ()
    assert await session.queued_turn().run() is None


async def test_an_injected_attachment_that_cannot_be_used_costs_its_bytes_and_not_the_turn(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    caller.gate = asyncio.Event()
    core = make_core(caller)
    session = await core.open_session(S)
    running = asyncio.create_task(session.turn("go", turn_id="t1").run())
    await caller.entered.wait()
    broken = TurnInput((TextItem("look"), AttachmentItem(Stored("sha256:" + "0" * 64, "image/png", 3))))
    await core.inject_turn_input(S, "t1", "k", broken)
    caller.gate.set()
    assert (await running).result.assistant_message() == "two"
    assert "look" in said(session.read_view().messages)
    assert await session.pending_turn_inputs() == ()


async def test_a_stalled_turn_keeps_what_it_took_over_any_number_of_renewals(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("two")])
    caller.gate = asyncio.Event()
    # Renewed often, and long enough for a busy machine.
    core = make_core(caller, lease_timings=LeaseTimings(60_000, 10))
    session = await core.open_session(S)
    running = asyncio.create_task(session.turn("go", turn_id="t1").run())
    await caller.entered.wait()
    other = await make_core(ScriptedCaller([])).open_session(S)
    renewed = await renewals(core, 3)
    assert await other.pending_turn_inputs() == () and await other.queued_turn().run() is None
    caller.gate.set()
    assert (await running).result.is_success and renewed


async def renewals(core, count: int) -> bool:
    """Return after the lease was renewed `count` times."""
    row = await core.store.session_row(S)
    seen = {row.lease.expires_at_ms}
    while len(seen) <= count:
        await asyncio.sleep(0.005)
        seen.add((await core.store.session_row(S)).lease.expires_at_ms)
    return True


async def test_a_turn_whose_lane_is_lost_leaves_what_it_took_to_its_redrive(make_core) -> None:
    holder = {}

    class LosingItsLane(ScriptedCaller):
        async def call(self, request, *, sink, cancel):
            if len(self.requests) == 1:
                lease = (await core.store.session_row(S)).lease
                await core.store.release_lease(fence_of(lease))
            return await super().call(request, sink=sink, cancel=cancel)

    caller = LosingItsLane([calls(("a", "work", "{}")), text("never")])
    core = holder["core"] = make_core(caller, tools=[injecting(holder)])
    session = await core.open_session(S)
    with pytest.raises(SessionExecutionLeaseExpired):
        await session.turn("go").run()
    other_core = make_core(ScriptedCaller([text("finished")]), tools=[injecting(holder)])
    other = await other_core.open_session(S)
    assert await other.pending_turn_inputs() == () and await other.queued_work() == ()
    output = await other.queued_turn().run()
    assert output.result.assistant_message() == "finished"
    assert said(other.read_view().messages).count("a word") == 1
    assert [row.state for row in await core.store.inputs(S, pending_only=False)] == [InputState.COMPLETED] * 2
    assert await other.queued_turn().run() is None


def fence_of(lease):
    from lash_cli.core.lease import LeaseFence

    owner = lease.owner
    return LeaseFence(S, owner.owner_id, owner.incarnation_id, lease.token, lease.fencing_token)


@pytest.mark.parametrize(
    "point", [*CLAIMED_POINTS, "before:model_recorded#2", "after:model_recorded#2", "before:commit"]
)
@pytest.mark.parametrize("is_repeated", [False, True], ids=["once", "again in the redrive"])
async def test_injected_text_and_wakes_are_used_once_wherever_the_owner_dies(make_core, point, is_repeated) -> None:
    name, _, nth = point.partition("#")
    holder = {}

    tools = [injecting(holder)]

    def answer(request):
        asked = said(request.messages)
        return text("saw it") if "a word" in asked else text("saw nothing")

    first = holder["core"] = make_core(
        ScriptedCaller([calls(("a", "work", "{}")), answer]), tools=tools, crash_point=CrashPoints(name, int(nth or 1))
    )
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("go").run()
    if is_repeated:
        again = make_core(ScriptedCaller([answer], repeat=True), tools=tools, crash_point=CrashPoints("before:commit"))
        with pytest.raises(Crash):
            await (await again.open_session(S)).queued_turn().run()
    last = make_core(ScriptedCaller([answer], repeat=True), tools=tools)
    session = await last.open_session(S)
    output = await session.queued_turn().run()
    assert output.result.assistant_message() == "saw it"
    messages = list(session.read_view().messages)
    assert is_safe_to_resume(messages)
    assert said(messages).count("a word") == 1
    assert sum(message.role is Role.EVENT for message in messages) == 1
    assert [row.state for row in await last.store.inputs(S, pending_only=False)] == [InputState.COMPLETED] * 2
    assert await last.store.queued_work(S, pending_only=False) == ()
    assert await session.queued_turn().run() is None


async def test_a_checkpoint_passed_empty_stays_empty_when_the_turn_is_driven_again(make_core) -> None:
    """The recorded answer was given without the text, so the text goes to a later checkpoint, never before it."""

    @tool(name="work")
    async def work(args: Nothing, context) -> str:
        return "worked"

    tools = [FunctionToolProvider([work])]
    first = make_core(
        ScriptedCaller([calls(("a", "work", "{}")), text("first answer")]),
        tools=tools,
        crash_point=CrashPoints("after:model_recorded", 2),
    )
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("go", turn_id="t1").run()
    caller = ScriptedCaller([text("second answer")])
    second = make_core(caller, tools=tools)
    session = await second.open_session(S)
    await second.inject_turn_input(S, "t1", "k", "a word")
    output = await session.redrive().run()
    assert output.result.assistant_message() == "second answer"
    assert said(session.read_view().messages) == ["go", "first answer", "a word", "second answer"]
    assert len(caller.requests) == 1


async def test_what_a_lost_answer_had_let_in_is_used_by_the_next_turn(make_core) -> None:
    """The drive that died had reached a checkpoint the redrive never comes to, because the model answers otherwise."""

    @tool(name="work")
    async def work(args: Nothing, context) -> str:
        return "worked"

    caller = ScriptedCaller([text("lost")])
    caller.gate = asyncio.Event()
    first = make_core(caller, tools=[FunctionToolProvider([work])])
    session = await first.open_session(S)
    dying = asyncio.create_task(session._run(TurnRequest(TurnInput.text("go"), "t1"), CancelToken(), unseen))
    await caller.entered.wait()
    await first.inject_turn_input(S, "t1", "k", "a word")
    at = f"tic:{S}/t1:c3"
    request = CheckpointRequest(turn_id="t1", checkpoint="before_completion", claim_id=at, claim_token="lost")
    taken = await first.store.claim_checkpoint_work(fence_of((await first.store.session_row(S)).lease), request)
    assert taken.inputs is not None
    dying.cancel()
    await asyncio.wait({dying})
    script = [calls(("a", "work", "{}")), text("otherwise"), text("to the word")]
    session = await make_core(ScriptedCaller(script), tools=[FunctionToolProvider([work])]).open_session(S)
    output = await session.redrive().run()
    assert (output.result.assistant_message(), output.has_waiting) == ("otherwise", True)
    assert (await session.queued_turn().run()).result.assistant_message() == "to the word"
    assert said(session.read_view().messages) == ["go", "otherwise", "a word", "to the word"]


async def test_what_turns_of_one_id_took_in_two_sessions_is_found_each_by_itself(make_core) -> None:
    """A cancel names the claim, and whoever gives it back names nothing else: the turn of the other session stays."""
    holder, claims = {}, []

    @tool(name="work")
    async def work(args: Nothing, context) -> str:
        await holder["core"].inject_turn_input(context.session_id, "t1", "k", "a word")
        return "worked"

    for session_id in (S, "another"):
        core = holder["core"] = make_core(
            ScriptedCaller([calls(("a", "work", "{}"))]),
            tools=[FunctionToolProvider([work])],
            crash_point=CrashPoints("after:checkpoint_claimed"),
        )
        with pytest.raises(Crash):
            await (await core.open_session(session_id)).turn("go", turn_id="t1").run()
        word = (await core.store.inputs(session_id, pending_only=False))[1]
        claims.append((await core.queue(session_id).cancel_input(word.input_id)).claim.claim_id)
    found = [await core.store.find_claim(claim_id) for claim_id in claims]
    assert [claim.session_id for claim in found] == [S, "another"]


async def test_a_cancelled_redrive_gives_back_what_its_transcript_does_not_show(make_core) -> None:
    holder = {}

    tools = [injecting(holder)]
    first = holder["core"] = make_core(
        ScriptedCaller([calls(("a", "work", "{}")), text("x")]), tools=tools, crash_point=CrashPoints("before:commit")
    )
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("go").run()
    second = make_core(ScriptedCaller([text("after the word"), text("after the wake")]), tools=tools)
    session = await second.open_session(S)
    await second.request_turn_cancel(S)
    assert (await session.redrive().run()).result.outcome == Stopped("cancelled")
    assert said(session.read_view().messages) == ["go"]
    assert (await session.queued_turn().run()).result.assistant_message() == "after the wake"
    texts = said(session.read_view().messages)
    assert [texts[0], texts[1], texts[2], texts[4]] == ["go", "a word", "after the word", "after the wake"]
    assert texts[3].startswith("Background process wake")
    assert await session.queued_turn().run() is None
