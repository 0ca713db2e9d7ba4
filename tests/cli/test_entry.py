"""The command line as a whole: help, version, unknown things, global options anywhere (contract 08 §5.5, §11)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.cli import run_lash


def test_without_arguments_the_help_is_shown_and_lists_every_command(lash):
    result = lash()
    assert result.code == 0
    for name in ("open", "ls, list", "show, describe", "turn, run, ask", "cancel", "config", "key", "doctor"):
        assert name in result.out
    assert result.err == ""


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_begins_with_an_example(lash, flag):
    for command in ([], ["config"], ["config", "set"], ["key", "set"], ["doctor"]):
        result = lash(*command, flag)
        assert result.code == 0
        after_usage = [line for line in result.out.splitlines() if line.strip()][1]
        assert after_usage.strip().startswith("Example: lash ")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_one_line(lash, flag):
    result = lash(flag)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("lash ") and result.out.count("\n") == 1


def test_the_version_as_json_wherever_the_option_stands(lash):
    for arguments in (["version", "-o", "json"], ["-o", "json", "version"], ["--version", "--json"]):
        document = lash(*arguments).json
        assert (document["schema"], document["kind"]) == ("lash/1", "Version")
        assert document["sqlite"]


def test_an_unknown_command_names_the_nearest_one_and_never_becomes_a_prompt(lash, home):
    result = lash("opne", "hello")
    assert (result.code, result.out) == (2, "")
    assert "unknown command 'opne'" in result.err
    assert "hint: did you mean: lash open" in result.err
    assert not home.exists()


def test_an_unknown_verb_of_a_group_names_the_nearest_one(lash):
    result = lash("config", "shwo")
    assert result.code == 2
    assert "did you mean: lash config show" in result.err


def test_an_unknown_option_is_a_usage_error_in_the_format_asked_for(lash):
    result = lash("doctor", "--bogus", "-o", "json")
    assert (result.code, result.out) == (2, "")
    assert result.error["code"] == "usage"
    assert result.error["exit"] == 2
    assert "--bogus" in result.error["message"]
    assert "lash doctor --help" in result.error["hint"]


def test_an_invalid_output_format_is_a_usage_error(lash):
    for arguments in (["-o", "yaml", "version"], ["version", "--output=yaml"]):
        result = lash(*arguments)
        assert (result.code, result.out) == (2, "")
        assert "yaml" in result.err and "text, table, json, jsonl, name" in result.err


def test_an_option_without_its_value_is_a_usage_error(lash):
    result = lash("version", "-o")
    assert result.code == 2
    assert "option -o needs a value" in result.err


def test_a_group_without_a_verb_shows_its_help(lash):
    result = lash("config")
    assert result.code == 0
    assert "show" in result.out and "set" in result.out


def test_the_error_object_has_every_key_of_the_contract(lash):
    error = lash("nonsense", "-o", "json").error
    assert list(error) == [
        "schema", "kind", "code", "message", "exit", "retryable", "ambiguous", "hint", "details", "request_id",
    ]  # fmt: skip
    assert (error["schema"], error["kind"]) == ("lash/1", "Error")


def test_the_format_of_errors_follows_the_environment(lash):
    result = lash("nonsense", env={"LASH_OUTPUT": "json"})
    assert result.error["code"] == "usage"


def test_completion_answers_quietly_and_creates_nothing(lash, home):
    result = lash("__complete", "--", "show", "")
    assert (result.code, result.out.splitlines()[-1], result.err) == (0, ":nofiles", "")
    assert not home.exists()


def test_a_reader_that_goes_away_ends_the_command_with_141_and_no_traceback(home):
    read_end, write_end = os.pipe()
    os.close(read_end)
    from support.cli import spawn_lash

    process = spawn_lash(["config", "show", "-o", "json"], home=home, stdout=write_end)
    os.close(write_end)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 141
    assert errors == b""


def test_an_unexpected_failure_is_internal_with_the_traceback_in_the_log(home, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import lash_cli.cli.version_command as v\ndef boom(*a, **k): raise RuntimeError('sk-abcdefghijklmnop')\n"
        "v.emit_one = boom\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).resolve().parents[2]}"}
    result = run_lash(["version", "-o", "json"], home=home, env=env)
    assert (result.code, result.out) == (1, "")
    assert result.error["code"] == "internal"
    assert "sk-abc" not in result.err
    log = Path(result.error["details"]["log"])
    assert "RuntimeError" in log.read_text() and "sk-abc" not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    debug = run_lash(["version", "--debug"], home=home, env=env)
    assert "Traceback" in debug.err and "sk-abc" not in debug.err


def test_every_documented_command_of_the_table_can_be_loaded(lash):
    from lash_cli.cli.table import COMMANDS

    for entry in COMMANDS:
        result = lash(entry.name, "--help")
        assert result.code == 0, (entry.name, result.err)
        assert f"Example: {entry.example}" in result.out


def test_everything_after_a_double_dash_is_left_to_the_command(lash):
    result = lash("config", "set", "defaults.system", "--", "-o json")
    assert result.code == 0, result.err
    shown = json.loads(lash("config", "show", "-o", "json").out)
    assert {item["key"]: item["value"] for item in shown["items"]}["defaults.system"] == "-o json"


@pytest.mark.parametrize("value", ["--json", "-o", "-q", "--home", "--"])
def test_the_value_of_an_option_is_never_taken_for_a_global_option(lash, value):
    lash("open", "s")
    for arguments in (
        ("--reason", value, "-o", "json"),
        ("-o", "json", "--reason", value),
        (f"--reason={value}", "--json"),
    ):
        held = lash("queue", "hold", "s", *arguments)
        assert held.code == 0, held.err
        assert held.json["hold_reason"] == value


def test_behind_a_switch_and_an_option_whose_value_is_glued_stand_global_options(lash):
    lash("open", "s")
    assert lash("ls", "--here", "-o", "json").json["kind"] == "SessionList"
    assert lash("park", "s", "--wait", "-o", "json").json["kind"] == "Parked"
    assert lash("queue", "hold", "s", "--reason=why", "-o", "json").json["hold_reason"] == "why"


def test_an_option_that_only_the_verb_behind_it_knows_takes_no_global_option_with_it(lash):
    assert lash("--reason", "--json").error["code"] == "usage"


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("queue", "hold", "s", "--reason"), "lash queue hold"),
        (("queue", "list", "s", "--nonsense"), "lash queue list"),
        (("describe", "s", "--turn"), "lash describe"),
        (("log", "s", "--last", "many"), "lash log"),
        (("queue", "--nonsense"), "lash queue"),
        (("--nonsense",), "lash"),
    ],
)
def test_a_usage_error_names_the_help_of_the_very_command(lash, arguments, path):
    assert lash("-o", "json", *arguments).error["hint"] == f"see: {path} --help"
