"""The committed transcript of a session: read, chosen from, printed (contract 08 §5.1 `log`).

Shared by the `log` command and its way around the parser, so it imports no
parser, and it reads without an event loop. What is not committed is not said:
live text of a running turn is never part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lash_cli.cli.documents import Document, message_document, transcript_document
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_many, emit_one, safe, warn_of_raw, write_shown
from lash_cli.cli.reading import named_session, reading_store, run_inline
from lash_cli.core.content import Message, Role
from lash_cli.core.graph import ConversationPayload, SessionNode, active_path
from lash_cli.errors import CorruptNode
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionRow, TurnRecord, TurnSpan

if TYPE_CHECKING:
    from lash_cli.core.frames import AgentFrame
    from lash_cli.core.observation import SessionCursor
    from lash_cli.views.safe_text import Clean

TURNS_PER_PAGE = 500


class CommittedMessage(NamedTuple):
    """A message, when it was committed, which turn made it and in which agent frame it was said."""

    message: Message
    at_ms: int
    turn_id: str | None
    frame_id: str | None = None


class TextChoice(NamedTuple):
    """What of a transcript people see: JSON always has every part."""

    reasoning: bool = False
    tools: bool = False
    raw: bool = False


class ReadTranscript(NamedTuple):
    """The messages that were read, the session they belong to and all its frames."""

    row: SessionRow
    messages: Sequence[CommittedMessage]
    frames: tuple[AgentFrame, ...] = ()


def show_transcript(
    reference: str | None = None,
    *,
    turn_id: str | None = None,
    roles: frozenset[Role] | None = None,
    last: int | None = None,
    since: SessionCursor | None = None,
    all_frames: bool = False,
    choice: TextChoice = TextChoice(),  # noqa: B008 - immutable
) -> int:
    """Print the chosen messages of the session `reference` names; returns the exit status.

    With `all_frames` those of the frames before the current one too. With `since` only what was committed after it, and
    the document has the cursor to go on from. Raises what
    `read_session_row` raises, and `NotFoundError` (`turn_unknown`).
    """
    cursor: str | None = None
    frames: tuple[AgentFrame, ...] = ()
    committed: Sequence[CommittedMessage]
    if since is None:
        row, committed, frames = run_inline(lambda: read_transcript(reference, turn_id, all_frames=all_frames))
    else:
        from lash_cli.cli.log_follow import read_since, warn_of_gap

        row, commit = run_inline(lambda: read_since(reference, since))
        committed, cursor = commit.messages, str(commit.cursor)
        if commit.gap is not None:
            warn_of_gap()
    shown = [entry for entry in committed if roles is None or entry.message.role in roles]
    if last is not None:
        shown = shown[-last:]
    options = current().output
    if choice.raw and not options.is_machine:
        warn_of_raw()
    if options.format == "text" and not options.is_chosen_from:
        text = transcript_lines(shown, choice, frames, clean=str if choice.raw else safe)
        write_shown(text + "\n" if text else "", is_paged=True)
        return 0
    documents = [
        message_document(entry.message, at_ms=entry.at_ms, turn_id=entry.turn_id, frame_id=entry.frame_id)
        for entry in shown
    ]
    if options.format == "jsonl":
        emit_many("MessageItem", documents, columns=("id", "role", "text"))
        return 0
    _print_document(transcript_document(row, documents, frames, cursor=cursor), shown, choice, frames)
    return 0


def _print_document(
    document: Document, shown: list[CommittedMessage], choice: TextChoice, frames: tuple[AgentFrame, ...]
) -> None:
    emit_one(
        "Transcript",
        document,
        text=None if current().output.is_machine else transcript_lines(shown, choice, frames, clean=safe),
        name="\n".join(item["id"] for item in document["items"]),
    )


def transcript_lines(
    shown: Sequence[CommittedMessage], choice: TextChoice, frames: Iterable[AgentFrame] = (), *, clean: Clean
) -> str:
    """The messages as people read them, without a final line feed; frames are named by why they were opened."""
    from lash_cli.views.transcript import TranscriptEntry, transcript_text

    names = {frame.frame_id: f"{frame.reason}  {frame.frame_id}" for frame in frames if frame.previous_frame_id}
    entries = [TranscriptEntry(entry.message, names.get(entry.frame_id or "")) for entry in shown]
    return transcript_text(entries, clean=clean, reasoning=choice.reasoning, tools=choice.tools)


async def read_transcript(
    reference: str | None, turn_id: str | None = None, *, all_frames: bool = False
) -> ReadTranscript:
    """The session `reference` names and its messages in order, or those of one turn; raises as `show_transcript`."""
    async with named_session(reading_store(), reference) as (store, row):
        session_id = row.meta.session_id
        record = None
        if turn_id is not None:
            from lash_cli.cli.session_detail import find_turn

            record = await find_turn(store, session_id, turn_id)
        read = await store.load_session(session_id, ReadScope.FULL_GRAPH if all_frames else ReadScope.ACTIVE_PATH)
        nodes = read.nodes if read is not None else ()
        if read is not None and all_frames:
            nodes = active_path(nodes, read.leaf_node_id)
        if record is not None:
            nodes = await _nodes_of_turn(store, record, nodes)
        owners = await turns_of_nodes(store, session_id, nodes)
    return ReadTranscript(row, committed_messages(nodes, owners), read.frames if read is not None else ())


def committed_messages(nodes: Sequence[SessionNode], owners: Mapping[str, str]) -> tuple[CommittedMessage, ...]:
    """The messages of `nodes`; `owners` tells the turn of a node."""
    return tuple(entry for node in nodes if (entry := _entry(node, owners)) is not None)


async def turns_of_nodes(store: RuntimePersistence, session_id: str, nodes: tuple[SessionNode, ...]) -> dict[str, str]:
    """Which turn committed each node, as far as a turn did: a turn's nodes stand together on the path."""
    if not nodes:
        return {}
    starts: dict[str, TurnSpan] = {}
    before: int | None = None
    while nodes[0].node_id not in starts:
        page = await store.turn_spans(session_id, limit=TURNS_PER_PAGE, before=before)
        starts.update((span.first_node_id, span) for span in page if span.first_node_id is not None)
        if len(page) < TURNS_PER_PAGE:
            break
        before = page[-1].turn_index
    return owners_of(nodes, starts)


