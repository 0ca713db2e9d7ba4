"""Programs that a chat runs: what they say is never cut in silence, and none of them keeps the terminal (08 §7.2)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from lash_cli.errors import LashRuntimeError
from lash_cli.repl import spawning


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


async def test_a_program_that_cannot_be_started_does_not_end_the_chat() -> None:
    command = ["/no/such/shell", "-c", "true"]
    for run in (lambda: spawning.said_by(command), lambda: spawning.at_terminal(command, asyncio.Event())):
        with pytest.raises(LashRuntimeError) as refused:
            await run()
        assert refused.value.code == "command_not_started"


def test_an_editor_may_take_the_file_away() -> None:
    with spawning.private_copy("text") as path:
        Path(path).unlink()
        assert spawning.text_of(path) is None
