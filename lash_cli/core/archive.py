"""A session as one value: what was committed and what waits, enough to go on elsewhere (contract 08 §5.1 `export`).

What only means something where it happened is not part of it: leases, claims,
work that lash queued for itself, the journal of a turn that runs. The text such
a turn was given waits in the archive, as it was not answered yet.
`check_archive` is what a store asks before it writes a single row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

from lash_cli.core.codec import MAX_KEPT_DEPTH, Record, encode, is_nested_deeper, sha256_hex
from lash_cli.core.commit import RuntimeCommitResult, TurnSummary
from lash_cli.core.content import AttachmentItem, Stored, TurnInput
from lash_cli.core.frames import AgentFrame, FrameStatus
from lash_cli.core.graph import SessionNode, refs_of
from lash_cli.core.head_state import TurnState
from lash_cli.core.ids import is_session_id
from lash_cli.core.ingress import NextTurn, TurnInputIngress
from lash_cli.core.policy import PersistedSessionConfig
from lash_cli.core.usage import TokenLedgerEntry
from lash_cli.errors import UsageError

# 2 has the queue, 3 what is cut off; what an older program wrote is read as it stands.
ARCHIVE_FORMAT = 3
_FORMAT_WITHOUT_CUT_OFF = 2
# The last millisecond of the year 9999: a later one has no RFC 3339 form.
LATEST_MS = 253_402_300_799_999
# As many revisions or turns as no session has; more of them still have numbers of 64 bits.
LATEST_COUNT = 1 << 62
# What is kept and the records around it, with room for what was kept before that was bounded: it can still be shown.
_MAX_DEPTH = MAX_KEPT_DEPTH * 3 // 2


class ArchivedTurn(Record):
    """A committed turn: its stamp and what was answered."""

    turn_id: str
    turn_index: int
    started_at_ms: int
    committed_at_ms: int
    content_hash: str
    summary: TurnSummary
    result: RuntimeCommitResult
    head_revision: int
    origin: Literal["prompt", "queue", "wake"] = "prompt"
    generation: int = 0
    first_node_id: str | None = None
    last_node_id: str | None = None


class ArchivedUsage(Record):
    """A row of the ledger; rows of one revision are in the order they were booked."""

    revision: int
    at_ms: int
    entry: TokenLedgerEntry
    turn_id: str | None = None


class ArchivedAttachment(Record):
    """An attachment the session names. `data` is None where the bytes were left out."""

    attachment_ref: str
    media_type: str
    at_ms: int
    label: str | None = None
    data: bytes | None = None


class ArchivedInput(Record):
    """A text that was accepted and not answered. `submitted` is what it was enqueued for, which is part of what its key
    stands for; wherever it is imported it waits for the next turn."""

    input_id: str
    enqueued_at_ms: int
    input: TurnInput
    source_key: str | None = None
    submitted: TurnInputIngress = NextTurn()


class ArchivedHead(Record):
    """The committed state of a session. `blobs` holds what components and frames refer to by hash. `cut_off` are the
    nodes that led to no root, so that an export keeps all there is; no session is made of them."""

    head_revision: int
    leaf_node_id: str | None
    turn_state: TurnState
    frames: tuple[AgentFrame, ...]
    nodes: tuple[SessionNode, ...] = ()
    components: dict[str, str] = {}
    blobs: dict[str, bytes] = {}
    cut_off: tuple[SessionNode, ...] = ()


class SessionArchive(Record):
    """One session. `head` is None when nothing was ever committed; nodes are in the order they were appended."""

    session_id: str
    name: str
    created_at_ms: int
    config: PersistedSessionConfig
    head: ArchivedHead | None = None
    cwd: str | None = None
    parent_session_id: str | None = None
    labels: dict[str, str] = {}
    closed_at_ms: int | None = None
    parked_at_ms: int | None = None
    last_commit_at_ms: int | None = None
    turns: tuple[ArchivedTurn, ...] = ()
    usage: tuple[ArchivedUsage, ...] = ()
    attachments: tuple[ArchivedAttachment, ...] = ()
    inputs: tuple[ArchivedInput, ...] = ()


class ExportFile(Record):
    """What `lash export --as json` writes and `lash import` reads. Nothing else has this shape: `schema` and `kind`
    say what it is, `format` how it is written, `redacted` that it is not the session any more."""

    schema: Literal["lash/1"]
    kind: Literal["SessionExport"]
    format: int
    exported_at: str
    version: str
    redacted: bool
    sessions: tuple[SessionArchive, ...]


def cut_off_count(archive: SessionArchive) -> int:
    """How many nodes of a session led to no root."""
    return 0 if archive.head is None else len(archive.head.cut_off)


def format_of(archives: Sequence[SessionArchive]) -> int:
    """The oldest format that says all of `archives`, so that an older program reads what it can."""
    return ARCHIVE_FORMAT if any(map(cut_off_count, archives)) else _FORMAT_WITHOUT_CUT_OFF


def stored_refs(archive: SessionArchive) -> set[str]:
    """References of the attachments that messages and waiting inputs name."""
    return (set() if archive.head is None else refs_of(archive.head.nodes)) | input_refs(archive.inputs)


def unsound_refs(archive: SessionArchive) -> set[str]:
    """References of the attachments whose bytes are missing, and of those that are others: nothing can import it."""
    given = {attachment.attachment_ref: attachment.data for attachment in archive.attachments}
    return {
        ref
        for ref in stored_refs(archive) | given.keys()
        if (data := given.get(ref)) is None or ref != f"sha256:{sha256_hex(data)}"
    }


def input_refs(inputs: tuple[ArchivedInput, ...]) -> set[str]:
    """References of the stored attachments that `inputs` bring."""
    return {
        item.attachment.attachment_ref
        for waiting in inputs
        for item in waiting.input.items
        if isinstance(item, AttachmentItem) and isinstance(item.attachment, Stored)
    }


def blob_refs(components: dict[str, str], frames: tuple[AgentFrame, ...]) -> list[str]:
    """Hashes of the state that components and frames refer to, each once."""
    states = (frame.execution_state_ref for frame in frames)
    return list(dict.fromkeys([*components.values(), *(ref for ref in states if ref is not None)]))


def check_archive(archive: SessionArchive) -> None:
    """Raise `UsageError` (`archive_invalid`) unless a session can be made of it that loads and goes on."""
    if not is_session_id(archive.session_id):
        raise invalid_archive(f"{archive.session_id!r} is no session id")
    for moment_ms in _moments(archive):
        if moment_ms is not None and not 0 <= moment_ms <= LATEST_MS:
            raise invalid_archive(f"{moment_ms} ms is no moment before the year 10000")
    _check_depth(archive)
    if archive.head is None:
        if archive.turns or archive.usage:
            raise invalid_archive("it has turns or costs, but nothing that was committed")
    else:
        _check_head(archive.head)
    known = {None} if archive.head is None else {None, *(node.node_id for node in archive.head.nodes)}
    for turn in archive.turns:
        if turn.first_node_id not in known or turn.last_node_id not in known:
            raise invalid_archive(f"turn {turn.turn_id!r} names a node that is missing")
    if len({turn.turn_id for turn in archive.turns}) != len(archive.turns):
        raise invalid_archive("a turn occurs twice")
    keys = [waiting.source_key for waiting in archive.inputs if waiting.source_key is not None]
    if len({waiting.input_id for waiting in archive.inputs}) != len(archive.inputs) or len({*keys}) != len(keys):
        raise invalid_archive("an input that waits occurs twice")
    given: set[str] = set()
    for attachment in archive.attachments:
        if attachment.attachment_ref in given:
            raise invalid_archive(f"the attachment {attachment.attachment_ref} occurs twice")
        if attachment.data is None:
            raise invalid_archive(f"the bytes of {attachment.attachment_ref} were left out")
        if attachment.attachment_ref != f"sha256:{sha256_hex(attachment.data)}":
            raise invalid_archive(f"the bytes of {attachment.attachment_ref} are others")
        given.add(attachment.attachment_ref)
    missing = stored_refs(archive) - given
    if missing:
        raise invalid_archive(f"the attachment {min(missing)} is missing")


def _moments(archive: SessionArchive) -> Iterator[int | None]:
    """Every time of an archive that is shown or sorted by, in epoch milliseconds."""
    yield from (archive.created_at_ms, archive.closed_at_ms, archive.parked_at_ms, archive.last_commit_at_ms)
    for turn in archive.turns:
        yield from (turn.started_at_ms, turn.committed_at_ms, turn.summary.started_at_ms)
        for call in turn.summary.llm_calls:
            yield from (attempt.started_at_ms for attempt in call.attempts)
    yield from (booked.at_ms for booked in archive.usage)
    yield from (attachment.at_ms for attachment in archive.attachments)
    yield from (waiting.enqueued_at_ms for waiting in archive.inputs)
    if archive.head is not None:
        yield from (node.at_ms for node in archive.head.nodes)
        yield from (frame.created_at_ms for frame in archive.head.frames)


def _check_depth(archive: SessionArchive) -> None:
    """Nothing in it is nested deeper than can be shown: somebody must be able to read what anybody could write."""
    nodes = () if archive.head is None else archive.head.nodes
    for record in chain[SessionNode | ArchivedTurn | ArchivedInput](nodes, archive.turns, archive.inputs):
        try:
            is_too_deep = is_nested_deeper(encode(record), _MAX_DEPTH)
        except RecursionError:
            is_too_deep = True
        if is_too_deep:
            raise invalid_archive(f"something in it is nested deeper than {_MAX_DEPTH} levels")


def _check_head(head: ArchivedHead) -> None:
    frames = {frame.frame_id for frame in head.frames}
    active = [frame for frame in head.frames if frame.status is FrameStatus.ACTIVE]
    if len(frames) != len(head.frames) or len(active) != 1:
        raise invalid_archive("it needs frames of different ids, exactly one of them active")
    opened: set[str | None] = {None}
    for frame in head.frames:
        if frame.previous_frame_id not in opened:
            raise invalid_archive(f"frame {frame.frame_id!r} follows a frame that is missing or comes later")
        opened.add(frame.frame_id)
    seen: set[str | None] = {None}
    for node in head.nodes:
        if node.node_id in seen:
            raise invalid_archive(f"node {node.node_id!r} occurs twice")
        if node.parent_node_id not in seen:
            raise invalid_archive(f"node {node.node_id!r} hangs below a node that is missing or comes later")
        if node.agent_frame_id not in frames:
            raise invalid_archive(f"node {node.node_id!r} belongs to a frame that is missing")
        seen.add(node.node_id)
    if head.leaf_node_id not in seen:
        raise invalid_archive(f"the head {head.leaf_node_id!r} is missing")
    if not 1 <= head.head_revision <= LATEST_COUNT:
        raise invalid_archive("its head has no revision that another can follow")
    if not 0 <= head.turn_state.turn_index <= LATEST_COUNT:
        raise invalid_archive("its turns have no number that another can follow")
    for ref in blob_refs(head.components, head.frames):
        if ref not in head.blobs:
            raise invalid_archive(f"the state {ref} is missing")
    for ref, data in head.blobs.items():
        if ref != sha256_hex(data):
            raise invalid_archive(f"the state {ref} is another")


def invalid_archive(reason: str) -> UsageError:
    """The error for a file of which no session can be made."""
    return UsageError(
        f"this is not a session that can be imported: {reason}",
        code="archive_invalid",
        hint="export it again: lash export SESSION --as json --out FILE",
    )
