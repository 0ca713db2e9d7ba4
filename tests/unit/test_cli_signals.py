"""The first signal asks, the second one kills (contract 08 §6.4)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import environment
from support.frozen import wait_until_frozen
from support.processes import start_process, wait_until

TURN = """
import asyncio, os, signal, sys
from lash_cli.cli.signals import turn_signals
async def turn():
    cancelled = asyncio.Event()
    def settle():
        print("settled", flush=True)
        if sys.argv[1] == "twice":
            os.kill(os.getpid(), signal.SIGTSTP)
    with turn_signals(cancelled.set, before_stop=settle) as state:
        print("ready", flush=True)
        if sys.argv[1] == "still":
            os.read(0, 1)
        await cancelled.wait()
        print("cancelled", flush=True)
        if sys.argv[1] == "slow":
            await asyncio.Event().wait()
    return state.exit_status
from lash_cli.cli.watching_loop import new_watching_loop
with asyncio.Runner(loop_factory=new_watching_loop if sys.argv[2] == "uvloop" else None) as runner:
    sys.exit(runner.run(turn()))
"""


def start(tmp_path, mode, loop="asyncio", **options):
    process = start_process(
        [sys.executable, "-c", TURN, mode, loop], env=environment(tmp_path / "home"), stdout=subprocess.PIPE, **options
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def state_of(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_cancels_and_decides_the_exit_status(tmp_path, number, status):
    process = start(tmp_path, "quick")
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == (b"cancelled\n", status)


def test_the_second_signal_does_not_wait(tmp_path):
    process = start(tmp_path, "slow")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"cancelled\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def has_taken_signals(process):
    """Whether no signal is on its way: two of one kind that wait there are one."""
    return "ShdPnd:\t0000000000000000" in Path(f"/proc/{process.pid}/status").read_text()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_second_signal_kills_a_loop_that_stands_still(tmp_path, loop):
    """As in a write to a terminal that takes nothing."""
    process = start(tmp_path, "still", stdin=subprocess.PIPE, loop=loop)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: has_taken_signals(process), process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_loop_that_stood_still_hears_of_the_first_signal(tmp_path, loop):
    process = start(tmp_path, "still", stdin=subprocess.PIPE, loop=loop)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: has_taken_signals(process), process)
    out, _ = process.communicate(b"x", timeout=30)
    assert (out, process.returncode) == (b"cancelled\n", 143)


def test_nohup_stays_in_force(tmp_path):
    def ignore_hangup():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start(tmp_path, "quick", preexec_fn=ignore_hangup)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == (b"cancelled\n", 130)


@pytest.mark.parametrize("mode", ["quick", "twice"])
def test_a_process_settles_its_writes_before_it_is_suspended_and_goes_on_afterwards(tmp_path, mode):
    """Also of a person who pressed Ctrl-Z once more because the first one took its time."""

    def be_a_job():
        # A group of its own with a parent outside of it, as a shell starts a job: others are never stopped by SIGTSTP.
        os.setpgid(0, 0)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    process = start(tmp_path, mode, preexec_fn=be_a_job)
    for _ in range(2):
        process.send_signal(signal.SIGTSTP)
        assert process.stdout.readline() == b"settled\n"
        wait_until_frozen(process)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: state_of(process) == "S", process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == (b"cancelled\n", 130)


DYING = """
import signal
from lash_cli.cli.signals import die_of

class Ignored:
    def __del__(self):
        raise OSError("Signal 2 ignored due to race condition")

set_handler = signal.signal
def in_that_moment(number, handler):
    set_handler(number, handler)
    Ignored()  # Python tells of a signal that it drops as of an exception that nobody can catch
signal.signal = in_that_moment
die_of(signal.SIGINT)
"""


def test_who_dies_of_a_signal_says_nothing_of_another_one_that_is_dropped(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DYING], env=environment(tmp_path / "home"), capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
