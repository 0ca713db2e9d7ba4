"""A turn that hands on to another agent frame, cut off between the two: who asks for it again gets the end of it
(contract 01 §5.4)."""

from __future__ import annotations

import asyncio

import pytest
from support.driving import Crash, CrashPoints, S, said
from support.scripted import ScriptedCaller, text
from support.switching import Switching, switch

from lash_cli.api import AgentFrameSwitch, LashSession, RefreshToolCatalog, TurnOutput
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.errors import SessionExecutionBusy

ROOT, FOLLOWING = "root", "root:agent-frame:1"


async def cut(make_core, *steps, point: str = "before:lane", nth: int = 2) -> None:
    """A turn `root` under key `k` whose process dies at a point, between its frames unless another is named."""
    first = make_core(ScriptedCaller(steps), tools=[Switching()], crash_point=CrashPoints(point, nth))
    with pytest.raises(Crash):
        await (await first.open_session(S)).turn("begin", turn_id=ROOT, key="k").run()


async def reopened(make_core, *steps, **options) -> LashSession:
    return await make_core(ScriptedCaller(steps), tools=[Switching()], **options).open_session(S, create=False)


def ids(output: TurnOutput) -> list[str]:
    return [result.turn_id for result in (*output.frames, output.result)]


@pytest.mark.parametrize("with_command", [False, True], ids=["alone", "behind a command"])
async def test_a_handle_that_starts_over_lets_a_crashed_turn_hand_on_in_its_own_history(
    make_core, with_command
) -> None:
    async with await make_core(ScriptedCaller([text("one")])).open_session(S) as first:
        await first.turn("before").run()
    await cut(make_core, switch("f2", "go on"), point="after:model_recorded", nth=1)
    caller = ScriptedCaller([text("finished"), text("new")])
    core = make_core(caller, tools=[Switching()])
    if with_command:
        await core.queue(S).submit_command(RefreshToolCatalog("news"), "k1")
    session = await core.open_fresh(S)
    output = await session.turn("start over").run()
    assert [result.turn_id for result in output.redriven] == [ROOT, FOLLOWING]
    assert [result.assistant_message() for result in output.turns] == [None, "finished", "new"]
    assert said(caller.requests[0].messages) == ["go on"]
    assert said(caller.requests[1].messages) == ["start over"]
    stored = await make_core(ScriptedCaller([])).open_session(S, create=False)
    assert said(stored.read_view().messages) == ["start over", "new"]
    assert stored.read_view().turn_index == 4


async def test_a_pass_over_the_queue_gives_the_turn_that_follows_its_id(make_core) -> None:
    await cut(make_core, switch("f2", "go on"))
    session = await reopened(make_core, text("finished"))
    assert (await session.queued_turn().run()).result.turn_id == FOLLOWING
    again = await session.turn("begin", key="k").run()
    assert (again.replayed, again.result.assistant_message(), ids(again)) == (True, "finished", [ROOT, FOLLOWING])


@pytest.mark.parametrize("name", [{"key": "k"}, {"turn_id": ROOT}, {"key": "k", "turn_id": ROOT}])
async def test_who_asks_again_drives_what_was_left_and_gets_its_answer(make_core, name) -> None:
    await cut(make_core, switch("f2", "go on"))
    session = await reopened(make_core, text("finished"))
    output = await session.turn("begin", **name).run()
    assert (output.replayed, output.result.assistant_message(), ids(output)) == (False, "finished", [ROOT, FOLLOWING])
    assert said(session.read_view().messages) == ["go on", "finished"]
    assert await session.queued_work() == ()
    assert (await session._core.store.session_row(S)).lease.token is None
    again = await session.turn("begin", **name).run()
    assert (again.replayed, again.result, again.frames) == (True, output.result, output.frames)


@pytest.mark.parametrize(("point", "nth"), [("before:commit", 2), ("after:lane", 2), ("after:model_recorded", 2)])
async def test_a_turn_that_follows_and_was_cut_off_itself_is_finished(make_core, point: str, nth: int) -> None:
    await cut(make_core, switch("f2", "go on"), text("finished"), point=point, nth=nth)
    session = await reopened(make_core, text("finished"))
    output = await session.turn("begin", key="k").run()
    assert (output.result.assistant_message(), ids(output)) == ("finished", [ROOT, FOLLOWING])
    assert said(session.read_view().messages) == ["go on", "finished"]
    assert [result.turn_id for result in output.turns] == [FOLLOWING]


