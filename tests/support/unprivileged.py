"""Run `lash` so that file modes count: root passes over them, so a command of root's gives that power up first.

It stays the same user, which still owns what it made; only what belongs to
others, or what a mode forbids its owner too, is out of its reach.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cli import Result, begin, spawn_lash


def run_unprivileged(*args: str, home: Path, **options: Any) -> Result:
    """`lash ARGS…` to its end, bound by file modes; skips where root cannot be."""
    if os.geteuid() == 0 and not sys.platform.startswith("linux"):
        pytest.skip("root cannot give up what passes over file modes here")
    process = spawn_lash(args, home=home, first=begin("bounds", "modes"), **options)
    out, err = process.communicate(timeout=60)
    return Result(process.returncode, out.decode(), err.decode())
