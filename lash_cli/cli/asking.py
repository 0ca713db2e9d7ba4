"""Asking a person at the terminal: approvals of tool calls and confirmations (contract 08 §7.4, §11).

A question goes to stderr and its answer is one typed line. What was typed
before the question never answers it, and an answer that never comes does not
hold up a cancelled turn.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from lash_cli.cli.invocation import current
from lash_cli.cli.output import safe
from lash_cli.core.tools import ToolCall, ToolManifest
from lash_cli.errors import UsageError
from lash_cli.views.turn_text import asked_text

# A question appears this long after the call, so that a key meant for something else cannot answer it.
GUARD_SECONDS = 0.3
# More than a terminal keeps of a line.
_LINE_BYTES = 65_536
_ONCE = frozenset({"y", "yes"})
_ALWAYS = frozenset({"a", "always"})
_NO = frozenset({"", "n", "no"})


def _write_question(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class TerminalAsker:
    """Asks about one tool call at a time. `show` prints a question; whoever draws on the terminal replaces it."""

    def __init__(self) -> None:
        self.show: Callable[[str], None] = _write_question
        self._withdrawn = asyncio.Event()

    def withdraw(self) -> None:
        """Stop asking: an open question, and every later one, is answered with no."""
        self._withdrawn.set()

    async def __call__(self, manifest: ToolManifest, call: ToolCall) -> str:
        """`once`, `always`, `no`, or the reason of a refusal."""
        if self._withdrawn.is_set():
            return "no"
        await asyncio.sleep(GUARD_SECONDS)
        _discard_typed_ahead()
        what = f"{safe(manifest.name)} {asked_text(call.args)}"
        try:
            self.show(f"{what}\nallow ({manifest.approval})? [y]es, [a]lways here, [n]o: ")
        except OSError:
            return "no"  # the terminal is gone, and the signal that says so is on its way
        answer = (await _typed_line(self._withdrawn)).strip()
        word = answer.lower()
        if word in _ONCE:
            return "once"
        if word in _ALWAYS:
            return "always"
        return "no" if word in _NO else answer


def confirm(question: str) -> None:
    """Return if the user agrees, with `--yes` or at the terminal.

    Raises `UsageError` (`confirmation_required`) when there is nobody to ask or the answer is no.
    """
    invocation = current()
    if invocation.yes:
        return
    if not invocation.can_ask:
        raise UsageError(question, code="confirmation_required", hint="repeat it with --yes")
    sys.stderr.write(f"{safe(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in _ONCE:
        raise UsageError("not confirmed; nothing was done", code="confirmation_required")


def _discard_typed_ahead() -> None:
    import termios

    try:
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
    except termios.error:
        return  # not a terminal any more: then nothing was typed ahead


async def _typed_line(withdrawn: asyncio.Event) -> str:
    """One line of the terminal, "" at its end or once `withdrawn`; the event loop is free while nobody types."""
    loop = asyncio.get_running_loop()
    something = asyncio.Event()
    typed = False

    def note() -> None:
        nonlocal typed
        typed = True
        something.set()

    descriptor = sys.stdin.fileno()
    loop.add_reader(descriptor, note)
    giving_up = loop.create_task(withdrawn.wait())
    giving_up.add_done_callback(lambda _: something.set())
    try:
        await something.wait()
    finally:
        loop.remove_reader(descriptor)
        giving_up.cancel()
    return _what_was_typed(descriptor) if typed else ""


def _what_was_typed(descriptor: int) -> str:
    """A line, or the beginning of one that was handed over with Ctrl-D; "" where the terminal is gone. To wait for the
    rest of it would hold up everything else, the signals that end us among it."""
    try:
        typed = os.read(descriptor, _LINE_BYTES)
    except OSError:
        return ""
    return typed.decode("utf-8", "replace").partition("\n")[0]
