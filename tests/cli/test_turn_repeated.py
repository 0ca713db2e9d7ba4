"""`lash turn` with a key that was used before, when its answer is not kept any more (contract 01 §7, 08 §6.5)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.hiding import hide_what_was_left


@pytest.fixture
def repeat(lash, home: Path):
    """Repeats a key whose answer is gone, with the given options."""
    assert lash("open", "s").code == 0
    first = json.loads(lash("turn", "s", "!text one", "-o", "json").out)
    assert lash("turn", "s", "!text two", "--key", "k").out == "two\n"
    node = json.loads(lash("show", "s", "--turn", first["turn_id"], "-o", "json").out)["last_node"]
    assert lash("rewind", "s", "--to", node).code == 0
    hide_what_was_left(home / "lash.db", "s")
    return lambda *options: lash("turn", "s", "!text two", "--key", "k", *options)


@pytest.mark.parametrize("options", [(), ("-q",)])
def test_a_person_is_told_that_the_answer_of_a_repeated_key_is_gone(repeat, options: tuple[str, ...]) -> None:
    told = repeat(*options)
    assert (told.code, told.out.strip()) == (0, "")
    assert "warning: the answer of this turn is not in the session any more\n" in told.err


def test_a_program_finds_it_among_the_errors_of_the_turn(repeat) -> None:
    told = repeat("-o", "json")
    document = json.loads(told.out)
    assert (document["text"], document["replayed"]) == ("", True)
    assert [issue["code"] for issue in document["errors"]] == ["answer_not_kept"]
    assert "not in the session any more" not in told.err


def test_a_repeat_tells_that_the_turn_was_cancelled_and_not_that_its_own_time_is_up(lash) -> None:
    assert lash("open", "s").code == 0
    first = lash("turn", "s", "!sleep 30", "--key", "k", "--timeout", "50ms", "-o", "json")
    assert (first.code, first.error["code"]) == (124, "wait_timeout")
    again = lash("turn", "s", "!sleep 30", "--key", "k", "--timeout", "50ms", "-o", "json")
    assert (again.code, again.error["code"]) == (7, "turn_cancelled")
    assert again.error["details"]["turn"]["replayed"] is True
