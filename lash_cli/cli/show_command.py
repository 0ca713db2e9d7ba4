"""`lash show`: everything known about one session, or one of its turns (contract 08 §5.1).

The command line, and what only the command offers: a turn, and the tools, for
which a runtime is opened. The session itself is in `session_detail`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.cli.arguments import SessionArgument
from lash_cli.cli.documents import Document, tool_document
from lash_cli.cli.output import emit_one, safe
from lash_cli.cli.reading import named_session, reading_store, run_async, run_inline
from lash_cli.cli.session_detail import find_turn, print_session, read_session_detail, show_session
from lash_cli.cli.turn_documents import attempts_document, turn_document
from lash_cli.core.codec import decode_any
from lash_cli.core.content import message_text
from lash_cli.core.effect import EffectOutcome, LlmCallOutcome, TurnScope, scope_key
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.llm import LlmCallRecord
from lash_cli.store.base import RuntimePersistence, TurnRecord


def command(
    session: SessionArgument = None,
    policy: Annotated[bool, typer.Option("--policy", help="Only the effective policy.")] = False,
    tools: Annotated[bool, typer.Option("--tools", help="Only the tools it may call.")] = False,
    lease: Annotated[bool, typer.Option("--lease", help="Only who holds it, and until when.")] = False,
    turn: Annotated[str | None, typer.Option(metavar="TURN", help="One of its turns instead.")] = None,
) -> int:
    """Show a session: head, policy, lease, queue, frames, usage and warnings."""
    if turn is not None:
        _show_turn(run_inline(lambda: read_turn(session, turn)))
        return 0
    if not tools:
        return show_session(session, policy=policy, lease=lease)
    print_session(run_async(_read_with_tools(session)), policy=policy, tools=True, lease=lease)
    return 0


def _show_turn(document: Document) -> None:
    from lash_cli.views.turns import turn_text

    emit_one("Turn", document, text=turn_text(document, clean=safe), is_paged=True)


async def _read_with_tools(reference: str | None) -> Document:
    document = await read_session_detail(reference)
    document["tools"] = await _tools(document["id"])
    return document


async def _tools(session_id: str) -> list[Document]:
    from lash_cli.cli.running import opened_at

    async with opened_at(session_id, "show") as (core, _):
        handle = await core.open_session(session_id, create=False)
        return [tool_document(manifest) for manifest in handle.tools().active_manifests()]


async def read_turn(reference: str | None, turn_id: str) -> Document:
    """The Turn document of one turn; raises `NotFoundError` (`turn_unknown`) and what `resolve_session` raises."""
    async with named_session(reading_store(), reference) as (store, row):
        record = await find_turn(store, row.meta.session_id, turn_id)
        document = turn_document(record, await _answer(store, record))
        if record.summary is None:
            document["model_calls"] = attempts_document(await _journalled_calls(store, record))
        return document


async def _journalled_calls(store: RuntimePersistence, record: TurnRecord) -> list[LlmCallRecord]:
    """The finished model calls of a turn that is not committed: they are in its journal and will be in its summary."""
    rows = await store.journal_rows(scope_key(TurnScope(record.session_id, record.turn_id)))
    outcomes = [decode_any(row.outcome, EffectOutcome) for row in rows if row.outcome is not None]
    calls = [outcome.result.record for outcome in outcomes if isinstance(outcome, LlmCallOutcome)]
    return sorted(calls, key=lambda call: call.attempts[0].started_at_ms if call.attempts else 0)


async def _answer(store: RuntimePersistence, record: TurnRecord) -> str | None:
    """The answer of a committed turn, from the node that holds it."""
    summary = record.summary
    if summary is None or summary.answer_node_id is None:
        return None
    node = await store.load_node(record.session_id, summary.answer_node_id)
    if node is None or not isinstance(node.payload, ConversationPayload):
        return None
    return message_text(node.payload.message)
