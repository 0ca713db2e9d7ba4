"""Waiting for something that another process does, without an event loop (contract 08 §5.1 `wait`).

The store is asked again only when somebody has committed, or once a second,
because a holder can die without writing anything. Between two looks the
process sleeps: 25 ms after a change, up to 250 ms while nothing happens. When
the reader of its stdout leaves, nobody waits any more and it ends (141).
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from lash_cli.cli.documents import session_status
from lash_cli.cli.output import say
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock, is_definitely_dead, is_write_end, loses_reader
from lash_cli.views.shell_words import shell_word

T = TypeVar("T")

FIRST_PAUSE_S = 0.025
LONGEST_PAUSE_S = 0.25
LONGEST_BLIND_S = 1.0


async def look_until(
    store: RuntimePersistence, look: Callable[[], Awaitable[T | None]], timeout_ms: int | None
) -> T | None:
    """The first answer of `look` that is not None; None when `timeout_ms` passed without one. Raises `BrokenPipeError`
    when the reader of stdout leaves meanwhile.

    It blocks this thread between two looks, so it is for a process that does nothing else.
    """
    pipe = _stdout_pipe()
    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    pause = FIRST_PAUSE_S
    mark: int | None = None
    looked_at = 0.0
    while True:
        present = await store.change_mark()
        now = time.monotonic()
        if present != mark or now - looked_at >= LONGEST_BLIND_S:
            pause = FIRST_PAUSE_S if present != mark else pause
            # The mark was read before the look: what is committed in between is looked at again.
            mark, looked_at = present, now
            answer = await look()
            if answer is not None:
                return answer
        if deadline is not None and now >= deadline:
            return None
        _sleep(pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic())), pipe)
        pause = min(pause * 2, LONGEST_PAUSE_S)


def tell_if_stuck(session: SessionRow, told: set[str]) -> None:
    """A turn that nobody drives ends no wait by itself; said once of each, whenever its driver died. `told` holds the
    turns of which it was said."""
    turn_id = session.running_turn_id
    if turn_id is None or turn_id in told:
        return
    if session_status(session, SystemClock().now_ms(), is_definitely_dead) == "stuck":
        told.add(turn_id)
        say(f"turn {turn_id} was interrupted; lash resume {shell_word(session.meta.name)} finishes it")


def _stdout_pipe() -> int | None:
    """The descriptor of stdout if that is a pipe, whose reader may leave."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a host of ours catches what is printed
        return None
    return descriptor if is_write_end(descriptor) else None


def _sleep(seconds: float, pipe: int | None) -> None:
    if pipe is None:
        time.sleep(seconds)
    elif loses_reader(pipe, seconds):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
