"""A turn killed with SIGKILL at every named point is finished as that same turn by whoever comes next.

Real processes, a real store, a real HTTP model. After the recovery: every
finished model call was made once, every recorded tool ran once, the user's
message stands once, and every call has exactly one result.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.cli import Result, begin, run_lash, spawn_lash
from support.frozen import cut_lease, wait_until_frozen
from support.made_files import lay
from support.wire import RecordedRequest, Reply, ThreadedChatServer, text_reply, tool_calls_reply

EFFECT = "echo ran >> effects.txt"
LONG_LEASE_MS = 600_000


def answer(request: RecordedRequest) -> Reply:
    """Call a shell tool and a read tool first; once their results are in the history, answer in prose."""
    if any(message["role"] == "tool" for message in request.json["messages"]):
        return text_reply("all done")
    return tool_calls_reply(
        [
            ("exec_command", json.dumps({"cmd": EFFECT}), "call_exec"),
            ("read_file", json.dumps({"path": "notes.txt"}), "call_read"),
        ]
    )


@dataclass
class Bench:
    """One home, one working directory, one model server."""

    home: Path
    work: Path
    server: ThreadedChatServer

    def variables(self) -> dict[str, str]:
        """What every command of the test finds in its environment."""
        return {
            "OPENAI_BASE_URL": self.server.base_url,
            "OPENAI_API_KEY": "canary-key",
            "OPENAI_MODEL": "m",
            "LASH_CFG__approval__execute": "auto",
            "LASH_NO_STDIN": "1",
        }

    def lash(self, *arguments: str) -> Result:
        """Run a command to its end, as whoever comes after the crash."""
        return run_lash(arguments, home=self.home, env=self.variables(), cwd=self.work, timeout=120)

    def document(self, *arguments: str) -> Any:
        done = self.lash(*arguments, "-o", "json")
        assert done.code == 0, done.err
        return done.json

    def crash(self, point: str, *arguments: str) -> None:
        """Run a command that kills itself at `point`."""
        with self.start(point, *arguments) as process:
            _, err = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, (process.returncode, err)

    def start(self, point: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A command that will be cut off at `point`. End it with `communicate`."""
        first = begin("crashing", point)
        return spawn_lash(arguments, home=self.home, env=self.variables(), cwd=self.work, first=first)

    def turn_state(self, turn_id: str) -> str | None:
        """What the store itself says of a turn; None of one that never began."""
        with closing(sqlite3.connect(f"file:{self.home / 'lash.db'}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT state FROM turns WHERE turn_id = ?", (turn_id,)).fetchone()
        return None if row is None else str(row[0])

    def effects(self) -> int:
        file = self.work / "effects.txt"
        return len(file.read_text().splitlines()) if file.exists() else 0


@contextmanager
def opened(place: Path, reply: Callable[[RecordedRequest], Reply]) -> Iterator[Bench]:
    """A bench in `place` whose session `s1` is open and whose model answers with `reply`."""
    work = place / "work"
    work.mkdir()
    (work / "notes.txt").write_text("a note\n")
    with ThreadedChatServer(default=reply) as server:
        bench = Bench(lay(place / "home" / "lash.db").parent, work, server)
        assert bench.lash("open", "s1").code == 0
        yield bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(tmp_path, answer) as made:
        yield made


def result_text(log: Any, call_id: str) -> str:
    found = [
        part["content"]
        for item in log["items"]
        for part in item["parts"]
        if part["kind"] == "tool_result" and part["tool_call_id"] == call_id
    ]
    assert len(found) == 1, f"{call_id} has {len(found)} results"
    return found[0]


# point -> model calls the server sees in all until the turn is committed
MATRIX = {
    "before:lane": 2,
    "after:lane": 2,
    "before:model_recorded": 3,
    "after:model_recorded": 2,
    "before:tool_started": 2,
    "after:tool_started#2": 2,
    "before:tool_recorded#2": 2,
    "after:tool_recorded#2": 2,
    "before:model_recorded#2": 3,
    "after:model_recorded#2": 2,
    "before:commit": 2,
    "after:commit": 2,
}
AT_DEATH = {"before:lane": None, "after:commit": "committed"}
MAY_CUT_OFF_THE_COMMAND = {"after:tool_started#2", "before:tool_recorded#2"}


@pytest.mark.parametrize("point", list(MATRIX))
def test_a_killed_turn_is_finished_once(bench: Bench, tmp_path: Path, point: str) -> None:
    bench.crash(point, "turn", "s1", "please work", "--turn-id", "t_first")
    # Where it died: what follows would look the same on either side of the two transactions that make a turn.
    assert bench.turn_state("t_first") == AT_DEATH.get(point, "running")
    # What the crash left is kept, so that each way to recover meets the same.
    left, asked = tmp_path / "left", len(bench.server.requests)
    for place in (bench.home, bench.work):
        shutil.copytree(place, left / place.name)
    recover_and_check(bench, point, "resume", asked)
    again = len(bench.server.requests)
    for place in (bench.home, bench.work):
        shutil.rmtree(place)
        shutil.copytree(left / place.name, place)
    recover_and_check(bench, point, "turn", asked, again - asked)


def recover_and_check(bench: Bench, point: str, recovery: str, asked: int, elsewhere: int = 0) -> None:
    """Recover from a crash at `point` and look at what came of it.

    The model was asked `asked` times before the crash, and `elsewhere` times by another recovery.
    """
    assert len(bench.server.requests) == asked + elsewhere and bench.effects() <= 1
    if point == "before:lane":
        assert bench.document("log", "s1")["items"] == []
        assert bench.lash("turn", "s1", "please work", "--turn-id", "t_first").code == 0
    command = ("resume", "s1") if recovery == "resume" else ("turn", "s1", "and again")
    done = bench.lash(*command)
    assert done.code == 0, done.err
    log = bench.document("log", "s1")
    users = [item["text"] for item in log["items"] if item["role"] == "user" and item["text"]]
    assert users == ["please work"] + (["and again"] if recovery == "turn" else [])
    assert len(bench.server.requests) - elsewhere == MATRIX[point] + (recovery == "turn")
    calls = [part["tool_call_id"] for item in log["items"] for part in item["parts"] if part["kind"] == "tool_call"]
    assert sorted(calls) == ["call_exec", "call_read"]
    assert "a note" in result_text(log, "call_read")
    told = result_text(log, "call_exec")
    if point in MAY_CUT_OFF_THE_COMMAND:
        # Which of two concurrent calls was cut off is chance; a command that was is reported and never run twice.
        assert bench.effects() == 1 or (bench.effects() == 0 and "interrupted" in told)
    else:
        assert bench.effects() == 1 and "interrupted" not in told
    assert bench.document("show", "s1")["unfinished_turn"] is None


def only_exec(request: RecordedRequest) -> Reply:
    if any(message["role"] == "tool" for message in request.json["messages"]):
        return text_reply("I was told")
    return tool_calls_reply([("exec_command", json.dumps({"cmd": EFFECT}), "call_exec")])


@pytest.mark.parametrize(("point", "effects"), [("after:tool_started", 0), ("before:tool_recorded", 1)])
def test_an_interrupted_shell_command_is_reported_and_not_run_again(tmp_path: Path, point: str, effects: int) -> None:
    with opened(tmp_path, only_exec) as bench:
        bench.crash(point, "turn", "s1", "please work")
        assert bench.lash("resume", "s1").code == 0
        assert bench.effects() == effects
        text = result_text(bench.document("log", "s1"), "call_exec")
        assert "interrupted" in text and "unknown" in text
        told = bench.server.requests[-1].json["messages"][-1]
        assert told["role"] == "tool" and "unknown" in told["content"]


def only_read(request: RecordedRequest) -> Reply:
    return tool_calls_reply([("read_file", json.dumps({"path": "notes.txt"}), "call_read")])


def test_a_turn_that_kills_its_process_each_time_says_so_and_can_be_ended(tmp_path: Path) -> None:
    with opened(tmp_path, only_read) as bench:
        bench.crash("before:tool_recorded", "turn", "s1", "please work")
        bench.crash("before:tool_recorded", "resume", "s1")
        (warning,) = bench.document("show", "s1")["warnings"]
        assert "began 2 times" in warning and "lash cancel" in warning
        checked = bench.document("doctor")
        assert checked["unfinished_turns"][0]["begun"] == 2
        (finding,) = [found for found in checked["findings"] if found["code"] == "turn_unfinished"]
        assert "began 2 times" in finding["message"] and "lash cancel s1" in finding["hint"]
        assert bench.lash("cancel", "s1", "--wait").code == 0
        assert bench.document("show", "s1")["status"] == "idle"


@pytest.mark.parametrize(
    ("point", "status"),
    [
        # Its answer was never recorded, another one was: what it writes now is refused.
        ("before:model_recorded#2", 75),
        # Everything it did was recorded and the turn was finished from that: it learns the first commit's result.
        ("before:commit", 0),
    ],
)
def test_a_frozen_owner_loses_its_lane_and_doubles_nothing_when_it_wakes(bench: Bench, point: str, status: int) -> None:
    owner = bench.start(f"stop:{point}", "turn", "s1", "please work", "-c", f"lease.ttl_ms={LONG_LEASE_MS}")
    try:
        wait_until_frozen(owner)
        busy = bench.lash("turn", "s1", "and again", "-o", "json")
        assert busy.code == 75, busy.err
        refusal = json.loads(busy.err)
        assert refusal["code"] == "session_execution_busy", refusal
        assert refusal["details"]["holder"]["pid"] == owner.pid
        cut_lease(bench.home / "lash.db", "s1")
        taken = bench.lash("turn", "s1", "and again", "--if-busy", "wait=60s")
        assert taken.code == 0, taken.err
        before = bench.document("log", "s1")["items"]
        owner.send_signal(signal.SIGCONT)
        _, err = owner.communicate(timeout=60)
        errors = err.decode()
        assert owner.returncode == status, errors
        assert status == 0 or "lane" in errors or "lease" in errors
        assert bench.document("log", "s1")["items"] == before
        assert [item["text"] for item in before if item["role"] == "user" and item["text"]] == [
            "please work",
            "and again",
        ]
        assert bench.effects() == 1
    finally:
        owner.kill()
        owner.communicate()
