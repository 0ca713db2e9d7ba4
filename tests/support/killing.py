"""Kills a command with SIGKILL as it comes to the N-th call of a function: `first=begin("killing", "os.replace#2")`.

The function is not called any more, so what is seen is what stood before it.
"""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any


def begin(wanted: str) -> None:
    """Have this process come to its end where `MODULE.FUNCTION[#N]` is called."""
    name, _, occurrence = wanted.partition("#")
    module_name, _, function = name.rpartition(".")
    module, left = importlib.import_module(module_name), int(occurrence or 1)
    original = getattr(module, function)

    def reach(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(module, function, reach)
