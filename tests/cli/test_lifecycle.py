"""park, resume, close and rm through the real entry point."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import spawn_lash, started_turn
from support.prepared import OPEN, prepare


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The file a turn waits for; how fast the machine is decides nothing."""
    return tmp_path / "gate"


def crashed(home: Path, session: str, prompt: str, *options: str) -> None:
    process = started_turn(home, session, prompt, *options)
    process.kill()
    process.communicate()


def status(lash, session: str) -> str:
    word: str = lash("show", session, "-o", "json").json["status"]
    return word


def test_a_parked_session_is_resumed_where_it_was(lash, home) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "!text one", "-q")
    parked = lash("park", "s", "-o", "json")
    assert (parked.code, parked.json["kind"], parked.json["id"], parked.json["turns"]) == (0, "Parked", "s", 1)
    assert status(lash, "s") == "parked"
    resumed = lash("resume", "s", "-o", "json")
    assert (resumed.json["kind"], resumed.json["status"], resumed.json["parked_at"]) == ("Session", "idle", None)
    assert lash("resume", "s", "!text two", "-q").out == "two\n"
    assert [item["text"] for item in lash("log", "s", "--role", "assistant", "-o", "json").json["items"]] == [
        "one",
        "two",
    ]


def test_a_key_without_a_prompt_is_no_resume(lash, home) -> None:
    prepare(home, ("open", "one"))
    lash("park", "one")
    done = lash("resume", "one", "--key", "k", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (2, "", "usage")
    assert lash("show", "one", "-o", "json").json["status"] == "parked"


def test_a_turn_unparks_a_session(lash, home) -> None:
    prepare(home, OPEN)
    lash("park", "s")
    lash("turn", "s", "!text one", "-q")
    assert status(lash, "s") == "idle"


def test_a_session_with_a_running_turn_cannot_be_parked_closed_or_removed(lash, home: Path) -> None:
    prepare(home, OPEN)
    running = started_turn(home, "s", "!sleep 60")
    try:
        for arguments in (("park", "s"), ("close", "s"), ("rm", "s", "--yes")):
            done = lash(*arguments, "-o", "json")
            assert (done.code, done.out, done.error["code"]) == (75, "", "session_still_in_use")
            assert done.error["details"]["lease"]["holder"]["pid"] == running.pid
        waited = lash("park", "s", "--wait=100ms", "-o", "json")
        assert (waited.code, waited.error["code"]) == (124, "wait_timeout")
        busy = lash("resume", "s", "-o", "json")
        assert (busy.code, busy.out, busy.error["code"]) == (75, "", "session_execution_busy")
    finally:
        running.kill()
        running.communicate()


def test_park_wait_lets_the_turn_finish(lash, home: Path, gate: Path) -> None:
    prepare(home, OPEN)
    running = started_turn(home, "s", f"!wait-file {gate}\n!text done")
    parking = spawn_lash(["park", "s", "--wait"], home=home)
    gate.touch()
    assert running.communicate(timeout=60) and running.returncode == 0
    assert parking.communicate(timeout=60) and parking.returncode == 0
    shown = lash("show", "s", "-o", "json").json
    assert (shown["status"], shown["turns"]) == ("parked", 1)


def test_resume_finishes_an_interrupted_turn_under_its_own_id_and_prints_its_answer(
    lash, home: Path, gate: Path
) -> None:
    prepare(home, OPEN)
    crashed(home, "s", f"!wait-file {gate}\n!text finished at last", "--turn-id", "t_1")
    assert status(lash, "s") == "stuck"
    gate.touch()
    done = lash("resume", "s")
    assert (done.code, done.out) == (0, "finished at last\n")
    assert "finishing interrupted turn t_1" in done.err
    assert lash("show", "s", "--turn", "t_1", "-o", "json").json["state"] == "committed"
    again = lash("resume", "s", "-o", "json").json
    assert (again["status"], again["turns"]) == ("idle", 1)


def test_resume_as_json_is_the_result_of_the_interrupted_turn(lash, home: Path, gate: Path) -> None:
    prepare(home, OPEN)
    crashed(home, "s", f"!wait-file {gate}\n!text late", "--turn-id", "t_1")
    gate.touch()
    document = lash("resume", "s", "-o", "json").json
    assert (document["kind"], document["turn_id"], document["text"]) == ("TurnResult", "t_1", "late")


def test_parking_an_interrupted_session_warns_and_loses_nothing(lash, home: Path, gate: Path) -> None:
    prepare(home, OPEN)
    crashed(home, "s", f"!wait-file {gate}\n!text late", "--turn-id", "t_1")
    parked = lash("park", "s", "-o", "json")
    assert (parked.code, parked.json["unfinished_turn"]) == (0, "t_1")
    gate.touch()
    assert lash("resume", "s", "-q").out == "late\n"


def test_a_closed_session_takes_no_turns_until_it_is_resumed(lash, home) -> None:
    prepare(home, OPEN)
    lash("turn", "s", "!text one", "-q")
    closed = lash("close", "s", "-o", "json")
    assert (closed.code, closed.json["items"][0]["outcome"]) == (0, "closed")
    assert lash("close", "s", "-o", "json").json["items"][0]["outcome"] == "already_closed"
    refused = lash("turn", "s", "hi", "-o", "json")
    assert (refused.code, refused.out, refused.error["code"]) == (4, "", "session_closed")
    assert (lash("park", "s").code, lash("log", "s", "-o", "json").code) == (4, 0)
    lash("resume", "s")
    assert lash("turn", "s", "!text two", "-q").out == "two\n"


def test_open_reopens_a_closed_session(lash, home) -> None:
    prepare(home, OPEN)
    lash("close", "s")
    lash("open", "s")
    assert status(lash, "s") == "idle"


def test_rm_needs_a_yes_and_a_dry_run_only_tells(lash, home) -> None:
    prepare(home, OPEN)
    refused = lash("rm", "s", "-o", "json")
    assert (refused.code, refused.out, refused.error["code"]) == (2, "", "confirmation_required")
    assert lash("rm", "s", "--dry-run", "-o", "json").json["items"][0]["outcome"] == "would_delete"
    assert status(lash, "s") == "idle"
    done = lash("rm", "s", "--yes", "-o", "json")
    assert (done.code, done.json["kind"], done.json["items"][0]["outcome"]) == (0, "Deleted", "deleted")
    assert lash("ls", "-o", "json").json["items"] == []


def test_rm_takes_children_only_when_it_is_told_to_and_those_first(lash, home) -> None:
    prepare(home, ("open", "top"))
    for name, parent in (("left", "top"), ("right", "top"), ("deep", "left")):
        lash("open", name, "--parent", parent)
    lash("open", "apart")

    def told(*arguments: str) -> list[str]:
        return [item["id"] for item in lash("rm", *arguments, "--dry-run", "-o", "json").json["items"]]

    assert told("top") == ["top"]
    everything = told("top", "--with-children")
    assert set(everything) == {"top", "left", "right", "deep"} and everything[-1] == "top"
    assert everything.index("deep") < everything.index("left")
    assert told("left", "top", "--with-children")[:2] == ["deep", "left"]
    done = lash("rm", "left", "--with-children", "--yes", "-o", "json")
    assert [item["id"] for item in done.json["items"]] == ["deep", "left"]
    assert set(lash("ls", "-q").out.split()) == {"top", "right", "apart"}


def test_a_dry_run_without_a_database_makes_none(lash, home: Path) -> None:
    done = lash("rm", "s", "--dry-run", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (3, "", "session_not_found")
    assert not home.exists()


def test_a_deleted_id_is_never_used_again(lash, home) -> None:
    prepare(home, OPEN)
    lash("rm", "s", "--yes")
    for arguments in (
        ("open", "s"),
        ("show", "s"),
        ("turn", "s", "hi"),
        ("turn", "--or-open", "s", "hi"),
        ("rm", "s", "-y"),
    ):
        done = lash(*arguments, "-o", "json")
        assert (done.code, done.out, done.error["code"]) == (3, "", "session_deleted")


def test_a_name_that_does_not_resolve_stops_a_bulk_deletion_before_anything_is_done(lash, home) -> None:
    prepare(home, ("open", "a"))
    done = lash("rm", "a", "nope", "--yes", "-o", "json")
    assert (done.code, done.error["code"]) == (3, "session_not_found")
    assert status(lash, "a") == "idle"


@pytest.mark.parametrize("verb", [("rm", "--yes"), ("close",)])
def test_a_bulk_verb_that_could_do_only_some_is_exit_8_with_an_outcome_per_row(lash, home: Path, verb) -> None:
    prepare(home, ("open", "a"))
    lash("open", "b")
    running = started_turn(home, "b", "!sleep 60")
    try:
        done = lash(verb[0], "a", "b", "a", *verb[1:], "-o", "json")
    finally:
        running.kill()
        running.communicate()
    assert (done.code, done.out, done.error["code"]) == (8, "", "partial_outcome")
    rows = {row["id"]: (row["outcome"], row["code"]) for row in done.error["details"]["items"]}
    assert set(rows) == {"a", "b"} and rows["b"] == ("failed", "session_still_in_use")
    assert rows["a"][1] is None


def test_a_session_whose_owner_died_can_be_removed(lash, home: Path) -> None:
    prepare(home, OPEN)
    crashed(home, "s", "!sleep 60")
    assert lash("rm", "s", "--yes", "-o", "json").code == 0
