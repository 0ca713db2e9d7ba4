"""The public embedding surface: `LashCore`, `LashSession` and what they hand out.

Everything a program that imports lash needs stands here; the names that the
project was founded on keep their meaning. Each name has exactly one home and is
imported only when it is used. Where that is says `__init__.pyi`, from which type
checkers know it too.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

# A look at a session makes these records and does not load what they may hold (design D16). Whoever asks for one by its
# public name can also ask what it is made of, as `help` and `inspect` do.
_PARTS_OF = {"TurnRecord": ("TurnSummary",)}


@cache
def _homes() -> dict[str, str]:
    """The module of every public name, from `from MODULE import NAME as NAME, …` of the stub."""
    homes: dict[str, str] = {}
    # By whoever loaded this package: in an archive it is no file.
    loader: Any = __spec__.loader
    stub: bytes = loader.get_data(os.path.join(os.path.dirname(__file__), "__init__.pyi"))
    for statement in stub.decode().split("\nfrom ")[1:]:
        home, _, names = statement.partition(" import ")
        homes.update((piece.split()[-1], home) for piece in names.split(" as ")[:-1])
    return homes


def __getattr__(name: str) -> Any:
    if name == "__all__":
        value: Any = __dir__()
    elif name in _homes():
        module = importlib.import_module(_homes()[name])
        for part in _PARTS_OF.get(name, ()):
            setattr(module, part, __getattr__(part))
        value = getattr(module, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_homes())
