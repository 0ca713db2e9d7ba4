"""`lash cancel` through the real entry point: receipts, waiting, and turns that nobody runs any more."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import environment, spawn_lash
from support.error_world import told
from support.frozen import freeze, wait_until_frozen
from support.prepared import OPEN, prepare
from support.processes import start_process
from support.queued import QueuedHome

from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.store.base import LaneBusy, RuntimePersistence
from lash_cli.system import SystemIds, this_process

CRASHING = Path(__file__).parent.parent / "support" / "crashing.py"
# Who stands still renews no lease, and what is done meanwhile may take long.
UNHURRIED = ("-c", "lease.ttl_ms=600000")


def started(home: Path, prompt: str, *options: str) -> subprocess.Popen[bytes]:
    process = spawn_lash(["turn", "s", prompt, "-o", "jsonl", *options], home=home)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["type"] == "model_request_started":
            return process
    raise AssertionError(process.communicate()[1].decode())


def test_another_process_cancels_a_running_turn_and_both_learn_it(lash, home: Path) -> None:
    prepare(home, OPEN)
    running = started(home, "!sleep 60", "--turn-id", "t_1")
    done = lash("cancel", "s", "--wait", "--reason", "enough", "-o", "json")
    assert done.code == 0, done.err
    assert (done.json["kind"], done.json["turn_id"], done.json["outcome"]) == ("CancelReceipt", "t_1", "requested")
    assert done.json["durability_tier"] == "durable"
    assert done.json["terminal"]["reason"] == "cancelled"
    _, err = running.communicate(timeout=60)
    assert running.returncode == 7
    assert json.loads(err.splitlines()[-1])["code"] == "turn_cancelled"
    turn = lash("show", "s", "--turn", "t_1", "-o", "json").json
    assert turn["cancellation"] == {**turn["cancellation"], "origin": "lash cancel", "reason": "enough"}
    assert lash("turn", "s", "!text after", "-q").out == "after\n"


def test_a_second_request_is_already_requested(lash, home: Path) -> None:
    prepare(home, OPEN)
    running = started(home, "!sleep 60")
    running.kill()
    running.communicate()
    assert lash("cancel", "s", "-o", "json").json["outcome"] == "requested"
    again = lash("cancel", "s", "-o", "json")
    assert (again.code, again.json["outcome"]) == (0, "already_requested")


def test_a_turn_whose_process_died_ends_as_cancelled_for_whoever_waits(lash, home: Path) -> None:
    prepare(home, OPEN)
    running = started(home, "!sleep 60", "--turn-id", "t_1")
    running.kill()
    running.communicate()
    done = lash("cancel", "s", "--wait=30s", "-o", "json")
    assert (done.code, done.json["terminal"]["reason"]) == (0, "cancelled"), done.err
    assert lash("show", "s", "-o", "json").json["status"] == "idle"


def test_a_turn_whose_process_dies_during_the_wait_ends_as_cancelled_too(lash, home: Path) -> None:
    prepare(home, OPEN)
    running = started(home, "!sleep 60", "--turn-id", "t_1", *UNHURRIED)
    freeze(running, home / "lash.db")
    waiting = spawn_lash(["cancel", "s", "--wait", "-o", "json"], home=home)
    # Long enough for it to have begun to wait; were it not, the test would prove less and not fail.
    assert lash("wait", "s", "--timeout", "700ms").code == 124 and waiting.poll() is None
    running.kill()
    running.communicate()
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, err
    assert json.loads(out)["terminal"]["reason"] == "cancelled"


@pytest.fixture
def abandoned(home: Path) -> QueuedHome:
    """A session with a turn whose process died."""
    world = QueuedHome(home)
    world.add("x")
    world.take(turn_id="t_1", is_alive=False)
    return world


def outrun(world: QueuedHome, *options: str) -> subprocess.Popen[bytes]:
    """A `cancel --wait` that found nobody at the turn and is about to finish it, when another process, this one, takes
    the lane before it."""
    command = [sys.executable, str(CRASHING), "stop:before:lane", "cancel", "s", *options, "-o", "json"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    waiting = start_process(command, env=environment(world.home), cwd=world.home.parent, **streams)
    wait_until_frozen(waiting)

    async def hold(store: RuntimePersistence) -> None:
        ids = SystemIds()
        owner = LeaseOwnerIdentity(ids.token(), ids.token(), this_process(), "test")
        held = await store.try_claim_lease("s", owner, ttl_ms=600_000, token=ids.token())
        assert not isinstance(held, LaneBusy)

    world.store(hold)
    waiting.send_signal(signal.SIGCONT)
    return waiting


def test_a_reader_that_leaves_ends_the_wait_for_who_finishes_a_dead_turn(abandoned: QueuedHome) -> None:
    waiting = outrun(abandoned, "--wait=50s")
    assert waiting.stdout is not None
    waiting.stdout.close()
    assert waiting.wait(20) == 141


def test_the_time_limit_is_told_as_that_when_another_process_finishes_a_dead_turn(abandoned: QueuedHome) -> None:
    told(abandoned.ended(outrun(abandoned, "--wait=200ms")), 124, "wait_timeout")


def test_a_turn_whose_process_died_is_only_marked_without_wait_and_ends_on_resume(lash, home: Path) -> None:
    prepare(home, OPEN)
    running = started(home, "!sleep 60", "--turn-id", "t_1")
    running.kill()
    running.communicate()
    assert "nobody runs this turn" in lash("cancel", "s").err
    resumed = lash("resume", "s", "-o", "json")
    assert (resumed.code, resumed.out, resumed.error["code"]) == (7, "", "turn_cancelled")


def test_an_ended_turn_is_a_conflict_and_an_unknown_one_not_found(lash, home) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "!text hi", "--turn-id", "t_1", "-q")
    for arguments, status, code in (
        (("s",), 4, "no_active_turn"),
        (("s", "--turn", "t_1"), 4, "completion_won"),
        (("s", "--turn", "t_nope"), 3, "turn_unknown"),
        (("nope",), 3, "session_not_found"),
        ((), 2, "usage"),
    ):
        done = lash("cancel", *arguments, "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (status, "", code)


def test_waiting_for_a_process_that_is_alive_but_stopped_has_a_limit(lash, home: Path) -> None:
    prepare(home, OPEN)
    running = started(home, "!sleep 60", *UNHURRIED)
    freeze(running, home / "lash.db")
    done = lash("cancel", "s", "--wait=200ms", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (124, "", "wait_timeout")
    running.send_signal(signal.SIGCONT)
    running.communicate(timeout=60)
    assert running.returncode == 7, "the request stands although its sender went away"


@pytest.mark.parametrize("wait", ["--wait=soon", "--wait="])
def test_a_malformed_wait_is_a_usage_error(lash, home, wait) -> None:
    prepare(home, OPEN)
    assert lash("cancel", "s", wait).code == 2
