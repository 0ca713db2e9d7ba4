"""`lash db backup|restore|purge`: copies of the whole database, and the end of one (contract 08 §5.4, §11).

A copy never replaces a file. What `restore` replaces is kept and the way back
is printed. `purge` is the highest danger level: the name of the database is
typed at a terminal or given with `--confirm`; `--yes` is not enough.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lash_cli.cli.head_moves import command_here
from lash_cli.cli.invocation import current
from lash_cli.cli.out_files import check_writable, named_file
from lash_cli.cli.output import emit_one, safe, say, warn
from lash_cli.cli.progress import progress
from lash_cli.errors import StoreReadOnly, UsageError
from lash_cli.paths import absolute, ensure_private_directory
from lash_cli.system import SystemClock
from lash_cli.views.counts import counted
from lash_cli.views.tables import pairs

if TYPE_CHECKING:
    from lash_cli.tools.spilling import Spilled

COPIES = "backups"


def way_back(copy: Path | str) -> str:
    """The exact command, for a shell, that restores the database of this invocation from `copy`, and no other one."""
    return command_here("db", "restore", str(copy))


def copy_place(reason: str = "") -> Path:
    """The file of a copy made now, in a private directory beside the database's data."""
    paths = current().paths
    directory = os.path.join(paths.data_dir, COPIES)
    ensure_private_directory(directory)
    now_ms = SystemClock().now_ms()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_ms // 1000)) + f".{now_ms % 1000:03d}Z"
    stem = Path(paths.database).stem
    return Path(directory, f"{stem}-{reason}-{stamp}.db" if reason else f"{stem}-{stamp}.db")


@contextmanager
def copy_told(copy: Path | str | None) -> Iterator[None]:
    """Tell where the copy is that was made first, if what it was made for fails or is cut off: nobody knows of it."""
    try:
        yield
    except BaseException:
        if copy is not None and os.path.exists(copy):
            warn(f"a copy of before was made, and stays: {copy}")
        raise


def sweep_copies() -> None:
    """Remove what killed commands left of copies of this database: each may be all of it, under no name."""
    from lash_cli.store.sqlite.backup import sweep

    paths = current().paths
    for directory in (os.path.dirname(os.path.realpath(paths.database)), os.path.join(paths.data_dir, COPIES)):
        sweep(Path(directory))


def backup(
    out: Annotated[str | None, typer.Option(metavar="FILE", help="The new file; one in backups/ otherwise.")] = None,
) -> int:
    """Copy the whole database into one new file that only you can read.

    Sessions may go on meanwhile: the copy is one moment of all of them.
    Attachments are in it; the configuration and keys are not.
    """
    current().stand_alone()
    from lash_cli.store.sqlite.backup import back_up
    from lash_cli.store.sqlite.inspection import looking

    place = Path(current().paths.database)
    with looking(place):
        pass
    if out is not None:
        check_writable(named_file(out, "--out"))
    target = Path(absolute(out)) if out is not None else copy_place()
    with progress("copying the database"):
        try:
            copy = back_up(place, target)
        except StoreReadOnly as error:
            if out is not None:
                error.hint = "name a file in another directory with --out"  # no home chooses that place
            raise
    document = {
        "id": str(copy.file),
        "file": str(copy.file),
        "bytes": copy.bytes,
        "schema_version": copy.schema_version,
        "sessions": copy.sessions,
    }
    emit_one("DatabaseBackup", document, text=str(copy.file))
    say(f"{counted(copy.sessions, 'session')}, {copy.bytes} bytes; put it back with: {way_back(copy.file)}")
    return 0


