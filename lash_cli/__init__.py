"""lash: a durable session runtime for LLM agents. `lash help embedding` is the guide for programs.

Begin with `LashCore`, wired from `provider`, `ModelSpec` and `SqliteStore.open`. It opens a `LashSession`, whose `turn`
is run or streamed (`TurnBuilder`, `TurnStream`); text for later goes through `SessionQueue`, which a `QueueWorker`
drains, and `ObservableSession` watches from any process. Errors are one tree: `lash_cli.errors`.

The public names are re-exported lazily from `lash_cli.api`, each exactly once,
so that importing the package costs nothing until a name is used. Type checkers
read them in `__init__.pyi`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import would triple the cost of `lash --version`
if TYPE_CHECKING:
    from typing import Any


def __getattr__(name: str) -> Any:
    """A public name of `lash_cli.api`, or the version; raises `AttributeError` for anything else."""
    if name == "__version__":
        from lash_cli.version import __version__

        return __version__
    if name == "__all__":
        return __dir__()
    if not name.startswith("_"):
        from importlib import import_module

        api = import_module("lash_cli.api")
        if name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'lash_cli' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    from importlib import import_module

    return sorted([*import_module("lash_cli.api").__all__, "__version__"])
