"""glob and grep: find files by name and lines by pattern (contract 05 §6).

Hidden names, `node_modules` and what .gitignore excludes are skipped, denied
directories too; symbolic links are listed but never followed. Both are bounded
in entries walked, time and results shown, and say so when a bound was met or
something could not be read. Every directory is opened without following a link,
so one that is exchanged for a link meanwhile is not entered.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from lash_cli.core.codec import decode, decode_any
from lash_cli.core.protocols import CancelSignal, Clock, ToolContext
from lash_cli.core.tools import FailureClass, SafeRetry, ToolCallOutput, cancelled, success
from lash_cli.tools.faults import ToolFault, invalid, os_fault
from lash_cli.tools.function import FunctionTool, tool
from lash_cli.tools.patterns import IgnoreFile, compile_glob, is_ignored, parse_ignore_file
from lash_cli.tools.policy import MAX_PATH_CHARS, FilePolicy, printable, shown_name, status_of
from lash_cli.tools.process_group import ProcessGroups
from lash_cli.tools.workers import run_worker

WALKED_ENTRIES = 200_000
WALK_SECONDS = 30.0
DEFAULT_LIMIT = 100
GREP_LIMIT = 1000
GREP_FILE_BYTES = 5 * 1024 * 1024
GREP_LINE_CHARS = 500
GREP_SECONDS = 30.0
GREP_MEMORY_BYTES = 1024**3
# A larger one is meant to take up time.
IGNORE_FILE_BYTES = 64 * 1024
SKIPPED_DIRECTORIES = frozenset({"node_modules"})
SEARCH_RETRY = SafeRetry(max_attempts=2, base_delay_ms=25, max_delay_ms=100)

_INCOMPLETE = f"stopped after {WALKED_ENTRIES} entries or {WALK_SECONDS:.0f} s; search a smaller directory"
_WORKER = Path(__file__).with_name("grep_worker.py")


class GlobArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of glob."""

    pattern: Annotated[
        str, msgspec.Meta(min_length=1, description="Glob relative to path; **/ spans directories, as in src/**/*.py.")
    ]
    path: Annotated[str, msgspec.Meta(min_length=1, description="Directory to search.")] = "."
    limit: Annotated[
        int | Literal["none"] | None,
        msgspec.Meta(description='Most paths to return; null or "none" for all.'),
    ] = DEFAULT_LIMIT


class GrepArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of grep."""

    pattern: Annotated[
        str,
        msgspec.Meta(min_length=1, description="Python regular expression, searched line by line; (?i) ignores case."),
    ]
    path: Annotated[str, msgspec.Meta(min_length=1, description="Directory or file to search.")] = "."
    glob: Annotated[
        str | None,
        msgspec.Meta(description="Search only files matching this glob; without a slash it is matched against names."),
    ] = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=GREP_LIMIT, description="Most lines to return.")] = DEFAULT_LIMIT


class Walk:
    """One bounded walk below a directory; `is_complete` is False once a bound or a cancellation cut it short,
    `unreadable` counts the directories that could not be looked into."""

    def __init__(
        self, policy: FilePolicy, base: Path, cancel: CancelSignal, clock: Clock, limit: int = WALKED_ENTRIES
    ) -> None:
        self._policy = policy
        self._base = base
        self._cancel = cancel
        self._clock = clock
        self._until = clock.monotonic() + WALK_SECONDS
        self._left = limit
        self.is_complete = True
        self.unreadable = 0

    def files(self) -> Iterator[str]:
        """The path below the base, with `/`, of every file and link there that is neither hidden nor ignored, in no
        particular order."""
        root = self._repository_root()
        prefix = "" if root == self._base else f"{self._base.relative_to(root).as_posix()}/"
        ignores = self._ignores_above(root)
        pending: list[tuple[str, tuple[IgnoreFile, ...]]] = [("", ignores)]
        while pending and self.is_complete:
            relative, inherited = pending.pop()
            directory = self._base / relative
            if len(str(directory)) > MAX_PATH_CHARS:  # no tool can be told to go there
                self.unreadable += 1
                continue
            if not self._policy.permits_read(directory, is_below_permitted=bool(relative)):
                continue
            descriptor = self._opened(directory)
            if descriptor is None:
                continue
            try:
                own = _ignore_file(descriptor, prefix + relative)
                rules = inherited if own is None else (*inherited, own)
                for entry in self._entries(descriptor):
                    is_directory = entry.is_dir(follow_symlinks=False)
                    path = relative + entry.name
                    if is_ignored(prefix + path, is_directory, rules):
                        continue
                    if is_directory:
                        pending.append((f"{path}/", rules))
                    else:
                        yield path
            except OSError as error:
                self._missed(directory, os_fault(error, "search", directory))
            finally:
                os.close(descriptor)

    def _entries(self, descriptor: int) -> Iterator[os.DirEntry[str]]:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                self._left -= 1
                if self._is_over():
                    return
                if not entry.name.startswith(".") and entry.name not in SKIPPED_DIRECTORIES:
                    yield entry

    def _is_over(self) -> bool:
        """Whether the walk has to end here, and so is not complete."""
        if self._left < 0 or self._cancel.is_set or self._clock.monotonic() > self._until:
            self.is_complete = False
        return not self.is_complete

    def _opened(self, directory: Path) -> int | None:
        """A descriptor to look through a directory with, None when it cannot be looked through."""
        try:
            return self._policy.open_file(directory)
        except ToolFault as fault:
            self._missed(directory, fault)
            return None

    def _missed(self, directory: Path, fault: ToolFault) -> None:
        """Count a directory that cannot be looked into, unless it vanished; the one that was asked for is a failure."""
        if directory == self._base:
            raise fault
        self.unreadable += fault.code != "not_found"

    def _repository_root(self) -> Path:
        for directory in (self._base, *self._base.parents):
            if os.path.exists(directory / ".git"):
                return directory
        return self._base

    def _ignores_above(self, root: Path) -> tuple[IgnoreFile, ...]:
        """The ignore files from the repository root down to the parent of the base."""
        found = []
        for relative in reversed(self._base.relative_to(root).parents):
            directory = root / relative
            base = "" if directory == root else f"{directory.relative_to(root).as_posix()}/"
            if self._is_over() or not self._policy.permits_read(directory):
                continue
            try:
                descriptor = self._policy.open_file(directory)
            except ToolFault:
                continue  # what cannot be read excludes nothing
            try:
                file = _ignore_file(descriptor, base)
            finally:
                os.close(descriptor)
            if file is not None:
                found.append(file)
        return tuple(found)


def _ignore_file(directory: int, base: str) -> IgnoreFile | None:
    """The rules of the .gitignore in an open directory, None when there is none to be read."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(".gitignore", flags, dir_fd=directory)
    except OSError:
        return None
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        data = os.read(descriptor, IGNORE_FILE_BYTES) if is_file else b""
    finally:
        os.close(descriptor)
    return parse_ignore_file(data.decode("utf-8", "replace"), base)


class SearchTools:
    """Builds glob and grep over one policy."""

    def __init__(self, policy: FilePolicy, cwd: Path, groups: ProcessGroups, clock: Clock) -> None:
        self._policy = policy
        self._cwd = cwd
        self._groups = groups
        self._clock = clock

    def tools(self) -> tuple[FunctionTool, ...]:
        """glob and grep."""
        return (
            tool(
                name="glob",
                tool_id="builtin.glob",
                description=(
                    "List files whose path matches a glob, sorted. Hidden files, node_modules and what .gitignore"
                    " excludes are left out."
                ),
                retry=SEARCH_RETRY,
                approval="read",
            )(self.glob),
            tool(
                name="grep",
                tool_id="builtin.grep",
                description=(
                    "Search file contents for a regular expression; returns path:line: text. Hidden, ignored, binary"
                    " and very large files are left out."
                ),
                retry=SEARCH_RETRY,
                approval="read",
            )(self.grep),
        )

    async def glob(self, arguments: GlobArguments, context: ToolContext) -> ToolCallOutput:
        """Paths below a directory that match, relative to the directory."""
        limit = None if arguments.limit in (None, "none") else arguments.limit
        if isinstance(limit, int) and limit < 1:
            raise invalid("invalid_limit", "limit must be at least 1")
        base = self._directory(arguments.path)
        walk = Walk(self._policy, base, context.cancel, self._clock)
        paths = await asyncio.to_thread(_found, walk, arguments.pattern)
        if context.cancel.is_set:
            return cancelled()
        shown = paths if limit is None else paths[: int(limit)]
        result: dict[str, Any] = {"paths": [printable(path) for path in shown]}
        if len(shown) < len(paths):
            result["truncated"] = {"shown": len(shown), "total": len(paths), "omitted": len(paths) - len(shown)}
        if walk.unreadable:
            result["not_searched"] = _counted(walk.unreadable, "directory", "directories") + " that cannot be read"
        if not walk.is_complete:
            result["incomplete"] = _INCOMPLETE
        return success(result)

    async def grep(self, arguments: GrepArguments, context: ToolContext) -> ToolCallOutput:
        """Lines that match, as `path:line: text`."""
        real = self._policy.resolve_read(arguments.path, self._cwd)
        walk = None
        status = status_of(real)
        if status is not None and stat.S_ISREG(status.st_mode):
            files = [(shown_name(arguments.path), str(real))]
        else:
            walk = Walk(self._policy, self._directory(arguments.path), context.cancel, self._clock)
            files = await asyncio.to_thread(_searched, walk, self._policy, real, arguments.glob)
        if context.cancel.is_set:
            return cancelled()
        request = {
            "pattern": arguments.pattern,
            "files": files,
            "denied": list(self._policy.denied_identities),
            "limit": arguments.limit,
            "file_bytes": GREP_FILE_BYTES,
            "line_chars": GREP_LINE_CHARS,
        }
        asked = json.dumps(request).encode()  # passes names that are no UTF-8
        try:
            output = await run_worker(
                self._groups,
                _WORKER,
                (),
                asked,
                context.cancel,
                GREP_SECONDS,
                memory_bytes=GREP_MEMORY_BYTES,
                options=("-S",),
            )
        except TimeoutError as error:
            raise ToolFault(
                FailureClass.TIMEOUT,
                "grep_timeout",
                f"the search was stopped after {GREP_SECONDS:.0f} s; simplify the pattern (nested repetition is"
                " slow) or search fewer files",
            ) from error
        return cancelled() if output is None else success(_grep_result(output, walk))

    def _directory(self, path: str) -> Path:
        real = self._policy.resolve_read(path, self._cwd)
        status = status_of(real)
        if status is None or not stat.S_ISDIR(status.st_mode):
            raise invalid("not_found" if status is None else "wrong_file_type", f"{path} is not a directory")
        return real


