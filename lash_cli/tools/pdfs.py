"""The text of a PDF, for read_file (contract 05 §6); with the extra `[pdf]`, which brings pypdf.

Without it, and for a document without text such as a scan, the answer says what else can be done.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec

from lash_cli.core.codec import decode_any
from lash_cli.core.protocols import CancelSignal
from lash_cli.core.tools import FailureClass
from lash_cli.tools.faults import ToolFault, invalid
from lash_cli.tools.process_group import ProcessGroups
from lash_cli.tools.workers import run_worker

PDF_SECONDS = 30.0
PDF_MEMORY_BYTES = 2 * 1024**3

_WORKER = Path(__file__).with_name("pdf_worker.py")
_ATTACH = "pass attach_as=application/pdf if the model reads PDF attachments"
_SHOWN_CHARS = 200


class _Item(msgspec.Struct, frozen=True):
    """One line of the worker."""

    text: str | None = None
    pages: int | None = None
    is_cut: bool = False
    error: str | None = None


async def pdf_text(document: bytes, path: str, groups: ProcessGroups, cancel: CancelSignal) -> bytes | None:
    """The text page by page, as UTF-8; None when cancelled. Raises `ToolFault` when there is none to be had."""
    found = importlib.util.find_spec("pypdf")
    if found is None or found.origin is None:
        raise invalid(
            "pdf_not_readable",
            f"{path} is a PDF and cannot be read as text here, which takes pip install 'lash-cli[pdf]'; convert it"
            f" first (for example with pdftotext), or {_ATTACH}",
        )
    site = str(Path(found.origin).parent.parent)
    try:
        output = await run_worker(
            groups, _WORKER, (site,), document, cancel, PDF_SECONDS, memory_bytes=PDF_MEMORY_BYTES
        )
    except TimeoutError as error:
        text = f"{path} was not read within {PDF_SECONDS:.0f} s; {_ATTACH}"
        raise ToolFault(FailureClass.TIMEOUT, "pdf_timeout", text) from error
    return None if output is None else _joined(output, path).encode("utf-8", "replace")


def _joined(output: bytes, path: str) -> str:
    try:
        *pages, last = (decode_any(line, _Item) for line in output.splitlines())
    except (msgspec.DecodeError, ValueError):  # ValueError also for no line at all: memory ran out, or it was killed
        pages, last = [], _Item(error="its reader died")
    if last.pages is None:
        reason = (last.error or "its reader stopped")[:_SHOWN_CHARS]
        raise invalid("pdf_not_readable", f"{path} is a PDF whose text cannot be read: {reason}; {_ATTACH}")
    if not any(page.text and page.text.strip() for page in pages):
        raise invalid("pdf_not_readable", f"{path} is a PDF of {last.pages} pages without text; {_ATTACH}")
    shown = [f"--- page {number} of {last.pages} ---\n{page.text or ''}" for number, page in enumerate(pages, 1)]
    if last.is_cut:
        shown.append("(more text follows, which is too much to read)")
    return "\n".join(shown)
