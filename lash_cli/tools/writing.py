"""Replacing a file so that a reader sees the old content or the new, never a part (contract 05 §6).

The content goes to a temporary file in the same directory, is synced, and is
renamed over the target. Where the system has files without a name it gets one
only then, so that a process that is killed meanwhile leaves nothing behind. The
rights of an existing file are kept; a hard link is replaced by a file of its
own, as rename does.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from lash_cli.core.tools import FailureClass
from lash_cli.tools.faults import ToolFault, invalid, os_fault
from lash_cli.tools.policy import FilePolicy
from lash_cli.tools.rights import NEW_FILE_MODE, Rights, give_kept, give_mode, mode_to_give, rights_of

# What a file system, or a kernel, says that has no files without a name; and one that lets nobody name them.
_NO_UNNAMED = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS))
_NO_NAMING = frozenset((errno.ENOENT, errno.EPERM, errno.EACCES, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS))

T = TypeVar("T")


class PathLocks:
    """One `asyncio.Lock` per real path, kept only while somebody holds or awaits it."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[Path, asyncio.Lock] = weakref.WeakValueDictionary()

    def of(self, real: Path) -> asyncio.Lock:
        """The lock of a path; keep a reference to it while using it."""
        lock = self._locks.get(real)
        if lock is None:
            lock = self._locks[real] = asyncio.Lock()
        return lock


async def run_to_end(work: Callable[[], T]) -> T:
    """Run `work` in a thread; a cancelled caller still waits for it, so its locks cover the whole work."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    interruption: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None:
        running.exception()
        raise interruption
    return running.result()


def replace_file(policy: FilePolicy, real: Path, content: bytes, *, expected: bytes | None = None) -> bool:
    """Write `content` to a resolved path atomically, creating missing parents; whether there was no file before.

    With `expected` the file must still have that content just before it
    is replaced. Raises `ToolFault`; then the old file is untouched.
    """
    directory = policy.open_directory(real.parent, create=True)
    partial = f".lash-{os.urandom(8).hex()}.tmp"
    try:
        existing = _existing(directory, real)

        def require_unchanged() -> None:
            if expected is not None and _read(directory, real.name, len(expected) + 1) != expected:
                raise ToolFault(
                    FailureClass.EXECUTION,
                    "file_changed",
                    f"{real} was changed by somebody else meanwhile; read it again before editing. Nothing was written",
                )

        is_named = False
        try:
            mode = NEW_FILE_MODE if existing is None else 0o600
            if (descriptor := _open_unnamed(directory, mode)) is not None:
                with open(descriptor, "wb") as file:
                    _fill(file, content, existing, directory)
                    require_unchanged()
                    is_named = _give_name(descriptor, partial, directory)
            if not is_named:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(partial, flags, mode, dir_fd=directory)
                is_named = True
                with open(descriptor, "wb") as file:
                    _fill(file, content, existing, directory)
                require_unchanged()
            os.replace(partial, real.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            if is_named:
                os.unlink(partial, dir_fd=directory)
            raise
        _sync_directory(directory)
        return existing is None
    except OSError as error:
        raise os_fault(error, "write", real) from error
    finally:
        os.close(directory)


def _open_unnamed(directory: int, mode: int) -> int | None:
    """A new file that is in the directory under no name, None where there can be none."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        return None
    try:
        return os.open(".", os.O_WRONLY | flag | os.O_CLOEXEC, mode, dir_fd=directory)
    except OSError as error:
        if error.errno in _NO_UNNAMED:
            return None
        raise


def _give_name(descriptor: int, name: str, directory: int) -> bool:
    """Name a file that has none; False where the system does not let this process do so, as without /proc."""
    try:
        os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=directory)
    except OSError as error:
        if error.errno in _NO_NAMING:
            return False
        raise
    return True


def _fill(file: BinaryIO, content: bytes, existing: Rights | None, directory: int) -> None:
    file.write(content)
    if existing is not None:
        give_kept(file.fileno(), existing)
    elif (mode := mode_to_give(NEW_FILE_MODE, directory)) is not None:
        give_mode(file.fileno(), mode)
    file.flush()
    os.fsync(file.fileno())


def _existing(directory: int, real: Path) -> Rights | None:
    """The rights of the file to be replaced, None for a new one; refuses what must not be replaced."""
    try:
        status = os.stat(real.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise invalid("wrong_file_type", f"{real} is not a regular file")
    # Renaming over a file needs no permission on the file, so its protection has to be honoured here: that it is
    # read-only, which does not bind root, and that it is somebody else's.
    if not status.st_mode & 0o222 or not _may_write(directory, real.name):
        raise ToolFault(FailureClass.PERMISSION_DENIED, "permission_denied", f"{real} is read-only")
    return rights_of(status, directory, real.name)


def _may_write(directory: int, name: str) -> bool:
    return os.access(name, os.W_OK, dir_fd=directory, effective_ids=os.access in os.supports_effective_ids)


def _read(directory: int, name: str, most: int) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with open(descriptor, "rb") as file:
        return file.read(most)


def _sync_directory(directory: int) -> None:
    """Make the rename itself durable; the descriptor at hand may be for search only.

    The file is written by now: where its directory may not be read, or its file
    system syncs no directories, there is nothing to report.
    """
    try:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
