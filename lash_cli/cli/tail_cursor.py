"""Where a tail begins, and the file that keeps where it got to (contract 04 §5, 08 §8).

A cursor is opaque: it is read, kept and handed back as one token. The file holds
one token per watched session and is replaced as a whole after each item that
was shown, so a tail that is killed goes on with the item it may not have shown,
and never behind one. Only a regular file is ever read or replaced; a link to
one stays a link.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import NamedTuple

from lash_cli.cli.out_files import check_writable, named_file
from lash_cli.core.observation import SessionCursor
from lash_cli.errors import LashRuntimeError, SessionCursorMalformed, SessionCursorWrongSession, UsageError
from lash_cli.paths import from_here, is_stream, only_regular, replace_file, sweep_drafts

START = "start"
LAST_COMMIT = "last-commit"
NOW = "now"
CURSOR = "cursor"
# How every cursor begins, of whatever version.
_MARK = "lashsc"
_HEAD_BYTES = 64


class Begin(NamedTuple):
    """Where to begin: `word` is `start`, `last-commit`, `now` or `cursor`; `cursors` are by session id."""

    word: str
    cursors: dict[str, SessionCursor]


def parse_from(text: str) -> Begin:
    """What `--from` says; raises `SessionCursorMalformed` for a word that is neither known nor a cursor."""
    if text in (START, LAST_COMMIT, NOW):
        return Begin(text, {})
    try:
        cursor = SessionCursor.from_store_token(text)
    except SessionCursorMalformed as error:
        if text.startswith(_MARK):
            raise
        raise SessionCursorMalformed(
            f"--from cannot be {text!r}: it takes start, last-commit, now or a cursor",
            hint="a cursor is what a JSON line of a tail or a turn carries as `cursor`",
        ) from error
    return Begin(CURSOR, {cursor.session_id: cursor})


def parse_cursor(text: str) -> Begin:
    """What `--cursor` says; raises `SessionCursorMalformed`."""
    cursor = SessionCursor.from_store_token(text)
    return Begin(CURSOR, {cursor.session_id: cursor})


def require_sessions(begin: Begin, session_ids: Collection[str]) -> None:
    """Raise `SessionCursorWrongSession` when a cursor is of none of the sessions that are watched."""
    for session_id, cursor in begin.cursors.items():
        if session_id not in session_ids:
            if len(session_ids) == 1:
                cursor.require_session(next(iter(session_ids)))
            raise SessionCursorWrongSession(" or ".join(sorted(session_ids)), session_id)


class CursorFile:
    """The file of `--save-cursor`."""

    def __init__(self, path: str) -> None:
        self._path = named_file(path, "--save-cursor")
        self._target = os.path.realpath(from_here(path))
        self._tokens: dict[str, str] = {}

    def load(self, *, is_wanted: bool) -> Begin | None:
        """What the file holds; None when there is none, or when it is not wanted and will only be replaced.

        A place that was read is kept until a newer one of its session is
        saved. Raises `UsageError` for a file that cannot be read, as
        `check_writable`, and `SessionCursorMalformed`, for what is no cursor
        file also when it is not wanted: somebody else's file is not replaced.
        """
        if is_stream(self._path) or is_stream(self._target):
            raise UsageError(f"cannot keep a cursor in {self._path}", hint="name a file, which can be read again")
        check_writable(self._path)
        sweep_drafts(self._target)
        try:
            with open(self._target, "rb", opener=only_regular) as file:
                begin = file.read(_HEAD_BYTES).lstrip()
                if begin and not begin.startswith(_MARK.encode()):
                    raise SessionCursorMalformed(
                        f"{self._path} is no cursor file", hint="name another file, or remove it"
                    )
                file.seek(0)
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"cannot read the cursor file {self._path}: {error.strerror}") from error
        if not is_wanted:
            return None
        try:
            cursors = [SessionCursor.from_store_token(line.strip()) for line in text.splitlines() if line.strip()]
            if not cursors:
                raise SessionCursorMalformed("there is no cursor in it")
        except SessionCursorMalformed as error:
            raise SessionCursorMalformed(
                f"the cursor file {self._path} is damaged: {error.message}",
                hint="remove it, or say where to begin with --from",
            ) from error
        # A tail of many that ends before it has begun with the last of them keeps the places of all.
        self._tokens = {cursor.session_id: str(cursor) for cursor in cursors}
        return Begin(CURSOR, {cursor.session_id: cursor for cursor in cursors})

    def keep_only(self, session_ids: Collection[str]) -> None:
        """The sessions there are: what was read of others is left out from the next save on."""
        self._tokens = {name: token for name, token in self._tokens.items() if name in session_ids}

    def note(self, cursor: SessionCursor) -> None:
        """Keep a place with the next one that is saved, or with `write`."""
        self._tokens[cursor.session_id] = str(cursor)

    def write(self) -> None:
        """Write what was noted. Raises `LashRuntimeError` (`cursor_not_saved`)."""
        text = "".join(f"{token}\n" for token in self._tokens.values())
        try:
            replace_file(self._target, text.encode(), is_lasting=False)
        except OSError as error:
            raise LashRuntimeError(
                "cursor_not_saved", f"the cursor could not be kept in {self._path}: {error.strerror}"
            ) from error

    def save(self, cursor: SessionCursor) -> None:
        """Keep where a session's tail got to. Raises as `write`."""
        self.note(cursor)
        self.write()

    def forget(self, session_id: str) -> None:
        """A session that is gone has no place any more."""
        if self._tokens.pop(session_id, None) is not None:
            self.write()
