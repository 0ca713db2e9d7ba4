"""Fixtures of the real-process tests: a private home and a runner bound to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from support.chat import Chat
from support.cli import Result, run_lash
from support.prepared import prepare
from support.tailing import Tailing


class Runner(Protocol):
    def __call__(self, *args: str, **options: Any) -> Result: ...


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that does not exist yet."""
    return tmp_path / "lash-home"


@pytest.fixture
def lash(home: Path) -> Runner:
    """Runs `lash ARGS…` in `home`."""

    def run(*args: str, **options: Any) -> Result:
        return run_lash(args, home=home, **options)

    return run


@pytest.fixture
def chat(home: Path) -> Iterator[Callable[..., Chat]]:
    """Opens chats in session `s`, which is called fjord."""
    prepare(home, ("open", "s", "--name", "fjord"))
    made: list[Chat] = []

    def start(*args: str, prompt: str = "fjord ❯", columns: int = 110, rows: int = 30, **env: str) -> Chat:
        made.append(Chat(home, "s", *args, columns=columns, rows=rows, **env))
        made[-1].wait_for(prompt)
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that opens a gated turn when it is there."""
    return tmp_path / "gate"


@pytest.fixture
def tailing(home: Path) -> Iterator[Callable[..., Tailing]]:
    """Starts tails that have begun to watch; what still runs at the end is killed."""
    made: list[Tailing] = []

    def start(*args: str, first: str = "") -> Tailing:
        tail = Tailing(home, *args, first=first)
        made.append(tail)
        assert tail.next()["type"] == "stream_start"
        return tail

    yield start
    for tail in made:
        tail.process.kill()
        tail.process.communicate()
