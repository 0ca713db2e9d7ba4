"""Cancelling inputs: one shape of outcomes, one transaction, one exit status (contract 08 §5.3)."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from support.cli import Result
from support.error_world import told
from support.queued import QueuedHome


@pytest.fixture
def world(home: Path) -> QueuedHome:
    return QueuedHome(home)


def outcomes(done: Result) -> list[tuple[str | None, str]]:
    """What became of each target, whether the command succeeded or not."""
    items = done.json["items"] if done.code == 0 else done.error["details"]["items"]
    for item in items:
        assert set(item) == {"id", "target", "outcome", "preview", "input", "claim"}
        assert (item["input"] is None) == (item["outcome"] == "not_found")
        assert (item["claim"] is not None) == (item["outcome"] == "already_claimed")
    return [(item["id"], item["outcome"]) for item in items]


def used(world: QueuedHome) -> str:
    """An input that a committed turn used."""
    one = world.add("used")
    world.take(turn_id="t_used", is_alive=False)
    assert world.lash("resume", "s", "-q").code == 0
    return one


def test_everything_cancelled_is_success_in_every_format(world: QueuedHome) -> None:
    one, two, three, four = (world.add(text) for text in ("a", "b", "c", "d"))
    done = world.lash("queue", "cancel", one, two, "-o", "json")
    assert (done.code, done.json["kind"]) == (0, "CancelOutcomeList")
    assert outcomes(done) == [(one, "cancelled"), (two, "cancelled")]
    assert done.json["items"][0]["target"] == {"kind": "input_id", "value": one}
    assert done.json["items"][0]["input"]["state"] == "cancelled"
    text = world.lash("queue", "cancel", three).out.splitlines()
    assert text[1].split() == ["cancelled", three, "c"]
    assert world.lash("queue", "cancel", four, "-q").out == f"{four}\n"
    assert world.waiting() == []


def test_a_repeated_target_was_cancelled_the_second_time_and_that_is_success(world: QueuedHome) -> None:
    one = world.add("a")
    done = world.lash("queue", "cancel", one, one, "-o", "json")
    assert outcomes(done) == [(one, "cancelled"), (one, "already_cancelled")]
    assert world.lash("queue", "cancel", one).code == 0


def test_some_but_not_all_is_a_partial_outcome_and_keeps_the_callers_order(world: QueuedHome) -> None:
    claimed = world.add("in use", "--key", "k")
    world.take(turn_id="t_1")
    free = world.add("free")
    done = world.lash("queue", "cancel", "in_nope", free, claimed, "-o", "json")
    told(done, 8, "partial_outcome")
    assert outcomes(done) == [(None, "not_found"), (free, "cancelled"), (claimed, "already_claimed")]
    claim = done.error["details"]["items"][2]["claim"]
    assert (claim["turn_id"], claim["generation"]) == ("t_1", 1) and claim["claim_id"]
    assert world.states() == {"in use": "deferred_next_turn", "free": "cancelled"}
    people = world.lash("queue", "cancel", free, claimed)
    assert (people.code, people.out) == (8, "")
    assert f"already_claimed  {claimed}  in use  (turn t_1)\n" in people.err


def test_none_because_all_are_in_use_is_that_conflict(world: QueuedHome) -> None:
    claimed = world.add("in use")
    world.take(turn_id="t_1")
    before = world.states()
    for arguments in ((claimed,), (claimed, "in_nope")):
        told(world.lash("queue", "cancel", *arguments, "-o", "json"), 4, "input_already_claimed")
    assert world.states() == before


def test_none_because_all_were_used_is_that_conflict(world: QueuedHome) -> None:
    one = used(world)
    done = world.lash("queue", "cancel", one, "-o", "json")
    told(done, 4, "input_already_completed")
    assert outcomes(done) == [(one, "already_completed")]
    assert world.states() == {"used": "completed"}


def test_none_because_nothing_was_found_is_not_found(world: QueuedHome) -> None:
    world.add("stays")
    done = world.lash("queue", "cancel", "in_nope", "in_no", "-o", "json")
    told(done, 3, "input_not_found")
    assert outcomes(done) == [(None, "not_found")] * 2
    assert world.waiting() == ["stays"]


def test_an_empty_set_is_a_usage_error(world: QueuedHome) -> None:
    told(world.lash("queue", "cancel", "-o", "json"), 2, "usage")
    told(world.lash("queue", "cancel", "--session", "s", "-o", "json"), 2, "usage")


def test_a_key_names_an_input_of_one_session(world: QueuedHome) -> None:
    one = world.add("a", "--key", "k")
    told(world.lash("queue", "cancel", "--key", "k", "-o", "json"), 2, "usage")
    told(world.lash("queue", "cancel", "--key", "other", "--session", "s", "-o", "json"), 3, "input_not_found")
    done = world.lash("queue", "cancel", "--key", "k", "--session", "s", "-o", "json")
    assert outcomes(done) == [(one, "cancelled")]
    assert done.json["items"][0]["target"] == {"kind": "source_key", "value": "host:k"}
    two = world.add("b", "--key", "l")
    assert outcomes(world.lash("queue", "cancel", "--key", "l", "-o", "json", env={"LASH_SESSION": "s"})) == [
        (two, "cancelled")
    ]


def test_inputs_of_several_sessions_are_no_set(world: QueuedHome) -> None:
    assert world.lash("open", "other").code == 0
    mine, theirs = world.add("mine"), world.add("theirs", session="other")
    error = told(world.lash("queue", "cancel", mine, theirs, "-o", "json"), 2, "usage")
    assert error["details"]["sessions"] == ["other", "s"]
    done = world.lash("queue", "cancel", mine, theirs, "--session", "s", "-o", "json")
    assert outcomes(done) == [(mine, "cancelled"), (None, "not_found")]
    assert world.waiting("other") == ["theirs"]


@pytest.mark.parametrize("verb", [("cancel-suffix",), ("queue", "cancel-suffix")], ids=" ".join)
def test_a_suffix_goes_from_its_anchor_on(world: QueuedHome, verb: tuple[str, ...]) -> None:
    one, two, three = (world.add(text) for text in ("a", "b", "c"))
    done = world.lash(*verb, "work", two, "-o", "json")
    assert outcomes(done) == [(two, "cancelled"), (three, "cancelled")]
    assert world.waiting() == ["a"]
    assert outcomes(world.lash(*verb, "s", one, "-o", "json")) == [
        (one, "cancelled"),
        (two, "already_cancelled"),
        (three, "already_cancelled"),
    ]


def test_an_anchor_may_be_named_by_its_key(world: QueuedHome) -> None:
    world.add("a")
    two = world.add("b", "--key", "k")
    assert outcomes(world.lash("cancel-suffix", "s", "--key", "k", "-o", "json")) == [(two, "cancelled")]


def test_a_claimed_anchor_is_left_and_what_is_behind_it_goes(world: QueuedHome) -> None:
    claimed = world.add("in use")
    world.take(turn_id="t_1")
    free = world.add("free")
    done = world.lash("cancel-suffix", "s", claimed, "-o", "json")
    told(done, 8, "partial_outcome")
    assert outcomes(done) == [(claimed, "already_claimed"), (free, "cancelled")]


def test_a_suffix_that_is_all_in_use_is_that_conflict(world: QueuedHome) -> None:
    claimed = world.add("in use")
    world.take(turn_id="t_1")
    told(world.lash("cancel-suffix", "s", claimed, "-o", "json"), 4, "input_already_claimed")


def test_a_completed_anchor_is_only_a_place(world: QueuedHome) -> None:
    one = used(world)
    two = world.add("waits")
    done = world.lash("cancel-suffix", "s", one, "-o", "json")
    told(done, 8, "partial_outcome")
    assert outcomes(done) == [(one, "already_completed"), (two, "cancelled")]


def test_a_cancelled_anchor_is_only_a_place(world: QueuedHome) -> None:
    one, two = world.add("a"), world.add("b")
    assert world.lash("queue", "cancel", one).code == 0
    done = world.lash("cancel-suffix", "s", one, "-o", "json")
    assert outcomes(done) == [(one, "already_cancelled"), (two, "cancelled")]


def test_a_missing_anchor_changes_nothing(world: QueuedHome) -> None:
    world.add("stays")
    for anchor in (("in_nope",), ("--key", "nope")):
        error = told(world.lash("cancel-suffix", "s", *anchor, "-o", "json"), 3, "input_not_found")
        assert (error["details"]["outcome"], error["details"]["items"]) == ("anchor_not_found", [])
    told(world.lash("cancel-suffix", "s", "-o", "json"), 2, "usage")
    told(world.lash("cancel-suffix", "s", "in_1", "--key", "k", "-o", "json"), 2, "usage")
    told(world.lash("cancel-suffix", "nowhere", "in_1", "-o", "json"), 3, "session_not_found")
    assert world.waiting() == ["stays"]


def test_what_enters_a_running_turn_is_part_of_the_suffix(world: QueuedHome) -> None:
    world.add("start")
    world.take(turn_id="t_1")
    now = world.add("into the turn", "--now")
    following = world.add("next")
    done = world.lash("cancel-suffix", "s", now, "-o", "json")
    assert outcomes(done) == [(now, "cancelled"), (following, "cancelled")]


def test_a_text_that_does_not_decode_is_cancelled_as_its_error_says(world: QueuedHome) -> None:
    one, two = world.add("x"), world.add("y")
    world.garble(one)
    failed = world.lash("queue", "ls", "s")
    assert failed.code == 9
    hint = failed.err.splitlines()[-1]
    assert hint == f"hint: take it out of the queue with: lash queue cancel {one}"
    done = world.lash(*hint.rpartition("lash ")[2].split(), "-o", "json")
    assert (done.code, [item["outcome"] for item in done.json["items"]]) == (0, ["cancelled"])
    assert world.lash("queue", "ls", "s", "-o", "name").out.split() == [two]


@pytest.mark.parametrize("turn_id", ["t_1", "the first; one"])
def test_a_text_that_does_not_decode_and_an_unfinished_turn_holds_is_rid_of_as_its_error_says(
    world: QueuedHome, turn_id: str
) -> None:
    one, two = world.add("x"), world.add("y")
    world.take(turn_id=turn_id, max_inputs=1, is_alive=False)
    world.garble(one)
    for refused in (world.lash("turn", "s", "hi"), world.lash("resume", "s")):
        assert refused.code == 9
    commands = [part.partition("; then ")[0] for part in refused.err.splitlines()[-1].split("with: lash ")[1:]]
    for command in commands:
        done = world.lash(*shlex.split(command))
        assert done.code == 0, (command, done.err)
    assert [shlex.split(command)[1] for command in commands] == ["abandon", "cancel"]
    assert world.lash("queue", "ls", "s", "-o", "name").out.split() == [two]
