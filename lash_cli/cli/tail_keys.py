"""Single keys at the terminal of a live view, without Enter and without echo (contract 08 §8).

The terminal is changed only while its keys are ours: not in the background,
where changing it would stop us, not while suspended, and never beyond the end.
Ctrl-C and Ctrl-Z keep their meaning. A key of several bytes, such as an arrow,
is none of ours and does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator

from lash_cli.cli.globals import is_set
from lash_cli.cli.invocation import current
from lash_cli.cli.signals import given_back, handling, suspending

_READ_BYTES = 1024
_ESCAPE = "\x1b"

OnKey = Callable[[str], None]
# What `termios.tcgetattr` returns.
Settings = list[int | list[bytes | int]]


def has_keys() -> bool:
    """Whether somebody sits at a keyboard that may be read."""
    return not current().no_input and sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def terminal_keys(on_key: OnKey, on_resumed: Callable[[], None]) -> Iterator[None]:
    """Call `on_key` in the running loop for every key typed while inside, and `on_resumed` when the process goes on
    after Ctrl-Z: others have written to the terminal since. Nothing happens without a keyboard."""
    if not has_keys():
        yield
        return
    keyboard = _Keyboard(asyncio.get_running_loop(), sys.stdin.fileno(), on_key)
    was_suspended = False

    def suspended() -> None:
        nonlocal was_suspended
        was_suspended = True
        keyboard.release()

    def resumed() -> None:
        nonlocal was_suspended
        keyboard.take()
        if was_suspended:
            was_suspended = False
            on_resumed()

    with handling(suspending(suspended, resumed)), given_back(keyboard.give_back):
        keyboard.take()
        try:
            yield
        finally:
            keyboard.release()


class _Keyboard:
    """The terminal behind a descriptor, while it gives us single keys."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, on_key: OnKey) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._on_key = on_key
        self._before: Settings | None = None

    def take(self) -> None:
        """Begin, if the terminal is ours and was not taken already."""
        import termios

        if self._before is not None or not _is_in_foreground(self._descriptor):
            return
        try:
            before = termios.tcgetattr(self._descriptor)
            ours = termios.tcgetattr(self._descriptor)
            flags = ours[3]
            assert isinstance(flags, int)
            ours[3] = flags & ~(termios.ICANON | termios.ECHO)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, ours)
        except termios.error:
            return  # the terminal went away; whoever ends us says so
        self._before = before
        self._loop.add_reader(self._descriptor, self._read)

    def release(self) -> None:
        """Give the terminal back as it was. May be repeated."""
        import termios

        if self._before is not None:
            self._loop.remove_reader(self._descriptor)
            self._restore(termios.TCSADRAIN)

    def give_back(self) -> None:
        """`release` for a process that dies: nothing is waited for, not even what is still on its way to the screen."""
        import termios

        self._restore(termios.TCSANOW)

    def _restore(self, when: int) -> None:
        before, self._before = self._before, None
        if before is not None:
            restore(self._descriptor, before, when)

    def _read(self) -> None:
        try:
            typed = os.read(self._descriptor, _READ_BYTES)
        except OSError:
            typed = b""
        if not typed:
            self.release()
            return
        text = typed.decode("utf-8", "replace")
        if _ESCAPE not in text:
            for key in text:
                self._on_key(key)


def restore(descriptor: int, settings: Settings, when: int) -> None:
    """Make a terminal what it was, unless it is gone, or another job's: changing it would stop us then."""
    import termios

    if _is_in_foreground(descriptor):
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, when, settings)


def _is_in_foreground(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        # Not the terminal of our session: there is no background to be in.
        return True


def clipboard_sequence(text: str) -> str | None:
    """What puts `text` into the clipboard of a terminal that allows it (OSC 52); None when `LASH_NO_OSC52` forbids."""
    if is_set(current().environment, "LASH_NO_OSC52"):
        return None
    return f"{_ESCAPE}]52;c;{b64encode(text.encode()).decode()}\x07"
