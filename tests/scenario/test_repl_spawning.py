"""Programs that a chat runs: what they say is never cut in silence, and none of them keeps the terminal (08 §7.2)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
from pathlib import Path
from typing import Any

import pytest

from lash_cli.errors import LashRuntimeError
from lash_cli.repl import spawning


@pytest.fixture
def is_started(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once the chat has the program that it started, which may be at work before that."""
    is_started, start = asyncio.Event(), spawning._started

    async def started_here(*command: Any, **options: Any) -> Any:
        process = await start(*command, **options)
        is_started.set()
        return process

    monkeypatch.setattr(spawning, "_started", started_here)
    return is_started


async def test_what_a_program_says_is_cut_with_a_word_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawning, "KEPT_CHARS", 4)
    assert (await spawning.said_by(["printf", "1234"])).text == "1234"
    assert (await spawning.said_by(["printf", "123456"])).text == "1234\n(2 more characters are not shown)\n"


async def test_a_program_that_does_not_end_when_told_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawning, "END_SECONDS", 0.1)
    begun = tmp_path / "begun"
    script = f"trap '' TERM; echo $$ > {begun}.new; mv {begun}.new {begun}; while :; do sleep 0.05; done"
    running = asyncio.ensure_future(spawning.at_terminal(["sh", "-c", script], asyncio.Event()))
    async with asyncio.timeout(30):
        while not begun.exists():  # noqa: ASYNC110 - it is another process that makes it
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux shows whose child a process is")
@pytest.mark.parametrize("run", ["at a terminal", "without one"])
async def test_what_a_program_started_ends_with_it(tmp_path: Path, is_started: asyncio.Event, run: str) -> None:
    begun = tmp_path / "begun"
    command = ["sh", "-c", f"sh -c 'sleep 600 & echo $! > {begun}.new; mv {begun}.new {begun}; wait'; true"]
    over = asyncio.Event()
    program = spawning.at_terminal(command, over) if run == "at a terminal" else spawning.said_by(command)
    running = asyncio.ensure_future(program)
    async with asyncio.timeout(30):
        await is_started.wait()
        while not begun.exists():  # noqa: ASYNC110 - it is another process that makes it
            await asyncio.sleep(0.01)
    started = os.pidfd_open(int(begun.read_text()))
    try:
        over.set()
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled() or running.exception() is None
        assert select.select([started], [], [], 30)[0], "it goes on"
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(started, signal.SIGKILL)
        os.close(started)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux shows whose child a process is")
async def test_a_shell_is_told_to_end_before_its_command_whose_end_begins_the_next(
    tmp_path: Path, is_started: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, told, kill = tmp_path / "begun", list[int](), os.kill
    monkeypatch.setattr(os, "kill", lambda pid, number: (told.append(pid), kill(pid, number)))
    # Without a program that makes the file: it would be told, too, as long as it is there.
    script = f"sleep 600 & echo $$ $! > {begun}; wait; echo and the next one"
    over = asyncio.Event()
    running = asyncio.ensure_future(spawning.at_terminal(["sh", "-c", script], over))
    async with asyncio.timeout(30):
        await is_started.wait()
        while not begun.exists() or not begun.read_text():  # noqa: ASYNC110 - it is another process that makes it
            await asyncio.sleep(0.01)
        over.set()
        assert await running == -signal.SIGTERM
    assert told == [int(pid) for pid in begun.read_text().split()]


async def test_a_daemon_that_a_program_started_is_not_waited_for(tmp_path: Path, is_started: asyncio.Event) -> None:
    begun = tmp_path / "begun"
    script = f"(sleep 600 & echo $! > {begun}.new); mv {begun}.new {begun}; sleep 600"
    running = asyncio.ensure_future(spawning.said_by(["sh", "-c", script]))
    async with asyncio.timeout(30):
        await is_started.wait()
        while not begun.exists():  # noqa: ASYNC110 - it is another process that makes it
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
    os.kill(int(begun.read_text()), signal.SIGKILL)
    assert running.cancelled()


async def test_a_program_that_cannot_be_started_does_not_end_the_chat() -> None:
    command = ["/no/such/shell", "-c", "true"]
    for run in (lambda: spawning.said_by(command), lambda: spawning.at_terminal(command, asyncio.Event())):
        with pytest.raises(LashRuntimeError) as refused:
            await run()
        assert refused.value.code == "command_not_started"


def test_an_editor_may_take_the_file_away(tmp_path: Path) -> None:
    with spawning.private_copy("text", str(tmp_path)) as path:
        Path(path).unlink()
        assert spawning.text_of(path) is None


def test_a_full_disk_does_not_end_the_chat_whose_draft_is_to_be_edited(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        with pytest.raises(LashRuntimeError) as refused, spawning.private_copy("a longer text", str(tmp_path)):
            raise AssertionError("nothing can be edited")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.code == "output_not_written" and list(tmp_path.iterdir()) == []


async def test_ctrl_backslash_is_for_a_program_from_before_the_chat_knows_that_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours: list[int] = []
    before = signal.signal(signal.SIGQUIT, lambda number, frame: ours.append(number))
    start = spawning._started

    async def started_and_quit(*command: Any) -> Any:
        process = await start(*command)
        for pid in (os.getpid(), process.pid):
            os.kill(pid, signal.SIGQUIT)
        return process

    monkeypatch.setattr(spawning, "_started", started_and_quit)
    try:
        assert await spawning.at_terminal(["sleep", "600"], asyncio.Event()) == -signal.SIGQUIT
        assert ours == []
        os.kill(os.getpid(), signal.SIGQUIT)
        assert ours == [signal.SIGQUIT], "it is ours again"
    finally:
        signal.signal(signal.SIGQUIT, before)


async def test_a_program_that_cannot_be_started_leaves_ctrl_backslash_as_it_was() -> None:
    before = signal.getsignal(signal.SIGQUIT)
    with pytest.raises(LashRuntimeError):
        await spawning.at_terminal(["/nowhere/at/all"], asyncio.Event())
    assert signal.getsignal(signal.SIGQUIT) is before
