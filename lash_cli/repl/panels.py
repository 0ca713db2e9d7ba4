"""Questions over the prompt: a tool's approval, a busy session, leaving while a turn runs (contract 08 §7.1, §7.4).

A question is answered by one letter. What was typed before it was seen never
answers it: for 300 ms after it appeared, and after every other key, letters go
where they went before. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

GUARD_SECONDS = 0.3


class Choice(NamedTuple):
    """One answer: what it is called, and what it does."""

    label: str
    act: Callable[[], None]


class Panel(NamedTuple):
    """A question. `default` is the letter that Enter stands for; `is_closable` says that Esc and Ctrl-C close it,
    `is_list` that every answer gets a line of its own, and `is_over` that nothing hangs on an answer any more."""

    title: str
    choices: Mapping[str, Choice]
    default: str | None = None
    is_closable: bool = True
    is_list: bool = False
    is_over: Callable[[], bool] = lambda: False


class Guard:
    """When a letter may answer: times are those of one monotonic clock."""

    def __init__(self) -> None:
        self._quiet_since = 0.0

    def disturbed(self, now: float) -> None:
        """A question appeared, or a key was pressed."""
        self._quiet_since = now

    def is_open(self, now: float) -> bool:
        """Whether a letter pressed now is an answer."""
        return now - self._quiet_since >= GUARD_SECONDS


def panel_lines(panel: Panel, *, is_open: bool, has_draft: bool = False) -> list[str]:
    """The question and its answers; while nothing answers the letters are not offered."""
    if not is_open and has_draft and not panel.is_closable:
        return [panel.title, "  Ctrl-C puts the draft aside; then it can be answered"]
    if not is_open:
        return [panel.title, "  …"]
    if panel.is_list:
        lines = [f"  [{letter}] {choice.label}" for letter, choice in panel.choices.items()]
        return [f"{panel.title}{'  Esc back' if panel.is_closable else ''}", *lines]
    answers = "  ".join(f"[{letter}] {choice.label}" for letter, choice in panel.choices.items())
    return [panel.title, f"  {answers}{'  Esc back' if panel.is_closable else ''}"]
