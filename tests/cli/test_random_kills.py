"""Turns and first opens killed with SIGKILL at random moments, then simply run again (contract 01 §18).

The moments are seeded, so a failure can be repeated as far as the machine
allows; half of them count from an event instead of the start, so that a slow
machine is killed in the interesting places too. What must hold does not depend
on where a kill fell.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cli import Result, run_lash, spawn_lash
from support.wire import RecordedRequest, Reply, ThreadedChatServer, text_reply, tool_calls_reply, usage_of

from lash_cli.core.content import Message, Role, ToolCallPart, ToolResultPart, is_safe_to_resume, message_text
from lash_cli.core.graph import ConversationPayload
from lash_cli.store.base import PersistedSessionRead, ReadScope, TurnRecord
from lash_cli.store.sqlite.store import SqliteStore
from lash_cli.system import SystemClock, SystemIds

ROUNDS = 9
FEWEST_KILLS = 8
LONGEST_DELAY_S = 0.4
FRESH_HOMES = 4
EVENT_LIMIT_S = 30.0
TOKENS_OF_A_CALL = (10, 5)
CALLS_OF_A_TURN = 2

Moment = Callable[[subprocess.Popen[bytes]], None]


def text_of(message: Any) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def answer(request: RecordedRequest) -> Reply:
    """Two calls for the latest user message; once their results follow it, prose. Depends on the history only."""
    messages = request.json["messages"]
    latest = max(index for index, message in enumerate(messages) if message["role"] == "user")
    number = text_of(messages[latest]).removeprefix("msg ")
    usage = usage_of(*TOKENS_OF_A_CALL)
    if any(message["role"] == "tool" for message in messages[latest:]):
        return text_reply(f"done {number}", usage=usage)
    # What the command leaves in the background must die with the turn, however the turn dies.
    command = f"echo {number} >> effects.txt; sleep 300 >/dev/null 2>&1 & sleep 0.05"
    wanted = [
        ("exec_command", json.dumps({"cmd": command}), f"exec_{number}"),
        ("read_file", json.dumps({"path": "notes.txt"}), f"read_{number}"),
    ]
    return tool_calls_reply(wanted, usage=usage)


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Return when it happened, or when the process can no longer make it happen."""
    deadline = time.monotonic() + EVENT_LIMIT_S
    while not happened() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.002)


def kill_at(process: subprocess.Popen[bytes], moment: Moment, delay_s: float) -> bool:
    """Kill `delay_s` after the moment; False when the process was faster."""
    moment(process)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    return process.returncode == -signal.SIGKILL


def at_start(process: subprocess.Popen[bytes]) -> None:
    """The moment the process was started."""


