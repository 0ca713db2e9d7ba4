"""`lash log --follow` and `--since-cursor`: what is committed from some place on (contract 08 §5.1, 04 §0).

Committed messages only, each once and in order. A cursor names a commit here:
what that commit and those before it brought is left out. A cursor that is not
proven to belong to this history — of a restored or copied store, or ahead of
the session — is a gap: it is said, and the whole transcript follows. Between
two commits nothing is read but the head; a commit costs its own messages,
however long the transcript is.
"""

from __future__ import annotations

from typing import NamedTuple

from lash_cli.cli.documents import message_document
from lash_cli.cli.following import Following, FollowLines, following, require_stream_format
from lash_cli.cli.output import safe, warn, warn_of_raw
from lash_cli.cli.reading import named_session, reading_store
from lash_cli.cli.transcript_detail import (
    CommittedMessage,
    TextChoice,
    committed_messages,
    owners_of,
    transcript_lines,
    turns_of_nodes,
)
from lash_cli.core.content import Role
from lash_cli.core.graph import SessionNode
from lash_cli.core.observation import GENESIS, LiveReplayGapReason, SessionCursor
from lash_cli.errors import LashError
from lash_cli.runtime.bells import hang_bell
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionRow, TurnSpan

_TURNS_PER_PAGE = 64
# A commit of more messages than this is read with the whole path instead of node by node.
_NODES_ONE_BY_ONE = 256


class Commit(NamedTuple):
    """New messages, in order, and where to go on from when they are folded. `gap` forbids to say what is missing."""

    messages: tuple[CommittedMessage, ...]
    cursor: SessionCursor
    gap: LiveReplayGapReason | None = None


class CommittedLog:
    """Hands out the committed messages of one session, commit by commit."""

    def __init__(self, store: RuntimePersistence, session_id: str) -> None:
        self._store = store
        self._session_id = session_id
        self._seen: set[str] = set()
        self._revision: int | None = None
        self._mark: int | None = None

    async def begin(self, since: SessionCursor | None = None) -> Commit:
        """What is there now, after `since` if given. Raises `SessionCursorWrongSession` before anything is read."""
        if since is not None:
            since.require_session(self._session_id)
        cut = await self._store.live.cut(self._session_id, ReadScope.ACTIVE_PATH)
        nodes = cut.read.nodes if cut.read is not None else ()
        self._seen.update(node.node_id for node in nodes)
        self._revision = cut.read.head_revision if cut.read is not None else None
        gap = _gap(since, cut.cursor) if since is not None else None
        if since is not None and gap is None:
            nodes = await self._after(nodes, since.revision)
        owners = await turns_of_nodes(self._store, self._session_id, nodes)
        return Commit(committed_messages(nodes, owners), cut.cursor, gap)

    async def advance(self) -> Commit | None:
        """What was committed since the last call, None when nothing was. Raises `SessionDeleted`."""
        # Read before the head: what is committed in between is looked at again.
        mark = await self._store.change_mark()
        if mark == self._mark:
            return None
        self._mark = mark
        head = await self._store.head_position(self._session_id)
        if head.head_revision == self._revision:
            return None
        cut = await self._store.live.cut(self._session_id, ReadScope.HEAD)
        assert cut.read is not None, "a head that moved can be read"
        nodes = await self._unseen(cut.read.leaf_node_id)
        self._seen.update(node.node_id for node in nodes)
        turns = await self._turns_after(self._revision or 0)
        self._revision = cut.read.head_revision
        starts = {turn.first_node_id: turn for turn in turns if turn.first_node_id is not None}
        return Commit(committed_messages(nodes, owners_of(nodes, starts)), cut.cursor)

    async def _unseen(self, leaf: str | None) -> tuple[SessionNode, ...]:
        """The nodes from the leaf back to the first that is known, in order."""
        found: list[SessionNode] = []
        node_id = leaf
        while node_id is not None and node_id not in self._seen:
            node = await self._store.load_node(self._session_id, node_id)
            if node is None:
                break
            found.append(node)
            if len(found) > _NODES_ONE_BY_ONE:
                read = await self._store.load_session(self._session_id, ReadScope.ACTIVE_PATH)
                path = read.nodes if read is not None else ()
                return tuple(node for node in path if node.node_id not in self._seen)
            node_id = node.parent_node_id
        return tuple(reversed(found))

    async def _turns_after(self, revision: int) -> list[TurnSpan]:
        """The turns that were committed after `revision`, and possibly some before."""
        turns: list[TurnSpan] = []
        before: int | None = None
        while True:
            page = await self._store.turn_spans(self._session_id, limit=_TURNS_PER_PAGE, before=before)
            turns += page
            if len(page) < _TURNS_PER_PAGE or any((turn.head_revision or 0) <= revision for turn in page[-1:]):
                return turns
            before = page[-1].turn_index

    async def _after(self, nodes: tuple[SessionNode, ...], revision: int) -> tuple[SessionNode, ...]:
        """The nodes behind the newest turn of this path that `revision` includes.

        Only turns are stamped with a revision. What was appended between two of them may be handed out once more,
        and is never left out.
        """
        places = {node.node_id: place for place, node in enumerate(nodes)}
        before: int | None = None
        while True:
            page = await self._store.turn_spans(self._session_id, limit=_TURNS_PER_PAGE, before=before)
            for turn in page:
                is_included = turn.head_revision is not None and turn.head_revision <= revision
                if is_included and turn.last_node_id in places:
                    return nodes[places[turn.last_node_id] + 1 :]
            if len(page) < _TURNS_PER_PAGE:
                return nodes
            before = page[-1].turn_index


