"""A text that left the draft of a chat is sent, whatever else fails on the way (contract 08 §7.4)."""

from __future__ import annotations

import asyncio

from lash_cli.core.content import TurnInput
from lash_cli.errors import LashError, StoreLocked
from lash_cli.repl.sending import Sending


class Turns:
    is_active = False

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def begun_or_over(self) -> None:
        pass

    def send(self, key: str, content: TurnInput) -> None:
        self.sent.append(key)


class Busy(Sending):
    """A chat whose store is busy when the hold of its queue is to end."""

    def __init__(self) -> None:
        self.turns = Turns()  # type: ignore[assignment]
        self.told: list[LashError] = []

    async def let_go_of_empty_hold(self) -> None:
        raise StoreLocked("lash.db stayed locked by another process")

    def tell_error(self, error: LashError) -> None:
        self.told.append(error)


def test_a_text_is_not_swallowed_by_a_store_that_is_busy_as_the_hold_ends() -> None:
    chat = Busy()
    asyncio.run(chat.send_taken("key", TurnInput.text("keep me")))
    assert chat.turns.sent == ["key"]  # type: ignore[attr-defined]
    assert [error.code for error in chat.told] == ["store_locked"]
