"""`lash work`: draining, its limits, failures, signals, and several workers (contract 08 §5.2, 02 §6.3)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.cli import run_lash
from support.error_world import told
from support.prepared import prepare
from support.processes import wait_until
from support.queued import QueuedHome, spawn_lash


@pytest.fixture
def world(home: Path) -> QueuedHome:
    return QueuedHome(home)


def transcript(world: QueuedHome, session: str = "s") -> list[str]:
    """Who said what, committed, in order."""
    items: list[Any] = world.lash("log", session, "-o", "json").json["items"]
    return [f"{item['role']}: {item['text']}" for item in items]


def turns(world: QueuedHome, session: str = "s") -> int:
    return int(world.lash("show", session, "-o", "json").json["turns"])


def gate_at(tmp_path: Path) -> tuple[str, Path, Path]:
    """A prompt whose turn says that it began and then waits for a file; both files."""
    began, gate = tmp_path / "began", tmp_path / "gate"
    command = json.dumps({"cmd": f"touch {began}; while [ ! -e {gate} ]; do sleep 0.02; done"})
    return f"!tool exec_command {command}\n!then\n!text let through", began, gate


def await_file(path: Path, process: subprocess.Popen[bytes]) -> None:
    wait_until(path.exists, process)


def test_until_empty_drains_every_session_and_ends(world: QueuedHome) -> None:
    assert world.lash("open", "other").code == 0
    first = [world.add(text) for text in ("one", "two")]
    world.add("!text three", session="other")
    done = world.lash("work", "--all", "--until-empty")
    assert (done.code, done.out) == (0, "2 turns in 2 sessions; stopped: empty\n")
    (line,) = [line for line in done.err.splitlines() if line.startswith("work  t_")]
    assert ",".join(first) in line and "finished" in line
    assert transcript(world)[0] == "user: one\ntwo"
    assert transcript(world, "other") == ["user: !text three", "assistant: three"]
    again = world.lash("work", "s", "other", "--until-empty", "-o", "json").json
    assert (again["kind"], again["turns"], again["sessions"], again["stopped_by"]) == ("WorkReport", 0, [], "empty")
    assert world.lash("work", "--all", "--until-empty", "-o", "name").out == ""
    world.add("four")
    assert world.lash("work", "s", "--until-empty", "-q").out == "s\n"


def test_a_turn_of_many_texts_is_one_short_line(world: QueuedHome) -> None:
    ids = [world.add(f"text {number}") for number in range(5)]
    done = world.lash("work", "s", "--until-empty")
    (line,) = [line for line in done.err.splitlines() if line.startswith("work  t_")]
    assert f"  {ids[0]}…{ids[-1]} (5 inputs)  finished  " in line


def test_a_session_whose_provider_is_gone_is_told_with_the_way_to_it(world: QueuedHome) -> None:
    key = {"OPENAI_API_KEY": "sk-for-open"}
    assert world.lash("open", "far", "--provider", "openai", "--model", "m", env=key).code == 0
    world.add("x", session="far")
    done = world.lash("work", "--all", "--until-empty")
    assert done.code == 8 and "set OPENAI_API_KEY" in done.err
    assert world.waiting("far") == ["x"]


def test_no_tool_works_elsewhere_for_a_session_that_nobody_named_and_whose_directory_is_gone(
    world: QueuedHome, tmp_path: Path
) -> None:
    its_own, here = tmp_path / "its-own", tmp_path / "here"
    for directory in (its_own, here):
        directory.mkdir()
    world.lash("open", "placed", cwd=its_own)
    world.lash("enqueue", "placed", '!tool exec_command {"cmd": "touch made"}')
    its_own.rmdir()
    options = ("--until-empty", "--approve", "execute=auto", "-o", "json")
    refused = world.lash("work", "--all", *options, cwd=here)
    assert (refused.code, refused.error["details"]["report"]["errors"]) == (8, 1)
    assert str(its_own) in refused.err and not (here / "made").exists()
    named = world.lash("work", "placed", *options, cwd=here)
    assert named.json["turns"] == 1 and str(its_own) in named.err and (here / "made").exists()


def test_once_is_one_pass_over_each_session(world: QueuedHome) -> None:
    world.add("text first")
    batch = world.add_task("!text task done")
    assert world.lash("work", "s", "--once", "-o", "json").json["turns"] == 1
    assert world.lash("queue", "batches", "s", "-o", "name").out.split() == [batch]
    assert world.lash("work", "s", "--once", "-o", "json").json["turns"] == 1
    assert turns(world) == 2
    assert world.lash("queue", "wait-batch", batch, "--timeout", "1s").code == 0


def test_a_worker_ends_after_its_turns(world: QueuedHome) -> None:
    for text in ("a", "b", "c"):
        world.add_task(f"!text {text}")
    report = world.lash("work", "s", "--max-turns", "2", "-o", "json").json
    assert (report["turns"], report["stopped_by"]) == (2, "max_turns")
    assert turns(world) == 2


def test_a_worker_without_work_ends_when_it_was_idle_long_enough(world: QueuedHome) -> None:
    world.add("!text hello")
    report = world.lash("work", "--all", "--idle-exit", "200ms", "-o", "json").json
    assert (report["turns"], report["stopped_by"]) == (1, "idle")


def test_a_worker_that_goes_on_takes_what_is_queued_later(world: QueuedHome) -> None:
    worker = world.spawn("work", "s")
    try:
        done = world.lash("enqueue", "s", "!text an answer", "--wait=30s", "-o", "json")
        assert done.code == 0, done.err
        assert (done.json["state"], done.json["text"]) == ("completed", "an answer")
        assert (done.json["outcome"]["type"], done.json["turn_id"][:2]) == ("finished", "t_")
        shown = world.lash("enqueue", "s", "!text again", "--wait=30s").out
        assert ": finished" in shown and "completed by turn t_" in shown
    finally:
        worker.send_signal(signal.SIGTERM)
    assert world.ended(worker).code == 143


def test_a_failed_turn_holds_its_queue_and_no_other(world: QueuedHome) -> None:
    assert world.lash("open", "other").code == 0
    world.add("!fail auth")
    world.add_task("!text afterwards")
    world.add("!text fine", session="other")
    done = world.lash("work", "--all", "--until-empty", "-o", "json")
    error = told_failure(done)
    report = error["details"]["report"]
    assert (report["turns"], report["failed"], report["held"]) == (2, 1, ["s"])
    assert "lash queue release work" in error["hint"]
    shown = world.lash("show", "s", "-o", "json").json
    assert shown["hold_reason"] == "turn_failed:provider_error" and shown["pending_batches"] == 1
    assert transcript(world, "other")[-1] == "assistant: fine"
    told(world.lash("work", "s", "--until-empty", "-o", "json"), 4, "queue_held")
    assert world.lash("work", "--all", "--until-empty", "-o", "json").json["turns"] == 0
    assert world.lash("queue", "release", "s").code == 0
    assert world.lash("work", "s", "--until-empty").code == 0
    assert transcript(world)[-1] == "assistant: afterwards"


def told_failure(done: Any) -> Any:
    """The error of a worker of whose turns some failed; warnings stand before it."""
    assert (done.code, done.out) == (8, ""), done.err
    assert done.error["code"] == "partial_outcome"
    return done.error


@pytest.mark.parametrize("options", [("--on-failure", "continue"), ("-c", "work.on_failure=continue")])
def test_a_worker_may_go_on_after_a_failed_turn(world: QueuedHome, options: tuple[str, ...]) -> None:
    world.add("!fail auth")
    world.add_task("!text afterwards")
    report = told_failure(world.lash("work", "s", "--until-empty", *options, "-o", "json"))["details"]["report"]
    assert (report["turns"], report["failed"], report["held"]) == (2, 1, [])
    assert transcript(world)[-1] == "assistant: afterwards"


def test_a_wait_ends_as_the_turn_of_its_text_did(world: QueuedHome) -> None:
    worker = world.spawn("work", "s", "--on-failure", "continue")
    try:
        error = told(world.lash("enqueue", "s", "!fail content_filter", "--wait=30s", "-o", "json"), 6,
                     "turn_stopped:provider_error")  # fmt: skip
        assert error["details"]["input"]["state"] == "completed"
        assert error["details"]["turn"]["turn_id"] == error["details"]["input"]["turn_id"]
    finally:
        worker.send_signal(signal.SIGTERM)
    world.ended(worker)


def test_a_named_session_that_cannot_be_worked_on_is_refused_and_nothing_is_claimed(world: QueuedHome) -> None:
    for session in ("shut", "gone", "held"):
        assert world.lash("open", session).code == 0
    world.add("waits")
    world.add("waits too", session="held")
    assert world.lash("close", "shut").code == world.lash("rm", "gone", "--yes").code == 0
    assert world.lash("queue", "hold", "held").code == 0
    for session, status, code in (
        ("shut", 4, "session_closed"),
        ("gone", 3, "session_deleted"),
        ("held", 4, "queue_held"),
        ("nowhere", 3, "session_not_found"),
    ):
        told(world.lash("work", "s", session, "--until-empty", "-o", "json"), status, code)
        stream = world.lash("work", "s", session, "--until-empty", "-o", "jsonl")
        assert (stream.code, stream.error["code"]) == (status, code)
    assert (world.waiting(), world.waiting("held")) == (["waits"], ["waits too"])


def test_a_worker_that_makes_no_sense_is_a_usage_error(world: QueuedHome) -> None:
    world.add("waits")
    for arguments in (
        (),
        ("s", "--all"),
        ("s", "--on-failure", "panic"),
        ("s", "--concurrency", "0"),
        ("s", "--max-turns", "0"),
        ("s", "--idle-exit", "soon"),
        ("s", "--lease-wait", "soon"),
        ("s", "--grace", "soon"),
        ("s", "--approve", "execute=maybe"),
    ):
        told(world.lash("work", *arguments, "-o", "json"), 2, "usage")
        assert world.waiting() == ["waits"], arguments


def test_the_session_of_the_environment_is_worked_on(world: QueuedHome) -> None:
    world.add("!text hello")
    assert world.lash("work", "--until-empty", env={"LASH_SESSION": "work"}).code == 0
    assert transcript(world)[-1] == "assistant: hello"


def start_gated(world: QueuedHome, tmp_path: Path, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
    """A worker in the middle of a turn of `s`, and the file that lets the turn go on."""
    prompt, began, gate = gate_at(tmp_path)
    world.add(prompt)
    worker = world.spawn("work", "--all", "--approve", "execute=auto", "-o", "json", *options)
    await_file(began, worker)
    return worker, gate


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_lets_running_turns_finish_and_takes_nothing_new(
    world: QueuedHome, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    worker, gate = start_gated(world, tmp_path)
    assert world.lash("open", "other").code == 0
    world.add("waits", session="other")
    worker.send_signal(number)
    world.add_task("waits too")
    gate.touch()
    error = told(world.ended(worker), status, "interrupted")
    assert error["details"]["report"]["turns"] == 1
    assert transcript(world)[-1] == "assistant: let through"
    assert world.waiting("other") == ["waits"]
    assert len(world.lash("queue", "batches", "s", "-o", "name").out.split()) == 1


def test_a_signal_after_the_beginning_of_a_stream_is_told_at_its_end(world: QueuedHome) -> None:
    for arguments in (("work", "--all"), ("turn", "s", "!sleep 60")):
        process = world.spawn(*arguments, "-o", "jsonl")
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        done = world.ended(process)
        end = json.loads(done.out.splitlines()[-1])
        assert (done.code, end["type"], end["reason"], end["exit"]) == (143, "stream_end", "signal", 143), done.err


def test_a_turn_that_outlasts_the_grace_is_cancelled_and_committed(world: QueuedHome, tmp_path: Path) -> None:
    worker, _ = start_gated(world, tmp_path, "--grace", "100ms")
    worker.send_signal(signal.SIGTERM)
    error = told(world.ended(worker), 143, "interrupted")
    assert (error["details"]["report"]["turns"], error["details"]["report"]["failed"]) == (1, 0)
    shown = world.lash("show", "s", "-o", "json").json
    assert (shown["unfinished_turn"], shown["turns"], shown["held_at"]) == (None, 1, None)


def has_taken_signals(process: subprocess.Popen[bytes]) -> bool:
    """Whether no signal is on its way to the process: two of one kind that wait there are one."""
    status = Path(f"/proc/{process.pid}/status")
    return not status.exists() or "ShdPnd:\t0000000000000000" in status.read_text()


def wait_until_taken(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not has_taken_signals(process):
        time.sleep(0.01)


def test_a_second_signal_leaves_the_turn_to_whoever_works_next(world: QueuedHome, tmp_path: Path) -> None:
    worker, gate = start_gated(world, tmp_path, "--grace", "1h")
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: has_taken_signals(worker), worker)
    assert world.lash("show", "s", "-o", "json").json["status"] == "running"
    worker.send_signal(signal.SIGTERM)
    error = told(world.ended(worker), 143, "interrupted")
    assert (error["details"]["report"]["turns"], error["details"]["report"]["stopped_by"]) == (0, "abandoned")
    assert world.lash("show", "s", "-o", "json").json["unfinished_turn"] is not None
    gate.touch()
    assert world.lash("work", "s", "--until-empty", "--approve", "execute=auto").code == 0
    assert [line.partition(":")[0] for line in transcript(world)].count("user") == 1 + 1, "its text and a tool result"
    assert turns(world) == 1


def test_two_workers_share_the_sessions_and_use_each_text_once(world: QueuedHome) -> None:
    sessions = [f"w{number}" for number in range(6)]
    for session in sessions:
        assert world.lash("open", session).code == 0
        world.add(f"!text answer of {session}", session=session)
    workers = [world.spawn("work", "--all", "--until-empty", "--concurrency", "3", "-o", "json") for _ in range(2)]
    reports = [world.ended(worker) for worker in workers]
    assert [done.code for done in reports] == [0, 0], [done.err for done in reports]
    assert sum(done.json["turns"] for done in reports) == len(sessions)
    for session in sessions:
        assert transcript(world, session) == [f"user: !text answer of {session}", f"assistant: answer of {session}"]


def test_the_turn_of_a_killed_worker_is_finished_by_the_next_one(world: QueuedHome, tmp_path: Path) -> None:
    worker, gate = start_gated(world, tmp_path)
    worker.kill()
    worker.communicate()
    gate.touch()
    done = world.lash("work", "--all", "--until-empty", "--approve", "execute=auto", "-o", "json")
    assert (done.code, done.json["turns"]) == (0, 1), done.err
    said = transcript(world)
    assert said[-1] == "assistant: let through" and said[0].startswith("user: !tool exec_command")
    assert (turns(world), world.waiting()) == (1, [])


def test_a_session_in_use_is_left_to_its_holder_after_the_wait(world: QueuedHome, tmp_path: Path) -> None:
    prompt, began, gate = gate_at(tmp_path)
    turn = world.spawn("turn", "s", prompt, "--approve", "execute=auto", "-q")
    await_file(began, turn)
    world.add("!text queued behind")
    done = world.lash("work", "s", "--until-empty", "--lease-wait", "100ms")
    assert (done.code, done.out) == (0, "0 turns in 0 sessions; stopped: empty\n") and "left to its holder" in done.err
    waiting = world.spawn("work", "s", "--until-empty", "-o", "json")
    gate.touch()
    assert world.ended(turn).out == "let through\n"
    assert world.ended(waiting).json["turns"] == 1
    assert transcript(world)[-1] == "assistant: queued behind"


def test_the_stream_begins_and_ends_and_names_session_and_turn(world: QueuedHome) -> None:
    one = world.add("!text hello")
    done = world.lash("work", "--all", "--until-empty", "-o", "jsonl")
    lines = done.lines
    assert (done.code, lines[0]["type"], lines[0]["mode"]) == (0, "stream_start", "work")
    assert (lines[-1]["type"], lines[-1]["reason"], lines[-1]["exit"]) == ("stream_end", "empty", 0)
    assert [line["seq"] for line in lines] == list(range(len(lines)))
    (started,) = [line for line in lines if line["type"] == "turn_started"]
    assert (started["session"], started["origin"], started["input_ids"]) == ("s", "queue", [one])
    (finished,) = [line for line in lines if line["type"] == "turn_finished"]
    assert (finished["turn"], finished["ok"], finished["text"]) == (started["turn"], True, "hello")
    assert {"v", "seq", "t", "session", "turn", "cursor", "type"} <= set(finished)


def test_the_stream_tells_failures_and_ends_with_the_error(world: QueuedHome) -> None:
    world.add("!fail auth")
    done = world.lash("work", "s", "--until-empty", "-o", "jsonl")
    assert (done.code, done.lines[-1]["exit"]) == (8, 8)
    assert done.lines[-1]["error"]["code"] == "partial_outcome"
    (held,) = [line for line in done.lines if line["type"] == "queue_changed"]
    assert (held["kind"], held["reason"], held["session"]) == ("held", "turn_failed:provider_error", "s")


def test_a_worker_that_has_nothing_to_do_ends_when_its_reader_goes_away(world: QueuedHome) -> None:
    worker = world.spawn("work", "--all", "-o", "jsonl", stderr=subprocess.DEVNULL)
    assert worker.stdout is not None
    assert json.loads(worker.stdout.readline())["type"] == "stream_start"
    worker.stdout.close()
    assert worker.wait(60) == 141


def test_a_worker_that_is_through_waits_for_its_reader_only_until_it_is_told_again(world: QueuedHome) -> None:
    world.add("!stream 2000\n!text" + " word" * 20_000)
    reader, writer = os.pipe()
    worker = world.spawn("work", "--all", "--until-empty", "-o", "jsonl", stdout=writer)
    os.close(writer)
    try:
        wait_until(lambda: turns(world) == 1, worker)
        # One more where it had not noticed yet that nothing is left to do.
        for _ in range(3):
            if worker.poll() is None:
                worker.send_signal(signal.SIGINT)
            wait_until_taken(worker)
        _, err = worker.communicate(timeout=60)
    finally:
        os.close(reader)
    assert worker.returncode == -signal.SIGINT
    assert b"Traceback" not in err


def test_a_reader_that_goes_away_stops_the_worker_and_loses_no_turn(world: QueuedHome) -> None:
    world.add("!stream 200\n!text" + " word" * 200)
    worker = world.spawn("work", "--all", "-o", "jsonl")
    assert worker.stdout is not None
    while json.loads(worker.stdout.readline())["type"] != "turn_started":
        pass
    worker.stdout.close()
    assert worker.wait(60) == 141
    assert worker.stderr is not None
    worker.stderr.close()
    assert (turns(world), world.lash("show", "s", "-o", "json").json["unfinished_turn"]) == (1, None)


def test_a_worker_ends_when_every_session_it_was_to_work_on_is_deleted(world: QueuedHome) -> None:
    assert world.lash("open", "other").code == 0
    worker = world.spawn("work", "s", "other", "-o", "json")
    for session in ("s", "other"):
        assert world.lash("enqueue", session, "!text x", "--wait=30s").code == 0, "it works on what is left"
        assert world.lash("rm", session, "--yes").code == 0
    told(world.ended(worker), 3, "session_deleted")


def test_a_worker_without_a_stream_ends_when_its_reader_goes_away(world: QueuedHome) -> None:
    world.add("!text x")
    worker = world.spawn("work", "--all")
    assert worker.stdout is not None and worker.stderr is not None
    assert b"finished" in worker.stderr.readline(), "it works"
    worker.stdout.close()
    assert worker.wait(60) == 141
    with worker.stderr as stderr:
        assert stderr.read() == b""


def test_a_worker_whose_stdout_was_closed_from_the_start_works_all_the_same(world: QueuedHome) -> None:
    world.add("!text x")
    reader, writer = os.pipe()
    os.close(reader)
    worker = world.spawn("work", "--all", "--until-empty", stdout=writer)
    os.close(writer)
    worker.communicate(timeout=60)
    assert (worker.returncode, turns(world)) == (141, 1)


@pytest.mark.parametrize("limit", ["--once", "--until-empty"])
def test_a_worker_that_finds_no_database_makes_none(tmp_path: Path, limit: str) -> None:
    nowhere = tmp_path / "nowhere"
    report = run_lash(["work", "--all", limit, "-o", "json"], home=nowhere).json
    assert (report["turns"], report["stopped_by"]) == (0, "once" if limit == "--once" else "empty")
    streamed = run_lash(["work", "--all", limit, "-o", "jsonl"], home=nowhere)
    assert [line["type"] for line in streamed.lines] == ["stream_start", "stream_end"]
    assert not (nowhere / "lash.db").exists()


def test_a_worker_without_a_limit_makes_no_database_and_works_once_somebody_made_one(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    worker = spawn_lash(["work", "--all", "-o", "jsonl"], home=nowhere)
    assert worker.stdout is not None
    assert json.loads(worker.stdout.readline())["type"] == "stream_start"
    time.sleep(0.3)
    assert not (nowhere / "lash.db").exists()
    QueuedHome(nowhere).add("!text here it is")
    lines = iter(worker.stdout.readline, b"")
    assert any(json.loads(line)["type"] == "turn_finished" for line in lines)
    worker.terminate()
    rest, _ = worker.communicate(timeout=60)
    assert (worker.returncode, json.loads(rest.splitlines()[-1])["type"]) == (143, "stream_end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_waits_for_a_database_ends_when_it_is_told(tmp_path: Path, number: signal.Signals) -> None:
    nowhere = tmp_path / "nowhere"
    worker = spawn_lash(["work", "--all", "-o", "jsonl"], home=nowhere)
    assert worker.stdout is not None
    worker.stdout.readline()
    worker.send_signal(number)
    rest, _ = worker.communicate(timeout=60)
    ended = json.loads(rest)
    assert (worker.returncode, ended["type"], ended["reason"]) == (128 + number, "stream_end", "signal")
    assert not (nowhere / "lash.db").exists()


def test_a_worker_that_waits_for_a_database_ends_when_it_was_idle_long_enough(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    report = run_lash(["work", "--all", "--idle-exit", "200ms", "-o", "json"], home=nowhere).json
    assert (report["turns"], report["stopped_by"]) == (0, "idle")
    assert not (nowhere / "lash.db").exists()


def test_a_session_that_was_not_named_is_said(lash, home) -> None:
    prepare(home, ("open", "s", "--name", "fjord"))
    done = lash("work", "--until-empty", env={"LASH_SESSION": "fjord"})
    assert done.code == 0 and "session fjord (s) from LASH_SESSION" in done.err
    assert lash("work", "--until-empty", env={"LASH_SESSION": "nowhere"}).code == 3
