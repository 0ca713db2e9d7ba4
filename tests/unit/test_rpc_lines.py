"""Lines over descriptors: what is too long is skipped whole, a slow peer slows only itself (remote/lines.py)."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from support.work import bytes_bound_in_threads

from lash_cli.errors import LashError
from lash_cli.remote.lines import LineReader, LineWriter


async def read(data: bytes, limit: int = 8) -> list[bytes | str]:
    """What a reader makes of `data`, which then ends; errors by their code."""
    out, into = os.pipe()
    try:
        reader = LineReader(out, limit=limit)
        writing = asyncio.to_thread(_write_and_close, into, data)
        _, lines = await asyncio.gather(writing, _collect(reader))
    finally:
        os.close(out)
    return lines


def _write_and_close(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.close(descriptor)


async def _collect(reader: LineReader) -> list[bytes | str]:
    return [line.code if isinstance(line, LashError) else line async for line in reader.lines()]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\n\nlast", [b"a", b"", b"last"]),
        (b"12345678\n", [b"12345678"]),
        (b"123456789\nb\n", ["request_too_large", b"b"]),
        (b"a\n" + b"x" * 300_000 + b"\nb", [b"a", "request_too_large", b"b"]),
        (b"x" * 300_000, ["request_too_large"]),
        (b"".join(b"%d\n" % number for number in range(5000)), [b"%d" % number for number in range(5000)]),
    ],
)
async def test_lines_come_whole_and_what_is_too_long_is_one_error(data: bytes, expected: list[bytes | str]) -> None:
    assert await read(data) == expected


async def test_a_long_line_is_not_copied_again_with_each_of_its_pieces() -> None:
    line = b"x" * 4 * 1024 * 1024
    with bytes_bound_in_threads() as bound:
        assert await read(line + b"\nb\n", limit=len(line)) == [line, b"b"]
    assert len(line) < bound.total < 6 * len(line)


async def test_descriptors_that_do_not_block_are_waited_for() -> None:
    """Whoever shares them may have made them so, as Node does with the pipes that it hands on."""
    out, into = os.pipe()
    os.set_blocking(out, False)
    os.set_blocking(into, False)
    closed = asyncio.Event()
    writer = LineWriter(into, on_closed=closed.set)
    collecting = asyncio.ensure_future(_collect(LineReader(out, limit=1_000_000)))
    await asyncio.sleep(0.01)
    writer.write("a" * 500_000 + "\nb\n")
    await writer.close()
    assert not closed.is_set()
    os.close(into)
    assert await collecting == [b"a" * 500_000, b"b"]
    os.close(out)


async def test_a_stopped_reader_ends_though_its_peer_says_nothing() -> None:
    out, into = os.pipe()
    try:
        reader = LineReader(out)
        collecting = asyncio.ensure_future(_collect(reader))
        await asyncio.sleep(0)
        reader.stop()
        assert await collecting == []
    finally:
        os.close(into)
        # The thread may read from that number until it saw the end; then it can be given to somebody else.
        for thread in threading.enumerate():
            if thread.name == "lash-stdin":
                await asyncio.to_thread(thread.join)
        os.close(out)


async def test_a_writer_keeps_the_order_and_says_once_that_nobody_reads() -> None:
    out, into = os.pipe()
    closed = asyncio.Event()
    told: list[None] = []
    writer = LineWriter(into, on_closed=lambda: (told.append(None), closed.set()))
    for number in range(1000):
        writer.write(f"{number}\n")
    await writer.flush()
    assert os.read(out, 65_536).split() == [b"%d" % number for number in range(1000)]
    os.close(out)
    writer.write("nobody\n")
    await closed.wait()
    assert writer.is_closed
    writer.write("reads this\n")
    await writer.flush()
    await writer.close()
    os.close(into)
    assert len(told) == 1
