"""Compaction and the view over whole trajectories: what the model is told, what is kept, what it costs
(contract 01 §11, 05 §4.6, §5.2)."""

from __future__ import annotations

import asyncio

import pytest
from support.clock import ManualClock
from support.driving import Crash, CrashPoints, S, said
from support.scripted import ScriptedCaller, error, text

from lash_cli.api import LashCore, SqliteStore
from lash_cli.core.content import AttachmentItem, Inline, PluginOrigin, TextItem, TurnInput, message_text
from lash_cli.core.context import SummaryRequest
from lash_cli.core.frames import FrameStatus
from lash_cli.core.lease import LeaseOwnerIdentity, LeaseTimings
from lash_cli.core.observation import AgentFrameSwitched, StateCommitted
from lash_cli.core.policy import ModelLimits, ModelSpec, SessionPolicy
from lash_cli.core.prompt import STANDARD_BUILTINS
from lash_cli.errors import (
    ConflictError,
    LashRuntimeError,
    SessionExecutionBusy,
    SessionExecutionLeaseExpired,
    SessionStillInUse,
    StoreError,
)
from lash_cli.plugins.rolling_history import RollingHistory
from lash_cli.runtime.cancellation import CancelCause, CancelToken
from lash_cli.runtime.context import shown_conversation
from lash_cli.store.base import ReadScope

SMALL = SessionPolicy(ModelSpec("model-1", limits=ModelLimits(context_window_tokens=50_000)), "scripted")
BIG_ANSWER = (31_000, 10)


def is_summary_call(request) -> bool:
    return request.scope.session_id.endswith("-compaction")


async def talked(core, *texts: str):
    session = await core.open_session(S)
    for one in texts:
        await session.turn(one).run()
    return session


async def test_a_compaction_opens_a_frame_with_a_summary_and_the_recent_turns(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("the gist", tokens=(70, 7)), text("after")])
    core = make_core(caller, builtins=STANDARD_BUILTINS)
    session = await talked(core, "one", "two")
    before = session.read_view()
    assert await session.admin().compact_context("the numbers")
    view = session.read_view()
    assert said(view.messages) == ["Compaction summary:\n\nthe gist", "two", "ok"]
    assert view.messages[0].origin == PluginOrigin("rolling_history")
    assert [(frame.reason, frame.status) for frame in view.frames] == [
        ("initial", FrameStatus.SUPERSEDED),
        ("compaction", FrameStatus.ACTIVE),
    ]
    assert view.frames[1].frame_id == f"{S}:frame:compaction:r2"
    assert (view.turn_index, view.last_prompt_usage) == (2, None)
    asked = caller.requests[2]
    assert is_summary_call(asked) and asked.tools == ()
    assert [request.is_shown for request in caller.requests] == [True, True, False]
    is_told_who_it_is = [STANDARD_BUILTINS.main_agent_intro in request.system for request in caller.requests]
    assert is_told_who_it_is == [True, True, False]
    prompt = message_text(asked.messages[0])
    assert "Pay particular attention to this:\nthe numbers" in prompt
    assert "one" in prompt and "two" not in prompt.partition("# The conversation")[2]
    entry = next(entry for entry in session.usage_report().by_source_model if entry.source == "compaction")
    assert (entry.usage.input_tokens, entry.usage.output_tokens) == (70, 7)
    await session.turn("three").run()
    assert said(caller.requests[3].messages) == ["Compaction summary:\n\nthe gist", "two", "ok", "three"]
    # The old frame is as it was, and the way back to it is open.
    await session.admin().branch_to_node(before.leaf_node_id)
    assert said(session.read_view().messages) == ["one", "ok", "two", "ok"]


