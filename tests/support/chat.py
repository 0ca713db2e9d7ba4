"""A chat at a terminal, a model that waits at a gate, and what the session says afterwards."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from support.cli import run_lash
from support.terminal import Terminal


class Chat(Terminal):
    """`lash chat` in a session that exists, with its prompt standing."""

    def __init__(self, home: Path, session: str, *args: str, columns: int = 110, rows: int = 30, **env: str) -> None:
        super().__init__(home, "chat", session, *args, columns=columns, rows=rows, **env)
        self.home = home
        self.session = session

    def lash(self, *args: str) -> Any:
        return run_lash(args, home=self.home)

    def gated(self, gate: Path, then: str = "!text all is well") -> None:
        """Send a turn that calls a tool once `gate` exists, and then says something; returns when it runs."""
        self.press(f' !wait-file {gate}\n!tool glob {{"pattern":"*.md"}}\n!then\n{then}\r')
        self.wait_for("Esc stop")

    def said(self) -> list[tuple[str, str, str]]:
        """Turn, role and text of every committed message that says something."""
        messages = self.lash("log", self.session, "-o", "json").json["items"]
        return [
            (message["turn_id"], message["role"], message["text"])
            for message in messages
            if (message["text"] or "").strip()
        ]

    def has_saved(self, words: str) -> bool:
        """Whether a draft with `words` is on disk as the next chat finds it; a line feed is written `\\n` there."""
        with closing(sqlite3.connect(f"file:{self.home / 'chat.db'}?mode=ro", uri=True)) as database:
            return any(words.encode() in draft for (draft,) in database.execute("SELECT draft FROM drafts"))

    def users(self) -> list[str]:
        return [text for _, role, text in self.said() if role == "user"]

    def turn_of(self, text: str) -> str:
        """The turn of the one user message with exactly this text."""
        (turn,) = [turn for turn, role, said in self.said() if role == "user" and said == text]
        return turn
