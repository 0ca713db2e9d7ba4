"""`lash tool ls`, `on` and `off` through the real command."""

from __future__ import annotations

import json
from typing import Any

import pytest


def states(lash: Any) -> dict[str, str]:
    return {item["name"]: item["state"] for item in lash("tool", "ls", "s", "-o", "json").json["items"]}


def test_a_tool_that_is_switched_off_stays_known_and_is_not_called(lash: Any) -> None:
    lash("open", "s", "--name", "fjord")
    assert set(states(lash).values()) == {"on"}
    done = lash("tool", "off", "fjord", "glob", "grep", "-o", "json")
    assert (done.code, done.json["kind"]) == (0, "ToolList")
    assert [(item["name"], item["state"]) for item in done.json["items"]] == [("glob", "off"), ("grep", "off")]
    assert states(lash)["glob"] == "off" and states(lash)["read_file"] == "on"
    assert "glob" not in {tool["name"] for tool in lash("show", "s", "--tools", "-o", "json").json["tools"]}
    turn = lash("turn", "s", '!tool glob {"pattern":"*"}', "-o", "json").json
    assert turn["tool_calls"][0]["status"] == "failure"
    assert lash("tool", "on", "s", "glob").code == 0
    turn = lash("turn", "s", '!tool glob {"pattern":"*"}', "-o", "json").json
    assert turn["tool_calls"][0]["status"] == "success"
    assert states(lash)["grep"] == "off", "the others stay as they were"


def test_an_unknown_tool_changes_none(lash: Any) -> None:
    lash("open", "s")
    done = lash("tool", "off", "s", "glob", "gerp", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (3, "", "tool_unknown")
    assert "grep" in done.error["hint"]
    assert set(states(lash).values()) == {"on"}


@pytest.mark.parametrize("verb", ["ls", "on", "off"])
def test_a_session_that_is_not_there_is_said_and_nothing_is_made(lash: Any, home: Any, verb: str) -> None:
    names = () if verb == "ls" else ("glob",)
    done = lash("tool", verb, "nope", *names, "-o", "json")
    assert (done.code, done.error["code"]) == (3, "session_not_found")
    assert not home.exists()


def test_names_are_what_a_script_gets(lash: Any) -> None:
    lash("open", "s")
    names = lash("tool", "ls", "s", "-q").out.split()
    assert {"read_file", "exec_command"} <= set(names)
    lines = [json.loads(line) for line in lash("tool", "ls", "-o", "jsonl", env={"LASH_SESSION": "s"}).out.splitlines()]
    assert [line["name"] for line in lines] == names
    assert lash("tool", "off", "s", "glob", "--format", "{name} {state}").out == "glob off\n"
