"""Leaves a command less than a process of its user has: file modes that bind it, or a limit on the size of any file.

Done before the command begins, by `spawn_lash(…, first=begin("bounds", "modes"))` or `begin("bounds", "file_bytes=N")`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
# CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER.
_OVERRIDING = (0, 1, 2, 3)


def begin(bound: str) -> None:
    """Give up what `bound` names, for this process and whatever it starts."""
    name, _, value = bound.partition("=")
    if name == "modes":
        _obey_modes()
    elif name == "file_bytes":
        # Half a byte-code file would be taken for a whole one by every later command.
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))
    else:
        raise ValueError(bound)


def _obey_modes() -> None:
    """What root passes over file modes with is given up; nobody else has it."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    # What is not in the bounding set is not there after exec.
    for capability in _OVERRIDING:
        _done(libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Twice effective, permitted and inheritable: of the first 32 capabilities, and of the others.
    sets = (ctypes.c_uint32 * 6)()
    _done(libc.capget(header, sets))
    kept = ~sum(1 << capability for capability in _OVERRIDING)
    for place in range(3):
        sets[place] &= kept
    _done(libc.capset(header, sets))


def _done(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), "cannot give up a capability")
