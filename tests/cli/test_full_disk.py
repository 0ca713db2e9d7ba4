"""A disk that takes no more: told as an unknown outcome, and nothing is lost or doubled (contract 08 §6.4, 01 §11).

A limit on the size of any file stands for the full disk, so the refusal comes
from the kernel, in the middle of whatever SQLite is writing. The limits climb
until the turn goes through: the first fall before the turn is begun, later
ones between its beginning and its commit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.cli import Result, begin, run_lash, spawn_lash
from support.old_files import old_database

KIB = 1024
STEPS_KIB = (1, 32, 64, 96, 128, 192, 256, 4096)
ANSWER = "x" * 30_000
PROMPT = f"!text {ANSWER}"
TURN = ("turn", "demo", PROMPT, "-o", "json")


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one session of one turn."""
    home = tmp_path_factory.mktemp("full") / "home"
    for arguments in (("open", "demo"), ("turn", "demo", "!text first")):
        assert run_lash(arguments, home=home).code == 0
    return home


def limited(home: Path, limit_kib: int, arguments: tuple[str, ...] = TURN) -> Result:
    """Run the turn, or another command, where no file may grow beyond `limit_kib`."""
    process = spawn_lash(arguments, home=home, first=begin("bounds", f"file_bytes={limit_kib * KIB}"))
    out, err = process.communicate(timeout=60)
    return Result(process.returncode, out.decode(), err.decode())


def document(home: Path, *arguments: str) -> Any:
    done = run_lash((*arguments, "-o", "json"), home=home)
    assert done.code == 0, done.err
    return done.json


def finish(home: Path) -> str:
    """Bring the turn to its end as a user would after looking, and say how far it had come."""
    shown = document(home, "show", "demo")
    if shown["turns"] == 2:
        return "committed"
    if shown["unfinished_turn"] is None:
        again = run_lash(TURN, home=home)
        assert again.code == 0, again.err
        return "not begun"
    resumed = run_lash(("resume", "demo", "-o", "json"), home=home)
    assert resumed.code == 0, resumed.err
    return "unfinished"


def test_a_full_disk_is_told_and_what_was_begun_can_be_finished(seeded: Path, tmp_path: Path) -> None:
    reached = []
    for limit_kib in STEPS_KIB:
        home = tmp_path / f"limit{limit_kib}" / "home"
        shutil.copytree(seeded, home)
        done = limited(home, limit_kib)
        if done.code == 0:
            reached.append("done")
        else:
            assert done.out == "" and len(done.err.splitlines()) == 1, done.err
            error = done.error
            assert (done.code, error["code"], error["ambiguous"]) == (1, "store_commit_failed", True)
            assert error["retryable"] is False
            reached.append(finish(home))
            # Where not even the session could be looked up, nobody knows which one it is.
            is_known = reached[-1] != "not begun" or "session" in error["details"]
            assert error["hint"] == f"look before retrying: lash {'show demo' if is_known else 'ls'}"
        items = document(home, "log", "demo")["items"]
        assert [item["text"] for item in items if item["role"] == "user"] == ["!text first", PROMPT]
        assert [item["text"] for item in items if item["role"] == "assistant"] == ["first", ANSWER]
        shown = document(home, "show", "demo")
        assert (shown["turns"], shown["unfinished_turn"], shown["lease"]) == (2, None, None)
        assert run_lash(("doctor",), home=home).code == 0
        if done.code == 0:
            break
    assert {"not begun", "unfinished", "done"} <= set(reached), reached


@pytest.mark.parametrize(
    "command",
    [
        "export demo --as json --out {place}",
        "export demo --as html --out {place}",
        "db backup --out {place}",
        "trace html {trace} --out {place}",
    ],
    ids=lambda command: " ".join(command.split()[:2]),
)
def test_a_file_that_does_not_fit_is_not_left_half_written(seeded: Path, tmp_path: Path, command: str) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    shutil.copytree(seeded, home)
    out.mkdir()
    trace = tmp_path / "run.jsonl"
    assert run_lash((*TURN, "--trace", str(trace)), home=home).code == 0
    words = [word.format(place=out / "file", trace=trace) for word in (*command.split(), "-o", "json")]
    # Enough for the index of the log of the database, which every look makes.
    done = limited(home, 40, tuple(words))
    assert (done.code, done.out, done.error["code"]) == (1, "", "output_not_written"), done.err
    assert not done.error["ambiguous"] and done.error["hint"].startswith(("make room there", "see what is wrong"))
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("verb", ["restore", "purge"])
def test_a_database_whose_new_content_does_not_fit_keeps_the_old_one(seeded: Path, tmp_path: Path, verb: str) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy.db"
    shutil.copytree(seeded, home)
    assert run_lash(("db", "backup", "--out", str(copy)), home=home).code == 0
    assert run_lash(("turn", "demo", "!text second"), home=home).code == 0
    words = {"restore": ("restore", str(copy)), "purge": ("purge", "--confirm", "lash.db")}[verb]
    done = limited(home, 40, ("db", *words, "-o", "json"))
    assert (done.code, done.out, done.error["code"]) == (1, "", "output_not_written"), done.err
    assert not done.error["ambiguous"] and done.error["details"] == {"path": str(home / "lash.db")}
    assert "another file" not in done.error["hint"], "none was named"
    assert document(home, "show", "demo")["turns"] == 2
    assert not list(home.glob(".lash.db.*"))


