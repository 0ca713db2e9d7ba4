"""Runs commands in processes that were forked from one that has imported `lash` already.

Starting Python and importing takes most of the time of most commands, and the
suite runs thousands. What a command does is unchanged: it is a process of its
own with its own environment, directory, streams and exit status, and it enters
by `lash_cli.__main__.main`. What is about starting itself (what is imported,
closed streams, interpreter settings) runs cold, as does everything with
LASH_TEST_COLD=1.

    python tests/support/warm.py FD DOOR     the parent of the forks

The parent is asked over the socket FD, and by whoever connects to the listening
socket DOOR (`tests/support/warm_command.py`).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

_ROOT = Path(__file__).resolve().parents[2]
_STOPPED = 1 << 16  # told instead of a status
_MESSAGE_BYTES = 4 * 1024 * 1024
# Settings of the interpreter are read when it starts, so a command that is given some starts cold.
_COLD_VARIABLES = ("PYTHON", "LC_", "MALLOC")
_USUAL = {"PYTHONPATH": str(_ROOT)}
_LIBRARIES = (
    "asyncio", "concurrent.futures.thread", "sqlite3", "tomllib", "typer", "httpx2", "httpcore2",
    "anyio._backends._asyncio", "jsonschema_rs", "sqlite_utils", "rich.console", "rich.table", "rich.tree",
    "rich.live", "rich.markdown", "typer._click.decorators",
)  # fmt: skip
# Nothing that is installed with lash runs its tests.
_LEFT_OUT = ("lash_cli.__main__", "lash_cli.store.conformance")


class WarmProcess:
    """A command under way, to be handled as one of `subprocess.Popen` is."""

    def __init__(self, args: Sequence[str], told: int, streams: Sequence[int | None]) -> None:
        """`told` is where the parent writes the pid and later the status; `streams` are our ends of 0, 1 and 2."""
        self.args = list(args)
        self.returncode: int | None = None
        self._stops = 0
        self._told = told
        self.stdin, self.stdout, self.stderr = (
            None if end is None else os.fdopen(end, "rb" if number else "wb") for number, end in enumerate(streams)
        )
        self.pid = int.from_bytes(_read_exactly(told, 4), "big")

    def poll(self) -> int | None:
        """The status when the command has ended, negative for a signal; None while it runs."""
        return self._settled(0)

    def wait(self, timeout: float | None = None) -> int:
        """The status, once the command ends. Raises `subprocess.TimeoutExpired`."""
        status = self._settled(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Everything it says from here on, at its end; `input` is what it reads. Raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        read: list[bytes] = [b"", b""]
        workers = [threading.Thread(target=self._feed, args=(input,), daemon=True)]
        for place, stream in enumerate((self.stdout, self.stderr)):
            if stream is not None and not stream.closed:
                workers.append(threading.Thread(target=_read_all, args=(read, place, stream), daemon=True))
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return read[0], read[1]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            # It may end in between: then nobody is there any more.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait_stopped(self, timeout: float) -> None:
        """Until it was stopped once more. Raises `subprocess.TimeoutExpired` when it is not, be it that it ended."""
        deadline = time.monotonic() + timeout
        while not self._stops:
            if not self._hear(max(0.0, deadline - time.monotonic())):
                raise subprocess.TimeoutExpired(self.args, timeout)
        self._stops -= 1

    def __enter__(self) -> WarmProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipes and wait for the end."""
        for stream in (self.stdout, self.stderr, self.stdin):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.wait()

    def _settled(self, timeout: float | None) -> int | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            if not self._hear(None if deadline is None else max(0.0, deadline - time.monotonic())):
                return None
        return self.returncode

    def _hear(self, timeout: float | None) -> bool:
        """Take in the next that the parent tells of it; whether there was something."""
        if self.returncode is not None or not select.select([self._told], [], [], timeout)[0]:
            return False
        told = int.from_bytes(_read_exactly(self._told, 4), "big", signed=True)
        if told == _STOPPED:
            self._stops += 1
        else:
            self.returncode = told
            os.close(self._told)
        return True

    def _feed(self, data: bytes | None) -> None:
        # Whoever reads may go away before the end.
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError), self.stdin as sink:
                sink.write(data or b"")


