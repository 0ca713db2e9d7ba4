"""Where file tools may go: one policy, checked by real path and opened without following links (contract 05 §6).

A path is judged after every symbolic link in it was resolved, and the
resolved path is then opened component by component with `O_NOFOLLOW`, so a
link slipped in between judgement and use is refused by the kernel. Of the
rules that cover a path the deepest wins, and a tie denies: a project inside
the lash home is usable, the home's keys are not. Another name of what is denied
is refused like it; another hard link of a file below it cannot be told apart.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from lash_cli.core.codec import encode
from lash_cli.core.tools import FailureClass
from lash_cli.tools.faults import ToolFault, invalid, os_fault
from lash_cli.tools.rights import NEW_DIRECTORY_MODE, give_mode, mode_to_give

# What the kernel takes at most, in bytes; to look at each directory of a longer one would take for ever.
MAX_PATH_CHARS = 4096
# The kernel's view of processes shows their environment, keys included.
ALWAYS_DENIED = (Path("/proc"),)

_CONTROLS = re.compile("[\x00-\x1f\x7f]")


Identity = tuple[int, int]
"""The device and the number of a file or directory, whatever it is called."""


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _identity(path: Path) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _depth(path: Path, rules: Iterable[Path]) -> int:
    """Components of the deepest rule that covers `path`, 0 when none does."""
    return max((len(rule.parts) for rule in rules if path.is_relative_to(rule)), default=0)


def printable(path: str) -> str:
    """`path` as text: bytes that are no UTF-8 are shown as replacement characters."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "replace")


def shown_name(name: str) -> str:
    """`printable` on one line: a name with line feeds or other control characters is shown as a JSON string."""
    text = printable(name)
    return encode(text).decode() if _CONTROLS.search(text) else text