def _found(walk: Walk, glob: str | None) -> list[str]:
    """The paths that match, sorted; raises `ToolFault` for a glob that cannot be read."""
    pattern = None if glob is None else compile_glob(glob)
    return sorted(path for path in walk.files() if pattern is None or pattern.fullmatch(path))


def _searched(walk: Walk, policy: FilePolicy, base: Path, glob: str | None) -> list[tuple[str, str]]:
    """The files of a grep as (shown, real), sorted, and links, which the worker does not follow."""
    denied = policy.denied_paths
    paths = _found(walk, glob if glob is None or "/" in glob else f"**/{glob}")
    return [(shown_name(path), str(base / path)) for path in paths if base / path not in denied]


class _Summary(msgspec.Struct, frozen=True):
    """The last line of the worker: how the search ended and how many files it left out, or why there was none."""

    is_cut: bool = False
    binary: int = 0
    large: int = 0
    unreadable: int = 0
    error: str | None = None


def _grep_result(output: bytes, walk: Walk | None) -> Any:
    """What the model reads; `walk` is None where one file was asked for by its name."""
    try:
        *matches, last = output.splitlines()
        summary = decode(last, _Summary)
        items = [decode_any(line, tuple[str, int, str]) for line in matches]
    except (msgspec.DecodeError, ValueError) as error:  # ValueError also for no line at all
        shown = output.decode("utf-8", "replace")[-500:]
        raise ToolFault(FailureClass.INTERNAL, "grep_failed", f"the search failed: {shown}") from error
    if summary.error is not None:
        raise invalid("bad_pattern", f"the regular expression cannot be used: {summary.error}")
    lines = [f"{path}:{number}: {text}" for path, number, text in items] or ["no matches"]
    if summary.is_cut:
        lines.append(f"(more matches follow; only the first {len(items)} are shown)")
    left_out = _left_out(summary, walk)
    if left_out:
        lines.append(f"(not searched: {', '.join(left_out)})")
    if walk is not None and not walk.is_complete:
        lines.append(f"(incomplete: {_INCOMPLETE})")
    return "\n".join(lines)


def _left_out(summary: _Summary, walk: Walk | None) -> list[str]:
    """What may hold matches that were not looked for; binary files are told of where one was asked for."""
    files = "file", "files"
    told = [
        (walk.unreadable if walk is not None else 0, ("directory", "directories"), " that cannot be read"),
        (summary.unreadable, files, " that cannot be read"),
        (summary.large, files, f" larger than {GREP_FILE_BYTES // 2**20} MiB"),
        (summary.binary if walk is None else 0, ("binary file", "binary files"), ""),
    ]
    return [_counted(count, *names) + rest for count, names, rest in told if count]


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"
