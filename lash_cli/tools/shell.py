"""exec_command: run a shell command, bounded in time, output and lifetime (contract 05 §6).

A non-zero exit is data for the model; running out of time is a failure with
the output so far. The environment is an allow-list, so keys and the settings
of lash are not handed to a command. What the command leaves running in the
background ends with the call. The `FilePolicy` judges where a command starts,
not what it then opens: that is what approval of class execute is for.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import shutil
import signal
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from lash_cli.core.protocols import Clock, ToolContext
from lash_cli.core.tools import FailureClass, NeverRetry, ToolCallOutput, cancelled, success
from lash_cli.tools.faults import ToolFault, invalid
from lash_cli.tools.function import FunctionTool, tool
from lash_cli.tools.policy import FilePolicy, status_of
from lash_cli.tools.process_group import ProcessGroups
from lash_cli.tools.spilling import spill

BUFFER_BYTES = 512_000
SHOWN_BYTES = 50 * 1024
BYTES_PER_TOKEN = 4
# What is shown of a running command is stored for whoever watches, so that a flood is shown in part.
SHOWN_AT_ONCE_BYTES = 512_000
SHOWN_BYTES_PER_SECOND = 64 * 1024
DEFAULT_TIMEOUT_MS = 600_000

# By their whole names: what looks like one of a locale may be a secret that somebody sends along with ssh.
INHERITED_VARIABLES = (
    *("PATH", "LD_LIBRARY_PATH", "HOME", "LANG", "LANGUAGE", "TERM", "TMPDIR", "TZ", "USER", "LOGNAME", "SHELL"),
    *("LC_ALL", "LC_ADDRESS", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION", "LC_MEASUREMENT", "LC_MESSAGES"),
    *("LC_MONETARY", "LC_NAME", "LC_NUMERIC", "LC_PAPER", "LC_TELEPHONE", "LC_TIME"),
)
POSIX_SHELLS = ("bash", "zsh", "sh", "dash", "ksh")

# A whole sequence or its first character alone: what is left of two must not make a third.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])?")

# What follows the first byte of a character; at most three do.
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))


class ExecArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of exec_command."""

    cmd: Annotated[str, msgspec.Meta(min_length=1, description="The command line, run by a shell.")]
    workdir: Annotated[
        str | None, msgspec.Meta(description="Directory to run in; default: the working directory of the session.")
    ] = None
    shell: Annotated[
        str | None, msgspec.Meta(description="Shell to use, by name or path; default: the user's POSIX shell.")
    ] = None
    login: Annotated[bool, msgspec.Meta(description="Run it as a login shell.")] = False
    max_output_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="Show at most about this many tokens of output, from its end."),
    ] = None
    timeout_ms: Annotated[
        int, msgspec.Meta(ge=1, le=86_400_000, description="Stop the command after this many milliseconds.")
    ] = DEFAULT_TIMEOUT_MS


