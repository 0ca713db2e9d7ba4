"""One writer for stdout: every format, field selection and terminal safety (contract 08 §6.1, §6.8)."""

from __future__ import annotations

import json
import sys

import msgspec
import pytest

from lash_cli.cli import invocation, output
from lash_cli.cli.globals import hoist
from lash_cli.cli.schemas import KINDS, Kind
from lash_cli.errors import UsageError

ITEMS = [
    {"id": "s_1", "name": "alpha", "turns": 3, "lease": {"pid": 7}},
    {"id": "s_2", "name": "be\x1bta", "turns": 0, "lease": None},
]


class Lease(msgspec.Struct):
    pid: int


class Thing(msgspec.Struct):
    id: str
    name: str
    turns: int
    lease: Lease | None


@pytest.fixture
def begin(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "Thing", Kind("Thing", "document", Thing))
    monkeypatch.setitem(KINDS, "ThingList", Kind("ThingList", "list", Thing))

    def start(*argv, **environment):
        options, _ = hoist(argv)
        return invocation.begin(options, {"LASH_HOME": str(tmp_path), **environment})

    yield start
    monkeypatch.setattr(invocation, "_current", None)


def many(capsys, **options):
    output.emit_many("ThingList", ITEMS, columns=("name", "turns"), **options)
    return capsys.readouterr().out


def test_json_is_one_envelope_and_jsonl_one_item_per_line(begin, capsys):
    begin("-o", "json")
    document = json.loads(many(capsys, next_cursor="c1"))
    assert document == {"schema": "lash/1", "kind": "ThingList", "items": ITEMS, "next": "c1"}
    begin("-o", "jsonl")
    assert [json.loads(line) for line in many(capsys).splitlines()] == ITEMS


def test_name_and_quiet_print_ids(begin, capsys):
    begin("-o", "name")
    assert many(capsys) == "s_1\ns_2\n"
    begin("-q")
    assert many(capsys) == "s_1\ns_2\n"
    begin("-q", "-o", "json")
    assert json.loads(many(capsys))["items"] == ITEMS


def test_what_has_no_id_prints_no_line_for_one(begin, capsys):
    for argv in (("-o", "name"), ("-q",)):
        begin(*argv)
        output.emit_one("Thing", ITEMS[0], name="")
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("format_", ["json", "jsonl"])
def test_quiet_on_the_command_line_stands_over_a_format_that_is_only_usual(begin, capsys, format_):
    begun = begin("-q", LASH_OUTPUT=format_)
    assert many(capsys) == "s_1\ns_2\n"
    assert begun.notice_format == format_, "errors are for whoever wanted that form"


