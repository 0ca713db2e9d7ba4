"""Whoever runs each turn in an event loop of its own gets back what the loop and its store took (design D1)."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from support.driving import S
from support.scripted import ScriptedCaller, text

from lash_cli.api import LashCore, ModelSpec
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

TESTS = Path(__file__).parent.parent


def test_a_loop_that_is_closed_is_let_go_of_with_its_store(tmp_path: Path) -> None:
    loops: list[weakref.ref[object]] = []
    stores: list[weakref.ref[object]] = []

    async def one_turn() -> None:
        store = SqliteStore.open(tmp_path / "lash.db", clock=SystemClock(), ids=SystemIds())
        caller = ScriptedCaller([text("yes")])
        core = LashCore(provider=caller, store=store, queue_driver="none", model=ModelSpec("model-1"))
        async with await core.open_session(S) as session:
            await session.turn("x").run()
        await core.aclose()
        loops.append(weakref.ref(asyncio.get_running_loop()))
        stores.append(weakref.ref(store))

    for _ in range(4):
        asyncio.run(one_turn())
    gc.collect()
    assert [loop() is not None for loop in loops[:-1]] == [False] * 3
    assert [store() is not None for store in stores[:-1]] == [False] * 3


def run(program: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `program` over a database of its own in `directory`, as a process that ends well."""
    command = [sys.executable, "-c", program, str(directory / "lash.db"), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran


# In a process of its own: what a closed loop leaves behind complains when it is collected.
LEFT_BEHIND = """
import asyncio, sys
from lash_cli.api import LashCore, ModelSpec, SqliteStore
from support.scripted import ScriptedCaller, text

caller = ScriptedCaller([text("first"), text("second")])
core = LashCore(
    provider=caller, store=SqliteStore.open(sys.argv[1]), queue_driver="none", model=ModelSpec("model-1")
)

async def leave_a_turn_behind():
    session = await core.open_session("s1")
    caller.gate = asyncio.Event()
    running = asyncio.ensure_future(session.turn("one").run())
    await caller.entered.wait()
    return session, running

loop = asyncio.new_event_loop()
session, left = loop.run_until_complete(leave_a_turn_behind())
loop.close()
caller.gate = None
print(session.cancel_running_turns())

async def go_on():
    output = await session.turn("two").run()
    print(*[result.assistant_message() for result in output.turns])
    await session.close()

if "close" in sys.argv:
    asyncio.run(core.aclose())
else:
    asyncio.run(go_on())
    asyncio.run(core.aclose())
print("closed")
"""


@pytest.mark.parametrize(
    ("then", "said"), [("close", ["0", "closed"]), ("go on", ["0", "first second", "closed"])], ids=["close", "go-on"]
)
def test_a_turn_that_went_with_its_loop_is_in_nobodys_way(tmp_path: Path, then: str, said: list[str]) -> None:
    ran = run(LEFT_BEHIND, tmp_path, then)
    assert ran.stdout.splitlines() == said, ran.stdout + ran.stderr
    assert "Event loop is closed" not in ran.stderr


# Nobody in this process need wait for the lease, which outlives the test: not another handle, not another core, and not
# the handle itself, which has the claim of a tool there as well.
LANE_LEFT_BEHIND = """
import asyncio, sys
import msgspec
from lash_cli.api import FunctionToolProvider, LashCore, LeaseTimings, ModelSpec, SqliteStore, WorkOptions, tool
from lash_cli.core.tools import SafeRetry
from lash_cli.runtime import lane
from support.scripted import ScriptedCaller, calls, text

path, who = sys.argv[1:]
reached, may_end = asyncio.Event(), False

class Nothing(msgspec.Struct):
    pass

@tool(name="look", retry=SafeRetry(2, 0, 0))
async def look(args: Nothing, context: object) -> str:
    "Looks, for ever as long as it may not end."
    reached.set()
    if not may_end:
        await asyncio.Event().wait()
    return "seen"

def answer(request):
    return text("done") if len(request.messages) > 1 else calls(("c1", "look", "{}"))

def core():
    return LashCore(
        provider=ScriptedCaller([answer], repeat=True), store=SqliteStore.open(path), queue_driver="none",
        model=ModelSpec("m"), tools=[FunctionToolProvider([look])], lease_timings=LeaseTimings.from_ttl(3_600_000),
    )

first = core()

async def leave_a_turn_behind():
    session = await first.open_session("s1")
    running = asyncio.ensure_future(session.turn("one").run())
    await reached.wait()
    return session, running

loop = asyncio.new_event_loop()
session, left = loop.run_until_complete(leave_a_turn_behind())
loop.close()
may_end = True

async def go_on():
    other = core() if "core" in who else first
    if who == "core that works":
        await other.queue("s1").enqueue("two")
        await other.worker(WorkOptions(until_empty=True)).run()
    elif who == "core that deletes":
        await other.delete_session("s1")
    else:
        handle = session if who == "handle itself" else await other.open_session("s1")
        await handle.redrive().run()
    row = None if who == "core that deletes" else await first.store.session_row("s1")
    print(row is None or (row.running_turn_id is None and row.turn_state.turn_index > 0))
    await first.aclose()
    if other is not first:
        await other.aclose()

asyncio.run(go_on())
print(len(lane._LOOPS))
"""


@pytest.mark.parametrize("who", ["handle itself", "other handle", "other core", "core that works", "core that deletes"])
def test_a_lane_that_went_with_its_loop_is_taken_by_anybody_in_the_process_at_once(tmp_path: Path, who: str) -> None:
    ran = run(LANE_LEFT_BEHIND, tmp_path, who)
    assert ran.stdout.splitlines() == ["True", "0"], "nothing of it is kept: " + ran.stdout + ran.stderr


# The same of a drive: what the driver took in the loop that is gone is taken up by it in the next one.
DRIVEN = """
import asyncio, sys
from lash_cli.api import LashCore, LeaseTimings, ModelSpec, SqliteStore
from support.scripted import ScriptedCaller, text

caller = ScriptedCaller([text("first"), text("second")])
core = LashCore(
    provider=caller, store=SqliteStore.open(sys.argv[1]), queue_driver="inline", model=ModelSpec("model-1"),
    lease_timings=LeaseTimings.from_ttl(3_600_000),
)

async def leave_a_drive_behind():
    await core.open_session("s1")
    caller.gate = asyncio.Event()
    await core.queue("s1").enqueue("one")
    await caller.entered.wait()

loop = asyncio.new_event_loop()
loop.run_until_complete(leave_a_drive_behind())
loop.close()
caller.gate = None

async def go_on():
    before = await core.store.session_row("s1")
    await core.queue("s1").enqueue("two")
    await core._driver.settled()
    after = await core.store.session_row("s1")
    print(before.running_turn_id is not None, after.running_turn_id, after.pending_inputs, after.turn_state.turn_index)
    await core.aclose()

asyncio.run(go_on())
"""


def test_a_drive_that_went_with_its_loop_is_taken_up_in_the_next_one_at_once(tmp_path: Path) -> None:
    ran = run(DRIVEN, tmp_path)
    assert ran.stdout.splitlines() == ["True None 0 2"], ran.stdout + ran.stderr


# What a handle has of a change that went with its loop is nobody's: not written over what others said since, and not
# undone under a later turn, as what is left of the change is collected.
CHANGE_LEFT_BEHIND = """
import asyncio, gc, sys
from lash_cli.api import LashCore, ModelSpec, SqliteStore, message_text
from support.scripted import ScriptedCaller, text

def answer(request):
    if message_text(request.messages[-1]) == "three":
        left.clear()
        gc.collect()
    return text("done")

core = LashCore(
    provider=ScriptedCaller([answer], repeat=True), store=SqliteStore.open(sys.argv[1]), queue_driver="none",
    model=ModelSpec("m"),
)
commit = core.store.commit_runtime_state
left = []

async def leave_a_change_behind():
    reached = asyncio.Event()

    async def never(*arguments, **options):
        reached.set()
        await asyncio.Event().wait()

    session = await core.open_session("s1")
    await session.turn("one").run()
    await session.commands().reset("why", "key")
    core.store.commit_runtime_state = never
    left.append(asyncio.ensure_future(session.drain_next_session_command()))
    await reached.wait()
    return session

loop = asyncio.new_event_loop()
session = loop.run_until_complete(leave_a_change_behind())
loop.close()
core.store.commit_runtime_state = commit

async def go_on():
    other = await core.open_session("s1")
    print((await other.drain_next_session_command()) is not None)
    await other.turn("two").run()
    await session.turn("three").run()
    await session.turn("four").run()
    await other.refresh()
    for one in (session, other):
        print(*[message_text(message) for message in one.read_view().messages])
    print((await core.store.session_row("s1")).turn_state.turn_index)
    await core.aclose()

asyncio.run(go_on())
"""


def test_a_change_that_went_with_its_loop_is_not_made_by_the_handle_later(tmp_path: Path) -> None:
    ran = run(CHANGE_LEFT_BEHIND, tmp_path)
    said = "two done three done four done"
    assert ran.stdout.splitlines() == ["True", said, said, "4"], ran.stdout + ran.stderr


# What a worker did in a loop that is gone says nothing of the session, whatever happens as it is collected.
WORK_LEFT_BEHIND = """
import asyncio, sys
from lash_cli.api import LashCore, ModelSpec, SqliteStore
from support.scripted import ScriptedCaller, text

caller = ScriptedCaller([text("done")])
core = LashCore(provider=caller, store=SqliteStore.open(sys.argv[1]), queue_driver="none", model=ModelSpec("m"))
open_lane = core.store.open_lane
reached = asyncio.Event()

async def never(request):
    reached.set()
    await asyncio.Event().wait()

async def work():
    await core.open_session("s1")
    await core.queue("s1").enqueue("one")
    core.store.open_lane = never
    asyncio.ensure_future(core.worker().run())
    await reached.wait()
    return [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_work"]

loop = asyncio.new_event_loop()
(left,) = loop.run_until_complete(work())
loop.close()
core.store.open_lane = open_lane

async def go_on():
    left.get_coro().close()  # as it may be collected, as a whole
    await core.store.db.write(lambda connection: None, durable=True)  # behind whatever was written meanwhile
    print((await core.store.demand("s1")).is_held)
    session = await core.open_session("s1")
    await session.queued_turn().run()
    print((await core.store.session_row("s1")).turn_state.turn_index)
    await core.aclose()

asyncio.run(go_on())
"""


def test_work_that_went_with_its_loop_holds_no_queue(tmp_path: Path) -> None:
    ran = run(WORK_LEFT_BEHIND, tmp_path)
    assert ran.stdout.splitlines() == ["False", "1"], ran.stdout + ran.stderr


# Who opened a session to replace what is stored still does, also when the turn that was to be the first went with its
# loop before it had the lane.
FRESH_LEFT_BEHIND = """
import asyncio, sys
from lash_cli.api import LashCore, ModelSpec, SqliteStore, message_text
from support.scripted import ScriptedCaller, text

core = LashCore(
    provider=ScriptedCaller([text("done")], repeat=True), store=SqliteStore.open(sys.argv[1]), queue_driver="none",
    model=ModelSpec("m"),
)
open_lane = core.store.open_lane

async def leave_the_first_turn_behind():
    reached = asyncio.Event()

    async def never(request):
        reached.set()
        await asyncio.Event().wait()

    async with await core.open_session("s1") as before:
        await before.turn("old").run()
    session = await core.open_fresh("s1")
    core.store.open_lane = never
    running = asyncio.ensure_future(session.turn("first").run())
    await reached.wait()
    return session, running

loop = asyncio.new_event_loop()
session, left = loop.run_until_complete(leave_the_first_turn_behind())
loop.close()
core.store.open_lane = open_lane

async def go_on():
    await session.turn("new").run()
    print(*[message_text(message) for message in session.read_view().messages])
    await core.aclose()

asyncio.run(go_on())
"""


def test_a_first_turn_that_went_with_its_loop_leaves_a_fresh_session_fresh(tmp_path: Path) -> None:
    ran = run(FRESH_LEFT_BEHIND, tmp_path)
    assert ran.stdout.splitlines() == ["new done"], ran.stdout + ran.stderr


# What ends in a fault as it is collected, since it has no loop any more, says nothing of its session.
WORKER_LEFT_BEHIND = """
import asyncio, contextlib, gc, sys
from lash_cli.api import LashCore, ModelSpec, QueueWorker, SqliteStore, WorkOptions
from lash_cli.system import SystemClock
from support.scripted import ScriptedCaller, text

core = LashCore(
    provider=ScriptedCaller([text("done")]), store=SqliteStore.open(sys.argv[1]), queue_driver="none",
    model=ModelSpec("m"),
)

class CutOff:
    def __init__(self, begun):
        self.begun = begun

    async def drain_once(self, sink):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("no running event loop")

async def leave_a_worker_behind():
    begun = asyncio.Event()

    @contextlib.asynccontextmanager
    async def open_one(session_id):
        yield CutOff(begun)

    await core.open_session("s1")
    await core.queue("s1").enqueue("hello")
    worker = QueueWorker(core.store, SystemClock(), open_one, WorkOptions(until_empty=True))
    running = asyncio.ensure_future(worker.run())
    await begun.wait()

async def go_on():
    gc.collect()
    async with await core.open_session("s1") as session:
        output = await session.queued_turn().run()
    print(output is not None and output.result.assistant_message())
    await core.aclose()

loop = asyncio.new_event_loop()
loop.run_until_complete(leave_a_worker_behind())
loop.close()
asyncio.run(go_on())
"""


def test_a_worker_that_went_with_its_loop_holds_no_queue(tmp_path: Path) -> None:
    ran = run(WORKER_LEFT_BEHIND, tmp_path)
    assert ran.stdout.splitlines() == ["done"], ran.stdout + ran.stderr


def test_whatever_a_loop_was_torn_down_over_is_finished_in_the_next_one_once(tmp_path: Path) -> None:
    seeds = [str(seed) for seed in range(6)]
    command = [sys.executable, "-m", "support.torn_loops", str(tmp_path), *seeds]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


STREAM_LEFT_BEHIND = """
import asyncio, gc, sys
from lash_cli.api import LashCore, ModelSpec, SqliteStore, turns
from support.scripted import ScriptedCaller, text

turns.STREAM_QUEUE_ITEMS = 1
core = LashCore(
    provider=ScriptedCaller([text("first")]), store=SqliteStore.open(sys.argv[1]), queue_driver="none",
    model=ModelSpec("model-1"),
)

async def leave_a_full_stream_behind():
    session = await core.open_session("s1")
    stream = session.turn("one").stream()
    await stream.__aenter__()
    while not stream._room._waiters:
        await asyncio.sleep(0.001)
    return stream

loop = asyncio.new_event_loop()
left = loop.run_until_complete(leave_a_full_stream_behind())
loop.close()
del left
gc.collect()
asyncio.run(core.aclose())
print("closed")
"""


def test_a_stream_that_went_with_its_loop_tells_no_reader_of_its_end(tmp_path: Path) -> None:
    ran = run(STREAM_LEFT_BEHIND, tmp_path)
    assert ran.stdout == "closed\n"
    assert "Exception ignored" not in ran.stderr, ran.stderr
