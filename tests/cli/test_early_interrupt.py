"""Ctrl-C before a stream has begun leaves nothing of one: `stream_end` is the last line of every stream (08 §6.5)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import environment
from support.processes import PATIENCE_S, start_process

# The interrupt comes at the last moment at which the handlers of the command do not stand yet.
PROGRAM = """
import importlib, os, signal, sys
module = importlib.import_module("lash_cli.cli." + sys.argv[1])
handling = module.turn_signals
def late(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)
    return handling(*arguments, **options)
module.turn_signals = late
from lash_cli.__main__ import main
sys.argv[:] = ["lash", *sys.argv[2:]]
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("following", ["tail", "s"]),
        ("following", ["tail", "--all"]),
        ("following", ["log", "s", "--follow"]),
        ("following", ["ls", "--watch"]),
        ("turn_run", ["turn", "s", "!text hello"]),
        ("work_command", ["work", "s"]),
    ],
)
def test_an_interrupt_before_the_handlers_stand_begins_no_stream(lash, home: Path, module: str, args) -> None:
    lash("open", "s")
    process = start_process(
        [sys.executable, "-c", PROGRAM, module, *args, "-o", "jsonl"],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
