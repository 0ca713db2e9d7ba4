"""Every command of the guide to answers runs, in order, on one home, as a reader would type it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from lash_cli.providers.attachments import CARRIED

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "lash_cli" / "docs" / "answers.md").read_text()


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
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert '{"city":"loopback"}\n' in done.stdout
    assert json.loads((tmp_path / "answer.json").read_text())["outcome"]["value"] == {"city": "loopback"}


def test_the_guide_has_a_row_for_every_kind_of_provider() -> None:
    assert [kind for kind in CARRIED if f"| `{kind}` |" not in GUIDE] == []
