"""Searching 100 000 committed messages in this process, and what the index costs (contract 08 §5.1, issue 6).

    python tests/bench/search.py [--messages N] [--sessions N]

Prints the time of the first search, which indexes everything; of a search when
nothing or one turn was committed since; and of the store's whole answer for
words that all messages have, that few have and that none has, with filters.
Also the bytes a message takes in the index. Nodes are written by hand: only
reading them is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
from pathlib import Path

from measuring import MODEL, clock, emit, store_bytes

from lash_cli.api import SqliteStore
from lash_cli.core.codec import encode
from lash_cli.core.content import Message, ProsePart, Role, TextPart
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.core.search import parse_query
from lash_cli.store.base import SessionCreate
from lash_cli.store.shelf_records import SearchRequest
from lash_cli.store.sqlite.places import place_at
from lash_cli.system import SystemClock, SystemIds

_FIRST_AT_MS = 1_700_000_000_000
_INSERT = "INSERT INTO nodes (place, node_id, parent_seq, frame_ordinal, at_ms, body) VALUES (?,?,?,0,?,?)"
_COMMON = "the quick brown fox jumps over the lazy dog and keeps a durable note of it"
QUERIES: dict[str, tuple[str, dict[str, object]]] = {
    "in_every_message": ("fox", {}),
    "two_in_every_message": ("fox dog", {}),
    "phrase_in_every_message": ('"over the lazy dog"', {}),
    "rare": ("w00042", {}),
    "rare_and_common": ("w00042 fox", {}),
    "beginning_of_a_word": ("du*", {}),
    "none": ("absent", {}),
    "common_without_common": ("fox -dog", {}),
    "common_in_another_directory": ("fox", {"cwd": "/elsewhere"}),
    "common_of_another_role": ("fox", {"roles": (Role.SYSTEM,)}),
    "common_since_yesterday": ("fox", {"since_ms": _FIRST_AT_MS * 2}),
    "common_with_context": ("fox", {"context": 2}),
}


def _text(words: random.Random) -> str:
    return " ".join(f"w{words.randrange(20_000):05d}" for _ in range(40)) + " " + _COMMON


async def fill(store: SqliteStore, messages: int, sessions: int) -> None:
    """`messages` nodes spread over `sessions`, in time order within each."""
    words = random.Random(7)
    per_session = messages // sessions
    for number in range(sessions):
        name = f"s{number}"
        config = PersistedSessionConfig("instant", MODEL)
        await store.create_session(SessionCreate(name, config, 1, cwd=f"/work/{number % 7}"))
        rows = []
        for seq in range(1, per_session + 1):
            is_user = seq % 2 == 1
            text = _text(words)
            part = TextPart(text) if is_user else ProsePart(text)
            message = Message(f"{name}-{seq}", Role.USER if is_user else Role.ASSISTANT, (part,))
            at_ms = _FIRST_AT_MS + (seq * sessions + number) * 1000
            body = encode(ConversationPayload(message)).decode()
            rows.append((place_at(number + 1, seq), message.id, seq - 1 or None, at_ms, body))

        def put(connection: object, rows: list[object] = rows, key: int = number + 1, top: int = per_session) -> None:
            connection.executemany(_INSERT, rows)  # type: ignore[attr-defined]
            connection.execute(  # type: ignore[attr-defined]
                "UPDATE sessions SET next_seq = ?, leaf_seq = ? WHERE session_key = ?", (top + 1, top, key)
            )

        await store.db.write(put, durable=False)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=200)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "lash.db"
        store = SqliteStore.open(path, SystemClock(), SystemIds())
        await fill(store, chosen.messages, chosen.sessions)
        before = store_bytes(path)
        started = clock()
        indexed = await store.index_messages()
        emit("index_all_ms", (clock() - started) * 1e3, "ms", messages=indexed)
        emit("index_us_per_message", (clock() - started) * 1e6 / indexed, "us")
        emit("index_bytes_per_message", (store_bytes(path) - before) / indexed, "bytes")
        for label, (query, more) in QUERIES.items():
            request = SearchRequest(parse_query(query), 20, **more)  # type: ignore[arg-type]
            samples = []
            for _ in range(7):
                started = clock()
                page = await store.search_messages(request)
                samples.append(clock() - started)
            emit("search_ms", statistics.median(samples) * 1e3, "ms", query=label, found=len(page.found))
        await store.aclose()


if __name__ == "__main__":
    asyncio.run(main())
