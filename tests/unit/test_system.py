"""Ids of this machine (contract 08 §4, design D18), and which of its processes are provably dead (01 §13)."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from support.processes import start_process

from lash_cli.core.ids import is_session_id
from lash_cli.core.lease import LocalProcess
from lash_cli.system import SystemIds, is_definitely_dead, process_start, this_process

_FORKS = """
import os
from lash_cli.system import SystemIds

ids = SystemIds()
ids.token()
child = os.fork()
if child:
    os.waitpid(child, 0)
print(ids.token(), ids.new("t"), flush=True)
"""


def test_ids_and_tokens_are_never_drawn_twice() -> None:
    ids = SystemIds()
    made = [ids.new("t") for _ in range(200)]
    tokens = [ids.token() for _ in range(200)]
    assert len(set(made)) == 200 and all(len(one) == 28 and is_session_id(one) for one in made)
    assert len(set(tokens)) == 200 and all(len(bytes.fromhex(token)) == 16 for token in tokens)


def test_a_forked_process_draws_nothing_that_its_parent_draws() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, timeout=60, check=True)
    (token, made), (other_token, other_made) = (line.split() for line in done.stdout.splitlines())
    assert token != other_token and made[-16:] != other_made[-16:]


# Reads a line before it ends, and before that whatever it is told to do.
_WAITS = "import sys; {first}; print('ready', flush=True); sys.stdin.readline()"


def holder_of(pid: int) -> LocalProcess:
    return replace(this_process(), pid=pid, process_start=process_start(pid) or "")


@pytest.fixture
def living() -> Iterator[subprocess.Popen[str]]:
    """A process of its own that waits."""
    command = [sys.executable, "-c", _WAITS.format(first="pass")]
    with start_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_only_what_runs_no_more_is_dead(living) -> None:
    holder = holder_of(living.pid)
    assert not is_definitely_dead(holder)
    living.kill()
    os.waitid(os.P_PID, living.pid, os.WEXITED | os.WNOWAIT)
    assert is_definitely_dead(holder)  # nobody has asked yet how it ended
    living.wait()
    assert is_definitely_dead(holder)


def test_a_pid_that_another_process_got_is_not_its_first_holder(living) -> None:
    assert is_definitely_dead(replace(holder_of(living.pid), process_start="1"))
    assert not is_definitely_dead(replace(holder_of(living.pid), process_start=""))


@pytest.mark.parametrize("elsewhere", [{"host_id": "other"}, {"boot_id": "other"}, {"boot_id": ""}])
def test_nothing_is_known_of_another_machine_or_boot(elsewhere: dict[str, str]) -> None:
    assert not is_definitely_dead(replace(this_process(), pid=2**22 + 1, **elsewhere))


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError, OSError])
def test_a_process_that_is_hidden_from_us_is_not_dead(monkeypatch, error: type[OSError], living) -> None:
    holder, really_open = holder_of(living.pid), builtins.open

    def open_what_is_shown(path, *args, **options):
        if path == f"/proc/{living.pid}/stat":
            raise error(path)
        return really_open(path, *args, **options)

    monkeypatch.setattr(builtins, "open", open_what_is_shown)
    assert not is_definitely_dead(holder)


_WITHOUT_DESCRIPTORS = """
import os, resource, sys
from lash_cli.system import is_definitely_dead, this_process

myself = this_process()
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
print(is_definitely_dead(myself))
"""


def test_whoever_has_no_descriptor_left_declares_nobody_dead() -> None:
    command = [sys.executable, "-c", _WITHOUT_DESCRIPTORS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_a_process_may_have_a_name_that_ends_in_the_middle_of_a_letter() -> None:
    first = "open('/proc/self/comm', 'wb').write('aデータ処理'.encode()[:15])"
    command = [sys.executable, "-c", _WAITS.format(first=first)]
    with start_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            assert not is_definitely_dead(holder_of(process.pid))
        finally:
            process.kill()
