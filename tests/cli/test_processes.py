"""Many processes on one home: first opens at once, sessions side by side, one session contended, cancels from afar."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import run_lash, spawn_lash
from support.processes import start_process
from support.wire import ThreadedChatServer, hang_reply, text_reply

WORKER = """
import asyncio, sys
from pathlib import Path
from support.scripted import ScriptedCaller, text
from lash_cli.api import LashCore, ModelSpec, SqliteStore
from lash_cli.system import SystemClock, SystemIds

async def main(home, session_id, turns):
    store = SqliteStore.open(Path(home) / "lash.db", clock=SystemClock(), ids=SystemIds())
    async with LashCore(provider=ScriptedCaller([text("ok")], repeat=True), model=ModelSpec("m"), store=store) as core:
        async with await core.open_session(session_id) as session:
            for index in range(turns):
                output = await session.turn(f"{session_id} {index}", busy_wait_ms=60_000).run()
                assert output.result.is_success

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    tests = str(Path(__file__).parent.parent)
    return {**kept, "PYTHONPATH": tests, "LASH_HOME": str(home), "LASH_NO_STDIN": "1"}


def spawn(home: Path, *command: str) -> subprocess.Popen[bytes]:
    return start_process(
        [sys.executable, *command],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def lash(home: Path, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
    return spawn_lash(arguments, home=home, env={"LASH_NO_STDIN": "1", **more}, cwd=Path(__file__).parent)


def run(home: Path, *arguments: str, **more: str) -> tuple[int, str, str]:
    """A command while no other of the test matters."""
    done = run_lash(arguments, home=home, env={"LASH_NO_STDIN": "1", **more})
    return done.code, done.out, done.err


def finished(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


def items(home: Path, session: str) -> list[dict[str, object]]:
    code, out, err = run(home, "log", session, "-o", "json")
    assert code == 0, err
    listed: list[dict[str, object]] = json.loads(out)["items"]
    return listed


def test_twelve_processes_that_open_a_home_which_does_not_exist_all_succeed(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    processes = [lash(home, "turn", f"s{index}", "--or-open", "hello", "-q") for index in range(12)]
    results = [finished(process) for process in processes]
    assert [code for code, _, _ in results] == [0] * 12, results
    code, out, _ = run(home, "ls", "-o", "name")
    assert code == 0
    assert sorted(out.split()) == sorted(f"s{index}" for index in range(12))


def test_four_processes_turning_four_sessions_lose_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    workers = [spawn(home, "-c", WORKER, str(home), f"s{index}", "50") for index in range(4)]
    for worker in workers:
        code, _, err = finished(worker)
        assert code == 0, err
    for index in range(4):
        users = [item["text"] for item in items(home, f"s{index}") if item["role"] == "user"]
        assert users == [f"s{index} {turn}" for turn in range(50)]


def test_four_processes_turning_one_session_take_turns(tmp_path: Path) -> None:
    home = tmp_path / "home"
    workers = [spawn(home, "-c", WORKER, str(home), "s", "10") for _ in range(4)]
    for worker in workers:
        code, _, err = finished(worker)
        assert code == 0, err
    listed = items(home, "s")
    assert [item["role"] for item in listed] == ["user", "assistant"] * 40


@pytest.fixture
def hanging() -> Iterator[ThreadedChatServer]:
    with ThreadedChatServer([hang_reply("thinking ")], default=text_reply("fine")) as server:
        yield server


def start_hanging_turn(home: Path, server: ThreadedChatServer) -> subprocess.Popen[bytes]:
    code, _, err = run(home, "open", "s1", "--provider", "openai", **openai(server))
    assert code == 0, err
    owner = lash(home, "turn", "s1", "wait for it", **openai(server))
    server.wait_for_requests(1)
    return owner


def openai(server: ThreadedChatServer) -> dict[str, str]:
    return {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "k", "OPENAI_MODEL": "m"}


def test_a_cancel_from_another_process_commits_a_cancelled_turn_and_the_next_one_works(
    tmp_path: Path, hanging: ThreadedChatServer
) -> None:
    home = tmp_path / "home"
    owner = start_hanging_turn(home, hanging)
    code, out, err = run(home, "cancel", "s1", "--wait", "--reason", "enough", "-o", "json")
    assert code == 0, err
    assert json.loads(out)["outcome"] == "requested"
    assert finished(owner)[0] == 7
    assert [item["role"] for item in items(home, "s1")] == ["user"]
    code, out, err = run(home, "turn", "s1", "go on", **openai(hanging))
    assert (code, out.strip()) == (0, "fine"), err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_commits_a_cancelled_turn(
    tmp_path: Path, hanging: ThreadedChatServer, number: signal.Signals, status: int
) -> None:
    home = tmp_path / "home"
    owner = start_hanging_turn(home, hanging)
    owner.send_signal(number)
    code, _, err = finished(owner)
    assert code == status, err
    assert "Traceback" not in err
    code, out, _ = run(home, "show", "s1", "-o", "json")
    assert code == 0 and json.loads(out)["unfinished_turn"] is None
    assert [item["role"] for item in items(home, "s1")] == ["user"]


def test_one_of_two_processes_turns_and_the_other_names_the_holder(tmp_path: Path, hanging: ThreadedChatServer) -> None:
    home = tmp_path / "home"
    owner = start_hanging_turn(home, hanging)
    code, out, err = run(home, "turn", "s1", "me too", "-o", "json", **openai(hanging))
    assert (code, out) == (75, "")
    refusal = json.loads(err)
    assert refusal["code"] == "session_execution_busy" and refusal["retryable"]
    assert refusal["details"]["holder"]["pid"] == owner.pid
    waiting = lash(home, "turn", "s1", "me too", "--if-busy", "wait=30s", **openai(hanging))
    assert run(home, "cancel", "s1")[0] == 0
    assert finished(owner)[0] == 7
    code, out, err = finished(waiting)
    assert (code, out.strip()) == (0, "fine"), err


def test_a_killed_holder_on_this_host_is_taken_over_at_once(tmp_path: Path, hanging: ThreadedChatServer) -> None:
    home = tmp_path / "home"
    owner = start_hanging_turn(home, hanging)
    owner.kill()
    assert finished(owner)[0] == -signal.SIGKILL
    code, _, err = run(home, "resume", "s1", **openai(hanging))
    assert code == 0, err
    assert [item["text"] for item in items(home, "s1")] == ["wait for it", "fine"]
