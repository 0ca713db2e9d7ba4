"""Commands that run no turn, killed with SIGKILL: what they leave behind goes with the next one, and nothing else does
(contract 08 §6.7, §6.8, §11)."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest
from support.cli import Result, begin, run_lash, spawn_lash

from lash_cli.paths import replace_file

KEY = "canary-key-0123456789"


def killed(home: Path, point: str, *arguments: str, stdin: Path | None = None, module: str = "killing") -> None:
    """Run a command that is killed at `point`."""
    with open(stdin or os.devnull, "rb") as given:
        process = spawn_lash(arguments, home=home, stdin=given, first=begin(module, point))
        _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, (process.returncode, err)


def done(home: Path, *arguments: str) -> Result:
    result = run_lash(arguments, home=home)
    assert result.code == 0, result.err
    return result


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def holding(directory: Path, text: str) -> set[str]:
    """The files below `directory` that hold `text`."""
    return {path.name for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()}


@pytest.mark.parametrize("point", ["os.fsync", "os.replace"])
def test_a_key_that_is_removed_is_in_no_file_that_a_killed_command_left(tmp_path: Path, point: str) -> None:
    home, given = tmp_path / "home", tmp_path / "key"
    given.write_text(KEY)
    done(home, "config", "set", "defaults.system", "short")
    killed(home, point, "key", "set", "other", "--in", "file", "--stdin", stdin=given)
    assert holding(home, KEY) and "keys.toml" not in names(home)
    assert run_lash(["key", "set", "mine", "--in", "file", "--stdin"], home=home, input="another-key").code == 0
    done(home, "key", "rm", "mine", "--yes")
    assert holding(home, KEY) == set()
    assert names(home) == {"config.toml", "keys.toml"}


@pytest.mark.parametrize(
    "command",
    ["config set defaults.system short", "export s --as json --out {out}/file --replace"],
    ids=["config", "export"],
)
def test_files_that_are_killed_as_they_are_replaced_do_not_gather(tmp_path: Path, command: str) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    (out / "file.0123.new").touch()
    done(home, "open", "s")
    words = command.format(out=out).split()
    done(home, *words)
    whole = names(home), names(out)
    for _ in range(2):
        killed(home, "os.replace", *words)
    assert (names(home), names(out)) != whole
    done(home, *words)
    assert (names(home), names(out)) == whole


def test_a_file_that_somebody_is_about_to_put_in_place_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "file"
    # The day and the time of a name that somebody chose are as long as what we draw.
    middles = ("0" * 16, "1" * 16, "notes", "2026-11-28-14-00")
    written, begun, *foreign = (tmp_path / f"file.{middle}.new" for middle in middles)
    left_alone = {file.name for file in foreign}
    for file in (written, *foreign):
        file.write_text("half")
    begun.touch()
    with written.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        replace_file(str(place), b"whole")
        assert names(tmp_path) == {"file", written.name, begun.name} | left_alone
    os.utime(begun, (1, 1))
    replace_file(str(place), b"whole")
    assert names(tmp_path) == {"file"} | left_alone


def test_cursor_files_that_were_killed_do_not_gather(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    done(home, "open", "s")
    done(home, "turn", "s", "!text one")
    words = ("tail", "s", "--from", "start", "--until", "idle", "--save-cursor", str(out / "cursor"))
    killed(home, "os.replace", *words)
    assert names(out) not in (set(), {"cursor"})
    done(home, *words)
    assert names(out) == {"cursor"}


@pytest.mark.parametrize("next_command", ["db backup", "gc", "db purge --confirm lash.db"])
def test_copies_that_were_killed_do_not_gather(tmp_path: Path, next_command: str) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy.db"
    done(home, "open", "s")
    done(home, "turn", "s", "!text a canary")
    done(home, "db", "backup", "--out", str(copy))
    killed(home, "os.link", "db", "backup")
    killed(home, "os.link", "db", "restore", str(copy))
    left = [path for path in home.rglob(".*") if path.is_file()]
    assert len(left) == 3 and all(holding(path.parent, "a canary") for path in left)
    for path in left:
        os.utime(path, (1, 1))
    done(home, *next_command.split())
    assert not list(home.rglob(".*"))


def test_a_secret_that_a_killed_scrub_took_out_is_in_the_file_no_more_once_none_is_found(tmp_path: Path) -> None:
    home, secret = tmp_path / "home", "sk-abcdefghijklmnop1234"
    done(home, "open", "s")
    done(home, "turn", "s", f"!text the key is {secret}")
    killed(home, "lash_cli.store.sqlite.secrets.rewrite", "db", "scrub", "--yes", "--no-backup")
    assert holding(home, secret) == {"lash.db"}
    assert done(home, "db", "scrub", "--yes").err == "no secret was found\n"
    assert holding(home, secret) == set()


def test_a_restore_after_the_database_was_removed_takes_no_log_of_a_killed_process_for_its_own(tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy.db"
    done(home, "open", "s")
    done(home, "turn", "s", "!text one")
    done(home, "db", "backup", "--out", str(copy))
    for text in ("two", "three"):
        done(home, "turn", "s", f"!text {text}")
    killed(home, "after:commit", "turn", "s", "!text four", module="crashing")
    log = (home / "lash.db-wal").read_bytes()
    assert log
    (home / "lash.db").unlink()
    told = done(home, "db", "restore", str(copy)).err
    done(home, "db", "check")
    assert [item["text"] for item in done(home, "log", "s", "-o", "json").json["items"]] == ["!text one", "one"]
    (kept,) = (home / "backups").iterdir()
    assert kept.read_bytes() == log and str(kept) in told
    # Nor does a backup become what such a log makes of it.
    (tmp_path / "new.db-wal").write_bytes(log)
    refused = run_lash(["db", "backup", "--out", str(tmp_path / "new.db"), "-o", "json"], home=home)
    assert (refused.code, refused.error["code"]) == (4, "file_exists")
    assert refused.error["details"] == {"path": str(tmp_path / "new.db-wal")}
    assert names(tmp_path) >= {"new.db-wal"} and not list(tmp_path.glob("*new.db*partial*"))
    # The log of a file that is there is not what is in the way.
    (tmp_path / "copy.db-wal").write_bytes(log)
    refused = run_lash(["db", "backup", "--out", str(copy), "-o", "json"], home=home)
    assert refused.error["details"] == {"path": str(copy)}


def test_texts_of_an_edit_that_was_killed_before_it_began_go_with_the_next_edit(tmp_path: Path) -> None:
    home, given = tmp_path / "home", tmp_path / "given"
    given.write_text("changed\n")
    done(home, "open", "s")
    first = done(home, "enqueue", "s", "a canary", "-q").out.strip()
    killed(home, "os.rename", "queue", "edit", first, "--file", str(given))
    assert holding(home / "edits", "a canary")
    done(home, "queue", "edit", first, "--file", str(given))
    assert names(home / "edits") == set()
    assert [item["preview"] for item in done(home, "queue", "ls", "s", "-o", "json").json["items"]] == ["changed"]
