"""What terminals send for keys beyond the classic ones, so that none of it is taken for Esc (contract 08 §7.3).

A terminal may report Shift+Enter in two spellings, and any key in the CSI-u
form. Left alone the parser of prompt_toolkit takes an unknown sequence apart and
its first byte for Esc, which would cancel a turn. Here the spellings of Enter
with a modifier mean Alt+Enter, and whole sequences that nobody knows are
dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import termios
from collections.abc import Iterator

from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.input.base import Input
from prompt_toolkit.input.posix_utils import PosixStdinReader
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.input.vt100_parser import _IS_PREFIX_OF_LONGER_MATCH_CACHE, Vt100Parser
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

from lash_cli.repl.pastes import LINE_BYTES

# Esc is told from the beginning of a sequence by what follows within the first time; Alt+Key from Esc and Key within
# the second. Measured: a bare Esc acts after 0.15 s, and both spellings of Shift+Enter arrive whole.
SEQUENCE_SECONDS = 0.05
CHORD_SECONDS = 0.1

_NEWLINE = (Keys.Escape, Keys.ControlM)
# Shift, Alt, Shift+Alt and Ctrl with Enter, as CSI-u and as modifyOtherKeys.
_ENTER_MODIFIERS = (2, 3, 4, 5, 6)
# More than a line that is edited by the terminal can be.
_LONGEST_LINE = 64 * 1024
_COMPLETE = re.compile(r"\x1b\[[0-9;:<=>?]*[u~]\Z")


def know_modified_enter() -> None:
    """Enter with a modifier is Alt+Enter, in both spellings. Changes the table of this process, once."""
    for modifier in _ENTER_MODIFIERS:
        for spelling in (f"\x1b[13;{modifier}u", f"\x1b[27;{modifier};13~"):
            ANSI_SEQUENCES[spelling] = _NEWLINE
    # Which beginnings may become something longer is remembered, and was asked before the table grew.
    _IS_PREFIX_OF_LONGER_MATCH_CACHE.clear()


class QuietParser(Vt100Parser):
    """A parser that drops complete sequences it does not know."""

    def _get_match(self, prefix: str) -> Keys | tuple[Keys, ...] | None:
        known = super()._get_match(prefix)
        if known is None and _COMPLETE.match(prefix):
            return Keys.Ignore
        return known


def listen_quietly(source: Input) -> None:
    """Have `source` parse with `QuietParser`, where it is a terminal that sends such sequences.

    Bytes that are no text of the terminal's encoding become U+FFFD: left as
    they are they would be in a draft that can be neither stored nor sent.
    """
    know_modified_enter()
    if isinstance(source, Vt100Input):
        source.stdin_reader = PosixStdinReader(source.fileno(), errors="replace", encoding=source.stdin.encoding)
        source.vt100_parser = QuietParser(source.vt100_parser.feed_key_callback)


@contextlib.contextmanager
def typed_ahead(source: Input) -> Iterator[bool]:
    """Keep what was typed before the prompt stands, with the Enter of a line as one: a terminal that edits lines makes
    a line feed of it, which would be a new line of the draft, so the keys are taken from here on. Several lines,
    also where the last one has no end, are a paste, of which none is sent, and so is a line that the terminal may have
    cut: whether there is one is given."""
    if not isinstance(source, Vt100Input):
        yield False
        return
    typed = b""
    while _is_line_ready(source.fileno()) and (line := os.read(source.fileno(), _LONGEST_LINE)):
        typed += line
    with source.raw_mode():
        # What is no line yet, and what was entered since the last look. A terminal holds less than a long paste, and is
        # given the rest when it was read.
        while _gets_bytes(source.fileno(), SEQUENCE_SECONDS if typed else 0) and (
            more := os.read(source.fileno(), _LONGEST_LINE)
        ):
            typed += more.replace(b"\r", b"\n")
        if not typed.strip():
            typed = typed.replace(b"\n", b"")  # it would answer what nobody has seen yet, such as what is held
        is_cut = any(len(line) >= LINE_BYTES for line in typed.split(b"\n"))
        # Of a character that is not all there the prompt reads the rest.
        text = source.stdin_reader._stdin_decoder.decode(typed)
        pressed: list[KeyPress] = []
        if is_cut or "\n" in text[:-1]:
            # No tab of a paste is a key.
            pressed.append(KeyPress(Keys.BracketedPaste, text))
        else:
            parser = QuietParser(pressed.append)
            parser.feed(text.replace("\n", "\r"))
            parser.flush()
        store_typeahead(source, pressed)
        yield is_cut


def _is_line_ready(terminal: int) -> bool:
    """Whether the terminal still edits lines and has a whole one."""
    try:
        return bool(termios.tcgetattr(terminal)[3] & termios.ICANON) and _has_bytes(terminal)
    except termios.error:
        return False


def _gets_bytes(terminal: int, seconds: float) -> bool:
    return bool(select.select([terminal], [], [], seconds)[0])


def _has_bytes(terminal: int) -> bool:
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(terminal, termios.FIONREAD, bytes(4)))
    except OSError:
        return False
    return bool(count)


def taken_again(source: Input) -> bool:
    """Take the keys of a terminal that others had meanwhile; False where they are ours still, or it is gone."""
    try:
        edits_lines = termios.tcgetattr(source.fileno())[3] & termios.ICANON
    except termios.error:
        return False
    if edits_lines:
        source.raw_mode().__enter__()  # whoever took them first gives them back
    return bool(edits_lines)
