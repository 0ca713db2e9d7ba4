"""Bad places and bad databases, through the real entry point (contract 08 §6.2, §6.4)."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
from pathlib import Path

import pytest
from support.cli import COMMAND, Result, environment
from support.prepared import OPEN, prepare
from support.unprivileged import run_unprivileged

WRITES = ["open", "demo"]
READS = (["ls"], ["show", "demo"], ["log", "demo"])


def failed(result, code, exit_status):
    assert result.code == exit_status, (result.out, result.err)
    assert result.out == ""
    assert result.error["code"] == code
    assert result.error["exit"] == exit_status
    return result.error


def test_a_home_that_cannot_be_made_is_permissions_unsafe(lash, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    error = failed(lash(*WRITES, "-o", "json", "--home", str(blocker / "home")), "permissions_unsafe", 5)
    assert str(blocker) in error["message"]
    text = lash(*WRITES, "--home", str(blocker / "home"))
    assert (text.code, text.out) == (5, "")
    assert text.err.startswith("error: ") and "hint: " in text.err and "Traceback" not in text.err


def test_a_directory_in_the_place_of_the_database_is_permissions_unsafe(lash, home):
    (home / "lash.db").mkdir(parents=True)
    failed(lash(*WRITES, "-o", "json"), "permissions_unsafe", 5)


def without_write_permission(home, *args):
    """Run where nothing of the home may be written, also when the tests run as root."""
    subprocess.run(["chmod", "-R", "a-w", str(home)], check=True)
    try:
        return run_unprivileged(*args, home=home)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(home)], check=True)


def test_a_read_only_home_refuses_to_write(lash, home):
    home.mkdir(mode=0o700)
    failed(without_write_permission(home, *WRITES, "-o", "json"), "permissions_unsafe", 5)


def test_a_read_only_database_refuses_to_write_and_still_lists(lash, home):
    assert lash(*WRITES).code == 0
    failed(without_write_permission(home, "turn", "demo", "hello", "-o", "json"), "permissions_unsafe", 5)


@pytest.mark.parametrize("arguments", [WRITES, *READS])
def test_a_corrupt_database_is_store_corrupt_and_left_alone(lash, home, arguments):
    home.mkdir(mode=0o700)
    database = home / "lash.db"
    database.write_bytes(os.urandom(16) + b"no database" * 1000)
    before = database.read_bytes()
    error = failed(lash(*arguments, "-o", "json"), "store_corrupt", 9)
    assert error["retryable"] is False
    assert database.read_bytes() == before


@pytest.mark.parametrize("arguments", [WRITES, *READS])
def test_a_foreign_database_is_refused_and_left_alone(lash, home, arguments):
    home.mkdir(mode=0o700)
    database = home / "lash.db"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE notes (text)")
    connection.commit()
    connection.close()
    before = database.read_bytes()
    failed(lash(*arguments, "-o", "json"), "store_corrupt", 9)
    assert database.read_bytes() == before


@pytest.mark.parametrize("arguments", [WRITES, *READS])
def test_a_database_of_a_newer_lash_is_schema_too_new(lash, home, arguments):
    assert lash(*WRITES).code == 0
    connection = sqlite3.connect(home / "lash.db")
    connection.execute("PRAGMA user_version = 9999")
    connection.commit()
    connection.close()
    error = failed(lash(*arguments, "-o", "json"), "schema_too_new", 9)
    assert "9999" in error["message"]


def test_an_unconfigured_provider_and_a_missing_key_are_exit_5(lash):
    failed(lash("open", "a", "--provider", "nope", "-o", "json"), "provider_unconfigured", 5)
    lash("config", "set", "providers.mine.base_url", "http://127.0.0.1:9/v1")
    lash("config", "set", "providers.mine.key", "keys:mine")
    assert lash("open", "b", "--provider", "mine", "--model", "m").code == 0
    error = failed(lash("turn", "b", "hello", "-o", "json"), "key_missing", 5)
    assert error["hint"] == "store it with: lash key set mine"


def test_a_key_file_others_can_read_stops_the_turn(lash, home):
    lash("config", "set", "providers.mine.base_url", "http://127.0.0.1:9/v1")
    lash("config", "set", "providers.mine.key", "keys:mine")
    lash("key", "set", "mine", "--stdin", input="some-private-key\n")
    assert lash("open", "b", "--provider", "mine", "--model", "m").code == 0
    (home / "keys.toml").chmod(0o604)
    failed(lash("turn", "b", "hello", "-o", "json"), "permissions_unsafe", 5)


def test_bad_prompts_reach_no_session(lash, tmp_path):
    assert lash(*WRITES).code == 0
    read_end, write_end = os.pipe()
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(33 * 1024 * 1024)
    try:
        turn = ["turn", "demo", "-o", "json", "-c", "input.stdin_wait=0.2"]
        failed(lash(*turn, stdin=read_end), "stdin_timeout", 2)
        failed(lash(*turn, "hello", stdin=read_end), "stdin_timeout", 2)
    finally:
        os.close(read_end)
        os.close(write_end)
    failed(lash(*turn, ""), "empty_prompt", 2)
    failed(lash(*turn), "empty_prompt", 2)
    failed(lash(*turn, input=b"\xff"), "prompt_not_utf8", 2)
    with big.open("rb") as file:
        failed(lash(*turn, stdin=file), "prompt_too_large", 2)
    assert lash("show", "demo", "-o", "json").json["turns"] == 0


def test_every_file_is_private_under_a_permissive_umask(lash, home):
    before = os.umask(0o022)
    try:
        assert lash(*WRITES).code == 0
        assert lash("turn", "demo", "hello").code == 0
        lash("key", "set", "a", "--stdin", input="some-private-key\n")
        lash("config", "set", "lease.ttl_ms", "9000")
    finally:
        os.umask(before)
    for root, directories, files in os.walk(home):
        for name in directories:
            assert os.stat(os.path.join(root, name)).st_mode & 0o777 == 0o700, name
        for name in files:
            assert os.stat(os.path.join(root, name)).st_mode & 0o777 == 0o600, name
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("verb", [("turn", "placed"), ("resume", "placed")])
def test_that_tools_work_elsewhere_than_in_the_directory_of_their_session_is_said(lash, tmp_path, verb):
    its_own, here = tmp_path / "its-own", tmp_path / "here"
    for directory in (its_own, here):
        directory.mkdir()
    lash("open", "placed", cwd=its_own)
    at_home = lash(*verb, "hi", "-o", "json", cwd=here)
    assert (at_home.code, at_home.err) == (0, "")
    its_own.rmdir()
    elsewhere = lash(*verb, "hi", "-o", "json", cwd=here)
    told = json.loads(elsewhere.err)
    assert (elsewhere.code, told["kind"], told["code"]) == (0, "Warning", "session_directory_gone")
    assert str(its_own) in told["message"] and str(here) in told["message"]


def test_a_directory_that_was_removed_stops_only_what_needs_one(lash, home, tmp_path):
    """What a shell in a removed directory can still do: look and enqueue; and why it cannot do the rest."""
    prepare(home, OPEN)
    elsewhere = {"LASH_NO_STDIN": "1"}

    def from_nowhere(*arguments):
        gone = tmp_path / "gone"
        gone.mkdir()
        script = f'rmdir "$PWD"; exec {shlex.join([*COMMAND, *arguments])}'
        with open(os.devnull, "rb") as nothing:
            done = subprocess.run(
                ["sh", "-c", script], cwd=gone, env=environment(home, elsewhere), stdin=nothing,
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    assert from_nowhere("ls").code == 0
    failed(from_nowhere("open", "t", "-o", "json"), "working_directory_missing", 5)
    (tmp_path / "gone").mkdir()
    stays = subprocess.Popen(["sleep", "600"], cwd=tmp_path / "gone")
    try:
        (tmp_path / "gone").rmdir()
        # Where there is no /proc, nobody else can be in that directory any more.
        nowhere = Path(f"/proc/{stays.pid}/cwd")

        def there(*arguments):
            return lash(*arguments, cwd=nowhere, env=elsewhere) if nowhere.is_symlink() else from_nowhere(*arguments)

        for arguments in (("log", "s"), ("enqueue", "s", "later"), ("queue", "ls", "s"), ("doctor",)):
            assert there(*arguments).code == 0, arguments
        for arguments in (("turn", "t", "--or-open", "hi"), ("ls", "--here")):
            failed(there(*arguments, "-o", "json"), "working_directory_missing", 5)
        for arguments in (
            ("export", "s", "--out", "x"), ("turn", "s", "hi", "--out", "x"), ("turn", "s", "hi", "--usage-file", "x"),
            ("turn", "s", "hi", "--trace", "x"), ("tail", "s", "--no-follow", "--save-cursor", "x"),
            ("db", "backup", "--out", "x"), ("db", "restore", "x"), ("config", "trust", "."),
            ("ls", "--db", "x"), ("ls", "--home", "x"), ("show", "s", "--log-file", "x"),
        ):  # fmt: skip
            failed(there(*arguments, "-o", "jsonl"), "working_directory_missing", 5)
        assert lash("ls", "-o", "name").out == "s\n"
        failed(there("cancel", "s", "-o", "json"), "no_active_turn", 4)
        for arguments in (
            ("open", "s", "--model", "loopback"), ("set", "s", "max_steps=9"), ("tool", "ls", "s"),
            ("show", "s", "--tools"), ("park", "s"), ("fork", "s"), ("rm", "s", "--yes"),
        ):  # fmt: skip
            assert there(*arguments).code == 0, arguments
    finally:
        stays.kill()
        stays.wait()


def test_a_message_that_quotes_a_long_argument_stays_short(lash, home):
    prepare(home, OPEN)
    for arguments in (("turn", "s", "hi", "--turn-id", "k" * 50_000), ("show", "n" * 50_000), ("open", "x" * 50_000)):
        refused = lash(*arguments, "-o", "json")
        assert refused.out == "" and len(refused.error["message"]) < 2_500, arguments[0]
        assert len(lash(*arguments).err) < 3_000
