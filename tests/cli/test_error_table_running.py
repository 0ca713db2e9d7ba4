"""Failures while somebody works on the session: busy, cancelled, timed out, interrupted (contract 08 §6.4)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.error_world import ErrorWorld, error_world, told
from support.frozen import cut_lease, freeze
from support.processes import wait_until

BY_LOOPBACK = ("--provider", "loopback")
STUCK = "!sleep 600"
UNHURRIED = ("-c", "lease.ttl_ms=600000")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ErrorWorld]:
    with error_world(tmp_path) as made:
        yield made


def has_logged(world: ErrorWorld, what: str) -> bool:
    """Whether the live log says that of the turn."""
    return any("t_run" in row and what in str(row) for row in (world.dump() or {})["live_row"])


@contextmanager
def running(world: ErrorWorld, *options: str, prompt: str = STUCK) -> Iterator[subprocess.Popen[bytes]]:
    """A turn of session `s` that has asked its model and does not end by itself."""
    process = world.spawn("turn", "s", prompt, "--turn-id", "t_run", *BY_LOOPBACK, *UNHURRIED, "-o", "jsonl", *options)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["type"] == "model_request_started":
                break
        else:
            raise AssertionError(process.communicate()[1].decode())
        # What it showed comes into the live log a moment later; from then on it writes nothing, not even a renewal.
        wait_until(lambda: has_logged(world, "model_request_started"), process)
        yield process
    finally:
        process.kill()
        process.communicate()


def end_of(world: ErrorWorld, process: subprocess.Popen[bytes]) -> tuple[int, dict[str, object], dict[str, object]]:
    """Exit status, the last line of the stream and the error on stderr."""
    done = world.ended(process)
    assert len(done.err.splitlines()) == 1, done.err
    return done.code, done.lines[-1], done.error


def test_a_signal_ends_a_wait_for_a_session_in_use_and_nothing_was_sent(world: ErrorWorld) -> None:
    with running(world):
        before = world.dump()
        process = world.spawn("turn", "s", "mine", *BY_LOOPBACK, "--if-busy", "wait", "-o", "jsonl")
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        code, last, error = end_of(world, process)
        assert json.loads(first)["type"] == "stream_start"
        assert (code, last["reason"], last["exit"]) == (130, "signal", 130)
        assert "nothing was sent" in str(error["message"])
        assert world.dump() == before


def test_a_session_in_use_refuses_everybody_else_and_names_the_holder(world: ErrorWorld) -> None:
    with running(world) as process:
        for arguments in (
            ("turn", "s", "mine"),
            ("turn", "s", "mine", "--if-busy", "wait=50ms"),
            ("resume", "s", "mine"),
            ("resume", "s"),
        ):
            error = world.refused(arguments, 75, "session_execution_busy")
            assert error["details"]["holder"]["pid"] == process.pid and error["hint"]
        for arguments in (("park", "s"), ("close", "s"), ("rm", "s", "--yes")):
            error = world.refused(arguments, 75, "session_still_in_use")
            assert error["details"]["lease"]["holder"]["pid"] == process.pid and error["hint"]
        world_before = world.dump()
        told(world.lash("park", "s", "--wait=50ms", "-o", "json"), 124, "wait_timeout")
        assert world.dump() == world_before
        assert world.lash("cancel", "s", "--wait").code == 0
        process.wait(timeout=60)
    world.is_whole("s", "t_run")


def test_a_cancel_by_somebody_else_ends_the_turn_with_7(world: ErrorWorld) -> None:
    with running(world) as process:
        assert world.lash("cancel", "s", "--reason", "enough").code == 0
        status, end, error = end_of(world, process)
    assert (status, end["type"], end["exit"], error["code"]) == (7, "stream_end", 7, "turn_cancelled")
    assert "enough" in str(error["message"])
    world.is_whole("s", "t_run")


def test_a_cancel_that_nobody_answers_in_time_is_wait_timeout_and_stands(world: ErrorWorld) -> None:
    with running(world) as process:
        freeze(process, world.database)
        told(world.lash("cancel", "s", "--wait=100ms", "-o", "json"), 124, "wait_timeout")
        process.send_signal(signal.SIGCONT)
        assert end_of(world, process)[0] == 7
    world.is_whole("s", "t_run")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=lambda v: str(v)
)
def test_a_signal_ends_the_turn_committed_with_its_own_status(
    world: ErrorWorld, number: signal.Signals, status: int
) -> None:
    with running(world) as process:
        process.send_signal(number)
        code, end, error = end_of(world, process)
    assert (code, end["type"], end["reason"], end["exit"]) == (status, "stream_end", "signal", status)
    assert (error["code"], error["exit"]) == ("turn_cancelled", status)
    world.is_whole("s", "t_run")


def test_a_signal_as_json_is_one_error_and_no_output(world: ErrorWorld, tmp_path: Path) -> None:
    gate = tmp_path / "asked"
    prompt = f'!tool exec_command {{"cmd": "touch {gate}; sleep 600"}}'
    process = world.spawn("turn", "s", prompt, *BY_LOOPBACK, "--approve", "execute=auto", "-o", "json")
    try:
        wait_until(gate.exists, process)
        process.send_signal(signal.SIGTERM)
        error = told(world.ended(process), 143, "turn_cancelled")
    finally:
        process.kill()
    world.is_whole("s", error["details"]["turn"]["turn_id"])


@pytest.mark.parametrize(
    ("prompt", "options", "status", "code"),
    [
        (STUCK, ("--timeout", "200ms"), 124, "wait_timeout"),
        ('!tool exec_command {"cmd":"sleep 600"}', ("--timeout", "1500ms"), 124, "wait_timeout"),
        ('!tool exec_command {"cmd":"true"}\n!then\n!tool exec_command {"cmd":"true"}', ("--max-steps", "1"), 6,
         "turn_stopped:max_turns"),
        ("!fail context_overflow", (), 6, "turn_stopped:provider_error"),
        ("!fail content_filter", (), 6, "turn_stopped:provider_error"),
        ("!fail quota", (), 6, "turn_stopped:provider_error"),
    ],
)  # fmt: skip
def test_a_turn_that_stops_is_whole(
    world: ErrorWorld, prompt: str, options: tuple[str, ...], status: int, code: str
) -> None:
    arguments = ("turn", "s", prompt, *BY_LOOPBACK, "--approve", "execute=auto", *options)
    world.stopped(arguments, status, code)


@pytest.mark.parametrize("form", ["text", "json", "jsonl"])
def test_a_reader_that_left_gets_141_and_the_turn_is_committed(world: ErrorWorld, form: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    turn = ("turn", "s", "!text hello", *BY_LOOPBACK, "--turn-id", "t_run", "-o", form)
    process = world.spawn(*turn, stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141, err
    assert b"Traceback" not in err and b"error" not in err
    world.is_whole("s", "t_run")


def test_a_full_disk_behind_stdout_is_an_error_and_the_turn_is_committed(world: ErrorWorld) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        process = world.spawn("turn", "s", "!text hello", *BY_LOOPBACK, "--turn-id", "t_run", "-o", "json", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and b"Traceback" not in err
    assert json.loads(err.splitlines()[-1])["code"] == "output_not_written"
    world.is_whole("s", "t_run")


def test_a_process_that_lost_its_lane_says_so_and_writes_nothing(world: ErrorWorld, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    prompt = f"!wait-file {gate}\n!text from the first turn"
    # It learns of the loss when it renews, every two seconds.
    with running(world, "-c", "lease.ttl_ms=6000", prompt=prompt) as frozen:
        freeze(frozen, world.database)
        cut_lease(world.database, "s")
        next_turn = ("turn", "s", "!text second", *BY_LOOPBACK, "--turn-id", "t_next", "--if-busy", "wait")
        heir = world.spawn(*next_turn, "-o", "jsonl")
        try:
            assert heir.stdout is not None
            for line in heir.stdout:
                if json.loads(line)["type"] == "model_request_started":
                    break  # it has the lane, and finishes the turn of the frozen process first
            frozen.send_signal(signal.SIGCONT)
            status, end, error = end_of(world, frozen)
            gate.touch()
            assert world.ended(heir).code == 0
        finally:
            heir.kill()
    assert (status, error["code"], error["exit"]) == (75, "session_execution_lease_lost", 75)
    assert (error["ambiguous"], end["type"], end["exit"]) == (True, "stream_end", 75)
    told_once = [(item["role"], item["text"], item["turn_id"]) for item in world.transcript("s")]
    assert told_once == [
        ("user", prompt, "t_run"),
        ("assistant", "from the first turn", "t_run"),
        ("user", "!text second", "t_next"),
        ("assistant", "second", "t_next"),
    ]


@pytest.mark.parametrize("verb", [("close",), ("rm", "--yes")], ids=lambda verb: verb[0])
def test_a_bulk_verb_that_did_some_is_partial_outcome(world: ErrorWorld, verb: tuple[str, ...]) -> None:
    with running(world):
        done = world.lash(verb[0], "demo", "s", "abcd-1", *verb[1:], "-o", "json")
    error = told(done, 8, "partial_outcome")
    rows = {row["id"]: (row["outcome"], row["code"]) for row in error["details"]["items"]}
    past = {"close": "closed", "rm": "deleted"}[verb[0]]
    assert rows == {"demo": (past, None), "s": ("failed", "session_still_in_use"), "abcd-1": (past, None)}


@pytest.mark.parametrize("verb", [("close",), ("rm", "--yes")], ids=lambda verb: verb[0])
def test_a_bulk_verb_with_an_unknown_name_does_nothing_at_all(world: ErrorWorld, verb: tuple[str, ...]) -> None:
    world.refused((verb[0], "demo", "nope", "abcd-1", *verb[1:]), 3, "session_not_found")
