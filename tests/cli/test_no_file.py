"""What is named as a file and is none is refused before it is touched: nothing hangs or reads without end (08 §6.2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cli import environment
from support.error_world import told

PATIENCE_S = 60
READERS = (
    ("show", "s"),
    ("log", "s"),
    ("turn", "s", "hi"),
    ("enqueue", "s", "hi"),
    ("db", "info"),
    ("db", "backup"),
    ("gc",),
    ("doctor",),
)


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    """A named pipe that nobody writes to."""
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    return str(path)


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_a_pipe_is_no_database(lash: Any, pipe: str, command: tuple[str, ...]) -> None:
    result = lash(*command, "--db", pipe, "-o", "json", timeout=PATIENCE_S)
    if command == ("doctor",):
        assert "is in the way of the database" in result.out
        assert result.code == 5
    else:
        assert "--db FILE" in told(result, 5, "permissions_unsafe")["hint"]


def test_a_device_is_no_database(lash: Any) -> None:
    for args in (("ls", "-o", "json"), ("show", "s", "-o", "json"), ("open", "s", "-o", "json")):
        told(lash(*args, "--db", "/dev/zero", timeout=PATIENCE_S), 5, "permissions_unsafe")


def test_completion_of_what_is_no_file_offers_nothing(lash: Any, pipe: str) -> None:
    for words in (("show", ""), ("--profile", ""), ("model", "show", "")):
        env = {"LASH_DB": pipe, "LASH_CONFIG": pipe}
        result = lash("__complete", "--", *words, env=env, timeout=PATIENCE_S)
        assert (result.code, result.err) == (0, "") and result.out.splitlines()[-1].startswith(":")


@pytest.mark.parametrize("place", ["pipe", "/dev/zero"])
def test_the_configuration_is_read_from_a_file_only(lash: Any, pipe: str, place: str) -> None:
    env = {"LASH_CONFIG": pipe if place == "pipe" else place}
    for args in (("open",), ("config", "show"), ("config", "set", "defaults.output", "json")):
        error = told(lash(*args, "-o", "json", env=env, timeout=PATIENCE_S), 5, "permissions_unsafe")
        assert "it is not a regular file" in error["message"], args


@pytest.mark.parametrize(
    ("command", "code", "name"),
    [
        (("import", "FILE"), 2, "usage"),
        (("trace", "html", "FILE", "--stdout"), 2, "trace_unreadable"),
        (("turn", "s", "hi", "--schema", "FILE"), 2, "schema_invalid"),
        (("turn", "s", "hi", "--attach", "FILE"), 2, "attachment_unreadable"),
        (("open", "t", "--system", "@FILE"), 2, "usage"),
        (("queue", "edit", "in_1", "--file", "FILE"), 2, "usage"),
        (("tail", "s", "--save-cursor", "FILE"), 2, "usage"),
        (("db", "restore", "FILE", "--yes"), 9, "backup_unusable"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
@pytest.mark.parametrize("place", ["pipe", "/dev/zero"])
def test_a_file_to_be_read_is_a_file(
    lash: Any, pipe: str, place: str, command: tuple[str, ...], code: int, name: str
) -> None:
    lash("open", "s")
    path = pipe if place == "pipe" else place
    args = [word.replace("FILE", path) for word in command]
    told(lash(*args, "-o", "json", timeout=PATIENCE_S), code, name)


def test_a_key_is_read_from_a_file_only(lash: Any, pipe: str) -> None:
    env = {
        "LASH_CFG__providers__p__kind": "openai_chat",
        "LASH_CFG__providers__p__base_url": "http://127.0.0.1:9",
        "LASH_CFG__providers__p__key": f"file:{pipe}",
        "LASH_CFG__defaults__provider": "p",
        "LASH_CFG__defaults__model": "m",
    }
    lash("open", "s", env=env)
    error = told(lash("turn", "s", "hi", "-o", "json", env=env, timeout=PATIENCE_S), 5, "key_missing")
    assert "it is not a regular file" in error["hint"]


def test_a_pipe_that_a_shell_gives_is_read_like_a_file(lash: Any, home: Path) -> None:
    lash("open", "s")
    lash("turn", "s", "!text kept")
    script = """
        set -e
        $1 import <($1 export s --as json) --id copy
        $1 export s --as json | $1 import /dev/stdin --id piped
    """
    subprocess.run(
        ["bash", "-c", script, "bash", f"{sys.executable} -m lash_cli"], env=environment(home), cwd=home.parent,
        stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    for copy in ("copy", "piped"):
        assert "kept" in lash("log", copy).out


def test_an_import_reads_no_device_from_stdin(lash: Any, home: Path) -> None:
    with open("/dev/zero", "rb") as zero:
        done = subprocess.run(
            [sys.executable, "-m", "lash_cli", "import", "-"], env=environment(home), cwd=home.parent, stdin=zero,
            capture_output=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"") and b"neither a file nor a pipe" in done.stderr


def test_a_log_that_is_a_pipe_nobody_reads_holds_nobody_up(lash: Any, pipe: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.touch(0o644)
    trace.chmod(0o644)  # which is worth a line in the log
    lash("open", "s")
    done = lash("turn", "s", "!text done", "-q", "--trace", str(trace), "--log-file", pipe, timeout=PATIENCE_S)
    assert (done.code, done.out) == (0, "done\n")
