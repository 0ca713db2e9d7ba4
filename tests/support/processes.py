"""The one way tests start a process of their own: whatever a test does not end itself is ended after it.

A test that fails half-way must leave neither a process that takes the machine
from the next one, nor a pipe whose warning, whenever it is collected, fails a
test it has nothing to do with. `tests/conftest.py` calls `end_started`.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

PATIENCE_S = 60

_started: list[subprocess.Popen[Any]] = []


def start_process(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen(command, **options)`, ended with its test at the latest."""
    return end_with_test(subprocess.Popen(command, **options))


def end_with_test(process: subprocess.Popen[Any]) -> subprocess.Popen[Any]:
    """The process, which is ended with this test at the latest."""
    _started.append(process)
    return process


def end_started() -> None:
    """Kill what was started and still runs, and close every pipe to it."""
    while _started:
        with _started.pop() as process:
            process.kill()


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Until it happened. Fails when the process, which is to make it happen, ends first or takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        # It may have made it happen, and ended, between the two questions.
        assert process.poll() is None or happened(), process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)
