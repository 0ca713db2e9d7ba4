"""Looks at a whole store again and again, and holds every look against all looks before it.

It knows nothing of what was done: what it asserts must be true after any verb,
whoever died in the middle of it. Rows that are settled stay as they are,
numbers are given out once, a head only goes forward, nothing belongs to a
session that is gone, and who watches misses nothing that he is not told of.
"""

from __future__ import annotations

import copy
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lash_cli.core.content import is_safe_to_resume
from lash_cli.core.graph import messages_on
from lash_cli.core.observation import AgentFrameSwitched, QueueChanged, SessionCursor, StateCommitted
from lash_cli.core.usage import usage_report
from lash_cli.errors import SessionDeleted
from lash_cli.store.base import PersistedSessionRead, ReadScope
from lash_cli.store.sqlite.invariants import broken_rules, integrity
from lash_cli.store.sqlite.stamps import decode_summary
from lash_cli.store.sqlite.store import SqliteStore

# To what the costs of calls beside turns are booked.
BESIDE_SOURCE = "the life"
# Rows with a session key, which go with their session.
OWNED = (
    "frames",
    "turns",
    "turn_cancels",
    "usage_deltas",
    "inputs",
    "queued_work",
    "wake_fences",
    "live_log",
    "node_origins",
    "effects",
)
NODES = "SELECT place, node_id, parent_seq, frame_ordinal, at_ms, caused_by, body FROM nodes"
STAMPS = """
SELECT session_key, turn_id, turn_index, content_hash, result, head_revision, summary, started_at_ms, committed_at_ms
FROM turns WHERE state = 'committed'
"""
INPUTS = """
SELECT i.input_id, i.session_key, i.state, i.turn_id, t.state, t.summary, i.input FROM inputs i
LEFT JOIN turns t ON t.session_key = i.session_key AND t.turn_id = i.turn_id
"""
WORK = "SELECT batch_id, session_key, state FROM queued_work"
# What was said to a turn; it is looked at before anybody can sweep it away.
SAID = """
SELECT json_extract(n.body, '$.message.parts') FROM turns t
JOIN nodes n ON n.place >> 40 = t.session_key AND n.seq BETWEEN t.first_seq AND t.last_seq
WHERE t.session_key = ? AND t.turn_id = ? AND n.node_id LIKE 'm!_ingress!_%' ESCAPE '!'
"""
# Finished effects of turns: what was recorded is what a re-drive is told.
EFFECTS = """
SELECT scope_key, replay_key, status, envelope_hash, outcome, error FROM effects WHERE status <> 'in_progress'
"""
NUMBERS = """
SELECT 'session', session_key, session_id FROM sessions
UNION ALL SELECT 'input', enqueue_seq, input_id FROM inputs
UNION ALL SELECT 'batch', enqueue_seq, batch_id FROM queued_work
"""


def _texts(parts: list[dict[str, Any]]) -> list[str]:
    return [
        part["text"] if "text" in part else part["content"] for part in parts if "text" in part or "content" in part
    ]


