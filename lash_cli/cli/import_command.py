"""`lash import`: a session from what `lash export --as json` wrote (contract 08 §5.1).

The file is read and checked to its end before anything is written: one that is
cut off, damaged or somebody else's changes nothing.
"""

from __future__ import annotations

import os
import sys
from contextlib import aclosing
from typing import Annotated

import msgspec
import typer

from lash_cli.cli.bulk import COLUMNS
from lash_cli.cli.cut_off import CUT_OFF
from lash_cli.cli.documents import Document
from lash_cli.cli.names import require_id, require_name
from lash_cli.cli.output import emit_many, say, warn
from lash_cli.cli.progress import progress
from lash_cli.cli.reading import reading_store, run_async
from lash_cli.cli.running import writing_store
from lash_cli.cli.stdin import StdinKind, stdin_kind
from lash_cli.core.archive import ARCHIVE_FORMAT, ExportFile, SessionArchive, check_archive, cut_off_count
from lash_cli.core.codec import decode
from lash_cli.errors import ConflictError, NotFoundError, SessionDeleted, UsageError
from lash_cli.paths import current_directory_or_root, path_text, regular_or_given
from lash_cli.store.base import RuntimePersistence
from lash_cli.views.shell_words import shell_word

STDIN = "-"
OLDEST_FORMAT = 1
_MAKE_ONE = "write one with: lash export SESSION --as json --out FILE"
_ANOTHER_ID = "give it another id: lash import FILE --id NEW"


class _Header(msgspec.Struct):
    """What a file says it is; everything else in it is read afterwards."""

    schema: str = ""
    kind: str = ""
    format: int = 0
    redacted: bool = False


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What lash export --as json wrote; - is stdin.")],
    new_id: Annotated[str | None, typer.Option("--id", metavar="NEW", help="Import it under this id.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be imported.")] = False,
) -> int:
    """Make the sessions of an export again: same transcript, branches, settings and costs.

    They keep their ids. An id that is in use, or was deleted, needs another one
    with --id. A name that is taken is replaced by a free one. What waited in
    the queue waits again, and the queue is held until you release it.
    """
    if new_id is not None:
        require_id(new_id)
    data = _read(file)
    with progress("reading the export"):
        archives = read_export(data, file)
    if new_id is not None and len(archives) != 1:
        raise UsageError(f"--id is for one session, the file has {len(archives)}")
    targets = [(archive, new_id or archive.session_id) for archive in archives]
    if len({session_id for _, session_id in targets}) != len(targets):
        raise _invalid(file, "a session occurs twice")
    with progress("looking whether it can be imported" if dry_run else "importing"):
        rows = run_async(_check(targets) if dry_run else _import(targets))
    emit_many("Imported", rows, columns=COLUMNS)
    for (archive, session_id), row in zip(targets, rows, strict=True):
        if row["name"] != archive.name:
            say(f"{session_id}: the name {shell_word(archive.name)} is taken")
        if archive.cwd is not None and archive.cwd != path_text(current_directory_or_root()):
            say(f"{session_id} works in {archive.cwd}")
        if cut_off := cut_off_count(archive):
            nodes = "1 node" if cut_off == 1 else f"{cut_off} nodes"
            warn(f"{session_id}: not imported: {nodes}, cut off from the rest where it comes from", CUT_OFF)
        if archive.inputs:
            say(f"{len(archive.inputs)} wait in its queue, which is held: lash queue release {session_id}")
    return 0


def read_export(data: bytes, name: str) -> tuple[SessionArchive, ...]:
    """The sessions of an export file, every one of them checked.

    Raises `UsageError`: `archive_invalid` for what is no whole export of ours,
    `archive_too_new`, `archive_redacted`.
    """
    try:
        header = decode(data, _Header)
    except msgspec.ValidationError as error:
        raise _invalid(name, "it is no export of lash") from error
    except msgspec.DecodeError as error:
        raise _invalid(name, f"it is cut off or no JSON: {error}") from error
    if (header.schema, header.kind) != ("lash/1", "SessionExport"):
        raise _invalid(name, "it is no export of lash")
    if header.format < OLDEST_FORMAT:
        raise _invalid(name, f"no lash wrote format {header.format}")
    if header.format > ARCHIVE_FORMAT:
        raise UsageError(
            f"{name} has format {header.format}, this program knows {ARCHIVE_FORMAT}",
            code="archive_too_new",
            hint="update lash",
        )
    if header.redacted:
        raise UsageError(
            f"{name} was redacted: it is not the session any more",
            code="archive_redacted",
            hint="export it again without --redact",
        )
    try:
        file = decode(data, ExportFile)
    except msgspec.DecodeError as error:
        raise _invalid(name, str(error)) from error
    if not file.sessions:
        raise _invalid(name, "it holds no session")
    for archive in file.sessions:
        check_archive(archive)
        try:
            require_name(archive.name)
        except UsageError as error:
            raise _invalid(name, error.message) from error
    return file.sessions


def _invalid(name: str, reason: str) -> UsageError:
    return UsageError(
        f"{name} cannot be imported: {reason}",
        code="archive_invalid",
        hint="it must be what lash export SESSION --as json wrote",
    )


def _read(path: str) -> bytes:
    try:
        if path == STDIN:
            if stdin_kind() not in (StdinKind.FILE, StdinKind.FIFO):
                raise UsageError("- is stdin, and stdin is neither a file nor a pipe", hint=_MAKE_ONE)
            return sys.stdin.buffer.read()
        with open(path, "rb", opener=regular_or_given) as file:
            return file.read()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}", code="archive_not_found", hint=_MAKE_ONE) from error
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise UsageError(f"cannot read {path}: {reason}", hint=_MAKE_ONE) from error


async def _check(targets: list[tuple[SessionArchive, str]]) -> list[Document]:
    taken: set[str] = set()
    rows: list[Document] = []
    async with reading_store() as store:
        if store is not None:
            await _require_free(store, targets)
        for archive, session_id in targets:
            found = () if store is None else await store.find_sessions(archive.name)
            taken.update(word for meta in found for word in (meta.session_id, meta.name))
            # Which free name it would get instead is found only when it is made.
            name = None if archive.name in taken else archive.name
            taken |= {session_id, archive.name}
            rows.append(_row(session_id, name, "would_import"))
    return rows


async def _import(targets: list[tuple[SessionArchive, str]]) -> list[Document]:
    async with aclosing(writing_store()) as store:
        await _require_free(store, targets)
        made = await store.import_sessions(targets)
    return [_row(meta.session_id, meta.name, "imported") for meta in made]


async def _require_free(store: RuntimePersistence, targets: list[tuple[SessionArchive, str]]) -> None:
    """Raise for the first id that is in use or was deleted, before anything is written."""
    for _, session_id in targets:
        try:
            row = await store.session_row(session_id)
        except SessionDeleted as error:
            raise SessionDeleted(
                f"session {session_id!r} was deleted, and an id is used once", hint=_ANOTHER_ID
            ) from error
        if row is not None:
            raise ConflictError(
                f"session {session_id!r} exists",
                code="session_exists",
                hint=_ANOTHER_ID,
                details={"session": session_id, "name": row.meta.name},
            )


def _row(session_id: str, name: str | None, outcome: str) -> Document:
    return {"id": session_id, "name": name, "outcome": outcome, "code": None}
