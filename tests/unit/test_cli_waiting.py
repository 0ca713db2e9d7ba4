"""Waiting without an event loop: looks only when something changed, and once in a while all the same."""

from __future__ import annotations

from typing import Any, cast

import pytest

from lash_cli.cli import waiting
from lash_cli.cli.reading import run_at_once
from lash_cli.cli.waiting import FIRST_PAUSE_S, LONGEST_BLIND_S, LONGEST_PAUSE_S, look_until


class World:
    """A store whose mark changes at given moments, and a clock that only sleeping moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, changes: tuple[float, ...] = ()) -> None:
        self.now = 0.0
        self.changes = changes
        self.looks: list[float] = []
        self.pauses: list[float] = []
        monkeypatch.setattr(waiting, "_sleep", self.sleep)
        monkeypatch.setattr(waiting.time, "monotonic", lambda: self.now)

    def sleep(self, seconds: float, pipe: int | None) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def change_mark(self) -> int:
        return sum(moment <= self.now for moment in self.changes)

    def wait(self, *, answer_at: float | None = None, timeout_ms: int | None = None) -> str | None:
        async def look() -> str | None:
            self.looks.append(self.now)
            return "answer" if answer_at is not None and self.now >= answer_at else None

        return run_at_once(look_until(cast(Any, self), look, timeout_ms))


def test_an_answer_that_stands_costs_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert (world.wait(answer_at=0), world.looks, world.pauses) == ("answer", [0.0], [])


def test_nothing_is_looked_at_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert world.wait(timeout_ms=900) is None
    assert world.looks == [0.0]
    assert world.pauses[:4] == [FIRST_PAUSE_S, 0.05, 0.1, 0.2] and max(world.pauses) == LONGEST_PAUSE_S
    assert world.now == pytest.approx(0.9), "the limit is kept"


def test_a_change_is_looked_at_and_polled_closely_after(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, changes=(0.5,))
    assert world.wait(answer_at=0.5, timeout_ms=10_000) == "answer"
    assert len(world.looks) == 2 and world.looks[1] <= 0.5 + LONGEST_PAUSE_S
    later = World(monkeypatch, changes=(0.5,))
    assert later.wait(timeout_ms=700) is None
    assert later.pauses[-2] < LONGEST_PAUSE_S, "after a change the pauses begin small"


def test_a_holder_that_dies_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert world.wait(answer_at=0.3) == "answer"
    assert LONGEST_BLIND_S <= world.now <= LONGEST_BLIND_S + LONGEST_PAUSE_S


def test_a_limit_of_nothing_is_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert (world.wait(timeout_ms=0), world.looks) == (None, [0.0])
