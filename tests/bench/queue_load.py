"""The queue at full load: 8 producers × 500 inputs into 20 sessions, 4 workers, one of them killed every second.

    python tests/bench/queue_load.py [--with-cancels]

Prints how long it took, how many workers were killed, and the number of
problems found in the store afterwards, which must be none; exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measuring import emit, note

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.queue_load import Load, run_load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--with-cancels", action="store_true")
    parser.add_argument("--producers", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    # Texts keep coming for as long as workers are killed.
    load = Load(
        options.producers,
        options.inputs,
        options.sessions,
        options.workers,
        options.kills,
        options.with_cancels,
        pause_s=options.kills / options.inputs,
    )
    with tempfile.TemporaryDirectory() as directory:
        outcome = run_load(Path(directory) / "home", load)
        for problem in outcome.problems:
            note(problem)
        if outcome.problems:
            note((Path(directory) / "workers.log").read_text(errors="replace")[-4000:])
    parameters = {"producers": load.producers, "sessions": load.sessions, "workers": load.workers}
    emit("inputs_acknowledged", len(outcome.acknowledged), "inputs", **parameters)
    emit("inputs_used", outcome.used, "inputs", **parameters)
    emit("inputs_cancelled", len(outcome.cancelled), "inputs", **parameters)
    emit("workers_killed", outcome.kills, "processes", **parameters)
    emit("seconds", outcome.seconds, "s", **parameters)
    emit("problems", len(outcome.problems), "problems", **parameters)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
