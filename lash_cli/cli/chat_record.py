"""`lash chat --record FILE`: what a chat saw of its sessions, as JSON lines (contract 08 §6.5).

The lines are those of `tail -o jsonl`, one stream for the whole chat, also when
it goes on in another session: `stream_start` first, `stream_end` last, and what
the end of the chat still committed before it. A file that cannot be written any
more ends the recording, is told at once and decides the exit status; it never
ends the chat.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from lash_cli.cli.out_files import check_writable
from lash_cli.cli.tail_stream import JsonTail, observed_document
from lash_cli.cli.tail_watched import Watched
from lash_cli.cli.turn_stream import OutputPump
from lash_cli.errors import LashError, LashRuntimeError
from lash_cli.paths import PRIVATE_FILE_MODE, is_stream, taken_file, unwritten_file
from lash_cli.runtime.observing import ObservedGap, Replayed

if TYPE_CHECKING:
    from lash_cli.core.observation import SessionCursor, SessionObservationEvent
    from lash_cli.store.base import RuntimePersistence, SessionRow

MODE = "chat"


class ChatRecording:
    """The recording of one chat. Implements `repl.desk.Recorder`."""

    def __init__(self, path: str) -> None:
        """Make the file, which only its owner can read, or open the pipe or device of this name.

        Raises `ConflictError` (`file_exists`) for a file that exists, and as `paths.unwritten_file`.
        """
        self._path = path
        check_writable(path)
        try:
            if is_stream(path):
                self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            else:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE_MODE)
        except FileExistsError as error:
            raise taken_file(path, "name another file with --record FILE") from error
        except OSError as error:
            raise unwritten_file(path, error) from error
        self._pump = OutputPump(self._descriptor)
        self._lines = JsonTail(self, MODE)
        self._watched: Watched | None = None
        self._told: LashError | None = None
        # Tells the person of a file that cannot be written any more.
        self.on_failure: Callable[[LashError], None] = lambda _: None

    async def write(self, text: str) -> None:
        """Take lines for the file; never waits for it."""
        self._pump.write(text)
        if self._pump.failure is not None and self._told is None:
            self._told = self._unwritten(self._pump.failure)
            self.on_failure(self._told)

    def begin(self, store: RuntimePersistence, row: SessionRow, cursor: SessionCursor) -> None:
        """See `Recorder`."""
        is_first = self._watched is None
        self._watched = Watched(store, row, cursor)
        if is_first:
            self._lines.start([self._watched], "now")

    async def event(self, event: SessionObservationEvent) -> None:
        """See `Recorder`. What an event does not say itself is read before anything of it is written."""
        watched = self._session
        kind, document = observed_document(event)
        await self._lines.event(watched, event, kind, document)
        watched.cursor = event.cursor
        await self._lines.flush()

    async def gap(self, item: ObservedGap) -> None:
        """See `Recorder`."""
        self._lines.gap(self._session, item)
        self._session.cursor = item.gap.latest_cursor
        await self._lines.flush()

    async def leave(self) -> None:
        """The chat leaves the session: record what its end brought. Raises what the store raises."""
        if self._watched is None:
            return
        found = await self._watched.observed.resume_from_cursor(self._watched.cursor)
        if isinstance(found, Replayed):
            for event in found.events:
                await self.event(event)
        else:
            await self.gap(found)

    async def end(self, reason: str, exit_status: int, error: LashError | None) -> None:
        """Write `stream_end` and give the file back; one that nothing was recorded in is taken away again.

        Raises `LashRuntimeError` (`output_not_written`) when something of the recording is missing.
        """
        try:
            if self._watched is None:
                self._forget()
                return
            await self._lines.end([self._watched], reason, exit_status, error)
            await self._pump.drained()
        except OSError as failure:
            raise self._unwritten(failure) from failure
        finally:
            os.close(self._descriptor)

    def _forget(self) -> None:
        """Remove the file if it is there still, is the one made here, and empty."""
        made = os.fstat(self._descriptor)
        with suppress(FileNotFoundError):
            if stat.S_ISREG(made.st_mode) and not made.st_size and os.path.samestat(made, os.lstat(self._path)):
                os.unlink(self._path)

    @property
    def _session(self) -> Watched:
        assert self._watched is not None, "begun before"
        return self._watched

    def _unwritten(self, error: OSError) -> LashRuntimeError:
        return LashRuntimeError(
            "output_not_written",
            f"cannot record to {self._path}: {error.strerror}",
            hint="the session has everything that was committed: lash log, lash tail --from CURSOR",
        )
