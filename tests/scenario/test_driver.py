"""A core that drives its queues in the background, over a real store (contract 02 §6.3)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.driving import Crash, CrashPoints, S, said, wake
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import ActiveTurn, FunctionToolProvider, LashCore, ModelSpec, SessionConfigPatch, TurnInput, tool
from lash_cli.core.codec import to_builtins
from lash_cli.core.ingress import InputDraft, InputState
from lash_cli.core.queued_work import BatchState
from lash_cli.errors import ConfigError, SessionExecutionBusy, StoreLocked
from lash_cli.runtime.drivers import QueueDriver

WAIT_S = 30


def answering() -> ScriptedCaller:
    return ScriptedCaller([lambda request: text(f"answer to {said(request.messages)[-1]}")], repeat=True)


async def drained(core: LashCore) -> None:
    """Return once the core's driver has nothing more to do."""
    driver = core._driver
    assert isinstance(driver, QueueDriver)
    await driver.settled()


async def transcript(core: LashCore) -> list[str]:
    other = await core.open_session(S)
    try:
        return said(other.read_view().messages)
    finally:
        other.close_handle()


async def test_what_is_enqueued_is_run_without_anybody_asking(make_core) -> None:
    core = make_core(answering(), queue_driver="inline")
    session = await core.open_session(S)
    await session.enqueue("hello")
    await drained(core)
    assert await session.pending_turn_inputs() == ()
    await session.refresh()
    assert said(session.read_view().messages) == ["hello", "answer to hello"]


async def test_a_core_with_a_store_drives_by_default_and_one_without_does_not(make_core) -> None:
    assert isinstance(make_core(answering(), queue_driver=None)._driver, QueueDriver)
    assert make_core(answering(), queue_driver="none")._driver is None
    assert LashCore(provider=answering(), model=ModelSpec("m"))._driver is None
    with pytest.raises(ConfigError):
        LashCore(provider=answering(), model=ModelSpec("m"), queue_driver="inline")


async def test_a_hosts_own_driver_is_told_and_closed(make_core) -> None:
    class Remembering:
        def __init__(self) -> None:
            self.told: list[tuple[str, str]] = []
            self.is_closed = False

        def notify(self, session_id: str, reason: str) -> None:
            self.told.append((session_id, reason))

        async def aclose(self) -> None:
            self.is_closed = True

    driver = Remembering()
    core = make_core(answering(), queue_driver=driver)
    session = await core.open_session(S)
    await session.turn("now").run()
    assert driver.told == [], "a plain turn tells nobody anything"
    await session.enqueue("later")
    await session.enqueue("for a turn", ingress=ActiveTurn("t1"))
    await core.queue(S).enqueue_work(wake(), reason="process_wake")
    await session.commands().reset("why", "k")
    await session.turn("and now").run()
    await core.open_session(S)
    await core.queue(S).hold()
    await core.queue(S).release()
    assert [reason for _, reason in driver.told] == [
        "queued_turn_input",
        "process_wake",
        "session_command",
        "turn_completed",
        "session_open",
        "queue_released",
    ]
    await core.aclose()
    assert driver.is_closed


async def test_a_hosts_driver_that_fails_fails_nobodys_call(make_core, caplog) -> None:
    class Failing:
        def notify(self, session_id: str, reason: str) -> None:
            raise RuntimeError("no connection")

        async def aclose(self) -> None:
            return None

    core = make_core(answering(), queue_driver=Failing())
    session = await core.open_session(S)
    stored = await session.enqueue("later")
    receipt = await session.commands().reset("why", "k")
    assert await session.pending_turn_inputs() == (stored,)
    assert (await session.turn("now").run()).result.is_success, "it says that something waits"
    assert (await session.await_queued_work_batch(receipt.batch_id)).state is BatchState.COMPLETED
    assert (await core.open_session(S)).session_id == S
    told = [record.getMessage() for record in caplog.records if record.name == "lash.driver"]
    reasons = ("queued_turn_input", "session_command", "turn_completed", "session_open")
    assert told == [f"the queue driver could not be told of {S} ({reason})" for reason in reasons]