async def test_a_second_workers_refresh_sees_the_compaction_and_observers_are_told(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("gist"), text("late")])
    core, other_core = make_core(caller), make_core(caller)
    session = await talked(core, "one", "two")
    other = await other_core.open_session(S, create=False)
    cursor = (await core.observe(S).current_observation()).cursor
    assert await session.admin().compact_context()
    replayed = await core.observe(S).resume_from_cursor(cursor)
    kinds = [type(event.payload) for event in replayed.events]
    assert kinds[-2:] == [AgentFrameSwitched, StateCommitted]
    await other.turn("three").run()
    assert said(caller.requests[-1].messages) == ["Compaction summary:\n\ngist", "two", "ok", "three"]
    fork = await core.fork_session(S)
    copy = await core.open_session(fork.session_id, create=False)
    assert said(copy.read_view().messages)[0] == "Compaction summary:\n\ngist"


async def test_a_later_compaction_brings_the_summary_up_to_date(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("first gist"), text("ok"), text("second gist")])
    core = make_core(caller)
    session = await talked(core, "one", "two")
    await session.admin().compact_context()
    await session.turn("three").run()
    await session.admin().compact_context()
    prompt = message_text(caller.requests[-1].messages[0])
    assert "first gist" in prompt and "Bring that summary up to date" in prompt
    assert said(session.read_view().messages) == ["Compaction summary:\n\nsecond gist", "three", "ok"]
    assert len(session.read_view().frames) == 3


@pytest.mark.parametrize("answer", [text("  "), error("auth"), text("gist")])
async def test_without_a_summary_nothing_changes_but_the_cost(make_core, answer) -> None:
    token = CancelToken()
    if answer == text("gist"):
        token.trip(CancelCause.LOCAL)
    caller = ScriptedCaller([text("ok"), text("ok"), answer])
    core = make_core(caller)
    session = await talked(core, "one", "two")
    report = await session.admin().compact_with_report(token=token)
    assert (report.is_opened, report.reason) == (False, "no_summary")
    assert said(session.read_view().messages) == ["one", "ok", "two", "ok"]
    assert len(session.read_view().frames) == 1
    spent = [entry.source for entry in session.usage_report().by_source_model]
    assert spent == (["compaction", "turn"] if answer == text("  ") else ["turn"])
    assert (await core.store.session_row(S)).lease.token is None


async def test_a_session_without_history_or_plugins_has_nothing_to_compact(make_core) -> None:
    core = make_core(ScriptedCaller([text("ok")], repeat=True))
    session = await core.open_session(S)
    assert not await session.admin().compact_context()
    bare = make_core(ScriptedCaller([text("ok")], repeat=True), context=())
    other = await bare.open_session("other")
    await other.turn("one").run()
    report = await other.admin().compact_with_report()
    assert report.reason == "nothing_to_compact"
    assert (await bare.store.head_position("other")).head_revision == 1


async def test_frames_that_a_state_brought_do_not_stand_in_the_way_of_a_turn_that_makes_room(
    make_core, tmp_path
) -> None:
    """They were named after heads of another store, and the heads here count anew."""
    caller = ScriptedCaller([text("ok")], repeat=True)
    core = make_core(caller)
    session = await talked(core, "one", "two")
    await session.admin().compact_context()
    await session.turn("three").run()
    await session.admin().compact_context()
    state = session.export_state()
    frames = [frame.frame_id for frame in state.frames]
    assert frames[1:] == [f"{S}:frame:compaction:r2", f"{S}:frame:compaction:r4"]
    full = ScriptedCaller([text("ok", tokens=BIG_ANSWER)], repeat=True)
    async with LashCore(provider=full, policy=SMALL, store=SqliteStore.open(tmp_path / "other.db")) as other:
        copied = await other.open_with_state(S, state)
        for word in ("four", "five", "six", "seven"):
            assert (await copied.turn(word).run()).result.is_success
        names = [frame.frame_id for frame in copied.read_view().frames]
    assert f"{S}:frame:compaction:r2.2" in names and len(set(names)) == len(names) > 4


