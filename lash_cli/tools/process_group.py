"""Child processes that cannot outlive their owner (contract 05 §6, "process groups die with the turn").

Every command runs in a session of its own, so that it and all its descendants
can be found and killed together: the process group first, then, on Linux,
every process of the same session, because programs such as `timeout` move
themselves into a new group. A process that starts a session of its own escapes, and
one that became another user is not ours to kill.

When lash itself is killed nobody is left to do this, so one small `sh` guard
per `ProcessGroups` waits on a pipe: lash tells it which sessions live, and the
end of the pipe, which the kernel delivers however lash died, makes it kill
them. A command waits for a go-ahead that is sent only after its session is on
the guard's list, hence no instant exists at which it could be forgotten.
`preexec_fn` and `PR_SET_PDEATHSIG` are not used: the first is unsafe beside
threads, the second reaches the direct child only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from lash_cli import umask
from lash_cli.core.protocols import CancelSignal, Clock
from lash_cli.core.tools import FailureClass
from lash_cli.tools.faults import ToolFault, invalid
from lash_cli.tools.policy import printable

KILL_WAIT_SECONDS = 0.5
DRAIN_SECONDS = 0.25
# How long what was killed may take to be gone. It takes for ever where the kernel waits for a dead disk, and a command
# that became somebody else, as with sudo, is not ours to kill.
EXIT_SECONDS = 2.0

Ending = Literal["exited", "cancelled", "timed_out"]

_SHELL = "/bin/sh"

# Waits for the go-ahead on stdin and becomes the command; end of file means that the owner died first.
_LAUNCHER = 'read -r go || exit 125; exec "$@" </dev/null'
_LAUNCHER_WITH_INPUT = 'read -r go || exit 125; exec "$@"'

# Keeps the list of live sessions; at end of file kills their groups, then whoever is left of the sessions.
_GUARD = """
live=
while read -r word; do
  case $word in
    +*) live="$live ${word#+}" ;;
    -*) kept=
        for sid in $live; do [ "$sid" = "${word#-}" ] || kept="$kept $sid"; done
        live=$kept ;;
  esac
