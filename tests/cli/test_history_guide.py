"""Every command of the history guide runs, in order, on one home, as a reader would type it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "lash_cli" / "docs" / "history.md").read_text()


def test_every_block_of_the_guide_runs(tmp_path: Path) -> None:
    lash = tmp_path / "lash"
    lash.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lash_cli "$@"\n')
    lash.chmod(0o700)
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", GUIDE, flags=re.DOTALL | re.MULTILINE))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LASH_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "Two cities were compared by their hills." in done.stdout
    assert "frame: compaction" in done.stdout
    assert done.stderr.count("back to it: lash rewind") == 1


def test_the_guide_names_every_verb_of_history() -> None:
    for verb in ("tree", "fork", "rewind", "turn notes --retry", "compact", "log notes --frames"):
        assert f"lash {verb}" in GUIDE, verb
