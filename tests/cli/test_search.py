"""`lash search` through the real command: what is found, how it is told, and what it never creates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def said(lash: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lash("open", "one", "--name", "paths")
    lash("open", "two", "--name", "ports", cwd=elsewhere)
    lash("turn", "one", "Does the separator matter?\n!text It matters on one system.")
    lash("turn", "two", "A separator of ports\n!text A colon.")


def test_without_a_database_nothing_is_found_and_nothing_is_made(lash: Any, home: Path) -> None:
    done = lash("search", "anything", "-o", "json")
    assert (done.code, done.json) == (0, {"schema": "lash/1", "kind": "SearchHitList", "items": [], "next": None})
    assert not home.exists()


def test_a_hit_is_told_with_its_session_and_the_words_around(lash: Any, said: None) -> None:
    items = lash("search", "separator", "-o", "json").json["items"]
    assert [(item["session"], item["session_name"], item["role"]) for item in items] == [
        ("two", "ports", "user"),
        ("one", "paths", "user"),
    ]
    (start, end) = items[1]["matches"][0]
    assert items[1]["snippet"][start:end] == "separator" and items[1]["on_path"] is True
    node = lash("log", "one", "-o", "json").json["items"][0]["id"]
    assert items[1]["id"] == node
    text = lash("search", "separator").out
    assert "paths  one  user" in text and "Does the separator matter?" in text and "\x1b" not in text
    assert "\x1b[1mseparator\x1b[0m" in lash("search", "separator", "--color", "always").out
    assert lash("search", "separator", "-q").out.splitlines()[1] == node


def test_what_is_said_later_is_found_and_what_is_deleted_is_not(lash: Any, said: None) -> None:
    assert lash("search", "colon", "-o", "jsonl").lines[0]["session"] == "two"
    lash("turn", "one", "Colons and colon again\n!text ok")
    assert {line["session"] for line in lash("search", "colon*", "-o", "jsonl").lines} == {"one", "two"}
    lash("rm", "two", "--yes")
    assert {line["session"] for line in lash("search", "colon*", "-o", "jsonl").lines} == {"one"}


def test_a_search_is_narrowed_paged_and_shows_what_stands_around_a_hit(lash: Any, said: None) -> None:
    def sessions(*options: str) -> list[str]:
        return [line["session"] for line in lash("search", "separator", *options, "-o", "jsonl").lines]

    assert sessions("--here") == ["one"]
    assert sessions("--role", "assistant") == []
    assert sessions("--since", "1h") == ["two", "one"]
    assert sessions("--since", "2100-01-01") == []
    first = lash("search", "separator", "-n", "1", "-o", "json").json
    assert [item["session"] for item in first["items"]] == ["two"]
    second = lash("search", "separator", "-n", "1", "--cursor", first["next"], "-o", "json").json
    assert ([item["session"] for item in second["items"]], second["next"]) == (["one"], None)
    hit = lash("search", "colon", "--context", "1", "-o", "json").json["items"][0]
    assert (hit["role"], hit["snippet"]) == ("assistant", "A colon.")
    assert [(near["role"], near["text"].split("\n")[0]) for near in hit["before"]] == [("user", "A separator of ports")]
    assert hit["after"] == []
    assert "  user: A separator of ports" in lash("search", "colon", "--context", "1").out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("",), "usage"),
        (("-",), "usage"),
        (("x", "--role", "nobody"), "usage"),
        (("x", "--since", "whenever"), "usage"),
        (("x", "--cursor", "nonsense"), "cursor_invalid"),
        (("x", "--cursor", "9" * 19), "cursor_invalid"),
        (("x", "-n", "0"), "usage"),
    ],
)
def test_a_search_that_cannot_be_meant_is_refused(lash: Any, arguments: tuple[str, ...], code: str) -> None:
    done = lash("search", *arguments, "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", code)


def test_what_was_said_cannot_steer_the_terminal(lash: Any) -> None:
    lash("open", "s", "--name", "evil")
    lash("turn", "s", "needle \x1b]0;title\x07 \x1b[2J end\n!text ok")
    for options in ((), ("--context", "2"), ("-o", "json"), ("-o", "table")):
        done = lash("search", "needle", *options)
        assert done.code == 0 and "\x1b" not in done.out and "\x07" not in done.out


def test_after_a_vacuum_the_file_holds_no_word_of_a_deleted_session(lash: Any, home: Path) -> None:
    lash("open", "s")
    lash("turn", "s", "zweckentfremdet\n!text ok")
    lash("open", "kept")
    lash("turn", "kept", "something else\n!text ok")
    assert len(lash("search", "zweckentfremdet", "-q").out.splitlines()) == 1
    lash("rm", "s", "--yes")
    assert lash("search", "zweckentfremdet").out == ""
    assert lash("db", "vacuum").code == 0
    held = b"".join(path.read_bytes() for path in home.glob("lash.db*"))
    assert b"entfremdet" not in held and b"something else" in held
    assert lash("search", "something", "-q").out


@pytest.mark.parametrize("when", ["yesterday", "2026-13-01", "-5d"])
def test_what_is_no_time_is_told_how_one_is_written(lash, when) -> None:
    lash("open", "s")
    for verb in (("search", "word"), ("ls",), ("usage",)):
        done = lash(*verb, f"--since={when}", "-o", "json")
        assert (done.code, done.out) == (2, "")
        assert "not a time" in done.error["message"] and "7d" in done.error["hint"] and "date" in done.error["hint"]


def test_what_a_compaction_had_stay_is_found_once_where_it_was_said(lash: Any, tmp_path: Path) -> None:
    lash("open", "long")
    for number in range(4):
        lash("turn", "long", f"Is the harbour number {number} open?\n!text Harbour {number} it is.")
    (said,) = lash("search", '"number 3"', "-o", "json").json["items"]
    for _ in range(2):
        assert lash("compact", "long").code == 0
        assert lash("turn", "long", "More\n!text of it").code == 0
        ids = [node["id"] for node in lash("tree", "long", "-o", "json").json["items"]]
        assert sum(":frame:compaction:" in node for node in ids) > 1
        # The summary says it too, in its own words.
        assert lash("search", '"number 3" -compaction', "-o", "json").json["items"] == [said]
        answers = lash("search", "harbour 3", "--role", "assistant", "-o", "json").json["items"]
        assert len(answers) == 1 and ":frame:" not in answers[0]["id"]
    file = tmp_path / "long.json"
    assert lash("export", "long", "--as", "json", "--out", str(file)).code == 0
    assert lash("fork", "long").code == 0
    assert lash("rm", "long", "--yes").code == 0
    assert lash("search", '"number 3" -compaction', "-q").out.split() == [said["id"]]
    assert lash("import", str(file), "--id", "other").code == 0
    assert lash("search", '"number 3" -compaction', "-q").out.split() == 2 * [said["id"]]
