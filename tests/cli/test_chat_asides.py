"""What runs beside a chat says so, Ctrl-C stops it, and the next one is told that it waits (contract 08 §7.2)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.chat import Chat

FACES = pytest.mark.parametrize(("args", "prompt"), [((), "fjord ❯"), (("--plain",), "status: idle")])
STOPPED_BY = "runs; Ctrl-C stops it, where there is no draft and no turn"


def interrupt(chat: Chat, args: tuple[str, ...]) -> None:
    """Ctrl-C: a key, or without redraw a signal of the terminal to all who work there."""
    if args:
        os.killpg(chat.process.pid, signal.SIGINT)
    else:
        chat.press("\x03")


@FACES
def test_a_command_whose_output_is_wanted_says_that_it_runs_and_is_stopped(
    chat: Callable[..., Chat], tmp_path: Path, args: tuple[str, ...], prompt: str
) -> None:
    one = chat(*args, prompt=prompt, columns=200)
    once = tmp_path / "once"
    line = f"test -e {once} && exec sleep 600; touch {once}"
    one.press(f"!{line}\r")
    one.wait_until(once.exists)
    one.press("!!\r")
    one.wait_for(STOPPED_BY)
    one.press("/ls\r")
    one.wait_for(lambda text: "/ls waits until !!test -e" in text)
    interrupt(one, args)
    one.wait_for(lambda text: " was stopped" in text and "LAST ACTIVITY" in text)
    assert "Ctrl-C again" not in one.everything
    one.press("\x04")
    assert one.ended() == 0


@FACES
def test_a_question_aside_is_stopped_and_the_session_is_free(
    chat: Callable[..., Chat], gate: Path, args: tuple[str, ...], prompt: str
) -> None:
    one = chat(*args, prompt=prompt, columns=200)
    one.press(f"/btw !wait-file {gate}\r")
    one.wait_for(STOPPED_BY)
    interrupt(one, args)
    one.wait_for(" was stopped")
    one.press("hello\r")
    one.wait_until(lambda: one.users() == ["hello"])  # what is streamed may be seen before it is committed
