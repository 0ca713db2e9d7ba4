"""What a tail keeps, whom it watches first, and how long a turn may be without a driver (contract 08 §8)."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lash_cli.cli import tail_watched
from lash_cli.cli.tail_crowd import Crowd
from lash_cli.cli.tail_cursor import CursorFile
from lash_cli.cli.tail_plan import has_commit
from lash_cli.cli.tail_watched import ABANDONED_SECONDS, Watched
from lash_cli.core.lease import LeaseRow
from lash_cli.core.observation import LiveReplayGap, LiveReplayGapReason, SessionCursor
from lash_cli.errors import LashRuntimeError

CURSOR = SessionCursor("00000000deadbeef", 3, 7, "s")


def test_a_place_is_never_written_through_somebody_elses_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, kept = tmp_path / "victim", tmp_path / "kept"
    victim.write_text("mine")
    (tmp_path / f"kept.{'00' * 8}.new").symlink_to(victim)
    with monkeypatch.context() as foreseen, pytest.raises(LashRuntimeError) as refused:
        foreseen.setattr(os, "urandom", bytes)
        CursorFile(str(kept)).save(CURSOR)
    assert refused.value.code == "cursor_not_saved"
    assert victim.read_text() == "mine" and not kept.exists()
    CursorFile(str(kept)).save(CURSOR)
    assert kept.read_text() == f"{CURSOR}\n"


@pytest.mark.parametrize(("latest_revision", "is_committed"), [(3, False), (4, True)])
def test_a_gap_in_which_nothing_was_committed_is_no_commit(latest_revision: int, is_committed: bool) -> None:
    gap = LiveReplayGap("s", CURSOR, CURSOR, latest_revision, LiveReplayGapReason.TRIMMED)
    item: Any = SimpleNamespace(gap=gap)
    assert has_commit(item) is is_committed


async def test_who_works_is_watched_before_who_was_active_last() -> None:
    class Shelf:
        async def change_mark(self) -> int:
            return 1

        async def list_sessions(self, *, limit: int, cursor: str | None) -> tuple[list[Any], None]:
            rows = [("newest", None), ("working", "t_1"), ("oldest", None)]
            return [
                SimpleNamespace(
                    meta=SimpleNamespace(session_id=name, created_at_ms=1), last_commit_at_ms=None, running_turn_id=turn
                )
                for name, turn in rows
            ], None

    store: Any = Shelf()
    listed = await Crowd(follows=True).all(store)
    assert [row.meta.session_id for row in listed] == ["working", "newest", "oldest"]


def test_a_turn_has_a_while_to_be_taken_over_before_it_counts_as_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(tail_watched, "time", SimpleNamespace(monotonic=lambda: now))
    session = object.__new__(Watched)
    session._left_alone = session.abandoned_turn_id = None

    def is_at_rest(turn_id: str | None) -> bool:
        row: Any = SimpleNamespace(lease=LeaseRow(), running_turn_id=turn_id)
        return session._is_at_rest(row)

    assert not is_at_rest("t_1")
    now += ABANDONED_SECONDS - 0.1
    assert not is_at_rest("t_1")
    assert not is_at_rest("t_2"), "another turn has its own time"
    now += 0.2
    assert not is_at_rest("t_2") and session.abandoned_turn_id is None
    now += ABANDONED_SECONDS
    assert is_at_rest("t_2") and session.abandoned_turn_id == "t_2"
    assert is_at_rest(None) and session.abandoned_turn_id is None
