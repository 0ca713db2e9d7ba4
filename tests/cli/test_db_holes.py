"""A session that lacks a message in the middle goes on in a fork from before the hole (contract 01 §10)."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest


def delete_nodes(home, *seqs):
    with closing(sqlite3.connect(home / "lash.db")) as connection, connection:
        connection.executemany("DELETE FROM nodes WHERE seq = ?", [(seq,) for seq in seqs])


def texts(lash, session):
    """What is said in `session`, by either side."""
    return [one["text"] for one in lash("log", session, "-o", "json").json["items"]]


@pytest.fixture
def messages(lash):
    """The ids of a session of three turns, oldest first."""
    lash("open", "s")
    for text in ("one", "two", "three"):
        assert lash("turn", "s", f"!text {text}").code == 0
    return [one["id"] for one in lash("tree", "s", "-o", "json").json["items"]]


def way_on(lash, session="s"):
    """What a check names for `session`: the message, and the arguments of the command."""
    document = lash("db", "check", "-o", "json").json
    (broken,) = (one for one in document["broken"] if one["session"] == session)
    assert broken["code"] == "path_broken"
    said = lash("db", "check").out
    commands = [line.split(": lash ")[1].split() for line in said.splitlines() if "what is missing" in line]
    return broken["whole_until"], [one for one in commands if one[1] == session]


@pytest.mark.parametrize(("gone", "kept"), [((4,), 3), ((4, 5), 3), ((5,), 4), ((2,), 1), ((2, 4), 1)])
def test_a_check_names_the_last_message_before_a_hole_and_a_fork_of_it_is_whole(lash, home, messages, gone, kept):
    delete_nodes(home, *gone)
    refused = lash("turn", "s", "!text lost", "-o", "json")
    assert refused.code == 9 and json.loads(refused.err)["code"] == "store_corrupt"
    whole_until, commands = way_on(lash)
    assert whole_until == messages[kept - 1]
    assert commands == [["fork", "s", "--at", whole_until]]
    fork = lash(*commands[0], "-o", "json").json["id"]
    before = texts(lash, fork)
    assert len(before) == kept
    assert lash("turn", fork, "!text more").code == 0
    assert texts(lash, fork) == [*before, "!text more", "more"]
    assert len(lash("tree", fork, "-o", "json").json["items"]) == kept + 2
    assert lash("export", fork, "--as", "json", "--out", str(home / "fork.json")).code == 0
    assert lash("db", "check").code == 9, "what is broken is so until it is removed"
    assert lash("rm", "s", "--yes").code == 0
    assert lash("db", "check").code == 0
    assert texts(lash, fork)[:kept] == before


def test_a_hole_in_what_a_fork_shares_is_told_for_both_and_each_goes_on(lash, home, messages):
    fork = lash("fork", "s", "--name", "branch", "-o", "json").json["id"]
    assert lash("turn", fork, "!text four").code == 0
    delete_nodes(home, 3)
    for session in ("s", fork):
        whole_until, ((*command,),) = way_on(lash, session)
        assert whole_until == messages[1]
        whole = lash(*command, "-o", "json").json["id"]
        assert lash("turn", whole, "!text more").code == 0
        assert lash("rm", session, "--yes").code == 0
    assert lash("db", "check").code == 0


def test_where_the_first_message_is_gone_nothing_is_named(lash, home, messages):
    delete_nodes(home, 1)
    assert way_on(lash) == (None, [])


def test_a_way_on_is_a_command_for_the_home_that_was_asked_for(lash, home, messages):
    delete_nodes(home, 4)
    said = lash("--home", str(home), "db", "check").out
    assert f"lash --home {home} fork s --at {messages[2]}" in said
