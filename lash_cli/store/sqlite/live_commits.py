"""What a commit announces to observers, inside its own transaction (contract 04 §4, §10.1).

The frame switch if there was one, then `committed`, then how the turn ended:
adjacent positions, present exactly when the state is. The text of the answer
stands in its node and is read from there (`answers`). Encoding happens before
the transaction, on the caller's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from lash_cli.core.activity import TurnActivity, TurnFinished, finished_id
from lash_cli.core.commit import ReplaceFull, RuntimeCommit
from lash_cli.core.frames import FrameStatus
from lash_cli.core.observation import ActivityObserved, AgentFrameSwitched, StateCommitted
from lash_cli.store.sqlite.live import append_groups_in, mint_in
from lash_cli.store.sqlite.live_rows import PreparedEvent, prepare_event
from lash_cli.store.sqlite.sessions import StoredSession


class PreparedCommit(msgspec.Struct, frozen=True, gc=False):
    """What a commit will announce: what its turn has shown before, then `switched`, but only if its frame turns out to
    be another one than before, then the rest."""

    shown: tuple[PreparedEvent, ...]
    settled: tuple[PreparedEvent, ...]
    switched: PreparedEvent | None
    is_reset: bool


def prepare_commit(commit: RuntimeCommit, shown: Sequence[TurnActivity]) -> PreparedCommit:
    """Encode the events of a commit on the caller's thread."""
    turn = commit.turn
    settled = [prepare_event(StateCommitted(), None if turn is None else turn.turn_id)]
    if turn is not None:
        finished = TurnActivity(
            commit.session_id,
            turn.turn_id,
            f"{turn.turn_id}:turn",
            TurnFinished(turn.summary.outcome),
            commit.now_ms,
            finished_id(turn.turn_id),
        )
        settled.append(prepare_event(ActivityObserved(finished)))
    active = next((frame.frame_id for frame in commit.frames or () if frame.status is FrameStatus.ACTIVE), "")
    switched = prepare_event(AgentFrameSwitched(active)) if active else None
    previews = tuple(prepare_event(ActivityObserved(activity)) for activity in shown)
    return PreparedCommit(previews, tuple(settled), switched, isinstance(commit.graph, ReplaceFull))


def append_commit(
    connection: sqlite3.Connection,
    stored: StoredSession,
    prepared: PreparedCommit,
    *,
    revision: int,
    frame_ordinal: int | None,
    now_ms: int,
) -> None:
    """Announce a commit inside its transaction: what was shown before it, under the revision it was shown at, the
    frame switch if there was one, then `committed`, then how the turn ended. A replaced history begins a new epoch:
    nothing of the old one may seem to continue."""
    shown, events = prepared.shown, prepared.settled
    if prepared.switched is not None and stored.frame_ordinal not in (None, frame_ordinal):
        events = (prepared.switched, *events)
    if prepared.is_reset and stored.head_revision is not None:
        mint_in(connection, stored.key)
        shown = ()
    groups = ((stored.head_revision or 0, shown), (revision, events))
    append_groups_in(connection, stored.key, stored.session_id, groups, now_ms=now_ms)
