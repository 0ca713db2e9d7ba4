"""What takes longer than a second says so on a terminal, and nowhere else (contract 08 §11)."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cli import environment, spawn_lash
from support.old_files import with_checks_by_list
from support.processes import start_process
from support.terminal import Terminal

# Where each of them takes its time; a file so large that it takes longer by itself takes as long to make.
_SLOW = """
import importlib, sys, time
module, _, name = sys.argv.pop(1).partition(":")
module = importlib.import_module(module)
real = getattr(module, name)
def slow(*args, **options):
    time.sleep(1.5)
    return real(*args, **options)
setattr(module, name, slow)
from lash_cli.__main__ import main
sys.exit(main())
"""
_PLACES = {
    "db check": ("lash_cli.store.sqlite.invariants:integrity", "checking the database…"),
    "db vacuum": ("lash_cli.store.sqlite.inspection:compact", "writing the database without unused space…"),
    "db backup": ("lash_cli.store.sqlite.backup:back_up", "copying the database…"),
    "db scan": ("lash_cli.store.sqlite.secrets:scan", "looking for secrets…"),
    "export s": ("lash_cli.cli.exporting:exported", "exporting…"),
    "import made.json --id t": ("lash_cli.core.archive:check_archive", "reading the export…"),
    "gc": ("lash_cli.tools.spilling:forget_spilled", "removing what nothing needs…"),
}


@pytest.fixture
def made(lash: Any, home: Path) -> Path:
    lash("open", "s")
    assert lash("turn", "s", "!text said").code == 0
    assert lash("export", "s", "--out", str(home.parent / "made.json")).code == 0
    return home


@pytest.fixture
def terminal(made: Path) -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(*args: str, **env: str) -> Terminal:
        opened.append(Terminal(made, *args, **env))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def held(made: Path) -> Iterator[sqlite3.Connection]:
    """A file of an older lash that another process keeps to itself: bringing it up to date waits for that."""
    with closing(sqlite3.connect(made / "lash.db", isolation_level=None)) as connection:
        with_checks_by_list(connection)
        connection.execute("BEGIN IMMEDIATE")
        yield connection


class SlowTerminal(Terminal):
    """A command of which one function takes 1.5 s."""

    def __init__(self, home: Path, place: str, *args: str) -> None:
        self._place = place
        super().__init__(home, *args)

    def _start(self, home: Path, args: Sequence[str], env: Mapping[str, str]) -> Any:
        command = [sys.executable, "-c", _SLOW, self._place, *args]
        streams = {"stdin": self._slave, "stdout": self._slave, "stderr": self._slave}
        return start_process(command, env=environment(home, env), cwd=home.parent, start_new_session=True, **streams)


@pytest.mark.parametrize("command", _PLACES)
def test_what_takes_long_says_what_it_does_and_leaves_nothing_of_that(made: Path, command: str) -> None:
    place, said = _PLACES[command]
    with closing(SlowTerminal(made, place, *command.split())) as one:
        one.wait_for(f"{said} 1 s")
        assert one.ended() == 0
        assert said not in one.everything


def test_the_first_use_of_an_old_database_says_that_it_is_opened(terminal: Any, held: sqlite3.Connection) -> None:
    for command in (("enqueue", "s", "x"), ("show", "s")):
        one = terminal(*command)
        one.wait_for("opening the database… 1 s")
        one.interrupt()
    one = terminal("show", "s")
    one.wait_for("opening the database… 2 s")
    held.execute("ROLLBACK")
    assert one.ended() == 0 and "opening" not in one.everything


def test_a_terminal_that_is_not_drawn_on_gets_one_line(terminal: Any, held: sqlite3.Connection) -> None:
    one = terminal("show", "s", "--plain", "--ascii")
    one.wait_for("opening the database...")
    time.sleep(1.2)
    held.execute("ROLLBACK")
    assert one.ended() == 0
    assert one.everything.count("opening the database") == 1 and b"\x1b[K" not in one.written


@pytest.mark.parametrize("options", [("-o", "json"), ("-q",), ("-o", "name")], ids=" ".join)
def test_a_program_that_reads_the_result_is_told_nothing(
    terminal: Any, held: sqlite3.Connection, options: tuple[str, ...]
) -> None:
    one = terminal("show", "s", *options)
    time.sleep(1.8)
    held.execute("ROLLBACK")
    assert one.ended() == 0 and b"opening" not in one.written


def test_a_pipe_gets_nothing(made: Path, held: sqlite3.Connection) -> None:
    process = spawn_lash(["show", "s"], home=made)
    time.sleep(1.8)
    held.execute("ROLLBACK")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
