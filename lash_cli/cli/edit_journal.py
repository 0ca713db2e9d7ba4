"""What an edit of a queue took out and has not put back yet, on disk (contract 08 §5.3).

The texts are written and synced before they are cancelled in the store, and
what goes back is written and synced before the first of it is queued. So at
every moment a text is in the queue, in a journal, or in both; and because what
goes back carries keys made from the edit's id, putting it back twice queues it
once. The process that edits keeps the file locked; a journal that nobody holds
belongs to an edit that was cut off.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from lash_cli.cli.invocation import current
from lash_cli.core.codec import Record, decode_any, encode
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import PendingTurnInput, TurnInputIngress
from lash_cli.errors import LashError
from lash_cli.paths import (
    PRIVATE_FILE_MODE,
    ensure_private_directory,
    only_regular,
    unusable_path,
    write_private_file,
)

DIRECTORY = "edits"
_JOURNAL = ".journal"
_TEXT = ".txt"
_NEW = ".new"


class Planned(Record, tag="planned", tag_field="step"):
    """The rows an edit is about to cancel, with their texts. With `is_signed` it cancels them under its own id."""

    edit_id: str
    session_id: str
    session_name: str
    rows: tuple[PendingTurnInput, ...]
    is_signed: bool = False


class Taken(Record, tag="taken", tag_field="step"):
    """The rows it did cancel; without this line the store tells."""

    input_ids: tuple[str, ...]


class Returning(Record):
    """One input that goes into the queue again. Its key makes it go once."""

    key: str
    ingress: TurnInputIngress
    input: TurnInput


class Decided(Record, tag="decided", tag_field="step"):
    """What goes back, in order. Nothing was put back before this line was on disk."""

    returning: tuple[Returning, ...]


Step = Planned | Taken | Decided


class UnfinishedEdit(NamedTuple):
    """An edit that was cut off, as far as it can be told without holding its journal."""

    edit_id: str
    session_id: str
    session_name: str
    texts: int


def edits_directory() -> str:
    """Where journals and the texts of edits are."""
    return os.path.join(current().paths.state_dir, DIRECTORY)


def text_path(edit_id: str) -> str:
    """The file an editor opens for this edit."""
    return os.path.join(edits_directory(), edit_id + _TEXT)


def write_text(edit_id: str, text: str) -> str:
    """Write and sync the file an editor opens; its path. Raises as `paths.unusable_path`, and then it has the old
    text or the new one."""
    path = text_path(edit_id)
    write_private_file(path, text.encode())
    try:
        _sync_directory()
    except OSError as error:
        raise unusable_path(path, error, "write") from error
    return path


def forget_text(edit_id: str) -> None:
    """Remove the file an editor opened, if it is there."""
    path = text_path(edit_id)
    if os.path.exists(path):
        os.unlink(path)


def keep_typed(error: LashError, edit_id: str, begin: str, untouched: str) -> None:
    """Have the error say that all is `untouched` and where the text is; a file that still holds what it began with is
    none, and goes."""
    path = text_path(edit_id)
    error.hint = untouched
    if _holds(path, begin):
        forget_text(edit_id)
    else:
        error.hint += f"; what you typed is in {path}"
        error.details.update(file=path)


def _holds(path: str, begin: str) -> bool:
    """Whether a file is as it was written, or was never there."""
    try:
        with open(path, "rb", opener=only_regular) as file:
            return file.read() == begin.encode()
    except OSError:
        return not os.path.exists(path)


class EditJournal:
    """The journal of one edit, held by this process."""

    def __init__(self, descriptor: int, path: str, plan: Planned) -> None:
        self._descriptor = descriptor
        self._path = path
        self.plan = plan
        self.taken: Taken | None = None
        self.decided: Decided | None = None

    @classmethod
    def create(cls, plan: Planned) -> EditJournal:
        """Begin an edit: when this returns, every text of `plan` is on disk. Raises as
        `paths.unusable_path`."""
        directory = edits_directory()
        ensure_private_directory(directory)
        drop_unborn()
        path = os.path.join(directory, plan.edit_id + _JOURNAL)
        try:
            descriptor = os.open(path + _NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, PRIVATE_FILE_MODE)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            journal = cls(descriptor, path, plan)
            journal._append(plan)
            # Under its name it is whole and locked: nobody ever sees a journal that is neither.
            os.rename(path + _NEW, path)
            _sync_directory()
        except OSError as error:
            raise unusable_path(path, error, "write") from error
        return journal

    @classmethod
    def take_over(cls, path: str) -> EditJournal | None:
        """The journal of an edit that was cut off; None when somebody holds it, or it is gone meanwhile.

        Raises as `paths.unusable_path` when it cannot be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unusable_path(path, error, "open") from error
        steps, length = _steps(descriptor) if _lock(descriptor, path) else ([], 0)
        if not steps or not isinstance(steps[0], Planned):
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, length)
        journal = cls(descriptor, path, steps[0])
        for step in steps[1:]:
            journal._note(step)
        return journal

    def record_taken(self, input_ids: Sequence[str]) -> None:
        """Note which rows were cancelled."""
        self._append(step := Taken(tuple(input_ids)))
        self._note(step)

    def decide(self, returning: Sequence[Returning]) -> None:
        """Fix what goes back; when this returns it is on disk."""
        self._append(step := Decided(tuple(returning)))
        self._note(step)

    def finish(self) -> None:
        """Everything is back in the queue: forget the edit."""
        os.unlink(self._path)
        os.close(self._descriptor)

    def leave(self) -> None:
        """Let go of an edit that could not be finished; it can be recovered."""
        os.close(self._descriptor)

    def _note(self, step: Step) -> None:
        if isinstance(step, Taken):
            self.taken = step
        elif isinstance(step, Decided):
            self.decided = step

    def _append(self, step: Step) -> None:
        line = encode(step) + b"\n"
        try:
            if os.write(self._descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, "it was written only in part")
            os.fsync(self._descriptor)
        except OSError as error:
            raise unusable_path(self._path, error, "write") from error


