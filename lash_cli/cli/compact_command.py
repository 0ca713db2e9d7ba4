"""`lash compact`: go on in a new frame that begins with a summary of the old one (contract 08 §5.1, 01 §11).

The model of the session writes the summary, so this costs a call. Nothing is
deleted, and the way back into the old frame is printed. A signal ends the call,
and then the session is as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lash_cli.cli.arguments import SessionArgument
from lash_cli.cli.documents import Document, usage_document
from lash_cli.cli.head_moves import rewind_command
from lash_cli.cli.output import emit_one, safe, say
from lash_cli.cli.reading import run_async
from lash_cli.cli.running import opened_at
from lash_cli.errors import ConfigError, LashError, TurnStoppedError

if TYPE_CHECKING:
    from lash_cli.api import CompactionReport
    from lash_cli.cli.signals import SignalState
    from lash_cli.store.base import SessionMeta


def command(
    session: SessionArgument = None,
    focus: Annotated[str | None, typer.Argument(metavar="[FOCUS]", help="What the summary must keep.")] = None,
) -> int:
    """Summarise what was said so far, to make room for what comes.

    The next turn sees the summary and the most recent turns; everything else
    stays in the session, where lash log --frames and lash tree show it. A
    session that has nothing to summarise is left as it is.
    """
    document = run_async(_run(session, focus))
    emit_one("Compaction", document, text=safe(_text(document)), name=document["frame"] or "")
    return 0


def _text(document: Document) -> str:
    name, before, after = document["session_name"], document["messages_before"], document["messages_after"]
    if not document["compacted"]:
        return f"{name} has nothing to summarise"
    return f"compacted {name}: {before} messages became a summary and {after - 1} more\nundo: {document['undo']}"


async def _run(reference: str | None, focus: str | None) -> Document:
    from lash_cli.cli.signals import turn_signals
    from lash_cli.core.policy import SessionSpec

    async with opened_at(reference, "compact") as (core, meta):
        session = await core.open_session(meta.session_id, spec=SessionSpec(inherit="stored"), create=False)
        count, provider = len(session.read_view().messages), session.policy_snapshot.provider_id
        say(f"summarising {meta.name}: {count} messages")

        def stop() -> None:
            session.cancel_running_turns(origin="signal")

        with turn_signals(stop, before_stop=core.store.finish_writes) as signals:
            report = await session.admin().compact_with_report(focus)
        session.close_handle()
    if report.reason == "no_summary":
        raise _failure(report, signals, provider)
    return _document(report, meta)


def _failure(report: CompactionReport, signals: SignalState, provider: str) -> LashError:
    """Why there is no summary; the session is as it was."""
    from lash_cli.cli.exit_status import interrupted_error, turn_error

    details = {"session": report.session_id, "usage": usage_document(report.usage)}
    if signals.received is not None:
        return interrupted_error(signals.received, details)
    error = turn_error(report.turn, details, provider=provider) if report.turn is not None else None
    if error is None:
        error = TurnStoppedError("the model gave no summary", code="compaction_empty", details=details)
    if not isinstance(error, ConfigError):
        # What the turn would be told speaks of the session the summary was asked for in, which is gone.
        error.hint = f"the session is as it was; try again with: lash compact {report.session_id}"
    return error


def _document(report: CompactionReport, meta: SessionMeta) -> Document:
    undo = rewind_command(report.session_id, report.previous_leaf_node_id) if report.is_opened else None
    return {
        "session": report.session_id,
        "session_name": meta.name,
        "compacted": report.is_opened,
        "reason": report.reason,
        "frame": report.frame_id,
        "previous_frame": report.previous_frame_id,
        "previous_node": report.previous_leaf_node_id,
        "messages_before": report.messages_before,
        "messages_after": report.messages_after,
        "summary": report.summary,
        "usage": usage_document(report.usage),
        "head_revision": report.head_revision,
        "undo": undo,
    }
