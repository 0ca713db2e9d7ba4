"""What may not be read or written is said to be so, never taken for what is not there (contract 08 §6.2, §6.4, §6.8).

Every case runs as root too, without the power to pass over file modes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.prepared import prepare
from support.unprivileged import run_unprivileged

from lash_cli.paths import resolve_paths
from lash_cli.runtime.bells import bell_root

COMMANDS = (
    "ls", "ls -o json", "ls --sort name", "show one", "log one", "queue ls one", "tree one", "usage", "search x",
    "wait one", "turn one x", "open two", "enqueue one x", "resume one", "park one",
    "close one", "rm one --yes", "fork one", "set one max_steps=3", "export one", "work --all --until-empty", "gc",
    "gc --dry-run", "db info", "db check", "db backup", "db vacuum", "db migrate", "db scan", "db purge --confirm x.db",
)  # fmt: skip
Bound = Callable[..., Any]


@pytest.fixture
def bound(home: Path) -> Bound:
    """Runs `lash ARGS…` in `home`, bound by file modes."""
    return lambda *args, **options: run_unprivileged(*args, home=home, **options)


@pytest.fixture
def opened(home: Path) -> Path:
    """`home` with the session `one`."""
    return prepare(home, ("open", "one"))


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A database with a session in a directory that may not be looked into; whoever gets in all the same fails."""
    directory = prepare(tmp_path_factory.mktemp("closed") / "home", ("open", "one"))
    database = (directory / "lash.db").rename(directory / "x.db")
    before = sorted(directory.iterdir()), database.read_bytes()
    directory.chmod(0)
    yield database
    directory.chmod(0o700)
    assert (sorted(directory.iterdir()), database.read_bytes()) == before


def assert_refused(done: Any) -> None:
    assert (done.code, done.out, done.error["code"]) == (5, "", "permissions_unsafe"), (done.out, done.err)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_cannot_be_looked_at_is_not_taken_for_none(bound: Bound, closed: Path, command: str) -> None:
    done = bound("--db", str(closed), "-o", "json", *command.split())
    assert_refused(done)
    assert str(closed) in done.error["message"] and "Permission denied" in done.error["message"]


def test_a_tail_of_such_a_database_ends_with_the_reason(bound: Bound, closed: Path) -> None:
    done = bound("--db", str(closed), "tail", "one", "--until", "idle", "-o", "jsonl")
    assert (done.code, done.error["code"]) == (5, "permissions_unsafe")


def test_completion_of_such_a_database_offers_nothing(bound: Bound, closed: Path) -> None:
    done = bound("__complete", "--", "--db", str(closed), "show", "")
    assert (done.code, done.err) == (0, "") and done.out.startswith(":")


@pytest.mark.parametrize("command", ["ls -o json", "show one -o json", "turn one x -o json", "db check -o json"])
def test_a_database_that_cannot_be_read_is_told_with_what_makes_it_readable(
    bound: Bound, opened: Path, command: str
) -> None:
    (opened / "lash.db").chmod(0)
    done = bound(*command.split())
    assert_refused(done)
    assert done.error["hint"].startswith(f"make it readable for you: chmod u+rw {opened / 'lash.db'}")


def test_a_home_that_cannot_be_looked_into_is_told_by_every_command_and_by_doctor(bound: Bound, opened: Path) -> None:
    home = opened
    home.chmod(0)
    try:
        for command in ("ls", "ls -o json", "show one", "turn one x", "key ls", "config show", "queue edit --recover"):
            assert_refused(bound(*command.split(), "-o", "json"))
        told = bound("doctor", "-o", "json")
        assert told.code == 5, told.err
        assert {finding["code"] for finding in told.json["findings"]} == {"permissions_unsafe"}
        assert bound("config", "path").code == 0
    finally:
        home.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a home away")
def test_the_home_of_somebody_else_is_left_alone(bound: Bound, opened: Path) -> None:
    home = opened
    for place in (home, *home.iterdir()):
        os.chown(place, 12345, 12345)
    before = {place.name: place.read_bytes() for place in home.iterdir() if place.is_file()}
    for command in ("ls", "ls -o json", "turn one x", "open two", "config set defaults.output json"):
        assert_refused(bound(*command.split(), "-o", "json"))
    assert bound("doctor", "--fix", "-o", "json").code == 5
    assert {place.name: place.read_bytes() for place in home.iterdir() if place.is_file()} == before


@pytest.mark.parametrize("name", ["keys.toml", "config.toml"])
def test_a_file_of_the_user_that_cannot_be_read_is_told_with_what_makes_it_readable(
    bound: Bound, opened: Path, name: str
) -> None:
    place = opened / name
    place.write_text("")
    place.chmod(0)
    for command in ("key ls",) if name == "keys.toml" else ("config show", "turn one x"):
        done = bound(*command.split(), "-o", "json")
        assert_refused(done)
        assert done.error["hint"] == f"make it readable for you: chmod u+rw {place}"


def test_a_home_that_cannot_be_written_keeps_what_it_has(lash: Any, bound: Bound, opened: Path) -> None:
    home = opened
    lash("config", "set", "defaults.system", "kept")
    before = sorted(home.iterdir())
    home.chmod(0o500)
    try:
        for command in ("turn one x", "open two", "config set defaults.system new", "rm one --yes", "close one"):
            assert_refused(bound(*command.split(), "-o", "json"))
    finally:
        home.chmod(0o700)
    assert sorted(home.iterdir()) == before
    assert lash("config", "get", "defaults.system").out == "kept\n"
    assert lash("show", "one", "-o", "json").json["status"] == "idle"


def test_without_a_place_for_temporary_files_everything_usual_works(bound: Bound, tmp_path: Path) -> None:
    closed = tmp_path / "tmp"
    closed.mkdir(mode=0o500)
    for temporary in (closed, tmp_path / "none"):
        env = {"TMPDIR": str(temporary)}
        assert bound("open", "one", "-q", env=env).out == "one\n"
        for command in ("turn one x", "gc --dry-run", "gc", "db vacuum", "search x", "db scrub --dry-run"):
            done = bound(*command.split(), env=env)
            assert done.code == 0, (command, done.err)


def test_a_home_that_is_closed_to_us_is_told_as_that_by_every_verb(home: Path, tmp_path: Path) -> None:
    """As after `sudo -u somebody` without `-H`, where HOME is still that of who asked."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o000)
    variables = {"LASH_HOME": "", "HOME": str(theirs)}
    for arguments in (
        "config show", "turn s hi", "cancel s", "key ls", "search x", "ls", "tail s", "db info",
        "config set defaults.model m", "completion bash --install",
    ):  # fmt: skip
        done = run_unprivileged(*arguments.split(), "-o", "jsonl", home=home, env=variables)
        assert (done.code, done.out, done.error["code"]) == (5, "", "permissions_unsafe"), (arguments, done.err)
        assert done.error["hint"], arguments


def test_a_runtime_directory_that_is_relative_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG has it so; there would be another one in every directory that somebody is in."""
    usual = resolve_paths({"HOME": "/home/me"}).runtime_dir
    assert resolve_paths({"HOME": "/home/me", "XDG_RUNTIME_DIR": "run"}).runtime_dir == usual
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    root = bell_root()
    assert root is None or os.path.isabs(root)
