"""What every test of the project shares: how property tests spend their time, which signals end a process, what the
garbage collector looks at, whose certificates are read, that no process outlives a test, and time-outs that run out
when a test says so.

Hypothesis fails an example that takes longer than 200 ms, and a strategy that draws slowly. On a
busy machine both are statements about the machine; the suite times nothing but the start-up.
"""

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from support.cli import NO_CERTIFICATES
from support.clock import LIMIT_S
from support.processes import end_started

settings.register_profile("lash", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lash")

# No test speaks to a server far away, and reading whom this machine trusts is half of what a client costs. Which
# certificates are read is up to these two (`tests/wire/test_network_setup.py` has neither), in commands too.
os.environ.pop("SSL_CERT_FILE", None)
os.environ.update(NO_CERTIFICATES)

# Who is started in the background of a script, or by nohup, ignores these, and so does every process it starts: the
# signal that a test sends would end nobody, and the test would wait until its time is over. What is handled here is
# at its default in the processes that are started; only Ctrl-C means something to the tests themselves.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, lambda number, frame: None),
    (signal.SIGHUP, lambda number, frame: None),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_finish() -> None:
    """Takes what was imported and collected out of what the garbage collector looks at: it stays until the end, and is
    so much that a test which collects garbage a hundred times did little else."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    """Ends what the test did not end itself because it failed."""
    yield
    end_started()


@pytest.fixture
async def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it takes the event loop past every time-out of `LIMIT_S` that runs.

    None runs out before, and one that begins afterwards has all its time, however busy the machine is.
    """
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0

    def skip() -> None:
        nonlocal passed
        passed += LIMIT_S + 1

    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    return skip
