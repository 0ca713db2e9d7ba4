"""Whole outputs of commands, kept in private files that the model may read, until `lash gc` (contract 05 §5, 08 §6.7).

A transcript holds an end of a long output and names its file. The files belong
to no session: equal outputs share one, so only their age tells when to go.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from lash_cli.core.codec import sha256_hex
from lash_cli.core.tools import FailureClass
from lash_cli.errors import LashError, StoreError
from lash_cli.paths import write_private_file
from lash_cli.tools.faults import ToolFault, os_fault

# In the state directory.
DIRECTORY_NAME: Final = "spill"


class Spilled(NamedTuple):
    """Files and their bytes."""

    files: int
    bytes: int


def spill(directory: Path, content: bytes) -> Path:
    """Write output to a private file named after its content, so that writing it again gives the same file.

    Raises `ToolFault` when it cannot be written.
    """
    path = directory / f"exec_command-{sha256_hex(content)[:12]}.txt"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        write_private_file(str(path), content)
    except OSError as error:
        raise os_fault(error, "keep the full output in", path) from error
    except LashError as error:
        raise ToolFault(FailureClass.EXECUTION, "io_error", error.message) from error
    return path


def forget_spilled(directory: Path, before_ms: int | None, *, dry_run: bool) -> Spilled:
    """Remove the outputs that were written last before `before_ms`, all with None, or only count them; raises
    `StoreError`."""
    files = size = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another collection was here first
                    status = entry.stat(follow_symlinks=False)
                    is_young = before_ms is not None and status.st_mtime_ns >= before_ms * 1_000_000
                    if not stat.S_ISREG(status.st_mode) or is_young:
                        continue
                    if not dry_run:
                        os.unlink(entry.path)
                    files, size = files + 1, size + status.st_size
    except FileNotFoundError:
        pass  # nothing was ever kept
    except OSError as error:
        raise StoreError(f"{directory} cannot be cleared: {error.strerror}") from error
    return Spilled(files, size)