class Warm:
    """A parent of forks, started at the first command."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._place: str | None = None

    def door(self) -> str:
        """Where `tests/support/warm_command.py` finds the parent."""
        with self._lock:
            self._parent()
        assert self._place is not None
        return f"{self._place}/door"

    def start(
        self,
        args: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        streams: Sequence[Any],
        *,
        start_new_session: bool = False,
        first: str = "",
    ) -> WarmProcess | None:
        """Start a command; None when it has to be started cold.

        `streams` are its stdin, stdout and stderr: descriptors, files, or what
        `subprocess` has for a pipe, for /dev/null and for the same as stdout.
        `first` is Python that it does before it begins: every module is loaded
        then, so what it replaces has to be replaced in whatever module took it.
        """
        asked = {"args": list(args), "env": dict(env), "cwd": cwd, "umask": _umask(), "first": first}
        request = json.dumps(asked | {"start_new_session": start_new_session}).encode()
        if len(request) > _MESSAGE_BYTES // 2:
            return None
        ours: list[int | None] = []
        with contextlib.ExitStack() as sent:
            theirs = [self._end(number, stream, ours, sent) for number, stream in enumerate(streams)]
            theirs = [theirs[1] if end == subprocess.STDOUT else end for end in theirs]
            told, telling = os.pipe()
            sent.callback(os.close, telling)
            with self._lock:
                parent = self._parent()
                socket.send_fds(parent, [b"+"], [*theirs, telling])
                parent.sendall(len(request).to_bytes(4, "big") + request)
        return WarmProcess(args, told, ours)

    @staticmethod
    def _end(number: int, stream: Any, ours: list[int | None], sent: contextlib.ExitStack) -> int:
        """The command's end of a stream; our end is added to `ours`, and what is only for it closed by `sent`."""
        end: int | None = None
        if stream == subprocess.PIPE:
            reading, writing = os.pipe()
            end, theirs = (writing, reading) if number == 0 else (reading, writing)
            sent.callback(os.close, theirs)
        elif stream == subprocess.DEVNULL:
            theirs = os.open(os.devnull, os.O_RDWR)
            sent.callback(os.close, theirs)
        else:
            theirs = stream if isinstance(stream, int) else stream.fileno()
        ours.append(end)
        return theirs

    def _parent(self) -> socket.socket:
        if self._socket is None:
            self._place = tempfile.mkdtemp(prefix="lash-warm-")
            ours, theirs = socket.socketpair()
            with theirs, socket.socket(socket.AF_UNIX) as door:
                door.bind(f"{self._place}/door")
                door.listen()
                sockets = (theirs.fileno(), door.fileno())
                command = [sys.executable, str(Path(__file__)), *map(str, sockets)]
                environment = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", **_USUAL}
                self._process = subprocess.Popen(command, env=environment, pass_fds=sockets, cwd="/")
            self._socket = ours
            atexit.register(self.close)
        return self._socket

    def close(self) -> None:
        """End the parent; commands that still run are not touched."""
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait()
            self._socket = self._process = None
            shutil.rmtree(self._place or "")


def is_cold(env: Mapping[str, str]) -> bool:
    """Whether a command with this environment must be started from nothing."""
    if os.environ.get("LASH_TEST_COLD"):
        return True
    return any(name.startswith(_COLD_VARIABLES) and _USUAL.get(name) != value for name, value in env.items())


