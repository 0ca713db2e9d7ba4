"""What `lash __complete` offers, and what it never does (contract 08 §10)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import environment, run_lash
from support.prepared import prepare

from lash_cli.cli import completion_build, completion_rows
from lash_cli.cli.completing import WORDS_FILE
from lash_cli.cli.completion_rows import _APPLICATION_ID, Sources
from lash_cli.paths import resolve_paths
from lash_cli.store.sqlite import schema


def offered(home: Path, *words: str, **options) -> tuple[list[str], str]:
    """The values and the directive; whatever is asked, the status is 0 and stderr is silent."""
    done = run_lash(["__complete", "--", *words], home=home, **options)
    assert (done.code, done.err) == (0, ""), done.err
    *lines, directive = done.out.splitlines()
    assert directive.startswith(":") and all(line.count("\t") == 1 for line in lines)
    return [line.partition("\t")[0] for line in lines], directive


def description(home: Path, value: str, *words: str, **options) -> str:
    lines = run_lash(["__complete", "--", *words], home=home, **options).out.splitlines()
    return next(line.partition("\t")[2] for line in lines if line.startswith(f"{value}\t"))


@pytest.fixture
def shelf(home: Path) -> Path:
    """A home with a few sessions, one of which has a queue."""
    return prepare(
        home,
        ("open", "notes", "--name", "shopping list", "--label", "area=home"), ("open", "--name", "quick-lake"),
        ("turn", "notes", "the secret words", "-q"), ("enqueue", "notes", "more secret words", "-q"),
        ("open", "done", "--name", "over"), ("close", "done"),
    )  # fmt: skip


def rows() -> list[list[str]]:
    return [line.split("\t") for line in Path(WORDS_FILE).read_text(encoding="utf-8").splitlines()]


def test_what_is_written_down_is_what_the_command_table_says():
    # After a change of a command: python -m lash_cli.cli.completion_build
    drifted = [path for path, text in completion_build.artefacts().items() if path.read_text(encoding="utf-8") != text]
    assert not drifted
    assert not completion_build.unsaid(), "say in completion_build what a command prints"
    known = {kind for _, what, *rest in rows() if what in ("argument", "option") for kind in [rest[-2].lstrip("?")]}
    words = {path for path, what, *_ in rows() if what == "word"}
    assert (
        known
        - words
        - completion_rows.KINDS.keys()
        - {"", "text", "text-file", "file", "dir", "fields", "config-value"}
        == set()
    )


def test_verbs_options_and_fixed_values_need_no_database(home):
    assert offered(home, "sho") == (["show"], ":nofiles")
    assert offered(home, "queue", "cancel-s") == (["cancel-suffix"], ":nofiles")
    assert offered(home, "turn", "notes", "--if") == (["--if-busy"], ":nofiles")
    assert offered(home, "ask", "notes", "--if-busy", "f") == (["fail"], ":nofiles"), "an alias is its verb"
    assert offered(home, "ls", "-o", "js")[0] == ["json", "jsonl"]
    assert offered(home, "-o", "json", "ls", "--status", "idle,cl") == (["idle,closed"], ":nospace")
    assert offered(home, "show", "--output=ta") == (["--output=table"], ":nofiles")
    assert offered(home, "show", "-ota") == (["-otable"], ":nofiles")
    assert offered(home, "show", "-o=ta") == (["-o=table"], ":nofiles")
    assert offered(home, "show", "-qota") == (["-qotable"], ":nofiles"), "the last of joined switches may take one"
    assert offered(home, "show", "-vqo=ta") == (["-vqo=table"], ":nofiles")
    assert offered(home, "ls", "-qo", "js")[0] == ["json", "jsonl"]
    assert "-o=json" in offered(home, "ls", "-o=")[0]
    assert offered(home, "ls", "--fields", "id,stat") == (["id,status"], ":nospace")
    assert offered(home, "config", "set", "completion.previews", "") == (["true", "false"], ":nofiles")
    assert offered(home, "-c", "completion.") == (["completion.previews="], ":nospace")
    assert offered(home, "tail", "notes", "--from", "l") == (["last-commit"], ":nofiles")
    assert offered(home, "set", "notes", "t") == (["temperature="], ":nospace")
    assert offered(home, "trace", "html", "") == ([], ":files")
    assert offered(home, "--home", "") == ([], ":dirs")
    assert offered(home, "turn", "notes", "--", "--if") == ([], ":nofiles"), "behind -- there are no options"
    assert offered(home, "show", "notes", "") == ([], ":nofiles"), "there is one session to show"
    for words in (("nonsense", ""), ("nonsense", "deeper", "--"), ("--nonsense", "", ""), ()):
        assert offered(home, *words)[1] == ":nofiles"
    assert not home.exists()


def test_sessions_are_offered_by_what_people_call_them(shelf):
    values, directive = offered(shelf, "show", "")
    assert directive == ":nofiles" and values == ["done", "notes", "quick-lake"], "newest activity first"
    assert offered(shelf, "show", "no")[0] == ["notes"]
    assert offered(shelf, "show", "shop")[0] == ["shopping list"]
    assert offered(shelf, "show", "@")[0] == ["@last", "@any"]
    assert len(offered(shelf, "show", "s_")[0]) == 1, "the id nobody chose, because it was asked for"
    assert description(shelf, "notes", "show", "no").startswith("queued, shopping list")
    assert description(shelf, "done", "show", "do").startswith("closed")
    assert offered(shelf, "rm", "notes", "qui")[0] == ["quick-lake"], "any number of sessions"


def test_ids_of_a_session_are_those_of_the_session_that_was_named(shelf, lash):
    (waiting,) = lash("queue", "ls", "notes", "-o", "name").out.split()
    turn = lash("log", "notes", "-o", "json").json["items"][0]["turn_id"]
    for reference, expected in (("notes", [waiting]), ("shopping list", [waiting]), ("note", [waiting]),
                                ("not", []), ("done", []), ("nowhere", [])):  # fmt: skip
        assert offered(shelf, "queue", "cancel-suffix", reference, "")[0] == expected, reference
    assert offered(shelf, "queue", "cancel", "in_")[0] == [waiting]
    assert offered(shelf, "queue", "cancel", waiting, "--session", "done", "")[0] == []
    assert offered(shelf, "show", "notes", "--turn", "")[0] == [turn]
    assert offered(shelf, "show", "--turn", "", env={"LASH_SESSION": "notes"})[0] == [turn]
    assert offered(shelf, "open", "--label", "")[0] == ["area="]
    assert lash("queue", "cancel", waiting).code == 0
    assert offered(shelf, "queue", "cancel", "")[0] == [], "only what can still be cancelled"


def test_the_nodes_of_a_fork_are_offered_whoever_holds_them(shelf, lash):
    assert lash("fork", "notes", "--name", "branch").code == 0
    for session in ("branch", "notes"):
        assert lash("turn", session, "its own", "-q").code == 0
    tree = {entry["id"] for entry in lash("tree", "branch", "-o", "json").json["items"]}
    assert set(offered(shelf, "rewind", "branch", "--to", "")[0]) == tree and len(tree) == 4
    (one,) = offered(shelf, "rewind", "branch", "--to", min(tree))[0]
    assert one == min(tree)
    assert len(offered(shelf, "rewind", "notes", "--to", "")[0]) == 4


def test_the_configuration_adds_its_names(shelf, lash):
    assert "loopback" in offered(shelf, "provider", "test", "")[0]
    assert lash("provider", "add", "mine", "--base-url", "http://127.0.0.1:9/v1").code == 0
    assert lash("model", "alias", "quick", "gpt-6-luna").code == 0
    assert offered(shelf, "open", "--provider", "mi")[0] == ["mine"]
    assert offered(shelf, "open", "--model=qu")[0] == ["--model=quick"]
    assert offered(shelf, "config", "set", "providers.m")[0] == ["providers.mine."]


def test_what_people_wrote_is_shown_only_when_it_may_be(shelf, lash):
    secret = ("queue", "cancel", ""), ("show", "no")
    for words in secret:
        assert "secret" not in run_lash(["__complete", "--", *words], home=shelf).out
    assert lash("config", "set", "completion.previews", "true").code == 0
    for words in secret:
        assert "secret words" in run_lash(["__complete", "--", *words], home=shelf).out


def test_nothing_of_a_name_can_steer_a_terminal_or_break_a_line(shelf, lash):
    connection = sqlite3.connect(shelf / "lash.db")
    with connection:
        connection.execute(
            "UPDATE sessions SET name = ? WHERE session_id = 'done'", ("a\x1b]0;x\x07\n\u202eb\t:files",)
        )
    connection.close()
    out = run_lash(["__complete", "--", "show", "do"], home=shelf).out
    assert out.splitlines()[0].startswith("done\t") and len(out.splitlines()) == 2
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert offered(shelf, "show", "a")[0] == [], "a word that no line can hold"
    done = run_lash(["__complete", "--", "show", ""], home=shelf, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert (done.code, done.err) == (0, "")


def test_asking_creates_and_changes_nothing(shelf, home, tmp_path):
    def files() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in home.iterdir()}

    for leftover in ("lash.db-wal", "lash.db-shm"):
        (home / leftover).unlink(missing_ok=True)
    before = files()
    home.chmod(0o500)
    try:
        assert "notes" in offered(shelf, "show", "")[0]
        assert offered(shelf, "queue", "cancel", "in_")[0]
    finally:
        home.chmod(0o700)
    assert files() == before
    (home / "lash.db-wal").touch()
    assert offered(shelf, "show", "")[0] == [], "its second file would have to be made"
    assert not (home / "lash.db-shm").exists()
    elsewhere = tmp_path / "nothing-here"
    assert offered(elsewhere, "show", "")[0] == [] and not elsewhere.exists()


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to look like one" * 20])
def test_what_is_no_database_of_ours_has_no_candidates(home, content):
    home.mkdir(mode=0o700)
    (home / "lash.db").write_bytes(content)
    assert offered(home, "show", "")[0] == []
    foreign = sqlite3.connect(home / "other.db")
    foreign.execute("CREATE TABLE sessions (session_id TEXT, name TEXT)")
    foreign.close()
    assert offered(home, "--db", str(home / "other.db"), "show", "")[0] == []


def test_a_locked_database_and_a_broken_configuration_are_silent(shelf):
    (shelf / "config.toml").write_text("previews = [broken")
    assert offered(shelf, "show", "")[0] == []
    (shelf / "config.toml").unlink()
    holder = sqlite3.connect(shelf / "lash.db", isolation_level=None)
    try:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("PRAGMA journal_mode = DELETE")
        holder.execute("BEGIN EXCLUSIVE")
        (shelf / "lash.db-wal").touch()
        assert offered(shelf, "show", "")[0] == []
    finally:
        holder.close()


def test_a_reader_that_left_is_no_error(home):
    closed = os.open(os.devnull, os.O_RDONLY)  # cannot be written to
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lash_cli", "__complete", "--", ""], env=environment(home), stdin=subprocess.DEVNULL,
            stdout=closed, stderr=subprocess.PIPE, timeout=60, cwd=home.parent,
        )  # fmt: skip
    finally:
        os.close(closed)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_places_are_those_of_every_other_command(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variables in (
        {}, {"LASH_HOME": "~/h"}, {"LASH_DB": "d.db"}, {"LASH_CONFIG": "c.toml"},
        {"XDG_DATA_HOME": str(tmp_path / "d"), "XDG_CONFIG_HOME": str(tmp_path / "c")},
        {"XDG_DATA_HOME": "d", "XDG_CONFIG_HOME": "c"}, {"HOME": ""}, {"HOME": "here"},
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            variables = {"HOME": str(tmp_path), **variables}
            expected = resolve_paths(variables)
            found = Sources(variables, home=None, database=None)
            assert (found.database, found.config_file) == (expected.database, expected.config_file), variables
    assert _APPLICATION_ID == schema.APPLICATION_ID


def test_a_completion_script_is_put_where_the_shell_finds_it(home, lash):
    user = home.parent / "user"
    for shell, place in (
        ("bash", ".local/share/bash-completion/completions/lash"), ("zsh", ".local/share/zsh/site-functions/_lash"),
        ("fish", ".config/fish/completions/lash.fish"), ("powershell", ".config/powershell/lash.ps1"),
    ):  # fmt: skip
        printed = lash("completion", shell)
        assert printed.code == 0
        done = lash("completion", shell, "--install")
        assert done.code == 0 and str(user / place) in done.err
        assert (user / place).read_text() == printed.out
        again = lash("completion", shell, "--install", "-o", "json").json
        assert (again["kind"], again["changed"], again["file"]) == ("CompletionInstalled", False, str(user / place))
    theirs = user / ".config/fish/completions/lash.fish"
    theirs.write_text("complete -c lash -a mine\n")
    refused = lash("completion", "fish", "--install", "-o", "json")
    assert (refused.code, refused.out, refused.error["code"]) == (4, "", "file_exists")
    assert theirs.read_text() == "complete -c lash -a mine\n"
    assert lash("completion").code == lash("completion", "tcsh").code == 2


def test_a_place_of_a_shell_that_cannot_be_written_is_chosen_by_no_option_of_ours(lash):
    """As with a home that is read-only."""
    done = lash("completion", "bash", "--install", "-o", "json", env={"XDG_DATA_HOME": "/proc/nowhere"})
    assert (done.code, done.error["code"]) == (5, "permissions_unsafe"), done.err
    assert "--install" in done.error["hint"] and "--home" not in done.error["hint"]


def test_a_completion_script_is_put_below_no_relative_directory(home, lash, tmp_path, monkeypatch):
    """XDG has it that a place that is relative is none: what looks for the script does not look there."""
    (tmp_path / "here").mkdir()
    user = home.parent / "user"
    for shell, place in (
        ("bash", ".local/share/bash-completion/completions/lash"),
        ("fish", ".config/fish/completions/lash.fish"),
    ):
        done = lash(
            "completion", shell, "--install", "-o", "json", cwd=tmp_path / "here",
            env={"XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "config"},
        )  # fmt: skip
        assert done.json["file"] == str(user / place) and (user / place).exists()
    assert list((tmp_path / "here").iterdir()) == []
