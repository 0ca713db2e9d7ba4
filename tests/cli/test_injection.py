"""Text into a turn that runs in another process, and text for a session that is busy (contract 02 §1.5, 08 §5.2)."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.error_world import told
from support.processes import wait_until
from support.queued import QueuedHome


@pytest.fixture
def world(home: Path) -> QueuedHome:
    return QueuedHome(home)


class Running:
    """A turn `t_1` of `s` in a process of its own, inside a tool until it is let go."""

    def __init__(self, world: QueuedHome, directory: Path, *options: str) -> None:
        self.began, self.gate = directory / "began", directory / "gate"
        command = json.dumps({"cmd": f"touch {self.began}; while [ ! -e {self.gate} ]; do sleep 0.02; done"})
        self.world = world
        self.process: subprocess.Popen[bytes] = world.spawn(
            "turn", "s", f"!tool exec_command {command}\n!then\n!text not interrupted", "--turn-id", "t_1",
            "--approve", "execute=auto", *options,
        )  # fmt: skip
        wait_until(self.began.exists, self.process)

    def let_go(self) -> Any:
        """How the turn ended."""
        self.gate.touch()
        return self.world.ended(self.process)


@contextmanager
def running(world: QueuedHome, directory: Path, *options: str) -> Iterator[Running]:
    turn = Running(world, directory, *options)
    try:
        yield turn
    finally:
        if turn.process.returncode is None:
            turn.process.kill()
            turn.process.communicate()


def said(world: QueuedHome) -> list[tuple[str, str, str]]:
    """Turn, role and text of everything that is no tool call."""
    items = world.lash("log", "s", "-o", "json").json["items"]
    return [(item["turn_id"], item["role"], item["text"]) for item in items if item["text"]]


def test_injected_text_reaches_the_next_model_call_of_the_running_turn(world: QueuedHome, tmp_path: Path) -> None:
    with running(world, tmp_path, "-o", "jsonl") as turn:
        one = world.lash("enqueue", "s", "!text as you asked meanwhile", "--now", "-o", "json").json
        assert (one["delivery"], one["ingress"]["turn_id"]) == ("this_turn", "t_1")
        done = turn.let_go()
    assert done.code == 0, done.err
    (accepted,) = [line for line in done.lines if line["type"] == "input_accepted"]
    assert (accepted["input_ids"], accepted["checkpoint"]) == ([one["id"]], "after_work")
    assert done.lines[-2]["text"] == "as you asked meanwhile"
    assert [entry for entry in said(world) if entry[1] != "tool"][-2:] == [
        ("t_1", "user", "!text as you asked meanwhile"),
        ("t_1", "assistant", "as you asked meanwhile"),
    ]
    shown = world.lash("queue", "show", one["id"], "-o", "json").json
    assert (shown["state"], shown["turn_id"]) == ("completed", "t_1")
    told(world.lash("queue", "cancel", one["id"], "-o", "json"), 4, "input_already_completed")


def test_the_boundary_says_whether_work_or_completion_lets_it_in(world: QueuedHome, tmp_path: Path) -> None:
    with running(world, tmp_path, "-o", "jsonl") as turn:
        late = world.lash("enqueue", "s", "!text late", "--turn", "t_1", "--boundary", "before_completion", "-q")
        done = turn.let_go()
    (accepted,) = [line for line in done.lines if line["type"] == "input_accepted"]
    assert (accepted["input_ids"], accepted["checkpoint"]) == ([late.out.strip()], "before_completion")
    texts = [text for _, role, text in said(world) if role == "assistant"]
    assert texts[-2:] == ["not interrupted", "late"]


def test_the_injected_text_of_a_killed_turn_is_used_once_by_the_turn_that_goes_on(
    world: QueuedHome, tmp_path: Path
) -> None:
    with running(world, tmp_path) as turn:
        one = world.add("!text injected", "--now")
        turn.process.send_signal(signal.SIGKILL)
        turn.process.communicate()
    (tmp_path / "gate").touch()
    assert world.lash("resume", "s", "--approve", "execute=auto", "-q").code == 0
    assert world.lash("work", "s", "--until-empty", "--approve", "execute=auto").code == 0
    assert [entry[2] for entry in said(world)].count("!text injected") == 1
    shown = world.lash("queue", "show", one, "-o", "json").json
    assert (shown["state"], shown["turn_id"]) == ("completed", "t_1")


def test_what_missed_the_last_checkpoint_becomes_the_next_turn_once(world: QueuedHome, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process = world.spawn("turn", "s", f"!wait-file {gate}\n!text done", "--turn-id", "t_1", "-o", "jsonl")
    assert process.stdout is not None
    for line in process.stdout:
        if b"model_request_started" in line:
            break
    # Addressed to a turn that is over by the time the row is looked at.
    one = world.add("!text for whoever comes next", "--now", "--boundary", "before_completion")
    assert world.lash("cancel", "s").code == 0
    world.ended(process)
    assert world.lash("queue", "show", one, "-o", "json").json["delivery"] == "next_turn"
    assert world.lash("work", "s", "--until-empty").code == 0
    assert said(world)[-2:] == [
        (said(world)[-1][0], "user", "!text for whoever comes next"),
        (said(world)[-1][0], "assistant", "for whoever comes next"),
    ]
    assert said(world)[-1][0] != "t_1"


def test_a_turn_of_a_busy_session_is_queued_and_runs_once(world: QueuedHome, tmp_path: Path) -> None:
    with running(world, tmp_path, "-q") as turn:
        queued = world.lash("turn", "s", "!text my turn", "--if-busy", "enqueue", "--key", "k", "-o", "json")
        assert (queued.code, queued.json["kind"]) == (0, "PendingInput"), queued.err
        assert (queued.json["delivery"], queued.json["key"], queued.json["replayed"]) == ("next_turn", "k", False)
        again = world.lash("turn", "s", "!text my turn", "--if-busy", "enqueue", "--key", "k", "-o", "json").json
        assert (again["id"], again["replayed"]) == (queued.json["id"], True)
        by_config = world.lash("turn", "s", "!text another", "-c", "defaults.if_busy=enqueue")
        assert by_config.code == 0 and "queued for the next turn of work" in by_config.out
        assert world.lash("resume", "s", "!text a third", "--if-busy", "enqueue", "-q").out.startswith("in_")
        told(world.lash("resume", "s", "-o", "json", "--if-busy", "enqueue"), 75, "session_execution_busy")
        assert turn.let_go().out == "not interrupted\n"
    assert world.waiting() == ["!text my turn", "!text another", "!text a third"]
    assert world.lash("work", "s", "--until-empty").code == 0
    assert [text for _, role, text in said(world) if role == "user" and "my turn" in text] == [
        "!text my turn\n!text another\n!text a third"
    ]
    replay = world.lash("enqueue", "s", "!text my turn", "--key", "k", "-o", "json").json
    assert (replay["id"], replay["state"]) == (queued.json["id"], "completed")


def test_a_queued_turn_says_so_in_its_stream_and_what_it_could_not_keep(world: QueuedHome, tmp_path: Path) -> None:
    with running(world, tmp_path):
        done = world.lash("turn", "s", "hi", "--if-busy", "enqueue", "--max-steps", "3", "-o", "jsonl")
    assert [line["type"] for line in done.lines] == ["stream_start", "queue_changed", "stream_end"]
    assert done.lines[1]["ids"] == [done.lines[1]["input"]["id"]]
    assert (done.code, done.lines[2]["reason"], done.lines[2]["exit"]) == (0, "queued", 0)
    assert "--max-steps" in done.error["message"]


def test_an_idle_session_is_turned_at_once(world: QueuedHome) -> None:
    done = world.lash("turn", "s", "!text now", "--if-busy", "enqueue", "-q")
    assert (done.code, done.out) == (0, "now\n")
    assert world.waiting() == []
