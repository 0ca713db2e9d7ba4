"""Ctrl-C while no command is under way: before one is known, and once everything is told (contract 08 §6.4).

Python raises `KeyboardInterrupt` wherever it stands and, where nobody expects
it, prints that place. A program that is told to end while it still imports or
takes itself apart has nothing to save and nothing to say: there Ctrl-C does
what it does to every program. One that is ignored (nohup) stays ignored. These
functions are for the main thread, and nothing is imported for them.
"""

from __future__ import annotations

# The interpreter has it loaded; `signal` brings `enum` along, which costs as much as `--version` does (design D16).
import _signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def let_it_end_us() -> bool:
    """From here on Ctrl-C ends the process, and its parent sees that; whether it was a `KeyboardInterrupt` until
    now."""
    was_raised = bool(_signal.getsignal(_signal.SIGINT) == _signal.default_int_handler)
    if was_raised:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    return was_raised


def raise_it() -> None:
    """From here on Ctrl-C is a `KeyboardInterrupt`, if it would end the process."""
    if _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def undisturbed(make: Callable[[], object]) -> None:
    """Call `make`; Ctrl-C is held back meanwhile, where that can be: what is left half made by it may complain."""
    if not hasattr(_signal, "pthread_sigmask"):
        make()
        return
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))
    try:
        make()
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
