"""Ctrl-C before a stream has begun leaves nothing of one: `stream_end` is the last line of every stream (08 §6.5).

And where nothing is under way yet, or any more, it ends the process without a word (08 §6.4).
"""

from __future__ import annotations

import signal
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


INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"
# The places are: an import before the command is known, the end of an event loop, and what is done last of all.
WHILE_NOTHING_RUNS = {
    "importing": f"""
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "lash_cli.cli.globals":
            {INTERRUPT}
sys.meta_path.insert(0, Finder())
""",
    "closing": f"""
import asyncio
asyncio.Runner.close = lambda runner: {INTERRUPT}
""",
    "settling": f"""
from lash_cli.cli import failure
failure._settle_stderr = lambda: {INTERRUPT}
""",
}
STARTED = """
from lash_cli.__main__ import main
sys.argv[0] = "lash"
sys.exit(main())
"""


@pytest.mark.parametrize("place", WHILE_NOTHING_RUNS)
def test_an_interrupt_while_no_command_runs_ends_the_process_without_a_word(lash, home: Path, place: str) -> None:
    lash("open", "s")
    program = "import os, signal, sys" + WHILE_NOTHING_RUNS[place] + STARTED
    process = start_process(
        [sys.executable, "-c", program, "turn", "s", "!text hello", "-q"],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (-signal.SIGINT, b"")
    assert out == (b"" if place == "importing" else b"hello\n")


def test_an_interrupt_while_the_event_loop_is_made_leaves_no_half_of_one(lash, home: Path) -> None:
    lash("open", "s")
    program = (
        f"""
import os, signal, sys
from asyncio.selector_events import BaseSelectorEventLoop
make = BaseSelectorEventLoop._make_self_pipe
def late(loop):
    {INTERRUPT}
    make(loop)
BaseSelectorEventLoop._make_self_pipe = late
"""
        + STARTED
    )
    process = start_process(
        [sys.executable, "-c", program, "turn", "s", "!text hello"],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert lash("show", "s", "-o", "json").json["turns"] == 0


def test_an_interrupt_of_a_look_ends_it_as_it_ends_any_program(lash, home: Path) -> None:
    """Where Python raises, a decoder that is being made may crash; a look has nothing to undo."""
    lash("open", "s")
    program = (
        f"""
import os, signal, sys
from lash_cli.cli import session_detail
session_detail.show_session = lambda *words: {INTERRUPT}
"""
        + STARTED
    )
    process = start_process(
        [sys.executable, "-c", program, "show", "s"],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert (*process.communicate(timeout=PATIENCE_S), process.returncode) == (b"", b"", -signal.SIGINT)
