"""Tails under way that a test reads line by line, and what it compares of the lines."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from support.cli import spawn_lash

PATIENCE_S = 60
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
OWN = ("v", "seq", "t", "session", "turn", "cursor", "type")


class Tailing:
    """A tail under way, whose JSON lines are read as they come; `first` is what `spawn_lash` has it do first."""

    def __init__(self, home: Path, *args: str, first: str = "") -> None:
        self.process = spawn_lash(["tail", *args, "-o", "jsonl"], home=home, first=first)
        self.lines: list[Any] = []

    def next(self) -> Any:
        """The next line."""
        assert self.process.stdout is not None
        line = json.loads(self.process.stdout.readline())
        self.lines.append(line)
        return line

    def until(self, kind: str) -> Any:
        """The next line of a type."""
        while True:
            line = self.next()
            if line["type"] == kind:
                return line
            assert line["type"] != "stream_end", line

    def rest(self) -> list[Any]:
        """Everything, once it ended by itself."""
        assert self.process.stdout is not None
        self.lines.extend(json.loads(line) for line in self.process.stdout.read().splitlines())
        self.process.wait(PATIENCE_S)
        return self.lines

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.rest()
        return self.process.returncode


def payload(line: Any) -> Any:
    return {key: value for key, value in line.items() if key not in OWN}


def types(lines: list[Any]) -> list[str]:
    return [line["type"] for line in lines]


def foreign_epoch(cursor: str) -> str:
    prefix, _, rest = cursor.split(":", 2)
    return f"{prefix}:00000000deadbeef:{rest}"


GENESIS = "0" * 16
