"""A process that may start few threads, as in a container that has no more processes left: what it did is told as done,
and what it could not do as what it is (contract 08 §6.4)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.cli import Result, run_lash, spawn_lash
from support.prepared import prepare

SEED = (("open", "demo"), ("turn", "demo", "!text first"), ("enqueue", "demo", "!text queued"), ("search", "first"))
MOST = 5
FEW = """
import threading
left = [{limit}]
start = threading.Thread.start
def few(self):
    left[0] -= 1
    if left[0] < 0:
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = few
"""


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    """A home with a session of one turn that is in the index, and one text that waits."""
    return prepare(tmp_path / "seeded", *SEED)


def limited(arguments: tuple[str, ...], home: Path, limit: int) -> Result:
    """Run a command that can start `limit` threads."""
    with spawn_lash(arguments, home=home, first=FEW.format(limit=limit)) as process:
        out, err = process.communicate(timeout=60)
    return Result(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize(
    "arguments",
    ["turn demo hello -o json", "work demo --until-empty -o json", "search first -o json"],
)
def test_a_command_without_threads_is_done_or_told_as_what_it_is(seeded: Path, tmp_path: Path, arguments: str) -> None:
    codes = []
    for limit in range(MOST):
        home = tmp_path / str(limit)
        shutil.copytree(seeded, home)
        done = limited(tuple(arguments.split()), home, limit)
        codes.append(done.code)
        turns = run_lash(("show", "demo", "-o", "json"), home=home).json["turns"]
        if done.code == 0:
            assert done.out and not done.err, (limit, done)
            continue
        code = json.loads(done.err.splitlines()[-1])["code"]
        assert code in ("too_many_processes", "store_commit_failed", "partial_outcome"), (limit, done)
        assert (done.out, turns) == ("", 1), (limit, done)
    assert codes[-1] == 0, codes


def test_an_answer_is_printed_where_the_store_has_the_last_thread(seeded: Path) -> None:
    done = limited(("turn", "demo", "!text told"), seeded, 1)
    assert (done.code, done.out) == (0, "told\n"), done


def test_a_server_with_the_two_threads_it_needs_ends_like_any_other(seeded: Path) -> None:
    done = limited(("serve", "--stdio"), seeded, 2)
    assert (done.code, done.err) == (0, ""), done