def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A copy made by lash db backup.")],
) -> int:
    """Put a copy back in the place of the database.

    What is there now is kept in a file of its own. Refused while another
    process has the database open or a session is held. The copy is checked
    before anything is changed.
    """
    from lash_cli.store.sqlite.backup import restore as put_back

    paths = current().paths
    ensure_private_directory(os.path.dirname(paths.database))
    aside = copy_place("before-restore")
    with copy_told(aside), progress("checking the copy and putting it back"):
        done = put_back(Path(absolute(file)), Path(paths.database), aside, SystemClock())
    kept = None if done.kept is None else str(done.kept)
    document = {"id": paths.database, "file": str(done.copy.file), "kept": kept, "sessions": done.copy.sessions}
    emit_one("DatabaseRestore", document, text="")
    say(f"restored {counted(done.copy.sessions, 'session')} from {done.copy.file}")
    if kept is not None:
        say(f"as it was before: {kept}; undo with: {way_back(kept)}")
    for log in done.beside:
        say(f"put aside, since the database it belongs to is gone: {log}")
    return 0


def purge(
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="The file name of the database, instead of typing.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be erased.")] = False,
) -> int:
    """Erase every session for ever: the database is empty afterwards.

    The files with whole outputs of commands go with them, unless the database
    was chosen by --db or LASH_DB while the usual one exists: the files may be
    of its sessions. Copies, configuration and keys stay where they are.
    Refused while another process has the database open or a session is held.
    """
    from glob import escape, glob

    from lash_cli.store.sqlite.backup import erase
    from lash_cli.store.sqlite.inspection import facts, looking

    place = Path(current().paths.database)
    with looking(place) as connection:
        before = facts(connection, place)
    if not dry_run:
        _require_name(place, before.sessions, confirm)
    with progress("counting what would be erased" if dry_run else "erasing every session"):
        if not dry_run:
            erase(place, SystemClock())
            sweep_copies()
        owns_outputs = not _is_beside_the_usual(place)
        spilled = _spilled(dry_run=dry_run or not owns_outputs)
    document = {
        "id": str(place),
        "dry_run": dry_run,
        "sessions": before.sessions,
        "bytes_before": before.bytes,
        "bytes_after": None if dry_run else place.stat().st_size,
        "spilled_files": spilled.files if owns_outputs else 0,
        "spilled_bytes": spilled.bytes if owns_outputs else 0,
    }
    emit_one("DatabasePurge", document, text="")
    outputs = f"{counted(spilled.files, 'whole output')} of commands"
    also = f" and {outputs}" if owns_outputs and spilled.files else ""
    say(f"{'would erase' if dry_run else 'erased'} {counted(before.sessions, 'session')} of {place}{also}")
    if spilled.files and not owns_outputs:
        say(f"left, since they may be of another database: {outputs}; lash gc removes the old ones")
    copies = os.path.join(current().paths.data_dir, COPIES)
    if glob(os.path.join(escape(copies), "*.db")):
        say(pairs([("copies that still have them", copies)]))
    return 0


def _is_beside_the_usual(place: Path) -> bool:
    """Whether `place` was chosen while there is the usual database too: outputs of commands name neither."""
    usual = current().paths.usual_database
    return os.path.exists(usual) and not os.path.samefile(usual, place)


def _spilled(*, dry_run: bool) -> Spilled:
    """The whole outputs of commands, removed or only counted."""
    from lash_cli.tools.spilling import DIRECTORY_NAME, forget_spilled

    return forget_spilled(Path(current().paths.state_dir) / DIRECTORY_NAME, None, dry_run=dry_run)


def _require_name(place: Path, sessions: int, given: str | None) -> None:
    """Return if the user names the database; raises `UsageError` (`confirmation_required`) otherwise."""
    question = f"this erases {counted(sessions, 'session')} in {place} for ever"
    if given is None:
        if not current().can_ask:
            raise UsageError(question, code="confirmation_required", hint=f"repeat it with: --confirm {place.name}")
        sys.stderr.write(f"{safe(question)}\ntype {safe(place.name)} to go on: ")
        sys.stderr.flush()
        given = sys.stdin.readline().strip()
    if given != place.name:
        raise UsageError(f"that is not {place.name!r}; nothing was done", code="confirmation_required")
