"""`lash version`: what is running (contract 08 §5.4)."""

from __future__ import annotations

import platform
import sqlite3

from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_one
from lash_cli.version import __version__


def command() -> int:
    """Print the versions of lash, Python and SQLite."""
    current().stand_alone()
    document = {
        "id": __version__,
        "version": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
    }
    emit_one("Version", document, text=f"lash {__version__}")
    return 0