class Witness:
    """What was seen of one store so far; `store` is a handle of its own."""

    def __init__(self, path: Path, store: SqliteStore) -> None:
        self.store = store
        self.gone: set[str] = set()
        # Sessions that were opened with a state from elsewhere: turns and costs go on from what it says.
        self.given: set[str] = set()
        # What was spent at most beside turns, by the sessions that begin with nothing.
        self.beside: Counter[str] = Counter()
        self.gaps = 0
        self._rows = sqlite3.connect(path, isolation_level=None)
        self._forget()

    def _forget(self) -> None:
        self._seen: dict[tuple[Any, ...], Any] = {}
        self._revisions: dict[int, int] = {}
        self._spent: dict[int, int] = {}
        # Of each kind the sessions of what nobody had used or cancelled when it was seen last.
        self._waiting: dict[str, dict[str, int]] = {"input": {}, "work": {}}
        # Where each session was watched to, and the revision of the last commit that was told.
        self._watched: dict[int, tuple[SessionCursor, int]] = {}

    def close(self) -> None:
        self._rows.close()

    def reopen(self, path: Path, store: SqliteStore) -> None:
        """Look at the same file again, which nobody had open meanwhile."""
        self.store, self._rows = store, sqlite3.connect(path, isolation_level=None)

    def remembered(self) -> dict[str, Any]:
        """What was seen of the store so far, for when a copy of now is put back."""
        kept = ("gone", "given", "_seen", "_revisions", "_spent", "_waiting")
        return copy.deepcopy({name: getattr(self, name) for name in kept})

    def remember(self, remembered: dict[str, Any]) -> None:
        """Go on from what was seen then; of an empty store nothing was. Nobody watches any more."""
        self._forget()
        self.gone, self.given = set(), set()
        for name, value in copy.deepcopy(remembered).items():
            setattr(self, name, value)

    def data_version(self) -> int:
        """Another number once somebody has written."""
        return next(row[0] for row in self._rows.execute("PRAGMA data_version"))

    def sessions(self) -> dict[str, int]:
        """The keys of all sessions, by id."""
        return dict(self._rows.execute("SELECT session_id, session_key FROM sessions"))

    def nodes_of(self, session_id: str) -> list[str]:
        """The ids of the nodes a session wrote itself."""
        key = self.sessions().get(session_id, 0)
        return [row[0] for row in self._rows.execute("SELECT node_id FROM nodes WHERE place >> 40 = ?", (key,))]

    def last_turn_of(self, session_id: str) -> str | None:
        key = self.sessions().get(session_id, 0)
        found = self._rows.execute(
            "SELECT turn_id FROM turns WHERE session_key = ? ORDER BY turn_index DESC LIMIT 1", (key,)
        )
        return next((row[0] for row in found), None)

    def in_mid_turn(self) -> list[str]:
        """The sessions in which a turn runs or waits to be driven again."""
        found = self._rows.execute(
            "SELECT s.session_id FROM sessions s JOIN turns t ON t.session_key = s.session_key"
            " WHERE t.state = 'running' ORDER BY 1"
        )
        return [row[0] for row in found]

    def held_lanes(self) -> list[str]:
        """The sessions somebody holds or held until he died."""
        return [row[0] for row in self._rows.execute("SELECT session_id FROM sessions WHERE lease_token IS NOT NULL")]

    async def look(self) -> None:
        """Everything must hold; a turn that goes on in the background meanwhile must not."""
        keys = self.sessions()
        assert self.store.db.read(broken_rules) == []
        assert not self.gone & keys.keys(), "a deleted session is back"
        for table in OWNED:
            owners = {key for (key,) in self._rows.execute(f"SELECT DISTINCT session_key FROM {table}")}
            assert owners - {None} <= set(keys.values()), f"{table} of nobody"
        self._stays("node", self._rows.execute(NODES), parts=1)
        self._stays("effect", self._rows.execute(EFFECTS), parts=2)
        for kind, number, name in self._rows.execute(NUMBERS):
            assert self._seen.setdefault((kind, number), name) == name, f"{kind} {number} was given twice"
        self._look_at_inputs(set(keys.values()))
        self._look_at_turns(set(keys.values()))
        for session_id, key in keys.items():
            await self._look_at_session(session_id, key)
        for session_id in self.gone:
            with pytest.raises(SessionDeleted):
                await self.store.session_row(session_id)

    def look_at_the_file(self) -> None:
        """What SQLite itself thinks of it."""
        assert self.store.db.read(integrity) == []
        assert self._rows.execute("PRAGMA foreign_key_check").fetchall() == []

    def _stays(self, kind: str, rows: Any, *, parts: int) -> None:
        """A row is the same whenever it is seen; its first `parts` columns name it."""
        for row in rows:
            name = (kind, *row[:parts])
            assert self._seen.setdefault(name, row) == row, f"{name} was changed"

    def _waits(self, kind: str, rows: list[tuple[str, int, str]], keys: set[int]) -> None:
        """What waits goes on waiting until it is used or cancelled."""
        there = {row[0] for row in rows}
        lost = [name for name, key in self._waiting[kind].items() if name not in there and key in keys]
        assert lost == [], f"{kind} that waited is gone"
        self._waiting[kind] = {name: key for name, key, state in rows if state not in ("completed", "cancelled")}

    def _look_at_inputs(self, keys: set[int]) -> None:
        """One state each: what is held is held by a turn that runs, what is used was used once, and both for good."""
        rows = self._rows.execute(INPUTS).fetchall()
        self._waits("input", [row[:3] for row in rows], keys)
        self._waits("work", self._rows.execute(WORK).fetchall(), keys)
        used: dict[tuple[int, str], list[str]] = {}
        for input_id, key, state, turn_id, turn_state, summary, given in rows:
            before = self._seen.get(("settled", input_id))
            assert before is None or before == (key, state, turn_id), f"{input_id} was settled before"
            if state in ("completed", "cancelled"):
                self._seen["settled", input_id] = (key, state, turn_id)
            if state == "completed":
                assert turn_state == "committed" and input_id in json.loads(summary)["input_ids"]
                if before is None:
                    used.setdefault((key, turn_id), []).extend(_texts(json.loads(given)["items"]))
            elif turn_id is not None and state != "cancelled":
                assert turn_state == "running", f"{input_id} is held by a turn that does not run"
        for (key, turn_id), texts in used.items():
            # Texts that a turn began with stand in one message, a line each.
            bodies = self._rows.execute(SAID, (key, turn_id)).fetchall()
            said = [line for (parts,) in bodies for text in _texts(json.loads(parts)) for line in text.split("\n")]
            assert sorted(said) == sorted(texts), f"what {turn_id} used is not what it was told"

    def _look_at_turns(self, keys: set[int]) -> None:
        """Stamps are for good, count without a gap in the order of the heads, and use every input once."""
        by_session: dict[int, list[tuple[int, int]]] = {}
        used: Counter[tuple[int, str]] = Counter()
        stamps = self._rows.execute(STAMPS).fetchall()
        self._stays("turn", stamps, parts=2)
        for key, _, index, _, _, revision, summary, *_ in stamps:
            by_session.setdefault(key, []).append((revision, index))
            used.update((key, input_id) for input_id in json.loads(summary).get("input_ids", ()))
        assert set(used.values()) <= {1}, "an input was used twice"
        given = {key for session_id, key in self.sessions().items() if session_id in self.given}
        for key, indices in by_session.items():
            counted = [index for _, index in sorted(indices)]
            whole = sorted(set(counted)) if key in given else list(range(1, len(counted) + 1))
            assert counted == whole, f"the turns of session {key}"
        there = {("turn", row[0], row[1]) for row in stamps}
        kept = {name for name in self._seen if name[0] == "turn" and name[1] in keys}
        assert kept <= there, "a stamp is gone"
        running = self._rows.execute("SELECT session_key FROM turns WHERE state = 'running'").fetchall()
        assert len(running) == len(set(running)), "two turns of one session run"

    async def _look_at_session(self, session_id: str, key: int) -> None:
        head = await self.store.head_position(session_id)
        revision = head.head_revision or 0
        assert revision >= self._revisions.get(key, 0), "a head went back"
        self._revisions[key] = revision
        read = await self.store.load_session(session_id, ReadScope.ACTIVE_PATH)
        if read is not None:
            await self._look_at_history(session_id, read)
            await self._look_at_ledger(session_id, key, read)
        await self._watch(session_id, key, revision)

    async def _look_at_history(self, session_id: str, read: PersistedSessionRead) -> None:
        messages = messages_on(read.nodes)
        assert is_safe_to_resume(messages), "no provider would take this"
        assert {frame.session_id for frame in read.frames} == {session_id}
        said = await self.store.load_session(session_id, ReadScope.CONVERSATION)
        whole = await self.store.load_session(session_id, ReadScope.FULL_GRAPH)
        assert said is not None and whole is not None
        assert list(said.messages) == messages
        assert whole.cut_off == () and {node.node_id for node in read.nodes} <= {node.node_id for node in whole.nodes}
        for node in whole.nodes[-2:]:
            assert await self.store.load_node(session_id, node.node_id) == node

    async def _look_at_ledger(self, session_id: str, key: int, read: PersistedSessionRead) -> None:
        report = usage_report(read.token_ledger)
        booked = await self.store.usage_totals(session_id=session_id)
        assert sum(total.usage.total for total in booked) == report.usage.total
        assert report.usage.total >= self._spent.get(key, 0), "a ledger shrank"
        self._spent[key] = report.usage.total
        of_turns = self._rows.execute(
            "SELECT summary, started_at_ms FROM turns WHERE session_key = ? AND state = 'committed'", (key,)
        )
        spent = sum(decode_summary(*row).usage.total for row in of_turns)
        beside = sum(entry.usage.total for entry in read.token_ledger if entry.source == BESIDE_SOURCE)
        assert beside <= self.beside.get(session_id, beside) or session_id in self.given, "a cost was booked twice"
        told = sum(entry.usage.total for entry in read.token_ledger if entry.source == "turn")
        assert spent == told or (spent < told and session_id in self.given)

    async def _watch(self, session_id: str, key: int, revision: int) -> None:
        """Every commit is told once and in order, or a gap is."""
        if key not in self._watched:
            cursor = (await self.store.live.cut(session_id, ReadScope.HEAD)).cursor
            self._watched[key] = cursor, cursor.revision
        cursor, committed = self._watched[key]
        while True:
            replay = await self.store.live.replay(cursor)
            if replay.gap is not None:
                self.gaps += 1
                cursor = (await self.store.live.cut(session_id, ReadScope.HEAD)).cursor
                committed = cursor.revision
                break
            if not replay.events:
                break
            for event in replay.events:
                is_new = isinstance(event.payload, StateCommitted | AgentFrameSwitched)
                is_next = is_new or (event.cursor.revision > committed and isinstance(event.payload, QueueChanged))
                assert cursor.revision <= event.cursor.revision == committed + is_next
                if isinstance(event.payload, StateCommitted):
                    committed += 1
                cursor = event.cursor
        head = await self.store.head_position(session_id)
        assert cursor.revision == committed, "a commit was told as another"
        assert revision <= committed <= (head.head_revision or 0), "a commit was not told, or one that is none"
        self._watched[key] = cursor, committed
