"""`lash show`: everything known about one session, or one of its turns (contract 08 §5.1).

Read-only: it takes no lease, and what it shows is the committed state plus who
is working on the next one.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lash_cli.cli.documents import (
    Document,
    frame_document,
    input_document,
    policy_document,
    session_document,
    tool_document,
    turn_document,
    usage_report_document,
)
from lash_cli.cli.output import emit_one, safe
from lash_cli.cli.reading import read_session_row, reading_store, run_async
from lash_cli.core.content import message_text
from lash_cli.core.graph import ConversationPayload
from lash_cli.core.policy import PromptLayer, SessionPolicy
from lash_cli.core.usage import usage_report
from lash_cli.errors import NotFoundError
from lash_cli.store.base import PersistedSessionRead, ReadScope, RuntimePersistence, SessionRow, TurnRecord
from lash_cli.system import SystemClock, is_definitely_dead


def command(
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="Id, name, @last or @any.")] = None,
    policy: Annotated[bool, typer.Option("--policy", help="Only the effective policy.")] = False,
    tools: Annotated[bool, typer.Option("--tools", help="Only the tools it may call.")] = False,
    lease: Annotated[bool, typer.Option("--lease", help="Only who holds it, and until when.")] = False,
    turn: Annotated[str | None, typer.Option(metavar="TURN", help="One of its turns instead.")] = None,
) -> int:
    """Show a session: head, policy, lease, queue, frames, usage and warnings."""
    if turn is not None:
        _show_turn(run_async(_read_turn(session, turn)))
        return 0
    document = run_async(_read(session, with_tools=tools))
    emit_one("Session", document, text=_text(document, policy=policy, tools=tools, lease=lease))
    return 0


def _text(document: Document, *, policy: bool, tools: bool, lease: bool) -> str:
    from lash_cli.views.session import lease_text, policy_text, session_text, tools_text

    sections = []
    if policy:
        sections.append(policy_text(document["policy"], clean=safe))
    if tools:
        sections.append(tools_text(document["tools"], clean=safe))
    if lease:
        sections.append(lease_text(document["lease"], clean=safe))
    return "\n\n".join(sections) if sections else session_text(document, clean=safe)


def _show_turn(document: Document) -> None:
    from lash_cli.views.session import turn_text

    emit_one("Turn", document, text=turn_text(document, clean=safe))


async def _read(reference: str | None, *, with_tools: bool) -> Document:
    async with reading_store() as store:
        row = await read_session_row(store, reference)
        assert store is not None
        document = await session_detail(store, row)
    if with_tools:
        document["tools"] = await _tools(row.meta.session_id)
    return document


async def session_detail(store: RuntimePersistence, row: SessionRow) -> Document:
    """The whole Session document of `row`; `tools` stays null, because tools need a runtime."""
    now_ms = SystemClock().now_ms()
    session_id = row.meta.session_id
    read = await store.load_session(session_id, ReadScope.ACTIVE_PATH)
    unfinished = await store.unfinished_turns(session_id)
    waiting = await store.inputs(session_id, pending_only=True)
    document = session_document(row, now_ms, is_definitely_dead)
    document.update(
        policy=policy_document(_policy(row)),
        head={"revision": row.head_revision, "leaf_node": row.leaf_node_id, "frame": _frame_id(read)},
        frames=[frame_document(frame) for frame in read.frames] if read else [],
        usage=usage_report_document(usage_report(read.token_ledger if read else ())),
        queue=[input_document(pending) for pending in waiting],
        unfinished_turn=turn_document(unfinished[0], None) if unfinished else None,
        warnings=_warnings(document, unfinished),
        tools=None,
    )
    return document


def _policy(row: SessionRow) -> SessionPolicy:
    config = row.config
    return SessionPolicy(
        model=config.model,
        provider_id=config.provider_id,
        session_id=row.meta.session_id,
        max_turns=config.max_turns,
        prompt=config.prompt or PromptLayer(),
    )


def _frame_id(read: PersistedSessionRead | None) -> str | None:
    if read is None:
        return None
    from lash_cli.core.frames import current_frame

    return current_frame(read.frames).frame_id


def _warnings(document: Document, unfinished: tuple[TurnRecord, ...]) -> list[str]:
    """What a person should know before the next turn."""
    if not unfinished or document["status"] == "running":
        return []
    turn = unfinished[0]
    return [
        f"turn {turn.turn_id} was interrupted; what it had finished is kept, and the next turn of this session"
        f" finishes it first: lash resume {document['name']}"
    ]


async def _tools(session_id: str) -> list[Document]:
    from lash_cli.cli.running import opened_core

    async with opened_core() as core:
        handle = await core.open_session(session_id, create=False)
        return [tool_document(manifest) for manifest in handle.tools().active_manifests()]


async def _read_turn(reference: str | None, turn_id: str) -> Document:
    async with reading_store() as store:
        row = await read_session_row(store, reference)
        assert store is not None
        record = await find_turn(store, row.meta.session_id, turn_id)
        return turn_document(record, await _answer(store, record))


async def find_turn(store: RuntimePersistence, session_id: str, turn_id: str) -> TurnRecord:
    """The turn of that id; raises `NotFoundError` (`turn_unknown`)."""
    record = await store.turn(session_id, turn_id)
    if record is None:
        raise NotFoundError(
            f"session {session_id} has no turn {turn_id!r}",
            code="turn_unknown",
            hint=f"its transcript names them: lash log {session_id} -o json",
            details={"session": session_id, "turn_id": turn_id},
        )
    return record


async def _answer(store: RuntimePersistence, record: TurnRecord) -> str | None:
    """The answer of a committed turn, from the node that holds it."""
    summary = record.summary
    if summary is None or summary.answer_node_id is None:
        return None
    node = await store.load_node(record.session_id, summary.answer_node_id)
    if node is None or not isinstance(node.payload, ConversationPayload):
        return None
    return message_text(node.payload.message)
