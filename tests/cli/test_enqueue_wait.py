"""`lash enqueue --wait`: it ends as `lash turn` would with the same text (contract 08 §5.2, 01 §5.4, §7)."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.driving import Crash, CrashPoints
from support.error_world import told
from support.hiding import hide_what_was_left
from support.queued import QueuedHome
from support.scripted import ScriptedCaller, error, text
from support.switching import Switching, switch

from lash_cli.api import LashCore, ModelSpec, SessionSpec, SqliteStore
from lash_cli.system import SystemClock, SystemIds


@pytest.fixture
def world(home: Path) -> QueuedHome:
    return QueuedHome(home)


def drain(world: QueuedHome, *steps: Any, crash_point: CrashPoints | None = None) -> list[str]:
    """Run what stands first in the queue, with a model that may switch frames; the ids of its turns."""

    async def run() -> list[str]:
        store = SqliteStore.open(world.home / "lash.db", clock=SystemClock(), ids=SystemIds())
        async with LashCore(
            provider=ScriptedCaller(steps, provider_id="loopback"),
            model=ModelSpec("m"),
            store=store,
            tools=[Switching()],
            queue_driver="none",
            crash_point=crash_point,
        ) as core:
            session = await core.open_session("s", create=False, spec=SessionSpec(inherit="stored"))
            output = await session.queued_turn().run()
            return [result.turn_id for result in output.turns]

    return asyncio.run(run())


def waiting(world: QueuedHome, *options: str) -> Any:
    """A command that waits for the use of its text, once that is in the queue."""
    process = world.spawn("enqueue", "s", "begin", "--key", "k", "--wait", "-o", "json", *options)
    while world.waiting() != ["begin"]:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_a_turn_that_goes_on_in_another_frame_is_waited_for_to_its_end(world: QueuedHome) -> None:
    process = waiting(world)
    with pytest.raises(Crash):
        drain(world, switch("f2", "go on"), crash_point=CrashPoints("before:lane", 2))
    time.sleep(0.6)  # longer than it takes to look again
    assert process.poll() is None
    (following,) = drain(world, text("finished"))
    done = world.ended(process)
    assert (done.code, done.json["text"], done.json["outcome"]["finish"]) == (0, "finished", "assistant_message")
    assert following == f"{done.json['turn_id']}:agent-frame:1"
    repeated = world.lash("turn", "s", "begin", "--key", "k", "-o", "json").json
    assert (repeated["text"], repeated["outcome"]) == (done.json["text"], done.json["outcome"])


def test_how_the_last_frame_stopped_is_what_it_exits_with(world: QueuedHome) -> None:
    process = waiting(world)
    root, following = drain(world, switch("f2", "go on"), error("auth"))
    refused = told(world.ended(process), 5, "key_rejected")
    assert refused["details"]["turn"]["turn_id"] == following
    assert refused["details"]["input"]["turn_id"] == root
    repeated = world.lash("turn", "s", "begin", "--key", "k", "-o", "json").error
    assert (repeated["code"], repeated["message"], repeated["hint"]) == (
        refused["code"], refused["message"], refused["hint"],
    )  # fmt: skip


def test_a_text_that_entered_a_later_frame_is_waited_for_from_there(world: QueuedHome) -> None:
    with pytest.raises(Crash):
        world.add("start")
        drain(world, switch("f2", "go on"), text("x"), crash_point=CrashPoints("after:lane", 2))
    process = world.spawn("enqueue", "s", "begin", "--now", "--wait", "-o", "json")
    while len(world.states()) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    drain(world, text("hm"), switch("f3", "go further", "b"), text("finished"))
    done = world.ended(process)
    assert (done.code, done.json["text"]) == (0, "finished")
    assert done.json["turn_id"].endswith(":agent-frame:1")


@pytest.mark.parametrize("way", ["held", "cancelled"])
def test_a_frame_that_nobody_may_go_on_in_ends_the_wait_as_far_as_it_came(world: QueuedHome, way: str) -> None:
    process = waiting(world)
    with pytest.raises(Crash):
        drain(world, switch("f2", "go on"), crash_point=CrashPoints("before:lane", 2))
    if way == "held":
        assert world.lash("queue", "hold", "s").code == 0
    else:
        (batch,) = world.store(lambda store: store.queued_work("s", pending_only=True))
        assert world.lash("queue", "cancel-batch", batch.batch_id).code == 0
    done = world.ended(process)
    assert (done.code, done.json["text"], done.json["outcome"]["type"]) == (0, None, "agent_frame_switch")
    repeated = world.lash("turn", "s", "begin", "--key", "k", "-o", "json").json
    assert (repeated["text"], repeated["outcome"]) == (done.json["text"], done.json["outcome"])


def test_a_wait_that_ends_between_two_frames_says_so(world: QueuedHome) -> None:
    world.add("begin", "--key", "k")
    with pytest.raises(Crash):
        drain(world, switch("f2", "go on"), crash_point=CrashPoints("before:lane", 2))
    error = told(world.lash("enqueue", "s", "begin", "--key", "k", "--wait=50ms", "-o", "json"), 124, "wait_timeout")
    assert "goes on in another frame" in error["message"] and "lash show work" in error["hint"]
    assert error["details"]["input"]["state"] == "completed"


@pytest.mark.parametrize("options", [(), ("-q",), ("-o", "json")])
def test_an_answer_that_is_not_kept_is_told_of(world: QueuedHome, options: tuple[str, ...]) -> None:
    first = json.loads(world.lash("turn", "s", "!text one", "-o", "json").out)
    assert world.lash("turn", "s", "!text two", "--key", "k").code == 0
    node = world.lash("show", "s", "--turn", first["turn_id"], "-o", "json").json["last_node"]
    assert world.lash("rewind", "s", "--to", node).code == 0
    hide_what_was_left(world.home / "lash.db", "s")
    done = world.lash("enqueue", "s", "!text two", "--key", "k", "--wait", *options)
    assert done.code == 0 and "the answer of this turn is not in the session any more" in done.err
    if "json" in options:
        assert done.json["text"] == ""
        assert '"code":"answer_not_kept"' in done.err