done
for sid in $live; do kill -KILL "-$sid"; done
for pass in 1 2; do
  for stat in /proc/[0-9]*/stat; do
    read -r line <"$stat" || continue
    pid=${line%% *}
    set -- ${line##*) }
    for sid in $live; do [ "$4" = "$sid" ] && kill -KILL "$pid"; done
  done
done
"""


def kill_session(session: int, number: signal.Signals) -> None:
    """Signal the process group `session` and, where /proc exists, every process of that session."""
    _signal(partial(os.killpg, session, number))
    for pid in session_members(session):
        _signal(partial(os.kill, pid, number))


def _signal(send: Callable[[], None]) -> None:
    """Send; there may be nobody any more, or somebody we may not signal."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send()


def session_members(session: int) -> tuple[int, ...]:
    """Live processes of a session, without zombies; empty where the system has no /proc."""
    members = []
    try:
        names = os.listdir("/proc")
    except OSError:
        return ()
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if len(fields) > 3 and int(fields[3]) == session and fields[0] not in (b"Z", b"X"):
            members.append(int(name))
    return tuple(members)


class _Wire(asyncio.SubprocessProtocol):
    """Hands output to the sink and turns exit and end of output into events."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self.exited = asyncio.Event()
        self.drained = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._sink(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self.drained.set()

    def process_exited(self) -> None:
        self.exited.set()


class GroupProcess:
    """One running command and everything it started."""

    def __init__(
        self, transport: asyncio.SubprocessTransport, wire: _Wire, clock: Clock, on_end: Callable[[int], None]
    ) -> None:
        self._transport = transport
        self._wire = wire
        self._clock = clock
        self._on_end = on_end
        self._is_ended = False
        self.session = transport.get_pid()

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal, None while it runs."""
        return self._transport.get_returncode()

    async def wait(self) -> None:
        """Return when the command itself exited; what it started may still run."""
        await self._wire.exited.wait()

    async def first_of(self, cancel: CancelSignal, seconds: float) -> Ending:
        """What happens first: the command exits, `cancel` is set, or the time is over."""
        is_exited, is_cancelled = await self._first_within(seconds, self.wait(), cancel.wait())
        return "exited" if is_exited else "cancelled" if is_cancelled else "timed_out"

    def kill(self) -> None:
        """SIGKILL to everything and close the pipes, synchronously. Safe to call at any time."""
        self._strike()
        with contextlib.suppress(PermissionError):  # the transport kills it, too
            self._transport.close()

    def _strike(self) -> None:
        # Once only: afterwards the kernel may give the number to somebody else.
        if not self._is_ended:
            self._is_ended = True
            kill_session(self.session, signal.SIGKILL)
            self._on_end(self.session)

    async def finish(self) -> None:
        """End what the exited command left behind and collect the output still in the pipe."""
        try:
            self._strike()
            # A process that left the session may hold the pipe open for ever.
            await self._within(DRAIN_SECONDS, self._wire.drained)
        finally:
            self.kill()

    async def terminate(self) -> None:
        """SIGTERM, up to 500 ms to comply, then SIGKILL; also when the calling task is cancelled. Who may not be killed
        has no `returncode` afterwards."""
        try:
            if not self._is_ended:
                kill_session(self.session, signal.SIGTERM)
            await self._within(KILL_WAIT_SECONDS, self._wire.exited)
            await self.finish()
            await self.gone()
        finally:
            self.kill()

    async def gone(self) -> None:
        """Return when the command, which was killed, is gone, or is not going to be."""
        await self._within(EXIT_SECONDS, self._wire.exited)

    async def _within(self, seconds: float, event: asyncio.Event) -> None:
        if not event.is_set():
            await self._first_within(seconds, event.wait())

    async def _first_within(self, seconds: float, *waits: Coroutine[Any, Any, object]) -> list[bool]:
        """Which of the waits are over when one is, or the time."""
        waiting = [asyncio.ensure_future(wait) for wait in (*waits, self._clock.sleep(seconds))]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        return [task in done for task in waiting[: len(waits)]]


class ProcessGroups:
    """Every process group of one tool provider, and the guard that outlives us to kill them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._live: dict[int, GroupProcess] = {}
        self._ending: dict[asyncio.Task[None], GroupProcess] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    @property
    def sessions(self) -> frozenset[int]:
        """Session ids of the groups not yet killed."""
        return frozenset(self._live)

    async def start(
        self,
        arguments: Sequence[str],
        *,
        sink: Callable[[bytes], None],
        environment: Mapping[str, str],
        directory: Path,
        stdin: bytes | None = None,
    ) -> GroupProcess:
        """Start a command whose stdout and stderr both go to `sink`; its input is `stdin` or /dev/null.

        Raises `ToolFault` when it cannot be started.
        """
        self._refuse_when_closed()
        if any("\0" in argument for argument in arguments):
            # asyncio's loop says so; another one may cut the command off there and run what is left of it.
            raise invalid("command_not_started", "the command could not be started: it contains a null byte")
        guard = self._live_guard()
        launcher = _LAUNCHER if stdin is None else _LAUNCHER_WITH_INPUT
        if (mask := umask.of_user()) is not None:
            launcher = f"umask {mask:03o}; {launcher}"
        loop = asyncio.get_running_loop()
        try:
            transport, wire = await loop.subprocess_exec(
                lambda: _Wire(sink),
                *(_SHELL, "-c", launcher, "lash-exec", *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
            )
        except OSError as error:
            reason = f"in {printable(str(directory))}: {error.strerror}"
            raise invalid("command_not_started", f"the command could not be started {reason}") from error
        except ValueError as error:
            raise invalid("command_not_started", f"the command could not be started: {error}") from error
        process = GroupProcess(transport, wire, self._clock, self._forget)
        self._live[process.session] = process
        try:
            # The source may have been closed while the process was being made.
            self._refuse_when_closed()
            self._tell(guard, f"+{process.session}\n")
        except ToolFault:
            process.kill()
            raise
        except OSError:
            process.kill()
            raise ToolFault(
                FailureClass.UNAVAILABLE, "command_not_started", "the process guard is gone; try again"
            ) from None
        # By what it is for and not by its class: the transports of other event loops do not share asyncio's.
        pipe = cast(asyncio.WriteTransport | None, transport.get_pipe_transport(0))
        if pipe is not None and not pipe.is_closing():
            pipe.write(b"go\n" + (stdin or b""))
            pipe.write_eof()
        return process

    def end_later(self, process: GroupProcess) -> None:
        """Terminate in the background; `aclose` waits for it."""
        task = asyncio.ensure_future(process.terminate())
        self._ending[task] = process
        task.add_done_callback(self._ending.pop)

    async def aclose(self) -> None:
        """Kill every group and dismiss the guard; nothing can be started afterwards. Who was told to end before keeps
        the time it was given for that: it may be cleaning up."""
        self._is_closed = True
        running = tuple(self._live.values())
        ending = dict(self._ending)
        for process in set(running).difference(ending.values()):
            process.kill()
        try:
            if ending:
                await asyncio.wait(ending, timeout=KILL_WAIT_SECONDS + DRAIN_SECONDS)
        finally:
            for task in ending:
                task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.gather(*(process.gone() for process in running))
        guard, self._guard = self._guard, None
        if guard is not None:
            await asyncio.to_thread(_dismiss, guard)

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise ToolFault(
                FailureClass.UNAVAILABLE, "tool_source_closed", "the session is closing; nothing is started"
            )

    def _live_guard(self) -> subprocess.Popen[bytes]:
        if self._guard is None or self._guard.poll() is not None:
            if self._guard is not None:
                _dismiss(self._guard)
            # A session of its own: the terminal's Ctrl-C must not reach it. It is a plain sh and costs about 1 ms.
            self._guard = subprocess.Popen(
                (_SHELL, "-c", _GUARD, "lash-guard"),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={},
                cwd="/",
                bufsize=0,
            )
            for session in self._live:
                self._tell(self._guard, f"+{session}\n")
        return self._guard

    def _forget(self, session: int) -> None:
        self._live.pop(session, None)
        if self._guard is not None:
            with contextlib.suppress(OSError):  # a guard that is gone has nothing left to guard
                self._tell(self._guard, f"-{session}\n")

    def _tell(self, guard: subprocess.Popen[bytes], line: str) -> None:
        assert guard.stdin is not None
        guard.stdin.write(line.encode())


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    if guard.stdin is not None:
        with contextlib.suppress(OSError):  # gone before it was dismissed
            guard.stdin.close()
    try:
        guard.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()
