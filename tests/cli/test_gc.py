"""`lash gc`: only what nothing needs any more goes, and only when told to (contract 01 §0, 08 §6.7, design D5)."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from pathlib import Path

from support.unprivileged import run_unprivileged

DAY_MS = 86_400_000


def change(home: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(home / "lash.db", isolation_level=None)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def count(home: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(home / "lash.db")) as connection, connection:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    connection.close()
    return int(rows)


def removed(document) -> dict[str, int]:
    names = ("nodes", "inputs", "batches", "attachments", "blobs", "journal_rows")
    return {name: document[name] for name in names if document[name]}


def test_without_a_database_nothing_is_made(lash, home):
    done = lash("gc", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (3, "", "store_not_found")
    assert not home.exists()


def test_a_dry_run_says_what_a_run_then_removes(lash, home, tmp_path):
    lash("open", "s")
    lash("turn", "s", f"!tool exec_command {json.dumps({'cmd': 'true'})}", "--approve", "execute=auto")
    lash("enqueue", "s", "waits")
    note = tmp_path / "note.txt"
    note.write_text("nobody needs this")
    lash("open", "gone")
    lash("turn", "gone", "!text hello", "--attach", str(note))
    lash("rm", "gone", "--yes")
    journal = count(home, "effects")
    assert journal > 0
    change(home, f"UPDATE inputs SET enqueued_at_ms = enqueued_at_ms - {2 * DAY_MS}",
           f"UPDATE turns SET committed_at_ms = committed_at_ms - {2 * DAY_MS}")  # fmt: skip
    dry = lash("gc", "--dry-run", "-o", "json").json
    assert removed(dry)["inputs"] == 1 and removed(dry)["journal_rows"] == journal and dry["blobs"] >= 1
    assert count(home, "effects") == journal
    done = lash("gc", "-o", "json").json
    assert removed(done) == removed(dry) and not done["dry_run"]
    assert removed(lash("gc", "-o", "json").json) == {}
    assert lash("db", "check", "-o", "json").json["healthy"]
    assert [item["preview"] for item in lash("queue", "ls", "s", "-o", "json").json["items"]] == ["waits"]
    assert lash("turn", "s", "!text goes on").code == 0


def test_the_whole_output_of_a_command_is_kept_until_it_is_old_and_then_goes(lash, home):
    lash("open", "s")
    lash("turn", "s", f"!tool exec_command {json.dumps({'cmd': 'seq 1 100000'})}", "--approve", "execute=auto")
    (kept,) = home.rglob("exec_command-*.txt")
    assert kept.read_text().endswith("100000\n")
    assert lash("gc", "-o", "json").json["spilled_files"] == 0
    size = kept.stat().st_size
    long_ago = time.time() - 10 * 365 * DAY_MS / 1000
    os.utime(kept, (long_ago, long_ago))
    other = kept.parent / "somewhere"
    other.symlink_to(home / "config.toml")
    for options, are_there in ((("--dry-run",), True), ((), False)):
        told = lash("gc", *options, "-o", "json").json
        assert (told["spilled_files"], told["spilled_bytes"]) == (1, size)
        assert kept.exists() is are_there
    assert other.is_symlink()


def test_what_was_settled_a_moment_ago_keeps_its_key(lash, home):
    lash("open", "s")
    lash("turn", "s", "!text one", "--key", "k")
    lash("gc")
    assert lash("turn", "s", "!text one", "--key", "k", "-o", "json").code == 0
    assert count(home, "turns") == 1
    assert lash("gc", "-c", "retention.min_age=0", "-o", "json").json["inputs"] == 1


def test_what_was_cancelled_a_moment_ago_keeps_its_key_and_its_attachment(lash, home, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("look at this")
    lash("open", "s")
    for key in ("k", "old"):
        lash("enqueue", "s", "text", "--key", key, "--attach", str(note))
    aged_attachments = f"UPDATE attachments SET intent_at_ms = intent_at_ms - {2 * DAY_MS}"
    change(home, f"UPDATE inputs SET enqueued_at_ms = enqueued_at_ms - {2 * DAY_MS}", aged_attachments)
    lash("queue", "cancel", "--key", "k", "--key", "old", "--session", "s")
    # As an older program cancelled it: nothing says when.
    change(home, "UPDATE inputs SET claim_generation = NULL WHERE source_key LIKE '%old'")
    assert removed(lash("gc", "-o", "json").json) == {"inputs": 1}
    again = lash("enqueue", "s", "text", "--key", "k", "--attach", str(note), "-o", "json").json
    assert again["state"] == "cancelled"
    change(home, f"UPDATE inputs SET claim_generation = claim_generation - {2 * DAY_MS}", aged_attachments)
    assert removed(lash("gc", "-o", "json").json) == {"inputs": 1, "attachments": 1, "blobs": 1}


def test_the_journal_of_an_unfinished_turn_stays(lash, home):
    lash("open", "s")
    lash("turn", "s", f"!tool exec_command {json.dumps({'cmd': 'true'})}", "--approve", "execute=auto")
    change(home, "UPDATE turns SET state = 'running'")
    assert lash("gc", "-c", "retention.min_age=0", "-o", "json").json["journal_rows"] == 0


def test_sessions_go_only_by_max_age_and_only_after_a_confirmation(lash, home):
    for name in ("old", "waiting", "young"):
        lash("open", name)
        lash("turn", name, "!text x")
    lash("enqueue", "waiting", "still to be said")
    change(home, f"UPDATE sessions SET created_at_ms = 1, last_commit_at_ms = last_commit_at_ms - {40 * DAY_MS} "
                 "WHERE session_id != 'young'")  # fmt: skip
    assert lash("gc", "-o", "json").json["sessions"] == []
    lash("config", "set", "retention.max_age", "30d")
    dry = lash("gc", "--dry-run", "-o", "json").json
    assert [one["id"] for one in dry["sessions"]] == ["old"]
    asked = lash("gc", "-o", "json")
    assert (asked.code, asked.out, asked.error["code"]) == (2, "", "confirmation_required")
    assert sorted(lash("ls", "-q").out.split()) == ["old", "waiting", "young"]
    assert [one["id"] for one in lash("gc", "--yes", "-o", "json").json["sessions"]] == ["old"]
    assert sorted(lash("ls", "-q").out.split()) == ["waiting", "young"]
    assert lash("open", "old", "-o", "json").error["code"] == "session_deleted"


def test_an_old_session_that_was_just_imported_was_just_used(lash, home, tmp_path):
    lash("open", "old")
    lash("turn", "old", "!text x")
    long_ago = f"last_commit_at_ms = last_commit_at_ms - {40 * DAY_MS}"
    change(home, f"UPDATE sessions SET created_at_ms = 1, last_activity_at_ms = last_commit_at_ms, {long_ago}")
    assert lash("export", "old", "--as", "json", "--out", str(tmp_path / "old.json")).code == 0
    lash("open", "young")
    assert lash("import", str(tmp_path / "old.json"), "--id", "back").code == 0
    assert lash("ls", "-q").out.split()[-1] == "back", "where it came from it was used before all others"
    told = lash("gc", "--yes", "-c", "retention.max_age=30d", "-o", "json").json
    assert [one["id"] for one in told["sessions"]] == ["old"]
    change(home, f"UPDATE sessions SET imported_at_ms = imported_at_ms - {40 * DAY_MS}")
    told = lash("gc", "--yes", "-c", "retention.max_age=30d", "-o", "json").json
    assert [one["id"] for one in told["sessions"]] == ["back"]


def test_a_max_age_below_min_age_is_a_mistake(lash):
    lash("open", "s")
    done = lash("gc", "-c", "retention.max_age=1h", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (5, "", "config_invalid")
    assert "retention.max_age (-c)" in done.error["message"]
    assert lash("config", "set", "retention.max_age", "soon").code == 2


def test_an_age_that_nothing_reaches_removes_nothing(lash, home):
    assert lash("open", "old").code == 0
    (home / "config.toml").write_text('[retention]\nmax_age = "99999999999d"\nmin_age = 999999999999999\n')
    done = lash("gc", "--yes", "-o", "json")
    assert done.code == 0 and done.json["settled_before"] == "1970-01-01T00:00:00.000Z", done.err
    assert lash("ls", "-q").out == "old\n"
    (home / "config.toml").write_text("[retention]\nmax_age = inf\n")
    refused = lash("gc", "--yes", "-o", "json")
    assert (refused.code, refused.out, refused.error["code"]) == (5, "", "config_invalid")
    assert "retention.max_age: expected a duration" in refused.error["message"]


def test_what_is_closed_to_the_user_is_no_reason_not_to_say_what_was_done(lash, home, tmp_path):
    database, closed = tmp_path / "lash.db", tmp_path / "data"
    lash("open", "s", "--db", str(database))
    closed.mkdir()
    places = {name: str(tmp_path / name) for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME")}
    env = {"LASH_HOME": "", "XDG_DATA_HOME": str(closed), **places}
    closed.chmod(0)
    try:
        for verb in ("gc", "db purge --confirm lash.db"):
            done = run_unprivileged(*verb.split(), "--db", str(database), "-o", "json", home=home, env=env)
            assert (done.code, done.json["kind"]) == (0, "Collection" if verb == "gc" else "DatabasePurge"), done.err
    finally:
        closed.chmod(0o700)
