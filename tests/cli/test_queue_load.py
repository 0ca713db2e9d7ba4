"""Producers and workers in real processes, workers killed while they drain: nothing lost, nothing twice, in order.

`tests/bench/queue_load.py` runs the same at full size.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.queue_load import Load, run_load


@pytest.mark.timeout(400)
def test_every_input_is_used_once_and_in_order_while_workers_are_killed(tmp_path: Path) -> None:
    # A worker is forked, and at work a tenth of a second later.
    load = Load(producers=3, inputs=60, sessions=5, workers=2, kills=4, pause_s=0.03, kill_every_s=0.5)
    outcome = run_load(tmp_path / "home", load)
    assert outcome.problems == []
    assert outcome.kills == 4
    assert outcome.used == len(outcome.acknowledged) == 180


@pytest.mark.timeout(400)
def test_an_input_is_cancelled_or_used_and_never_both(tmp_path: Path) -> None:
    load = Load(
        producers=3, inputs=60, sessions=5, workers=2, kills=3,
        with_cancels=True, seed=2, pause_s=0.025, kill_every_s=0.5,
    )  # fmt: skip
    outcome = run_load(tmp_path / "home", load)
    assert outcome.problems == []
    assert outcome.cancelled
    assert outcome.used + len(outcome.cancelled) == len(outcome.acknowledged) == 180