async def test_a_repeated_operation_opens_one_frame(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("gist")])
    core = make_core(caller)
    session = await talked(core, "one", "two")
    first = await session.admin().compact_with_report(operation_id="op-1")
    again = await session.admin().compact_with_report(operation_id="op-1")
    assert (first.is_opened, again.is_opened) == (True, False)
    assert first.frame_id == f"{S}:frame:compaction:op-1"
    assert len(session.read_view().frames) == 2 and len(caller.requests) == 3


async def test_nothing_begins_in_a_frame_that_is_about_to_be_left(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("gist"), text("late")])
    core, other = make_core(caller), make_core(caller)
    session = await talked(core, "one", "two")
    caller.gate = asyncio.Event()
    caller.entered.clear()
    compacting = asyncio.create_task(session.admin().compact_context())
    await asyncio.wait_for(caller.entered.wait(), 30)
    theirs = await other.open_session(S, create=False)
    with pytest.raises(SessionExecutionBusy):
        await theirs.turn("three").run()
    with pytest.raises(SessionStillInUse):
        await session.park()
    caller.gate.set()
    assert await asyncio.wait_for(compacting, 30)


async def compacting_at_a_gate(make_core, caller: ScriptedCaller, **options):
    """A session of two turns whose compaction waits for the model, and the task it runs in."""
    core = make_core(caller, **options)
    session = await talked(core, "one", "two")
    caller.gate = asyncio.Event()
    caller.entered.clear()
    compacting = asyncio.create_task(session.admin().compact_context())
    await asyncio.wait_for(caller.entered.wait(), 30)
    return core, session, compacting


async def test_the_lane_is_kept_however_long_the_model_takes(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("gist")])
    core, _, compacting = await compacting_at_a_gate(make_core, caller, lease_timings=LeaseTimings(60_000, 200))
    first = now = (await core.store.session_row(S)).lease
    for _ in range(600):
        if now.expires_at_ms > first.expires_at_ms:
            break
        await asyncio.sleep(0.05)
        now = (await core.store.session_row(S)).lease
    assert now.expires_at_ms > first.expires_at_ms
    assert (now.fencing_token, now.token) == (first.fencing_token, first.token)
    caller.gate.set()
    assert await asyncio.wait_for(compacting, 30)


async def test_who_lost_the_lane_meanwhile_compacts_nothing(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("gist"), text("theirs")])
    core, session, compacting = await compacting_at_a_gate(make_core, caller)
    lease = (await core.store.session_row(S)).lease
    taken = await core.store.reclaim_lease(
        S,
        LeaseOwnerIdentity("thief", "1"),
        observed_fencing_token=lease.fencing_token,
        ttl_ms=30_000,
        token="stolen",
    )
    caller.gate.set()
    with pytest.raises(SessionExecutionLeaseExpired):
        await asyncio.wait_for(compacting, 30)
    await core.store.release_lease(taken.fence())
    assert said(session.read_view().messages) == ["one", "ok", "two", "ok"]
    other = await make_core(caller).open_session(S, create=False)
    await other.turn("three").run()
    assert said(caller.requests[-1].messages) == ["one", "ok", "two", "ok", "three"]


async def test_a_turn_that_was_cut_off_is_finished_before_a_compaction(make_core) -> None:
    caller = ScriptedCaller([text("ok")], repeat=True)
    core = make_core(caller, crash_point=CrashPoints("before:commit", 2))
    session = await core.open_session(S)
    await session.turn("one").run()
    with pytest.raises(Crash):
        await session.turn("two").run()
    other = make_core(caller)
    theirs = await other.open_session(S, create=False)
    with pytest.raises(ConflictError) as caught:
        await theirs.admin().compact_context()
    assert caught.value.code == "turn_unfinished"


@pytest.mark.parametrize("point", ["before:frame", "after:frame"])
async def test_a_crash_around_the_commit_leaves_one_frame_or_the_other(make_core, point: str) -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("gist"), text("gist again"), text("late")])
    core = make_core(caller, crash_point=CrashPoints(point))
    session = await talked(core, "one", "two")
    with pytest.raises(Crash):
        await session.admin().compact_context()
    other = make_core(caller)
    theirs = await other.open_session(S, create=False)
    frames = len(theirs.read_view().frames)
    assert frames == (1 if point == "before:frame" else 2)
    if frames == 1:
        assert await theirs.admin().compact_context()
    await theirs.turn("three").run()
    assert said(caller.requests[-1].messages)[0].startswith("Compaction summary:")


