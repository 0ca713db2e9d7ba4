"""`lash set`, `lash rename` and `lash label` through the real command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from support.cli import spawn_lash
from support.error_world import dump
from support.prepared import OPEN, prepare

ALIAS = {
    "LASH_CFG__models__quick__id": "loopback-2",
    "LASH_CFG__models__quick__reasoning": '{ disable = "omit" }',
}


def policy(lash: Any) -> dict[str, Any]:
    shown = lash("show", "s", "-o", "json").json
    return {**{key: shown["policy"][key] for key in ("provider", "max_steps", "system")}, "model": shown["model"]}


def test_what_a_session_runs_under_is_changed_for_good(lash: Any, home: Path, tmp_path: Path) -> None:
    prepare(home, ("open", "s", "--name", "old", "--system", "Be long."))
    done = lash("set", "s", "max_steps=3", "model=quick", "name=new", "-o", "json", env=ALIAS)
    assert done.code == 0, done.err
    assert (done.json["kind"], done.json["changed"]) == ("SessionSettings", ["name", "model", "max_steps"])
    assert policy(lash) == {"provider": "loopback", "max_steps": 3, "system": "Be long.", "model": "loopback-2"}
    assert lash("ls", "-o", "json").json["items"][0]["name"] == "new"
    (tmp_path / "prompt").write_text("Be brief.\n")
    assert lash("set", "new", f"system=@{tmp_path / 'prompt'}", "max_steps=none").code == 0
    assert policy(lash) == {"provider": "loopback", "max_steps": None, "system": "Be brief.", "model": "loopback-2"}
    assert lash("set", "s", "system=", "-o", "json").json["changed"] == ["system"]
    assert lash("set", "s", "system=", "-o", "json").json["changed"] == []
    assert policy(lash)["system"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("parent=other",), "never changes"),
        (("cwd=/tmp",), "never changes"),
        (("max_stepz=3",), "did you mean: max_steps"),
        (("max_steps=0",), "at least 1"),
        (("max_steps=many",), "at least 1"),
        ((f"max_steps={'9' * 5000}",), "at least 1"),
        (("label=a",), "lash label"),
        (("variant=",), "such as low"),
        (("temperature=warm",), "temperature is a number"),
        (("temperature=-1",), "at least 0"),
        (("temperature=nan",), "at least 0"),
        (("seed=1.5",), "seed is a number"),
        (("seed=1_000",), "seed is a number"),
        (("seed=٣",), "seed is a number"),
        (("seed= 5",), "seed is a number"),
        (("temperature=1_0",), "temperature is a number"),
        ((f"seed={'9' * 30}",), "64 bits"),
        (("stop=[1]",), "list of texts"),
        (('stop=["END", ""]',), "that are not empty"),
        (("nonsense",), "set needs KEY=VALUE, got 'nonsense'\nhint: for example: lash set SESSION max_steps=10\n"),
        (("name=@here",), "cannot be a session's name"),
    ],
)
def test_what_cannot_be_set_is_refused_and_nothing_is_changed(
    lash: Any, home: Path, arguments: tuple[str, ...], words: str
) -> None:
    prepare(home, ("open", "s", "--name", "kept"))
    before = dump(home / "lash.db")
    done = lash("set", "s", "max_steps=5", *arguments)
    assert (done.code, done.out) == (2, "") and words in done.err
    assert before is not None and dump(home / "lash.db") == before


def test_how_answers_are_drawn_is_changed_one_by_one_and_each_attempt_tells_what_became_of_it(lash: Any) -> None:
    def drawn() -> Any:
        return lash("show", "s", "-o", "json").json["policy"]["generation"]

    lash("open", "s", "--name", "kept")
    assert drawn() == {"temperature": None, "seed": None, "stop_sequences": None}
    done = lash("set", "s", "temperature=0.5", "stop=END", "-o", "json").json
    assert (done["temperature"], done["seed"], done["stop"]) == (0.5, None, ["END"])
    assert done["changed"] == ["temperature", "stop"]
    assert lash("set", "s", "seed=7", 'stop=["a", "\\n"]', "-o", "json").json["changed"] == ["seed", "stop"]
    assert drawn() == {"temperature": 0.5, "seed": 7, "stop_sequences": ["a", "\n"]}
    shown = lash("show", "s", "--policy").out
    assert all(line in shown for line in ("temperature 0.5", "seed        7", 'stop        ["a","\\n"]')), shown
    turn = lash("turn", "s", "hello", "-o", "json").json
    shown = lash("show", "s", "--turn", turn["turn_id"], "-o", "json").json
    assert shown["model_calls"] == turn["model_calls"]
    assert shown["model_calls"][0]["attempts"][0]["generation"] == dict.fromkeys(
        ("temperature", "seed", "stop_sequences"), "omitted"
    )
    assert lash("set", "s", "temperature=none", "stop=", "seed=none", "max_steps=3").code == 0
    assert drawn() == {"temperature": None, "seed": None, "stop_sequences": None}


def test_the_effort_of_the_model_is_changed_by_itself_and_with_a_model(lash: Any, home: Path) -> None:
    prepare(home, ("open", "s", "--name", "kept"))

    def variant() -> Any:
        return lash("show", "s", "-o", "json").json["policy"]["model"]["variant"]

    assert lash("set", "s", "variant=high", "-o", "json").json["changed"] == ["variant"]
    assert variant() == {"kind": "effort", "effort": "high"}
    done = lash("set", "s", "model=quick", "variant=off", "-o", "json", env=ALIAS).json
    assert (done["model"], done["variant"], done["changed"]) == ("loopback-2", "off", ["model", "variant"])
    assert variant() == {"kind": "disabled"}
    refused = lash("set", "s", "model=other", "variant=off", "-o", "json")
    assert (refused.code, refused.out, refused.error["code"]) == (5, "", "effort_required")
    assert lash("set", "s", "variant=default", "-o", "json").json["variant"] is None
    assert variant() == {"kind": "provider_default"}
    refused = lash("set", "s", "model=gpt-5.4-mini", "variant=enormous", "name=other", "-o", "json")
    assert (refused.code, refused.out, refused.error["code"]) == (5, "", "unsupported_effort")
    assert "has: " in refused.error["message"]
    assert lash("ls", "-o", "json").json["items"][0]["name"] == "kept"


def test_an_unknown_provider_is_refused_before_anything_else(lash: Any, home: Path) -> None:
    prepare(home, ("open", "s", "--name", "kept"))
    done = lash("set", "s", "provider=nobody", "name=other", "-o", "json")
    assert (done.code, done.error["code"]) == (5, "provider_unconfigured")
    assert lash("ls", "-o", "json").json["items"][0]["name"] == "kept"


def test_names_are_unique_and_a_taken_one_changes_nothing(lash: Any, home: Path) -> None:
    prepare(home, ("open", "s", "--name", "mine"))
    lash("open", "other", "--name", "theirs")
    for command in (("rename", "s", "theirs"), ("set", "s", "name=theirs", "max_steps=4")):
        done = lash(*command, "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (4, "", "session_name_taken")
    assert policy(lash)["max_steps"] is None
    assert lash("rename", "mine", "ours").code == 0
    assert lash("show", "ours", "-o", "json").json["id"] == "s"
    assert lash("show", "mine").code == 3
    assert lash("rename", "s", "ours", "-o", "json").json["changed"] == []
    assert lash("rename", "s", "-dash").code == 2


def test_labels_come_and_go(lash: Any, home: Path) -> None:
    prepare(home, ("open", "s", "--label", "old=1", "--label", "kept=2"))
    done = lash("label", "s", "area=billing", "old-", "eq=a=b", "-o", "json")
    assert done.json["labels"] == {"kept": "2", "area": "billing", "eq": "a=b"} and done.json["changed"] == ["labels"]
    assert lash("ls", "-q", "--label", "area=billing").out == "s\n"
    for bad in ("=x", "plain", "-x-", ""):
        assert lash("label", "s", "--", bad).code == (0 if bad == "-x-" else 2), bad
    assert lash("label", "nope", "a=b").code == 3


def test_names_and_labels_change_under_a_running_turn_and_the_policy_does_not(lash: Any, home: Path) -> None:
    prepare(home, OPEN)
    turn = spawn_lash(["turn", "s", "!sleep 60"], home=home)
    try:
        while lash("show", "s", "-o", "json").json["running_turn"] is None:
            pass
        assert lash("rename", "s", "busy").code == 0 and lash("label", "s", "a=b").code == 0
        done = lash("set", "s", "max_steps=2", "-o", "json")
        assert (done.code, done.error["code"], done.error["retryable"]) == (75, "session_execution_busy", True)
    finally:
        turn.kill()
        turn.communicate()


def test_a_command_that_is_shown_means_this_session_in_a_shell_whatever_its_name_is(lash, home, tmp_path) -> None:
    """A name may come with an import: what is pasted from the screen must not run it."""
    name = "x y; touch 'pwned' $(touch pwned) #"
    lash("open", "s", "--name", name)
    shown = [
        lash("turn", "s", "hello").err,
        lash("enqueue", "s", "later").err,
        lash("queue", "hold", "s").out,
        lash("queue", "ls", "s").err,
        lash("show", "s").out,
        lash("export", "s").err,
    ]
    commands = [text[text.index("lash ") :].splitlines()[0] for text in shown]
    for command in commands:
        words = shlex.split(command.partition(" --")[0])
        assert name in words, command


def test_a_name_that_is_the_id_of_another_session_would_never_mean_its_own(lash) -> None:
    lash("open", "other")
    lash("open", "s", "--name", "mine")
    for command in ("rename s other", "set s name=other", "open new --name other", "fork s --name other"):
        refused = lash(*command.split(), "-o", "json")
        assert (refused.code, refused.out, refused.error["code"]) == (4, "", "session_name_taken"), command
    refused = lash("set", "s", "max_steps=9", "name=other")
    assert (refused.code, policy(lash)["max_steps"]) == (4, None), "all of it or nothing"
    assert lash("rename", "s", "s").code == 0, "its own id is no other's"
    assert lash("show", "s", "-o", "json").json["id"] == "s"
