"""`lash db scan|scrub`: where secrets stand is shown, what they are is not, and what is taken out is gone (08 §6.8)."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import stat
from pathlib import Path

import pytest

from lash_cli.settings.redact import MASK, find_secrets, may_hold_secret
from lash_cli.system import SystemClock

KEY = "sk-abcdefghijklmnop1234"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"use {KEY} now", [("api_key", KEY)]),
        (f"{KEY} and AKIAABCDEFGHIJKLMNOP", [("api_key", KEY), ("api_key", "AKIAABCDEFGHIJKLMNOP")]),
        (f"a\n{PEM}\nb", [("private_key", PEM)]),
        ("the -----BEGIN PRIVATE KEY----- line is missing\nin it", []),
        (
            "-----BEGIN PRIVATE KEY-----\nMIIabc=\nMIIdef\nand so on",
            [
                ("private_key", "-----BEGIN PRIVATE KEY-----\nMIIabc=\nMIIdef"),
            ],
        ),
        (json.dumps({"a": f"{PEM}", "b": "kept"}), [("private_key", json.dumps(PEM)[1:-1])]),
        (
            '{"a":"-----BEGIN PRIVATE KEY-----\\nMIIabc","b":"kept"}',
            [("private_key", "-----BEGIN PRIVATE KEY-----\\nMIIabc")],
        ),
        ("Authorization: Bearer abcdefgh12345678xyz", [("bearer_token", "abcdefgh12345678xyz")]),
        ("bearer\nabcdefgh12345678xyz", [("bearer_token", "abcdefgh12345678xyz")]),
        ("postgres://me:hunter2@host/db", [("url_password", "me:hunter2")]),
        ("the bearer authentication-of-everything is late", []),
        ("git@github.com and ssh://git@github.com/x and https://host/a:b", []),
        (f"Bearer {MASK} at https://{MASK}@host", []),
    ],
)
def test_secrets_are_found_by_their_shape_and_words_are_not(text, found):
    assert [(secret.kind, text[secret.start : secret.end]) for secret in find_secrets(text)] == found
    # The quick look that comes first misses none of them, neither in the text nor in JSON around it.
    assert not found or (may_hold_secret(text) and may_hold_secret(json.dumps({"text": [text]})))


def test_text_that_is_none_any_more_is_looked_through_and_left_as_it_is(tmp_path):
    from lash_cli.store.sqlite.database import Database
    from lash_cli.store.sqlite.secrets import Finder, scan, scrub

    Database.open(tmp_path / "lash.db", clock=SystemClock()).close()
    finder = Finder(may_hold_secret, find_secrets)
    insert = """
        INSERT INTO attachments (session_key, attachment_ref, media_type, byte_len, label, intent_at_ms)
        VALUES (1, ?, 'image/png', 1, CAST(? AS TEXT), 1)
    """
    with contextlib.closing(sqlite3.connect(tmp_path / "lash.db", isolation_level=None)) as connection:
        connection.execute(insert, ("sound", f"use {KEY}"))
        connection.execute(insert, ("damaged", b"\xff use " + KEY.encode()))
        assert {hit.row for hit in scan(connection, finder)} == {"sound", "damaged"}
        done = scrub(connection, finder, MASK)
        assert ([hit.row for hit in done.taken], [hit.row for hit in done.left]) == (["sound"], ["damaged"])
        labels = connection.execute("SELECT CAST(label AS BLOB) FROM attachments ORDER BY label").fetchall()
        assert labels == [(f"use {MASK}".encode(),), (b"\xff use " + KEY.encode(),)]


def everything(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file() and path.parent.name != "backups")


def test_a_scan_shows_where_and_never_what_and_changes_nothing(lash, home):
    lash("open", "s")
    lash("turn", "s", f"!text the key is {KEY}")
    lash("key", "set", "mine", "--stdin", input="an unusual key without a shape".replace(" ", "+"))
    lash("turn", "s", "!text it was an+unusual+key+without+a+shape")
    done = lash("db", "scan", "-o", "json")
    assert done.code == 0
    assert KEY not in done.out and "unusual" not in done.out
    found = {(item["table"], item["kind"], item["ends_with"]) for item in done.json["items"]}
    assert {("nodes", "api_key", "…1234"), ("inputs", "api_key", "…1234"), ("nodes", "loaded_key", "…hape")} <= found
    assert {item["session"] for item in done.json["items"] if item["table"] == "nodes"} == {"s"}
    assert KEY in lash("log", "s").out


def test_what_is_scrubbed_is_gone_from_the_file_and_recorded(lash, home):
    lash("open", "s")
    lash("turn", "s", f"!text before {KEY} after")
    lash("turn", "s", f"!tool exec_command {json.dumps({'cmd': f'echo {KEY}'})}", "--approve", "execute=auto")
    lash("turn", "s", f"!text {json.dumps(PEM)}")
    lash("open", "t", "--system", f"never show {KEY}", "--label", f"why={KEY}")
    # The words are in the index of the search as well.
    lash("search", "before")
    asked = lash("db", "scrub", "-o", "json")
    assert (asked.code, asked.out, asked.error["code"]) == (2, "", "confirmation_required")
    dry = lash("db", "scrub", "--dry-run", "-o", "json").json
    assert dry["backup"] is None and dry["record"] is None and KEY in lash("log", "s", "--tools").out
    done = lash("db", "scrub", "--yes", "-o", "json")
    assert done.code == 0, done.err
    assert done.json["scrubbed"] == dry["scrubbed"] and done.json["left"] == []
    for part in (KEY, "abcdefghijklmnop1234", "MIIEvQIBADANBgkq"):
        assert part.encode() not in everything(home), part
    log = lash("log", "s", "--tools").out
    assert f"before {MASK} after" in log and f"echo {MASK}" in log
    assert lash("db", "check", "-o", "json").json["healthy"]
    assert lash("db", "scan", "-o", "json").json["items"] == []
    assert lash("turn", "s", "!text goes on").code == 0
    record = Path(done.json["record"])
    (line,) = [json.loads(text) for text in record.read_text().splitlines()]
    assert line["backup"] == done.json["backup"] and line["scrubbed"] == done.json["scrubbed"]
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert KEY in lash("log", "s", "--db", done.json["backup"]).out
    again = lash("db", "scrub", "--yes", "-o", "json").json
    assert (again["scrubbed"], again["backup"]) == ([], None)


def test_a_scrub_that_failed_leaves_no_copy_of_the_secrets_that_nobody_is_told_of(lash, home):
    assert lash("open", "s1").code == 0
    assert lash("turn", "s1", f"!text my key is {KEY}").code == 0
    (home / "scrubs.jsonl").mkdir()
    failed = lash("db", "scrub", "--yes", "-o", "json")
    assert (failed.code, failed.out, failed.error["code"]) == (5, "", "permissions_unsafe")
    assert list((home / "backups").iterdir()) == []
    (home / "scrubs.jsonl").rmdir()
    done = lash("db", "scrub", "--yes", "-o", "json").json
    assert [str(path) for path in (home / "backups").iterdir()] == [done["backup"]]
    assert KEY.encode() not in everything(home)


def test_what_waits_and_what_is_named_by_its_hash_is_left_and_told(lash, home, tmp_path):
    lash("open", "s")
    attached = tmp_path / "notes.txt"
    attached.write_text(f"the key is {KEY}")
    lash("enqueue", "s", f"!text later {KEY}")
    lash("turn", "s", f"!text {KEY}", "--attach", str(attached))
    done = lash("db", "scrub", "--yes", "--no-backup", "-o", "json")
    assert done.code == 0, done.err
    assert done.json["backup"] is None and not (home / "backups").exists()
    assert "nodes" in {item["table"] for item in done.json["scrubbed"]}
    assert {item["table"] for item in done.json["left"]} == {"inputs", "blobs"}
    lash("work", "s", "--until-empty")
    assert f"later {KEY}" in lash("log", "s").out


def test_a_secret_that_ends_a_json_text_does_not_take_the_rest_with_it(lash):
    # The shape of a private key without an end goes on to the end of its own text, not of the record around it.
    lash("open", "s")
    lash("turn", "s", f"!text {json.dumps('see -----BEGIN PRIVATE KEY-----' + chr(10) + 'MIIabc')}")
    assert lash("db", "scrub", "--yes", "-o", "json").code == 0
    assert f"see {MASK}" in lash("log", "s").out
    assert lash("db", "check", "-o", "json").json["healthy"]
