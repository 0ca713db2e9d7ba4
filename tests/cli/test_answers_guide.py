"""Every command of the guide to answers runs, in order, on one home, as a reader would type it."""

from __future__ import annotations

import json
from pathlib import Path

from support.guides import blocks, reader, run_shell

from lash_cli import docs
from lash_cli.providers.attachments import CARRIED


def test_every_block_of_the_guide_runs(tmp_path: Path) -> None:
    done = run_shell("\n".join(blocks("answers", "sh")), tmp_path, reader(tmp_path))
    assert '{"city":"loopback"}\n' in done.stdout
    assert json.loads((tmp_path / "answer.json").read_text())["outcome"]["value"] == {"city": "loopback"}


def test_the_guide_has_a_row_for_every_kind_of_provider() -> None:
    assert [kind for kind in CARRIED if f"| `{kind}` |" not in docs.read("answers")] == []