def _gap(since: SessionCursor, present: SessionCursor) -> LiveReplayGapReason | None:
    is_known = since.epoch == present.epoch or (since.epoch == GENESIS and since.position == 0)
    return None if is_known and since.revision <= present.revision else LiveReplayGapReason.UNAVAILABLE


async def read_since(reference: str | None, since: SessionCursor) -> tuple[SessionRow, Commit]:
    """The session `reference` names and what was committed after `since`; raises as `read_session_row`."""
    async with named_session(reading_store(), reference) as (store, row):
        return row, await CommittedLog(store, row.meta.session_id).begin(since)


def warn_of_gap() -> None:
    """Say that a cursor could not be honoured."""
    warn("the cursor is not known to belong to this history: the whole transcript follows", code="gap")


class FollowChoice(NamedTuple):
    """What of a followed transcript is shown. `last` limits only what was there at the beginning."""

    since: SessionCursor | None = None
    roles: frozenset[Role] | None = None
    last: int | None = None
    text: TextChoice = TextChoice()

    def of(self, commit: Commit, *, is_first: bool) -> list[CommittedMessage]:
        """The messages of a commit that are shown."""
        chosen = [entry for entry in commit.messages if self.roles is None or entry.message.role in self.roles]
        return chosen[-self.last :] if is_first and self.last is not None else chosen


async def follow_transcript(reference: str | None, choice: FollowChoice) -> int:
    """Print what is committed and what will be, until told to stop; the exit status.

    Raises what `read_session_row` raises, and `SessionDeleted` when the session is deleted meanwhile.
    """
    wants_lines = require_stream_format("--follow")
    async with named_session(reading_store(), reference) as (store, row):
        if choice.since is not None:
            choice.since.require_session(row.meta.session_id)
        error: LashError | None = None
        async with following() as state:
            shown = _Lines(state, row, choice) if wants_lines else _Text(state, choice)
            shown.start()
            try:
                await _follow(store, row.meta.session_id, choice, state, shown)
            except Exception as failure:  # noqa: BLE001 - told by the last line, and raised when that is written
                error = await state.told_as(failure)
            shown.end(error)
    if error is not None:
        raise error
    return state.exit_status


async def _follow(
    store: RuntimePersistence, session_id: str, choice: FollowChoice, state: Following, shown: _Lines | _Text
) -> None:
    log = CommittedLog(store, session_id)
    # Hung before the first look: a commit in between has rung.
    bell = hang_bell(store.live.bell_name, session_id)
    try:
        begun = await log.begin(choice.since)
        shown.show(begun, choice.of(begun, is_first=True))
        await state.drained()
        while not state.is_over:
            await state.until(bell.wait(is_busy=False))
            commit = await log.advance()
            if commit is not None:
                shown.show(commit, choice.of(commit, is_first=False))
                await state.drained()
    finally:
        bell.close()


class _Text:
    """For people: the transcript, growing."""

    def __init__(self, state: Following, choice: FollowChoice) -> None:
        self._state = state
        self._choice = choice.text
        if self._choice.raw:
            warn_of_raw()
        self._has_begun = False

    def start(self) -> None:
        """Nothing stands before the first message."""

    def show(self, commit: Commit, entries: list[CommittedMessage]) -> None:
        """Print the messages of a commit."""
        if commit.gap is not None:
            warn_of_gap()
        text = transcript_lines(entries, self._choice, clean=str if self._choice.raw else safe)
        if text:
            self._state.put(("\n" if self._has_begun else "") + text + "\n")
            self._has_begun = True

    def end(self, error: LashError | None) -> None:
        """The error says how it ended."""


class _Lines:
    """A JSONL stream with a `message` line per message; the last one of a commit has its cursor."""

    def __init__(self, state: Following, row: SessionRow, choice: FollowChoice) -> None:
        self._state = state
        self._lines = FollowLines(state, "log")
        self._session_id = row.meta.session_id
        self._name = row.meta.name
        self._since = choice.since

    def start(self) -> None:
        """Write `stream_start`."""
        begun = str(self._since) if self._since is not None else None
        self._lines.start(self._session_id, self._name, begun)

    def show(self, commit: Commit, entries: list[CommittedMessage]) -> None:
        """Write the messages of a commit."""
        if commit.gap is not None and self._since is not None:
            self._lines.gap(self._session_id, commit.gap.value, self._since, commit.cursor, commit.cursor.revision)
        for place, entry in enumerate(entries, start=1):
            document = message_document(
                entry.message, at_ms=entry.at_ms, turn_id=entry.turn_id, frame_id=entry.frame_id
            )
            cursor = commit.cursor if place == len(entries) else None
            self._lines.line(
                "message", self._session_id, entry.turn_id, {"message": document}, entry.at_ms, cursor=cursor
            )

    def end(self, error: LashError | None) -> None:
        """Write `stream_end`."""
        self._lines.end(self._session_id, self._state, error)
