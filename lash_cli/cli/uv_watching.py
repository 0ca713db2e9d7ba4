"""uvloop's event loop, made harmless to the descriptors of others. Loaded by `watching_loop` alone.

libuv makes every descriptor non-blocking that it is told to watch, and never
undoes it. That mode belongs to the open file and not to us: a terminal and a
pipe are shared with the shell and with other programs, whose writes would fail,
and so would our own, which wait for a slow reader.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVarTuple

import uvloop

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_Arguments = TypeVarTuple("_Arguments")


class WatchingLoop(uvloop.Loop):
    """A loop that leaves what it watches as it was."""

    def add_reader(self, fd: FileDescriptorLike, callback: Callable[[*_Arguments], Any], *args: *_Arguments) -> None:
        """See `asyncio.loop.add_reader`; `fd` is a number or has a `fileno`."""
        number = fd if isinstance(fd, int) else fd.fileno()
        was_blocking = os.get_blocking(number)
        super().add_reader(fd, callback, *args)
        os.set_blocking(number, was_blocking)