def _umask() -> int:
    """What a command started here inherits; it cannot be read without being set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read_all(into: list[bytes], place: int, stream: BinaryIO) -> None:
    with stream:
        into[place] = stream.read()


def _read_exactly(descriptor: int, count: int) -> bytes:
    data = os.read(descriptor, count)
    # So few bytes are written to a pipe at once or not at all.
    if len(data) < count:
        raise EOFError("the parent of the commands is gone")
    return data


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            raise EOFError("the other side is gone")
        data += piece
    return data


def _serve(channel: socket.socket, door: socket.socket) -> None:
    """Start what is asked for, and tell its pid and what becomes of it; until the other end of `channel` is closed."""
    _preload()
    changed, changes = socket.socketpair()
    for one in (changed, changes):
        one.setblocking(False)
    running: dict[int, int] = {}
    # Of those, who was asked for through the door, by somebody who stands for it and may be killed.
    represented: set[int] = set()
    signal.set_wakeup_fd(changes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)

    def start(source: socket.socket, streams: list[int], telling: int) -> int:
        request = json.loads(_exactly(source, int.from_bytes(_exactly(source, 4), "big")))
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for inherited in (channel, door, changed, changes):
                inherited.close()
            for other in (telling, *running.values()):
                os.close(other)
            _become(request, streams)
        for descriptor in streams:
            os.close(descriptor)
        running[pid] = telling
        _tell(telling, pid)
        return pid

    while True:
        ready = select.select([channel, door, changed, *(running[pid] for pid in represented)], [], [])[0]
        if changed in ready:
            changed.recv(4096)
            _tell_changes(running)
            represented &= running.keys()
        for pid in [pid for pid in represented if running[pid] in ready]:
            # Nothing is ever said there but that its other end is gone; and whoever killed that takes this for dead.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(running.pop(pid))
            represented.remove(pid)
        if door in ready:
            asking, _ = door.accept()
            begun, streams, _, _ = socket.recv_fds(asking, 1, 3)
            if begun:
                represented.add(start(asking, streams, os.dup(asking.fileno())))
            asking.close()
        if channel in ready:
            begun, descriptors, _, _ = socket.recv_fds(channel, 1, 4)
            if not begun:
                return
            start(channel, descriptors[:3], descriptors[3])


def _tell_changes(running: dict[int, int]) -> None:
    for pid in list(running):
        changed, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if changed and os.WIFSTOPPED(status):
            _tell(running[pid], _STOPPED)
        elif changed:
            telling = running.pop(pid)
            _tell(telling, os.waitstatus_to_exitcode(status))
            os.close(telling)


def _tell(telling: int, number: int) -> None:
    # Whoever started the command may be gone.
    with contextlib.suppress(BrokenPipeError):
        os.write(telling, number.to_bytes(4, "big", signed=True))


def _preload() -> None:
    """Import everything that a command may, so that no list has to follow what commands come to need."""
    import pkgutil

    import lash_cli

    for name in _LIBRARIES:
        __import__(name)
    for module in pkgutil.walk_packages(lash_cli.__path__, "lash_cli."):
        if not module.name.startswith(_LEFT_OUT):
            __import__(module.name)
    _learn()
    gc.collect()
    # What is here stays: no command's collector has to look at it, and no page of it is copied for that.
    gc.freeze()


def _learn() -> None:
    """Do once what every command does alike before it begins, and what depends on nothing but the source: learn how
    records are read, and build the parser of each command from its signature."""
    import functools

    from lash_cli.cli import table
    from lash_cli.core.codec import Record, decoder

    kinds = [Record]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        # A record whose fields have types that only a type checker sees is never read.
        with contextlib.suppress(NameError):
            decoder(kind)
    table.load = functools.cache(table.load)
    for entry in (*table.COMMANDS, *(verb for group in table.COMMANDS for verb in group.verbs)):
        table.load(entry)


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Be the command, and end with its status."""
    import random

    if request.get("start_new_session"):
        os.setsid()
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
    for descriptor in descriptors:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if "umask" in request:
        os.umask(request["umask"])
    random.seed()
    sys.stdin, sys.stdout, sys.stderr = _streams()
    sys.argv = ["lash", *request["args"]]
    status = 1
    try:
        exec(request.get("first", ""), {})
        from lash_cli.__main__ import main

        status = main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001 - told as an interpreter tells it, and the status is 1
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status & 0xFF)


def _streams() -> tuple[Any, Any, Any]:
    """Streams over 0, 1 and 2 like those an interpreter makes when it starts in the C.UTF-8 locale."""

    def binary(descriptor: int, mode: str) -> BinaryIO:
        return open(descriptor, mode, closefd=False)  # type: ignore[return-value]

    import io

    return (
        io.TextIOWrapper(binary(0, "rb"), encoding="utf-8", errors="surrogateescape"),
        io.TextIOWrapper(binary(1, "wb"), encoding="utf-8", errors="surrogateescape", line_buffering=os.isatty(1)),
        io.TextIOWrapper(binary(2, "wb"), encoding="utf-8", errors="backslashreplace", line_buffering=True),
    )


if __name__ == "__main__":
    _serve(*(socket.socket(fileno=int(number)) for number in sys.argv[1:]))
