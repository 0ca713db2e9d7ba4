"""Files a command was told to write: the whole file or none, and nothing but a file is ever replaced.

What is no regular file — a device, a pipe, a descriptor of this process — is
written to, as a shell's redirection would; a link is followed, so that what it
points to is replaced and the link stays.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from lash_cli.errors import UsageError
from lash_cli.paths import from_here, is_stream, replace_file, unwritten_file

# The file name that means stdout.
STDOUT_MARK: Final = "-"


def named_file(path: str, option: str) -> str:
    """`path`; raises `UsageError` for `-`, where stdout has something else to say than what `option` writes, and for
    no name at all."""
    require_name(path, option)
    if path == STDOUT_MARK:
        raise UsageError(f"{option} cannot be stdout", hint=f"name a file; one that is called - is ./{path}")
    return path


def require_name(path: str, option: str) -> None:
    """Raises `UsageError` for an empty `path`, which the system takes for the directory it is in."""
    if not path:
        raise UsageError(f"{option} needs the name of a file", hint="nothing was done")


def require_foreign(path: str, so_far: str = "nothing was done") -> None:
    """Raises as `paths.unwritten_file` for a file that lash itself keeps: its database, its settings, its keys."""
    from lash_cli.cli.invocation import current  # a file is rarely named (design D16)

    paths = current().paths
    target = os.path.realpath(from_here(path))
    if target in map(os.path.realpath, (paths.database, *paths.beside_database(), paths.config_file, paths.keys_file)):
        raise unwritten_file(path, FileExistsError(errno.EEXIST, "lash itself keeps it"), so_far)


def check_writable(path: str, so_far: str = "nothing was done") -> None:
    """Raises as `paths.unwritten_file` where no file can be made or replaced, before anything is done for it, and as
    `require_foreign`."""
    if is_stream(path):
        return
    require_foreign(path, so_far)
    target = os.path.realpath(from_here(path))
    directory = os.path.dirname(target)
    try:
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(directory, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(directory).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number))
    except OSError as error:
        raise unwritten_file(path, error, so_far) from error


def write_named(path: str, data: bytes) -> None:
    """As `write_out`; raises as `paths.unwritten_file`."""
    try:
        write_out(path, data)
    except OSError as error:
        raise unwritten_file(path, error) from error


def write_out(path: str, data: bytes) -> None:
    """Write `data` to a stream, or as the whole content of a file that only its owner can read. Raises `OSError`, and
    then a file is as it was."""
    if is_stream(path):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as stream:
            stream.write(data)
        return
    replace_file(os.path.realpath(from_here(path)), data)
