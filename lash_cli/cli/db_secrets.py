"""`lash db scan|scrub`: secrets that were said, and taking them out (contract 08 §6.8).

A transcript is kept verbatim, so a key somebody pasted is in it. `scan` shows
where, never what; `scrub` puts a mark in its place, after a copy was made, and
writes down what it did before the change is committed: one JSON line per run in
`scrubs.jsonl`. The copy still has the secrets and is the user's to delete.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lash_cli.cli.asking import confirm
from lash_cli.cli.db_files import copy_place, copy_told
from lash_cli.cli.invocation import current
from lash_cli.cli.known_keys import load_known_keys
from lash_cli.cli.output import Document, emit_many, emit_one, say
from lash_cli.cli.progress import progress
from lash_cli.errors import StoreUnusable
from lash_cli.paths import PRIVATE_FILE_MODE, ensure_private_directory, unusable_path
from lash_cli.settings.redact import MASK, find_secrets, may_hold_secret
from lash_cli.system import SystemClock
from lash_cli.views.tables import columns
from lash_cli.views.times import rfc3339

if TYPE_CHECKING:
    from lash_cli.store.sqlite.secrets import Finder, Hit, Scrubbed

RECORD = "scrubs.jsonl"
_COLUMNS = ("session", "table", "row", "kind", "times", "ends_with")
_LOOKING = "looking for secrets"
_BEGIN = "BEGIN IMMEDIATE"


def scan() -> int:
    """List the secrets that stand in the database: where, of which kind, and how each ends.

    Keys this machine uses are found as they are, others by their shape: API
    keys, private keys, bearer tokens, passwords in URLs. Nothing is changed.
    """
    from lash_cli.store.sqlite.inspection import looking
    from lash_cli.store.sqlite.secrets import scan as look

    load_known_keys()
    with looking(Path(current().paths.database)) as connection, progress(_LOOKING):
        items = [_item(hit) for hit in look(connection, _finder())]
    emit_many("SecretList", items, columns=_COLUMNS, id_field="row")
    if items:
        say("take them out with: lash db scrub")
    else:
        say("no secret was found")
    return 0


def scrub(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be taken out.")] = False,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Make no copy first; there is no way back.")] = False,
) -> int:
    """Put [redacted] in the place of secrets in transcripts, settled inputs and results.

    A copy of the database is made first, and a line in scrubs.jsonl says what
    was done. What cannot be changed without breaking something, such as an
    attachment or an input that waits, is left and listed. Refused while another
    process has the database open or a session is held. Asks first; --yes
    answers.
    """
    from lash_cli.store.sqlite.inspection import empty_log, looking, migrate
    from lash_cli.store.sqlite.secrets import scan as look

    load_known_keys()
    place = Path(current().paths.database)
    with looking(place) as connection, progress(_LOOKING):
        found = sum(1 for _ in look(connection, _finder()))
    if not found:
        if not dry_run:
            # One that was cut off has committed what stands in the log alone: the file would go on holding secrets.
            empty_log(place)
        emit_one("DatabaseScrub", _document(place, dry_run, None, None, None), text="")
        say("no secret was found")
        return 0
    if not dry_run:
        confirm(f"change what was said in {place}, to take secrets out of {found} places?")
    copy = None if dry_run or no_backup else copy_place("before-scrub")
    with copy_told(copy), progress("looking what would be changed" if dry_run else "taking secrets out"):
        migrate(place, SystemClock())
        record, done = _scrub(place, copy, is_trial=dry_run)
    document = _document(place, dry_run, copy, record, done)
    emit_one("DatabaseScrub", document, text=_text(document))
    if copy is not None:
        say(f"the copy from before still has them: delete {copy} when you are sure")
    return 0


def _scrub(place: Path, copy: Path | None, *, is_trial: bool) -> tuple[str | None, Scrubbed]:
    """Take the secrets out, after a copy was written to `copy`: the record of it, and what was done."""
    from lash_cli.store.sqlite.backup import write_copy
    from lash_cli.store.sqlite.ownership import refuse_held, sole_connection
    from lash_cli.store.sqlite.secrets import rewrite, scrub

    record: str | None = None
    may_be_changed = False
    with sole_connection(place) as connection:
        refuse_held(connection, SystemClock().now_ms())
        if copy is not None:
            write_copy(connection, copy)
        connection.execute(_BEGIN)
        try:
            done = scrub(connection, _finder(), MASK)
            if not is_trial and done.taken:
                _refuse_broken(connection)
                record = _write_record(place, copy, done.taken)
                may_be_changed = True
                connection.commit()
        except BaseException:
            if copy is not None and not may_be_changed:
                # A copy of what is as it was would keep the secrets that the next run takes.
                copy.unlink()
            raise
        finally:
            if connection.in_transaction:
                connection.rollback()
        if record is not None:
            rewrite(connection)
    return record, done


def _refuse_broken(connection: sqlite3.Connection) -> None:
    """Raise `StoreUnusable` if a rule between rows does not hold, so that nothing is committed."""
    from lash_cli.store.sqlite.invariants import broken_rules

    broken = broken_rules(connection)
    if broken:
        raise StoreUnusable(
            f"the database would not be sound afterwards: {broken[0].code}: {broken[0].detail}",
            hint="nothing was changed; see: lash db check",
        )


def _write_record(place: Path, copy: Path | None, taken: Sequence[Hit]) -> str:
    """Append what is about to be committed; the path of the file."""
    invocation = current()
    ensure_private_directory(invocation.paths.state_dir)
    path = os.path.join(invocation.paths.state_dir, RECORD)
    line = {
        "at": rfc3339(SystemClock().now_ms()),
        "request_id": invocation.request_id,
        "database": str(place),
        "backup": None if copy is None else str(copy),
        "scrubbed": [_item(hit) for hit in taken],
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE_MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unusable_path(path, error, "write") from error
    return path


def _finder() -> Finder:
    from lash_cli.store.sqlite.secrets import Finder

    return Finder(may_hold_secret, find_secrets)


def _item(hit: Hit) -> Document:
    return {
        "table": hit.table,
        "column": hit.column,
        "session": hit.session_id,
        "row": hit.row,
        "kind": hit.kind,
        "times": hit.times,
        "ends_with": hit.tail,
    }


def _document(place: Path, dry_run: bool, copy: Path | None, record: str | None, done: Scrubbed | None) -> Document:
    return {
        "id": str(place),
        "dry_run": dry_run,
        "backup": None if copy is None else str(copy),
        "record": record,
        "scrubbed": [] if done is None else [_item(hit) for hit in done.taken],
        "left": [] if done is None else [_item(hit) for hit in done.left],
    }


def _text(document: Document) -> str:
    blocks = []
    for title, items in (("TAKEN OUT OF", document["scrubbed"]), ("LEFT IN", document["left"])):
        if items:
            rows = [tuple("-" if item[name] is None else str(item[name]) for name in _COLUMNS) for item in items]
            blocks.append(columns((title, "TABLE", "ROW", "KIND", "TIMES", "ENDS WITH"), rows))
    return "\n\n".join(blocks)
