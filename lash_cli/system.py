"""The machine's edges: the real clock, real ids and the identity of this process (design D18, contract 01 §13).

Everything else receives these through the protocols in `core.protocols`, so
tests replace them. A process is identified by host, boot, pid and start time:
only all four together prove that a holder is dead.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

from lash_cli.core.ids import sortable_id
from lash_cli.core.lease import LocalProcess
from lash_cli.errors import ConfigError

if TYPE_CHECKING:
    from lash_cli.core.protocols import Clock, Ids

_DRAW_BYTES = 16
_PAGE_BYTES = 64 * _DRAW_BYTES


class SystemClock:
    """Wall and monotonic time of the operating system."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""
        import asyncio

        await asyncio.sleep(seconds)


_page = BytesIO()


def _draw() -> bytes:
    """Sixteen random bytes that nobody else gets. They are fetched from the system a page at a time: a turn needs six
    draws, and a system call for each is dearer than all the rest of an id."""
    return _page.read(_DRAW_BYTES) or _turn_page().read(_DRAW_BYTES)


def _turn_page() -> BytesIO:
    global _page
    page = _page = BytesIO(os.urandom(_PAGE_BYTES))
    return page


if hasattr(os, "register_at_fork"):
    # No two processes share the rest of a page.
    os.register_at_fork(after_in_child=_turn_page)


class SystemIds:
    """Sortable ids from the wall clock and the system's random source. Any thread may ask for one."""

    def new(self, prefix: str) -> str:
        """`prefix` + `_` + 26 base-32 digits."""
        return sortable_id(prefix, time.time_ns() // 1_000_000, _draw())

    def token(self) -> str:
        """32 hexadecimal digits."""
        return _draw().hex()

    def bits(self, count: int) -> int:
        """`count` random bits."""
        return int.from_bytes(os.urandom((count + 7) // 8), "big") >> (-count % 8)


def is_without_thread(error: Exception) -> bool:
    """Whether `error` is Python's where the system lets this process start no more threads."""
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


async def in_a_thread(call: Callable[[], None]) -> None:
    """Make `call`, which may be repeated, in a thread, or here where the system has none left: the loop waits then."""
    import asyncio

    try:
        await asyncio.to_thread(call)
    except RuntimeError as error:
        if not is_without_thread(error):
            raise
        call()


def clock_of(given: Clock | None) -> Clock:
    """The clock of the machine unless one is given, which is held to its word; raises `ConfigError` (`config_invalid`)
    for one that does not keep it now."""
    if given is None:
        return SystemClock()
    return given if isinstance(given, _CheckedClock) or type(given) is SystemClock else _CheckedClock(given)


def ids_of(given: Ids | None) -> Ids:
    """The ids of the machine unless others are given, which are held to their word."""
    if given is None:
        return SystemIds()
    return given if isinstance(given, _CheckedIds) or type(given) is SystemIds else _CheckedIds(given)


class _CheckedClock:
    """A clock that is not ours. What it answers stands in records, where a time of another type could not be read
    again: it raises `ConfigError` instead."""

    __slots__ = ("_given",)

    def __init__(self, given: Clock) -> None:
        self._given = given
        self.now_ms()
        self.monotonic()

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        answer = self._given.now_ms()
        if not isinstance(answer, int):
            raise _broken_word("now_ms", answer, "whole milliseconds", "int(time.time() * 1000) are such")
        return answer

    def monotonic(self) -> float:
        """Seconds that never go back."""
        answer = self._given.monotonic()
        if not isinstance(answer, int | float) or not math.isfinite(answer):
            raise _broken_word("monotonic", answer, "seconds", "time.monotonic() has such")
        return answer

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task."""
        await self._given.sleep(seconds)


class _CheckedIds:
    """Ids that are not ours: as `_CheckedClock`. A turn without a name could never be ended."""

    __slots__ = ("_given",)

    def __init__(self, given: Ids) -> None:
        self._given = given

    def new(self, prefix: str) -> str:
        """A new id that begins with `prefix`."""
        return _named("new", self._given.new(prefix))

    def token(self) -> str:
        """An unguessable ownership token."""
        return _named("token", self._given.token())

    def bits(self, count: int) -> int:
        """`count` random bits."""
        answer = self._given.bits(count)
        if not isinstance(answer, int) or answer >> count:
            raise _broken_word("bits", answer, f"{count} random bits", "random.getrandbits(count) are such")
        return answer


def _named(method: str, answer: object) -> str:
    if not isinstance(answer, str) or not answer.strip() or not answer.isprintable():
        raise _broken_word(method, answer, "printable text", "uuid.uuid4().hex is such")
    return answer


def _broken_word(method: str, answer: object, wanted: str, hint: str) -> ConfigError:
    given = "the clock" if method in ("now_ms", "monotonic") else "the maker of ids"
    return ConfigError(f"{given} answered {answer!r:.80} to {method}, not {wanted}", hint=hint)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


@cache
def host_id() -> str:
    """A name for this PID namespace: machine id plus, where known, the namespace's own identity."""
    machine = _read("/etc/machine-id")
    if not machine:
        import uuid  # only where a machine has no id of its own

        machine = f"node-{uuid.getnode():x}"
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = sys.platform
    return f"{machine}:{namespace}"


@cache
def boot_id() -> str:
    """A name for this boot of the machine, "" where the system offers none."""
    return _read("/proc/sys/kernel/random/boot_id") or ""


def process_start(pid: int) -> str | None:
    """The start time of a live process in the kernel's own units, "" where it cannot be told, or None when no such
    process runs.

    A zombie counts as gone: it can write nothing any more.
    """
    try:
        # As bytes: the name of a process is cut off after 15 of them, also in the middle of a letter.
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        # Some systems show the processes of others to nobody, and some have no such directory.
        return None if is_gone(pid) else ""
    except OSError:
        return ""  # no descriptor left to read it with, for one: that says nothing of the process
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def is_gone(pid: int) -> bool:
    """Whether no process has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # not ours to signal, so it is there
    return False


def this_process() -> LocalProcess:
    """The liveness identity of the calling process."""
    pid = os.getpid()
    return LocalProcess(host_id=host_id(), boot_id=boot_id(), pid=pid, process_start=process_start(pid) or "")


def is_definitely_dead(holder: LocalProcess) -> bool:
    """Whether `holder` provably runs no more: same host and boot, and its pid is gone or was reused.

    Anything unreadable or elsewhere is not provably dead and has to wait for
    the lease to expire.
    """
    if not holder.boot_id or holder.host_id != host_id() or holder.boot_id != boot_id():
        return False
    start = process_start(holder.pid)
    if start is None:
        return True
    return bool(start and holder.process_start and start != holder.process_start)


def is_write_end(descriptor: int) -> bool:
    """Whether `descriptor` is the writing end of a pipe and nothing else: then it is never readable, and a selector
    reports it only when the last reader is gone. Who has a named pipe open for both reads it, too."""
    import fcntl
    import stat

    is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    return is_pipe and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY


def loses_reader(descriptor: int, seconds: float) -> bool:
    """Whether the last reader of a pipe, whose writing end `descriptor` is, is gone within `seconds`; returns as soon
    as it is."""
    import math
    import select

    pipe = select.poll()
    pipe.register(descriptor, 0)
    return bool(pipe.poll(math.ceil(seconds * 1000)))