def child_environment(inherited: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The variables a command gets: those of the allow-list, and `own`."""
    allowed = {name: inherited[name] for name in INHERITED_VARIABLES if name in inherited}
    return {"PATH": os.defpath, **allowed, **own}


def strip_ansi(text: str) -> str:
    """`text` without terminal escape sequences and with CRLF as LF."""
    return _ANSI.sub("", text).replace("\r\n", "\n")


def default_shell(inherited: Mapping[str, str]) -> str:
    """The user's shell if it speaks POSIX, else /bin/sh."""
    shell = inherited.get("SHELL", "")
    return shell if os.path.basename(shell) in POSIX_SHELLS and os.access(shell, os.X_OK) else "/bin/sh"


class OutputBuffer:
    """The last `BUFFER_BYTES` of output, fed in chunks."""

    def __init__(self, limit: int = BUFFER_BYTES) -> None:
        self._limit = limit
        self._held = bytearray()
        self.dropped = 0

    def feed(self, data: bytes) -> None:
        """Append, dropping from the front beyond the limit."""
        self._held += data
        excess = max(0, len(self._held) - self._limit)
        del self._held[:excess]
        self.dropped += excess

    def text(self) -> str:
        """The held output as text without escapes, from the first whole character on."""
        held = self._held
        if self.dropped:
            held = held[:3].lstrip(_CONTINUATION_BYTES) + held[3:]
        return strip_ansi(held.decode("utf-8", "replace"))


class OutputPreview:
    """Shows output while it comes: all of it, until more comes than anybody could read. What is left out is told in
    its place, and is in the result like everything else."""

    def __init__(self, show: Callable[[str], None], clock: Clock) -> None:
        self._show = show
        self._clock = clock
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._allowance: float = SHOWN_AT_ONCE_BYTES
        self._looked_at = clock.monotonic()
        self._left_out = 0

    def feed(self, data: bytes) -> None:
        """Show `data`, or nothing of it."""
        now = self._clock.monotonic()
        earned = (now - self._looked_at) * SHOWN_BYTES_PER_SECOND
        self._allowance = min(self._allowance + earned, SHOWN_AT_ONCE_BYTES)
        self._looked_at = now
        if len(data) > self._allowance:
            self._left_out += len(data)
            return
        self._allowance -= len(data)
        if self._left_out:
            self._decoder.reset()
            self._show(f"\n...{self._left_out} bytes not shown...\n")
            self._left_out = 0
        self._show(strip_ansi(self._decoder.decode(data)))


class ShellTools:
    """Builds exec_command over one set of process groups."""

    def __init__(self, policy: FilePolicy, cwd: Path, spill_dir: Path, groups: ProcessGroups, clock: Clock) -> None:
        self._policy = policy
        self._cwd = cwd
        self._spill_dir = spill_dir
        self._groups = groups
        self._clock = clock

    def tools(self) -> tuple[FunctionTool, ...]:
        """exec_command."""
        return (
            tool(
                name="exec_command",
                tool_id="builtin.exec_command",
                description=(
                    "Run a shell command and return its exit code and output (stdout and stderr together). There is"
                    " no terminal and no input. Processes left in the background end with the call."
                ),
                retry=NeverRetry(),
                approval="execute",
            )(self.exec_command),
        )

    async def exec_command(self, arguments: ExecArguments, context: ToolContext) -> ToolCallOutput:
        """Run one command to its end, its time limit or its cancellation."""
        if context.cancel.is_set:
            return cancelled()
        buffer = OutputBuffer()
        preview = OutputPreview(context.progress, self._clock)

        def receive(data: bytes) -> None:
            buffer.feed(data)
            preview.feed(data)

        process = await self._groups.start(
            (self._shell(arguments.shell), *(("-l",) if arguments.login else ()), "-c", arguments.cmd),
            sink=receive,
            environment=child_environment(os.environ, context.environment),
            directory=self._directory(arguments.workdir),
        )
        handed_over = False
        try:
            ending = await process.first_of(context.cancel, arguments.timeout_ms / 1000)
            if ending == "cancelled":
                # The answer must not wait for the polite part of the killing.
                self._groups.end_later(process)
                handed_over = True
                return cancelled()
            if ending == "timed_out":
                await process.terminate()
                raise await self._timed_out(arguments, buffer, is_stopped=process.returncode is not None)
            await process.finish()
            return success(await self._result(arguments, buffer, process.returncode))
        finally:
            if not handed_over:
                process.kill()

    def _shell(self, wanted: str | None) -> str:
        """The shell of a name or a path, which is one of the session and not of this process, or of `workdir`."""
        if wanted is None:
            return default_shell(os.environ)
        found = shutil.which(str(self._cwd / wanted) if "/" in wanted else wanted)
        if found is None:
            raise invalid("shell_missing", f"there is no shell {wanted}")
        return found

    def _directory(self, workdir: str | None) -> Path:
        directory = self._policy.resolve_read(workdir or ".", self._cwd)
        status = status_of(directory)
        if status is None or not stat.S_ISDIR(status.st_mode):
            raise invalid("workdir_missing", f"{workdir or self._cwd} is not a directory")
        return directory

    async def _result(self, arguments: ExecArguments, buffer: OutputBuffer, returncode: int | None) -> dict[str, Any]:
        result = await self._shown(arguments, buffer)
        if returncode is not None and returncode < 0:
            return {"exit_code": 128 - returncode, "signal": _signal_name(-returncode), **result}
        return {"exit_code": returncode, **result}

    async def _timed_out(self, arguments: ExecArguments, buffer: OutputBuffer, *, is_stopped: bool) -> ToolFault:
        shown = await self._shown(arguments, buffer)
        # Of a failure the model reads the message alone.
        path = shown.get("full_output_path")
        kept = f" ({'more' if buffer.dropped else 'all'} of it in {path})" if path is not None else ""
        after = f"after {arguments.timeout_ms} ms"
        ended = f"was stopped {after}" if is_stopped else f"could not be stopped {after} and runs on"
        return ToolFault(
            FailureClass.TIMEOUT,
            "shell_timeout",
            f"the command {ended}; output so far{kept}:\n{shown['output'] or '(none)'}",
            raw={"status": "timed_out", "timeout_ms": arguments.timeout_ms, **shown},
        )

    async def _shown(self, arguments: ExecArguments, buffer: OutputBuffer) -> dict[str, Any]:
        """The end of the output; when that is not all of it, where the rest is, as far as it was kept."""
        text = buffer.text()
        limit = min(SHOWN_BYTES, (arguments.max_output_tokens or SHOWN_BYTES) * BYTES_PER_TOKEN)
        encoded = text.encode()
        if len(encoded) <= limit and not buffer.dropped:
            return {"output": text}
        tail = encoded[-limit:].decode("utf-8", "ignore")
        omitted = len(encoded) - min(limit, len(encoded)) + buffer.dropped
        result: dict[str, Any] = {"output": f"...{omitted} bytes truncated...\n{tail}", "omitted_bytes": omitted}
        if buffer.dropped:
            result["lost_bytes"] = buffer.dropped
            encoded = f"...{buffer.dropped} bytes not kept...\n".encode() + encoded
        if len(encoded) > SHOWN_BYTES:
            # The command ran: what it did and how it ended is told, whatever becomes of the rest of its output.
            try:
                result["full_output_path"] = str(await asyncio.to_thread(spill, self._spill_dir, encoded))
            except ToolFault as fault:
                result["full_output_lost"] = fault.message
        return result


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
