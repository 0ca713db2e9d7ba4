"""The journal of an edit: whole or absent, held by one process, forgiving of a line that was cut off."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lash_cli.cli import invocation
from lash_cli.cli.edit_journal import (
    EditJournal,
    Planned,
    Returning,
    Taken,
    drop_unborn,
    journal_paths,
    kept_texts,
    unfinished_edits,
    write_text,
)
from lash_cli.cli.globals import hoist
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import InputState, NextTurn, PendingTurnInput
from lash_cli.errors import LashRuntimeError, StoreReadOnly


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    options, _ = hoist(["queue", "edit"])
    invocation.begin(options, {"LASH_HOME": str(tmp_path / "home")})
    yield tmp_path / "home"
    monkeypatch.setattr(invocation, "_current", None)


def plan(edit_id: str = "qe_1") -> Planned:
    row = PendingTurnInput(
        "in_1", "s", 1, NextTurn(), InputState.DEFERRED_NEXT_TURN, 5, TurnInput.text("ä text"), "host:k"
    )
    return Planned(edit_id, "s", "work", (row,))


RETURNING = (Returning("queue-edit:qe_1:0", NextTurn(), TurnInput.text("edited")),)


def test_what_was_written_is_read_back_by_whoever_takes_it_over() -> None:
    journal = EditJournal.create(plan())
    journal.record_taken(["in_1"])
    journal.decide(RETURNING)
    journal.leave()
    (path,) = journal_paths()
    again = EditJournal.take_over(path)
    assert again is not None
    assert (again.plan, again.taken) == (plan(), Taken(("in_1",)))
    assert again.decided is not None and again.decided.returning == RETURNING
    again.finish()
    assert journal_paths() == [] and EditJournal.take_over(path) is None


def test_a_journal_that_is_held_is_nobody_elses() -> None:
    journal = EditJournal.create(plan())
    (path,) = journal_paths()
    assert EditJournal.take_over(path) is None and unfinished_edits() == []
    journal.leave()
    (edit,) = unfinished_edits()
    assert (edit.edit_id, edit.session_id, edit.session_name, edit.texts) == ("qe_1", "s", "work", 1)


def test_a_line_that_was_cut_off_is_not_a_step_and_is_written_over() -> None:
    EditJournal.create(plan()).leave()
    (path,) = journal_paths()
    whole = Path(path).read_bytes()
    for torn in (b'{"step":"taken","input_ids":["in_1"]', b'{"step":"taken","input_ids":[]}', b'{"step":"tak\n', b"\0"):
        Path(path).write_bytes(whole + torn)
        assert len(unfinished_edits()) == 1
        assert Path(path).read_bytes() == whole + torn, "a look changes nothing"
        journal = EditJournal.take_over(path)
        assert journal is not None and journal.taken is None
        journal.record_taken(["in_1"])
        journal.leave()
        again = EditJournal.take_over(path)
        assert again is not None and again.taken == Taken(("in_1",))
        again.leave()


def test_a_journal_without_a_whole_plan_is_no_edit() -> None:
    EditJournal.create(plan()).leave()
    (path,) = journal_paths()
    Path(path).write_bytes(Path(path).read_bytes()[:20])
    assert unfinished_edits() == [] and EditJournal.take_over(path) is None


def test_what_died_before_it_had_a_name_is_swept_and_what_is_held_is_not(home: Path) -> None:
    EditJournal.create(plan()).leave()
    (path,) = journal_paths()
    unborn = Path(path + ".new")
    unborn.write_text("half a plan")
    held = EditJournal.create(plan("qe_2"))
    drop_unborn()
    assert not unborn.exists() and len(journal_paths()) == 2
    held.leave()


def test_an_edit_that_begins_while_unborn_ones_are_dropped_keeps_its_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal gets its name between the look at the directory and the look at the file."""
    journal = EditJournal.create(plan())
    (path,) = journal_paths()
    name = os.path.basename(path)
    monkeypatch.setattr("lash_cli.cli.edit_journal._names", lambda: [f"{name}.new"])
    drop_unborn()
    assert os.path.exists(path)
    journal.leave()


def test_everything_an_edit_writes_is_private(home: Path) -> None:
    EditJournal.create(plan()).leave()
    text = write_text("qe_1", "secret")
    assert stat.S_IMODE(os.stat(home / "edits").st_mode) == 0o700
    for path in (text, *journal_paths()):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_text_is_kept_once_its_journal_is_gone() -> None:
    journal = EditJournal.create(plan())
    path = write_text("qe_1", "typed")
    assert kept_texts() == []
    journal.finish()
    assert kept_texts() == [path]


def test_a_place_that_cannot_be_written_is_said_before_anything_is_cancelled(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "edits").write_text("in the way")
    with pytest.raises(StoreReadOnly):
        EditJournal.create(plan())
    assert journal_paths() == [] and unfinished_edits() == []


def test_a_full_disk_leaves_what_was_typed_as_it_was() -> None:
    """A recovery writes it anew, behind the texts of a queue that is deleted."""
    path = Path(write_text("qe_1", "typed"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        with pytest.raises(LashRuntimeError):
            write_text("qe_1", "texts of the queue, and typed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "typed" and os.listdir(path.parent) == [path.name]
