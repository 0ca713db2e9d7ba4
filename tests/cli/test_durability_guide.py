"""Every command of the durability guide runs, in order, on one home, as a reader would type it."""

from __future__ import annotations

from pathlib import Path

from support.guides import blocks, reader, run_shell


def test_every_block_of_the_guide_runs_and_the_turn_that_is_killed_is_finished_by_the_next_command(
    tmp_path: Path,
) -> None:
    script = "\n".join(blocks("durability", "sh"))
    told = run_shell(f"{script}\nlash show job --fields status,turns\nlash log job -o json", tmp_path, reader(tmp_path))
    assert told.stdout.count("status  stuck") == 1 and told.stdout.count("status  idle") == 1
    assert "turns   1" in told.stdout and told.stdout.count('"kind":"tool_call"') == 1
    assert "finishing interrupted turn" not in told.stderr, "it is what was asked for, and quietly"
