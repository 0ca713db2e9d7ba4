"""Formats, fields and terminal safety of the real command (contract 08 §6.1, §6.8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.error_world import dump
from support.prepared import OPEN, prepare
from support.terminal import Terminal
from support.wire import ThreadedChatServer, text_reply

from lash_cli.cli.printed import ALIASES, CHANGES
from lash_cli.cli.table import COMMANDS

NASTY = "a\x1b]0;title\x07\x1b[31m\x9bb\u202ec"


@pytest.fixture
def two_sessions(home: Path) -> None:
    prepare(home, ("open", "one", "--name", "alpha"), ("open", "two", "--name", "beta"))


def test_every_format_lists_the_same_sessions(lash, two_sessions):
    ids = {"one", "two"}
    assert {item["id"] for item in lash("ls", "-o", "json").json["items"]} == ids
    assert {item["id"] for item in lash("ls", "-o", "jsonl").lines} == ids
    assert set(lash("ls", "-o", "name").out.split()) == ids
    assert set(lash("ls", "-q").out.split()) == ids
    for form in ("text", "table"):
        header, *rows = lash("ls", "-o", form).out.splitlines()
        assert header.split()[0] == "NAME" and {row.split()[-1] for row in rows} == ids


def test_an_empty_table_has_a_header_and_an_empty_text_is_empty(lash):
    assert lash("ls", "-o", "table").out.startswith("NAME")
    assert lash("ls").out == ""


def test_fields_and_templates_choose_what_is_printed(lash, two_sessions):
    assert {tuple(item) for item in lash("ls", "-o", "jsonl", "--fields", "id,name").lines} == {("id", "name")}
    assert set(lash("ls", "--format", "{id}:{name}").out.split()) == {"one:alpha", "two:beta"}
    assert "lease" in lash("ls", "--fields").out.split()
    unknown = lash("ls", "-o", "json", "--fields", "nope")
    assert (unknown.code, unknown.out, unknown.error["code"]) == (2, "", "usage")


@pytest.mark.parametrize("choice", [("--fields", "id,nope"), ("--format", "{id} {no.pe}"), ("--fields",)], ids=" ".join)
@pytest.mark.parametrize(
    "verb",
    [
        ("enqueue", "one", "text"),
        ("queue", "hold", "one"),
        ("turn", "one", "text"),
        ("ask", "one", "text"),
        ("label", "one", "a=b"),
        ("rename", "one", "gamma"),
        ("rm", "one", "--yes"),
        ("db", "purge", "--confirm", "lash.db"),
    ],
    ids=" ".join,
)
def test_a_field_that_is_never_printed_is_refused_and_a_list_of_fields_given_before_anything_is_done(
    lash, home: Path, two_sessions, verb, choice
):
    before = dump(home / "lash.db")
    told = lash(*verb, *choice, "-o", "json")
    if choice == ("--fields",):
        assert told.code == 0 and len(told.out.split()) > 3, told.err
    else:
        assert (told.code, told.out, told.error["code"]) == (2, "", "usage")
    assert dump(home / "lash.db") == before


@pytest.mark.parametrize("choice", [("--fields", ""), ("--fields=",), ("--fields", " , ")], ids=repr)
def test_an_empty_choice_of_fields_is_no_question_which_there_are(lash, two_sessions, choice):
    """Where a variable that is not set stands in a script, the command would seem to be done."""
    for verb in (("turn", "one", "text"), ("ls",)):
        told = lash(*verb, *choice, "-o", "json")
        assert (told.code, told.out, told.error["code"]) == (2, "", "usage")
    assert lash("show", "one", "-o", "json").json["turns"] == 0


def test_a_field_of_the_other_thing_a_command_may_print_is_null(lash, two_sessions):
    assert lash("turn", "one", "hi", "-o", "json", "--fields", "text,state").json["state"] is None
    assert lash("label", "one", "a=b", "--fields", "labels.b,labels.a", "-o", "json").json["labels"] == {
        "a": "b", "b": None,
    }  # fmt: skip


EMPTY_LISTS = (
    ("ls",), ("ls", "--sort", "name"), ("key", "ls"), ("search", "nothing"), ("usage", "--by", "day"),
    ("queue", "ls", "one"), ("queue", "batches", "one"), ("db", "scan"), ("config", "trust", "--list"),
    ("log", "one", "-o", "jsonl"),
)  # fmt: skip


@pytest.fixture
def one_quiet_session(home: Path) -> None:
    """A session in which nothing was ever said, so that every list about it is empty."""
    prepare(home, ("open", "one", "--name", "alpha"))


@pytest.mark.parametrize("verb", EMPTY_LISTS, ids=" ".join)
def test_an_empty_list_knows_its_fields(lash, one_quiet_session, verb):
    if verb[0] == "ls":
        verb = (*verb, "--name", "nobody")
    for choice in (("--fields", "nope"), ("--fields", "id.nope"), ("--format", "{no.pe}"), ("--format", "{}")):
        told = lash(*verb, *choice)
        assert (told.code, told.out) == (2, ""), choice
        assert "no field '" in told.err and "fields: " in told.err
    known = lash(*verb, "--fields")
    assert known.code == 0
    fields = known.out.split()
    assert len(fields) > 1
    for choice in (("--fields", ",".join(fields)), ("--format", " ".join(f"{{{field}}}" for field in fields))):
        told = lash(*verb, *choice)
        assert told.code == 0, told.err


def test_the_fields_of_an_empty_list_are_those_of_a_filled_one(lash, two_sessions):
    filled = lash("ls", "--fields").out.split()
    assert set(filled) <= set(lash("ls", "--name", "nobody", "--fields").out.split())


def test_a_label_that_only_some_sessions_have_is_null_for_the_others(lash, two_sessions):
    lash("label", "two", "area=billing")
    assert sorted(lash("ls", "--format", "{id}={labels.area}").out.split()) == ["one=", "two=billing"]
    items = lash("ls", "--fields", "id,labels.area", "-o", "json").json["items"]
    assert {item["id"]: item["labels"]["area"] for item in items} == {"one": None, "two": "billing"}
    assert lash("show", "one", "--format", "{labels.area}").out == "\n"
    assert lash("show", "one", "--format", "{label.area}").code == 2


@pytest.mark.parametrize("template", ["{}", "{id} {}", "{.}", "{id.}"])
def test_a_template_without_a_name_is_a_mistake(lash, two_sessions, template):
    for verb in (("doctor",), ("ls",), ("version",), ("gc", "--dry-run")):
        told = lash(*verb, "--format", template)
        assert (told.code, told.out) == (2, "") and "error: no field " in told.err, verb
    assert lash("doctor", "--format", "{{}}").out == "{}\n"


@pytest.mark.parametrize(
    "verb",
    [("log", "one", "--role"), ("search", "text", "--role"), ("usage", "--by"), ("tail", "one", "--types")],
    ids=" ".join,
)
@pytest.mark.parametrize("words", ["", " , "])
def test_a_list_of_words_that_names_nothing_is_no_choice(lash, two_sessions, verb, words):
    told = lash(*verb, words, "-o", "jsonl")
    assert (told.code, told.out, told.error["code"]) == (2, "", "usage")
    assert told.error["message"] == f"{verb[-1]} names nothing"


def test_what_is_known_of_printed_fields_knows_every_name_of_a_command():
    named = {name: entry.name for entry in COMMANDS for name in entry.aliases}
    assert {name: verb for name, verb in named.items() if verb in CHANGES} == ALIASES
    assert not {f"{group.name} {verb.name}" for group in COMMANDS for verb in group.verbs if verb.aliases} & set(
        CHANGES
    )


def test_the_default_format_may_come_from_the_configuration(lash, two_sessions):
    assert lash("config", "set", "defaults.output", "json").code == 0
    assert {item["id"] for item in lash("ls").json["items"]} == {"one", "two"}
    assert lash("ls", env={"LASH_OUTPUT": "name"}).out.split()
    assert lash("show", "none").error["code"] == "session_not_found"


def test_what_a_model_says_cannot_steer_the_terminal(lash):
    for form in ("text", "json", "jsonl"):
        result = lash("turn", "--or-open", f"s-{form}", NASTY, "-o", form)
        assert result.code == 0, result.err
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(result.out + result.err)
        shown = lash("log", f"s-{form}", "-o", form)
        assert shown.code == 0, shown.err
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown.out)
    assert any(NASTY in item["text"] for item in lash("log", "s-json", "-o", "json").json["items"])


def test_an_error_cannot_steer_the_terminal(lash):
    result = lash("show", NASTY)
    assert result.code == 3
    assert "\x1b" not in result.err and "\\x1b" in result.err


ANSWER = "!text **Grüße** ✓\n\n- one\n\n| a | b |\n|---|---|\n| 漢 | 字 |"


@pytest.mark.parametrize(
    "args",
    [("turn", "s", ANSWER), ("tree", "s"), ("log", "s"), ("ls",), ("fork", "s"), ("help", "queue"), ("show", "æ")],
    ids=lambda args: args[0],
)
@pytest.mark.parametrize("name", ["LASH_ASCII", "LASH_PLAIN"])
def test_a_terminal_gets_only_what_it_was_said_to_take(home: Path, args: tuple[str, ...], name: str) -> None:
    prepare(home, ("open", "s", "--name", "blåbær"), ("turn", "s", ANSWER))
    terminal = Terminal(home, *args, **{name: "1"})
    try:
        assert terminal.ended() == (3 if args[0] == "show" else 0)
    finally:
        terminal.close()
    assert b"\x1b" not in terminal.written if name == "LASH_PLAIN" else terminal.written.isascii()


def test_what_is_said_to_a_session_is_logged_only_where_that_is_wanted(lash: Any, home: Path) -> None:
    prepare(home, OPEN)
    wanted = ("-c", "privacy.log_prompts=true")
    assert lash("turn", "s", "a secret", env={"LASH_LOG": "debug"}).code == 0
    assert lash(*wanted, "turn", "s", "a secret", env={"LASH_LOG": "off"}).code == 0
    assert "a secret" not in ((home / "lash.log").read_text() if (home / "lash.log").exists() else "")
    (home / "lash.log").unlink(missing_ok=True)
    said = "two\nlines, and sk-canary-0123456789"
    assert lash(*wanted, "turn", "s", said).code == 0
    lash("enqueue", "s", "queued")
    assert lash(*wanted, "work", "s", "--once", env={"LASH_LOG": "error"}).code == 0
    assert lash(*wanted, "turn", "--ephemeral", "gone").code == 0
    first, second, third = (home / "lash.log").read_text().splitlines()
    assert 'of session s: "two\\nlines, and [redacted]"' in first
    assert second.endswith('of session s: "queued"') and third.endswith(': "gone"')
    assert (home / "lash.log").stat().st_mode & 0o077 == 0


def test_the_log_holds_what_its_level_says_and_no_key(lash: Any, home: Path) -> None:
    prepare(home, OPEN)
    with ThreadedChatServer([text_reply("hi") for _ in range(3)]) as server:
        env = {"OPENAI_API_KEY": "sk-canary-0123456789", "OPENAI_BASE_URL": server.base_url}
        turn = ("turn", "s", "x", "--provider", "openai", "--model", "m")
        assert lash(*turn, env=env).code == 0
        assert not (home / "lash.log").exists(), "warnings only, if nobody asks for more"
        assert lash(*turn, env={**env, "LASH_LOG": "off"}).code == 0
        assert not (home / "lash.log").exists()
        assert lash(*turn, env={**env, "LASH_LOG": "debug"}).code == 0
    log = (home / "lash.log").read_text()
    assert server.base_url in log and "canary" not in log and "uthorization" not in log
    assert (home / "lash.log").stat().st_mode & 0o077 == 0
    done = lash("turn", "s", "x", "-o", "json", env={"LASH_LOG": "loud"})
    assert (done.code, done.error["code"]) == (5, "config_invalid") and "debug" in done.error["message"]
