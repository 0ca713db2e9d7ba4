"""A command that is named on the way is of the home, database and profile of this one: it works when it is pasted."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from support.cli import run_lash

# A command in a text, up to what is no word of it any more.
NAMED = re.compile(r"(?:^|[\s(])(lash .*?)(?=$|[;,)]|\n| finishes)", re.MULTILINE)


@pytest.fixture
def elsewhere(tmp_path):
    """The words that lead to a home which nothing in the environment knows."""
    return ("--home", str(tmp_path / "another home"))


@pytest.fixture
def world(lash, elsewhere, tmp_path):
    """Session `s`, called fjord, with one text in its queue."""

    def run(*args, **options):
        return lash(*args, *elsewhere, env={"LASH_HOME": str(tmp_path / "empty")}, **options)

    assert run("open", "s", "--name", "fjord").code == 0
    assert run("enqueue", "s", "!text waits").code == 0
    return run


def named(text):
    """The commands that a text names, as words."""
    return [shlex.split(found) for found in NAMED.findall(text)]


def pasted(words, tmp_path):
    """What a command does when it is pasted into the same shell."""
    assert words[0] == "lash"
    return run_lash(words[1:], home=tmp_path / "empty")


def test_the_hint_of_an_error_can_be_pasted(world, elsewhere, tmp_path):
    failed = world("open", "s", "--new")
    (command,) = named(failed.err.partition("hint: ")[2])
    assert command == ["lash", *elsewhere, "show", "s"]
    assert pasted(command, tmp_path).code == 0
    as_json = world("open", "s", "--new", "-o", "json")
    assert named(as_json.error["hint"]) == [command]


def test_a_note_can_be_pasted(world, tmp_path):
    noted = world("enqueue", "s", "!text more")
    (command,) = named(noted.err)
    assert pasted(command, tmp_path).code == 0
    assert world("queue", "ls", "s", "-o", "json").json["items"] == []


def test_what_an_answer_names_as_the_next_command_can_be_pasted(world, elsewhere, tmp_path):
    shown = world("show", "s").out
    (work,) = named(re.search(r"next +(.*)", shown)[1])
    assert work[1:3] == list(elsewhere)
    (release,) = named(world("queue", "hold", "s").out.partition("next: ")[2])
    assert pasted(release, tmp_path).code == 0
    assert pasted(work, tmp_path).code == 0
    (resume,) = named(world("park", "s").out.partition("next: ")[2])
    assert pasted(resume, tmp_path).code == 0


def test_what_doctor_finds_is_mended_by_the_command_it_names(world, tmp_path):
    world("queue", "hold", "s")
    (finding,) = [one for one in world("doctor", "-o", "json").json["findings"] if one["code"] == "queue_held"]
    (command,) = named(finding["hint"])
    assert pasted(command, tmp_path).code == 0
    assert world("show", "s", "-o", "json").json["held_at"] is None


def test_a_name_and_a_path_that_hold_a_command_stay_as_they_are(lash, tmp_path):
    home = str(tmp_path / "my lash notes")
    opened = lash("--home", home, "open", "s", "--name", "the lash turn")
    assert opened.err == "created session the lash turn\n"
    assert f"lash --home '{home}' turn 'the lash turn'" in lash("--home", home, "turn", "s", "!text x").err
    assert f"in {home}/config.toml" in lash("--home", home, "config", "set", "defaults.model", "m").err


def test_a_database_and_a_profile_are_named_too(lash, tmp_path):
    place = ("--db", str(tmp_path / "own.db"), "--profile", "ci")
    lash("config", "set", "profiles.ci.defaults.output", "text")
    failed = lash("show", "nobody", *place)
    assert named(failed.err.partition("hint: ")[2])[0][:5] == ["lash", *place]


@pytest.mark.parametrize("arguments", [("show", "--bogus"), ("shwo",), ("help", "quikstart")])
def test_help_needs_no_place(world, elsewhere, arguments):
    hint = world(*arguments).err.partition("hint: ")[2]
    assert elsewhere[0] not in hint or arguments == ("shwo",)
    assert "lash " in hint


def test_without_such_an_option_a_command_is_named_as_short_as_it_is(lash):
    lash("open", "s")
    assert "look at it with: lash show s\n" in lash("open", "s", "--new").err


@pytest.mark.parametrize("name", ["my lash log", "it's a lash log"])
def test_neither_a_name_nor_a_place_is_taken_for_a_command(lash, tmp_path, name):
    place = ("--home", str(tmp_path / "the lash home"))
    for verb in (("open", "s", "--name", name), ("enqueue", "s", "!text waits"), ("queue", "hold", "s")):
        held = lash(*verb, *place)
    release = shlex.join(["lash", *place, "queue", "release", name])
    assert held.out.endswith(f"; next: {release}\n")
    assert f": {release}\n" in lash("enqueue", "s", "!text more", *place).err
    assert f" {shlex.join(['lash', *place, 'resume', name])}\n" in lash("park", "s", *place).out


def test_what_others_wrote_is_told_as_it_is(world, tmp_path):
    written = 'cd / && lash ls; echo "(lash show x)"'
    world("open", "t")
    told = world("turn", "t", f"!tool exec_command {json.dumps({'cmd': written})}", "--approve", "execute=never").err
    assert json.dumps(written)[1:-1] in told
    world("queue", "hold", "s", "--reason", "until lash work is asked for")
    assert "until lash work is asked for;" in world("queue", "ls", "s").err
    project = tmp_path / "project" / ".lash"
    project.mkdir(parents=True)
    (project / "config.toml").write_text("[providers.p]\nkind = 'openai_chat'\nkey = 'cmd:x; lash key get p'\n")
    assert "x; lash key get p" in world("config", "trust", cwd=project.parent).err