def test_an_id_is_told_to_a_program_as_it_is_and_to_a_person_harmless(begin, capsys, monkeypatch):
    begin("-o", "name")
    output.emit_one("Thing", ITEMS[1], name="a\x1b[31m")
    assert capsys.readouterr().out == "a\x1b[31m\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.emit_one("Thing", ITEMS[1], name="a\x1b[31m")
    assert capsys.readouterr().out == "a\\x1b[31m\n"


def test_text_is_aligned_columns_with_escapes_made_visible(begin, capsys):
    begin()
    assert many(capsys) == "NAME      TURNS\nalpha     3\nbe\\x1bta  0\n"


def test_fields_choose_columns_and_json_keys(begin, capsys):
    begin("--fields", "id,lease.pid", "-o", "json")
    assert json.loads(many(capsys))["items"] == [
        {"id": "s_1", "lease": {"pid": 7}},
        {"id": "s_2", "lease": {"pid": None}},
    ]
    begin("--fields", "id,lease.pid")
    assert many(capsys) == "ID   PID\ns_1  7\ns_2  -\n"
    begin("--fields", "lease.nonsense")
    with pytest.raises(UsageError, match=r"lease\.nonsense"):
        output.emit_one("Thing", ITEMS[1])  # of which nothing is under `lease`


def test_fields_without_a_value_list_the_names(begin, capsys):
    begin("--fields")
    assert many(capsys).split() == ["id", "name", "turns", "lease", "lease.pid"]


def test_an_unknown_field_names_the_known_ones(begin):
    begin("--fields", "nope", "-o", "json")
    with pytest.raises(UsageError) as caught:
        output.emit_one("Thing", ITEMS[0])
    assert "lease.pid" in caught.value.hint


def test_a_template_substitutes_keys_and_evaluates_nothing(begin, capsys):
    begin("--format", "{id}={lease.pid} {{x}} {name.__class__}")
    with pytest.raises(UsageError):
        many(capsys)
    capsys.readouterr()
    begin("--format", "{id}={lease} {{x}}")
    assert many(capsys) == 's_1={"pid":7} {x}\ns_2= {x}\n'


def test_one_thing_is_pairs_as_text_and_a_flat_document_as_json(begin, capsys):
    begin()
    output.emit_one("Thing", ITEMS[0])
    assert capsys.readouterr().out == 'id     s_1\nname   alpha\nturns  3\nlease  {"pid":7}\n'
    begin("-o", "json")
    output.emit_one("Thing", ITEMS[0], text="for people")
    assert json.loads(capsys.readouterr().out) == {"schema": "lash/1", "kind": "Thing", **ITEMS[0]}
    begin()
    output.emit_one("Thing", ITEMS[0], text="for people")
    assert capsys.readouterr().out == "for people\n"


def test_json_decodes_to_the_same_text_without_a_character_a_terminal_obeys(begin, capsys):
    begin("-o", "json")
    nasty = "a\x1b]0;t\x07\x9b31m\u202e\u2066b é"
    output.emit_one("Thing", {"id": nasty})
    out = capsys.readouterr().out
    assert json.loads(out)["id"] == nasty
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\u2066"} & set(out)
    assert "é" in out


def test_ascii_leaves_no_other_character(begin, capsys):
    begin("--ascii", "-o", "json")
    output.emit_one("Thing", {"id": "é"})
    out = capsys.readouterr().out
    assert out.isascii() and json.loads(out)["id"] == "é"
    begin("--ascii")
    output.emit_one("Thing", {"id": "é"})
    assert capsys.readouterr().out == "id  \\xe9\n"


def test_notes_are_for_people_only(begin, capsys):
    begin()
    output.say("a \x1bnote")
    assert capsys.readouterr().err == "a \\x1bnote\n"
    for arguments in (("-q",), ("-o", "json")):
        begin(*arguments)
        output.say("a note")
        assert capsys.readouterr().err == ""


def test_a_warning_is_a_json_line_where_a_program_reads(begin, capsys):
    begin("-o", "json")
    output.warn("careful")
    assert json.loads(capsys.readouterr().err)["message"] == "careful"
    begin("-q")
    output.warn("careful")
    assert capsys.readouterr().err == "warning: careful\n"


def test_the_default_format_comes_from_environment_then_settings(begin, tmp_path):
    (tmp_path / "config.toml").write_text('[defaults]\noutput = "name"\n')
    assert begin().output.format == "name"
    assert begin(LASH_OUTPUT="jsonl").output.format == "jsonl"
    assert begin("-o", "text", LASH_OUTPUT="jsonl").output.format == "text"


def test_colour_needs_a_terminal_or_a_word(begin):
    assert begin().output.color is False
    assert begin("--color", "always").output.color is True
    assert begin("--color", "always", NO_COLOR="1").output.color is True
    assert begin(FORCE_COLOR="1").output.color is True
    assert begin(FORCE_COLOR="1", NO_COLOR="1").output.color is False
    assert begin(NO_COLOR="", FORCE_COLOR="1").output.color is True
    assert begin(NO_COLOR="0", FORCE_COLOR="1").output.color is False, "whatever it says, it is set"


@pytest.mark.parametrize(
    ("environment", "color", "plain"),
    [
        ({}, True, False),
        ({"TERM": "dumb"}, False, True),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
        ({"CLICOLOR": "0"}, False, False),
        ({"CLICOLOR": "0", "CLICOLOR_FORCE": "1"}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"LASH_PLAIN": "1"}, True, True),
    ],
)
def test_what_looks_like_a_terminal_is_coloured_unless_something_speaks_against_it(begin, environment, color, plain):
    shown = begin(LASH_FORCE_TTY="1", **environment).output
    assert (shown.is_terminal, shown.color, shown.plain) == (True, color, plain)


@pytest.mark.parametrize(("said", "columns"), [("10", 10), ("120", 120), ("9", None), ("1", None), ("yes", None)])
def test_a_forced_terminal_has_the_columns_that_are_said_if_they_can_be_meant(begin, said, columns):
    assert begin(LASH_FORCE_TTY=said).output.columns == columns
    assert not begin(LASH_FORCE_TTY="0").output.is_terminal
