"""read_file, write and edit (contract 05 §6).

Every path passes the `FilePolicy`; every change is atomic and holds the lock
of its path; `edit` writes only over the content it has read.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import stat
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from lash_cli.core.content import Inline
from lash_cli.core.media import media_type_of
from lash_cli.core.protocols import CancelSignal, Clock, ToolContext
from lash_cli.core.tools import FailureClass, NeverRetry, SafeRetry, ToolCallOutput, ToolSuccess, cancelled, success
from lash_cli.tools.edits import Edited, Replacement, apply_edits
from lash_cli.tools.faults import ToolFault, invalid, os_fault
from lash_cli.tools.function import FunctionTool, tool
from lash_cli.tools.policy import FilePolicy, printable, require_regular, shown_name
from lash_cli.tools.process_group import ProcessGroups
from lash_cli.tools.writing import PathLocks, replace_file, run_to_end

LINE_BYTES = 2000
READ_BYTES = 50 * 1024
READ_SECONDS = 30.0
BINARY_PROBE_BYTES = 8192
SKIPPED_BYTES = 1024 * 1024
EDIT_BYTES = 10 * 1024 * 1024
ATTACHMENT_BYTES = 20 * 1024 * 1024
DEFAULT_LINES = 2000
PDF = "application/pdf"
PDF_MAGIC = b"%PDF-"
# Where readers of PDF look for its first line.
PDF_HEADER_BYTES = 1024
READ_RETRY = SafeRetry(max_attempts=2, base_delay_ms=25, max_delay_ms=100)

_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")
_PathText = Annotated[
    str, msgspec.Meta(min_length=1, description="Path, absolute or relative to the working directory.")
]


class ReadArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of read_file."""

    path: _PathText
    offset: Annotated[int, msgspec.Meta(ge=1, description="First line to show, from 1.")] = 1
    limit: Annotated[int, msgspec.Meta(ge=1, description="Most lines to show.")] = DEFAULT_LINES
    attach_as: Annotated[
        str | None,
        msgspec.Meta(
            description="Attach the whole file under this media type, such as image/png, instead of its text."
        ),
    ] = None


class WriteArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of write."""

    path: _PathText
    content: Annotated[str, msgspec.Meta(description="The whole new content of the file.")]


class EditItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One replacement."""

    old_text: Annotated[str, msgspec.Meta(min_length=1, description="Text to replace; must occur exactly once.")]
    new_text: Annotated[str, msgspec.Meta(description="Text to put in its place.")]


class EditArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of edit."""

    path: _PathText
    edits: Annotated[
        tuple[EditItem, ...],
        msgspec.Meta(min_length=1, description="Replacements; all match the original text and must not overlap."),
    ]


class FileTools:
    """Builds the file tools over one policy and one set of path locks."""

    def __init__(self, policy: FilePolicy, cwd: Path, groups: ProcessGroups, clock: Clock) -> None:
        """`groups` run what reads PDF."""
        self._policy = policy
        self._cwd = cwd
        self._groups = groups
        self._clock = clock
        self._locks = PathLocks()

    def tools(self) -> tuple[FunctionTool, ...]:
        """read_file, write, edit."""
        return (
            tool(
                name="read_file",
                tool_id="builtin.read_file",
                description=(
                    "Read a text file or the text of a PDF as numbered lines, list a directory, or attach an image"
                    " (png, jpeg, gif, webp, bmp). Long files are cut; continue with offset."
                ),
                retry=READ_RETRY,
                approval="read",
            )(self.read_file),
            tool(
                name="write",
                tool_id="builtin.write",
                description="Create a file or replace all of its content. Missing directories are created.",
                retry=NeverRetry(),
                approval="write",
            )(self.write),
            tool(
                name="edit",
                tool_id="builtin.edit",
                description=(
                    "Replace exact pieces of text in a file. Every oldText must occur exactly once; either all edits"
                    " are applied or none. Returns a diff."
                ),
                retry=NeverRetry(),
                approval="write",
            )(self.edit),
        )

    async def read_file(self, arguments: ReadArguments, context: ToolContext) -> ToolCallOutput:
        """Text, listing or attachment of one path."""
        try:
            patience = _Patience(context.cancel, self._clock)
            found = await asyncio.to_thread(self._read, arguments, patience)
            if isinstance(found, ToolCallOutput):
                return found
            from lash_cli.tools.pdfs import pdf_text  # few read any

            text = await pdf_text(found, arguments.path, self._groups, context.cancel)
            if text is None:
                return cancelled()
            patience = _Patience(context.cancel, self._clock)
            return success(await asyncio.to_thread(numbered_lines, io.BytesIO(text), arguments, patience))
        except _NoLongerWanted:
            return cancelled()

    async def write(self, arguments: WriteArguments, context: ToolContext) -> ToolCallOutput:
        """Replace or create one file atomically."""
        real = self._policy.resolve_write(arguments.path, self._cwd)
        content = arguments.content.encode()
        async with self._locks.of(real):
            if context.cancel.is_set:
                return cancelled()
            is_new = await run_to_end(lambda: replace_file(self._policy, real, content))
        summary = f"{'Created' if is_new else 'Replaced'} {arguments.path} ({len(content)} bytes)"
        return success({"summary": summary, "path": printable(str(real)), "bytes": len(content)})

    async def edit(self, arguments: EditArguments, context: ToolContext) -> ToolCallOutput:
        """Apply all edits to one file, or none."""
        real = self._policy.resolve_write(arguments.path, self._cwd)
        async with self._locks.of(real):
            if context.cancel.is_set:
                return cancelled()
            try:
                patience = _Patience(context.cancel, self._clock)
                edited = await run_to_end(lambda: self._edit(real, arguments, patience))
            except _NoLongerWanted:
                return cancelled()
        count = len(arguments.edits)
        return success(
            {
                "summary": f"Edited {arguments.path} ({count} replacement{'' if count == 1 else 's'})",
                "path": printable(str(real)),
                "diff": edited.diff,
                "patch": edited.patch,
                "firstChangedLine": edited.first_changed_line,
            }
        )

    def _edit(self, real: Path, arguments: EditArguments, patience: _Patience) -> Edited:
        with self._regular(self._policy.open_file(real), arguments.path) as file:
            content = _whole(file, arguments.path, EDIT_BYTES)
        replacements = [Replacement(item.old_text, item.new_text) for item in arguments.edits]
        edited = apply_edits(content, replacements, arguments.path, patience.check)
        patience.check()
        replace_file(self._policy, real, edited.content, expected=content)
        return edited

    def _read(self, arguments: ReadArguments, patience: _Patience) -> ToolCallOutput | bytes:
        """The answer, or the whole of a PDF that is to be read as text."""
        descriptor = self._policy.open_file(self._policy.resolve_read(arguments.path, self._cwd))
        try:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                try:
                    return success(list_directory(descriptor, arguments, patience))
                finally:
                    os.close(descriptor)
            with self._regular(descriptor, arguments.path) as file:
                media_type = _attachment_type(file, arguments)
                if media_type is not None:
                    return _attachment(file, media_type, arguments.path)
                if _is_pdf(file):
                    return _whole(file, arguments.path, ATTACHMENT_BYTES)
                return success(numbered_lines(file, arguments, patience))
        except OSError as error:
            raise os_fault(error, "read", arguments.path) from error

    def _regular(self, descriptor: int, path: str) -> BinaryIO:
        """A file object over a descriptor it then owns; refuses devices, pipes, sockets and directories."""
        try:
            require_regular(descriptor, path)
        except ToolFault:
            os.close(descriptor)
            raise
        return open(descriptor, "rb")


class _NoLongerWanted(Exception):
    """The call was cancelled."""


class _Patience:
    """How long it is worth going on: a thread has to end by itself, or the process waits for it at its own end, and a
    file may have no end."""

    def __init__(self, cancel: CancelSignal, clock: Clock) -> None:
        self._cancel = cancel
        self._clock = clock
        self._until = clock.monotonic() + READ_SECONDS

    def check(self) -> None:
        """Raise `_NoLongerWanted`, or `ToolFault` (`read_timeout`) when the time is over."""
        if self._cancel.is_set:
            raise _NoLongerWanted
        if self._clock.monotonic() > self._until:
            text = f"stopped after {READ_SECONDS:.0f} s; there is more of it than can be looked through"
            raise ToolFault(FailureClass.TIMEOUT, "read_timeout", text)


def list_directory(descriptor: int, arguments: ReadArguments, patience: _Patience) -> str:
    """The sorted names of a directory, `/` behind directories, `limit` of them from `offset`, and not many more bytes
    than are shown of a file.

    Raises `ToolFault` for an offset past the end.
    """
    names = []
    with os.scandir(descriptor) as entries:
        for entry in entries:
            patience.check()
            names.append(entry.name + ("/" if _is_directory(entry) else ""))
    names.sort()
    if not names:
        return "(empty directory)"
    first = arguments.offset - 1
    if first >= len(names):
        raise _past_end(arguments, len(names), "entries")
    shown: list[str] = []
    held = 0
    for name in names[first : first + arguments.limit]:
        shown.append(shown_name(name))
        held += len(shown[-1].encode()) + 1
        if held > READ_BYTES:
            break
    rest = len(names) - first - len(shown)
    if rest:
        shown.append(f"({rest} more; continue with offset={first + len(shown) + 1})")
    return "\n".join(shown)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Also through a link; one that leads in a circle, or where we may not look, is shown as a name."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def numbered_lines(file: BinaryIO, arguments: ReadArguments, patience: _Patience) -> str:
    """Lines as `N: text` from `offset`, within the line, size and count limits; raises `ToolFault` past the end."""
    shown: list[str] = []
    held = 0
    number = _skip_lines(file, arguments.offset - 1, patience)
    while True:
        line, is_cut = _next_line(file, patience)
        if line is None:
            break
        number += 1
        text = f"{number}: {_text(line, number)}{'...' if is_cut else ''}"
        held += len(text.encode()) + 1
        if len(shown) == arguments.limit or held > READ_BYTES:
            shown.append(f"(more lines follow; continue with offset={number})")
            return "\n".join(shown)
        shown.append(text)
    if number == 0 and arguments.offset == 1:
        return "(empty file)"
    if not shown:
        raise _past_end(arguments, number, "lines")
    return "\n".join(shown)


def _skip_lines(file: BinaryIO, count: int, patience: _Patience) -> int:
    """Pass over `count` lines, or all there are: how many that was. By the stretch: to read each takes minutes where a
    file is large."""
    passed, last = 0, b"\n"
    while passed < count:
        patience.check()
        stretch = file.read(SKIPPED_BYTES)
        if not stretch:
            return passed + (last != b"\n")
        ends = stretch.count(b"\n")
        if passed + ends >= count:
            end = 0
            for _ in range(count - passed):
                end = stretch.index(b"\n", end) + 1
            file.seek(end - len(stretch), os.SEEK_CUR)
            return count
        passed += ends
        last = stretch[-1:]
    return passed


def _next_line(file: BinaryIO, patience: _Patience) -> tuple[bytes | None, bool]:
    """The next line up to `LINE_BYTES`, and whether it was longer; None at the end of the file."""
    patience.check()
    line = file.readline(LINE_BYTES + 2)
    if not line:
        return None, False
    rest = line
    while not rest.endswith(b"\n"):
        patience.check()
        rest = file.readline(BINARY_PROBE_BYTES)
        if not rest:
            break
    body = line.removesuffix(b"\n").removesuffix(b"\r")
    return body[:LINE_BYTES], len(body) > LINE_BYTES


def _text(line: bytes, number: int) -> str:
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    # A cut inside of a character leaves up to three bytes that are no error of the file.
    if len(line) == LINE_BYTES:
        for cut in range(4):
            try:
                return line[: LINE_BYTES - cut].decode()
            except UnicodeDecodeError:
                continue
    return line.decode("utf-8", "replace")


def _past_end(arguments: ReadArguments, count: int, unit: str) -> ToolFault:
    return invalid("offset_past_end", f"offset {arguments.offset} is past the end: {arguments.path} has {count} {unit}")


def image_type(head: bytes) -> str | None:
    """The media type of an image that is attached unasked, by its first bytes."""
    known = media_type_of(head)
    if known in _IMAGES:
        return known
    # "BM" alone also begins ordinary text; the reserved fields of a bitmap are zero.
    return "image/bmp" if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0" else None


def _attachment_type(file: BinaryIO, arguments: ReadArguments) -> str | None:
    """How to attach the file, None for text; raises for what can be neither."""
    head = file.read(BINARY_PROBE_BYTES)
    file.seek(0)
    if arguments.attach_as is not None:
        wanted = arguments.attach_as.lower()
        if not _MEDIA_TYPE.fullmatch(wanted):
            raise invalid("invalid_media_type", f"{arguments.attach_as!r} is not a media type such as image/png")
        _check_attachable(head, wanted, arguments.path)
        return wanted
    image = image_type(head)
    if image is not None:
        return image
    if b"\0" in head and not head.startswith(PDF_MAGIC):
        raise invalid("binary_file", f"{arguments.path} is a binary file; it has no text to show")
    return None


def _check_attachable(head: bytes, wanted: str, path: str) -> None:
    """Refuse what no provider could read as `wanted`: with it in the conversation each refuses that from then on."""
    if not head:
        raise invalid("wrong_media_type", f"{path} is empty; there is nothing to attach")
    known = media_type_of(head)
    if wanted == PDF and PDF_MAGIC in head[:PDF_HEADER_BYTES]:
        return
    if known != wanted and wanted in (*_IMAGES, PDF):
        raise invalid("wrong_media_type", f"{path} is not {wanted}{f' but {known}' if known else ''}")


def _is_pdf(file: BinaryIO) -> bool:
    head = file.read(len(PDF_MAGIC))
    file.seek(0)
    return head == PDF_MAGIC


def _whole(file: BinaryIO, path: str, most: int) -> bytes:
    """The content; raises `ToolFault` for more than `most` bytes, however large the file says that it is."""
    data = file.read(most + 1)
    if len(data) > most:
        text = f"{path} is larger than {most // 2**20} MiB"
        raise ToolFault(FailureClass.RESOURCE_LIMIT, "file_too_large", text)
    return data


def _attachment(file: BinaryIO, media_type: str, path: str) -> ToolCallOutput:
    data = _whole(file, path, ATTACHMENT_BYTES)
    note = f"{path}: {media_type}, {len(data)} bytes, attached"
    return ToolCallOutput(ToolSuccess(note, attachments=(Inline(media_type, data),)))
