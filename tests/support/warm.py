"""Runs commands in processes that were forked from one that has imported `lash` already.

Starting Python and importing takes most of the time of most commands, and the
suite runs thousands. What a command does is unchanged: it is a process of its
own with its own environment, directory, streams and exit status, and it enters
by `lash_cli.__main__.main`. What is about starting itself (what is imported,
closed streams, interpreter settings) runs cold, as does everything with
LASH_TEST_COLD=1, and whatever is asked for while another command of this
process runs.

    python tests/support/warm.py FD      the parent of the forks, served over the socket FD
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

_ROOT = Path(__file__).resolve().parents[2]
_MESSAGE_BYTES = 4 * 1024 * 1024
# Settings of the interpreter are read when it starts, so a command that is given some starts cold.
_COLD_VARIABLES = ("PYTHON", "LC_", "MALLOC")
_USUAL = {"PYTHONPATH": str(_ROOT)}
_LIBRARIES = (
    "asyncio", "concurrent.futures.thread", "sqlite3", "typer", "httpx2", "jsonschema_rs", "sqlite_utils",
    "rich.console", "rich.table", "typer._click.decorators",
)  # fmt: skip
# Commands at a terminal start cold, and nothing that is installed with lash runs its tests.
_LEFT_OUT = ("lash_cli.__main__", "lash_cli.repl", "lash_cli.store.conformance")


class Warm:
    """A parent of forks, started at the first command."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def run(
        self, args: Sequence[str], env: Mapping[str, str], cwd: str, stdin: int, timeout: float
    ) -> tuple[int, bytes, bytes] | None:
        """Status, stdout and stderr of a command; None when it has to be started cold.

        `stdin` is the descriptor it reads from. Raises `subprocess.TimeoutExpired`.
        """
        request = json.dumps({"args": list(args), "env": dict(env), "cwd": cwd}).encode()
        if len(request) > _MESSAGE_BYTES // 2 or not self._lock.acquire(blocking=False):
            return None
        try:
            return self._run(request, list(args), stdin, timeout)
        finally:
            self._lock.release()

    def _run(self, request: bytes, args: list[str], stdin: int, timeout: float) -> tuple[int, bytes, bytes]:
        parent = self._parent()
        ends = [os.pipe() for _ in range(2)]
        try:
            socket.send_fds(parent, [len(request).to_bytes(4, "big")], [stdin, ends[0][1], ends[1][1]])
            parent.sendall(request)
        finally:
            for _, writing in ends:
                os.close(writing)
        pid = int.from_bytes(_exactly(parent, 4), "big")
        read: list[bytes] = [b"", b""]
        readers = [
            threading.Thread(target=_read_all, args=(read, n, end[0]), daemon=True) for n, end in enumerate(ends)
        ]
        for reader in readers:
            reader.start()
        parent.settimeout(timeout)
        try:
            status = int.from_bytes(_exactly(parent, 4), "big", signed=True)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            parent.settimeout(None)
            _exactly(parent, 4)
            raise subprocess.TimeoutExpired(args, timeout) from None
        finally:
            parent.settimeout(None)
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(args, timeout)
        return status, read[0], read[1]

    def _parent(self) -> socket.socket:
        if self._socket is None:
            ours, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, str(Path(__file__)), str(theirs.fileno())]
                environment = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", **_USUAL}
                self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], cwd="/")
            self._socket = ours
            atexit.register(self.close)
        return self._socket

    def close(self) -> None:
        """End the parent; commands that still run are not touched."""
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait()
            self._socket = self._process = None


def is_cold(env: Mapping[str, str]) -> bool:
    """Whether a command with this environment must be started from nothing."""
    if os.environ.get("LASH_TEST_COLD"):
        return True
    return any(name.startswith(_COLD_VARIABLES) and _USUAL.get(name) != value for name, value in env.items())


def _read_all(into: list[bytes], place: int, descriptor: int) -> None:
    with os.fdopen(descriptor, "rb") as stream:
        into[place] = stream.read()


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = source.recv(count - len(data))
        if not piece:
            raise EOFError("the other side is gone")
        data += piece
    return data


def _serve(channel: socket.socket) -> None:
    _preload()
    while True:
        try:
            header, descriptors, _, _ = socket.recv_fds(channel, 4, 3)
            if not header:
                return
            request = json.loads(_exactly(channel, int.from_bytes(header, "big")))
        except (EOFError, ConnectionError):
            return
        pid = os.fork()
        if pid == 0:
            channel.close()
            _become(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        channel.sendall(pid.to_bytes(4, "big"))
        _, status = os.waitpid(pid, 0)
        channel.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))


def _preload() -> None:
    """Import everything that a command may, so that no list has to follow what commands come to need."""
    import pkgutil

    import lash_cli

    for name in _LIBRARIES:
        __import__(name)
    for module in pkgutil.walk_packages(lash_cli.__path__, "lash_cli."):
        if not module.name.startswith(_LEFT_OUT):
            __import__(module.name)
    gc.collect()
    # What is here stays: no command's collector has to look at it, and no page of it is copied for that.
    gc.freeze()


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Be the command, and end with its status."""
    import random

    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
    for descriptor in descriptors:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    random.seed()
    sys.stdin, sys.stdout, sys.stderr = _streams()
    sys.argv = ["lash", *request["args"]]
    status = 1
    try:
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
        io.TextIOWrapper(binary(1, "wb"), encoding="utf-8", errors="surrogateescape"),
        io.TextIOWrapper(binary(2, "wb"), encoding="utf-8", errors="backslashreplace", line_buffering=True),
    )


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
