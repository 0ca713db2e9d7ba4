"""Asking at a terminal about tool calls (contract 08 §7.4)."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from lash_cli.cli import asking
from lash_cli.core.tools import ToolCall, ToolManifest


async def test_a_question_to_a_terminal_that_is_gone_is_answered_with_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(asking, "GUARD_SECONDS", 0)
    monkeypatch.setattr(asking, "_discard_typed_ahead", lambda: None)
    asker = asking.TerminalAsker()
    asker.show = gone
    manifest = ToolManifest("t", "run", "runs", approval="execute")
    assert await asker(manifest, ToolCall("c", "t", "run", {})) == "no"


async def test_a_key_that_was_meant_for_something_else_is_gone_before_the_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    async def sleep(seconds: float) -> None:
        assert seconds == asking.GUARD_SECONDS >= 0.3
        done.append("waited")

    async def typed(_: asyncio.Event) -> str:
        return "y"

    monkeypatch.setattr(asking.asyncio, "sleep", sleep)
    monkeypatch.setattr(asking, "_discard_typed_ahead", lambda: done.append("discarded"))
    monkeypatch.setattr(asking, "_typed_line", typed)
    asker = asking.TerminalAsker()
    asker.show = lambda question: done.append("asked")
    manifest = ToolManifest("t", "run", "runs", approval="execute")
    assert await asker(manifest, ToolCall("c", "t", "run", {})) == "once"
    assert done == ["waited", "discarded", "asked"]
