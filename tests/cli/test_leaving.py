"""A command ends when its work is done: what others left for the end runs, and nothing is taken apart (design D16)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What a hosting program's own start-up file may bring into a process that becomes `lash`.
_CUSTOM = """
import atexit, builtins, sys, threading, time

def note(what, write=open):
    with write({notes!r}, "a") as file:
        file.write(what + "\\n")

class Module:
    def __del__(self):
        note("taken apart")

builtins.module = Module()
atexit.register(note, "handler")
if {thread}:
    def work():
        time.sleep(1.5)
        note("thread")
    threading.Thread(target=work).start()
"""

COMMANDS = [
    (["--version"], 0),
    (["__complete", "bash", "1", "lash", ""], 0),
    (["ls", "-o", "json"], 0),
    (["open", "demo", "-o", "json"], 0),
    (["turn", "demo", "!text hello", "--or-open"], 0),
    (["show", "nobody"], 3),
    (["opne"], 2),
]


def leave(tmp_path: Path, arguments: list[str], *, thread: bool = False):
    notes = tmp_path / "notes"
    (tmp_path / "custom").mkdir(exist_ok=True)
    custom = _CUSTOM.format(notes=str(notes), thread=thread)
    (tmp_path / "custom" / "sitecustomize.py").write_text(custom)
    environment = {
        "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LASH_HOME": str(tmp_path / "home"),
        "PYTHONPATH": f"{tmp_path / 'custom'}:{ROOT}",
    }  # fmt: skip
    command = [sys.executable, "-m", "lash_cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    return done, notes.read_text().split("\n")[:-1] if notes.exists() else []


@pytest.mark.parametrize(("arguments", "status"), COMMANDS)
def test_handlers_run_once_and_the_interpreter_is_not_taken_apart(tmp_path, arguments, status):
    done, notes = leave(tmp_path, arguments)
    assert done.returncode == status, done.stderr
    assert notes == ["handler"]
    assert bool(done.stdout) == (status == 0)
    assert status == 0 or done.stderr


def test_a_thread_that_is_to_be_waited_for_is_waited_for(tmp_path):
    done, notes = leave(tmp_path, ["open", "demo"], thread=True)
    assert done.returncode == 0, done.stderr
    assert notes[:2] == ["thread", "handler"]
