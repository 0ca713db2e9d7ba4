"""Every command of the README runs, in order, as a reader would type it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import program
from support.wire import ThreadedChatServer, text_reply

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, without those `.ci/run` executes itself."""
    text = re.sub(r"<!-- ci:\w+ -->.*?<!-- ci:end -->", "", README, flags=re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def reader(tmp_path: Path) -> dict[str, str]:
    """A reader's environment: `lash` on the path, a home of their own, a key in a file."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs / "lash")
    (tmp_path / "key.txt").write_text("sk-from-a-file\n")
    root = str(Path(__file__).parent.parent.parent)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LASH_HOME": str(tmp_path / "home"),
        "PYTHONPATH": root,
    }


def test_every_shell_block_of_the_readme_runs_in_order_on_one_home(reader: dict[str, str], tmp_path: Path) -> None:
    first = re.search(r"<!-- ci:first -->\n```sh\n.*&& (lash turn .*)\n```", README)
    assert first is not None, "the first command of a reader"
    with ThreadedChatServer(default=text_reply("an answer")) as server:
        for script in (first[1], *blocks("sh")):
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script.encode()],
                cwd=tmp_path,
                env={**reader, "OPENAI_BASE_URL": server.base_url} if "OPENAI_API_KEY" in script else reader,
                capture_output=True,
                encoding="utf-8",
                timeout=120,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode == 0, (script, done.stderr)


def test_the_python_of_the_readme_runs(reader: dict[str, str], tmp_path: Path) -> None:
    (program,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", program.encode()],
        cwd=tmp_path,
        env=reader,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "You said: Say hello" in done.stdout
    assert "Committed" in done.stdout


def test_the_commands_that_ci_executes_stand_in_the_readme() -> None:
    first, second = re.findall(r"<!-- ci:\w+ -->\n```sh\n(.*?)```", README, flags=re.DOTALL)
    assert first.startswith("python3 -m venv") and "lash turn" in first
    assert "[dev]" in second and "pytest" in second
