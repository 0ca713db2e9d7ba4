"""Who may do what with a file that a tool makes or replaces (contract 05 §6).

One that is made has the rights it would have if the user had made it: those
their umask leaves, or those its directory has for what is made in it, which
pass over any umask. One that is replaced keeps its own: its mode, its owner
where that can be, the rights of single users, and what programs keep with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from lash_cli import umask

# What the umask of the user leaves of it.
NEW_FILE_MODE = 0o666
NEW_DIRECTORY_MODE = 0o777

# Others tell of the content that was, such as a capability or a signature, or are the file system's own.
_OF_SINGLE_USERS = "system.posix_acl_access"
_KEPT_ATTRIBUTES = ("user.", _OF_SINGLE_USERS, "security.selinux")
_OF_WHAT_IS_MADE = "system.posix_acl_default"


class Rights(NamedTuple):
    """The rights of a file that is replaced."""

    status: os.stat_result
    attributes: Mapping[str, bytes]


def rights_of(status: os.stat_result, directory: int, name: str) -> Rights:
    """The rights of the regular file of that status; raises `OSError`."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:  # it may be written and not be read
        return Rights(status, _attributes_of_unread(directory, name))
    try:
        return Rights(status, _attributes(descriptor))
    finally:
        os.close(descriptor)


def _attributes_of_unread(directory: int, name: str) -> dict[str, bytes]:
    """What may be known of a file without reading it: the rights of single users, above all, whose limit would else
    stand in its mode as the rights of its group. Nothing where the kernel has no names for descriptors."""
    if not hasattr(os, "O_PATH"):
        return {}
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        return _attributes(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return {}
    finally:
        os.close(descriptor)


def mode_to_give(mode: int, directory: int) -> int | None:
    """The mode for what was made with `mode` in a directory, None where it has its rights already."""
    mask = umask.of_user()
    return None if mask is None or _has_rights_for_what_is_made(directory) else mode & ~mask


def give_mode(descriptor: int, mode: int) -> None:
    """Give what was made the mode of `mode_to_give`; raises `OSError`."""
    with contextlib.suppress(PermissionError):  # it is ours: its file system has no modes but its own
        os.fchmod(descriptor, mode)


def give_kept(descriptor: int, kept: Rights) -> None:
    """Give a file that was made the rights of the one it takes the place of; raises `OSError`."""
    mode = stat.S_IMODE(kept.status.st_mode)
    if not _is_given_to(descriptor, kept.status.st_uid, kept.status.st_gid):
        mode &= ~(stat.S_ISUID | stat.S_ISGID)  # whoever runs it must not become us
        if not _is_given_to(descriptor, -1, kept.status.st_gid):
            mode &= ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3  # the group is another one now: to it all are others
    given = _attributes(descriptor)  # by its directory
    # Where there are labels every file has one, and nobody may remove it.
    if _OF_SINGLE_USERS in given and _OF_SINGLE_USERS not in kept.attributes:
        os.removexattr(descriptor, _OF_SINGLE_USERS)
    for name, value in kept.attributes.items():
        if given.get(name) != value:
            with contextlib.suppress(PermissionError):  # a label that the system's rules leave to nobody
                os.setxattr(descriptor, name, value)
    os.fchmod(descriptor, mode)


def _is_given_to(descriptor: int, owner: int, group: int) -> bool:
    """Whether a file of ours belongs to them now: only root gives one to another owner, the others to a group of
    theirs, and nobody to somebody who has no number in this container."""
    try:
        os.fchown(descriptor, owner, group)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EINVAL):
            return False
        raise
    return True


def _attributes(file: int | str) -> dict[str, bytes]:
    if not hasattr(os, "listxattr"):
        return {}
    try:
        names = os.listxattr(file)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    attributes = {}
    for name in names:
        if name.startswith(_KEPT_ATTRIBUTES):
            try:
                attributes[name] = os.getxattr(file, name)
            except OSError as error:
                # Somebody has removed it since, or only who may read the file may know it.
                if error.errno not in (errno.ENODATA, errno.EACCES):
                    raise
    return attributes


def _has_rights_for_what_is_made(directory: int) -> bool:
    """Asked by the kernel's name of the descriptor, which may be for search only."""
    if not hasattr(os, "getxattr"):
        return False
    try:
        return bool(os.getxattr(f"/proc/self/fd/{directory}", _OF_WHAT_IS_MADE))
    except OSError:
        return False
