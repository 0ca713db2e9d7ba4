"""What stdin contributes to a prompt (contract 08 §6.3).

Only regular files and FIFOs are read; terminals, other character devices and
sockets never are. An open pipe that stays silent ends the command within
`input.stdin_wait` with nothing sent, whether or not there is a PROMPT: neither
a hang nor a silent drop. Only an explicit `-` waits as long as it takes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from enum import StrEnum

from lash_cli.cli.invocation import current
from lash_cli.core.content import TextItem
from lash_cli.errors import UsageError

STDIN_MARK = "-"
PROMPT_LIMIT_BYTES = 32 * 1024 * 1024
_LONGEST_SECRET_BYTES = 64 * 1024
# What `poll` takes at most: 24 days.
_LONGEST_POLL_MS = 2**31 - 1
_CHUNK_BYTES = 1 << 20
_STDIN = 0


class StdinKind(StrEnum):
    """What file descriptor 0 is, as far as reading it goes."""

    FILE = "file"
    FIFO = "fifo"
    TERMINAL = "terminal"
    NEVER_READ = "never_read"
    CLOSED = "closed"


def stdin_kind() -> StdinKind:
    """What stdin is, without reading from it."""
    try:
        mode = os.fstat(_STDIN).st_mode
    except OSError:
        return StdinKind.CLOSED
    if stat.S_ISREG(mode):
        return StdinKind.FILE
    if stat.S_ISFIFO(mode):
        return StdinKind.FIFO
    if stat.S_ISCHR(mode) and os.isatty(_STDIN):
        return StdinKind.TERMINAL
    return StdinKind.NEVER_READ


def read_prompt(argument: str | None, *, stdin_is_taken: bool = False) -> tuple[TextItem, ...]:
    """The text items of a submission: the PROMPT argument, stdin, or both.

    With `stdin_is_taken` an option has read stdin, and only the argument counts.
    Raises `UsageError`: `empty_prompt`, `stdin_timeout`, `prompt_too_large`,
    `prompt_not_utf8`, or `usage` when there is neither a PROMPT nor anything
    to read.
    """
    if stdin_is_taken:
        if argument is None or argument == STDIN_MARK:
            raise UsageError("a PROMPT is needed: stdin is what an option reads", hint="give the text as an argument")
        return (TextItem(_checked_argument(argument)),)
    kind = StdinKind.CLOSED if current().no_stdin else stdin_kind()
    if argument == STDIN_MARK:
        return (TextItem(_whole_prompt_from_stdin(kind, wait_seconds=None)),)
    if argument is None:
        return (TextItem(_whole_prompt_from_stdin(kind, wait_seconds=current().settings.stdin_wait_seconds)),)
    prompt = TextItem(_checked_argument(argument))
    if kind not in (StdinKind.FILE, StdinKind.FIFO):
        return (prompt,)
    piped = _decode(_read_all(kind, current().settings.stdin_wait_seconds, has_prompt=True))
    return (prompt, TextItem(piped, label="stdin")) if piped else (prompt,)


def read_stdin_bytes(limit_bytes: int, too_large: Callable[[str, int], UsageError]) -> bytes:
    """All of stdin for an option that was given `-`; waits as long as it takes.

    Raises `UsageError` when there is nothing to read from, and `too_large(what, limit)` beyond the limit.
    """
    if current().no_stdin or stdin_kind() not in (StdinKind.FILE, StdinKind.FIFO):
        reason = "stdin is not read" if current().no_stdin else "stdin is neither a file nor a pipe"
        raise UsageError(f"an option says - but {reason}", hint="pipe it in, or name a file")
    return _read(limit_bytes, lambda: too_large("stdin is", limit_bytes))


def stdin_takers(*options: Sequence[str]) -> bool:
    """Whether an option reads stdin; raises `UsageError` when more than one wants to."""
    takers = sum(values.count(STDIN_MARK) for values in options)
    if takers > 1:
        raise UsageError("stdin can be read only once: more than one option says -")
    return takers == 1


def read_secret() -> str:
    """One secret from stdin, for `--stdin`. Raises `UsageError` when there is nothing to read or it is too long."""
    kind = stdin_kind()
    if kind not in (StdinKind.FILE, StdinKind.FIFO):
        raise UsageError(
            "--stdin needs a file or a pipe on stdin", hint="for example: lash key set NAME --stdin < FILE"
        )
    if kind is StdinKind.FIFO:
        _await_first_byte(current().settings.stdin_wait_seconds, has_prompt=True)
    longest = _LONGEST_SECRET_BYTES
    too_long = f"the secret is longer than {longest} bytes; nothing was stored"
    return _decode(_read(longest, lambda: UsageError(too_long)))


def _whole_prompt_from_stdin(kind: StdinKind, wait_seconds: float | None) -> str:
    if kind is StdinKind.TERMINAL:
        raise UsageError(
            "a PROMPT is needed",
            hint="give it as an argument, pipe it in: echo hello | lash turn S, or write it: lash turn S -e",
        )
    if kind not in (StdinKind.FILE, StdinKind.FIFO):
        reason = "stdin is not read" if current().no_stdin else "stdin is neither a file nor a pipe"
        raise UsageError(
            f"the prompt is empty: no PROMPT was given and {reason}",
            code="empty_prompt",
            hint="give it as an argument, behind the SESSION: what stands alone is taken for one",
        )
    text = _decode(_read_all(kind, wait_seconds, has_prompt=False))
    if not text.strip():
        raise UsageError("the prompt is empty", code="empty_prompt", hint="stdin held no text; nothing was sent")
    return text.removesuffix("\n")


def _checked_argument(argument: str) -> str:
    """The PROMPT argument; bytes of argv that are no UTF-8 arrive as lone surrogates and are refused."""
    if not argument.strip():
        raise UsageError("the prompt is empty", code="empty_prompt", hint="nothing was sent")
    try:
        raw = os.fsencode(argument)
    except UnicodeEncodeError:
        raw = argument.encode("utf-8", "surrogatepass")
    if len(raw) > PROMPT_LIMIT_BYTES:
        raise _prompt_too_large()
    return _decode(raw, source="PROMPT")


def _read_all(kind: StdinKind, wait_seconds: float | None, *, has_prompt: bool) -> bytes:
    if kind is not StdinKind.FILE and wait_seconds is not None:
        _await_first_byte(wait_seconds, has_prompt=has_prompt)
    return _read(PROMPT_LIMIT_BYTES, _prompt_too_large)


def _read(limit_bytes: int, too_large: Callable[[], UsageError]) -> bytes:
    chunks: list[bytes] = []
    total = 0
    while chunk := os.read(_STDIN, _CHUNK_BYTES):
        total += len(chunk)
        if total > limit_bytes:
            raise too_large()
        chunks.append(chunk)
    return b"".join(chunks)


def _await_first_byte(wait_seconds: float, *, has_prompt: bool) -> None:
    """Return once the pipe has a byte or its end; raises `stdin_timeout` after `wait_seconds`."""
    import select

    poller = select.poll()
    poller.register(_STDIN, select.POLLIN | select.POLLHUP)
    if poller.poll(min(int(wait_seconds * 1000), _LONGEST_POLL_MS)):
        return
    escape = "use --no-stdin to leave stdin alone" if has_prompt else "use - as the PROMPT to wait as long as it takes"
    raise UsageError(
        f"stdin is an open pipe that sent nothing for {wait_seconds:g} s; nothing was sent",
        code="stdin_timeout",
        hint=f"close it, {escape}, or set input.stdin_wait",
    )


def _prompt_too_large() -> UsageError:
    return UsageError(
        f"the prompt is larger than {PROMPT_LIMIT_BYTES // (1024 * 1024)} MiB; nothing was sent",
        code="prompt_too_large",
        details={"limit_bytes": PROMPT_LIMIT_BYTES},
    )


def _decode(raw: bytes, source: str = "stdin") -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{source} is not valid UTF-8 at byte {error.start}; nothing was sent",
            code="prompt_not_utf8",
            hint="convert it first, for example with iconv",
            details={"byte_offset": error.start},
        ) from error
