"""`lash enqueue`: a receipt that means the text is on disk, once per key (contract 08 §5.2, 02 §1.2–§1.3)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.cli import run_lash
from support.error_world import told
from support.queued import QueuedHome


@pytest.fixture
def world(home: Path) -> QueuedHome:
    return QueuedHome(home)


def test_the_receipt_says_where_the_text_waits_in_every_format(world: QueuedHome) -> None:
    done = world.lash("enqueue", "work", "first", "-o", "json")
    assert (done.code, done.err) == (0, "")
    document = done.json
    assert (document["schema"], document["kind"]) == ("lash/1", "PendingInput")
    assert (document["session"], document["session_name"], document["delivery"]) == ("s", "work", "next_turn")
    assert (document["state"], document["ingress"]) == ("deferred_next_turn", {"scope": "next_turn"})
    assert (document["items"], document["replayed"]) == ([{"type": "text", "text": "first", "label": None}], False)
    text = world.lash("queue", "add", "s", "second")
    identifier, _, words = text.out.strip().partition("  ")
    assert identifier.startswith("in_") and words == "queued for the next turn of work"
    assert "lash work work" in text.err
    assert world.lash("enqueue", "s", "third", "-q").out.strip().startswith("in_")
    assert world.lash("enqueue", "s", "fourth", "-o", "name").out.strip().startswith("in_")
    assert world.lash("enqueue", "s", "fifth", "--format", "{session}:{delivery}").out == "s:next_turn\n"
    assert world.lash("enqueue", "s", "sixth", "--fields", "preview", "-o", "json").json["preview"] == "sixth"
    assert world.waiting() == ["first", "second", "third", "fourth", "fifth", "sixth"]


def test_the_text_may_come_from_stdin_as_for_a_turn(world: QueuedHome, tmp_path: Path) -> None:
    assert world.lash("enqueue", "s", input="piped\n").code == 0
    assert world.lash("enqueue", "s", "-", input="also piped").code == 0
    (tmp_path / "notes").write_text("from a file")
    with (tmp_path / "notes").open("rb") as file:
        both = world.lash("enqueue", "s", "look at this", "-o", "json", stdin=file)
    assert [(item["text"], item["label"]) for item in both.json["items"]] == [
        ("look at this", None),
        ("from a file", "stdin"),
    ]
    read, write = os.pipe()
    try:
        silent = world.lash("enqueue", "s", "hi", "-o", "json", "-c", "input.stdin_wait=0.1", stdin=read)
    finally:
        os.close(read)
        os.close(write)
    told(silent, 2, "stdin_timeout")
    told(world.lash("enqueue", "s", " ", "-o", "json"), 2, "empty_prompt")
    assert world.waiting() == ["piped", "also piped", "look at thisfrom a file"]


def test_a_key_is_submitted_once_and_a_repeat_gets_the_same_receipt_with_its_present_state(world: QueuedHome) -> None:
    first = world.lash("enqueue", "s", "once", "--key", "k", "-o", "json").json
    again = world.lash("enqueue", "s", "once", "--key", "k", "-o", "json").json
    assert (first["id"], first["key"], first["replayed"]) == (again["id"], "k", False)
    assert (again["replayed"], again["state"]) == (True, "deferred_next_turn")
    assert "queued before" in world.lash("enqueue", "s", "once", "--key", "k").out
    error = told(world.lash("enqueue", "s", "changed", "--key", "k", "-o", "json"), 4, "source_key_conflict")
    assert error["details"] == {"session": "s", "source_key": "host:k", "existing_input_id": first["id"]}
    assert "key 'k' was used" in error["message"], "the key is told as it was given"
    world.take(turn_id="t_1")
    taken = world.lash("enqueue", "s", "once", "--key", "k", "-o", "json").json
    assert (taken["id"], taken["state"], taken["turn_id"]) == (first["id"], "accepted", "t_1")
    assert "accepted by turn t_1" in world.lash("enqueue", "s", "once", "--key", "k").out
    assert world.states() == {"once": "deferred_next_turn"}


def test_a_cancelled_text_stays_cancelled_under_its_key(world: QueuedHome) -> None:
    first = world.add("once", "--key", "k")
    assert world.lash("queue", "cancel", first).code == 0
    again = world.lash("enqueue", "s", "once", "--key", "k", "-o", "json").json
    assert (again["id"], again["state"]) == (first, "cancelled")
    assert world.waiting() == []


def test_two_sessions_may_use_the_same_key(world: QueuedHome) -> None:
    assert world.lash("open", "other").code == 0
    assert world.add("mine", "--key", "k") != world.add("theirs", "--key", "k", session="other")


def test_a_key_that_is_no_printable_text_is_refused(world: QueuedHome) -> None:
    for key in ("", "  ", "a\nb", "tab\there", "esc\x1b[0m", "bell\x07", "line\u2028end"):
        told(world.lash("enqueue", "s", "x", "--key", key, "-o", "json"), 2, "invalid_key")
    for key in ("", "line\u2028end"):
        told(world.lash("queue", "cancel", "--key", key, "--session", "s", "-o", "json"), 2, "invalid_key")
        told(world.lash("cancel-suffix", "s", "--key", key, "-o", "json"), 2, "invalid_key")
    assert world.states() == {}


def test_a_held_queue_takes_text_and_says_that_it_is_held(world: QueuedHome) -> None:
    assert world.lash("queue", "hold", "s").code == 0
    done = world.lash("enqueue", "s", "later")
    assert done.code == 0 and "lash queue release work" in done.err
    assert world.waiting() == ["later"]
    waited = world.lash("enqueue", "s", "and wait", "--wait=10ms")
    assert waited.code == 124 and "lash queue release work" in waited.err


def test_closed_deleted_and_unknown_sessions_take_nothing(world: QueuedHome) -> None:
    assert world.lash("open", "shut").code == world.lash("close", "shut").code == 0
    assert world.lash("open", "gone").code == world.lash("rm", "gone", "--yes").code == 0
    told(world.lash("enqueue", "shut", "x", "-o", "json"), 4, "session_closed")
    told(world.lash("enqueue", "gone", "x", "-o", "json"), 3, "session_deleted")
    unknown = told(world.lash("enqueue", "wrok", "x", "-o", "json"), 3, "session_not_found")
    assert unknown["details"]["nearest"] == ["work"]
    told(world.lash("enqueue", "-o", "json"), 2, "empty_prompt")


def test_a_home_without_a_database_gets_none(home: Path) -> None:
    for arguments in (
        ("enqueue", "s", "x"),
        ("queue", "ls", "s"),
        ("queue", "cancel", "in_1"),
        ("queue", "edit", "in_1", "--file", __file__),
        ("queue", "hold", "s"),
        ("cancel-suffix", "s", "in_1"),
        ("wait", "s"),
        ("set", "s", "name=n"),
        ("rm", "s", "--yes"),
        ("turn", "s", "x"),
        ("turn", "s", "--retry"),
        ("turn", "@last", "x", "--or-open"),
        ("resume", "s", "x"),
        ("work", "s", "--until-empty"),
        ("close", "s"),
        ("park", "s"),
        ("cancel", "s"),
        ("fork", "s"),
        ("rewind", "s", "--to", "root"),
        ("compact", "s"),
    ):
        assert run_lash(arguments, home=home).code == 3, arguments
        assert not home.exists(), arguments
    for arguments in (("turn", "no id", "x", "--or-open"), ("park",), ("resume",), ("cancel",), ("fork",)):
        assert run_lash(arguments, home=home).code == 2, arguments
    assert not home.exists()


def test_what_is_asked_of_a_session_before_there_is_one_says_how_to_make_it(home: Path) -> None:
    refused = run_lash(("turn", "notes", "!text x"), home=home)
    (hint,) = [line for line in refused.err.splitlines() if line.startswith("hint: ")]
    command = hint.rpartition("make one with: ")[2].split()
    assert command == ["lash", "open", "notes"]
    assert run_lash(command[1:], home=home).code == 0
    assert run_lash(("turn", "notes", "!text x", "-q"), home=home).out == "x\n"
    assert "make one with: lash open\n" in run_lash(("turn", "my notes", "x"), home=home.parent / "none").err


@pytest.mark.parametrize(
    "options",
    [
        "turn s x --or-open --provider unknown",
        "turn s x --or-open --system @/no/such/file",
        "turn s x --or-open --model dear --max-cost 1",
        "turn s x --or-open --provider p --model m",
        "turn s x --or-open --provider p --model m -c providers.p.key=cmd:false",
        "turn s x --or-open --provider p --model m -c providers.p.key=keyring:not-there",
        "open s -c defaults.provider=unknown",
    ],
)
def test_a_session_that_cannot_be_made_leaves_no_database_behind(home: Path, options: str) -> None:
    env = {"LASH_CFG__providers__p__key": "env:NOT_SET"}
    done = run_lash((*options.split(), "-o", "json"), home=home, env=env)
    assert done.code in (2, 5), done.err
    assert not home.exists()


def test_a_named_session_that_may_be_made_is_made_with_the_database(home: Path) -> None:
    assert run_lash(("turn", "s", "!text x", "--or-open", "-q"), home=home).out == "x\n"
    assert (home / "lash.db").exists()


def test_now_without_a_running_turn_is_refused_or_becomes_the_next_turn(world: QueuedHome) -> None:
    for options in (("--now",), ("--turn", "t_9"), ("--now", "--key", "k")):
        error = told(world.lash("enqueue", "s", "x", *options, "-o", "json"), 4, "no_active_turn")
        assert "--or-next" in error["hint"]
    assert world.states() == {}
    done = world.lash("enqueue", "s", "x", "--now", "--or-next", "-o", "json").json
    assert (done["delivery"], done["ingress"]) == ("next_turn", {"scope": "next_turn"})


def test_now_addresses_the_turn_that_runs(world: QueuedHome) -> None:
    world.add("start")
    world.take(turn_id="t_1")
    done = world.lash("enqueue", "s", "also", "--now", "-o", "json").json
    assert (done["delivery"], done["state"]) == ("this_turn", "pending_active")
    assert done["ingress"] == {"scope": "active_turn", "turn_id": "t_1", "min_boundary": "after_work"}
    late = world.lash("enqueue", "s", "last", "--turn", "t_1", "--boundary", "before_completion", "-o", "json").json
    assert late["ingress"]["min_boundary"] == "before_completion"
    told(world.lash("enqueue", "s", "x", "--turn", "t_2", "-o", "json"), 4, "no_active_turn")
    assert "enters turn t_1 of work" in world.lash("enqueue", "s", "more", "--now").out


def test_text_for_a_turn_that_nobody_runs_any_more_says_so(world: QueuedHome) -> None:
    world.add("start")
    world.take(turn_id="t_1", is_alive=False)
    done = world.lash("enqueue", "s", "also", "--now")
    assert done.code == 0 and "lash resume work" in done.err
    assert world.lash("resume", "s", "-q").code == 0
    assert world.states() == {"start": "completed", "also": "completed"}


def test_a_repeat_of_now_is_the_same_submission_whichever_turn_runs(world: QueuedHome) -> None:
    world.add("start")
    world.take(turn_id="t_1", is_alive=False)
    first = world.lash("enqueue", "s", "also", "--now", "--key", "k", "-o", "json").json
    again = world.lash("enqueue", "s", "also", "--now", "--key", "k", "-o", "json").json
    assert (first["id"], again["replayed"]) == (again["id"], True)
    told(world.lash("enqueue", "s", "changed", "--now", "--key", "k", "-o", "json"), 4, "source_key_conflict")
    assert world.lash("resume", "s").code == 0
    ended = world.lash("enqueue", "s", "also", "--now", "--key", "k", "-o", "json").json
    assert (ended["id"], ended["replayed"]) == (first["id"], True)
    told(world.lash("enqueue", "s", "changed", "--now", "--key", "k", "-o", "json"), 4, "no_active_turn")
    plain = world.lash("enqueue", "s", "also", "--key", "k", "-o", "json").json
    assert (plain["id"], plain["replayed"], plain["state"]) == (first["id"], True, "completed")
    error = told(world.lash("turn", "s", "also", "--key", "k", "-o", "json"), 4, "source_key_conflict")
    assert "another text" not in error["message"]
    assert error["hint"] == f"see what became of it: lash queue show {first['id']}"


def test_options_that_mean_nothing_are_usage_errors(world: QueuedHome) -> None:
    for options in (
        ("--boundary", "after_work"),
        ("--or-next",),
        ("--now", "--boundary", "sometime"),
        ("--wait=soon",),
        ("a third word",),
        ("--schema", "x"),
    ):
        told(world.lash("enqueue", "s", "x", *options, "-o", "json"), 2, "usage")
    assert world.states() == {}


def test_a_wait_that_nobody_ends_times_out_and_the_text_stays(world: QueuedHome) -> None:
    error = told(world.lash("enqueue", "s", "x", "--wait=100ms", "-o", "json"), 124, "wait_timeout")
    assert error["details"]["input"]["state"] == "deferred_next_turn"
    assert error["details"]["input"]["id"] in error["hint"]
    assert world.waiting() == ["x"]


def test_a_wait_behind_a_turn_that_nobody_drives_says_how_it_ends(world: QueuedHome) -> None:
    world.add("first")
    world.take(turn_id="t_1", is_alive=False)
    later = world.lash("enqueue", "s", "x", "--wait=50ms")
    assert later.code == 124 and "turn t_1 was interrupted; lash resume work finishes it" in later.err
    into_it = world.lash("enqueue", "s", "y", "--now", "--wait=50ms")
    assert into_it.code == 124 and into_it.err.count("lash resume") == 1


def test_a_wait_for_a_text_that_is_cancelled_ends_with_that(world: QueuedHome) -> None:
    waiting = world.spawn("enqueue", "s", "x", "--key", "k", "--wait", "-o", "json")
    while world.lash("queue", "cancel", "--key", "k", "--session", "s").code == 3:
        assert waiting.poll() is None
    error = told(world.ended(waiting), 7, "input_cancelled")
    assert error["details"]["input"]["state"] == "cancelled"
