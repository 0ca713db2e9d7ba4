"""What was typed before the prompt of a chat stands, where the terminal does not give it at once (contract 08 §7.3)."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import termios
from collections.abc import Iterator

import pytest
from prompt_toolkit.input.typeahead import get_typeahead
from prompt_toolkit.input.vt100 import Vt100Input

from lash_cli.repl import keys


@pytest.fixture
def terminal() -> Iterator[tuple[int, Vt100Input]]:
    master, slave = pty.openpty()
    with os.fdopen(slave, encoding="utf-8") as stdin:
        source = Vt100Input(stdin)
        keys.listen_quietly(source)
        yield master, source
    os.close(master)


def enter(master: int, source: Vt100Input, data: bytes) -> None:
    """Type, and return when it has arrived."""
    os.write(master, data)
    assert select.select([source.fileno()], [], [], 30)[0]


def test_no_line_of_a_paste_that_the_terminal_gives_in_parts_is_sent(
    terminal: tuple[int, Vt100Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    master, source = terminal
    rest, read, raw_mode = [b"third\rfourth\r"], os.read, source.raw_mode

    def give(fd: int, count: int) -> bytes:
        got = read(fd, count)
        if rest and got == b"second\r":
            enter(master, source, rest.pop())
        return got

    @contextlib.contextmanager
    def take() -> Iterator[None]:
        with raw_mode():
            enter(master, source, b"second\r")
            yield

    monkeypatch.setattr(os, "read", give)
    monkeypatch.setattr(source, "raw_mode", take)
    enter(master, source, b"first\r")
    with keys.typed_ahead(source):
        pressed = get_typeahead(source)
    assert "".join(press.data for press in pressed) == "first\nsecond\nthird\nfourth\n"


def test_a_character_that_is_not_all_there_is_one_with_its_rest(terminal: tuple[int, Vt100Input]) -> None:
    master, source = terminal
    before = termios.tcgetattr(source.fileno())
    typed = "caf€".encode()
    os.write(master, typed[:-1])
    with keys.typed_ahead(source):
        enter(master, source, typed[-1:])
        pressed = get_typeahead(source) + source.read_keys()
    assert "".join(press.data for press in pressed) == "caf€"
    assert termios.tcgetattr(source.fileno()) == before
