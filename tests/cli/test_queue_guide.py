"""Every command of the queue guide runs, in order, on one home, as a reader would type it."""

from __future__ import annotations

from pathlib import Path

from support.guides import blocks, reader, run_shell

from lash_cli import docs

VERBS = (
    "ls", "cancel", "edit", "hold", "release", "batches", "cancel-batch", "abandon", "revoke-waits",
)  # fmt: skip


def test_every_block_of_the_guide_runs(tmp_path: Path) -> None:
    done = run_shell("\n".join(blocks("queue", "sh")), tmp_path, reader(tmp_path))
    assert done.stdout.count("queued before") == 1, "a repeated key is answered"


def test_the_guide_names_every_verb() -> None:
    for verb in VERBS:
        assert f"lash queue {verb}" in docs.read("queue"), verb
