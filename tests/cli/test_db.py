"""`lash db`: a copy is one moment, a restore loses nothing, a check sees damage (contract 08 §5.4, §11)."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sqlite3
import stat
import subprocess
import time
from pathlib import Path

import pytest
from support.cli import spawn_lash
from support.old_files import old_database
from support.prepared import OPEN, prepare
from support.queued import QueuedHome
from support.terminal import Terminal

from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.errors import ConflictError, LashError
from lash_cli.paths import resolve_paths
from lash_cli.store.base import LaneRequest
from lash_cli.system import SystemClock, this_process
from lash_cli.wiring import open_store


def said(lash, session: str = "s") -> list[str]:
    messages = lash("log", session, "-o", "json").json["items"]
    return [message["text"] for message in messages if message["role"] == "assistant"]


def change(home: Path, *statements: str) -> None:
    connection = sqlite3.connect(home / "lash.db", isolation_level=None)
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


def test_path_and_info_say_what_is_there(lash, home):
    absent = lash("db", "path", "-o", "json").json
    assert (absent["path"], absent["exists"]) == (str(home / "lash.db"), False)
    assert lash("db", "path").out == f"{home / 'lash.db'}\n"
    assert not home.exists()
    lash("open", "s")
    lash("turn", "s", "!text hello")
    info = lash("db", "info", "-o", "json").json
    assert (info["sessions"], info["deleted_sessions"], info["pending"]) == (1, 0, [])
    assert info["schema_version"] == info["known_schema_version"] == len(info["migrations"])
    assert {"name": "turns", "rows": 1} in info["tables"]
    assert "sessions" in lash("db", "info").out


@pytest.mark.parametrize("verb", ["info", "check", "backup", "vacuum", "migrate", "scan", "scrub", "purge"])
def test_without_a_database_nothing_is_made(lash, home, verb):
    done = lash("db", verb, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (3, "", "store_not_found")
    assert not home.exists()


@pytest.mark.parametrize("has_pages", [False, True])
def test_a_database_whose_making_was_cut_off_is_none_yet(lash, home, has_pages):
    """What a first command leaves that is killed before it wrote the tables; the next one that writes makes them."""
    home.mkdir(mode=0o700)
    (home / "lash.db").touch(mode=0o600)
    if has_pages:
        change(home, "PRAGMA journal_mode=wal")
    for verb in (("db", "check"), ("db", "info"), ("db", "backup"), ("db", "vacuum"), ("gc",)):
        done = lash(*verb, "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (3, "", "store_not_found")
        assert done.error["hint"] == "make a first session with: lash open"
    found = lash("doctor", "-o", "json")
    assert (found.code, found.json["healthy"], found.json["database"]["state"]) == (0, True, "absent")
    assert lash("open", "s").code == 0
    assert lash("db", "check").code == 0


def test_a_restore_over_a_database_whose_making_was_cut_off_keeps_nothing_of_it(lash, home, tmp_path):
    """There is nothing to put back, and a copy of nothing would be refused."""
    prepare(home, OPEN)
    copy = tmp_path / "a.db"
    assert lash("db", "backup", "--out", str(copy)).code == 0
    for file in home.glob("lash.db*"):
        file.unlink()
    (home / "lash.db").touch(mode=0o600)
    done = lash("db", "restore", str(copy), "--yes", "-o", "json")
    assert (done.code, done.json["sessions"], done.json["kept"]) == (0, 1, None)
    assert not (home / "backups").exists() or not list((home / "backups").iterdir())


@pytest.mark.parametrize("mark", ["CREATE TABLE theirs (x)", "PRAGMA user_version = 3"])
@pytest.mark.parametrize("verb", ["info", "check", "backup", "vacuum", "scan"])
def test_a_database_of_another_program_is_left_alone(lash, home, tmp_path, verb, mark):
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute(mark)
    connection.close()
    before = other.read_bytes()
    done = lash("db", verb, "--db", str(other), "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (9, "", "store_foreign")
    assert other.read_bytes() == before


def test_a_backup_is_private_complete_and_never_replaces_a_file(lash, home, tmp_path):
    prepare(home, OPEN, ("turn", "s", "!text kept"))
    out = tmp_path / "copies"
    out.mkdir()
    made = lash("db", "backup", "--out", str(out / "a.db"), "-o", "json")
    assert (made.code, made.json["sessions"]) == (0, 1)
    assert [path.name for path in out.iterdir()] == ["a.db"]
    assert stat.S_IMODE((out / "a.db").stat().st_mode) == 0o600
    assert lash("log", "s", "--db", str(out / "a.db"), "-o", "json").json["items"][1]["text"] == "kept"
    again = lash("db", "backup", "--out", str(out / "a.db"), "-o", "json")
    assert (again.code, again.out, again.error["code"]) == (4, "", "file_exists")
    by_itself = Path(lash("db", "backup").out.strip())
    assert by_itself.parent == home / "backups"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (by_itself, by_itself.parent)} == {0o600, 0o700}


def test_a_backup_that_has_no_room_to_be_made_leaves_nothing(lash, home, tmp_path):
    prepare(home, OPEN)
    done = lash("db", "backup", "--out", str(tmp_path / "no" / "such" / "a.db"), "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "output_unwritable")


def test_a_backup_is_made_while_a_turn_runs_and_holds_nobody_up(lash, home, tmp_path):
    prepare(home, OPEN)
    gate = tmp_path / "gate"
    with spawn_lash(["turn", "s", f"!wait-file {gate}\n!text done"], home=home) as turn:
        until(lambda: lash("doctor", "-o", "json").json["unfinished_turns"])
        copy = lash("db", "backup", "-o", "json").json["file"]
        gate.touch()
        turn.communicate(timeout=60)
        assert turn.returncode == 0
    assert lash("db", "check", "--db", copy, "-o", "json").json["healthy"]
    # What was begun is in the copy, and goes on in it after the owner is gone.
    assert lash("resume", "s", "--db", copy, "-o", "json").code == 0


def until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def test_a_restore_brings_the_copy_back_and_keeps_what_was_there(lash, home):
    prepare(home, OPEN, ("turn", "s", "!text one"))
    copy = lash("db", "backup", "-o", "json").json["file"]
    lash("turn", "s", "!text two")
    done = lash("db", "restore", copy, "-o", "json")
    assert done.code == 0, done.err
    assert said(lash) == ["one"]
    kept = done.json["kept"]
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600
    lash("turn", "s", "!text three")
    assert said(lash) == ["one", "three"]
    assert lash("db", "restore", kept).code == 0
    assert said(lash) == ["one", "two"]
    assert lash("db", "check", "-o", "json").json["healthy"]
    assert not [path.name for path in home.iterdir() if "restoring" in path.name]


def test_the_way_back_that_is_printed_leads_to_the_same_database(lash, home, tmp_path):
    prepare(home, OPEN, ("turn", "s", "!text the usual one"))
    other = ("--home", str(tmp_path / "another home"))
    lash("open", "s", *other)
    lash("turn", "s", "!text one", *other)
    made = lash("db", "backup", *other)
    lash("turn", "s", "!text two", *other)
    back = made.err.strip().partition("put it back with: lash ")[2]
    undo = lash(*shlex.split(back)).err.strip().partition("undo with: lash ")[2]
    assert [item["text"] for item in lash("log", "s", "-o", "json", *other).json["items"]][1:] == ["one"]
    assert lash(*shlex.split(undo)).code == 0
    assert [item["text"] for item in lash("log", "s", "-o", "json", *other).json["items"]][1::2] == ["one", "two"]
    assert said(lash) == ["the usual one"]


def test_a_cursor_from_before_a_restore_is_a_gap(lash, home):
    prepare(home, OPEN, ("turn", "s", "!text one"))
    copy = lash("db", "backup", "-o", "json").json["file"]
    cursor = lash("turn", "s", "!text two", "-o", "jsonl").lines[-2]["cursor"]
    lash("db", "restore", copy)
    lash("turn", "s", "!text three")
    lines = lash("tail", "s", "--from", cursor, "--no-follow", "-o", "jsonl").lines
    assert [line["type"] for line in lines[1:3]] == ["gap", "snapshot"]


def test_restoring_where_there_is_no_database_makes_one(lash, home, tmp_path):
    prepare(home, OPEN, ("turn", "s", "!text one"))
    copy = lash("db", "backup", "-o", "json").json["file"]
    elsewhere = str(tmp_path / "new" / "lash.db")
    done = lash("db", "restore", copy, "--db", elsewhere, "-o", "json")
    assert (done.code, done.json["kept"]) == (0, None)
    assert lash("turn", "s", "!text two", "--db", elsewhere).code == 0
    assert lash("log", "s", "--db", elsewhere, "-o", "json").json["items"][-1]["text"] == "two"
    assert stat.S_IMODE(os.stat(elsewhere).st_mode) == 0o600


@pytest.mark.parametrize("verb", [("restore",), ("purge", "--confirm", "lash.db"), ("scrub", "--yes")])
def test_nothing_replaces_a_database_that_another_process_has_open(lash, home, verb):
    prepare(home, OPEN, ("turn", "s", "!text sk-abcdefghijklmnop1234"))
    copy = lash("db", "backup", "-o", "json").json["file"]
    argument = (copy,) if verb == ("restore",) else ()
    other = sqlite3.connect(home / "lash.db")
    try:
        other.execute("SELECT count(*) FROM sessions").fetchall()
        done = lash("db", *verb, *argument, "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (75, "", "store_locked")
        assert done.error["retryable"]
    finally:
        other.close()
    assert said(lash) == ["sk-abcdefghijklmnop1234"]
    assert lash("db", *verb, *argument, "-o", "json").code == 0


@pytest.mark.parametrize("verb", [("restore",), ("purge", "--confirm", "lash.db")])
async def test_nothing_replaces_a_database_while_a_session_is_held(lash, home, verb):
    prepare(home, OPEN)
    copy = lash("db", "backup", "-o", "json").json["file"]
    store = open_store(resolve_paths({"LASH_HOME": str(home)}))
    owner = LeaseOwnerIdentity("me", "one", this_process(), "turn")
    await store.open_lane(
        LaneRequest(
            session_id="s",
            owner=owner,
            ttl_ms=60_000,
            now_ms=SystemClock().now_ms(),
            lease_token="lt",
            claim_token="ct",
        )
    )
    await store.aclose()
    argument = (copy,) if verb == ("restore",) else ()
    done = lash("db", *verb, *argument, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (75, "", "session_still_in_use")
    assert done.error["details"]["holder"] == f"pid {this_process().pid}"
    assert lash("ls", "-q").out == "s\n"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40_000]), ""),
        (lambda path: path.write_bytes(b"not a database at all" * 500), ""),
        (lambda path: path.write_bytes(b""), "not a lash database"),
    ],
    ids=["cut off", "foreign", "empty"],
)
def test_a_copy_that_is_not_sound_is_refused_before_anything_is_changed(lash, home, spoil, reason):
    prepare(home, OPEN, ("turn", "s", "!text one"))
    copy = Path(lash("db", "backup", "-o", "json").json["file"])
    spoil(copy)
    done = lash("db", "restore", str(copy), "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (9, "", "backup_unusable")
    assert reason in done.error["message"]
    assert said(lash) == ["one"]
    assert list((home / "backups").iterdir()) == [copy]


def test_a_copy_of_a_newer_program_or_of_itself_or_of_nothing_is_refused(lash, home):
    prepare(home, OPEN)
    copy = Path(lash("db", "backup", "-o", "json").json["file"])
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    assert lash("db", "restore", str(copy), "-o", "json").error["code"] == "schema_too_new"
    assert lash("db", "restore", str(home / "lash.db"), "-o", "json").error["code"] == "restore_from_itself"
    assert lash("db", "restore", str(home / "nothing.db"), "-o", "json").error["code"] == "backup_not_found"
    unreachable = lash("db", "restore", "x" * 5000, "-o", "json")
    assert (unreachable.code, unreachable.out, unreachable.error["code"]) == (9, "", "backup_unusable")


def test_a_database_that_cannot_be_opened_is_put_aside_and_replaced(lash, home):
    prepare(home, OPEN, ("turn", "s", "!text one"))
    copy = lash("db", "backup", "-o", "json").json["file"]
    for path in home.glob("lash.db-*"):
        path.unlink()
    (home / "lash.db").write_bytes(b"rubbish" * 3000)
    assert lash("ls").code == 9
    done = lash("db", "restore", copy, "-o", "json")
    assert done.code == 0, done.err
    assert Path(done.json["kept"]).read_bytes() == b"rubbish" * 3000
    assert said(lash) == ["one"]


def test_a_sound_database_is_said_to_be_sound(lash, home):
    prepare(home, OPEN, ("turn", "s", "!text one"), ("turn", "s", "!text two"))
    lash("enqueue", "s", "waits")
    document = lash("db", "check", "-o", "json")
    assert (document.code, document.json["healthy"], document.json["rules_checked"]) == (0, True, True)
    assert "is sound" in lash("db", "check").out


WORK = (
    "INSERT INTO queued_work (enqueue_seq, batch_id, session_key, work_class, delivery_policy, slot_policy,"
    " available_at_ms, enqueued_at_ms, payloads, merge_key, turn_id)"
    " VALUES (1, 'b', 1, 'turn_work', 'after_current_turn_commit', 'exclusive', 0, 0, {}, {}, {})"
)
EFFECT = (
    "INSERT INTO effects (scope_key, replay_key, session_key, status, envelope_hash, envelope, {}, created_at_ms)"
    " VALUES ('{{}}', 'r', 1, 'completed', 'h', x'7b7d', x'{}', 1)"
)


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        ("path_broken", "DELETE FROM nodes WHERE seq = 2"),
        ("leaf_missing", "UPDATE sessions SET leaf_seq = 99, next_seq = 100"),
        ("frame_missing", "DELETE FROM frames"),
        ("seq_reused", "UPDATE sessions SET next_seq = 1, leaf_seq = 1"),
        ("id_used_twice", "INSERT INTO deleted_sessions VALUES ('s', 1)"),
        ("session_missing", "UPDATE turns SET session_key = 77"),
        ("record_undecodable", "UPDATE nodes SET body = '{' WHERE seq = 1"),
        ("record_undecodable", "UPDATE nodes SET body = CAST(x'7bff' AS TEXT) WHERE seq = 1"),
        ("record_undecodable", "UPDATE sessions SET components = CAST(x'7bff' AS TEXT)"),
        ("record_undecodable", "UPDATE turns SET summary = 'x'"),
        ("record_undecodable", "UPDATE turns SET result = 'x'"),
        ("record_undecodable", "UPDATE sessions SET labels = '[]'"),
        ("record_undecodable", "UPDATE sessions SET lease_owner = '{}'"),
        ("record_undecodable", "UPDATE nodes SET caused_by = '{'"),
        ("blob_missing", "DELETE FROM blobs"),
        ("blob_changed", "UPDATE blobs SET content = x'00'"),
        ("summary_missing", "UPDATE turns SET summary = NULL"),
        ("input_stuck", "UPDATE inputs SET turn_id = 'gone', state = 'deferred_next_turn'"),
        ("batch_stuck", WORK.format("'[]'", "NEVER_MERGED", "'gone'")),
        ("record_undecodable", WORK.format("'{'", "NEVER_MERGED", "NULL")),
        ("record_undecodable", WORK.format("'[]'", "'{'", "NULL")),
        ("record_undecodable", "UPDATE inputs SET ingress = '{'"),
        ("record_undecodable", "UPDATE inputs SET submitted_ingress = '{'"),
        ("record_undecodable", "UPDATE turns SET plan = x'7b' WHERE turn_index = 1"),
        ("record_undecodable", "INSERT INTO turn_cancels SELECT session_key, turn_id, '{', 1 FROM turns"),
        (
            "record_undecodable",
            "INSERT INTO waits (key_id, scope, wait, is_control, state, resolution, created_at_ms)"
            " VALUES ('k', '{}', '{}', 0, 'resolved', '{', 1)",
        ),
        ("record_undecodable", EFFECT.format("outcome", "05")),
        ("record_undecodable", EFFECT.format("error", "007b")),
        ("blob_missing", "UPDATE frames SET record = json_set(record, '$.execution_state_ref', '00')"),
    ],
)
def test_a_check_finds_what_breaks_a_rule_and_exits_with_9(lash, home, code, damage):
    prepare(home, OPEN, ("turn", "s", "!text one"), ("turn", "s", "!text two"))
    change(home, damage.replace("NEVER_MERGED", """'{"kind":"never"}'"""))
    done = lash("db", "check", "-o", "json")
    assert (done.code, done.json["healthy"]) == (9, False)
    # Without its last message the head leads nowhere either.
    beside = {"path_broken"} if code == "leaf_missing" else set()
    assert {one["code"] for one in done.json["broken"]} == {code} | beside
    if code != "record_undecodable" or "labels" in damage:
        assert code in lash("db", "check").out


def test_a_check_names_the_way_on_for_a_session_whose_head_is_lost(lash, home):
    prepare(home, OPEN, ("turn", "s", "!text one"), ("turn", "s", "!text two"))
    change(home, "UPDATE sessions SET leaf_seq = 99, next_seq = 100")
    assert lash("log", "s").code == 9
    assert "a message of lash tree s: lash rewind s --to NODE" in lash("db", "check").out
    messages = lash("tree", "s", "-o", "json").json["items"]
    answers = {one["preview"]: one["id"] for one in messages if one["role"] == "assistant"}
    assert lash("rewind", "s", "--to", answers["two"]).code == 0
    assert said(lash) == ["one", "two"]
    assert lash("turn", "s", "!text three").code == 0
    assert said(lash) == ["one", "two", "three"]
    assert lash("db", "check").code == 0


def test_a_check_finds_damage_in_the_file_itself(lash, home):
    world = QueuedHome(home)
    for index in range(30):
        world.add(f"{index} " + "x" * 2000)
    change(home, "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE")
    connection = sqlite3.connect(home / "lash.db")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'inputs_by_session'").fetchone()
    connection.close()
    raw = bytearray((home / "lash.db").read_bytes())
    raw[(page - 1) * 4096 : (page - 1) * 4096 + 64] = b"\xff" * 64
    (home / "lash.db").write_bytes(raw)
    done = lash("db", "check", "-o", "json")
    assert done.code == 9
    if done.out:
        assert done.json["integrity"] and not done.json["rules_checked"]
    else:
        assert done.error["code"] == "store_corrupt"


def test_vacuum_gives_space_back_and_loses_nothing(lash, home):
    prepare(home, OPEN)
    lash("open", "big")
    lash("enqueue", "big", "x" * 1_000_000)
    lash("rm", "big", "--yes")
    lash("turn", "s", "!text one")
    done = lash("db", "vacuum", "-o", "json").json
    assert done["bytes_after"] < done["bytes_before"]
    assert said(lash) == ["one"]


def test_migrate_keeps_a_copy_and_says_what_is_missing(lash, home, tmp_path):
    prepare(home, OPEN)
    assert lash("db", "migrate", "-o", "json").json["migrations"] == []
    old = old_database(tmp_path / "old.db")
    dry = lash("db", "migrate", "--db", str(old), "--dry-run", "-o", "json").json
    assert dry["migrations"][0] == "0002_queue_tables" and dry["backup"] is None
    assert lash("db", "info", "--db", str(old), "-o", "json").json["pending"] == dry["migrations"]
    check = lash("db", "check", "--db", str(old), "-o", "json").json
    assert (check["healthy"], check["rules_checked"]) == (True, False)
    done = lash("db", "migrate", "--db", str(old), "-o", "json").json
    assert done["migrations"] == dry["migrations"] and done["from_version"] == 1
    assert lash("db", "info", "--db", done["backup"], "-o", "json").json["schema_version"] == 1
    assert lash("db", "check", "--db", str(old), "-o", "json").json["rules_checked"]


def test_a_purge_wants_the_name_and_leaves_nothing_behind(lash, home):
    prepare(home, OPEN, ("turn", "s", "!text remember-this-word"))
    lash("db", "backup")
    for refused in (("--yes",), ("--confirm", "lash"), ()):
        done = lash("db", "purge", *refused, "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (2, "", "confirmation_required")
    assert said(lash) == ["remember-this-word"]
    done = lash("db", "purge", "--confirm", "lash.db", "-o", "json")
    assert (done.code, done.json["sessions"]) == (0, 1)
    assert lash("ls", "-q").out == ""
    for path in home.glob("lash.db*"):
        assert b"remember-this-word" not in path.read_bytes(), path
    assert len(list((home / "backups").iterdir())) == 1
    lash("open", "s")
    lash("turn", "s", "!text again")
    assert said(lash) == ["again"]


def spilled(lash, home: Path, *options: str) -> Path:
    """The file with the whole output of a command of session `s`."""
    lash("open", "s", *options)
    command = f"!tool exec_command {json.dumps({'cmd': 'seq 1 100000'})}"
    lash("turn", "s", command, "--approve", "execute=auto", *options)
    (kept,) = home.rglob("exec_command-*.txt")
    return kept


def test_a_purge_takes_the_whole_outputs_of_commands_with_it(lash, home):
    kept = spilled(lash, home)
    size = kept.stat().st_size
    tried = lash("db", "purge", "--dry-run", "-o", "json").json
    assert (tried["dry_run"], tried["sessions"], tried["bytes_after"]) == (True, 1, None)
    assert (tried["spilled_files"], tried["spilled_bytes"]) == (1, size)
    assert kept.exists() and lash("ls", "-q").out == "s\n"
    done = lash("db", "purge", "--confirm", "lash.db", "-o", "json").json
    assert (done["dry_run"], done["sessions"]) == (False, 1)
    assert (done["spilled_files"], done["spilled_bytes"]) == (1, size)
    assert not kept.exists() and lash("ls", "-q").out == ""


def test_a_purge_of_another_database_leaves_outputs_that_may_be_of_the_usual_one(lash, home, tmp_path):
    other = ("--db", str(tmp_path / "other.db"))
    kept = spilled(lash, home, *other)
    lash("open", "s")
    done = lash("db", "purge", "--confirm", "other.db", *other)
    assert kept.exists() and "may be of another database: 1 whole output of commands" in done.err
    (home / "lash.db").unlink()
    lash("db", "purge", "--confirm", "other.db", *other)
    assert not kept.exists()


def test_a_check_knows_forks_fresh_starts_and_sessions_that_are_gone(lash, home):
    prepare(home, OPEN, ("turn", "s", "!text one"), ("turn", "s", "!text two"))
    fork = lash("fork", "s", "--name", "branch", "-o", "json").json["id"]
    lash("turn", fork, "!text three")
    lash("open", "s", "--fresh", "--yes")
    lash("turn", "s", "!text anew")
    assert lash("db", "check", "-o", "json").json["broken"] == []
    lash("rm", "s", "--yes")
    lash("gc", "-c", "retention.min_age=0")
    assert lash("db", "check", "-o", "json").json["broken"] == []
    assert said(lash, fork) == ["one", "two", "three"]
    change(home, "DELETE FROM nodes WHERE seq = 2")
    assert {one["code"] for one in lash("db", "check", "-o", "json").json["broken"]} == {"path_broken"}


def test_a_copy_goes_onto_a_file_system_without_links(tmp_path, monkeypatch):
    import errno

    from lash_cli.store.sqlite import backup
    from lash_cli.store.sqlite.database import Database

    Database.open(tmp_path / "lash.db", clock=SystemClock()).close()

    def no_link(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    target = tmp_path / "copy.db"
    assert backup.back_up(tmp_path / "lash.db", target).sessions == 0
    with pytest.raises(ConflictError):
        backup.back_up(tmp_path / "lash.db", target)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".db") == ["copy.db", "lash.db"]


def test_a_copy_takes_away_what_a_killed_one_left_and_nothing_that_may_be_in_use(tmp_path):
    from lash_cli.store.sqlite import backup
    from lash_cli.store.sqlite.database import Database

    Database.open(tmp_path / "lash.db", clock=SystemClock()).close()
    dead = subprocess.Popen(["true"])
    dead.wait()
    copies = tmp_path / "copies"
    copies.mkdir()
    left = copies / f".copy.db.{dead.pid}.01234567.partial"
    # A copy is mostly named after its time, so none is made under that name again; nor need a restore be repeated.
    older = copies / f".copy-1.db.{dead.pid}.01234567.partial"
    restoring = tmp_path / f".lash.db.{dead.pid}.01234567.restoring-wal"
    young = copies / f".copy.db.{dead.pid}.01234567.partial-journal"
    living = copies / f".copy.db.{os.getppid()}.01234567.partial"
    # A process of before had the number of this one: in a container all may have the same.
    namesake = copies / f".copy.db.{os.getpid()}.01234567.partial"
    foreign = copies / f".copy.db.{dead.pid}.partial"
    for file in (left, older, restoring, young, living, namesake, foreign):
        file.touch()
    for file in (left, older, restoring, living, namesake, foreign):
        os.utime(file, (0, time.time() - 100))
    backup.back_up(tmp_path / "lash.db", copies / "copy.db")
    assert set(tmp_path.rglob(".*")) == {young, living, foreign}


def test_a_copy_is_made_and_put_back_where_nothing_can_be_removed(tmp_path, monkeypatch):
    import errno

    from lash_cli.store.sqlite import backup
    from lash_cli.store.sqlite.database import Database

    def refuse(path, **options):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    database, copy = tmp_path / "lash.db", tmp_path / "copy.db"
    Database.open(database, clock=SystemClock()).close()
    monkeypatch.setattr(Path, "unlink", refuse)
    assert backup.back_up(database, copy).sessions == 0
    assert backup.restore(copy, database, tmp_path / "aside.db", SystemClock()).copy.sessions == 0


@pytest.mark.parametrize("is_fresh", [True, False], ids=["fresh", "replacing"])
def test_what_a_process_of_the_same_number_left_a_moment_ago_is_in_nobodys_way(tmp_path, is_fresh):
    from lash_cli.store.sqlite import backup
    from lash_cli.store.sqlite.database import Database

    database, copy = tmp_path / "lash.db", tmp_path / "copy.db"
    Database.open(database, clock=SystemClock()).close()
    for name in (".copy.db.{}.01234567.partial", ".lash.db.{}.01234567.restoring", ".lash.db.{}.01234567.empty"):
        (tmp_path / name.format(os.getpid())).touch()
    backup.back_up(database, copy)
    if is_fresh:
        database.unlink()
    backup.restore(copy, database, tmp_path / "aside.db", SystemClock())
    backup.erase(database, SystemClock())


@pytest.mark.parametrize("refused", ["file", "directory"])
@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_a_copy_that_the_disk_does_not_keep_is_told_by_the_name_of_what_was_to_be_written(
    tmp_path, monkeypatch, verb, refused
):
    import errno

    from lash_cli.store.sqlite import backup
    from lash_cli.store.sqlite.database import Database

    database, copy = tmp_path / "lash.db", tmp_path / "copy.db"
    Database.open(database, clock=SystemClock()).close()
    if verb == "restore":
        backup.back_up(database, copy)
        database.unlink()
    sync = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (refused == "directory"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(LashError) as told:
        if verb == "backup":
            backup.back_up(database, copy)
        else:
            backup.restore(copy, database, tmp_path / "aside.db", SystemClock())
    written = copy if verb == "backup" else database
    assert (told.value.code, told.value.details) == ("output_not_written", {"path": str(written)})
    assert told.value.hint == "see what is wrong with that disk", "what was done stands where names cannot be synced"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("refusal", ["EACCES", "EINVAL"])
def test_a_copy_is_made_in_a_directory_that_cannot_be_synced(tmp_path, monkeypatch, refusal):
    import errno

    from lash_cli.store.sqlite import backup
    from lash_cli.store.sqlite.database import Database

    database, drop = tmp_path / "lash.db", tmp_path / "drop"
    drop.mkdir()
    Database.open(database, clock=SystemClock()).close()
    number, names = getattr(errno, refusal), {"EACCES": "open", "EINVAL": "fsync"}
    done = getattr(os, names[refusal])

    def refuse(what, *arguments, **options):
        # What is opened is a path, and what is synced a descriptor.
        if os.path.exists(what) and os.path.samestat(os.stat(what), drop.stat()):
            raise OSError(number, os.strerror(number))
        return done(what, *arguments, **options)

    monkeypatch.setattr(os, names[refusal], refuse)
    assert backup.back_up(database, drop / "copy.db").sessions == 0


def test_a_restore_that_is_killed_leaves_the_old_or_the_new_content_and_nothing_else(lash, home):
    world = QueuedHome(home)
    lash("turn", "s", "!text one")
    for index in range(4):
        world.add(f"{index} " + "x" * 400_000)
    copy = lash("db", "backup", "-o", "json").json["file"]
    lash("turn", "s", "!text two", "--if-busy", "fail")
    for delay in (0.01, 0.02, 0.04, 0.06, 0.1, 0.2):
        with spawn_lash(["db", "restore", copy], home=home) as process:
            time.sleep(delay)  # wherever that is: every moment must do
            process.kill()
            process.communicate()
        assert said(lash) in (["one"], ["one", "two"])
        assert lash("db", "check", "-o", "json").json["healthy"]
    for draft in home.glob(".lash.db.*"):
        os.utime(draft, (1, 1))
    assert lash("db", "restore", copy).code == 0
    assert said(lash) == ["one"] and not list(home.glob(".lash.db.*"))


def test_everything_the_verbs_make_is_private_under_any_umask(lash, home, tmp_path):
    project = tmp_path / ".lash"
    project.mkdir()
    (project / "config.toml").write_text("[lease]\nttl_ms = 9000\n")
    before = os.umask(0)
    try:
        lash("config", "set", "defaults.max_steps", "9")
        lash("config", "trust", "--yes")
        lash("open", "s")
        lash("turn", "s", "!text sk-abcdefghijklmnop1234")
        copy = lash("db", "backup", "-o", "json").json["file"]
        for verb in (("scrub", "--yes"), ("restore", copy), ("vacuum",), ("migrate",)):
            assert lash("db", *verb).code == 0, verb
        lash("gc")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (home, *home.rglob("*"))}
    assert {path for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == set()
    assert {"backups", "scrubs.jsonl", "trusted.json"} <= {path.name for path in modes}


@pytest.mark.parametrize(("typed", "code", "left"), [("lash", 2, ["one"]), ("yes", 2, ["one"]), ("lash.db", 0, None)])
def test_at_a_terminal_the_name_is_typed(lash, home, typed, code, left):
    prepare(home, OPEN, ("turn", "s", "!text one"))
    terminal = Terminal(home, "db", "purge", "--yes")
    try:
        terminal.wait_for("type lash.db to go on:")
        assert "erases 1 session in " in terminal.text
        terminal.press(f"{typed}\r")
        assert terminal.ended() == code
    finally:
        terminal.close()
    assert lash("ls", "-q").out == ("" if left is None else "s\n")
    assert left is None or said(lash) == left