async def test_a_turn_that_would_not_fit_begins_in_a_compacted_frame(make_core) -> None:
    long = "x" * 40_000
    caller = ScriptedCaller([text("ok"), text("ok", tokens=BIG_ANSWER), text("gist"), text("fits"), text("again")])
    core = make_core(caller, policy=SMALL, model=None)
    session = await talked(core, long, "y" * 60_000, "three")
    assert [is_summary_call(request) for request in caller.requests] == [False, False, True, False]
    assert said(caller.requests[3].messages)[0] == "Compaction summary:\n\ngist"
    assert said(caller.requests[3].messages)[-1] == "three"
    assert len(session.read_view().frames) == 2
    assert session.read_view().turn_index == 3
    sources = {entry.source for entry in session.usage_report().by_source_model}
    assert sources == {"turn", "compaction"}


async def test_a_turn_goes_on_uncompacted_when_no_summary_comes(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok", tokens=BIG_ANSWER), error("auth"), text("all the same")])
    core = make_core(caller, policy=SMALL, model=None)
    session = await talked(core, "one", "two", "three")
    assert said(caller.requests[3].messages) == ["one", "ok", "two", "ok", "three"]
    assert len(session.read_view().frames) == 1


@pytest.mark.parametrize("point", ["before:frame", "after:frame", "before:commit"])
async def test_a_turn_that_crashed_around_its_compaction_is_finished(make_core, point: str) -> None:
    caller = ScriptedCaller(
        [text("ok"), text("ok", tokens=BIG_ANSWER), text("gist"), text("third"), text("third"), text("late")]
    )
    core = make_core(caller, policy=SMALL, model=None)
    await talked(core, "one", "two")
    crashing = make_core(caller, policy=SMALL, model=None, crash_point=CrashPoints(point))
    theirs = await crashing.open_session(S, create=False)
    with pytest.raises(Crash):
        await theirs.turn("three", turn_id="t-3").run()
    last = make_core(caller, policy=SMALL, model=None)
    session = await last.open_session(S, create=False)
    output = await session.redrive().run()
    assert output.result is not None and output.result.turn_id == "t-3" and output.result.is_success
    assert said(session.read_view().messages)[-2:] == ["three", output.result.assistant_message()]
    read = await last.store.load_session(S, ReadScope.FULL_GRAPH)
    assert read is not None
    texts = [message_text(node.payload.message) for node in read.nodes]
    assert texts.count("three") == 1


def killed(request):
    raise Crash("in the call of the model")


@pytest.mark.parametrize("point", ["before:frame", "in the summary", "before the turn's first answer"])
async def test_a_turn_that_crashed_before_it_did_anything_is_finished_in_a_compacted_frame(make_core, point) -> None:
    talk = [text("ok"), text("ok", tokens=BIG_ANSWER)]
    crash = {"before:frame": [text("lost")], "in the summary": [killed]}.get(point, [text("gist"), killed])
    rest = [text("fits")] if len(crash) == 2 else [text("gist"), text("fits")]
    caller = ScriptedCaller([*talk, *crash, *rest])
    await talked(make_core(caller, policy=SMALL, model=None), "one", "two")
    crashing = make_core(caller, policy=SMALL, model=None, crash_point=CrashPoints(point))
    with pytest.raises(Crash):
        await (await crashing.open_session(S, create=False)).turn("three", turn_id="t-3").run()
    session = await make_core(caller, policy=SMALL, model=None).open_session(S, create=False)
    output = await session.redrive().run()
    assert output.result is not None and output.result.turn_id == "t-3"
    assert said(caller.requests[-1].messages) == ["Compaction summary:\n\ngist", "two", "ok", "three"]
    assert [frame.reason for frame in session.read_view().frames] == ["initial", "compaction"]


async def test_a_turn_whose_first_answer_was_recorded_is_finished_on_what_it_was_asked(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok", tokens=BIG_ANSWER), error("auth"), text("all the same")])
    await talked(make_core(caller, policy=SMALL, model=None), "one", "two")
    crashing = make_core(caller, policy=SMALL, model=None, crash_point=CrashPoints("after:model_recorded"))
    with pytest.raises(Crash):
        await (await crashing.open_session(S, create=False)).turn("three").run()
    session = await make_core(caller, policy=SMALL, model=None).open_session(S, create=False)
    await session.redrive().run()
    assert said(session.read_view().messages) == ["one", "ok", "two", "ok", "three", "all the same"]
    assert len(caller.requests) == 4


class Failing(RollingHistory):
    """A context plugin that fails where it is told to."""

    plugin_id = "failing"
    where = ""

    def prepare_turn(self, messages, moment):
        return self._or_fail("prepare", messages)

    def is_due(self, moment):
        return self._or_fail("due", self.where == "compact")

    async def compact(self, context):
        return self._or_fail("compact", ())

    def _or_fail(self, where: str, answer):
        if where == self.where:
            raise KeyError("broken \ud800")
        return answer


@pytest.mark.parametrize(
    ("where", "code"),
    [("prepare", "context_prepare_turn"), ("due", "context_prepare_turn"), ("compact", "context_compact")],
)
async def test_a_plugin_that_fails_leaves_the_turn_to_be_finished_and_says_who_it_is(make_core, where, code) -> None:
    plugin = Failing()
    core = make_core(ScriptedCaller([text("ok")], repeat=True), context=[plugin])
    session = await talked(core, "one")
    plugin.where = where
    with pytest.raises(LashRuntimeError, match="'failing' failed: KeyError") as caught:
        await session.turn("two").run()
    assert caught.value.code == code
    assert (await core.store.session_row(S)).lease.token is None
    plugin.where = ""
    await session.redrive().run()
    assert said(session.read_view().messages) == ["one", "ok", "two", "ok"]


@pytest.mark.parametrize("where", ["prepare", "due", "compact"])
async def test_a_turn_whose_plugin_always_fails_can_be_ended_by_a_cancel(make_core, where: str) -> None:
    plugin = Failing()
    core = make_core(ScriptedCaller([text("ok")], repeat=True), context=[plugin])
    session = await talked(core, "one")
    plugin.where = where
    with pytest.raises(LashRuntimeError):
        await session.turn("two", turn_id="t-2").run()
    await session.request_turn_cancel("t-2", "r1")
    output = await session.redrive().run()
    assert output.result.cancellation.request_id == "r1"
    plugin.where = ""
    assert (await session.turn("three").run()).result.is_success


class Pondering(RollingHistory):
    """A context plugin that asks for a summary and then thinks about it without end."""

    def __init__(self) -> None:
        super().__init__()
        self.is_pondering = asyncio.Event()

    async def compact(self, context):
        await context.summarise(SummaryRequest("you summarise", "what was said?"))
        self.is_pondering.set()
        await asyncio.get_running_loop().create_future()


async def test_what_a_compaction_had_cost_when_it_was_stopped_is_booked_with_the_next_turn(make_core) -> None:
    plugin = Pondering()
    caller = ScriptedCaller([text("ok"), text("gist", tokens=(70, 7)), text("ok")])
    session = await talked(make_core(caller, context=[plugin]), "one")
    compacting = asyncio.create_task(session.admin().compact_context())
    await asyncio.wait_for(plugin.is_pondering.wait(), 30)
    compacting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await compacting
    await session.turn("two").run()
    stored = await make_core(ScriptedCaller([])).open_session(S, create=False)
    for report in (session.usage_report(), stored.usage_report()):
        (entry,) = [entry for entry in report.by_source_model if entry.source == "compaction"]
        assert (entry.usage.input_tokens, entry.usage.output_tokens) == (70, 7)


def with_picture(name: str) -> TurnInput:
    return TurnInput((TextItem(name), AttachmentItem(Inline("image/png", b"\x89PNG" + name.encode(), name))))


async def test_a_full_context_is_shown_without_old_attachments_and_kept_with_them(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok", tokens=BIG_ANSWER)], repeat=True)
    policy = SessionPolicy(ModelSpec("model-1", limits=ModelLimits(context_window_tokens=51_500)), "scripted")
    core = make_core(caller, policy=policy, model=None)
    session = await core.open_session(S)
    bases = []
    for name in ("a.png", "b.png", "c.png"):
        bases.append(shown_conversation(core.host, session._state, policy).base)
        await session.turn(with_picture(name)).run()
    kinds = [[part.__struct_config__.tag for part in message.parts] for message in caller.requests[2].messages]
    assert kinds == [["text", "text"], ["prose"], ["text", "attachment"], ["prose"], ["text", "attachment"]]
    assert message_text(caller.requests[2].messages[0]) == "a.png[a.png: left out to save room]"
    assert [":view=" in base for base in bases] == [False, False, True], "what is journalled names what was left out"
    stored = [part.__struct_config__.tag for part in session.read_view().messages[0].parts]
    assert stored == ["text", "attachment"]


async def test_a_turn_that_makes_room_first_takes_the_time_of_that_too(tmp_path) -> None:
    clock = ManualClock()

    def summary(request):
        clock.tick(20)
        return text("gist")

    caller = ScriptedCaller([text("ok"), text("ok", tokens=BIG_ANSWER), summary, text("fits")])
    store = SqliteStore.open(tmp_path / "lash.db", clock=clock)
    async with LashCore(provider=caller, policy=SMALL, store=store, clock=clock, queue_driver="none") as core:
        session = await talked(core, "one", "two")
        began = clock.now_ms()
        done = (await session.turn("three").run()).result
    assert (done.execution.started_at_ms, done.execution.duration_ms) == (began, 20_000)
    assert began + 20_000 == clock.now_ms()


async def test_a_turn_that_does_not_know_whether_room_was_made_leaves_the_lane_to_its_expiry(
    make_core, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = ScriptedCaller([text("ok"), text("ok", tokens=BIG_ANSWER), text("gist")])
    core = make_core(caller, policy=SMALL)
    session = await talked(core, "one", "two")

    async def unsure(commit, **options):
        raise StoreError("the disk refused")

    with monkeypatch.context() as failing, pytest.raises(StoreError):
        failing.setattr(core.store, "commit_runtime_state", unsure)
        await session.turn("three").run()
    assert (await core.store.session_row(S)).lease.owner is not None


async def test_a_session_in_memory_is_compacted_too() -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("gist"), text("late")])
    async with LashCore(provider=caller, model=ModelSpec("model-1")) as core:
        session = await talked(core, "one", "two")
        assert await session.admin().compact_context()
        await session.turn("three").run()
        assert said(caller.requests[-1].messages) == ["Compaction summary:\n\ngist", "two", "ok", "three"]
        assert {entry.source for entry in session.usage_report().by_source_model} == {"turn", "compaction"}


async def test_a_turn_that_would_not_fit_makes_room_in_a_session_in_memory_too() -> None:
    caller = ScriptedCaller([text("ok"), text("ok", tokens=BIG_ANSWER), text("gist"), text("fits")])
    async with LashCore(provider=caller, policy=SMALL) as core:
        session = await talked(core, "one", "two", "three")
        assert said(caller.requests[-1].messages) == ["Compaction summary:\n\ngist", "two", "ok", "three"]
        assert [frame.reason for frame in session.read_view().frames] == ["initial", "compaction"]
        assert {entry.source for entry in session.usage_report().by_source_model} == {"turn", "compaction"}
