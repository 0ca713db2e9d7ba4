"""`lash log`: the committed transcript of a session, nothing else (contract 08 §5.1).

Live text of a running turn is never part of it: what is not committed is not
said. As JSON every part of every message is there; the options that shorten
the text only choose what people see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from lash_cli.cli.documents import message_document, transcript_document
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_line, emit_one, safe, write
from lash_cli.cli.reading import read_session_row, reading_store, run_async
from lash_cli.core.content import Role
from lash_cli.core.graph import ConversationPayload, SessionNode, active_path
from lash_cli.errors import UsageError
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionRow, TurnRecord
from lash_cli.views.transcript import TranscriptEntry, transcript_text

TURNS_PER_PAGE = 500


def command(
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="Id, name, @last or @any.")] = None,
    last: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the last N messages.")] = None,
    turn: Annotated[str | None, typer.Option(metavar="TURN", help="Only the messages of one turn.")] = None,
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="user, assistant, system or event.")] = None,
    reasoning: Annotated[bool, typer.Option("--reasoning", help="Show reasoning too.")] = False,
    tools: Annotated[bool, typer.Option("--tools", help="Show tool calls and results in full.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Do not make terminal escapes harmless.")] = False,
) -> int:
    """Print the committed transcript of a session.

    As JSON: {"schema":"lash/1","kind":"Transcript","session":…,"items":[…]}. With -o jsonl one message per line.
    """
    roles = _roles(role)
    row, entries = run_async(_read(session, turn))
    shown = [entry for entry in entries if roles is None or entry.message.role in roles]
    if last is not None:
        shown = shown[-last:]
    options = current().output
    if options.format == "text" and options.template is None and options.fields is None:
        text = transcript_text(shown, clean=str if raw else safe, reasoning=reasoning, tools=tools)
        write(text + "\n" if text else "")
        return 0
    documents = [message_document(entry.message, at_ms=entry.at_ms, turn_id=entry.turn_id) for entry in shown]
    if options.format == "jsonl" and options.template is None and options.fields is None:
        for document in documents:
            emit_line(document)
        return 0
    emit_one(
        "Transcript",
        transcript_document(row, documents),
        text=transcript_text(shown, clean=safe, reasoning=reasoning, tools=tools),
        name="\n".join(document["id"] for document in documents),
    )
    return 0


def _roles(texts: Sequence[str] | None) -> frozenset[Role] | None:
    if not texts:
        return None
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    known = {role.value: role for role in Role}
    for word in words:
        if word not in known:
            raise UsageError(f"unknown role {word!r}", hint=f"choose from: {', '.join(known)}")
    return frozenset(known[word] for word in words)


async def _read(reference: str | None, turn_id: str | None) -> tuple[SessionRow, list[TranscriptEntry]]:
    async with reading_store() as store:
        row = await read_session_row(store, reference)
        assert store is not None
        session_id = row.meta.session_id
        record = None
        if turn_id is not None:
            from lash_cli.cli.show_command import find_turn

            record = await find_turn(store, session_id, turn_id)
        read = await store.load_session(session_id, ReadScope.ACTIVE_PATH)
        nodes = read.nodes if read is not None else ()
        if record is not None:
            nodes = await _nodes_of_turn(store, record, nodes)
        turns = await _turns_of_nodes(store, session_id, nodes)
    return row, [entry for node in nodes if (entry := _entry(node, turns)) is not None]


async def _turns_of_nodes(store: RuntimePersistence, session_id: str, nodes: tuple[SessionNode, ...]) -> dict[str, str]:
    """Which turn committed each node, as far as a turn did: a turn's nodes stand together on the path."""
    if not nodes:
        return {}
    starts: dict[str, TurnRecord] = {}
    before: int | None = None
    while nodes[0].node_id not in starts:
        page = await store.turns(session_id, limit=TURNS_PER_PAGE, before=before)
        starts.update((record.first_node_id, record) for record in page if record.first_node_id is not None)
        if len(page) < TURNS_PER_PAGE:
            break
        before = page[-1].turn_index
    owners: dict[str, str] = {}
    running: TurnRecord | None = None
    for node in nodes:
        running = starts.get(node.node_id, running)
        if running is not None:
            owners[node.node_id] = running.turn_id
            running = None if node.node_id == running.last_node_id else running
    return owners


async def _nodes_of_turn(
    store: RuntimePersistence, record: TurnRecord, path: tuple[SessionNode, ...]
) -> tuple[SessionNode, ...]:
    """The nodes a turn committed, also when a later branch or frame left them behind."""
    if record.first_node_id is None or record.last_node_id is None:
        return ()
    if all(node.node_id != record.last_node_id for node in path):
        read = await store.load_session(record.session_id, ReadScope.FULL_GRAPH)
        path = active_path(read.nodes, record.last_node_id) if read is not None else ()
    ids = [node.node_id for node in path]
    return path[ids.index(record.first_node_id) : ids.index(record.last_node_id) + 1]


def _entry(node: SessionNode, turns: dict[str, str]) -> TranscriptEntry | None:
    if not isinstance(node.payload, ConversationPayload) or node.payload.message.is_transient:
        return None
    return TranscriptEntry(node.payload.message, node.at_ms, turns.get(node.node_id))
