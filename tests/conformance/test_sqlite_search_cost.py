"""What the search index costs a turn, and what it leaves behind (contract 08 §5.1, design §5).

Nothing is timed: a commit costs the same when SQLite runs the same statements
in the same number of steps of its virtual machine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from lash_cli.core.codec import encode
from lash_cli.core.graph import ConversationPayload
from lash_cli.store.conformance import builders as make
from lash_cli.store.conformance.clock import ManualClock
from lash_cli.store.conformance.search import found, say
from lash_cli.store.sqlite.store import SqliteStore

OpenStore = Callable[[], SqliteStore]


async def traced(store: SqliteStore, call: Callable[[], Awaitable[Any]]) -> tuple[int, list[str]]:
    """The steps of SQLite's virtual machine that the writes of `call` take, and their statements, triggers included."""
    steps = 0
    statements: list[str] = []

    def tick() -> int:
        nonlocal steps
        steps += 1
        return 0

    def attach(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(tick, 1)
        connection.set_trace_callback(statements.append)

    def detach(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(None, 0)
        connection.set_trace_callback(None)

    await store.db.write(attach, durable=False)
    steps = 0
    statements.clear()
    await call()
    counted, seen = steps, list(statements)
    await store.db.write(detach, durable=False)
    return counted, seen


async def test_a_turn_pays_nothing_for_the_index_however_much_it_holds(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    await say(store, clock, "warm")
    never_searched, _ = await traced(store, lambda: say(store, clock, "needle"))
    for number in range(4):
        await say(store, clock, *(f"needle {number} {index}" for index in range(400)), session_id="other")
    assert await store.index_messages() == 1602
    searched, statements = await traced(store, lambda: say(store, clock, "needle"))
    assert searched == never_searched
    assert not [statement for statement in statements if "message_text" in statement or "search_marks" in statement]


async def test_a_batch_holds_the_file_for_a_bounded_number_of_messages(
    open_store: OpenStore, clock: ManualClock
) -> None:
    store = open_store()
    for number in range(4):
        await say(store, clock, *(f"needle {number} {index}" for index in range(400)))
    _, statements = await traced(store, store.index_messages)
    runs: list[set[str]] = []
    for statement in statements:
        if statement.startswith("BEGIN"):
            runs.append(set())
        elif statement.lstrip().startswith("INSERT INTO message_text "):
            runs[-1].add(statement)  # told again for each trigger it fires
    assert sum(map(len, runs)) == 1600 and max(map(len, runs)) <= 256


async def test_a_replaced_text_is_found_by_its_new_words_only(open_store: OpenStore, clock: ManualClock) -> None:
    store = open_store()
    (_, secret, _) = await say(store, clock, "before", "the sesame key", "after")
    assert await found(store, "sesame") == [secret]
    body = encode(ConversationPayload(make.message(secret, "the hidden key"))).decode()
    await store.db.write(
        lambda connection: connection.execute("UPDATE nodes SET body = ? WHERE node_id = ?", (body, secret)),
        durable=True,
    )
    assert await found(store, "sesame") == []
    assert await found(store, "hidden") == [secret]
    assert len(await found(store, "after")) == 1
    check = "INSERT INTO message_text_fts (message_text_fts, rank) VALUES ('integrity-check', 1)"
    await store.db.write(lambda connection: connection.execute(check), durable=False)


async def test_nothing_of_a_deleted_session_stays_in_the_index(open_store: OpenStore, clock: ManualClock) -> None:
    store = open_store()
    await say(store, clock, "needle")
    await say(store, clock, "needle too", session_id="kept")
    assert await store.index_messages() == 2
    await store.delete_session(make.SESSION, 9)

    def rows(connection: sqlite3.Connection) -> list[Any]:
        texts = connection.execute("SELECT text FROM message_text").fetchall()
        marks = connection.execute("SELECT count(*) FROM search_marks").fetchall()
        matches = connection.execute("SELECT rowid FROM message_text_fts WHERE message_text_fts MATCH 'needle'")
        return [*texts, *marks, len(matches.fetchall())]

    assert store.db.read(rows) == [("needle too",), (1,), 1]
