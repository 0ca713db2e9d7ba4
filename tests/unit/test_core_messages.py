"""A view of messages is what it shows, whoever copied it (design D21)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from lash_cli.core.content import Message, Role, TextPart
from lash_cli.core.llm import MessageSequence

COPIES = pytest.mark.parametrize(
    "made", [copy.copy, copy.deepcopy, lambda seen: pickle.loads(pickle.dumps(seen))], ids=["copy", "deep", "pickled"]
)


def said(*names: str) -> list[Message]:
    return [Message(name, Role.USER, (TextPart(name),)) for name in names]


@COPIES
def test_a_copy_of_a_view_is_equal_to_it_and_stays_so_while_others_append(made: Callable[[Any], Any]) -> None:
    shared = said("a", "b")
    view = MessageSequence(shared, 2, tuple(said("c")))
    copied = made(view)
    shared += said("d")
    assert copied == view and hash(copied) == hash(view)
    assert [message.id for message in copied] == ["a", "b", "c"]


def test_a_copy_that_leaves_the_process_has_nothing_that_the_view_does_not_show() -> None:
    assert b"later" not in pickle.dumps(MessageSequence(said("now", "later"), 1))


def test_views_are_equal_by_what_they_show_and_to_nothing_else() -> None:
    whole = MessageSequence(said("a", "b"), 2)
    assert whole == MessageSequence(said("a", "b", "c"), 2) == MessageSequence(said("a"), 1, tuple(said("b")))
    assert whole != MessageSequence(said("a", "b"), 1)
    assert whole != MessageSequence(said("a", "c"), 2)
    assert whole != tuple(whole)
