"""Run the real `lash` in a process of its own, with a home of its own.

The environment is built from nothing: no key, no configuration and no terminal
setting of the machine that runs the tests can reach the command.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any, cast

from support.processes import end_with_test, start_process
from support.warm import Warm, is_cold

# Where no certificate is: those of the machine take longer to read than a turn.
NO_CERTIFICATES = {"SSL_CERT_DIR": "/nowhere"}
COMMAND = (sys.executable, "-m", "lash_cli")
_MAIN = "import sys\nfrom lash_cli.__main__ import main\nsys.argv[0] = 'lash'\nsys.exit(main())"
_ROOT = Path(__file__).resolve().parents[2]
_WARM = Warm()


@dataclass(frozen=True)
class Result:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        """The error object: the last line of stderr."""
        return json.loads(self.err.splitlines()[-1])


def environment(home: Path | str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a command sees: a home, a path, nobody to trust on the network, and what a test adds."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    own_home = str(Path(home).parent / "user")
    return {
        "PATH": path,
        "HOME": own_home,
        "LASH_HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_ROOT),
        **NO_CERTIFICATES,
        **(extra or {}),
    }


def run_lash(
    args: Sequence[str],
    *,
    home: Path | str,
    input: str | bytes | None = None,
    stdin: Any = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    timeout: float = 60,
) -> Result:
    """Run one command to its end. Without `input` or `stdin`, stdin is /dev/null."""
    data = input.encode() if isinstance(input, str) else input
    with contextlib.ExitStack() as open_until_done:
        if data is not None:
            # A pipe holds what fits into it without a reader; more comes from a process that feeds it.
            stdin = open_until_done.enter_context(_piped(data))
        elif stdin is None or stdin == subprocess.DEVNULL:
            stdin = open_until_done.enter_context(open(os.devnull, "rb"))
        seen, directory = environment(home, env), str(cwd or Path(home).parent)
        warm = None if is_cold(seen) else _WARM.start(args, seen, directory, (stdin, PIPE, PIPE))
        if warm is not None:
            with warm:
                try:
                    out, err = warm.communicate(timeout=timeout)
                except subprocess.TimeoutExpired:
                    warm.kill()
                    raise
            return Result(warm.wait(), out.decode(), err.decode())
        cold = subprocess.run(
            [*COMMAND, *args],
            env=seen,
            cwd=directory,
            stdin=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    return Result(cold.returncode, cold.stdout.decode(), cold.stderr.decode())


def begin(module: str, *arguments: str) -> str:
    """Python for `first` of `spawn_lash`: it calls `begin` of a module of this directory, of `crashing` or `bounds`."""
    place = str(Path(__file__).parent)
    return (
        f"import sys\nsys.path.insert(0, {place!r})\nimport {module}\nsys.path.remove({place!r})\n"
        f"{module}.begin(*{arguments!r})"
    )


def program(path: Path) -> None:
    """Make the program `lash` for a script: it does what the installed one does, warm where commands may be."""
    if is_cold({}):
        command = f'"{sys.executable}" -m lash_cli'
    else:
        command = f'"{sys.executable}" -I -S "{_ROOT}/tests/support/warm_command.py" "{_WARM.door()}"'
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o700)


@contextlib.contextmanager
def _piped(data: bytes) -> Iterator[int]:
    """The reading end of a pipe that holds `data` and then ends."""
    reading, writing = os.pipe()

    def feed() -> None:
        # Whoever reads may go away before the end.
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as sink:
            sink.write(data)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        yield reading
    finally:
        os.close(reading)
        feeder.join()


def spawn_lash(
    args: Sequence[str],
    *,
    home: Path | str,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    stdin: Any = subprocess.DEVNULL,
    first: str = "",
    **options: Any,
) -> subprocess.Popen[bytes]:
    """Start one command; stdout and stderr are pipes unless `options` says otherwise.

    With no other options than those and `start_new_session` it starts warm, and
    what is returned does what tests need of a `Popen`. `first` is Python that
    it does before it begins, such as putting something else in the place of a
    function: see `Warm.start`.
    """
    streams = {"stdout": PIPE, "stderr": PIPE}
    seen, directory = environment(home, env), cwd or Path(home).parent
    if options.keys() <= {*streams, "start_new_session"} and not is_cold(seen):
        out, err = ({**streams, **options}[name] for name in streams)
        session = options.get("start_new_session", False)
        warm = _WARM.start(args, seen, str(directory), (stdin, out, err), start_new_session=session, first=first)
        if warm is not None:
            return end_with_test(cast("subprocess.Popen[bytes]", warm))
    pipes: dict[str, Any] = {**streams, **options}
    command = [sys.executable, "-c", f"{first}\n{_MAIN}"] if first else COMMAND
    return start_process([*command, *args], env=seen, cwd=directory, stdin=stdin, **pipes)


def started_turn(home: Path, session: str, prompt: str, *options: str) -> subprocess.Popen[bytes]:
    """A turn that is running: its JSONL stream has shown `model_request_started`."""
    process = spawn_lash(["turn", session, prompt, "-o", "jsonl", *options], home=home)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["type"] == "model_request_started":
            return process
    raise AssertionError(process.communicate()[1].decode())
