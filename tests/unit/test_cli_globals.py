"""Global options are taken from anywhere before `--` (contract 08 §5.5)."""

from __future__ import annotations

import pytest

from lash_cli.cli import completing
from lash_cli.cli.globals import hoist, is_set


def test_options_before_and_after_the_verb_mean_the_same():
    before, rest_before = hoist(["-o", "json", "-q", "ls", "--here"])
    after, rest_after = hoist(["ls", "--here", "-q", "-o", "json"])
    assert rest_before == rest_after == ["ls", "--here"]
    assert (before.output, before.quiet) == (after.output, after.quiet) == ("json", True)


@pytest.mark.parametrize("spelling", [["-o", "jsonl"], ["-ojsonl"], ["-o=jsonl"], ["--output", "jsonl"],
                                      ["--output=jsonl"]])  # fmt: skip
def test_every_spelling_of_a_value_is_understood(spelling):
    options, rest = hoist(["ls", *spelling])
    assert (options.output, rest, options.problem) == ("jsonl", ["ls"], None)


def test_nothing_after_a_double_dash_is_touched():
    options, rest = hoist(["turn", "s", "--", "-o", "json", "-q"])
    assert rest == ["turn", "s", "--", "-o", "json", "-q"]
    assert (options.output, options.quiet) == (None, False)


def test_short_switches_may_be_joined():
    options, rest = hoist(["-qvvy", "ls"])
    assert (options.quiet, options.verbose, options.yes, rest) == (True, 2, True, ["ls"])


@pytest.mark.parametrize("words", [["-qo", "json"], ["-qojson"], ["-qvyo=json"], ["-yqcx.y=1", "-o", "json"]])
def test_the_last_of_joined_switches_may_take_a_value(words):
    options, rest = hoist(["ls", *words, "--here"])
    assert (options.output, options.quiet, options.problem, rest) == ("json", True, None, ["ls", "--here"])


def test_joined_switches_of_a_command_stay_with_it():
    options, rest = hoist(["ls", "-qn"])
    assert (options.quiet, rest) == (False, ["ls", "-qn"])


def test_fields_without_a_value_ask_for_the_list():
    assert hoist(["ls", "--fields"])[0].fields == ()
    assert hoist(["ls", "--fields", "-q"])[0].fields == ()
    assert hoist(["ls", "--fields", "id, name"])[0].fields == ("id", "name")
    assert hoist(["ls", "--fields=id"])[0].fields == ("id",)


def test_overrides_accumulate_in_order():
    options, _ = hoist(["-c", "a.b=1", "ls", "-ca.b=2"])
    assert options.overrides == ["a.b=1", "a.b=2"]


@pytest.mark.parametrize("argv", [["-o", "xml"], ["-o"], ["--color", "blue"], ["-c", "novalue"], ["--home="]])
def test_a_malformed_option_is_kept_as_a_problem_and_the_rest_is_still_read(argv):
    options, _ = hoist(["--quiet", *argv])
    assert options.problem is not None
    assert options.problem.code == "usage"
    assert options.quiet


def test_the_format_is_known_although_another_option_is_wrong():
    options, _ = hoist(["--color", "blue", "-o", "json"])
    assert options.problem is not None
    assert options.output == "json"


def test_the_first_mistake_is_told_and_not_what_follows_from_it():
    options, _ = hoist(["-o", "xml", "--color", "blue"])
    assert options.problem is not None and "xml" in options.problem.message


@pytest.mark.parametrize(("verb", "option"), [
    ("turn", "--out"), ("turn", "--usage-file"), ("turn", "--trace"), ("turn", "--schema"), ("tail", "--save-cursor"),
    ("chat", "--record"), ("queue edit", "--file"),
])  # fmt: skip
def test_the_name_of_a_file_may_be_any_bytes_and_nothing_else_may(verb, option):
    for tokens in ([option, "caf\udce9"], [f"{option}=caf\udce9"]):
        assert hoist([*verb.split(), "s", *tokens])[0].problem is None
    for tokens in (["caf\udce9"], ["--key=caf\udce9"], [option, "a", "caf\udce9"]):
        problem = hoist([*verb.split(), "s", *tokens])[0].problem
        assert problem is not None and problem.details["byte_offset"] == tokens[-1].encode(
            "utf-8", "surrogateescape"
        ).index(b"\xe9")


@pytest.mark.parametrize(("value", "is_on"), [
    ("1", True), ("yes", True), ("on", True), ("", False), (" ", False), ("0", False), ("false", False),
    ("FALSE", False), ("no", False), ("No ", False),
])  # fmt: skip
def test_a_switch_of_the_environment_is_on_unless_it_says_no(value, is_on):
    assert is_set({"LASH_PLAIN": value}, "LASH_PLAIN") is is_on
    assert not is_set({}, "LASH_PLAIN")


def test_another_command_is_led_to_the_same_places():
    options, _ = hoist(["--profile", "ci", "--db", "my file.db", "ls", "--home=~/x", "--log-file", "l"])
    assert options.places() == ["--home", "~/x", "--db", "my file.db", "--profile", "ci"]
    assert hoist(["ls"])[0].places() == []


def test_the_table_of_words_is_read_once_however_many_file_names_are_no_text(monkeypatch):
    made = completing.Words.__init__
    tables = []
    monkeypatch.setattr(completing, "_table", None)
    monkeypatch.setattr(completing.Words, "__init__", lambda self, lines: (tables.append(self), made(self, lines))[1])
    options, rest = hoist(["turn", "s", *(word for n in range(9) for word in ("-a", f"{n}\udcff", f"-a{n}\udcff"))])
    assert (options.problem, len(rest), len(tables)) == (None, 29, 1)


@pytest.mark.parametrize("word", ["-a\udcff", "--attach=\udcff", "--system=@\udcff"])
def test_a_file_name_glued_to_its_option_need_not_be_text(word):
    assert hoist(["turn", "s", word])[0].problem is None


@pytest.mark.parametrize("word", ["\udcff", "--system=\udcff", "--key=\udcff", "-x\udcff", "--nosuch=\udcff"])
def test_what_names_no_file_has_to_be_text(word):
    problem = hoist(["turn", "s", word])[0].problem
    assert problem is not None and "not valid UTF-8" in problem.message
