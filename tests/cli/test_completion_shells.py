"""The completion scripts in the shells they are for: what stands on the line after Tab (contract 08 §10).

A shell that is not installed is skipped, except under CI: `.ci/run` installs them.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pexpect
import pytest
from support.processes import PATIENCE_S, wait_until

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "completions"
SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], f"source {SCRIPTS}/lash.bash"),
    "zsh": (["-f", "-i"], f"fpath=({SCRIPTS} $fpath); autoload -Uz compinit; compinit -u -D; bindkey -e"),
    "fish": (["--no-config", "-i"], f"source {SCRIPTS}/lash.fish"),
}
TO_START, TO_END = "\x01", "\x05"
TRIES = 3
DANGEROUS = "it's $(touch pwned) `touch pwned`;touch pwned"


class Shell:
    """An interactive shell with the completion of lash."""

    def __init__(self, name: str, place: Path) -> None:
        program = shutil.which(name)
        if program is None:
            if os.environ.get("CI"):
                pytest.fail(f"no {name} here; install it, for example: apt-get install {name}")
            pytest.skip(f"no {name} here")
        arguments, setup = SHELLS[name]
        lash = place / "bin" / "lash"
        lash.parent.mkdir()
        lash.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lash_cli "$@"\n')
        lash.chmod(0o700)
        self._place = place
        self._count = 0
        environment = {
            "PATH": f"{lash.parent}:{os.environ['PATH']}", "HOME": str(place), "LASH_HOME": str(place / "lash-home"),
            "TERM": "xterm", "LANG": "C.UTF-8", "PS1": "$ ", "PYTHONPATH": str(ROOT), "fish_greeting": "",
        }  # fmt: skip
        self._terminal = pexpect.spawn(
            program, arguments, env=environment, encoding="utf-8", timeout=PATIENCE_S, dimensions=(40, 200),
            cwd=str(place),
        )  # fmt: skip
        self._terminal.send(f"{setup}; echo rea''dy\r")
        self._terminal.expect("ready\r")

    def completes(self, typed: str, words: list[str]) -> None:
        """After `typed` and Tab the line has these words, as the shell itself takes them apart.

        A database that is busy just then has no candidates, and whoever types presses Tab again: so does this.
        """
        for _ in range(TRIES):
            found = self._words_after(typed)
            if found == words:
                return
        assert found == words

    def _words_after(self, typed: str) -> list[str]:
        self._count += 1
        out = self._place / f"words-{self._count}"
        self._terminal.send(f"{typed}\t{TO_START}printf '%s\\n' {TO_END} end > {out}\r")
        wait_until(lambda: out.exists() and out.read_text().endswith("end\n"), _Alive(self._terminal))
        return out.read_text().splitlines()[:-1]

    def close(self) -> None:
        self._terminal.close(force=True)


class _Alive:
    """What `wait_until` asks of a process."""

    def __init__(self, terminal: pexpect.spawn) -> None:
        self._terminal = terminal

    def poll(self) -> int | None:
        return None if self._terminal.isalive() else 1

    def communicate(self) -> str:
        return str(self._terminal)


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_completes_what_is_typed(name: str, home: Path, lash) -> None:
    # Every session has a name of its own: one that was made up might begin like what is typed below.
    for arguments in (
        ("open", "notes", "--name", "shopping"),
        ("open", "work:1", "--name", "zebra"),
        ("open", "--name", DANGEROUS),
    ):
        assert lash(*arguments).code == 0
    waiting = lash("enqueue", "notes", "later", "-q").out.strip()
    (home.parent / "a trace.jsonl").touch()
    shell = Shell(name, home.parent)
    try:
        shell.completes("lash sho", ["lash", "show"])
        shell.completes("lash show no", ["lash", "show", "notes"])
        shell.completes("lash show @l", ["lash", "show", "@last"])
        shell.completes("lash show work:", ["lash", "show", "work:1"])
        shell.completes("lash -o json queue cancel in_", ["lash", "-o", "json", "queue", "cancel", waiting])
        shell.completes("lash turn 'notes' --if-b", ["lash", "turn", "notes", "--if-busy"])
        shell.completes("lash turn notes --if-busy=enq", ["lash", "turn", "notes", "--if-busy=enqueue"])
        shell.completes("lash ls --fields id,nam", ["lash", "ls", "--fields", "id,name"])
        shell.completes("lash trace html a\\ tr", ["lash", "trace", "html", "a trace.jsonl"])
        shell.completes("lash show it", ["lash", "show", DANGEROUS])  # a name is one word, whatever is in it
        shell.completes("lash nonsense ", ["lash", "nonsense"])
    finally:
        shell.close()
    assert not (home.parent / "pwned").exists()


@pytest.mark.parametrize("name", SHELLS)
def test_a_word_that_began_with_a_quote_is_completed_within_it(name: str, home: Path, lash) -> None:
    for arguments in (
        ("open", "notes", "--name", "two words"),
        ("open", "work:1", "--name", "zebra"),
        ("open", "--name", DANGEROUS),
    ):
        assert lash(*arguments).code == 0
    shell = Shell(name, home.parent)
    try:
        for quote in ("'", '"'):
            shell.completes(f"lash show {quote}two", ["lash", "show", "two words"])
            shell.completes(f"lash show {quote}work:", ["lash", "show", "work:1"])
            glued = f"lash queue cancel --session={quote}two"
            shell.completes(glued, ["lash", "queue", "cancel", "--session=two words"])
            shell.completes(f"lash show {quote}it", ["lash", "show", DANGEROUS])
    finally:
        shell.close()
    assert not (home.parent / "pwned").exists()
