"""A session that lacks a message in the middle goes on in a fork from before the hole; where its head was moved away
from it, nothing that is left is passed over in silence (contract 01 §8.2, §10)."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from support.cli import run_lash
from support.prepared import OPEN, prepare


def change(home, statement, *rows):
    with closing(sqlite3.connect(home / "lash.db")) as connection, connection:
        connection.executemany(statement, rows or [()])


def delete_nodes(home, *seqs):
    change(home, "DELETE FROM nodes WHERE seq = ?", *[(seq,) for seq in seqs])


def texts(lash, session):
    """What is said in `session`, by either side."""
    return [one["text"] for one in lash("log", session, "-o", "json").json["items"]]


TURNS = tuple(("turn", "s", f"!text {text}") for text in ("one", "two", "three"))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The ids of what is said in the session of `messages`."""
    home = prepare(tmp_path_factory.mktemp("said") / "home", OPEN, *TURNS)
    return [one["id"] for one in run_lash(("tree", "s", "-o", "json"), home=home).json["items"]]


@pytest.fixture
def messages(home, said):
    """The ids of a session of three turns, oldest first."""
    prepare(home, OPEN, *TURNS)
    return said


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


@pytest.fixture(params=["gone", "hidden"])
def cut_off(request, lash, home, messages):
    """The ids of what hangs below a message that is missing, in a session whose head was moved before it by hand."""
    if request.param == "gone":
        delete_nodes(home, 4)
    else:
        change(home, "UPDATE nodes SET tombstoned = 1 WHERE seq = 4")
    assert lash("rewind", "s", "--to", messages[2]).code == 0
    return messages[4:]


def test_where_the_head_was_moved_away_from_a_hole_a_check_names_a_fork_that_leaves_it_behind(lash, home, cut_off):
    document = lash("db", "check", "-o", "json")
    assert document.code == 9
    assert [(one["code"], one["session"]) for one in document.json["broken"]] == [("node_cut_off", "s")]
    (line,) = (one for one in lash("db", "check").out.splitlines() if "cut off" in one and "lash fork" in one)
    fork = lash(*line.split(": lash ")[1].split(), "-o", "json").json["id"]
    before = texts(lash, "s")
    assert texts(lash, fork) == before and len(before) == 3
    assert lash("turn", fork, "!text more").code == 0
    assert len(lash("tree", fork, "-o", "json").json["items"]) == 5
    exported = lash("export", fork, "--as", "json")
    assert exported.code == 0 and "cut off" not in exported.err
    assert lash("rm", "s", "--yes").code == 0
    assert lash("db", "check").code == 0
    assert texts(lash, fork) == [*before, "!text more", "more"]


def test_such_a_session_goes_on_and_its_tree_shows_what_is_cut_off_apart(lash, messages, cut_off):
    assert lash("turn", "s", "!text on").code == 0
    tree = lash("tree", "s", "-o", "json")
    assert tree.code == 0
    assert [one["id"] for one in tree.json["items"]][:3] == messages[:3]
    assert [one["preview"] for one in tree.json["items"]][3:] == ["!text on", "on"]
    below = tree.json["cut_off"]
    assert [(one["id"], one["parent"], one["preview"]) for one in below] == [
        (cut_off[0], None, "!text three"),
        (cut_off[1], cut_off[0], "three"),
    ]
    assert not any(one["active"] or one["head"] for one in below)
    (notice,) = map(json.loads, tree.err.splitlines())
    assert notice["code"] == "node_cut_off" and "lash db check" in notice["message"]
    assert lash("tree", "s", "-o", "jsonl").json["cut_off"] == below
    shown = lash("tree", "s").out
    assert shown.index(" cut off,") < shown.index(cut_off[0]) < shown.index(cut_off[1])
    names = lash("tree", "s", "-q")
    assert set(names.out.split()) == {one["id"] for one in tree.json["items"]}, "where a session can go on"
    assert "cut off" in names.err


