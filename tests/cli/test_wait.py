"""`lash wait`: conditions that another process brings about, and time-outs (contract 08 §5.1)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.error_world import told
from support.frozen import freeze
from support.queued import QueuedHome


@pytest.fixture
def world(home: Path) -> QueuedHome:
    return QueuedHome(home)


def gated(world: QueuedHome, tmp_path: Path, *options: str) -> tuple[Path, object]:
    """A running turn `t_1` of `s` and the file that lets it end."""
    gate = tmp_path / "gate"
    process = world.spawn("turn", "s", f"!wait-file {gate}\n!text done", "--turn-id", "t_1", "-o", "jsonl", *options)
    assert process.stdout is not None
    for line in process.stdout:
        if b"model_request_started" in line:
            return gate, process
    raise AssertionError(process.communicate()[1])


def test_what_holds_already_is_answered_at_once(world: QueuedHome) -> None:
    done = world.lash("wait", "work", "-o", "json")
    assert (done.code, done.json["kind"], done.json["id"]) == (0, "Wait", "s")
    assert [(item["condition"], item["met"], item["state"]) for item in done.json["conditions"]] == [
        ("idle", True, "idle")
    ]
    assert world.lash("wait", "s", "--for", "queue-empty").out == "work: queue-empty\n"
    assert world.lash("wait", "s", "-q").out == "s\n"


def test_idle_waits_for_the_turn_that_runs(world: QueuedHome, tmp_path: Path) -> None:
    gate, turn = gated(world, tmp_path)
    error = told(world.lash("wait", "s", "--for", "idle", "--timeout", "100ms", "-o", "json"), 124, "wait_timeout")
    assert error["details"]["wait"]["conditions"][0]["state"] == "running"
    assert error["details"]["lease"]["live"] and "lash show work" in error["hint"]
    waiting = world.spawn("wait", "s", "--for", "idle", "--for", "turn=t_1", "-o", "json")
    gate.touch()
    done = world.ended(waiting)
    assert done.code == 0
    assert [item["met"] for item in done.json["conditions"]] == [True, True]
    assert done.json["conditions"][1]["outcome"]["finish"] == "assistant_message"
    assert world.ended(turn).code == 0


def test_a_turn_nobody_drives_is_not_idle_and_that_is_said(world: QueuedHome) -> None:
    world.add("x")
    world.take(turn_id="t_1", is_alive=False)
    done = world.lash("wait", "s", "--timeout", "50ms")
    assert done.code == 124 and "t_1 was interrupted" in done.err


def test_a_driver_that_dies_during_a_wait_is_told_once(world: QueuedHome, tmp_path: Path) -> None:
    gate, turn = gated(world, tmp_path)
    with world.spawn("wait", "s", "--for", "idle", "--for", "turn=t_1") as waiting:
        turn.kill()
        turn.communicate()
        assert waiting.stderr is not None
        assert b"turn t_1 was interrupted; lash resume work finishes it" in waiting.stderr.readline()
        gate.touch()
        assert world.lash("resume", "s").code == 0
        assert waiting.communicate()[1] == b""
        assert waiting.returncode == 0


def test_an_empty_queue_is_one_from_which_nothing_could_be_taken(world: QueuedHome) -> None:
    one = world.add("x")
    batch = world.add_task()
    told(world.lash("wait", "s", "--for", "queue-empty", "--timeout", "50ms", "-o", "json"), 124, "wait_timeout")
    waiting = world.spawn("wait", "s", "--for", "queue-empty", "--for", f"input={one}", "-o", "json")
    assert world.lash("queue", "cancel", one).code == 0
    assert waiting.poll() is None
    assert world.lash("queue", "cancel-batch", batch).code == 0
    done = world.ended(waiting)
    assert done.code == 0
    assert [item["state"] for item in done.json["conditions"]] == [None, "cancelled"]


def test_an_input_is_waited_for_until_a_turn_used_it(world: QueuedHome) -> None:
    one = world.add("x")
    world.take(turn_id="t_1", is_alive=False)
    waiting = world.spawn("wait", "s", "--for", f"input={one}", "-o", "json")
    assert world.lash("resume", "s", "-q").code == 0
    condition = world.ended(waiting).json["conditions"][0]
    assert (condition["state"], condition["turn_id"], condition["outcome"]["type"]) == ("completed", "t_1", "finished")


def test_a_held_queue_is_said_to_be_held(world: QueuedHome) -> None:
    world.add("x")
    assert world.lash("queue", "hold", "s").code == 0
    done = world.lash("wait", "s", "--for", "queue-empty", "--timeout", "50ms")
    assert done.code == 124 and "lash queue release work" in done.err


def test_a_session_that_is_deleted_meanwhile_ends_the_wait(world: QueuedHome) -> None:
    world.add("x")
    waiting = world.spawn("wait", "s", "--for", "queue-empty", "-o", "json")
    assert world.lash("rm", "s", "--yes").code == 0
    told(world.ended(waiting), 3, "session_deleted")


@pytest.mark.parametrize("verb", ["cancel", "park"])
def test_a_reader_that_goes_away_ends_the_wait_for_a_turn_that_does_not_end(
    world: QueuedHome, tmp_path: Path, verb: str
) -> None:
    # Who stands still renews no lease, and what is done meanwhile may take long.
    _, turn = gated(world, tmp_path, "-c", "lease.ttl_ms=600000")
    freeze(turn, world.home / "lash.db")
    waiting = world.spawn(verb, "s", "--wait", stderr=subprocess.DEVNULL)
    assert waiting.stdout is not None
    waiting.stdout.close()
    assert waiting.wait(60) == 141
    assert world.lash("show", "s", "-o", "json").json["lease"]["live"], "it did not wait for the lease to run out"
    turn.kill()


@pytest.mark.parametrize("verb", ["wait", "enqueue", "wait-batch"])
def test_a_reader_that_goes_away_ends_a_wait(world: QueuedHome, verb: str) -> None:
    batch = world.add_task()
    command = {
        "wait": ("wait", "s", "--for", "queue-empty"),
        "enqueue": ("enqueue", "s", "x", "--wait"),
        "wait-batch": ("queue", "wait-batch", batch),
    }[verb]
    waiting = world.spawn(*command, stderr=subprocess.DEVNULL)
    assert waiting.stdout is not None
    waiting.stdout.close()
    assert waiting.wait(60) == 141


@pytest.mark.parametrize(
    "condition", ["", "asleep", "turn", "turn=", "idle=now", "queue-empty=x", "input", "process=p"]
)
def test_a_condition_that_is_not_known_is_a_usage_error(world: QueuedHome, condition: str) -> None:
    error = told(world.lash("wait", "s", "--for", condition, "-o", "json"), 2, "usage")
    assert "turn=ID" in error["hint"]


def test_a_subject_that_is_not_there_is_not_found(world: QueuedHome) -> None:
    told(world.lash("wait", "s", "--for", "turn=t_nope", "-o", "json"), 3, "turn_unknown")
    told(world.lash("wait", "s", "--for", "input=in_nope", "-o", "json"), 3, "input_not_found")
    told(world.lash("wait", "nowhere", "-o", "json"), 3, "session_not_found")
    told(world.lash("wait", "-o", "json"), 2, "usage")
    told(world.lash("wait", "s", "--timeout", "soon", "-o", "json"), 2, "usage")
