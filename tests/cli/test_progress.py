"""What takes longer than a second says so on a terminal, and nowhere else (contract 08 §11)."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cli import environment, run_lash, spawn_lash
from support.old_files import with_checks_by_list
from support.processes import start_process, wait_until
from support.terminal import Terminal

SECRET = "sk-" + "proj-canary0123456789abcdefCANARY"
# Where each of them takes its time; a file so large that it takes longer by itself takes as long to make. It is told
# of sooner than after a second, so that no test has to wait for one.
_HELD = """
import importlib, pathlib, sys, time
import lash_cli.cli.progress
place, directory = sys.argv[1:3]
del sys.argv[1:3]
reached, gate = (pathlib.Path(directory, name) for name in ("reached", "gate"))
module, _, name = place.partition(":")
module = importlib.import_module(module)
real = getattr(module, name)
def held(*args, **options):
    reached.touch()
    while not gate.exists():
        time.sleep(0.005)
    return real(*args, **options)
setattr(module, name, held)
lash_cli.cli.progress.AFTER_SECONDS = lash_cli.cli.progress.EVERY_SECONDS = 0.02
from lash_cli.__main__ import main
sys.exit(main())
"""
_PLACES = {
    "db check": [("lash_cli.store.sqlite.invariants:integrity", "checking the database…")],
    "db vacuum": [("lash_cli.store.sqlite.inspection:compact", "writing the database without unused space…")],
    "db backup": [("lash_cli.store.sqlite.backup:back_up", "copying the database…")],
    "db restore made.db": [("lash_cli.store.sqlite.backup:restore", "checking the copy and putting it back…")],
    "db migrate": [
        ("lash_cli.store.sqlite.backup:back_up", "copying the database…"),
        ("lash_cli.store.sqlite.inspection:migrate", "bringing the database up to date…"),
    ],
    "db scan": [("lash_cli.store.sqlite.secrets:scan", "looking for secrets…")],
    "db scrub --yes": [
        ("lash_cli.store.sqlite.secrets:scan", "looking for secrets…"),
        ("lash_cli.store.sqlite.backup:write_copy", "taking secrets out…"),
        ("lash_cli.store.sqlite.secrets:scrub", "taking secrets out…"),
    ],
    "db scrub --dry-run": [("lash_cli.store.sqlite.secrets:scrub", "looking what would be changed…")],
    "db purge --confirm lash.db": [
        ("lash_cli.store.sqlite.backup:erase", "erasing every session…"),
        ("lash_cli.tools.spilling:forget_spilled", "erasing every session…"),
    ],
    "db purge --dry-run": [("lash_cli.tools.spilling:forget_spilled", "counting what would be erased…")],
    "export s": [("lash_cli.cli.exporting:exported", "exporting…")],
    "import made.json --id t": [("lash_cli.core.archive:check_archive", "reading the export…")],
    "gc": [
        ("lash_cli.store.sqlite.maintenance:_collect", "removing what nothing needs…"),
        ("lash_cli.tools.spilling:forget_spilled", "removing what nothing needs…"),
    ],
    "gc --dry-run": [("lash_cli.store.sqlite.maintenance:_collect", "looking for what nothing needs…")],
    "gc --yes -c retention.min_age=0 -c retention.max_age=0": [
        ("lash_cli.cli.gc_command:_is_expired", "looking for sessions that nobody uses…"),
        ("lash_cli.cli.gc_command:_refuse_used", "deleting sessions…"),
    ],
    "rm s --yes": [("lash_cli.cli.rm_command:idle_row", "deleting sessions…")],
    "rm s --dry-run --with-children": [("lash_cli.cli.rm_command:_with_descendants", "looking for children…")],
    "close s": [("lash_cli.cli.close_command:idle_row", "closing sessions…")],
}
# Command, place and what is said there.
_CASES = [(command, *case) for command, cases in _PLACES.items() for case in cases]
_NAMES = [f"{command} at {place.rpartition(':')[2]}" for command, place, _ in _CASES]


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that is copied for every test, and what was made of it."""
    home = tmp_path_factory.mktemp("pattern") / "lash-home"
    for args in (
        ("open", "s"),
        ("turn", "s", f"!text said {SECRET}"),
        ("export", "s", "--out", str(home.parent / "made.json")),
        ("db", "backup", "--out", str(home.parent / "made.db")),
    ):
        done = run_lash(args, home=home)
        assert done.code == 0, done.err
    return home.parent


@pytest.fixture
def made(pattern: Path, home: Path) -> Path:
    shutil.copytree(pattern, home.parent, dirs_exist_ok=True)
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


@pytest.fixture
def old(made: Path) -> Path:
    """The home, with its file as an older lash left it."""
    with closing(sqlite3.connect(made / "lash.db", isolation_level=None)) as connection:
        with_checks_by_list(connection)
    return made


def held_command(home: Path, place: str, args: Sequence[str], **streams: Any) -> Any:
    """A command that stands still at one function until there is `gate` beside the home."""
    command = [sys.executable, "-c", _HELD, place, str(home.parent), *args]
    return start_process(command, env=environment(home), cwd=home.parent, start_new_session=True, **streams)


class HeldTerminal(Terminal):
    """Such a command at a terminal."""

    def __init__(self, home: Path, place: str, *args: str) -> None:
        self._place = place
        super().__init__(home, *args)

    def _start(self, home: Path, args: Sequence[str], env: Mapping[str, str]) -> Any:
        streams = {"stdin": self._slave, "stdout": self._slave, "stderr": self._slave}
        return held_command(home, self._place, args, **streams)


@pytest.mark.parametrize(("command", "place", "said"), _CASES, ids=_NAMES)
def test_what_takes_long_says_what_it_does_and_leaves_nothing_of_that(
    old: Path, command: str, place: str, said: str
) -> None:
    with closing(HeldTerminal(old, place, *command.split())) as one:
        one.wait_until((old.parent / "reached").exists)
        before = len(one.written)
        # Again and again, so that what was said before that place does not count.
        one.wait_until(lambda: one.written[before:].count(said.encode()) > 3)
        (old.parent / "gate").touch()
        assert one.ended() == 0, one.text
        assert said not in one.everything


@pytest.mark.parametrize(("command", "place", "said"), _CASES, ids=_NAMES)
def test_in_a_pipe_what_takes_long_says_nothing_of_that(old: Path, command: str, place: str, said: str) -> None:
    pipe = subprocess.PIPE
    one = held_command(old, place, command.split(), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    wait_until((old.parent / "reached").exists, one)
    time.sleep(0.2)
    (old.parent / "gate").touch()
    out, err = one.communicate(timeout=60)
    assert one.returncode == 0, err
    assert said.removesuffix("…") not in (out + err).decode() and b"\r" not in out + err


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
