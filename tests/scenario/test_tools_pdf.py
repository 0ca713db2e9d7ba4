"""read_file of a PDF: its text by page, and what is said where there is none (contract 05 §6)."""

from __future__ import annotations

import asyncio
import importlib.util
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pypdf
import pytest
from support.tools import Workbench, failure_of, value_of

from lash_cli.core.tools import FailureClass
from lash_cli.tools import pdfs

ATTACH = "pass attach_as=application/pdf if the model reads PDF attachments"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Workbench]:
    made = Workbench(tmp_path)
    yield made
    await made.provider.aclose()


def document(*pages: tuple[str, ...]) -> bytes:
    """A PDF of these pages, each given by its lines."""
    bodies = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    for lines in pages:
        shown = "".join(f"({line}) Tj T* " for line in lines)
        content = f"BT /F1 12 Tf 14 TL 72 720 Td {shown}ET".encode()
        bodies.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(bodies)} 0 R /Resources {font} >>"
        bodies.append(page.encode())
        kids.append(f"{len(bodies)} 0 R")
    bodies[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(kids)}] >>".encode()
    made, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(bodies, 1):
        offsets.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(made)
    made += b"xref\n0 %d\n0000000000 65535 f \n" % (len(bodies) + 1)
    made += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    made += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, start)
    return bytes(made)


async def test_the_text_of_a_pdf_is_numbered_page_by_page(bench: Workbench) -> None:
    bench.write("plan.pdf", document(("The plan", "is good"), ("so far",)))
    assert value_of(await bench.call("read_file", path="plan.pdf")) == (
        "1: --- page 1 of 2 ---\n2: The plan\n3: is good\n4: --- page 2 of 2 ---\n5: so far"
    )
    part = value_of(await bench.call("read_file", path="plan.pdf", offset=3, limit=1))
    assert part == "3: is good\n(more lines follow; continue with offset=4)"
    assert failure_of(await bench.call("read_file", path="plan.pdf", offset=9)).code == "offset_past_end"


async def test_a_pdf_locked_without_a_password_is_read_and_another_is_not(bench: Workbench) -> None:
    for name, password in (("open.pdf", ""), ("locked.pdf", "secret")):
        writer = pypdf.PdfWriter()
        writer.append(pypdf.PdfReader(io.BytesIO(document(("inside",)))))
        writer.encrypt(password, "owner", algorithm="RC4-128")
        made = io.BytesIO()
        writer.write(made)
        bench.write(name, made.getvalue())
    assert value_of(await bench.call("read_file", path="open.pdf")) == "1: --- page 1 of 1 ---\n2: inside"
    reason = failure_of(await bench.call("read_file", path="locked.pdf"))
    assert reason.message == f"locked.pdf is a PDF whose text cannot be read: it is encrypted; {ATTACH}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%PDF-1.7\n", "whose text cannot be read: "),
        (document(("x",))[:300], "whose text cannot be read: "),
        (document((), ()), "of 2 pages without text"),
    ],
    ids=["only a head", "cut off", "a scan"],
)
async def test_a_pdf_without_text_says_so_and_what_else_can_be_done(
    bench: Workbench, content: bytes, said: str
) -> None:
    bench.write("a.pdf", content)
    reason = failure_of(await bench.call("read_file", path="a.pdf"))
    assert (reason.failure_class, reason.code) == (FailureClass.INVALID_REQUEST, "pdf_not_readable")
    assert said in reason.message and reason.message.endswith(ATTACH)


async def test_without_the_extra_the_answer_names_it(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    bench.write("a.pdf", document(("x",)))
    reason = failure_of(await bench.call("read_file", path="a.pdf"))
    assert reason.code == "pdf_not_readable"
    assert "pip install 'lash-cli[pdf]'" in reason.message and reason.message.endswith(ATTACH)


async def test_a_pdf_that_takes_for_ever_neither_holds_the_call_nor_survives(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = bench.write("endless.py", "while True: pass\n")
    monkeypatch.setattr(pdfs, "_WORKER", endless)
    bench.write("a.pdf", document(("x",)))
    call = asyncio.ensure_future(bench.call("read_file", path="a.pdf"))
    await bench.clock.wait_for_sleepers()
    bench.clock.tick(pdfs.PDF_SECONDS)
    assert failure_of(await call).code == "pdf_timeout"
    again = asyncio.ensure_future(bench.call("read_file", path="a.pdf"))
    await bench.clock.wait_for_sleepers()
    bench.cancel.set()
    assert (await again).status == "cancelled"


async def test_a_reader_that_dies_is_a_failure(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = bench.write("dying.py", 'import os\nprint(\'{"text": "half\', flush=True)\nos.kill(os.getpid(), 9)\n')
    monkeypatch.setattr(pdfs, "_WORKER", dying)
    bench.write("a.pdf", document(("x",)))
    assert "its reader died" in failure_of(await bench.call("read_file", path="a.pdf")).message


async def test_more_text_than_anybody_reads_is_cut(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = pdfs._WORKER.read_text().replace("TEXT_CHARS = 8 * 1024 * 1024", "TEXT_CHARS = 12")
    monkeypatch.setattr(pdfs, "_WORKER", bench.write("short.py", worker))
    bench.write("a.pdf", document(("first page",), ("second page",), ("third page",)))
    assert value_of(await bench.call("read_file", path="a.pdf")) == (
        "1: --- page 1 of 3 ---\n2: first page\n3: --- page 2 of 3 ---\n4: se\n"
        "5: (more text follows, which is too much to read)"
    )
