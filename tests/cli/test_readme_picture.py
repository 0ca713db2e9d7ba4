"""The picture of the live view in the README is what a terminal really shows (contract 08 §8).

It is made here from a session that calls a tool, streams and has text waiting,
and compared with what the README has, apart from ids, times and process ids. To
make it anew after a change that is meant: LASH_WRITE_GOLDEN=1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import spawn_lash
from support.terminal import PATIENCE_S, Terminal
from support.wire import ThreadedChatServer, hang_reply, text_reply, tool_calls_reply, usage_of

README = Path(__file__).parent.parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- picture -->\n```text\n).*?(```\n)", flags=re.DOTALL)
COLUMNS, ROWS = 110, 20
ANSWER = "Two fixes: paths keep their separator, and an empty list is no error any more."
# What differs from one run to the next.
CHANGING = (
    (r"\d\d:\d\d:\d\d", "12:03:15"), (r"\b\d\d:\d\d(?=  |$)", "00:04"), (r"pid \d+", "pid 4711"),
    (r"lease \d+s", "lease 29s"), (r"\b(in|t)_[0-9a-z]{26}", r"\1_01m8b478btbks8404kms4sd36y"),
    (r"\b\d+(\.\d+)?(ms|s)\b", "8ms"),
)  # fmt: skip


def settled(text: str) -> str:
    for pattern, replacement in CHANGING:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return re.sub(r"[ ─]+", lambda found: found.group()[:1], text).strip()


@pytest.fixture
def model() -> Iterator[ThreadedChatServer]:
    replies = (
        text_reply(ANSWER, usage=usage_of(812, 24), words=4),
        tool_calls_reply([("read_file", {"path": "CHANGES.md"})], usage=usage_of(1204, 31)),
        hang_reply("# Release notes: paths keep"),
    )
    with ThreadedChatServer(replies) as server:
        yield server


def test_the_picture_of_the_readme_is_what_a_terminal_shows(lash, home: Path, model: ThreadedChatServer) -> None:
    (home.parent / "CHANGES.md").write_text("- paths keep their separator\n- an empty list is no error\n")
    provider = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": model.base_url, "OPENAI_MODEL": "gpt-5.4-mini"}
    assert lash("open", "notes", "--name", "quiet-fjord", env=provider).code == 0
    assert lash("turn", "notes", "What changed since the last release?", env=provider).code == 0
    terminal = Terminal(home, "tail", "notes", "--from", "start", columns=COLUMNS, rows=ROWS)
    try:
        terminal.wait_for("idle")
        with spawn_lash(["turn", "notes", "Write the release notes"], home=home, env=provider) as turn:
            terminal.wait_for("paths keep▌")
            assert lash("enqueue", "notes", "Then open the pull request").code == 0
            # That it waits may be seen before it is told; the picture is whole with its last line.
            terminal.wait_for(lambda text: all(part in text for part in ("enqueued in_", "◇ 1  in_", "retries 0")))
            shown = "\n".join(line for line in terminal.lines if line) + "\n"
            assert lash("cancel", "notes").code == 0
            turn.communicate(timeout=PATIENCE_S)
    finally:
        terminal.close()
    if os.environ.get("LASH_WRITE_GOLDEN") == "1":
        text = README.read_text(encoding="utf-8")
        README.write_text(BLOCK.sub(lambda found: found[1] + shown + found[2], text), encoding="utf-8")
    match = BLOCK.search(README.read_text(encoding="utf-8"))
    assert match is not None, "the README has a picture between its markers"
    assert settled(match[0].removeprefix(match[1]).removesuffix(match[2])) == settled(shown)
