"""Places and databases that cannot be used: told as 5, 9 or 75, and left as they were (contract 08 §6.4, §6.8)."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.cli import Result, environment
from support.error_world import ErrorWorld, error_world, told
from support.processes import start_process
from support.unprivileged import run_unprivileged

IMPATIENT = Path(__file__).parent.parent / "support" / "impatient.py"
READS = [("ls",), ("show", "demo"), ("log", "demo")]
WRITES = [
    ("open", "new"), ("turn", "demo", "hi"), ("turn", "new", "hi", "--or-open"), ("cancel", "demo"), ("park", "demo"),
    ("resume", "demo"), ("close", "demo"), ("rm", "demo", "--yes"), ("rm", "demo", "--dry-run"),
]  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ErrorWorld]:
    with error_world(tmp_path) as made:
        yield made


def files(directory: Path) -> dict[str, bytes]:
    """Every file below `directory` with its content; SQLite's shared memory is no content."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


def damage(database: Path, how: str) -> None:
    """Make `database` unusable in one of the ways that happen."""
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    if how == "noise":
        database.write_bytes(b"no database at all" * 1000)
    elif how == "broken pages":
        whole = database.read_bytes()
        database.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    elif how == "foreign":
        database.unlink()
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE notes (text)")
    elif how == "newer":
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA user_version = 9999")


@pytest.mark.parametrize(
    ("how", "code", "verbs"),
    [
        ("noise", "store_corrupt", [*READS, *WRITES]),
        ("newer", "schema_too_new", [*READS, *WRITES]),
        ("foreign", "store_corrupt", [*READS, *WRITES[:2]]),
        ("broken pages", "store_corrupt", [*READS, *WRITES[:2]]),
    ],
)
def test_a_database_that_cannot_be_used_is_told_by_every_verb_and_left_alone(
    world: ErrorWorld, how: str, code: str, verbs: list[tuple[str, ...]]
) -> None:
    damage(world.database, how)
    before = world.database.read_bytes()
    for arguments in verbs:
        error = told(world.lash(*arguments, "-o", "json"), 9, code)
        assert str(world.database) in error["message"] and error["hint"]
        assert world.database.read_bytes() == before, arguments


