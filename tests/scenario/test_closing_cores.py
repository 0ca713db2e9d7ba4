"""A core that is closed is closed as a whole, whoever is stopped meanwhile and however long one of its turns takes to
stop (contract 01 §1, §6.6)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.cancelling import MOST_STEPS, cancelled_at, settle
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    FunctionToolProvider,
    LashCore,
    ModelRequestStarted,
    ModelSpec,
    SessionTaken,
    SqliteStore,
    Stopped,
    StopReason,
    TurnOutput,
    WorkOptions,
    provider,
    shared,
    tool,
)
from lash_cli.api.turns import STREAM_QUEUE_ITEMS
from lash_cli.core.activity import TurnActivity
from lash_cli.core.content import message_text
from lash_cli.core.llm import LlmCallResult, LlmRequest, TextDelta
from lash_cli.core.protocols import CancelSignal, EventSink
from lash_cli.errors import LashRuntimeError, SessionClosed, StoreClosed

SESSIONS = ("s1", "s2")
LIMIT_S = 20


class Nothing(msgspec.Struct):
    """No arguments."""


class FromThere(frozenset[int]):
    """Every step from one on: a scope that is cancelled again and again until it is left, as that of anyio is."""

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and step >= min(self)


async def running_turns(core: LashCore, caller: ScriptedCaller, names: Sequence[str]) -> list[asyncio.Task[TurnOutput]]:
    """A turn in each session, all of which wait for the model."""
    caller.gate = asyncio.Event()
    turns = []
    for name in names:
        session = await core.open_session(name)
        caller.entered.clear()
        turns.append(asyncio.create_task(session.turn("x").run()))
        await caller.entered.wait()
    return turns


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("lash")}


@pytest.mark.parametrize("driver", ["none", "inline"])
@pytest.mark.parametrize("when", [frozenset, FromThere], ids=["once", "again-and-again"])
async def test_a_core_whose_closing_is_cancelled_at_any_step_is_closed_with_its_turns_committed(
    make_core, when: Callable[[set[int]], frozenset[int]], driver: str
) -> None:
    for step in range(1, MOST_STEPS):
        caller = ScriptedCaller([text("never")], repeat=True)
        core: LashCore = make_core(caller, queue_driver=driver)
        turns = await running_turns(core, caller, [f"{name}.{step}" for name in SESSIONS])
        was_reached = await cancelled_at(core.aclose(), when({step}), every_task=False)
        if step > 1:  # before it begins nothing is closed
            assert all(turn.done() for turn in turns), step
            assert not threads(), step
        await core.aclose()
        for turn in turns:
            result = (await turn).result
            assert result.cancellation is not None and result.cancellation.reason == "core closed", step
        await settle()
        if not was_reached:
            return
    raise AssertionError(f"more than {MOST_STEPS} steps")


async def test_all_turns_of_a_core_are_stopped_together_and_none_behind_the_commit_of_another(make_core) -> None:
    caller = ScriptedCaller([text("never")], repeat=True)
    core: LashCore = make_core(caller)
    turns = await running_turns(core, caller, SESSIONS)
    all_commit = asyncio.Barrier(len(turns))
    commit = core.store.commit_runtime_state

    async def commit_beside_the_others(*arguments: Any, **options: Any) -> Any:
        async with all_commit:
            return await commit(*arguments, **options)

    core.store.commit_runtime_state = commit_beside_the_others  # type: ignore[method-assign]
    async with asyncio.timeout(LIMIT_S):
        await core.aclose()
    for turn in turns:
        outcome = (await turn).result.outcome
        assert isinstance(outcome, Stopped) and outcome.reason == "cancelled"


async def test_a_tool_that_closes_its_core_ends_its_turn_as_cancelled(make_core) -> None:
    @tool(name="leave")
    async def leave(args: Nothing, context: object) -> str:
        """Closes what it runs in."""
        await core.aclose()
        return "never"

    core: LashCore = make_core(ScriptedCaller([calls(("c1", "leave", "{}"))]), tools=[FunctionToolProvider([leave])])
    session = await core.open_session("s1")
    output = await asyncio.wait_for(session.turn("x").run(), LIMIT_S)
    assert isinstance(output.result.outcome, Stopped) and output.result.outcome.reason == "cancelled"
    await asyncio.wait_for(core.aclose(), LIMIT_S)
    other = await make_core(ScriptedCaller([text("here")])).open_session("s1")
    assert (await other.turn("after").run()).result.assistant_message() == "here"
    assert [message_text(message) for message in other.read_view().messages][-2:] == ["after", "here"]


@pytest.mark.parametrize("who", ["sink", "sink that waits in a task", "listener of a worker"])
async def test_who_closes_the_core_where_its_turn_waits_for_him_is_refused_and_closes_it_after_the_turn(
    make_core, monkeypatch, who: str
) -> None:
    monkeypatch.setattr(shared, "OWN_TURN_S", 0.05)
    core: LashCore = make_core(ScriptedCaller([text("never")], repeat=True))
    refused: list[LashRuntimeError] = []

    async def leave(event: object) -> None:
        if not refused and not isinstance(event, SessionTaken):
            with pytest.raises(LashRuntimeError) as refusal:
                await (core.aclose() if who == "sink" else asyncio.create_task(core.aclose()))
            refused.append(refusal.value)

    session = await core.open_session("s1")
    async with asyncio.timeout(LIMIT_S):
        if who == "listener of a worker":
            await session.enqueue("x")
            report = await core.worker(WorkOptions(until_empty=True), on_event=leave).run(["s1"])
            assert report.turns == 1
        else:
            output = await session.turn("x").stream_to(leave)
            assert output.result.cancellation is not None and output.result.cancellation.reason == "core closed"
        assert refused[0].code == "session_in_turn" and "close the core" in (refused[0].hint or "")
        await core.aclose()
    other = await make_core(ScriptedCaller([text("here")])).open_session("s1")
    assert (await other.turn("after").run()).result.assistant_message() == "here"
    assert [message_text(message) for message in other.read_view().messages if message.role == "user"] == ["x", "after"]


@pytest.mark.parametrize("then", ["closes the core", "waits for its end"])
async def test_a_turn_that_is_to_stop_waits_for_no_reader_who_waits_for_its_end(make_core, then: str) -> None:
    class Talkative(ScriptedCaller):
        is_talking = asyncio.Event()

        async def call(self, request: LlmRequest, *, sink: EventSink, cancel: CancelSignal) -> LlmCallResult:
            for number in range(2 * STREAM_QUEUE_ITEMS):
                if number == STREAM_QUEUE_ITEMS // 2:
                    self.is_talking.set()
                await sink(TextDelta("word "))
            return await super().call(request, sink=sink, cancel=cancel)

    caller = Talkative([text("never")], repeat=True)
    core: LashCore = make_core(caller)
    session = await core.open_session("s1")
    async with asyncio.timeout(LIMIT_S), session.turn("x").stream() as stream:
        activity = await anext(stream)
        await caller.is_talking.wait()
        if then == "closes the core":
            await core.aclose()
        else:
            await session.request_turn_cancel(activity.turn_id, "c1")
            await core.await_terminal(session.address(activity.turn_id))
        output = await stream.result()
    assert isinstance(output.result.outcome, Stopped) and output.result.outcome.reason == "cancelled"


async def test_a_session_that_is_opened_while_its_core_closes_begins_nothing_more(make_core) -> None:
    caller = ScriptedCaller([text("never")], repeat=True)
    core: LashCore = make_core(caller)
    (turn,) = await running_turns(core, caller, ["s1"])
    commit, late = core.store.commit_runtime_state, []

    async def commit_behind_another_opening(*arguments: Any, **options: Any) -> Any:
        late.append(await core.open_session("s2"))
        return await commit(*arguments, **options)

    core.store.commit_runtime_state = commit_behind_another_opening  # type: ignore[method-assign]
    await core.aclose()
    assert (await turn).result.cancellation is not None
    with pytest.raises(SessionClosed):
        late[0].turn("y")


async def test_who_asks_a_closed_core_is_told_that_nothing_was_done(make_core) -> None:
    core: LashCore = make_core(ScriptedCaller([]))
    await core.open_session("s1")
    await core.aclose()
    asked: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: core.open_session("s2"),
        lambda: core.queue("s1").enqueue("go"),
        lambda: core.delete_session("s1"),
        lambda: core.worker().run(),
    )
    for ask in asked:
        with pytest.raises(StoreClosed) as refused:
            await ask()
        assert (refused.value.code, refused.value.ambiguous, refused.value.hint) == ("store_closed", False, None)


async def test_a_turn_whose_store_is_closed_under_it_is_not_told_as_one_that_was_never_begun(make_core) -> None:
    first: LashCore = make_core(ScriptedCaller([text("one")]))
    session = await first.open_session("s1")

    async def close(activity: TurnActivity) -> None:
        await first.store.aclose()

    with pytest.raises(StoreClosed) as failed:
        await session.turn("go").stream_to(close)
    assert failed.value.ambiguous and "open the store again" in (failed.value.hint or "")
    with pytest.raises(StoreClosed) as refused:
        await session.turn("more").run()
    assert not refused.value.ambiguous, "nothing of this one was begun"


async def test_a_core_waits_for_the_turns_that_run_in_other_threads(tmp_path: Path) -> None:
    core = LashCore(provider=provider("loopback"), model=ModelSpec("m"), store=SqliteStore.open(tmp_path / "lash.db"))
    names, asking = ("a", "b"), threading.Semaphore(0)

    def shown(activity: TurnActivity) -> None:
        if isinstance(activity.event, ModelRequestStarted):
            asking.release()

    async def view(name: str) -> StopReason | None:
        async with await core.open_session(name) as session:
            output = await session.turn("!sleep 3600").stream_to(shown)
        assert output.result is not None and isinstance(output.result.outcome, Stopped)
        return output.result.outcome.reason

    views = [asyncio.create_task(asyncio.to_thread(asyncio.run, view(name))) for name in names]
    for _ in names:
        assert await asyncio.to_thread(asking.acquire, timeout=LIMIT_S)
    await core.aclose()
    assert await asyncio.gather(*views) == ["cancelled"] * len(names)


async def test_a_core_does_not_wait_for_ever_for_a_thread_that_waits_for_it(monkeypatch) -> None:
    monkeypatch.setattr(shared, "OWN_TURN_S", 0.1)
    core = LashCore(provider=ScriptedCaller([text("one")]), model=ModelSpec("m"))
    loop = asyncio.get_running_loop()

    def in_the_turn(activity: TurnActivity) -> None:
        # Out of the context of the turn, as by a signal: nobody can know who waits there.
        Context().run(asyncio.run_coroutine_threadsafe, core.aclose(), loop).result(LIMIT_S)

    async def view() -> None:
        async with await core.open_session("a") as session:
            await session.turn("go").stream_to(in_the_turn)

    await asyncio.to_thread(asyncio.run, view())
