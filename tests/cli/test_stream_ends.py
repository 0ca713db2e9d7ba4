"""A JSONL stream has its last line however it ends, also by a failure that nobody expected (contract 08 §6.5).

One call of the real command, made when its stream has begun, raises: it is
replaced before the command begins.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli import Result, spawn_lash
from support.prepared import OPEN, prepare

# Each command, and the call that fails in the middle of its stream.
STREAMS = {
    "turn": (("turn", "s", "!text x"), "lash_cli.cli.turn_cursors", "TurnCursors", "settled"),
    "work": (("work", "--all", "--until-empty"), "lash_cli.store.sqlite.store", "SqliteStore", "change_mark"),
    "log": (("log", "s", "--follow"), "lash_cli.cli.log_follow", "CommittedLog", "begin"),
    "ls": (("ls", "--watch"), "lash_cli.store.sqlite.store", "SqliteStore", "change_mark"),
    "tail": (("tail", "s", "--no-follow"), "lash_cli.cli.tail_watched", "Watched", "is_caught_up"),
}


def failing(name: str, failure: str) -> tuple[tuple[str, ...], str]:
    """The command line of a stream, and what it does first so that its call raises `failure`."""
    arguments, module, owner, call = STREAMS[name]
    return (*arguments, "-o", "jsonl"), where_it_raises(module, f"{owner}.{call}", failure)


def where_it_raises(module: str, call: str, failure: str) -> str:
    """What a command does first so that a call of a module raises `failure`."""
    return f"import {module} as m\ndef fail(*a, **k): raise {failure}\nm.{call} = fail\n"


def ended(arguments: tuple[str, ...], home: Path, first: str) -> Result:
    """How a command ends that does `first` before it begins."""
    with spawn_lash(arguments, home=home, first=first) as process:
        out, err = process.communicate(timeout=60)
    return Result(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_fails_unexpectedly_ends_with_internal_and_says_so_once(home: Path, name: str) -> None:
    prepare(home, OPEN)
    arguments, first = failing(name, "RuntimeError('sk-abcdefghijklmnop')")
    done = ended(arguments, home, first)
    told = assert_ended(done, "internal", 1)
    assert "RuntimeError" in told["message"] and "sk-abc" not in done.out + done.err
    log = Path(told["details"]["log"]).read_text()
    assert log.count("Traceback (most recent call last)") == 1 and "in fail" in log


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_may_open_no_more_files_ends_with_that(home: Path, name: str) -> None:
    prepare(home, OPEN)
    arguments, first = failing(name, "OSError(24, 'Too many open files', 'some.file')")
    assert_ended(ended(arguments, home, first), "too_many_open_files", 5)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_finds_no_room_is_told_as_that_and_not_as_what_failed_behind_it(home: Path, name: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    prepare(home, OPEN)
    arguments, first = failing(name, "RuntimeError('behind it')")
    with open("/dev/full", "wb") as full, spawn_lash(arguments, home=home, first=first, stdout=full) as process:
        _, err = process.communicate(timeout=60)
    error = json.loads(err.splitlines()[-1])
    assert (process.returncode, error["code"], error["ambiguous"]) == (1, "output_not_written", True)


def test_a_tail_that_cannot_find_out_how_a_turn_ended_has_its_last_line(home: Path) -> None:
    prepare(home, OPEN, ("turn", "s", "!text x"))
    first = where_it_raises("lash_cli.cli.tail_watched", "Watched.ended_result", "RuntimeError('gone')")
    done = ended(("tail", "s", "--until", "idle", "-o", "jsonl"), home, first)
    end = done.lines[-1]
    assert (end["type"], end["reason"], end["exit"], done.code) == ("stream_end", "idle", 1, 1), done
    assert end["error"] == done.error and done.error["code"] == "internal"


@pytest.mark.parametrize("option", ["--out", "--usage-file"])
def test_a_committed_turn_whose_file_cannot_be_opened_is_told_as_committed(
    lash, home: Path, tmp_path: Path, option: str
) -> None:
    prepare(home, OPEN)
    first = where_it_raises("lash_cli.cli.turn_run", "write_out", "OSError(24, 'Too many open files', 'f')")
    done = ended(("turn", "s", "!text x", option, str(tmp_path / "f"), "-o", "json"), home, first)
    assert (done.code, done.error["code"], done.error["ambiguous"]) == (1, "output_not_written", True), done
    assert "the turn is committed" in done.error["message"]
    assert lash("show", "s", "-o", "json").json["turns"] == 1


def assert_ended(done: Result, code: str, status: int) -> dict[str, Any]:
    """The error that the last line tells, and stderr too, and the status."""
    assert [line["type"] for line in done.lines].count("stream_end") == 1, done
    assert done.lines[0]["type"] == "stream_start", done
    end = done.lines[-1]
    assert (end["type"], end["reason"], end["exit"]) == ("stream_end", "error", status), done
    assert (done.code, end["error"]["code"]) == (status, code), done
    assert end["error"] == done.error, done
    return end["error"]
