"""A long text at a terminal goes through the user's pager, and nowhere else through one (contract 08 §6.6, §11)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.prepared import OPEN, prepare
from support.terminal import Terminal


@pytest.fixture
def pager(home: Path, tmp_path: Path) -> str:
    """A pager that says so, and a session with more than a screen of text."""
    script = tmp_path / "my pager"
    script.write_text("#!/bin/sh\necho through the pager\ncat\n")
    script.chmod(0o700)
    prepare(home, OPEN, ("turn", "s", "\n".join(f"line {number}" for number in range(40)), "--turn-id", "t_1"))
    return f"'{script}'"


def shown(home: Path, *args: str, rows: int = 24, **env: str) -> tuple[int, str]:
    terminal = Terminal(home, *args, rows=rows, **env)
    try:
        return terminal.ended(), terminal.everything
    finally:
        terminal.close()


@pytest.mark.parametrize(
    "command",
    [
        ("log", "s"),
        ("help", "scripting"),
        ("show", "s"),
        ("show", "s", "--policy"),
        ("show", "s", "--tools"),
        ("show", "s", "--turn", "t_1"),
        ("tree", "s", "-v"),
        ("search", "line"),
        ("search", "line", "--context", "1"),
    ],
    ids=" ".join,
)
def test_a_long_text_goes_through_the_pager_of_the_user(home: Path, pager: str, command: tuple[str, ...]) -> None:
    status, text = shown(home, *command, rows=2, PAGER=pager)
    assert status == 0 and "through the pager" in text


@pytest.mark.parametrize(
    ("options", "env", "rows"),
    [
        (("--no-pager",), {}, 24),
        (("--no-input",), {}, 24),
        (("--plain",), {}, 24),
        (("-o", "json"), {}, 24),
        (("--last", "1", "--role", "system"), {}, 24),
        ((), {"PAGER": ""}, 24),
        ((), {"PAGER": "no-such-pager-here"}, 24),
        ((), {}, 400),
    ],
    ids=str,
)
def test_no_pager_opens_where_none_is_wanted(home: Path, pager: str, options: Any, env: Any, rows: int) -> None:
    status, text = shown(home, "log", "s", *options, rows=rows, **{"PAGER": pager, **env})
    assert status == 0 and "through the pager" not in text
    assert "--role" in options or "line 39" in text


def test_no_pager_opens_without_a_terminal(lash: Any, pager: str) -> None:
    for command in (("log", "s"), ("show", "s"), ("tree", "s", "-v"), ("search", "line")):
        done = lash(*command, env={"PAGER": pager})
        assert done.code == 0 and "through the pager" not in done.out and done.out, command


@pytest.mark.parametrize(
    "command",
    [
        ("log", "s", "--last", "1"),
        ("turn", "s", "!text x"),
        ("turn", "s", "!text x", "-q"),
        ("tail", "s", "--no-follow"),
    ],
    ids=" ".join,
)
def test_a_terminal_is_warned_of_raw_text(lash: Any, home: Path, pager: str, command: tuple[str, ...]) -> None:
    status, text = shown(home, *command, "--raw", "--no-pager")
    assert status == 0 and text.count("--raw lets what the model writes control this terminal") == 1
    assert "control this terminal" not in lash(*command, "--raw").err


def test_what_goes_to_a_file_looks_as_on_a_terminal_only_when_that_is_asked_for(lash: Any, pager: str) -> None:
    escape = "\x1b["
    assert escape not in lash("tree", "s").out
    assert escape in lash("tree", "s", "--color", "always").out
    assert escape not in lash("tree", "s", "--color", "never", env={"FORCE_COLOR": "1"}).out
    assert escape not in lash("tree", "s", env={"NO_COLOR": "1", "FORCE_COLOR": "1"}).out
    forced = lash("tree", "s", env={"LASH_FORCE_TTY": "44", "PAGER": pager}).out
    assert escape in forced and "through the pager" not in forced
    wide = lash("ls", env={"LASH_FORCE_TTY": "200"}).out
    narrow = lash("ls", env={"LASH_FORCE_TTY": "44"}).out
    assert max(map(len, narrow.splitlines())) <= 44 < max(map(len, wide.splitlines()))
    assert escape in lash("turn", "s", "!text some **bold** words", env={"LASH_FORCE_TTY": "yes"}).out
    assert lash("turn", "s", "!text some **bold** words", env={"LASH_FORCE_TTY": "0"}).out == "some **bold** words\n"


TOLD = """
import os, signal, subprocess
start = subprocess.Popen
def told(*arguments, **options):
    process = start(*arguments, **options)
    os.kill(os.getpid(), signal.{})
    return process
subprocess.Popen = told
"""


@pytest.mark.parametrize("key", ["SIGINT", "SIGQUIT"])
def test_a_key_is_for_the_pager_from_before_it_is_known_to_run(home: Path, pager: str, key: str) -> None:
    terminal = Terminal(home, "log", "s", first=TOLD.format(key), PAGER=pager)
    try:
        assert terminal.ended() == 0
        assert "through the pager" in terminal.everything and "line 39" in terminal.everything
    finally:
        terminal.close()
