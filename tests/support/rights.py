"""Rights of files beyond their mode, as Linux stores them (acl(5)): written by hand, since not every machine has
`setfacl`."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
SOMEBODY = 12345

_VERSION = struct.pack("<I", 2)
_NOBODY = 0xFFFFFFFF


def acl(*, owner: int, group: int, other: int, somebody: int | None = None, mask: int = 7) -> bytes:
    """A list of rights; with rights of `SOMEBODY` also of a mask."""
    entries = [(1, owner, _NOBODY), (4, group, _NOBODY), (0x20, other, _NOBODY)]
    if somebody is not None:
        entries += [(2, somebody, SOMEBODY), (0x10, mask, _NOBODY)]
    return _VERSION + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries))


def set_or_skip(path: Path, name: str, value: bytes) -> None:
    """Set an attribute of a file; skips where its file system has none."""
    if not hasattr(os, "setxattr"):
        pytest.skip("this system has no such attributes")
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        pytest.skip(f"no {name} here: {error.strerror}")
