# ruff: noqa: ASYNC240 - small files in a test may block
"""exec_command against real processes: output, exit codes, limits, cancellation and death of the owner."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.clock import ManualCancel, ManualClock
from support.tools import Workbench, failure_of, value_of

import lash_cli
from lash_cli.core.tools import FailureClass, project_output
from lash_cli.system import SystemClock
from lash_cli.tools import process_group
from lash_cli.tools.process_group import GroupProcess, ProcessGroups, session_members
from lash_cli.tools.shell import (
    BUFFER_BYTES,
    SHOWN_AT_ONCE_BYTES,
    SHOWN_BYTES,
    SHOWN_BYTES_PER_SECOND,
    OutputBuffer,
    OutputPreview,
    child_environment,
    default_shell,
    strip_ansi,
)
from lash_cli.tools.spilling import spill


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Workbench]:
    bench = Workbench(tmp_path)
    yield bench
    await bench.provider.aclose()


async def until(condition: Callable[[], bool]) -> None:
    """Return once something outside of this process is so; the time limit of the test is the failure."""
    while not condition():  # noqa: ASYNC110 - other processes set no event
        await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_dead(*pids: int) -> None:
    """Return once none of the processes runs; a test time-out is the failure."""
    await until(lambda: not any(is_alive(pid) for pid in pids))


async def started(bench: Workbench, command: str, **arguments: object) -> tuple[asyncio.Task[object], list[int]]:
    """Start a command that prints process ids and then `ready`; return the running call and the ids."""
    call = asyncio.ensure_future(bench.call("exec_command", cmd=command, **arguments))
    while "ready" not in "".join(bench.shown):
        assert not call.done(), call
        await asyncio.sleep(0.005)
    return call, [int(word) for word in "".join(bench.shown).split() if word.isdigit()]


PACKAGE_PARENT = str(Path(lash_cli.__file__).parents[1])
TREE = "sleep 1000 & echo $!; timeout 999 sleep 998 & echo $!; echo $$; echo ready; wait"


async def test_output_and_exit_code_are_data(bench: Workbench) -> None:
    value = value_of(await bench.call("exec_command", cmd="echo out; echo err >&2; exit 3"))
    assert value == {"exit_code": 3, "output": "out\nerr\n"}


async def test_death_by_signal_is_reported_like_a_shell_does(bench: Workbench) -> None:
    value = value_of(await bench.call("exec_command", cmd="kill -KILL $$"))
    assert value["exit_code"] == 137
    assert value["signal"] == "SIGKILL"


async def test_stdin_is_closed_and_no_descriptor_of_ours_is_inherited(bench: Workbench) -> None:
    value = value_of(await bench.call("exec_command", cmd="cat; readlink /proc/self/fd/0; ls /proc/$$/fd"))
    device, *descriptors = value["output"].split()
    assert device == "/dev/null"
    assert set(descriptors) <= {"0", "1", "2", "255", "3"}


async def test_escape_sequences_are_stripped(bench: Workbench) -> None:
    value = value_of(await bench.call("exec_command", cmd=r"printf '\033[31mred\033[0m\033]0;title\007 \033(Bend\r\n'"))
    assert value["output"] == "red end\n"


def test_an_unterminated_escape_does_not_swallow_what_follows() -> None:
    assert strip_ansi("\x1b]0;never ended\nimportant") == "0;never ended\nimportant"


def test_no_escape_is_left_of_one_inside_of_another() -> None:
    assert strip_ansi("a\x1b\x1b[31m[31mb") == "a[31mb"
    assert strip_ansi("a\x1b") == "a"


async def test_runs_in_the_session_directory_or_the_one_named(bench: Workbench) -> None:
    (bench.root / "sub").mkdir()
    assert value_of(await bench.call("exec_command", cmd="pwd"))["output"] == f"{bench.root}\n"
    assert value_of(await bench.call("exec_command", cmd="pwd", workdir="sub"))["output"] == f"{bench.root}/sub\n"
    assert failure_of(await bench.call("exec_command", cmd="pwd", workdir="/etc")).code == "path_outside_roots"
    assert failure_of(await bench.call("exec_command", cmd="pwd", workdir="absent")).code == "workdir_missing"
    bench.write("file", "")
    assert failure_of(await bench.call("exec_command", cmd="pwd", workdir="file/below")).code == "workdir_missing"


async def test_no_key_and_no_lash_setting_reaches_a_command(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "LC_OPENAI", "LC_SECRET", "LASH_DB", "LASH_CFG__x", "UNLISTED"):
        monkeypatch.setenv(name, "must-not-leak")
    monkeypatch.setenv("LC_TIME", "C")
    output = value_of(await bench.call("exec_command", cmd="env"))["output"]
    assert "must-not-leak" not in output
    assert {"LASH_SESSION=s_1", "LASH_TURN=t_1", "LC_TIME=C"} <= set(output.split("\n"))


def test_what_a_command_is_told_of_its_call_stands_above_what_we_have_ourselves() -> None:
    assert child_environment({"TERM": "dumb", "HOME": "/h"}, {"TERM": "own"}) == {
        "PATH": os.defpath,
        "TERM": "own",
        "HOME": "/h",
    }


def test_of_a_session_only_who_still_runs_is_a_member() -> None:
    ended = subprocess.Popen(["/bin/sh", "-c", "exit"], start_new_session=True)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert session_members(ended.pid) == ()
    ended.wait()


def test_a_command_is_found_also_where_nothing_says_where_to_look() -> None:
    assert child_environment({}, {}) == {"PATH": os.defpath}
    assert child_environment({"PATH": "/bin"}, {"LASH_SESSION": "s"}) == {"PATH": "/bin", "LASH_SESSION": "s"}


async def test_long_output_shows_its_end_and_keeps_the_whole_in_a_private_readable_file(bench: Workbench) -> None:
    value = value_of(await bench.call("exec_command", cmd="seq 1 20000"))
    assert value["output"].endswith("19999\n20000\n")
    assert value["output"].startswith(f"...{value['omitted_bytes']} bytes truncated...\n")
    path = Path(value["full_output_path"])
    path.parent.chmod(0o755)
    await bench.call("exec_command", cmd="seq 1 20000")
    assert path.read_text() == "".join(f"{n}\n" for n in range(1, 20001))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert value_of(await bench.call("read_file", path=str(path), limit=1)).startswith("1: 1\n")
    assert failure_of(await bench.call("write", path=str(path), content="")).code == "path_outside_roots"


async def test_what_other_sessions_had_kept_is_not_found_without_its_name(bench: Workbench) -> None:
    kept = spill(bench.spill, b"needle of others")
    for name, arguments in {"read_file": {}, "glob": {"pattern": "*"}, "grep": {"pattern": "needle"}}.items():
        for path in (bench.spill, f"{bench.spill}/../spill/."):
            assert failure_of(await bench.call(name, path=str(path), **arguments)).code == "path_outside_roots"
    assert value_of(await bench.call("grep", path=str(kept), pattern="needle")).endswith(":1: needle of others")


async def test_of_more_output_than_is_kept_the_file_says_what_it_lacks(bench: Workbench) -> None:
    value = value_of(await bench.call("exec_command", cmd="seq 1 200000"))
    kept = Path(value["full_output_path"]).read_text()
    mark, _, rest = kept.partition("\n")
    assert mark == f"...{value['lost_bytes']} bytes not kept..."
    assert rest.endswith("\n199999\n200000\n")
    assert value["lost_bytes"] + len(rest) == sum(len(f"{number}\n") for number in range(1, 200_001))


async def test_of_a_command_out_of_time_the_message_names_where_its_output_is(bench: Workbench) -> None:
    call, _ = await started(bench, "seq 1 20000; echo ready; sleep 1000", timeout_ms=60_000)
    bench.clock.tick(60.0)
    refused = failure_of(await call)
    assert refused.code == "shell_timeout"
    assert f"(all of it in {refused.raw['full_output_path']})" in refused.message
    flood = bench.call("exec_command", cmd="seq 1 200000; touch flooded; sleep 1000", timeout_ms=60_000)
    call = asyncio.ensure_future(flood)
    await until((bench.root / "flooded").exists)
    bench.clock.tick(60.0)
    refused = failure_of(await call)
    assert f"(more of it in {refused.raw['full_output_path']})" in refused.message


async def test_of_output_that_is_nothing_but_escapes_is_told_how_much_it_was(bench: Workbench) -> None:
    escapes = "head -c 400000 /dev/zero | sed 's/\\x00/\\x1b[0m/g'"
    value = value_of(await bench.call("exec_command", cmd=escapes))
    dropped = 4 * 400_000 - BUFFER_BYTES
    assert value["output"] == f"...{dropped} bytes truncated...\n"
    assert (value["omitted_bytes"], value["lost_bytes"]) == (dropped, dropped)


async def test_where_a_command_may_not_run_is_said_in_words(nobodys_bench: Workbench) -> None:
    (nobodys_bench.root / "closed").mkdir(mode=0)
    refused = failure_of(await nobodys_bench.call("exec_command", cmd="pwd", workdir="closed"))
    assert refused.message == (f"the command could not be started in {nobodys_bench.root}/closed: Permission denied")
    await nobodys_bench.provider.aclose()


async def test_output_that_cannot_be_kept_does_not_hide_how_the_command_ended(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lash_cli.tools.spilling.os.replace", full)
    value = value_of(await bench.call("exec_command", cmd="seq 1 100000; exit 3"))
    assert value["exit_code"] == 3
    assert value["output"].endswith("99999\n100000\n")
    assert "No space left on device" in value["full_output_lost"]
    assert list(bench.spill.iterdir()) == []


async def test_equal_outputs_that_end_together_are_all_kept(bench: Workbench) -> None:
    content = b"x" * 500_000
    for _ in range(20):
        kept = await asyncio.gather(*(asyncio.to_thread(spill, bench.spill, content) for _ in range(8)))
        assert len(set(kept)) == 1 and kept[0].read_bytes() == content
    assert list(bench.spill.iterdir()) == [kept[0]]


async def test_output_limit_of_the_caller_is_kept(bench: Workbench) -> None:
    value = value_of(await bench.call("exec_command", cmd="seq 1 100", max_output_tokens=2))
    assert value["output"].endswith("\n99\n100\n")
    assert "full_output_path" not in value


def test_the_buffer_holds_the_newest_bytes_only() -> None:
    buffer = OutputBuffer(limit=5)
    for chunk in (b"abc", b"defg", b"h"):
        buffer.feed(chunk)
    assert (buffer.text(), buffer.dropped) == ("defgh", 3)


def test_what_is_left_of_a_character_cut_in_two_is_not_shown() -> None:
    buffer = OutputBuffer(limit=5)
    buffer.feed("é€ab".encode())
    assert (buffer.text(), buffer.dropped) == ("€ab", 2)
    buffer.feed(b"c")
    assert (buffer.text(), buffer.dropped) == ("abc", 3)
    buffer.feed(b"\x80" * 5)
    assert buffer.text() == "\ufffd" * 2, "what was never a character is shown as far as it can have been none"


async def test_of_a_flood_no_more_is_shown_than_anybody_could_read(bench: Workbench) -> None:
    value = value_of(await bench.call("exec_command", cmd="head -c 3000000 /dev/zero | tr '\\0' x"))
    assert 0 < "".join(bench.shown).count("x") <= SHOWN_AT_ONCE_BYTES
    assert value["omitted_bytes"] == 3_000_000 - SHOWN_BYTES


def test_what_a_preview_leaves_out_is_told_in_its_place() -> None:
    clock, shown = ManualClock(), list[str]()
    preview = OutputPreview(shown.append, clock)
    preview.feed(b"a" * SHOWN_AT_ONCE_BYTES)
    preview.feed(b"b\xe2\x82")
    preview.feed(b"\xac")
    clock.tick(1)
    preview.feed("é\n".encode())
    assert shown[1:] == ["\n...4 bytes not shown...\n", "é\n"]
    clock.tick(1)
    preview.feed(b"c" * SHOWN_BYTES_PER_SECOND)
    assert len(shown) == 4


def test_half_a_character_before_what_is_left_out_is_not_the_half_of_one_behind_it() -> None:
    clock, shown = ManualClock(), list[str]()
    preview = OutputPreview(shown.append, clock)
    preview.feed(b"a\xe2\x82")
    preview.feed(b"d" * SHOWN_AT_ONCE_BYTES)
    preview.feed(b"b")
    assert shown == ["a", f"\n...{SHOWN_AT_ONCE_BYTES} bytes not shown...\n", "b"]


async def test_what_is_left_in_the_background_ends_with_the_call(bench: Workbench) -> None:
    value = value_of(await bench.call("exec_command", cmd="sleep 1000 & echo $!"))
    await until_dead(int(value["output"]))
    assert value["exit_code"] == 0


async def test_a_daemon_holding_the_pipe_does_not_hold_the_call(bench: Workbench) -> None:
    call = asyncio.ensure_future(bench.call("exec_command", cmd="setsid sleep 1000 & echo $!; sleep 0.1"))
    await until(lambda: 0.25 in bench.clock.slept)
    bench.clock.tick(0.25)
    output = value_of(await call)["output"]
    for pid in map(int, output.split()):
        for daemon in (pid, *session_members(pid)):
            if is_alive(daemon):
                os.kill(daemon, signal.SIGKILL)


async def test_running_out_of_time_kills_the_whole_tree_and_keeps_the_output(bench: Workbench) -> None:
    call, pids = await started(bench, TREE, timeout_ms=7000)
    bench.clock.tick(7.0)
    output = await call
    fault = failure_of(output)
    assert (fault.failure_class, fault.code) == (FailureClass.TIMEOUT, "shell_timeout")
    assert fault.raw["status"] == "timed_out"
    assert "ready" in project_output(output)
    await until_dead(*pids)


async def test_a_command_that_ignores_the_polite_signal_is_killed(bench: Workbench) -> None:
    call, pids = await started(bench, "trap '' TERM; echo $$; echo ready; while :; do sleep 1; done", timeout_ms=7000)
    bench.clock.tick(7.0)
    await until(lambda: 0.5 in bench.clock.slept)
    assert is_alive(pids[0])
    bench.clock.tick(0.5)
    assert failure_of(await call).code == "shell_timeout"
    await until_dead(*pids)


@pytest.fixture
def unsignalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever is signalled may not be, like a command that became somebody else by sudo."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patched:
        patched.setattr(os, "kill", refuse)
        patched.setattr(os, "killpg", refuse)
        patched.setattr(subprocess.Popen, "send_signal", refuse)
        yield


@pytest.mark.usefixtures("unsignalled")
async def test_a_command_that_may_not_be_stopped_is_said_to_run_on(bench: Workbench) -> None:
    call, pids = await started(bench, "echo $$; mkfifo go; echo ready; read -r line <go", timeout_ms=7000)
    bench.clock.auto_advance = True
    bench.clock.tick(7.0)
    fault = failure_of(await call)
    assert (fault.code, fault.raw["status"]) == ("shell_timeout", "timed_out")
    assert "could not be stopped after 7000 ms and runs on" in fault.message
    assert is_alive(pids[0])
    (bench.root / "go").write_text("\n")
    await until_dead(*pids)


@pytest.mark.usefixtures("unsignalled")
async def test_closing_does_not_wait_for_who_may_not_be_stopped(bench: Workbench) -> None:
    call, pids = await started(bench, "echo $$; mkfifo go; echo ready; read -r line <go")
    bench.clock.auto_advance = True
    await bench.provider.aclose()
    assert is_alive(pids[0])
    (bench.root / "go").write_text("\n")
    await call
    await until_dead(*pids)


async def test_cancel_answers_at_once_and_kills_afterwards(bench: Workbench) -> None:
    call, pids = await started(bench, "trap '' TERM; echo $$; echo ready; while :; do sleep 1; done")
    bench.cancel.set()
    assert (await call).status == "cancelled"
    await until(lambda: 0.5 in bench.clock.slept)
    bench.clock.tick(0.5)
    await until_dead(*pids)


async def test_a_cancelled_call_does_not_start(bench: Workbench) -> None:
    bench.cancel.set()
    assert (await bench.call("exec_command", cmd="touch started")).status == "cancelled"
    assert not (bench.root / "started").exists()


async def test_cutting_the_task_kills_the_tree(bench: Workbench) -> None:
    call, pids = await started(bench, TREE)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until_dead(*pids)


async def test_close_kills_every_group_and_refuses_new_ones(bench: Workbench) -> None:
    call, pids = await started(bench, TREE)
    await bench.provider.aclose()
    await until_dead(*pids)
    await call
    assert failure_of(await bench.call("exec_command", cmd="true")).code == "tool_source_closed"


@pytest.mark.parametrize("steps", range(0, 20, 2))
async def test_what_is_being_started_while_it_closes_does_not_run_on(bench: Workbench, steps: int) -> None:
    call = asyncio.ensure_future(bench.call("exec_command", cmd="sleep 1000"))
    for _ in range(steps):
        await asyncio.sleep(0)
    await bench.provider.aclose()
    async with asyncio.timeout(20):
        await call


async def test_a_command_that_ended_in_the_moment_of_its_cancellation_ended(tmp_path: Path) -> None:
    groups = process_group.ProcessGroups(ManualClock())
    process = await groups.start(["true"], sink=lambda _: None, environment={}, directory=tmp_path)
    await process.wait()
    cancel = ManualCancel()
    cancel.set()
    assert await process.first_of(cancel, 0) == "exited"
    await groups.aclose()


async def test_close_lets_a_cancelled_command_clean_up_in_the_time_it_was_given(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "KILL_WAIT_SECONDS", 30)
    cleaning = "trap 'sleep 0.1; touch cleaned; exit' TERM; echo $$; echo ready; while :; do sleep 0.01; done"
    call, pids = await started(bench, cleaning)
    bench.cancel.set()
    assert (await call).status == "cancelled"
    await bench.provider.aclose()
    assert not any(is_alive(pid) for pid in pids)
    assert (bench.root / "cleaned").exists()


async def test_close_kills_a_cancelled_command_that_takes_longer(bench: Workbench) -> None:
    call, pids = await started(bench, "trap '' TERM; echo $$; echo ready; while :; do sleep 1; done")
    bench.cancel.set()
    assert (await call).status == "cancelled"
    await bench.provider.aclose()
    assert not any(is_alive(pid) for pid in pids)


async def test_a_killed_guard_is_replaced(bench: Workbench) -> None:
    await bench.call("exec_command", cmd="true")
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    guards = [int(pid) for pid in children if b"lash-guard" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert guards
    for pid in guards:
        os.kill(pid, signal.SIGKILL)
    await until_dead(*guards)
    assert value_of(await bench.call("exec_command", cmd="echo on"))["output"] == "on\n"


async def test_a_guard_that_takes_the_place_of_a_killed_one_guards_what_runs_already() -> None:
    groups = ProcessGroups(SystemClock())

    async def start(command: str) -> GroupProcess:
        environment = {"PATH": os.defpath}
        arguments = ("/bin/sh", "-c", command)
        return await groups.start(arguments, sink=lambda _: None, environment=environment, directory=Path("/"))

    running = await start("sleep 1000")
    for _ in range(2):
        guard = groups._guard
        assert guard is not None and guard.stdin is not None
        assert Path(f"/proc/{guard.pid}/environ").read_bytes() == b""
        guard.kill()
        guard.wait()
        await (await start("true")).finish()
    assert is_alive(running.session)
    guard = groups._guard
    assert guard is not None and guard.stdin is not None
    guard.stdin.close()  # as when we are killed
    await until_dead(running.session)
    guard.wait()
    groups._guard = None
    await groups.aclose()


async def test_a_group_is_killed_once_because_its_number_may_be_somebody_elses_then(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, signal.Signals]] = []
    monkeypatch.setattr(process_group, "kill_session", lambda session, number: killed.append((session, number)))
    await bench.call("exec_command", cmd="true")
    assert [number for _, number in killed] == [signal.SIGKILL]


def test_a_shell_that_speaks_another_language_is_not_the_default() -> None:
    assert default_shell({"SHELL": "/bin/bash"}) == "/bin/bash"
    for other in ("/bin/cat", "/absent/bash", ""):
        assert default_shell({"SHELL": other}) == "/bin/sh", other


@pytest.mark.parametrize("shell", ["sh", "/bin/bash"])
async def test_the_shell_can_be_chosen(bench: Workbench, shell: str) -> None:
    value = value_of(await bench.call("exec_command", cmd="echo $0", shell=shell, login=True))
    assert value["output"].strip().endswith(shell)


@pytest.mark.parametrize("workdir", [None, "sub"])
async def test_the_path_of_a_shell_is_one_of_the_session(bench: Workbench, workdir: str | None) -> None:
    bench.write("bin/own", '#!/bin/sh\nexec /bin/sh "$@"\n').chmod(0o755)
    (bench.root / "sub").mkdir()
    value = value_of(await bench.call("exec_command", cmd="pwd", shell="./bin/own", workdir=workdir))
    assert value["output"].strip() == str(bench.root / (workdir or ""))


async def test_a_command_that_cannot_start_is_a_bad_request(bench: Workbench) -> None:
    assert failure_of(await bench.call("exec_command", cmd="x" * 300_000)).code == "command_not_started"
    assert failure_of(await bench.call("exec_command", cmd="a\0b")).code == "command_not_started"
    assert failure_of(await bench.call("exec_command", cmd="true", shell="no-such-shell")).code == "shell_missing"


OWNER = """
import asyncio, sys
from pathlib import Path
from lash_cli.system import SystemClock
from lash_cli.tools.builtin import builtin_tools
from lash_cli.tools.context import SimpleToolContext
from lash_cli.tools.policy import FilePolicy
from lash_cli.core.tools import ToolCall

class Never:
    is_set = False
    async def wait(self):
        await asyncio.Event().wait()

async def main(root):
    provider = builtin_tools(FilePolicy((root,)), root, root / "spill", SystemClock())
    context = SimpleToolContext("s", "t", "c", Never(), on_progress=lambda text: print(text, end="", flush=True))
    call = {"cmd": sys.argv[2]}
    await provider.execute(ToolCall("c", "builtin.exec_command", "exec_command", call), context)

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_killed_owner_takes_the_whole_tree_with_it(tmp_path: Path) -> None:
    command = (sys.executable, "-c", OWNER, str(tmp_path), TREE)
    environment = {**os.environ, "PYTHONPATH": PACKAGE_PARENT}
    owner = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    assert owner.stdout is not None
    pids: list[int] = []
    while (line := (await owner.stdout.readline()).strip()) != b"ready":
        assert line, "the owner ended early"
        pids.append(int(line))
    assert len(pids) == 3
    assert all(is_alive(pid) for pid in pids)
    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    await until_dead(*pids)


async def test_the_time_limit_is_measured_by_the_injected_clock(bench: Workbench) -> None:
    await bench.call("exec_command", cmd="true", timeout_ms=1234)
    assert bench.clock.slept[0] == 1.234
