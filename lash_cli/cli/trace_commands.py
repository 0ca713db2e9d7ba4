"""`lash trace html`: a trace as one page to read in a browser (contract 04 §9).

Reads a file and writes a file; no store is opened and nothing leaves the
machine. The page holds what the trace holds, so it is as private: mode 0600.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from lash_cli.cli.out_files import STDOUT_MARK, check_writable, write_named
from lash_cli.cli.output import emit_one
from lash_cli.core.codec import storable
from lash_cli.errors import NotFoundError, UsageError
from lash_cli.paths import regular_or_given


def html(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A trace: JSON lines of lash turn --trace.")],
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write the page there.")] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Write the page to stdout.")] = False,
    title: Annotated[str | None, typer.Option(help="The page's title; the name of the trace if not given.")] = None,
) -> int:
    """Make one self-contained HTML page of a trace, beside it if not said otherwise.

    The page needs no network and nothing beside it. A line that is not JSON is
    an error naming its number; records of unknown kinds are shown as they are.
    """
    from lash_cli.views.trace_page import trace_lines, trace_page

    if stdout and out is not None:
        raise UsageError("--stdout and --out exclude each other")
    stdout = stdout or out == STDOUT_MARK
    lines = trace_lines(_read(file))
    name = storable(os.path.basename(file))
    page = trace_page(lines, title=storable(title) if title else os.path.splitext(name)[0] or name, source=name)
    if stdout:
        sys.stdout.flush()
        sys.stdout.buffer.write(page.encode())  # what the page says of itself, whatever the locale says
        return 0
    path = out or os.path.splitext(file)[0] + ".html"
    if os.path.exists(path) and os.path.samefile(path, file):
        raise UsageError(f"the page would replace the trace {file}", hint="name another file with --out FILE")
    check_writable(path)
    write_named(path, page.encode())
    emit_one("TracePage", {"id": path, "file": path, "records": len(lines)}, text=path)
    return 0


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", opener=regular_or_given) as file:
            return file.read()
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no trace {path}", code="trace_not_found", hint="write one: lash turn … --trace FILE"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read the trace {path}: {error.strerror}", code="trace_unreadable") from error
