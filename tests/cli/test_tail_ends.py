"""How `lash tail` ends: as its session did, as it was asked to, or as its writer died (contract 08 §5.1, §8; 04 §5)."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from support.cli import spawn_lash
from support.prepared import OPEN, prepare
from support.tailing import PATIENCE_S, foreign_epoch, types


def test_until_committed_ends_with_the_next_commit_whatever_it_is(lash, home: Path, tailing) -> None:
    prepare(home, OPEN)
    tail = tailing("s", "--until", "committed")
    assert lash("turn", "s", "!fail auth").code == 5
    assert types(tail.rest())[-2:] == ["committed", "stream_end"]
    assert (tail.lines[-1]["reason"], tail.lines[-1]["exit"], tail.process.returncode) == ("committed", 0, 0)
    configured = tailing("s", "--until", "committed")
    lash("set", "s", "max_steps=9")
    assert types(configured.rest()) == ["stream_start", "committed", "stream_end"]
    cursor = tail.lines[0]["cursor"]
    again = lash("tail", "s", "--cursor", cursor, "--until", "committed", "-o", "jsonl")
    assert again.code == 0 and again.lines[1:-1] == [
        {**line, "seq": number} for number, line in enumerate(tail.lines[1:-1], start=1)
    ]
    lost = lash("tail", "s", "--cursor", foreign_epoch(cursor), "--until", "committed", "-o", "jsonl")
    assert types(lost.lines) == ["stream_start", "gap", "snapshot", "stream_end"] and lost.code == 0


# A turn that nobody takes over is given up sooner than after seconds.
IMPATIENT = """
import lash_cli.cli.tail_run, lash_cli.cli.tail_watched
lash_cli.cli.tail_watched.ABANDONED_SECONDS = 0.6
lash_cli.cli.tail_watched.HOLDER_SECONDS = lash_cli.cli.tail_run.HOLDER_SECONDS = 0.2
"""


@pytest.mark.parametrize(
    ("prompt", "code"), [("!text well", 0), ("!fail auth", 6), ("!tool nope {}\n!then\n!fail content_filter", 6)]
)
def test_until_idle_and_until_turn_end_as_the_turn_did(lash, home: Path, tailing, prompt: str, code: int) -> None:
    prepare(home, OPEN)
    tail = tailing("s", "--until", "turn")
    lash("turn", "s", prompt)
    assert tail.rest()[-1]["exit"] == tail.process.returncode == code
    idle = lash("tail", "s", "--until", "idle", "-o", "jsonl")
    assert idle.code == code == idle.lines[-1]["exit"] and idle.lines[-1]["reason"] == "idle"


def test_until_idle_ends_as_cancelled_when_somebody_cancelled(lash, home: Path, tailing, tmp_path: Path) -> None:
    prepare(home, OPEN)
    tail = tailing("s")
    turn = spawn_lash(["turn", "s", f"!wait-file {tmp_path / 'never'}"], home=home)
    tail.until("model_request_started")
    idle = tailing("s", "--until", "idle")
    assert lash("cancel", "s", "--wait=30s").code == 0
    turn.communicate(timeout=PATIENCE_S)
    assert idle.rest()[-1]["exit"] == idle.process.returncode == 7
    assert idle.lines[-1]["error"]["code"] == "turn_cancelled"


def test_a_duration_ends_well(lash, home: Path) -> None:
    prepare(home, OPEN)
    result = lash("tail", "s", "--until", "50ms", "-o", "jsonl")
    assert result.code == 0 and result.lines[-1]["reason"] == "timeout" and result.err == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_tail_in_order(home: Path, tailing, number: int, code: int) -> None:
    prepare(home, OPEN)
    tail = tailing("s")
    tail.process.send_signal(number)
    end = tail.rest()[-1]
    assert (end["type"], end["reason"], end["exit"]) == ("stream_end", "signal", code) == (
        "stream_end", "signal", tail.process.returncode,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_a_reader_that_leaves_ends_a_quiet_tail(home: Path, form: str) -> None:
    prepare(home, OPEN, ("turn", "s", "hi"))
    tail = spawn_lash(["tail", "s", "--from", "start", "-o", form], home=home)
    assert tail.stdout is not None and tail.stderr is not None
    tail.stdout.readline()
    tail.stdout.close()
    assert tail.wait(PATIENCE_S) == 141
    assert b"Traceback" not in tail.stderr.read()
    tail.stderr.close()


def test_a_session_deleted_under_a_tail_ends_it(lash, home: Path, tailing) -> None:
    prepare(home, OPEN)
    tail = tailing("s")
    assert lash("rm", "s", "--yes").code == 0
    end = tail.rest()[-1]
    assert end["type"] == "stream_end" and end["exit"] == tail.process.returncode == 3
    assert end["error"]["details"]["deleted"] is True


def test_of_several_sessions_one_may_be_deleted(lash, home: Path, tailing) -> None:
    prepare(home, ("open", "a"), ("open", "b"))
    tail = tailing("a", "b")
    lash("rm", "a", "--yes")
    lash("turn", "b", "!text alive")
    assert tail.until("turn_finished")["text"] == "alive"
    lash("rm", "b", "--yes")
    assert tail.rest()[-1]["exit"] == tail.process.returncode == 3


def test_no_tail_waits_for_a_dead_writer(lash, home: Path, tailing, tmp_path: Path) -> None:
    prepare(home, OPEN)
    begun = tailing("s")
    first = spawn_lash(["turn", "s", f"!wait-file {tmp_path / 'go'}"], home=home)
    turn_id = begun.until("model_request_started")["turn"]
    tails = {until: tailing("s", "--until", until, first=IMPATIENT) for until in ("idle", "turn", "committed")}
    first.kill()
    first.communicate()
    for until, tail in tails.items():
        end = tail.rest()[-1]
        assert (end["reason"], end["exit"], tail.process.returncode) == (until, 75, 75)
        assert (end["error"]["code"], end["error"]["ambiguous"]) == ("session_execution_lease_lost", True)
        assert turn_id in end["error"]["message"] and "lash resume" in end["error"]["hint"]
    (tmp_path / "go").touch()
    assert lash("resume", "s").code == 0
    assert lash("tail", "s", "--until", "idle").code == 0


def test_of_several_sessions_a_turn_that_can_end_is_waited_for(lash, home: Path, tailing, tmp_path: Path) -> None:
    prepare(home, ("open", "dead"), ("open", "alive"))
    begun = tailing("dead")
    writer = spawn_lash(["turn", "dead", f"!wait-file {tmp_path / 'never'}"], home=home)
    begun.until("model_request_started")
    writer.kill()
    writer.communicate()
    tail = tailing("dead", "alive", "--until", "turn", first=IMPATIENT)
    assert tail.process.stderr is not None
    assert json.loads(tail.process.stderr.readline())["code"] == "holder_dead"
    # Begun later, it waits as long as the tail of both must have waited by then.
    alone = spawn_lash(["tail", "dead", "--until", "turn"], home=home, first=IMPATIENT)
    _, said = alone.communicate(timeout=PATIENCE_S)
    assert alone.returncode == 75 and b"hint: finish it: lash resume" in said
    lash("turn", "alive", "!text here")
    assert tail.rest()[-1]["exit"] == tail.process.returncode == 0


def test_a_dead_writer_is_told_once(home: Path, tailing, tmp_path: Path) -> None:
    prepare(home, OPEN)
    tail = tailing("s")
    writer = spawn_lash(["turn", "s", f"!wait-file {tmp_path / 'never'}"], home=home)
    turn_id = tail.until("model_request_started")["turn"]
    lines = spawn_lash(["tail", "s"], home=home)
    assert lines.stdout is not None and lines.stderr is not None and b"running" in lines.stderr.readline()
    writer.kill()
    writer.communicate()
    said = lines.stdout.readline().decode()
    assert f"pid {writer.pid} (turn) is gone" in said and turn_id in said
    lines.kill()
    lines.communicate()
    assert tail.process.stderr is not None
    warning = json.loads(tail.process.stderr.readline())
    assert warning["code"] == "holder_dead" and f"pid {writer.pid}" in warning["message"]
    assert tail.end() == 143


def test_a_look_at_no_session_at_all_ends(lash, home: Path) -> None:
    prepare(home, OPEN, ("rm", "s", "--yes"))
    assert types(lash("tail", "--all", "--no-follow", "-o", "jsonl").lines) == [
        "stream_start",
        "stream_end",
    ]
