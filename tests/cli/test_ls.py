"""`lash ls` through the real entry point: order, filters, pages, formats, and what it must not import."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import environment
from support.prepared import prepare

HEAVY = ("rich", "prompt_toolkit", "pydantic", "httpx2", "httpx", "sqlite_utils", "jsonschema_rs", "pluggy", "lupa")


@pytest.fixture
def sessions(home: Path, tmp_path: Path) -> list[str]:
    """A home with three sessions, one of which works elsewhere."""
    prepare(
        home,
        ("open", "one", "--name", "alpha", "--label", "team=a"),
        ("open", "two", "--name", "beta", "--parent", "one", "--model", "m-2"),
        ("open", "three", "--name", "gamma", "--label", "team=b"),
        ("turn", "one", "hello", "-q"),
    )
    with contextlib.closing(sqlite3.connect(home / "lash.db")) as connection, connection:
        connection.execute("UPDATE sessions SET cwd = ? WHERE name = 'gamma'", (str(tmp_path / "elsewhere"),))
    return ["one", "three", "two"]


def ids(done) -> list[str]:
    assert done.code == 0, done.err
    return done.out.split()


def test_a_home_that_does_not_exist_lists_nothing_and_is_not_created(lash, home: Path) -> None:
    assert lash("ls").out == ""
    assert lash("ls", "-o", "json").json == {"schema": "lash/1", "kind": "SessionList", "items": [], "next": None}
    assert not home.exists()


def test_the_newest_activity_comes_first(lash, sessions) -> None:
    assert ids(lash("ls", "-q")) == sessions


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--name", "*a"), ["one", "three", "two"]),
        (("--name", "b*"), ["two"]),
        (("--model", "m-*"), ["two"]),
        (("--label", "team"), ["one", "three"]),
        (("--label", "team=b"), ["three"]),
        (("--parent", "alpha"), ["two"]),
        (("--here",), ["one", "two"]),
        (("--status", "idle"), ["one", "three", "two"]),
        (("--status", "running,stuck"), []),
        (("--since", "1h"), ["one", "three", "two"]),
        (("--until", "1h"), []),
        (("--since", "2100-01-01"), []),
        (("--since", "0001-01-01"), ["one", "three", "two"]),
        (("--until", "0001-01-01T00:00+14:00"), []),
        (("--until", "9999-12-31T23:59:59-14:00"), ["one", "three", "two"]),
        (("--sort", "name"), ["one", "two", "three"]),
        (("--sort", "turns", "-n", "1"), ["one"]),
    ],
)
def test_ls_shows_what_its_filters_name_in_the_order_asked_for(lash, sessions, options, expected) -> None:
    assert ids(lash("ls", "-q", *options)) == expected


def test_pages_by_cursor_are_the_whole_list_without_repetition_also_under_a_filter(lash, sessions) -> None:
    for options in ((), ("--label", "team")):
        whole = ids(lash("ls", "-q", *options))
        paged: list[str] = []
        cursor: tuple[str, ...] = ()
        for _ in range(len(whole)):
            page = lash("ls", "-n", "1", "-o", "json", *options, *cursor).json
            paged += [item["id"] for item in page["items"]]
            if page["next"] is None:
                break
            cursor = ("--cursor", page["next"])
        assert paged == whole


def test_json_items_spell_out_every_key(lash, sessions) -> None:
    item = lash("ls", "-o", "json").json["items"][0]
    assert item["id"] == "one" and item["turns"] == 1 and item["status"] == "idle"
    assert item["closed_at"] is None and item["lease"] is None and item["running_turn"] is None
    assert item["last_activity_at"].endswith("Z") and len(item["last_activity_at"]) == len("2026-01-01T00:00:00.000Z")


def test_jsonl_is_one_item_per_line_and_fields_choose(lash, sessions) -> None:
    assert [line["id"] for line in lash("ls", "-o", "jsonl").lines] == sessions
    assert lash("ls", "-o", "jsonl", "--fields", "name").lines == [
        {"name": "alpha"},
        {"name": "gamma"},
        {"name": "beta"},
    ]
    assert lash("ls", "--format", "{id}:{status}").out.split() == [f"{name}:idle" for name in sessions]


def test_closed_and_parked_are_status_words(lash, sessions) -> None:
    lash("close", "one")
    lash("park", "two")
    assert ids(lash("ls", "-q", "--status", "closed")) == ["one"]
    assert ids(lash("ls", "-q", "--status", "parked")) == ["two"]


@pytest.mark.parametrize(
    "options",
    [
        ("--status", "sleeping"),
        ("--sort", "colour"),
        ("--since", "yesterdayish"),
        ("--status", ""),
        ("--status", " , "),
        ("--name", ""),
        ("--model", ""),
    ],
    ids=" ".join,
)
def test_senseless_options_are_usage_errors(lash, options) -> None:
    done = lash("ls", *options, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "usage")


def test_a_made_up_cursor_is_refused(lash, sessions) -> None:
    done = lash("ls", "--cursor", "made-up", "-o", "json")
    assert (done.code, done.error["code"]) == (2, "cursor_invalid")


def test_terminal_escapes_in_a_name_cannot_reach_the_terminal(lash, home: Path) -> None:
    lash("open", "one")
    # `open` takes no such name; an embedding program can give one, and so can a hand at the database.
    with contextlib.closing(sqlite3.connect(home / "lash.db")) as connection, connection:
        connection.execute("UPDATE sessions SET name = ?", ("evil\x1b[31mname\u202e",))
    connection.close()
    shown = lash("ls")
    assert shown.code == 0 and "\x1b" not in shown.out and "\u202e" not in shown.out
    assert "\\x1b[31m" in shown.out


def test_listing_imports_no_heavy_library(lash, home: Path, sessions) -> None:
    probe = (
        "import sys; from lash_cli.__main__ import main; main(['ls', '--name', '*', '-o', 'json']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], env=environment(home), capture_output=True, text=True, check=True
    )
    assert len(json.loads(done.stdout)["items"]) == 3
    assert done.stderr.strip() == "[]"


def test_a_damaged_database_is_exit_9(lash, home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "lash.db").write_bytes(b"this is not a database" * 100)
    done = lash("ls", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (9, "", "store_corrupt")


def test_every_order_pages_by_cursor_and_refuses_the_cursor_of_another(lash, sessions) -> None:
    for sort in ("created", "name", "turns"):
        whole = ids(lash("ls", "-q", "--sort", sort))
        paged: list[str] = []
        cursor: tuple[str, ...] = ()
        for _ in range(len(whole) + 1):
            page = lash("ls", "-n", "1", "-o", "json", "--sort", sort, *cursor).json
            paged += [item["id"] for item in page["items"]]
            if page["next"] is None:
                break
            cursor = ("--cursor", page["next"])
        assert paged == whole and len(whole) == 3
        other = lash("ls", "--sort", "created" if sort == "name" else "name", *cursor, "-o", "json")
        assert (other.code, other.out, other.error["code"]) == (2, "", "cursor_invalid")
    for nonsense in ("é", "x", "W10", "bnVsbA"):
        assert lash("ls", "--sort", "name", "--cursor", nonsense, "-o", "json").error["code"] == "cursor_invalid"
