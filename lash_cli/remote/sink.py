"""A turn's activities as JSON lines to a peer (contract 04 §6.2).

Observing must not end what is observed: a line that cannot be made or written
is kept as an error for whoever asks, and the turn goes on. Line and line feed
are one write, so two turns that share a writer cannot tear each other's lines.
"""

from __future__ import annotations

from typing import Protocol

from lash_cli.core.activity import TurnActivity
from lash_cli.core.remote import RemoteTurnActivity
from lash_cli.errors import ActivitySerialization, ActivityWrite, RemoteProtocolError


class ByteWriter(Protocol):
    """Takes whole lines."""

    def write(self, data: bytes, /) -> object:
        """Write all of `data`, or raise `OSError`."""
        ...


class RemoteTurnActivitySink:
    """Writes each activity it is called with as one line, numbered from `first_sequence`; for `stream_to` of a turn."""

    def __init__(self, writer: ByteWriter, first_sequence: int = 0) -> None:
        self._writer = writer
        self._next = first_sequence
        self._errors: list[RemoteProtocolError] = []

    async def __call__(self, activity: TurnActivity) -> None:
        """Write one line; never raises. A line that was lost keeps its number, so its reader sees that one is
        missing."""
        sequence = self._next
        self._next += 1
        try:
            line = RemoteTurnActivity.of(activity, sequence).to_json()
        except (TypeError, ValueError) as error:
            self._errors.append(ActivitySerialization(f"activity {activity.id}: {error}"))
            return
        try:
            self._writer.write(line + b"\n")
        except (OSError, ValueError) as error:  # a file that was closed says ValueError
            self._errors.append(ActivityWrite(f"activity {activity.id}: {error}"))

    def take_errors(self) -> tuple[RemoteProtocolError, ...]:
        """What went wrong since the last call."""
        taken, self._errors = tuple(self._errors), []
        return taken