def processes_in(directory: Path) -> list[str]:
    """Command lines of the processes that work in `directory`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")) == directory:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def wrong_modes(home: Path) -> dict[str, str]:
    """Whatever below `home` somebody else could use."""
    wrong = {}
    for path in (home, *home.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode != (0o700 if path.is_dir() else 0o600):
            wrong[str(path.relative_to(home))] = oct(mode)
    return wrong


def integrity(home: Path) -> list[tuple[str]]:
    """What SQLite itself thinks of the file."""
    connection = sqlite3.connect(home / "lash.db")
    try:
        return connection.execute("PRAGMA integrity_check").fetchall()
    finally:
        connection.close()


async def stored(home: Path, session_id: str) -> tuple[PersistedSessionRead, tuple[TurnRecord, ...]]:
    """The session as the store holds it: head and path, and every turn."""
    store = SqliteStore.open(home / "lash.db", clock=SystemClock(), ids=SystemIds())
    try:
        read = await store.load_session(session_id, ReadScope.ACTIVE_PATH)
        assert read is not None
        return read, await store.turns(session_id, limit=10 * ROUNDS)
    finally:
        await store.aclose()


def messages_of(read: PersistedSessionRead) -> list[Message]:
    return [node.payload.message for node in read.nodes if isinstance(node.payload, ConversationPayload)]


def assert_transcript(messages: list[Message], effects: Counter[str]) -> None:
    """Every text once and in order, every call answered once, no command run twice."""
    assert is_safe_to_resume(messages)
    asked = [message_text(item) for item in messages if item.role is Role.USER and message_text(item)]
    assert asked == [f"msg {number}" for number in range(ROUNDS)]
    answered = [message_text(item) for item in messages if item.role is Role.ASSISTANT and message_text(item)]
    assert answered == [f"done {number}" for number in range(ROUNDS)]
    parts = [part for message in messages for part in message.parts]
    called = Counter(part.tool_call_id for part in parts if isinstance(part, ToolCallPart))
    results = [part for part in parts if isinstance(part, ToolResultPart)]
    wanted = [f"{kind}_{number}" for kind in ("exec", "read") for number in range(ROUNDS)]
    assert called == Counter(wanted)
    assert Counter(part.tool_call_id for part in results) == called
    told = {part.tool_call_id: part.content for part in results}
    for number in range(ROUNDS):
        assert "a note" in told[f"read_{number}"]
        was_cut_off = "interrupted" in told[f"exec_{number}"]
        ran = effects[str(number)]
        assert ran == 1 or (ran == 0 and was_cut_off), (number, ran, told[f"exec_{number}"])


def assert_tokens(read: PersistedSessionRead, turns: tuple[TurnRecord, ...]) -> None:
    """A model call that was recorded is paid once, one that was lost is not in the books."""
    ledger = (
        sum(entry.usage.input_tokens for entry in read.token_ledger),
        sum(entry.usage.output_tokens for entry in read.token_ledger),
    )
    summaries = [turn.summary for turn in turns if turn.summary is not None]
    assert [turn.state for turn in turns] == ["committed"] * ROUNDS and len(summaries) == ROUNDS
    assert ledger == (
        sum(summary.usage.input_tokens for summary in summaries),
        sum(summary.usage.output_tokens for summary in summaries),
    )
    assert ledger == tuple(tokens * CALLS_OF_A_TURN * ROUNDS for tokens in TOKENS_OF_A_CALL)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds leftover processes through /proc")
def test_turns_killed_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(20)
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    (work / "notes.txt").write_text("a note\n")
    with ThreadedChatServer(default=answer) as server:
        variables = {
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": "canary-key",
            "OPENAI_MODEL": "m",
            "LASH_CFG__approval__execute": "auto",
            "LASH_NO_STDIN": "1",
        }

        def lash(*arguments: str) -> Result:
            return run_lash(arguments, home=home, env=variables, cwd=work)

        assert lash("open", "s1").code == 0
        killed = 0
        longest_s = LONGEST_DELAY_S
        for number in range(ROUNDS):
            turn = ("turn", "s1", f"msg {number}", "--key", f"k_{number}")
            for _ in range(chance.choice((1, 2, 2))):
                seen = len(server.requests)

                def at_first_request(process: subprocess.Popen[bytes], seen: int = seen) -> None:
                    wait_until(lambda: len(server.requests) > seen, process)

                moment, longest = chance.choice(((at_start, longest_s), (at_first_request, longest_s / 2)))
                process = spawn_lash(turn, home=home, env=variables, cwd=work)
                killed += kill_at(process, moment, chance.uniform(0, longest))
            started = time.monotonic()
            done = lash(*turn)
            assert done.code == 0, (number, done.err)
            # A machine may be done with a turn sooner than that: then the kills must fall sooner too.
            longest_s = min(longest_s, time.monotonic() - started)
        assert killed >= FEWEST_KILLS, "the kills came too late to prove anything"
        shown = lash("show", "s1", "-o", "json").json

    assert (shown["unfinished_turn"], shown["status"], shown["pending_inputs"]) == (None, "idle", 0)
    read, turns = asyncio.run(stored(home, "s1"))
    effects = Counter((work / "effects.txt").read_text().split())
    assert_transcript(messages_of(read), effects)
    assert_tokens(read, turns)
    assert read.head_revision == shown["head"]["revision"] >= ROUNDS
    assert integrity(home) == [("ok",)]
    assert wrong_modes(home) == {}
    deadline = time.monotonic() + 60
    while left := processes_in(work):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_a_home_whose_first_commands_were_killed_works_afterwards(tmp_path: Path) -> None:
    chance = random.Random(7)
    variables = {"LASH_NO_STDIN": "1"}
    for number in range(FRESH_HOMES):
        home = tmp_path / f"home-{number}"

        def at_the_file(process: subprocess.Popen[bytes], home: Path = home) -> None:
            wait_until((home / "lash.db").exists, process)

        # The schema is written within milliseconds of the file's appearance; the start covers what is before that.
        moments = [(at_the_file, 0.012), (at_start, LONGEST_DELAY_S / 2)]
        chance.shuffle(moments)
        commands = [("open", "s1"), ("turn", "s1", "first", "--or-open", "--key", "k_first")]
        if number % 2:
            commands.reverse()
        for command, (moment, longest) in zip(commands, moments, strict=True):
            kill_at(spawn_lash(command, home=home, env=variables), moment, chance.uniform(0, longest))
        for text, key in (("first", "k_first"), ("second", "k_second"), ("first", "k_first")):
            done = run_lash(["turn", "s1", text, "--or-open", "--key", key], home=home, env=variables)
            assert done.code == 0, (number, done.err)
        log = run_lash(["log", "s1", "-o", "json"], home=home).json
        assert [item["text"] for item in log["items"] if item["role"] == "user"] == ["first", "second"]
        assert run_lash(["show", "s1", "-o", "json"], home=home).json["unfinished_turn"] is None
        assert integrity(home) == [("ok",)]
        assert wrong_modes(home) == {}
