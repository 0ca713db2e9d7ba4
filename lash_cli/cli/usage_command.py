"""`lash usage`: what sessions cost, and what happened for it (contract 08 §5.1, 06 §2).

The ledger by source and model is what was paid, failed attempts included; the
attempts come from the records that were committed with each turn, so they tell
the same however often a turn had to be driven.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lash_cli.cli.documents import Document, usage_document, usage_report_document
from lash_cli.cli.durations import moment_ms
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_many, emit_one, safe, terminal_width
from lash_cli.cli.reading import named_session, read_session_row, reading_store, run_inline
from lash_cli.cli.spending import cost_document, cost_of, grouped, parse_groups, spent_document
from lash_cli.core.attempts import AttemptReport, attempt_report
from lash_cli.core.llm import LlmCallRecord
from lash_cli.core.usage import usage_report
from lash_cli.errors import UsageError
from lash_cli.store.base import ReadScope, RuntimePersistence
from lash_cli.system import SystemClock

if TYPE_CHECKING:
    from lash_cli.core.pricing import Prices
    from lash_cli.store.shelf_records import UsageTotal

TURNS_PER_PAGE = 500
_COLUMN_OF = {"session": "session_name"}
_FIGURES = ("input_tokens", "cache_read_input_tokens", "output_tokens", "total_tokens", "cost_micros", "currency")


def command(
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="Id, name, @last or @any.")] = None,
    by: Annotated[list[str] | None, typer.Option(metavar="WHAT", help="Group by day, model, session, source.")] = None,
    since: Annotated[str | None, typer.Option(metavar="WHEN", help="Spent since: 2h, 7d or a date.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All sessions, whatever LASH_SESSION says.")] = False,
) -> int:
    """What a session cost, or all of them: tokens, and money where the price of the model is known.

    Of one session: tokens by source and model, attempts that failed, and who
    really answered. Without SESSION, or with --by or --since: a row for each
    day (of UTC), or whatever --by names, and its share as a bar on a terminal.
    Prices are those of the catalogue and of [models.NAME.prices]; a cost of
    which a part is not known is not told.
    """
    if everything and session is not None:
        raise UsageError("--all and a SESSION exclude each other")
    groups = parse_groups(by)
    is_of_one = session is not None or (not everything and bool(current().environment.get("LASH_SESSION")))
    if is_of_one and not groups and since is None:
        return _show_session(session)
    since_ms = moment_ms(since, SystemClock().now_ms())
    totals = run_inline(lambda: _totals(session, is_of_one, since_ms))
    return _show_rows(totals, groups or ("day",))


def _show_session(reference: str | None) -> int:
    document = run_inline(lambda: _read(reference))
    text = None
    if not current().output.is_machine:
        from lash_cli.views.turns import usage_report_text

        text = usage_report_text(document, clean=safe)
    emit_one("SessionUsage", document, text=text, name=document["session"])
    return 0


def _show_rows(totals: Sequence[UsageTotal], groups: Sequence[str]) -> int:
    rows = [spent_document(spent) for spent in grouped(totals, groups, _price_of)]
    options = current().output
    text = None
    if options.format == "text":
        from lash_cli.views.usage import usage_table

        width = terminal_width()
        (total,) = grouped(totals, (), _price_of) or (None,)
        has_bars = width is not None and not options.plain
        text = (
            usage_table(rows, spent_document(total), width=width, bars=has_bars, ascii_only=options.ascii)
            if total is not None
            else ""
        )
    emit_many("UsageList", rows, columns=(*(_COLUMN_OF.get(group, group) for group in groups), *_FIGURES), text=text)
    return 0


def _price_of(model: str) -> Prices | None:
    from lash_cli.wiring import known_model

    return known_model(current().settings, model).prices


async def _totals(reference: str | None, is_of_one: bool, since_ms: int | None) -> tuple[UsageTotal, ...]:
    async with reading_store() as store:
        if not is_of_one:
            return () if store is None else await store.usage_totals(since_ms=since_ms)
        row = await read_session_row(store, reference)
        assert store is not None
        return await store.usage_totals(session_id=row.meta.session_id, since_ms=since_ms)


async def _read(reference: str | None) -> Document:
    async with named_session(reading_store(), reference) as (store, row):
        session_id = row.meta.session_id
        read = await store.load_session(session_id, ReadScope.HEAD)
        calls = [call async for call in _calls(store, session_id)]
        totals = await store.usage_totals(session_id=session_id)
    return {
        "session": session_id,
        "session_name": row.meta.name,
        "turns": row.turn_state.turn_index,
        **usage_report_document(usage_report(read.token_ledger if read is not None else ())),
        **cost_document(cost_of(totals, _price_of)),
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
