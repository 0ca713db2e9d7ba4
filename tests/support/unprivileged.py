"""Run `lash` so that file modes count: root passes over them, so a command of root's gives that power up first.

It stays the same user, which still owns what it made; only what belongs to
others, or what a mode forbids its owner too, is out of its reach.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cli import Result, spawn_lash

_PR_CAPBSET_DROP = 24
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER: what is not in the bounding set is not there after exec.
_OVERRIDING = (0, 1, 2, 3)


def _give_up() -> Callable[[], None] | None:
    """What a child does between fork and exec; None for a user that modes bind anyway."""
    if os.geteuid() != 0:
        return None
    if not sys.platform.startswith("linux"):
        pytest.skip("root cannot give up what passes over file modes here")
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def drop() -> None:
        for capability in _OVERRIDING:
            if prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "cannot give up a capability")

    return drop


def run_unprivileged(*args: str, home: Path, **options: Any) -> Result:
    """`lash ARGS…` to its end, bound by file modes; skips where root cannot be."""
    process = spawn_lash(args, home=home, preexec_fn=_give_up(), **options)
    out, err = process.communicate(timeout=60)
    return Result(process.returncode, out.decode(), err.decode())