@pytest.mark.parametrize("table", ["inputs", "nodes", "queued_work"])
def test_a_database_that_lost_a_table_is_corrupt_and_nothing_to_try_again(world: ErrorWorld, table: str) -> None:
    with closing(sqlite3.connect(world.database)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(f"DROP TABLE {table}")
    for arguments in (*READS[1:], *WRITES[:2], ("park", "demo"), ("enqueue", "demo", "hi"), ("doctor",)):
        done = world.lash(*arguments, "-o", "json")
        if arguments == ("doctor",):
            assert done.code == 9 and done.json["findings"][0]["code"] == "store_corrupt"
        else:
            error = told(done, 9, "store_corrupt")
            assert table in error["message"] and error["hint"] and not error["ambiguous"]


def test_a_database_that_lost_its_view_of_today_is_not_called_sound_by_the_check_that_is_hinted_at(
    world: ErrorWorld,
) -> None:
    with closing(sqlite3.connect(world.database)) as connection:
        connection.execute("DROP VIEW schema_of_today")
    for arguments in (("show", "demo"), ("turn", "demo", "hi"), ("db", "check")):
        error = told(world.lash(*arguments, "-o", "json"), 9, "store_corrupt")
        assert "schema_of_today" in error["message"]


def test_doctor_reports_a_damaged_database_and_does_not_touch_it(world: ErrorWorld) -> None:
    damage(world.database, "noise")
    before = world.database.read_bytes()
    done = world.lash("doctor", "-o", "json")
    assert (done.code, done.json["kind"], done.err) == (9, "Doctor", "")
    assert any(str(world.database) in str(finding) for finding in done.json["findings"])
    assert world.database.read_bytes() == before


def test_a_home_below_a_file_is_permissions_unsafe_for_every_writer(world: ErrorWorld, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("a file")
    enqueue = ("enqueue", "demo", "x")
    for arguments in (
        *WRITES[:3],
        enqueue,
        ("config", "set", "defaults.model", "m"),
        ("key", "set", "other", "--stdin"),
    ):
        done = world.lash(*arguments, "--home", str(blocker / "home"), "-o", "json", input=b"other-key-1234")
        error = told(done, 5, "permissions_unsafe")
        assert str(blocker) in error["message"] and error["hint"]
    assert blocker.read_text() == "a file"


def test_a_directory_where_the_database_should_be_is_permissions_unsafe(world: ErrorWorld, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for arguments in WRITES[:3]:
        done = world.lash(*arguments, "--db", str(tmp_path / "directory"), "-o", "json")
        told(done, 5, "permissions_unsafe")
    assert list((tmp_path / "directory").iterdir()) == []


@contextmanager
def nothing_writable(home: Path) -> Iterator[None]:
    """Take every write permission below `home` away."""
    places = [home, *home.rglob("*")]
    modes = {place: place.stat().st_mode & 0o777 for place in places}
    for place in reversed(places):
        place.chmod(modes[place] & 0o500)
    try:
        yield
    finally:
        for place in places:
            place.chmod(modes[place])


def as_nobody_special(world: ErrorWorld, *arguments: str) -> Result:
    """Run a command for which permissions count, also when the tests run as root."""
    result = run_unprivileged(*arguments, home=world.home, cwd=world.directory)
    world.outputs.append(result)
    return result


@pytest.mark.parametrize(
    "arguments",
    [row for row in WRITES if row not in (("cancel", "demo"), ("resume", "demo"), ("rm", "demo", "--dry-run"))],
    ids=" ".join,
)
def test_a_read_only_database_is_permissions_unsafe_and_unchanged(
    world: ErrorWorld, arguments: tuple[str, ...]
) -> None:
    rows, before = world.dump(), files(world.home)
    with nothing_writable(world.home):
        error = told(as_nobody_special(world, *arguments, "-o", "json"), 5, "permissions_unsafe")
        assert str(world.database) in error["message"] and error["hint"]
    assert files(world.home) == before
    assert world.dump() == rows


@pytest.mark.parametrize(
    "arguments",
    [("queue", "release", "demo"), ("set", "demo", "model=loopback"), ("enqueue", "demo", "hi")],
    ids=" ".join,
)
def test_a_read_only_database_that_somebody_has_open_refuses_even_what_changes_nothing(
    world: ErrorWorld, arguments: tuple[str, ...]
) -> None:
    with closing(sqlite3.connect(world.database)) as reader:
        reader.execute("SELECT count(*) FROM sessions").fetchone()
        assert world.database.with_name("lash.db-shm").exists()
        with nothing_writable(world.home):
            told(as_nobody_special(world, *arguments, "-o", "json"), 5, "permissions_unsafe")
            assert as_nobody_special(world, "show", "demo").code == 0
    world.database.chmod(0o644)
    said = world.lash("set", "demo", "model=loopback")
    assert said.err.count("others can read") == 1


def test_what_lies_on_a_read_only_place_can_be_read_from_a_copy_as_the_hint_says(
    world: ErrorWorld, tmp_path: Path
) -> None:
    with nothing_writable(world.home):
        refused = told(as_nobody_special(world, "log", "demo", "-o", "json"), 5, "permissions_unsafe")
        assert "--db FILE" in refused["hint"]
        copy = tmp_path / "copy" / "lash.db"
        copy.parent.mkdir()
        copy.write_bytes(world.database.read_bytes())
        assert as_nobody_special(world, "log", "demo", "-o", "json", "--db", str(copy)).code == 0


@contextmanager
def only_readable(world: ErrorWorld, place: str) -> Iterator[None]:
    """A database that can be read and not written: its file alone, or its directory too while somebody has it open."""
    if place == "file":
        world.database.chmod(0o400)
        yield
        return
    with closing(sqlite3.connect(world.database)) as reader:
        reader.execute("SELECT count(*) FROM sessions").fetchone()
        with nothing_writable(world.home):
            yield


@pytest.mark.parametrize("place", ["file", "directory"])
def test_a_search_that_cannot_write_the_index_finds_what_is_in_it_and_says_so(world: ErrorWorld, place: str) -> None:
    assert world.lash("search", "answer", "-o", "json").json["items"]
    world.lash("turn", "demo", "!text another answer")
    rows, before = world.dump(), files(world.home)
    with only_readable(world, place):
        behind = as_nobody_special(world, "search", "answer", "-o", "json")
        nothing = as_nobody_special(world, "search", "another", "-o", "json")
    assert [hit["snippet"] for hit in behind.json["items"] if hit["role"] == "assistant"] == ["first answer"]
    assert (nothing.code, nothing.json["items"]) == (0, [])
    for done in (behind, nothing):
        assert (done.error["kind"], done.error["code"]) == ("Warning", "index_behind")
        assert str(world.database) in done.error["message"] and "--db FILE" in done.error["message"]
    assert (world.dump(), files(world.home)) == (rows, before)
    world.database.chmod(0o600)
    assert len(world.lash("search", "answer", "--role", "assistant", "-o", "json").json["items"]) == 2
    with only_readable(world, place):
        current = as_nobody_special(world, "search", "another", "--role", "assistant", "-o", "json")
    assert (len(current.json["items"]), current.err) == (1, "")


@pytest.mark.parametrize("place", ["file", "directory"])
def test_a_trial_of_gc_writes_nothing_and_says_what_a_run_removes(world: ErrorWorld, place: str) -> None:
    with (world.home / "config.toml").open("a") as config:
        config.write('\n[retention]\nmin_age = "0s"\nmax_age = "0s"\n')
    rows, before = world.dump(), files(world.home)
    with only_readable(world, place):
        tried = as_nobody_special(world, "gc", "--dry-run", "-o", "json")
    assert (tried.code, tried.err) == (0, "")
    assert tried.json["inputs"] > 0 and tried.json["sessions"]
    assert (world.dump(), files(world.home)) == (rows, before)


def test_a_trial_of_gc_waits_for_nobody_who_writes(world: ErrorWorld) -> None:
    with closing(sqlite3.connect(world.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert world.lash("gc", "--dry-run", "-o", "json").code == 0


def test_doctor_finds_that_a_place_cannot_be_made(world: ErrorWorld, tmp_path: Path) -> None:
    below = world.home / "below"
    with nothing_writable(world.home):
        made = as_nobody_special(world, "open", "-o", "json", "--home", str(below))
        looked = as_nobody_special(world, "doctor", "-o", "json", "--home", str(below))
    assert f"lash --home {below} doctor" in told(made, 5, "permissions_unsafe")["hint"]
    assert [finding["code"] for finding in looked.json["findings"]] == ["permissions_unsafe"] and looked.code == 5
    assert f"{world.home} cannot be written" in looked.json["findings"][0]["message"]
    (tmp_path / "file").touch()
    in_the_way = world.lash("doctor", "-o", "json", "--home", str(tmp_path / "file" / "below")).json["findings"]
    assert "is not a directory" in in_the_way[-1]["message"]


def test_a_read_only_home_keeps_its_configuration_and_keys(world: ErrorWorld) -> None:
    before = files(world.home)
    with nothing_writable(world.home):
        told(as_nobody_special(world, "config", "set", "defaults.model", "m", "-o", "json"), 5, "permissions_unsafe")
        told(as_nobody_special(world, "key", "rm", "mine", "-o", "json"), 5, "permissions_unsafe")
    assert files(world.home) == before


def test_an_unreadable_configuration_is_permissions_unsafe(world: ErrorWorld) -> None:
    (world.home / "config.toml").chmod(0o000)
    told(as_nobody_special(world, "turn", "demo", "hi", "-o", "json"), 5, "permissions_unsafe")


def test_a_log_that_cannot_be_written_does_not_hide_the_error(world: ErrorWorld) -> None:
    error = world.refused(("show", "dem0", "--log-file", "/proc/nope/lash.log"), 3, "session_not_found")
    assert "log" not in error["details"]


def test_a_locked_database_is_store_locked_and_readers_do_not_wait(world: ErrorWorld) -> None:
    before = world.dump()
    with closing(sqlite3.connect(world.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = [
            start_process(
                [sys.executable, str(IMPATIENT), *arguments, "-o", "json"],
                env=environment(world.home),
                cwd=world.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for arguments in (("turn", "demo", "hi"), ("open", "new"), ("close", "demo"))
        ]
        for arguments in READS:
            assert world.lash(*arguments, "-o", "json").code == 0, "readers are never locked out"
        for process in waiting:
            error = told(world.ended(process), 75, "store_locked")
            assert error["hint"]
        other.execute("ROLLBACK")
    assert world.dump() == before
    assert world.lash("turn", "demo", "!text works again", "-q").out == "works again\n"
