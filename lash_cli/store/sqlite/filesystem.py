"""Where a write-ahead log must not be kept: on a file system of another machine (contract 08 §6.8).

SQLite's log needs memory that all its users share, which no network gives; a
database there works until two machines open it and is damaged then. What kind
of file system a path is on is only known where the system says so (Linux); one
that cannot be told is taken for local.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from lash_cli.errors import StoreReadOnly
from lash_cli.store.sqlite.file_names import StrPath

# How the kernel writes a space, a tab, a line end and a backslash in the name of a place; all else stands as it is.
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_NETWORK: Final = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "coda", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)
_NETWORK_FUSE: Final = frozenset(
    {"fuse.ceph", "fuse.davfs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)


def network_filesystem(path: Path, *, mounts: str | None = None) -> str | None:
    """The kind of the network file system that `path` is, or would be, on; None for a local one.

    `mounts` is the text of a mountinfo file; without it the system's is read.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    place = path.absolute().resolve()
    best, kind = -1, ""
    for line in mounts.split("\n"):
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = Path(_ESCAPED.sub(lambda escape: chr(int(escape[1], 8)), fields[4]))
        # A later line of the same place covers an earlier one.
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split(" ")[0]
    return kind if kind in _NETWORK or kind in _NETWORK_FUSE else None


def refuse_network(path: StrPath) -> None:
    """Raise `StoreReadOnly` (`network_filesystem`) for a place where a database cannot be kept."""
    kind = network_filesystem(Path(path))
    if kind is not None:
        raise StoreReadOnly(
            f"{path} is on a network file system ({kind}), where SQLite would damage it",
            code="network_filesystem",
            hint="keep it on a local disk: --db FILE or LASH_DB",
            details={"path": str(path), "filesystem": kind},
        )