def owners_of(nodes: Sequence[SessionNode], starts: Mapping[str, TurnSpan]) -> dict[str, str]:
    """The turn of each node that a turn committed; `starts` tells which turns begin where."""
    owners: dict[str, str] = {}
    running: TurnSpan | None = None
    for node in nodes:
        running = starts.get(node.node_id, running)
        if running is not None:
            owners[node.node_id] = running.turn_id
            running = None if node.node_id == running.last_node_id else running
    return owners


async def _nodes_of_turn(
    store: RuntimePersistence, record: TurnRecord, path: tuple[SessionNode, ...]
) -> tuple[SessionNode, ...]:
    """The nodes a turn committed, also when a later branch or frame left them behind or a hole cut them off.

    Raises `CorruptNode` for a turn that lacks one.
    """
    if record.first_node_id is None or record.last_node_id is None:
        return ()
    if not {record.first_node_id, record.last_node_id} <= {node.node_id for node in path}:
        read = await store.load_session(record.session_id, ReadScope.FULL_GRAPH)
        path = active_path((*read.nodes, *read.cut_off), record.last_node_id) if read is not None else ()
    ids = [node.node_id for node in path]
    if record.first_node_id not in ids:
        raise CorruptNode(f"a node of turn {record.turn_id} is missing", details={"turn_id": record.turn_id})
    return path[ids.index(record.first_node_id) : ids.index(record.last_node_id) + 1]


def _entry(node: SessionNode, turns: Mapping[str, str]) -> CommittedMessage | None:
    if not isinstance(node.payload, ConversationPayload) or node.payload.message.is_transient:
        return None
    return CommittedMessage(node.payload.message, node.at_ms, turns.get(node.node_id), node.agent_frame_id)