def test_the_copy_of_a_restore_that_does_not_fit_is_told(seeded: Path, tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy.db"
    shutil.copytree(seeded, home)
    assert run_lash(("db", "backup", "--out", str(copy)), home=home).code == 0
    assert run_lash(("turn", "demo", "!text second"), home=home).code == 0
    # Both copies fit, and the log of what replaces the content does not.
    done = limited(home, (home / "lash.db").stat().st_size // KIB + 1, ("db", "restore", str(copy), "-o", "json"))
    (kept,) = (home / "backups").iterdir()
    warning, error = map(json.loads, done.err.splitlines())
    assert (done.code, error["code"], warning["kind"]) == (1, "store_commit_failed", "Warning"), done.err
    assert str(kept) in warning["message"] and document(home, "show", "demo")["turns"] == 2
    assert run_lash(("db", "restore", str(copy)), home=home).code == 0 and document(home, "show", "demo")["turns"] == 1


def test_the_copy_of_a_migration_that_does_not_fit_is_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    old = old_database(home / "lash.db")
    done = limited(home, old.stat().st_size // KIB + 36, ("db", "migrate", "-o", "json"))
    (copy,) = (home / "backups").iterdir()
    warning, error = map(json.loads, done.err.splitlines())
    assert (done.code, error["code"], warning["kind"]) == (1, "store_commit_failed", "Warning"), done.err
    assert str(copy) in warning["message"]
    assert document(home, "db", "migrate")["from_version"] == 1, "with room it goes on"


def test_a_search_finds_what_is_indexed_where_no_more_can_be(seeded: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(seeded, home)
    before = document(home, "search", "first")["items"]
    assert before and run_lash(("turn", "demo", f"!text first {ANSWER}"), home=home).code == 0
    done = limited(home, 36, ("search", "first", "-o", "json"))
    assert (done.code, done.error["kind"], done.error["code"]) == (0, "Warning", "index_behind"), done.err
    assert "make room" in done.error["message"]
    assert done.json["items"] == before
    assert len(document(home, "search", "first")["items"]) == len(before) + 2


def test_a_setting_that_does_not_fit_leaves_the_file_as_it_was(seeded: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(seeded, home)
    assert run_lash(("config", "set", "defaults.system", "short"), home=home).code == 0
    before = sorted(place.name for place in home.iterdir())
    done = limited(home, 1, ("config", "set", "defaults.system", "x" * 9_000, "-o", "json"))
    assert (done.code, done.out, done.error["code"]) == (1, "", "output_not_written")
    assert done.error["hint"] == "make room there, then try again" and not done.error["ambiguous"]
    assert run_lash(("config", "get", "defaults.system"), home=home).out == "short\n"
    assert sorted(place.name for place in home.iterdir()) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("option", ["--out", "--usage-file"])
def test_a_turn_whose_file_does_not_fit_tells_where_its_answer_is(seeded: Path, tmp_path: Path, option: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(seeded, home)
    done = run_lash(("turn", "demo", "!text second", option, "/dev/full", "-o", "json"), home=home)
    assert (done.code, done.error["code"], done.error["ambiguous"]) == (1, "output_not_written", True)
    assert done.error["hint"] == "what it says is kept: lash log demo"
    assert document(home, "log", "demo")["items"][-1]["text"] == "second"
    nowhere = run_lash(("turn", "--ephemeral", "!text lost", option, "/dev/full", "-o", "json"), home=home)
    assert nowhere.error["hint"] is None and "committed" not in nowhere.error["message"]


def test_the_copy_of_a_scrub_that_does_not_fit_is_told(seeded: Path, tmp_path: Path) -> None:
    home, secret = tmp_path / "home", "sk-abcdefghijklmnop1234"
    shutil.copytree(seeded, home)
    for number in range(40):
        assert run_lash(("turn", "demo", f"!text {number} {'x' * 12_000} {secret}"), home=home).code == 0
    # The copy fits, and the log of what is changed does not: it holds a page as often as it was written.
    done = limited(home, (home / "lash.db").stat().st_size // KIB + 1, ("db", "scrub", "--yes", "-o", "json"))
    (kept,) = (home / "backups").iterdir()
    warning, error = map(json.loads, done.err.splitlines())
    assert (done.code, error["code"], warning["kind"]) == (1, "store_commit_failed", "Warning"), done.err
    assert str(kept) in warning["message"]
