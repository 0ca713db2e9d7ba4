"""A process that may open few files: what it does is whole, or not done and told as what it is (contract 08 §6.4).

Whatever opens a file can be the one that finds no room, an import too, so the limits climb from where hardly anything
can be loaded to where the command goes through, and one further: there is room then for what could be done without.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Result, run_lash, spawn_lash
from support.error_world import dump
from support.prepared import prepare

LIMITS = (6, 7, 8, 9, 10, 11, 12, 13, 14, 24, 28)
# A stream has many files open before it says anything, and finds no room for the same one at all of the first.
LIMITS_OF_STREAMS = (6, 9, 12, 13, 14, 24)
LOOKS = (
    ("show", "demo"),
    ("log", "demo"),
    ("search", "first"),
    ("tail", "--all", "--no-follow"),
    ("tail", "demo", "--no-follow"),
    ("db", "info"),
)
WORK = (
    ("open", "fresh"),
    ("enqueue", "demo", "later"),
    ("turn", "demo", "!text second"),
    ("work", "demo", "--until-empty"),
    ("db", "backup"),
)


SEED = (("open", "demo"), ("turn", "demo", "!text first"), ("enqueue", "demo", "!text queued"), ("search", "first"))


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    """A home with a session of one turn that is in the index, and one text that waits."""
    return prepare(tmp_path / "seeded", *SEED)


def limited(arguments: tuple[str, ...], home: Path, limit: int) -> Result:
    """Run a command that may have no more than `limit` files open, its three streams among them."""
    # What was not compiled yet would be written where there is room.
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}
    form = "jsonl" if arguments[0] == "tail" else "json"
    with spawn_lash(
        (*arguments, "-o", form),
        home=home,
        env=environment,
        first=f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))",
    ) as process:
        out, err = process.communicate(timeout=60)
    return Result(process.returncode, out.decode(), err.decode())


def assert_told(done: Result, arguments: tuple[str, ...], limit: int) -> None:
    where = (arguments, limit, done)
    assert len(done.err.splitlines()) == 1, where
    assert (done.code, done.error["code"], done.error["exit"]) == (5, "too_many_open_files", 5), where
    assert "ulimit -n" in done.error["hint"] and not done.error["retryable"] and not done.error["ambiguous"], where
    if arguments[0] == "tail" and done.out:
        end = json.loads(done.out.splitlines()[-1])
        assert (end["type"], end["exit"], end["error"]["code"]) == ("stream_end", 5, "too_many_open_files"), where
    else:
        assert done.out == "", where


def climb(arguments: tuple[str, ...], codes: list[int]) -> Iterator[int]:
    """The limits to try a command with, until the last two of `codes`, to which the caller adds, say that it went
    through."""
    for limit in LIMITS_OF_STREAMS if arguments[0] == "tail" else LIMITS:
        if codes[-2:] == [0, 0]:
            break
        yield limit
    assert (codes[0], codes[-1]) == (5, 0), codes


def files(home: Path) -> set[Path]:
    """What lies in a home, but for what SQLite puts beside a database while it is in use."""
    return {path.relative_to(home) for path in home.rglob("*") if not path.name.endswith(("-wal", "-shm"))}


@pytest.mark.parametrize("arguments", LOOKS, ids=" ".join)
def test_a_look_without_descriptors_is_told_and_changes_nothing(seeded: Path, arguments: tuple[str, ...]) -> None:
    before = dump(seeded / "lash.db")
    codes: list[int] = []
    for limit in climb(arguments, codes):
        done = limited(arguments, seeded, limit)
        codes.append(done.code)
        if done.code != 0:
            assert_told(done, arguments, limit)
    assert dump(seeded / "lash.db") == before


@pytest.mark.parametrize("arguments", WORK, ids=" ".join)
def test_work_without_descriptors_is_done_or_told_and_can_be_done_then(
    seeded: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    before, files_before = dump(seeded / "lash.db"), files(seeded)
    codes: list[int] = []
    unchanged: Path | None = None
    for limit in climb(arguments, codes):
        home = tmp_path / str(limit) / "home"
        shutil.copytree(seeded, home)
        done = limited(arguments, home, limit)
        codes.append(done.code)
        if done.code == 0:
            continue
        assert_told(done, arguments, limit)
        if dump(home / "lash.db") == before and files(home) == files_before:
            unchanged = home
            continue
        shown = run_lash(("show", "demo", "-o", "json"), home=home).json
        assert shown["held_at"] is None, "what is the matter with a worker says nothing about the queue"
        if shown["unfinished_turn"] is None:
            assert dump(home / "lash.db") == before, (arguments, limit)
            assert run_lash(arguments, home=home).code == 0
        else:
            assert run_lash(("resume", "demo"), home=home).code == 0
    # A home that is as it was is as good as any other one that is: one of them shows it.
    assert unchanged is None or run_lash(arguments, home=unchanged).code == 0