class FilePolicy:
    """Allows the trees under `roots` and refuses everything under `denied`, whatever the path looks like."""

    def __init__(
        self,
        roots: tuple[Path, ...],
        allow_outside: bool = False,
        denied: tuple[Path, ...] = (),
    ) -> None:
        """Paths are resolved once, here; what stands where it is denied is looked at whenever that matters, because it
        is written anew and comes and goes."""
        self._roots = tuple(map(_real, roots))
        self._readable: tuple[Path, ...] = ()
        self._denied = frozenset(map(_real, (*denied, *ALWAYS_DENIED)))
        self._allow_outside = allow_outside

    def with_readable(self, directory: Path) -> FilePolicy:
        """A copy that also allows reading under `directory` what somebody knows the name of: it cannot be listed."""
        policy = FilePolicy((), self._allow_outside)
        policy._roots = self._roots
        policy._denied = self._denied
        policy._readable = (*self._readable, _real(directory))
        return policy

    def resolve_read(self, path: str, cwd: Path) -> Path:
        """The real path behind `path`, relative to `cwd`; raises `ToolFault` `path_outside_roots`."""
        return self._resolve(path, cwd, is_read=True)

    def resolve_write(self, path: str, cwd: Path) -> Path:
        """Like `resolve_read`, for a file to be created or replaced; read-only trees do not count."""
        real = self._resolve(path, cwd, is_read=False)
        if path.endswith("/"):
            raise invalid("wrong_file_type", f"{path} is the name of a directory, not of a file")
        return real

    def permits_read(self, real_path: Path, *, is_below_permitted: bool = False) -> bool:
        """Whether an already resolved path may be read. Where its parent is known to be so, what stands above it is not
        looked at again: a walk asks of every directory."""
        looked_at = (real_path,) if is_below_permitted else (real_path, *real_path.parents)
        return self._permits(real_path, looked_at, is_read=True)

    @property
    def denied_paths(self) -> frozenset[Path]:
        """The real paths denied by name. A walk that asked `permits_read` about each directory looks its files up here,
        where asking about every file would look at all of its parents again."""
        return self._denied

    @property
    def denied_identities(self) -> frozenset[Identity]:
        """What is denied by name, under any other name, as things are now."""
        return frozenset(identity for path in self._denied if (identity := _identity(path)) is not None)

    def _resolve(self, path: str, cwd: Path, *, is_read: bool) -> Path:
        if not path or "\0" in path:
            raise invalid("invalid_path", "a path must be non-empty and free of NUL characters")
        if len(path) > MAX_PATH_CHARS:
            raise invalid("invalid_path", f"a path must not be longer than {MAX_PATH_CHARS} characters")
        expanded = os.path.expanduser(path) if path.startswith("~") else path
        real = Path(os.path.realpath(os.path.join(cwd, expanded)))
        if not self._permits(real, (real, *real.parents), is_read=is_read):
            raise self._refusal(path)
        if os.path.islink(real):
            raise invalid("wrong_file_type", f"{path} is a symbolic link that leads in a circle")
        return real

    def _permits(self, real: Path, looked_at: tuple[Path, ...], *, is_read: bool) -> bool:
        denied = max(_depth(real, self._denied), self._denied_by_identity(looked_at))
        allowed = max(_depth(real, self._roots), _depth(real.parent, self._readable) if is_read else 0)
        if denied:
            return allowed > denied
        return allowed > 0 or self._allow_outside

    def _denied_by_identity(self, looked_at: tuple[Path, ...]) -> int:
        """Catches other spellings of a denied directory: file systems without case, bind mounts."""
        identities = self.denied_identities
        return next((len(path.parts) for path in looked_at if _identity(path) in identities), 0)

    def _refusal(self, path: str) -> ToolFault:
        roots = ", ".join(map(str, self._roots)) or "none"
        return ToolFault(
            FailureClass.PERMISSION_DENIED,
            "path_outside_roots",
            f"{path} is outside of the directories this session may use: {roots}",
        )

    def open_file(self, real: Path) -> int:
        """A descriptor for reading the regular file or directory at a resolved path.

        Never follows a link. Nothing else is opened: that wakes who waits for a reader of a pipe, and may set a device
        going. Raises `ToolFault`.
        """
        name = real.name or "."
        parent = self.open_directory(real.parent)
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise invalid("wrong_file_type", f"{real} is not a regular file")
            # A pipe that took its place meanwhile is not waited for, and a link not followed.
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        except OSError as error:
            raise self._open_fault(error, real) from error
        finally:
            os.close(parent)

    def open_directory(self, real: Path, *, create: bool = False) -> int:
        """A descriptor of the directory at a resolved path, for use as `dir_fd`; raises `ToolFault`.

        With `create` missing directories are made on the way.
        """
        try:
            return self._walk(real, create) if hasattr(os, "O_PATH") else self._open_whole(real, create)
        except OSError as error:
            raise self._open_fault(error, real) from error

    def _walk(self, real: Path, create: bool) -> int:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        current = os.open(real.anchor, flags)
        try:
            for name in real.parts[1:]:
                try:
                    following = os.open(name, flags, dir_fd=current)
                except FileNotFoundError:
                    if not create:
                        raise
                    _make_directory(name, current)
                    following = os.open(name, flags, dir_fd=current)
                os.close(current)
                current = following
        except BaseException:
            os.close(current)
            raise
        return current

    def _open_whole(self, real: Path, create: bool) -> int:
        """Where directories cannot be opened for search only: open by full path, then look where that led."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            opened = os.open(real, flags)
        except FileNotFoundError:
            if not create:
                raise
            parent = self._open_whole(real.parent, create)
            try:
                _make_directory(real.name, parent)
                opened = os.open(real.name, flags, dir_fd=parent)
            finally:
                os.close(parent)
        status = os.fstat(opened)
        if Path(os.path.realpath(real)) != real or _identity(real) != (status.st_dev, status.st_ino):
            os.close(opened)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return opened

    def _open_fault(self, error: OSError, real: Path) -> ToolFault:
        if error.errno == errno.ELOOP:
            return self._refusal(str(real))
        return os_fault(error, "open", real)


def _make_directory(name: str, parent: int) -> None:
    """Create a directory with the mode that it has when the user creates it."""
    try:
        os.mkdir(name, NEW_DIRECTORY_MODE, dir_fd=parent)
    except FileExistsError:
        return
    if (mode := mode_to_give(NEW_DIRECTORY_MODE, parent)) is None:
        return
    opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        give_mode(opened, mode)
    finally:
        os.close(opened)


def status_of(real: Path) -> os.stat_result | None:
    """The status of what is at a resolved path, None when there is nothing; raises `ToolFault` when that cannot be
    told: a name is too long, or a directory on the way may not be searched."""
    try:
        return os.stat(real)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise os_fault(error, "open", real) from error


def require_regular(descriptor: int, path: object) -> os.stat_result:
    """The status of an open regular file; raises `ToolFault` for devices, pipes and sockets."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise invalid("wrong_file_type", f"{path} is not a regular file")
    return status
