"""The one writer of a stdout: what is written at once, what waits, and that order holds between the two."""

from __future__ import annotations

import asyncio
import os
import pty
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lash_cli.cli.turn_stream import OutputPump

# More than any pipe holds unless it is asked to.
MUCH = "x" * (1 << 20)
asks_for_room = pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="this system cannot be asked")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def threads() -> int:
    return sum(thread.name == "lash-stdout" for thread in threading.enumerate())


def read(descriptor: int, size: int) -> bytes:
    """Exactly `size` bytes."""
    found = b""
    while len(found) < size:
        found += os.read(descriptor, size - len(found))
    return found


@asks_for_room
def test_what_a_reader_has_room_for_is_written_here_and_now_and_nothing_waits(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    pump = OutputPump(writing)
    assert pump.write_at_once("one\n") and pump.write_at_once("zwölf\n")
    assert threads() == 0
    pump.drain()
    assert read(reading, 11) == "one\nzwölf\n".encode()
    assert os.get_blocking(writing)


def test_what_there_is_no_room_for_waits_behind_the_rest_and_keeps_its_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    pump = OutputPump(writing)
    assert not pump.write_at_once(MUCH)
    assert not pump.write_at_once("behind it\n")
    waiting = threading.Thread(target=pump.drain)
    waiting.start()
    assert read(reading, len(MUCH) + 10) == (MUCH + "behind it\n").encode()
    waiting.join()
    assert pump.write_at_once("again\n") and read(reading, 6) == b"again\n"


@asks_for_room
def test_a_reader_that_left_is_noticed_and_what_follows_is_dropped(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    pump = OutputPump(writing)
    os.close(reading)
    assert pump.write_at_once("one\n") and pump.is_closed
    assert pump.write_at_once("two\n") and threads() == 0


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_file_takes_everything_at_once(tmp_path: Path, mode: str) -> None:
    with open(tmp_path / "out", mode) as file:
        pump = OutputPump(file.fileno())
        assert pump.write_at_once("one\n") and pump.write_at_once(MUCH) and threads() == 0
    assert (tmp_path / "out").read_text() == "one\n" + MUCH


def test_what_cannot_be_asked_for_room_is_left_to_the_thread() -> None:
    ours, theirs = pty.openpty()
    try:
        pump = OutputPump(theirs)
        for text in ("one\n", "two\n"):
            assert not pump.write_at_once(text)
            pump.drain()
        assert read(ours, 10) == b"one\r\ntwo\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_write_that_fails_is_raised_when_it_is_waited_for() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        pump = OutputPump(full.fileno())
        assert not pump.write_at_once("one\n")
        with pytest.raises(OSError, match="space"):
            pump.drain()


def test_where_no_further_thread_can_be_started_all_is_written_before_it_is_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with (tmp_path / "out").open("wb") as file:
        pump = OutputPump(file.fileno())
        pump.write(MUCH)
        monkeypatch.setattr(threading.Thread, "start", refused)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(pump.drained())
        assert (tmp_path / "out").stat().st_size == len(MUCH)
        pump.write("more")
        assert (tmp_path / "out").stat().st_size == len(MUCH + "more")
        loop.run_until_complete(pump.drained())
        loop.close()