def unfinished_edits() -> list[UnfinishedEdit]:
    """Edits that were cut off, oldest first; those that somebody is busy with are left out. Changes nothing."""
    found = []
    for path in journal_paths():
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # finished meanwhile, or somebody else's
        try:
            steps, _ = _steps(descriptor) if _lock(descriptor, path) else ([], 0)
        finally:
            os.close(descriptor)
        if steps and isinstance(plan := steps[0], Planned):
            found.append(UnfinishedEdit(plan.edit_id, plan.session_id, plan.session_name, len(plan.rows)))
    return found


def cut_off_note(session_id: str) -> str | None:
    """That an edit of this session's queue was cut off, and what puts its texts back; None when none was."""
    if not any(edit.session_id == session_id for edit in unfinished_edits()):
        return None
    return "an edit of this queue was cut off; put its texts back with: lash queue edit --recover"


def kept_texts() -> list[str]:
    """The files of edits that went wrong: their inputs are back, what was typed is only there."""
    journals = {os.path.basename(path).removesuffix(_JOURNAL) for path in journal_paths()}
    return [
        os.path.join(edits_directory(), name)
        for name in _names()
        if name.endswith(_TEXT) and name.removesuffix(_TEXT) not in journals
    ]


def journal_paths() -> list[str]:
    """The journals there are, oldest first: edit ids sort by time."""
    return [os.path.join(edits_directory(), name) for name in _names() if name.endswith(_JOURNAL)]


def drop_unborn() -> None:
    """Remove journals whose process died before they had a name; nothing had been cancelled for them."""
    for name in _names():
        if not name.endswith(_JOURNAL + _NEW):
            continue
        path = os.path.join(edits_directory(), name)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # it has its name by now
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        except OSError:
            continue  # somebody is just about to name it
        finally:
            os.close(descriptor)


def _names() -> list[str]:
    try:
        return sorted(os.listdir(edits_directory()))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unusable_path(edits_directory(), error, "look into the directory") from error


def _lock(descriptor: int, path: str) -> bool:
    """Lock a journal; False when somebody holds it, or it was finished and removed meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _steps(descriptor: int) -> tuple[list[Step], int]:
    """The steps of a journal and how many bytes they take; a last line that a crash cut off is not one."""
    steps: list[Step] = []
    length = 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        for line in file:
            try:
                step: Step = decode_any(line, Step)
            except msgspec.DecodeError:
                break
            if not line.endswith(b"\n"):
                break
            steps.append(step)
            length += len(line)
    return steps, length


def _sync_directory() -> None:
    """Make names survive a power cut, too."""
    descriptor = os.open(edits_directory(), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
