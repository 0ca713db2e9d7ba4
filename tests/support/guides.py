"""The examples of the guide: found in its topics, and run in order on one home, as a reader would type them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support.cli import program

from lash_cli import docs

ROOT = Path(__file__).parent.parent.parent


def fenced(topic: str) -> list[tuple[str, str]]:
    """Every block of a topic, with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", docs.read(topic), flags=re.DOTALL | re.MULTILINE)


def blocks(topic: str, language: str) -> list[str]:
    """The blocks of one language."""
    return [text for name, text in fenced(topic) if name == language]


def reader(place: Path) -> dict[str, str]:
    """A reader's environment: `lash` and `python` on the path, a home of their own; made in `place`."""
    programs = place / "bin"
    programs.mkdir()
    program(programs / "lash")
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o700)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(place / "user"), "LASH_HOME": str(place / "home"),
        "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip


def run(command: list[str], work: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one program of a reader to its good end; what fails fails the test."""
    done = subprocess.run(
        [word.encode() for word in command],
        cwd=work, env=environment, capture_output=True, encoding="utf-8", timeout=170, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stderr
    return done


def run_shell(script: str, work: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run commands as one script that ends with the first that fails."""
    return run(["bash", "-euo", "pipefail", "-c", script], work, environment)
