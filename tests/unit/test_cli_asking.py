"""Asking at a terminal about tool calls (contract 08 §7.4)."""

from __future__ import annotations

import asyncio
import errno
import json
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


async def test_what_is_asked_about_is_shown_to_its_end_and_with_what_nobody_sees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def typed(_: asyncio.Event) -> str:
        return "n"

    monkeypatch.setattr(asking, "GUARD_SECONDS", 0)
    monkeypatch.setattr(asking, "_discard_typed_ahead", lambda: None)
    monkeypatch.setattr(asking, "_typed_line", typed)
    asker = asking.TerminalAsker()
    asked: list[str] = []
    asker.show = asked.append
    manifest = ToolManifest("t", "run", "runs", approval="execute")
    command = "true" + " " * 3000 + "a\u200bb\u00a0c\u2028d\U000e0041\x1b[2J;" + "x" * 3000 + "; rm -rf /"
    await asker(manifest, ToolCall("c", "t", "run", {"cmd": command}))
    args = asked[0].removeprefix("run ").partition("\n")[0]
    assert args.isprintable() and json.loads(args) == {"cmd": command}
    await asker(manifest, ToolCall("c", "t", "run", {"content": "x" * 100_000, "then": "the end"}))
    assert "…80031 characters not shown…" in asked[1] and '"then":"the end"}\nallow' in asked[1]
