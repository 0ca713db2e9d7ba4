"""What a commit announces to observers, inside its own transaction (contract 04 §4, §10.1).

The frame switch if there was one, then `committed`, which names the new head
where no turn does, then how the turn ended:
adjacent positions, present exactly when the state is. The text of the answer
stands in its node and is read from there (`answers`). Encoding happens before
the transaction, on the caller's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from lash_cli.core.activity import TurnActivity, TurnFinished, finished_id
from lash_cli.core.commit import ReplaceFull, RuntimeCommit
from lash_cli.core.frames import FrameStatus
from lash_cli.core.observation import AgentFrameSwitched, StateCommitted
from lash_cli.store.sqlite.announcing import WriterConnection
from lash_cli.store.sqlite.live import append_behind, mint_in, read_end
from lash_cli.store.sqlite.live_rows import (
    ACTIVITY,
    ActivityBody,
    LogEnd,
    PackedRow,
    StoredEvent,
    activity_rows,
    change_row,
    joined,
    packed,
)
from lash_cli.store.sqlite.sessions import StoredHead

_COMMITTED: Final[StoredEvent] = ("committed", StateCommitted())


class PreparedCommit(msgspec.Struct, frozen=True, gc=False):
    """What a commit will announce: what its turn has shown before and the row of the commit does not hold, then
    `switched`, but only if its frame turns out to be another one than before, then the rest. `leaves_first`: a first
    commit, too, is one to another frame than the session began in."""

    shown: list[PackedRow]
    settled: PackedRow
    switched: PackedRow | None
    leaves_first: bool
    is_reset: bool


def prepare_commit(commit: RuntimeCommit, shown: Sequence[TurnActivity]) -> PreparedCommit:
    """Encode the events of a commit, and what its turn has shown, on the caller's thread."""
    turn = commit.turn
    if turn is None:
        moved: StoredEvent = ("committed", StateCommitted(commit.graph.leaf_node_id))
        settled = packed((moved,), None, is_commit=True)
    else:
        turn_id = turn.turn_id
        finished = ActivityBody(
            finished_id(turn_id), f"{turn_id}:turn", commit.now_ms, TurnFinished(turn.summary.outcome)
        )
        settled = packed((_COMMITTED, (ACTIVITY, finished)), turn_id, is_commit=True)
    switched: PackedRow | None = None
    leaves_first, is_reset = False, isinstance(commit.graph, ReplaceFull)
    for frame in commit.frames or ():
        if frame.status is FrameStatus.ACTIVE:
            switched = change_row(AgentFrameSwitched(frame.frame_id))
            # A replaced history begins in the frame that it has now.
            leaves_first = frame.previous_frame_id is not None and not is_reset
    rows = activity_rows(shown)
    # What its turn has shown last stands in the row of the commit, where nothing may come between.
    if rows and rows[-1].turn_id == settled.turn_id and switched is None and not is_reset and not commit.outbox:
        settled = joined(rows.pop(), settled)
    return PreparedCommit(rows, settled, switched, leaves_first, is_reset)


def append_shown(
    connection: WriterConnection, stored: StoredHead, prepared: PreparedCommit, end: LogEnd | None, *, now_ms: int
) -> PreparedCommit:
    """Announce what the turn has shown before anything else that its commit does is; what is left to announce."""
    if prepared.shown:
        rows = [(stored.head_revision or 0, row) for row in prepared.shown]
        append_behind(connection, stored.key, stored.session_id, end, rows, now_ms=now_ms)
    return msgspec.structs.replace(prepared, shown=[])


def append_commit(
    connection: WriterConnection,
    stored: StoredHead,
    prepared: PreparedCommit,
    end: LogEnd | None,
    *,
    revision: int,
    frame_ordinal: int | None,
    now_ms: int,
) -> None:
    """Announce a commit inside its transaction: what was shown before it, under the revision it was shown at, the
    frame switch if there was one, then `committed`, then how the turn ended. `end` is that of the log now. A replaced
    history begins a new epoch: nothing of the old one may seem to continue."""
    before = stored.head_revision
    rows = [(before or 0, row) for row in prepared.shown]
    if prepared.is_reset and before is not None:
        mint_in(connection, stored.key)
        end = read_end(connection, stored.key)
        rows = []
    is_another = prepared.leaves_first if stored.frame_ordinal is None else stored.frame_ordinal != frame_ordinal
    if prepared.switched is not None and is_another:
        rows.append((revision, prepared.switched))
    rows.append((revision, prepared.settled))
    append_behind(connection, stored.key, stored.session_id, end, rows, now_ms=now_ms)