def test_nothing_goes_on_from_what_is_cut_off_and_that_is_said_beforehand(lash, messages, cut_off):
    before = lash("show", "s", "-o", "json").json["head"]
    turn = cut_off[1].partition(".")[0]
    for words in (
        *(("rewind", "s", "--to", node) for node in cut_off),
        *(("fork", "s", "--at", node) for node in (*cut_off, turn)),
    ):
        done = lash(*words, "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (4, "", "node_cut_off"), words
        assert done.error["hint"].endswith("lash db check") and done.error["details"]["session"] == "s"
    assert lash("show", "s", "-o", "json").json["head"] == before
    assert lash("ls", "-q").out.split() == ["s"]
    assert lash("rewind", "s", "--to", messages[1]).code == 0
    assert lash("fork", "s", "--at", messages[2]).code == 0


def test_a_fork_that_shares_a_hole_is_not_rewound_to_what_is_below_it(lash, home, messages):
    fork = lash("fork", "s", "-o", "json").json["id"]
    assert lash("turn", fork, "!text four").code == 0
    delete_nodes(home, 3)
    assert lash("rewind", fork, "--to", messages[1]).code == 0
    for node in messages[3:]:
        done = lash("rewind", fork, "--to", node, "-o", "json")
        assert (done.code, done.error["code"]) == (4, "node_cut_off")


def test_a_session_rewound_to_before_everything_says_of_all_that_is_left_that_it_is_cut_off(lash, home, messages):
    delete_nodes(home, 1)
    assert lash("rewind", "s", "--to", "root").code == 0
    tree = lash("tree", "s", "-o", "json").json
    assert (tree["items"], [one["id"] for one in tree["cut_off"]]) == ([], messages[1:])
    shown = lash("tree", "s").out
    assert "nothing was said" not in shown and all(one in shown for one in messages[1:])
    assert [one["code"] for one in lash("db", "check", "-o", "json").json["broken"]] == ["node_cut_off"]


def test_an_export_keeps_what_is_cut_off_beside_the_session_and_an_import_says_that_it_stays_there(
    lash, home, messages, cut_off
):
    file = home / "s.json"
    exported = lash("export", "s", "--out", str(file), "-o", "json")
    assert exported.code == 0
    assert exported.json["sessions"][0]["cut_off"] == 2
    assert "node_cut_off" in [json.loads(line)["code"] for line in exported.err.splitlines()]
    document = json.loads(file.read_text())
    head = document["sessions"][0]["head"]
    assert [node["node_id"] for node in head["nodes"]] == messages[:3]
    assert [node["node_id"] for node in head["cut_off"]] == cut_off
    imported = lash("import", str(file), "--id", "again")
    assert imported.code == 0 and "2 nodes" in imported.err and "cut off" in imported.err
    assert texts(lash, "again") == texts(lash, "s")
    assert lash("tree", "again", "-o", "json").json["cut_off"] == []
    assert lash("turn", "again", "!text more").code == 0
    assert lash("rm", "s", "--yes").code == 0
    assert lash("db", "check").code == 0


def test_an_older_lash_is_told_that_it_cannot_read_an_export_with_something_cut_off(lash, home, messages, cut_off):
    assert lash("export", "s", "--as", "json").json["format"] == 3
    fork = lash("fork", "s", "-o", "json").json["id"]
    assert lash("export", fork, "--as", "json").json["format"] == 2
    assert "cut_off" not in lash("export", fork, "--as", "json").json["sessions"][0]["head"]


def test_an_export_that_has_the_path_only_says_what_is_cut_off(lash, messages, cut_off):
    for form in ("md", "html", "jsonl"):
        exported = lash("export", "s", "--as", form)
        assert exported.code == 0 and "two" in exported.out and "three" not in exported.out, form
        assert "2 nodes are cut off" in exported.err and "not exported" in exported.err, form


def test_a_turn_that_is_cut_off_can_be_read_as_far_as_it_is_whole(lash, home, messages):
    lash("turn", "s", "!text four", "--turn-id", "four")
    delete_nodes(home, 4)
    assert lash("rewind", "s", "--to", messages[2]).code == 0
    items = lash("log", "s", "--turn", "four", "-o", "json").json["items"]
    assert [one["text"] for one in items] == ["!text four", "four"]


def test_a_fork_is_told_of_a_hole_in_what_it_shares_after_its_head_was_moved(lash, home, messages):
    fork = lash("fork", "s", "--name", "branch", "-o", "json").json["id"]
    assert lash("turn", fork, "!text four").code == 0
    assert lash("rewind", fork, "--to", messages[1]).code == 0
    assert lash("rm", "s", "--yes").code == 0
    delete_nodes(home, 3)
    assert [(one["code"], one["session"]) for one in lash("db", "check", "-o", "json").json["broken"]] == [
        ("node_cut_off", fork)
    ]
    tree = lash("tree", fork, "-o", "json").json
    assert [one["id"] for one in tree["items"]] == messages[:2]
    assert [one["id"] for one in tree["cut_off"]][:3] == messages[3:] and len(tree["cut_off"]) == 5
    assert lash("export", fork, "--as", "json", "--out", str(home / "fork.json")).code == 0
    whole = lash("fork", fork, "-o", "json").json["id"]
    assert lash("rm", fork, "--yes").code == 0
    assert lash("db", "check").code == 0
    assert texts(lash, whole) == ["!text one", "one"]
