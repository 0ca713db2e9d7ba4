"""One session in full: read, made a document, printed (contract 08 §5.1 `show`).

Shared by the `show` command and its way around the parser, so it imports no
parser, and it reads without an event loop. Read-only: it takes no lease, and
what it shows is the committed state plus who is working on the next one.
"""

from __future__ import annotations

from lash_cli.cli.documents import Document, frame_document, policy_document, session_document, usage_report_document
from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_one, safe
from lash_cli.cli.reading import named_session, reading_store, run_inline
from lash_cli.core.frames import current_frame
from lash_cli.core.policy import PromptLayer, SessionPolicy
from lash_cli.core.usage import usage_report
from lash_cli.errors import NotFoundError
from lash_cli.store.base import ReadScope, RuntimePersistence, SessionRow, TurnRecord
from lash_cli.system import SystemClock, is_definitely_dead
from lash_cli.views.shell_words import shell_word


def show_session(reference: str | None = None, *, policy: bool = False, lease: bool = False) -> int:
    """Print the session `reference` names, as text only the sections asked for; returns the exit status.

    Raises what `read_session_row` raises.
    """
    # The text tells how much waits and not what, and a queue may hold a hundred thousand texts.
    output = current().output
    with_queue = output.format != "text" or output.is_chosen_from
    document = run_inline(lambda: read_session_detail(reference, with_queue=with_queue))
    print_session(document, policy=policy, lease=lease)
    return 0


def print_session(document: Document, *, policy: bool = False, tools: bool = False, lease: bool = False) -> None:
    """Print a Session document; the text is made only for who reads text."""
    is_text = not current().output.is_machine
    text = _text(document, policy=policy, tools=tools, lease=lease) if is_text else None
    emit_one("Session", document, text=text, is_paged=True)


def _text(document: Document, *, policy: bool, tools: bool, lease: bool) -> str:
    from lash_cli.views.session import lease_text, policy_text, session_text, tools_text

    sections = []
    if policy:
        sections.append(policy_text(document["policy"], clean=safe))
    if tools:
        sections.append(tools_text(document["tools"], clean=safe))
    if lease:
        sections.append(lease_text(document["lease"], clean=safe))
    return "\n\n".join(sections) if sections else session_text(document, clean=safe, here=current().commands_here)


async def read_session_detail(reference: str | None, *, with_queue: bool = True) -> Document:
    """The Session document of the session `reference` names, without `with_queue` lacking what its queue holds.

    Raises what `read_session_row` raises.
    """
    async with named_session(reading_store(), reference) as (store, row):
        return await session_detail(store, row, with_queue=with_queue)


async def session_detail(store: RuntimePersistence, row: SessionRow, *, with_queue: bool) -> Document:
    """The Session document of `row`; `tools` stays null, because tools need a runtime."""
    now_ms = SystemClock().now_ms()
    session_id = row.meta.session_id
    read = await store.load_session(session_id, ReadScope.HEAD)
    unfinished = await store.unfinished_turns(session_id) if row.running_turn_id is not None else ()
    frame_id = current_frame(read.frames).frame_id if read is not None else None
    document = session_document(row, now_ms, is_definitely_dead)
    document.update(
        policy=policy_document(_policy(row)),
        head={"revision": row.head_revision, "leaf_node": row.leaf_node_id, "frame": frame_id},
        frames=[frame_document(frame) for frame in read.frames] if read else [],
        usage=usage_report_document(usage_report(read.token_ledger if read else ())),
        queue=await _waiting_inputs(store, row) if with_queue else None,
        batches=await _waiting_batches(store, row) if with_queue else None,
        unfinished_turn=_unfinished_document(unfinished),
        warnings=await _warnings(store, document, unfinished),
        tools=None,
    )
    return document


# Most sessions are idle, and what the records of turns and queues cost is a good part of a look (design D16).


async def _waiting_inputs(store: RuntimePersistence, row: SessionRow) -> list[Document]:
    if not row.pending_inputs:
        return []
    from lash_cli.cli.queue_documents import input_item

    waiting = await store.inputs(row.meta.session_id, pending_only=True)
    return [input_item(item, row.meta, turn_id=None, running_turn_id=row.running_turn_id) for item in waiting]


async def _waiting_batches(store: RuntimePersistence, row: SessionRow) -> list[Document]:
    if not row.pending_batches:
        return []
    from lash_cli.cli.queue_documents import batch_document

    return [batch_document(batch) for batch in await store.queued_work(row.meta.session_id, pending_only=True)]


def _unfinished_document(unfinished: tuple[TurnRecord, ...]) -> Document | None:
    if not unfinished:
        return None
    from lash_cli.cli.turn_documents import turn_document

    return turn_document(unfinished[0], None)


def _policy(row: SessionRow) -> SessionPolicy:
    config = row.config
    return SessionPolicy(
        model=config.model,
        provider_id=config.provider_id,
        session_id=row.meta.session_id,
        max_turns=config.max_turns,
        prompt=config.prompt or PromptLayer(),
        generation=config.generation,
    )


async def _warnings(store: RuntimePersistence, document: Document, unfinished: tuple[TurnRecord, ...]) -> list[str]:
    """What a person should know before the next turn."""
    if not unfinished or document["status"] != "stuck":
        return []
    turn = unfinished[0]
    name, here = shell_word(document["name"]), current().commands_here
    begun = again(await times_begun(store, turn))
    return [
        f"turn {turn.turn_id} was interrupted{begun}; what it had finished is kept, and the next turn of"
        f" this session finishes it first: {here(f'lash resume {name}')}; or end it with:"
        f" {here(f'lash cancel {name}')}"
    ]


async def times_begun(store: RuntimePersistence, turn: TurnRecord) -> int:
    """How often an unfinished turn has begun what it does, as far as its journal tells."""
    from lash_cli.core.effect import TurnScope, scope_key  # hardly any turn is cut off

    rows = await store.journal_rows(scope_key(TurnScope(turn.session_id, turn.turn_id)))
    return max((row.attempt for row in rows if row.status == "in_progress"), default=1)


def again(times: int) -> str:
    """What is said behind a turn that was cut off in what it had begun more than once."""
    return f" in what it began {times} times" if times > 1 else ""


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
