"""`lash usage`: what a session cost, and what happened for it (contract 08 §5.1, 06 §2).

The ledger by source and model is what was paid, failed attempts included; the
attempts come from the records that were committed with each turn, so they tell
the same however often a turn had to be driven.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import typer

from lash_cli.cli.documents import Document, usage_document, usage_report_document
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_one, safe
from lash_cli.cli.reading import read_session_row, reading_store, run_inline
from lash_cli.core.attempts import AttemptReport, attempt_report
from lash_cli.core.llm import LlmCallRecord
from lash_cli.core.usage import usage_report
from lash_cli.store.base import ReadScope, RuntimePersistence

TURNS_PER_PAGE = 500


def command(
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="Id, name, @last or @any.")] = None,
) -> int:
    """What a session cost: tokens by source and model, attempts that failed, and who really answered."""
    document = run_inline(lambda: _read(session))
    text = None
    if not current().output.is_machine:
        from lash_cli.views.turns import usage_report_text

        text = usage_report_text(document, clean=safe)
    emit_one("SessionUsage", document, text=text, name=document["session"])
    return 0


async def _read(reference: str | None) -> Document:
    async with reading_store() as store:
        row = await read_session_row(store, reference)
        assert store is not None
        session_id = row.meta.session_id
        read = await store.load_session(session_id, ReadScope.HEAD)
        calls = [call async for call in _calls(store, session_id)]
    return {
        "session": session_id,
        "session_name": row.meta.name,
        "turns": row.turn_state.turn_index,
        **usage_report_document(usage_report(read.token_ledger if read is not None else ())),
        "attempts": _attempts_document(attempt_report(calls)),
    }


async def _calls(store: RuntimePersistence, session_id: str) -> AsyncIterator[LlmCallRecord]:
    """Every model call of every committed turn."""
    before: int | None = None
    while True:
        page = await store.turns(session_id, limit=TURNS_PER_PAGE, before=before)
        for record in page:
            for call in record.summary.llm_calls if record.summary is not None else ():
                yield call
        if len(page) < TURNS_PER_PAGE:
            return
        before = page[-1].turn_index


def _attempts_document(report: AttemptReport) -> Document:
    return {
        "calls": report.calls,
        "attempts": report.attempts,
        "completed": report.completed,
        "failed": report.failed,
        "aborted": report.aborted,
        "interrupted": report.interrupted,
        "retry_wait_ms": report.retry_wait_ms,
        "unanswered_usage": usage_document(report.unanswered_usage),
        "served": [
            {"model": served.model, "attempts": served.attempts, **usage_document(served.usage)}
            for served in report.served
        ],
    }
