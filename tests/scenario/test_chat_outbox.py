"""A chat's texts between draft and queue over a real store: on one side, never on both (contract 08 §7.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lash_cli.api.queue import SessionQueue
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import NextTurn
from lash_cli.core.policy import ModelSpec, PersistedSessionConfig
from lash_cli.errors import SessionClosed, StoreReadOnly
from lash_cli.paths import resolve_paths
from lash_cli.repl.memory import ReplMemory
from lash_cli.repl.outbox import Outbox
from lash_cli.store.base import RuntimePersistence, SessionCreate
from lash_cli.system import SystemClock, SystemIds
from lash_cli.wiring import open_store

Open = Callable[[], Outbox]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RuntimePersistence]:
    store = open_store(resolve_paths({"LASH_HOME": str(tmp_path / "home")}))
    config = PersistedSessionConfig("loopback", ModelSpec("loopback"))
    await store.create_session(SessionCreate("s", config, SystemClock().now_ms()))
    yield store
    await store.aclose()


@pytest.fixture
def queue(store: RuntimePersistence) -> SessionQueue:
    return SessionQueue(store, SystemClock(), SystemIds(), "s")


@pytest.fixture
async def chats(store: RuntimePersistence, queue: SessionQueue, tmp_path: Path) -> AsyncIterator[Open]:
    """Outboxes of one chat after another: to the next one the one before looks dead."""
    made: list[ReplMemory] = []

    def begin() -> Outbox:
        made.append(ReplMemory(str(tmp_path / "state"), "s", is_dead=lambda process: True))
        return Outbox(store, queue, made[-1], SystemIds())

    yield begin
    for memory in made:
        memory.close()


async def test_only_an_input_that_is_cancelled_by_the_pull_is_the_draft_again(chats: Open, queue: SessionQueue) -> None:
    outbox = chats()
    await outbox.begin()
    one, two = [await outbox.enqueue(outbox.take(text), TurnInput.text(text), NextTurn()) for text in ("one", "two")]
    await queue.cancel_input(one)
    outbox.typed("typed")
    assert await outbox.pull_back(one, "one") == "already_cancelled"
    assert await outbox.pull_back("in_unknown", "never said") == "not_found"
    assert outbox.draft.text == "typed" and not outbox.draft.pulling
    assert await outbox.pull_back(two, "two") == "cancelled"
    assert outbox.draft.text == "two\ntyped" and outbox.draft.own == (one,)


async def test_a_chat_that_died_at_any_step_leaves_a_text_on_one_side(chats: Open, queue: SessionQueue) -> None:
    first = chats()
    await first.begin()
    arrived, lost = first.take("arrived"), first.take("lost")
    # The store had the text, the chat did not learn it.
    await queue.enqueue(TurnInput.text("arrived"), key=arrived)
    second = chats()
    draft = await second.begin()
    assert (draft.text, draft.stash, draft.leaving) == ("lost", (), ()) and lost != arrived
    # Written down, not yet cancelled: it is the queue's.
    row = await second.enqueue(second.take("lost"), TurnInput.text("lost"), NextTurn())
    second._become(_pulling(second, row))
    third = chats()
    assert (await third.begin()).text == ""
    # Cancelled, not yet the draft: it is the next chat's.
    third._become(_pulling(third, row))
    await queue.cancel_input(row)
    assert (await chats().begin()).text == "lost"
    assert [waiting.input.items[0].text for waiting in await queue.pending_inputs()] == ["arrived"]  # type: ignore[union-attr]


def _pulling(outbox: Outbox, input_id: str):
    from lash_cli.repl import drafts

    return drafts.pulling(outbox.draft, input_id, "lost")


async def test_a_text_the_store_refuses_is_the_draft_again(
    chats: Open, queue: SessionQueue, store: RuntimePersistence
) -> None:
    outbox = chats()
    await outbox.begin()
    await store.set_session_flags("s", closed_at_ms=1, parked_at_ms=None)
    with pytest.raises(SessionClosed):
        await outbox.enqueue(outbox.take("refused"), TurnInput.text("refused"), NextTurn())
    assert outbox.draft.text == "refused" and not outbox.draft.leaving


async def test_a_draft_that_cannot_be_written_down_is_told_once_and_kept(chats: Open) -> None:
    outbox = chats()
    await outbox.begin()
    told: list[StoreReadOnly] = []
    outbox.on_failure = told.append  # type: ignore[assignment]
    outbox._memory.close()
    outbox.typed("one")
    outbox.typed("two")
    assert len(told) == 1 and outbox.draft.text == "two"


async def test_what_is_typed_while_a_text_comes_back_is_not_overwritten(
    chats: Open, queue: SessionQueue, store: RuntimePersistence
) -> None:
    outbox = chats()
    await outbox.begin()
    # A face hands keystrokes over a moment later; here one is still to be handed over.
    outbox.sync = lambda: outbox.typed("typed meanwhile")
    row = await outbox.enqueue(outbox.take("queued"), TurnInput.text("queued"), NextTurn())
    await outbox.pull_back(row, "queued")
    assert outbox.draft.text == "queued\ntyped meanwhile"
    outbox.refused(outbox.take("refused"))
    assert outbox.draft.text == "typed meanwhile" and outbox.draft.stash == ("refused",)
