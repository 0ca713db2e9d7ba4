"""A database that was restored from a copy continues no cursor of what came after it (contract 04 §10.2)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def copied(home: Path, to: Path) -> None:
    to.mkdir(exist_ok=True)
    for path in home.glob("lash.db*"):
        shutil.copy(path, to / path.name)


def restored(home: Path, backup: Path) -> None:
    """The copy takes the place of the database, as a file of its own."""
    for path in home.glob("lash.db-*"):
        path.unlink()
    for path in backup.glob("lash.db*"):
        fresh = home / f"{path.name}.restored"
        shutil.copy(path, fresh)
        fresh.chmod(0o600)
        os.replace(fresh, home / path.name)


def end_of(lash, text: str) -> str:
    line = lash("turn", "s", f"!text {text}", "-o", "jsonl").lines[-2]
    assert line["type"] == "turn_finished"
    cursor: str = line["cursor"]
    return cursor


@pytest.mark.parametrize("writes_again", [False, True])
def test_a_cursor_from_before_a_restore_is_a_gap_with_the_restored_state(
    lash, home: Path, tmp_path: Path, writes_again: bool
) -> None:
    lash("open", "s")
    kept = end_of(lash, "kept")
    copied(home, tmp_path / "backup")
    lost = end_of(lash, "lost")
    restored(home, tmp_path / "backup")
    if writes_again:
        # The positions of the lost turn are given out again, under another epoch.
        end_of(lash, "again")
    stale = [lost, kept] if writes_again else [lost]
    for cursor in stale:
        told = lash("tail", "s", "--from", cursor, "--no-follow", "-o", "jsonl")
        _, gap, snapshot, end = told.lines
        assert (gap["type"], gap["reason"], gap["requested_cursor"]) == ("gap", "unavailable", cursor)
        said = [message["text"] for message in snapshot["messages"] if message["role"] == "assistant"]
        assert said == (["kept", "again"] if writes_again else ["kept"])
        assert snapshot["cursor"] == gap["latest_cursor"] and (end["exit"], told.code) == (0, 0)
        strict = lash("tail", "s", "--from", cursor, "--strict-gap", "-o", "jsonl")
        assert (strict.code, strict.error["code"]) == (4, "observation_gap")