class HeldWrite:
    """The next write of a core's store stops in the middle of its transaction until it may go on."""

    def __init__(self, core: LashCore) -> None:
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self._database = core.store.db
        self._write = self._database.write
        self._database.write = self

    async def __call__(self, job: Callable[[Any], Any], *, durable: bool) -> Any:
        self._database.write = self._write

        def held(connection: Any) -> Any:
            self.begun.set()
            self.may_go_on.wait(WAIT_S)
            return job(connection)

        return await self._write(held, durable=durable)


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("way", ["enqueue", "enqueue_all", "release"])
async def test_what_is_written_although_its_caller_was_cancelled_is_driven(make_core, way: str, times: int) -> None:
    core = make_core(answering(), queue_driver="inline")
    queue = core.queue(S)
    await core.open_session(S)
    if way == "release":
        await queue.hold()
        await queue.enqueue("hello")
    work = {
        "enqueue": lambda: queue.enqueue("hello"),
        "enqueue_all": lambda: queue.enqueue_all([InputDraft(S, "in-1", TurnInput.text("hello"))]),
        "release": queue.release,
    }[way]
    held = HeldWrite(core)
    task = asyncio.ensure_future(work())
    await asyncio.to_thread(held.begun.wait, WAIT_S)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.02)
    held.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await core.store.set_queue_hold(S, held_at_ms=None)  # writes keep their order: behind it the other one is over
    await drained(core)
    assert [row.state for row in await core.store.inputs(S, pending_only=False)] == [InputState.COMPLETED]


async def test_what_came_in_while_nobody_drove_is_run_when_the_session_is_opened(make_core) -> None:
    silent = make_core(answering())
    await (await silent.open_session(S)).enqueue("waiting")
    core = make_core(answering(), queue_driver="inline")
    await core.open_session(S)
    await drained(core)
    assert await transcript(core) == ["waiting", "answer to waiting"]


async def test_text_that_came_during_a_turn_runs_right_after_it(make_core) -> None:
    caller = answering()
    caller.gate = asyncio.Event()
    core = make_core(caller, queue_driver="inline")
    session = await core.open_session(S)
    running = asyncio.create_task(session.turn("now").run())
    await caller.entered.wait()
    for word in ("later", "and later"):
        await session.enqueue(word)
    caller.gate.set()
    await running
    await drained(core)
    assert await transcript(core) == ["now", "answer to now", "later\nand later", "answer to later\nand later"]


async def test_a_turn_of_the_same_core_waits_for_the_drivers_pass(make_core) -> None:
    """Turns of one core queue up behind one another, whoever started them."""
    caller = answering()
    caller.gate = asyncio.Event()
    core = make_core(caller, queue_driver="inline")
    session = await core.open_session(S)
    await session.enqueue("queued")
    await caller.entered.wait()
    running = asyncio.create_task(session.turn("typed").run())
    other = await make_core(answering()).open_session(S)
    with pytest.raises(SessionExecutionBusy):
        await other.turn("from elsewhere").run()
    caller.gate.set()
    assert (await running).result.assistant_message() == "answer to typed"
    assert said(session.read_view().messages) == ["queued", "answer to queued", "typed", "answer to typed"]


class Way(msgspec.Struct):
    """How a tool calls the session it runs in."""

    name: str


@pytest.mark.parametrize("way", ["turn", "drain", "configure"])
async def test_what_a_tool_of_the_drivers_pass_asks_of_its_own_session_is_refused(make_core, way: str) -> None:
    @tool(name="again")
    async def again(asked: Way, context: object) -> str:
        """Call the session this tool runs in, through the handle of the host."""
        match asked.name:
            case "turn":
                await session.turn("inner").run()
            case "drain":
                await session.drain_next_session_command()
            case _:
                await session.configure(SessionConfigPatch(model=ModelSpec("other")))
        return "done"

    caller = ScriptedCaller([calls(("c1", "again", f'{{"name": "{way}"}}')), text("over")])
    core = make_core(caller, tools=[FunctionToolProvider([again])], queue_driver="inline")
    session = await core.open_session(S)
    await session.enqueue("go")
    async with asyncio.timeout(30):
        await drained(core)
    answer = caller.requests[1].messages[-1]
    assert "the turn this was called from" in str(to_builtins(answer))
    assert await transcript(core) == ["go", "over"]


