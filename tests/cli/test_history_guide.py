"""Every command of the history guide runs, in order, on one home, as a reader would type it."""

from __future__ import annotations

from pathlib import Path

from support.guides import blocks, reader, run_shell

from lash_cli import docs


def test_every_block_of_the_guide_runs(tmp_path: Path) -> None:
    done = run_shell("\n".join(blocks("history", "sh")), tmp_path, reader(tmp_path))
    assert "Two cities were compared by their hills." in done.stdout
    assert "frame: compaction" in done.stdout
    assert done.stderr.count("back to it: lash rewind") == 1


def test_the_guide_names_every_verb_of_history() -> None:
    for verb in ("tree", "fork", "rewind", "turn notes --retry", "compact", "log notes --frames"):
        assert f"lash {verb}" in docs.read("history"), verb
