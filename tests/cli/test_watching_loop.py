"""The loop of commands that watch, and what it must leave alone (`cli.watching_loop`)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import COMMAND, environment
from support.processes import start_process
from support.terminal import PATIENCE_S, Terminal

from lash_cli.cli.watching_loop import new_watching_loop

WATCHING = (("tail", "s"), ("log", "s", "--follow"), ("ls", "--watch"))


@pytest.mark.parametrize("args", WATCHING)
def test_a_terminal_stays_as_blocking_as_it_was(lash, home: Path, args: tuple[str, ...]) -> None:
    lash("open", "s")
    lash("turn", "s", "!text hello", "-q")
    terminal = Terminal(home, *args)
    try:
        terminal.wait_for("s")
        if args[0] == "tail":
            terminal.wait_until(lambda: not terminal.is_cooked)
        assert terminal.is_blocking
        terminal.interrupt()
        assert terminal.is_blocking
    finally:
        terminal.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a policy for those who let others go first")
@pytest.mark.parametrize("args", WATCHING)
def test_who_only_watches_pushes_nobody_off_a_processor(lash, home: Path, args: tuple[str, ...]) -> None:
    lash("open", "s")
    lash("turn", "s", "!text hello", "-q")
    command = [*COMMAND, *args, "-o", "jsonl"]
    with start_process(command, env=environment(home, {}), cwd=home.parent, stdout=subprocess.PIPE) as watching:
        assert b"stream_start" in watching.stdout.readline()
        assert os.sched_getscheduler(watching.pid) == os.SCHED_BATCH
        watching.send_signal(signal.SIGINT)
        assert b"stream_end" in watching.stdout.read()
        assert watching.wait(PATIENCE_S) == 130


@pytest.mark.parametrize("args", WATCHING)
def test_a_pipe_stays_as_blocking_as_it_was_for_everybody_who_writes_into_it(
    lash, home: Path, args: tuple[str, ...]
) -> None:
    lash("open", "s")
    lash("turn", "s", "!text hello", "-q")
    reading, writing = os.pipe()
    try:
        with start_process(
            [*COMMAND, *args, "-o", "jsonl"], env=environment(home, {}), cwd=home.parent, stdout=writing
        ) as watching:
            with open(reading, "rb", closefd=False) as lines:
                assert b"stream_start" in lines.readline()
            # The reader of the pipe is watched before anything is written.
            assert os.get_blocking(writing)
            watching.send_signal(signal.SIGINT)
            assert watching.wait(PATIENCE_S) == 130
        assert os.get_blocking(writing)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(sys.platform == "win32", reason="there it is asyncio's own loop")
def test_the_loop_watches_sockets_and_numbers_and_leaves_their_mode_alone() -> None:
    async def watched(was_blocking: bool, by_number: bool) -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(was_blocking)
            came = asyncio.Event()
            watch: socket.socket | int = ours.fileno() if by_number else ours
            loop.add_reader(watch, came.set)
            assert os.get_blocking(ours.fileno()) == was_blocking
            theirs.send(b"ring")
            async with asyncio.timeout(PATIENCE_S):
                await came.wait()
            loop.remove_reader(watch)
            return ours.recv(16)

    with asyncio.Runner(loop_factory=new_watching_loop) as runner:
        for was_blocking in (True, False):
            for by_number in (True, False):
                assert runner.run(watched(was_blocking, by_number)) == b"ring"


def test_the_loop_is_chosen_by_the_rule_of_the_dependency() -> None:
    loop = new_watching_loop()
    loop.close()
    is_uvloop = "uvloop" in {base.__module__.partition(".")[0] for base in type(loop).__mro__}
    assert is_uvloop == (sys.platform != "win32" and sys.implementation.name == "cpython")