async def test_a_pass_that_a_tool_has_begun_waits_for_the_turn_of_that_tool_as_any_other(make_core) -> None:
    """Nobody waits for what the driver does, so it is not within the turn that told of it."""
    is_driven = asyncio.Event()

    @tool(name="hand_on")
    async def hand_on(asked: Way, context: object) -> str:
        """Leave something to another session, and go on until that is driven."""
        await core.queue(asked.name).enqueue("configure")
        await is_driven.wait()
        return "handed on"

    @tool(name="configure")
    async def configure(asked: Way, context: object) -> str:
        """Change the session that handed on."""
        is_driven.set()
        await session.configure(SessionConfigPatch(model=ModelSpec("other")))
        return "changed"

    steps = [calls(("c1", "hand_on", '{"name": "s2"}')), calls(("c2", "configure", '{"name": "s1"}'))]
    caller = ScriptedCaller([*steps, text("over")], repeat=True)
    core = make_core(caller, tools=[FunctionToolProvider([hand_on, configure])], queue_driver="inline")
    session = await core.open_session(S)
    await core.open_session("s2")
    async with asyncio.timeout(WAIT_S):
        await session.turn("go").run()
        await drained(core)
    assert session.policy_snapshot.model.id == "other"


async def test_configure_waits_for_the_drivers_pass_too(make_core) -> None:
    caller = answering()
    caller.gate = asyncio.Event()
    core = make_core(caller, queue_driver="inline")
    session = await core.open_session(S)
    await session.enqueue("queued")
    await caller.entered.wait()
    changing = asyncio.create_task(session.configure(SessionConfigPatch(model=ModelSpec("other"))))
    await asyncio.sleep(0)
    caller.gate.set()
    await changing
    assert session.policy_snapshot.model.id == "other"


async def test_a_crashed_queued_turn_is_finished_by_another_cores_driver(make_core) -> None:
    first = make_core(answering(), crash_point=CrashPoints("before:commit"))
    session = await first.open_session(S)
    await session.enqueue("hello")
    with pytest.raises(Crash):
        await session.queued_turn().run()
    core = make_core(answering(), queue_driver="inline")
    await core.open_session(S)
    await drained(core)
    assert await transcript(core) == ["hello", "answer to hello"]
    assert await core.running_turn(S) is None


async def test_closing_a_core_leaves_the_turn_under_way_to_the_next_one(make_core) -> None:
    caller = answering()
    caller.gate = asyncio.Event()
    core = make_core(caller, queue_driver="inline")
    await (await core.open_session(S)).enqueue("hello")
    await caller.entered.wait()
    await core.aclose()
    other = make_core(answering(), queue_driver="inline")
    assert await other.running_turn(S) is not None
    await other.open_session(S)
    await drained(other)
    assert await transcript(other) == ["hello", "answer to hello"]


async def test_a_pass_that_fails_as_it_is_closed_is_not_tried_again(make_core, monkeypatch) -> None:
    caller = answering()
    caller.gate = asyncio.Event()
    core = make_core(caller, queue_driver="inline")
    session = await core.open_session(S)
    await session.enqueue("hello")
    await caller.entered.wait()
    await session.enqueue("more")

    async def locked(fence: object) -> None:
        raise StoreLocked("the database is locked")

    monkeypatch.setattr(core.host.store, "release_lease", locked)
    closing = asyncio.ensure_future(core.aclose())
    ended, _ = await asyncio.wait({closing}, timeout=30)
    assert ended, "the driver went on"
    closing.result()
    assert len(caller.requests) == 1


async def test_two_drivers_of_one_session_run_every_input_once(make_core) -> None:
    cores = [make_core(answering(), queue_driver="inline") for _ in range(2)]
    sessions = [await core.open_session(S) for core in cores]
    stored = await asyncio.gather(*(sessions[n % 2].enqueue(f"text {n}") for n in range(40)))
    for core in cores:
        await drained(core)
    rows = await cores[0].store.inputs(S, pending_only=False)
    assert [row.state.value for row in rows] == ["completed"] * 40
    texts = "\n".join((await transcript(cores[0]))[::2]).split("\n")
    assert sorted(texts) == sorted(f"text {n}" for n in range(40))
    assert len({row.input_id for row in stored}) == 40
