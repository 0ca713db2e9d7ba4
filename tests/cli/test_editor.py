"""What signals mean from before the user's editor runs (contract 08 §5.3): it may run before we know of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from support.processes import end_with_test

from lash_cli.cli import editor
from lash_cli.cli.editor import HeldSignals, held_signals, run_editor
from lash_cli.errors import LashRuntimeError

ENDING = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def held() -> Iterator[HeldSignals]:
    with held_signals() as given:
        yield given


def started_and_told(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Have the signal come when an editor runs and nobody knows of it yet."""
    start = subprocess.Popen

    def told(*arguments: Any, **options: Any) -> Any:
        process = end_with_test(start(*arguments, **options))
        os.kill(os.getpid(), number)
        return process

    monkeypatch.setattr(editor.subprocess, "Popen", told)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_an_editor_that_is_just_started(
    held: HeldSignals, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    started_and_told(monkeypatch, number)
    with pytest.raises(LashRuntimeError) as told:
        run_editor(["sh", "-c", "exec sleep 600"], "file", held)
    assert (told.value.code, told.value.exit_status) == ("edit_interrupted", 128 + number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_key_belongs_to_an_editor_that_is_just_started(
    held: HeldSignals, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    started_and_told(monkeypatch, number)
    run_editor(["sh", "-c", "exit 0"], "file", held)
    assert held.received is None


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_no_editor_opens_for_who_was_told_to_end_before(held: HeldSignals, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    with pytest.raises(LashRuntimeError) as told:
        run_editor(["sh", "-c", "exec sleep 600"], "file", held)
    assert (told.value.code, told.value.exit_status) == ("edit_interrupted", 128 + number)
