"""Standard streams closed before the start: the command does its work and ends properly (contract 08 §6.3, §6.4)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Result, environment, spawn_lash
from support.prepared import OPEN, prepare

CLOSED_STDOUT = 141


STREAMS = {"<&-": (0, "stdin"), ">&-": (1, "stdout"), "2>&-": (2, "stderr")}
FULL = {">/dev/full": "stdout", "2>/dev/full": "stderr"}
ONLY_READ = {"1</dev/null": "stdout", "2</dev/null": "stderr"}


def closed(home: Path, arguments: str, redirections: str) -> Result:
    """Run `lash ARGUMENTS` with redirections such as a shell's `>&-`: with the stream missing and its descriptor free,
    as a Python that is started so finds them."""
    first, streams = "import os, sys\n", {}
    with contextlib.ExitStack() as opened:
        for redirection in redirections.split():
            if redirection in FULL:
                streams[FULL[redirection]] = opened.enter_context(open("/dev/full", "wb"))
            elif redirection in ONLY_READ:
                streams[ONLY_READ[redirection]] = opened.enter_context(open("/dev/null", "rb"))
            else:
                number, name = STREAMS[redirection]
                first += f"os.close({number})\nsys.{name} = sys.__{name}__ = None\n"
        with spawn_lash(shlex.split(arguments), home=home, first=first, **streams) as process:
            out, err = process.communicate(timeout=60)
    return Result(process.returncode, (out or b"").decode(), (err or b"").decode())


def closed_by_shell(home: Path, arguments: str, redirections: str) -> Result:
    """The same by a real shell, and with a Python that is really started so."""
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m lash_cli {arguments} {redirections}"],
        env=environment(home),
        cwd=home.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize(
    ("arguments", "redirections", "code"),
    [
        ("--version", ">&-", CLOSED_STDOUT),
        ("turn s '!text x' -o json", ">&-", CLOSED_STDOUT),
        ("turn s '!text x'", "2>&-", 0),
        ("turn s", "<&-", 2),
        ("version", ">/dev/full", 1),
        ("turn s '!text x'", "2>/dev/full", 0),
    ],
)
def test_a_shell_that_closes_a_stream_is_answered_as_in_the_other_tests_here(
    home: Path, arguments: str, redirections: str, code: int
) -> None:
    if "full" in redirections and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    prepare(home, OPEN)
    shutil.copytree(home, home.with_name("other"))
    by_shell = closed_by_shell(home, arguments, redirections)
    here = closed(home.with_name("other"), arguments, redirections)
    assert by_shell.code == here.code == code
    assert (by_shell.out, without_ids(by_shell.err)) == (here.out, without_ids(here.err))


def without_ids(said: str) -> str:
    return re.sub(r"[a-z]+_[0-9a-z]{16,26}|[0-9]+ms|[0-9.]+ ?s", "", said)


@pytest.mark.parametrize(
    "arguments",
    ["--version", "--help", "version", "ls -o json", "open a", "show s", "tree s", "log s -o json", "doctor",
     "turn s '!text x'", "turn s '!text x' -o json", "turn s '!text x' -o jsonl", "turn s '!text x' -q", "resume s"],
)  # fmt: skip
def test_writing_to_a_closed_stdout_is_141_without_an_error(lash, home: Path, arguments: str) -> None:
    prepare(home, OPEN)
    done = closed(home, arguments, ">&-")
    assert done.code == CLOSED_STDOUT, done.err
    assert "error" not in done.err and "Traceback" not in done.err and "Exception" not in done.err
    if arguments.startswith("turn"):
        assert lash("show", "s", "-o", "json").json["turns"] == 1, "the turn was committed all the same"
    if arguments == "open a":
        assert lash("show", "a").code == 0


def test_a_command_that_prints_nothing_does_not_mind_a_closed_stdout(lash, home: Path) -> None:
    done = closed(home, "config set defaults.model m", ">&-")
    assert (done.code, done.err) == (0, f"set defaults.model in {home / 'config.toml'}\n")


def test_an_error_is_told_although_stdout_is_closed(home: Path) -> None:
    prepare(home, OPEN)
    done = closed(home, "turn nope hi -o json", ">&-")
    assert (done.code, done.error["code"]) == (3, "session_not_found")


def test_a_closed_stderr_loses_the_notes_and_nothing_else(lash, home: Path) -> None:
    prepare(home, OPEN)
    done = closed(home, "turn s '!text answer'", "2>&-")
    assert (done.code, done.out, done.err) == (0, "answer\n", "")
    assert closed(home, "turn nope hi", "2>&-").code == 3
    assert closed(home, "rm s", "2>&-").code == 2
    assert lash("show", "s", "-o", "json").json["turns"] == 1


@pytest.mark.parametrize(
    ("arguments", "news"),
    [
        (["tail", "s"], b'"committed"'),
        (["log", "s", "--follow"], b'"message"'),
        (["ls", "--watch"], b'"changed"'),
        (["work", "s"], b'"committed"'),
    ],
    ids=["tail", "log", "ls", "work"],
)
def test_a_named_pipe_that_is_open_for_both_is_written_to_its_end(
    lash, home: Path, tmp_path: Path, arguments: list[str], news: bytes
) -> None:
    """As a script has it that begins with `exec 3<>pipe`, so that opening it waits for nobody."""
    prepare(home, OPEN)
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDWR)
    with open(descriptor, "rb") as pipe:
        command = spawn_lash([*arguments, "-o", "jsonl"], home=home, stdout=descriptor)
        assert b'"stream_start"' in pipe.readline()
        lash(*(("enqueue", "s") if arguments[0] == "work" else ("turn", "s")), "!text hello")
        while news not in (line := pipe.readline()):
            assert b'"stream_end"' not in line
        command.send_signal(signal.SIGINT)
        while b'"stream_end"' not in (line := pipe.readline()):
            pass
        assert json.loads(line)["exit"] == 130
        assert command.wait(60) == 130


def test_a_closed_stdin_is_an_empty_one(home: Path) -> None:
    prepare(home, OPEN)
    assert closed(home, "turn s '!text answer' -q", "<&-").out == "answer\n"
    done = closed(home, "turn s -o json", "<&-")
    assert (done.code, done.out, done.error["code"]) == (2, "", "empty_prompt")
    assert closed(home, "key set mine --stdin -o json", "<&-").error["code"] == "usage"
    tool = """turn s '!tool exec_command {"cmd": "cat; echo read"}' --approve execute=auto -o json"""
    done = closed(home, tool, "<&-")
    assert done.code == 0 and "read" in str(done.json["tool_calls"][0]["output"])


def test_with_every_stream_closed_the_store_is_still_sound(lash, home: Path) -> None:
    assert closed_by_shell(home, "open s", "<&- >&- 2>&-").code == CLOSED_STDOUT
    assert closed(home, "turn s '!text x'", "<&- >&- 2>&-").code == CLOSED_STDOUT
    assert closed(home, "turn nope x", "<&- >&- 2>&-").code == 3
    shown = lash("show", "s", "-o", "json").json
    assert (shown["turns"], shown["unfinished_turn"]) == (1, None)
    assert lash("doctor", "-o", "json").code == 0


@pytest.mark.parametrize("arguments", ["--version", "version", "--help", "ls", "ls -o json", "show s", "log s -o json"])
def test_an_answer_that_finds_no_room_is_told_without_a_traceback(lash, home: Path, arguments: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    lash("open", "s")
    done = closed(home, arguments, ">/dev/full")
    assert done.code == 1 and "No space left on device" in done.err
    assert "Traceback" not in done.err and "Exception" not in done.err


def test_a_turn_whose_answer_finds_no_room_is_committed_and_that_is_said(lash, home: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    lash("open", "s")
    error = closed(home, "turn s '!text x' -o json", ">/dev/full").error
    assert (error["code"], error["exit"], error["ambiguous"]) == ("output_not_written", 1, True)
    assert lash("show", "s", "-o", "json").json["turns"] == 1


@pytest.mark.parametrize(
    "arguments",
    ["--version", "version", "--help", "ls", "ls -o json", "show s -o json", "export s", "export s --as html -o json",
     "turn s '!text x'", "turn s '!text x' -o json", "turn s '!text x' -o jsonl"],
)  # fmt: skip
def test_a_stdout_that_is_open_for_reading_only_is_told_as_what_it_is(lash, home: Path, arguments: str) -> None:
    """As where a supervisor opens /dev/null once, for all three."""
    prepare(home, OPEN)
    done = closed(home, arguments, "1</dev/null")
    assert done.code == 1 and "cannot write the answer: Bad file descriptor" in done.err
    assert "Traceback" not in done.err and "Exception" not in done.err
    if "-o" in arguments:
        error = json.loads(done.err.splitlines()[-1])
        assert (error["code"], error["exit"], error["ambiguous"]) == ("output_not_written", 1, True)
    if arguments.startswith("turn"):
        assert lash("show", "s", "-o", "json").json["turns"] == 1
    assert closed(home, arguments, "1</dev/null 2</dev/null").code == 1


@pytest.mark.parametrize(("arguments", "code"), [("open a", 0), ("turn s '!text x'", 0), ("show nope", 3), ("tail", 2)])
def test_a_stderr_without_room_loses_the_notes_and_not_the_status(lash, home: Path, arguments: str, code: int) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    lash("open", "s")
    assert closed(home, arguments, "2>/dev/full").code == code


def test_no_answer_is_cut_off_in_silence_where_python_does_not_buffer(lash, home: Path) -> None:
    prepare(home, OPEN)
    assert lash("turn", "s", "-", input="!text " + "word " * 60_000).code == 0
    whole = lash("log", "s", "-o", "json").out
    with subprocess.Popen(
        [sys.executable, "-m", "lash_cli", "log", "s", "-o", "json"],
        env={**environment(home), "PYTHONUNBUFFERED": "1"}, cwd=home.parent, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.read(1) == b"{"
        process.stdout.close()
        assert process.wait(60) == CLOSED_STDOUT
    assert lash("log", "s", "-o", "json", env={"PYTHONUNBUFFERED": "1", "LASH_TEST_COLD": "1"}).out == whole
