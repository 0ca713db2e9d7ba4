"""Fixtures of the real-process tests: a private home and a runner bound to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest
from support.cli import Result, run_lash


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
