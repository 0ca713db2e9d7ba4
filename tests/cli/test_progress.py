"""What takes longer than a second says so on a terminal, and nowhere else (contract 08 §11)."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cli import run_lash, spawn_lash
from support.old_files import with_checks_by_list
from support.processes import wait_until
from support.terminal import Terminal

SECRET = "sk-" + "proj-canary0123456789abcdefCANARY"
# It is told of sooner than after a second, so that hardly any test has to wait for one.
_SOON = """
import lash_cli.cli.progress
lash_cli.cli.progress.AFTER_SECONDS = lash_cli.cli.progress.EVERY_SECONDS = 0.02
"""
# Many times as long as that.
LONG_S = 0.4
# Where each of them takes its time; a file so large that it takes longer by itself takes as long to make.
_HELD = """
import importlib, pathlib, sys, time
places, directory = {places!r}, pathlib.Path({directory!r})
def hold(place, number):
    module, _, name = place.partition(":")
    real = getattr(importlib.import_module(module), name)
    def held(*args, **options):
        (directory / f"reached-{{number}}").touch()
        while not (directory / f"gate-{{number}}").exists():
            time.sleep(0.005)
        return real(*args, **options)
    for module in [one for called, one in sys.modules.items() if called.startswith("lash_cli.")]:
        if getattr(module, name, None) is real:
            setattr(module, name, held)
for number, place in enumerate(places):
    hold(place, number)
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


@pytest.fixture(scope="module")
def old_pattern(pattern: Path) -> Path:
    """The same, with the file of the home as an older lash left it."""
    with closing(sqlite3.connect(pattern / "lash-home" / "lash.db", isolation_level=None)) as connection:
        with_checks_by_list(connection)
    return pattern


@pytest.fixture
def old(old_pattern: Path, home: Path) -> Path:
    shutil.copytree(old_pattern, home.parent, dirs_exist_ok=True)
    return home


@pytest.fixture
def terminal(old: Path) -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(*args: str, first: str = _SOON) -> Terminal:
        opened.append(Terminal(old, *args, first=first))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def held(old: Path) -> Iterator[sqlite3.Connection]:
    """Another process keeps the file to itself: bringing it up to date waits for that."""
    with closing(sqlite3.connect(old / "lash.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


def held_first(home: Path, command: str) -> str:
    """What a command does first, so that it stands still at each of its places until there is a gate beside the home
    for it."""
    return _SOON + _HELD.format(places=[place for place, _ in _PLACES[command]], directory=str(home.parent))


@pytest.mark.parametrize("command", _PLACES)
def test_what_takes_long_says_what_it_does_and_leaves_nothing_of_that(old: Path, command: str) -> None:
    with closing(Terminal(old, *command.split(), first=held_first(old, command))) as one:
        for number, (_, said) in enumerate(_PLACES[command]):
            one.wait_until((old.parent / f"reached-{number}").exists)
            before = len(one.written)
            # Again and again, so that what was said before that place does not count.
            one.wait_until(lambda since=before, said=said: one.written[since:].count(said.encode()) > 3)
            (old.parent / f"gate-{number}").touch()
        assert one.ended() == 0, one.text
        assert not [said for _, said in _PLACES[command] if said in one.everything]


@pytest.mark.parametrize("command", _PLACES)
def test_in_a_pipe_what_takes_long_says_nothing_of_that(old: Path, command: str) -> None:
    one = spawn_lash(command.split(), home=old, start_new_session=True, first=held_first(old, command))
    for number in range(len(_PLACES[command])):
        wait_until((old.parent / f"reached-{number}").exists, one)
        time.sleep(LONG_S / 4)
        (old.parent / f"gate-{number}").touch()
    out, err = one.communicate(timeout=60)
    assert one.returncode == 0, err
    told = (out + err).decode()
    assert not [said for _, said in _PLACES[command] if said.removesuffix("…") in told] and "\r" not in told


def test_the_first_use_of_an_old_database_says_that_it_is_opened(terminal: Any, held: sqlite3.Connection) -> None:
    def seconds() -> list[str]:
        """What was told so far, also what does not stand on the screen any more."""
        return re.findall(r"opening the database… (\d+) s", one.written.decode("utf-8", "replace"))

    one = terminal("enqueue", "s", "x")
    one.wait_until(lambda: bool(seconds()))
    one.interrupt()
    one = terminal("show", "s", first="")
    one.wait_until(lambda: len(seconds()) > 1)
    held.execute("ROLLBACK")
    assert one.ended() == 0 and "opening" not in one.everything
    assert "0" not in seconds() and len(set(seconds())) == len(seconds()), "it is told after a second, and counts on"


def test_a_terminal_that_is_not_drawn_on_gets_one_line(terminal: Any, held: sqlite3.Connection) -> None:
    one = terminal("show", "s", "--plain", "--ascii")
    one.wait_for("opening the database...")
    time.sleep(LONG_S / 2)
    held.execute("ROLLBACK")
    assert one.ended() == 0
    assert one.everything.count("opening the database") == 1 and b"\x1b[K" not in one.written


@pytest.mark.parametrize("options", [("-o", "json"), ("-q",), ("-o", "name")], ids=" ".join)
def test_a_program_that_reads_the_result_is_told_nothing(
    terminal: Any, held: sqlite3.Connection, options: tuple[str, ...]
) -> None:
    one = terminal("show", "s", *options)
    time.sleep(LONG_S)
    held.execute("ROLLBACK")
    assert one.ended() == 0 and b"opening" not in one.written


def test_a_pipe_gets_nothing(old: Path, held: sqlite3.Connection) -> None:
    process = spawn_lash(["show", "s"], home=old, first=_SOON)
    time.sleep(LONG_S)
    held.execute("ROLLBACK")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