async def test_a_chain_that_was_cut_later_goes_on_from_there(make_core) -> None:
    await cut(make_core, switch("f2", "go on"), switch("f3", "go further", "b"), nth=3)
    session = await reopened(make_core, switch("f4", "and further", "c"), text("finished"))
    output = await session.turn("begin", key="k").run()
    assert ids(output) == [ROOT, *(f"{ROOT}:agent-frame:{number}" for number in (1, 2, 3))]
    assert output.result.assistant_message() == "finished"
    assert [frame.frame_id for frame in session.read_view().frames][1:] == ["f2", "f3", "f4"]


async def test_what_was_said_in_between_stays_before_the_turn_that_follows(make_core) -> None:
    await cut(make_core, switch("f2", "go on"))
    session = await reopened(make_core, text("in between"), text("finished"))
    await session.turn("meanwhile").run()
    output = await session.turn("begin", key="k").run()
    assert ids(output) == [ROOT, FOLLOWING]
    assert said(session.read_view().messages) == ["meanwhile", "in between", "go on", "finished"]


async def test_while_somebody_else_has_the_session_the_turn_is_not_over(make_core) -> None:
    await cut(make_core, switch("f2", "go on"))
    session = await reopened(make_core, text("finished"))
    store = session._core.store
    lease = await store.try_claim_lease(S, LeaseOwnerIdentity("somebody", "1"), ttl_ms=60_000, token="theirs")
    with pytest.raises(SessionExecutionBusy):
        await session.turn("begin", key="k").run()
    asking = asyncio.ensure_future(session.turn("begin", key="k", busy_wait_ms=30_000).run())
    await asyncio.sleep(0.05)
    await store.release_lease(lease.fence())
    assert (await asyncio.wait_for(asking, 30)).result.assistant_message() == "finished"


@pytest.mark.parametrize("way", ["held", "cancelled"])
async def test_a_handoff_that_nobody_may_follow_is_answered_as_far_as_it_came(make_core, way: str) -> None:
    await cut(make_core, switch("f2", "go on"))
    session = await reopened(make_core, text("finished"))
    (batch,) = await session.queued_work()
    if way == "held":
        await session._core.queue(S).hold()
    else:
        await session._core.store.cancel_queued_work_batch(S, batch.batch_id)
    output = await session.turn("begin", key="k").run()
    assert output.replayed and isinstance(output.result.outcome, AgentFrameSwitch) and ids(output) == [ROOT]
    assert (await session._core.store.session_row(S)).lease.token is None
    if way == "held":
        await session._core.queue(S).release()
        assert (await session.turn("begin", key="k").run()).result.assistant_message() == "finished"


async def test_somebody_who_follows_it_at_the_same_time_is_waited_for_or_read(make_core, tmp_path) -> None:
    """Another process takes the handoff between our look at it and our way into the lane."""
    await cut(make_core, switch("f2", "go on"))
    other = await reopened(make_core, text("theirs"))
    done: list[TurnOutput] = []

    def finish_elsewhere() -> None:
        async def finish() -> None:
            done.append(await other.queued_turn().run())

        loop = asyncio.new_event_loop()
        loop.run_until_complete(finish())
        loop.close()

    from threading import Thread

    def hook() -> None:
        thread = Thread(target=finish_elsewhere)
        thread.start()
        thread.join()

    seen: list[str] = []

    def at_second_lane(point: str) -> None:
        seen.append(point)
        if point == "before:lane" and seen.count(point) == 2:
            hook()

    session = await reopened(make_core, crash_point=at_second_lane)
    output = await session.turn("begin", key="k").run()
    assert [result.result.turn_id for result in done] == [FOLLOWING]
    assert (output.replayed, output.result.assistant_message(), ids(output)) == (True, "theirs", [ROOT, FOLLOWING])


async def test_a_cancel_ends_the_turn_that_follows_and_with_it_the_chain(make_core) -> None:
    await cut(make_core, switch("f2", "go on"))
    caller = ScriptedCaller([text("never")])
    caller.gate = asyncio.Event()
    core = make_core(caller, tools=[Switching()])
    session = await core.open_session(S)
    running = asyncio.ensure_future(session.turn("begin", key="k").run())
    await asyncio.wait_for(caller.entered.wait(), 30)
    assert session.cancel_running_turns() == 1
    output = await asyncio.wait_for(running, 30)
    assert (output.replayed, ids(output)) == (False, [ROOT, FOLLOWING])
    assert output.result.cancellation is not None and await session.queued_work() == ()
