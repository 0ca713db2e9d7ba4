"""`lash export`: sessions as something to read, to work with, or to import again (contract 08 §5.1).

Committed text only, as of one moment for each session. What is private stays
private: files are written 0600, whole or not at all, and what was redacted and
what not is said.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from lash_cli.cli.arguments import SomeSessions
from lash_cli.cli.bulk import resolve_all
from lash_cli.cli.cut_off import warn_of_cut_off
from lash_cli.cli.documents import Document
from lash_cli.cli.exporting import FORMATS, Choice, exported, redacts_by_default
from lash_cli.cli.invocation import current
from lash_cli.cli.known_keys import load_known_keys
from lash_cli.cli.out_files import check_writable, require_name, write_named
from lash_cli.cli.output import emit_one, safe, say, warn, write
from lash_cli.cli.progress import progress
from lash_cli.cli.reading import no_session_yet, read_session_row, reading_store, run_inline
from lash_cli.core.archive import SessionArchive, cut_off_count, unsound_refs
from lash_cli.errors import UsageError
from lash_cli.paths import is_stream, taken_file
from lash_cli.store.base import SessionRow
from lash_cli.system import SystemClock
from lash_cli.views.shell_words import shell_word

STDOUT = "-"
_BY_SUFFIX = {".md": "md", ".markdown": "md", ".html": "html", ".htm": "html", ".json": "json", ".jsonl": "jsonl"}


def command(
    sessions: SomeSessions,
    as_format: Annotated[str | None, typer.Option("--as", metavar="FORMAT", help="md, html, json or jsonl.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write it there; - is stdout.")] = None,
    redact: Annotated[
        bool | None, typer.Option("--redact/--no-redact", help="Mask keys and passwords; on but for json.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace FILE if it exists.")] = False,
) -> int:
    """Write sessions as Markdown, as a page, as JSON to import again, or as one JSON line for each message.

    Without --as the ending of FILE decides, else it is md. json holds all of a
    session, branches, attachments and what waits in the queue too: lash import
    makes the same session of it. A redacted one cannot be imported.
    """
    if out is not None:
        require_name(out, "--out")
        if out != STDOUT:
            check_writable(out)
    chosen = _format(as_format, out)
    is_redacted = redacts_by_default(chosen) if redact is None else redact
    with progress("exporting"):
        rows, archives = run_inline(lambda: _read(sessions))
        if is_redacted:
            load_known_keys()
        content = exported(archives, Choice(chosen, is_redacted), SystemClock().now_ms())
    _say_what_is_missing(rows, chosen)
    for archive in archives:
        damaged = len(unsound_refs(archive)) if chosen == "json" else 0
        if damaged:
            what = "1 attachment" if damaged == 1 else f"{damaged} attachments"
            warn(f"{archive.name}: the bytes of {what} are damaged, and nothing can import it without: lash db check")
        kept = "beside the session in the file, and never imported" if chosen == "json" else "not exported"
        warn_of_cut_off(archive.name, cut_off_count(archive), kept)
    _say_redaction(chosen, is_redacted)
    if out is None or out == STDOUT:
        write(safe(content) if chosen in ("md", "html") and sys.stdout.isatty() else content)
        return 0
    data = content.encode("utf-8", "backslashreplace")
    _write(out, data, replace=replace)
    emit_one("Exported", _document(out, chosen, is_redacted, archives, len(data)), text=out)
    return 0


def _format(named: str | None, out: str | None) -> str:
    """The form asked for by name, by the ending of the file, or by `-o json` and `-o jsonl` when it goes to stdout."""
    if named is not None:
        if named not in FORMATS:
            raise UsageError(f"unknown format {named!r}", hint=f"choose one of: {', '.join(FORMATS)}")
        return named
    if out is not None and out != STDOUT:
        return _BY_SUFFIX.get(os.path.splitext(out)[1].lower(), "md")
    asked = current().output.format
    return asked if asked in ("json", "jsonl") else "md"


async def _read(references: list[str]) -> tuple[list[SessionRow], list[SessionArchive]]:
    async with reading_store() as store:
        if store is None:
            raise no_session_yet(references[0])
        metas = await resolve_all(store, references)
        rows = [await read_session_row(store, meta.session_id) for meta in metas]
        return rows, [await store.export_session(meta.session_id) for meta in metas]


def _say_what_is_missing(rows: list[SessionRow], chosen: str) -> None:
    """What an export does not have must not be lost unnoticed when the session is deleted next."""
    for row in rows:
        waiting = row.pending_batches + (0 if chosen == "json" else row.pending_inputs)
        if waiting:
            see = f"lash queue ls {shell_word(row.meta.name)}"
            see += f", lash queue batches {shell_word(row.meta.name)}" if row.pending_batches else ""
            warn(f"{row.meta.name}: {waiting} waiting in the queue are not exported; see {see}")
        if row.running_turn_id is not None:
            kept = "only what it was asked is exported, as waiting" if chosen == "json" else "not exported"
            warn(f"{row.meta.name}: turn {row.running_turn_id} is not committed: {kept}")


def _say_redaction(chosen: str, is_redacted: bool) -> None:
    if is_redacted:
        say(
            f"redaction: on, the default for {chosen}; --no-redact turns it off"
            if chosen != "json"
            else "redaction: on"
        )
    else:
        say(f"redaction: off{', so that it can be imported' if chosen == 'json' else ''}; --redact turns it on")


def _write(path: str, data: bytes, *, replace: bool) -> None:
    """The whole file or none, readable by nobody else. Raises `ConflictError` (`file_exists`), and as `write_named`."""
    if os.path.lexists(path) and not replace and not is_stream(path):
        raise taken_file(path, "name another file, or give --replace")
    write_named(path, data)


def _document(path: str, chosen: str, is_redacted: bool, archives: list[SessionArchive], size: int) -> Document:
    return {
        "id": path,
        "file": path,
        "format": chosen,
        "redacted": is_redacted,
        "bytes": size,
        "sessions": [
            {"id": archive.session_id, "name": archive.name, "cut_off": cut_off_count(archive)} for archive in archives
        ],
    }
