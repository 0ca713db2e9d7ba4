"""Putting text into a session's queue, and waiting until it was used (contract 08 §5.2, 02 §1.2, §1.3).

Shared by `lash enqueue` and its way around the parser, so it imports no parser.
The receipt means that the text is on disk; whoever drains the session uses it
exactly once. No runtime is opened and no lane is taken, so it never waits for a
turn.
"""

from __future__ import annotations

from typing import NamedTuple

from lash_cli.api.queue import SessionQueue, source_key_of
from lash_cli.cli.documents import Document, is_lease_live
from lash_cli.cli.output import emit_one, safe, say
from lash_cli.cli.queue_access import existing_store, queue_of
from lash_cli.cli.queue_documents import PENDING_INPUT_STATES, input_item
from lash_cli.cli.reading import named_session, present_row, run_at_once
from lash_cli.core.content import TurnInput
from lash_cli.core.ingress import ActiveTurn, Boundary, InputState, NextTurn, PendingTurnInput, TurnInputIngress
from lash_cli.core.outcome import ANSWER_NOT_KEPT, TurnResult
from lash_cli.errors import (
    ConflictError,
    LashError,
    NotFoundError,
    PendingTurnInputSourceKeyConflict,
    TurnCancelledError,
    WaitTimeout,
)
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock, SystemIds, is_definitely_dead
from lash_cli.views.queue import receipt_text
from lash_cli.views.shell_words import shell_word


class EnqueuePlan(NamedTuple):
    """A validated `lash enqueue`. `boundary` is set when the text is for a running turn."""

    reference: str | None
    content: TurnInput
    key: str | None = None
    turn_id: str | None = None
    boundary: Boundary | None = None
    or_next: bool = False
    wait_ms: int | None = None
    wait_text: str | None = None


class _Use(NamedTuple):
    """What became of an input that was waited for: its row, the turn that used it, and how that ended."""

    row: PendingTurnInput | None
    turn_id: str | None = None
    result: TurnResult | None = None


def submit(plan: EnqueuePlan) -> int:
    """Queue the text, print its receipt, return the exit status. Raises what the store raises, and the error of the
    turn that was waited for."""
    document = run_at_once(enqueue(plan))
    emit_one("PendingInput", document, text=receipt_text(document, clean=safe))
    return 0


async def enqueue(plan: EnqueuePlan) -> Document:
    """Queue the text, and wait for its use if the plan says so; the PendingInput document."""
    async with named_session(existing_store(), plan.reference) as (store, session):
        queue = queue_of(store, session.meta.session_id)
        stored, is_replay = await _submit(store, queue, session, plan)
        document = await _receipt(queue, session, stored, is_replay=is_replay)
        if plan.wait_ms is not None:
            say(f"{document['id']} is queued; waiting until it was used")
            is_told = _tell_what_keeps_it(session, document) and document["delivery"] == "this_turn"
            told_stuck = {str(session.running_turn_id)} if is_told else set()
            return await _await_use(store, session, document, plan, told_stuck)
        _tell_next(session, document)
        return document


async def _submit(
    store: RuntimePersistence, queue: SessionQueue, session: SessionRow, plan: EnqueuePlan
) -> tuple[PendingTurnInput, bool]:
    """Store the text; the row, and whether it stood there before."""
    ingress = _ingress(session, plan)
    if ingress is None:
        stood = await _same_text(store, queue, plan)
        if stood is None:
            raise _no_active_turn(session, plan)
        return stood, True
    input_id = SystemIds().new("in")
    try:
        stored = await queue.enqueue(plan.content, key=plan.key, ingress=ingress, input_id=input_id)
    except PendingTurnInputSourceKeyConflict:
        stood = await _same_text(store, queue, plan)
        if stood is None:
            raise
        return stood, True
    return stored, stored.input_id != input_id


def _ingress(session: SessionRow, plan: EnqueuePlan) -> TurnInputIngress | None:
    """Where the text goes; None when it is for a running turn and that turn does not run."""
    if plan.boundary is None:
        return NextTurn()
    running = session.running_turn_id
    if running is not None and plan.turn_id in (None, running):
        return ActiveTurn(running, plan.boundary)
    return NextTurn() if plan.or_next else None


async def _same_text(store: RuntimePersistence, queue: SessionQueue, plan: EnqueuePlan) -> PendingTurnInput | None:
    """What stands under the key, if it is the same text.

    Which turn takes it is not part of what the caller submits: a repeat of `--now` finds another turn, or none, and
    is the same submission all the same.
    """
    if plan.key is None:
        return None
    input_id = await store.input_of_key(queue.session_id, source_key_of(plan.key))
    found = await queue.find_input(input_id) if input_id is not None else None
    if found is None:
        return None
    return found[0] if found[0].input == await queue.stored(plan.content) else None


def _no_active_turn(session: SessionRow, plan: EnqueuePlan) -> ConflictError:
    wanted = f"turn {plan.turn_id!r} is" if plan.turn_id is not None else "no turn is"
    return ConflictError(
        f"{wanted}{' not' if plan.turn_id is not None else ''} running in session {session.meta.name}",
        code="no_active_turn",
        hint="add --or-next to let it be the next turn instead; nothing was queued",
        details={
            "session": session.meta.session_id,
            "turn_id": plan.turn_id,
            "running_turn": session.running_turn_id,
        },
    )


async def _receipt(queue: SessionQueue, session: SessionRow, stored: PendingTurnInput, *, is_replay: bool) -> Document:
    found = await queue.find_input(stored.input_id) if is_replay else None
    return receipt(session, stored, turn_id=found[1] if found is not None else None, is_replay=is_replay)


async def enqueue_instead(store: RuntimePersistence, session_id: str, content: TurnInput, key: str | None) -> Document:
    """Queue the text of a turn whose session is busy, under the turn's key; the PendingInput document.

    Raises as `SessionQueue.enqueue`, and `NotFoundError` when it is gone meanwhile.
    """
    queue = queue_of(store, session_id)
    input_id = SystemIds().new("in")
    stored = await queue.enqueue(content, key=key, input_id=input_id)
    row, found = await present_row(store, session_id), await queue.find_input(stored.input_id)
    if found is None:
        raise NotFoundError(f"input {stored.input_id} is no more", code="input_not_found")
    return receipt(row, found[0], turn_id=found[1], is_replay=stored.input_id != input_id)


def receipt(session: SessionRow, stored: PendingTurnInput, *, turn_id: str | None, is_replay: bool) -> Document:
    """The PendingInput document: what `enqueue` and `turn --if-busy enqueue` print."""
    is_taken = turn_id is not None and stored.state in PENDING_INPUT_STATES
    item = input_item(stored, session.meta, turn_id=turn_id, running_turn_id=session.running_turn_id, is_held=is_taken)
    del item["batch"]
    return {**item, "replayed": is_replay, "outcome": None, "text": None}


def _tell_next(session: SessionRow, document: Document) -> None:
    """Say what becomes of it, or what has to be done first."""
    is_kept = _tell_what_keeps_it(session, document)
    if not is_kept and document["state"] in PENDING_INPUT_STATES and document["delivery"] != "this_turn":
        say(f"drain it with: lash work {shell_word(session.meta.name)} --until-empty")


def _tell_what_keeps_it(session: SessionRow, document: Document) -> bool:
    """Say what has to be done before anybody can use the text; whether there was anything."""
    name = session.meta.name
    if document["state"] not in PENDING_INPUT_STATES:
        return False
    if document["delivery"] == "this_turn":
        if is_lease_live(session.lease, SystemClock().now_ms(), is_definitely_dead):
            return False
        say(f"nobody runs that turn; it takes the text when it is finished: lash resume {shell_word(name)}")
        return True
    if session.meta.held_at_ms is None:
        return False
    say(f"the queue of {name} is held; let it go on with: lash queue release {shell_word(name)}")
    return True


async def _await_use(
    store: RuntimePersistence, session: SessionRow, document: Document, plan: EnqueuePlan, told_stuck: set[str]
) -> Document:
    """The receipt once the input was used; raises the error its turn ended with. A turn whose driver died is said to
    be stuck, unless `told_stuck` names it.

    Raises `WaitTimeout`, `TurnCancelledError` (`input_cancelled`) when somebody
    took it out of the queue, and `NotFoundError` when it vanished.
    """
    from lash_cli.cli.waiting import look_until, tell_if_stuck

    session_id, input_id = session.meta.session_id, str(document["id"])
    used: list[tuple[PendingTurnInput, str | None]] = []

    async def look() -> _Use | None:
        found = await store.turn_input(session_id, input_id)
        if found is None:
            return _Use(None)
        if found[0].state is InputState.CANCELLED:
            return _Use(*found)
        if found[0].state is InputState.COMPLETED:
            used[:] = [found]
            results = await _results(store, session_id, found[1])
            if results is not None:
                return _Use(*found, results[-1] if results else None)
        row = await store.session_row(session_id)
        if row is not None:
            tell_if_stuck(row, told_stuck)
        return None

    ended = await look_until(store, look, plan.wait_ms)
    if ended is None and used:
        stored, turn_id = used[0]
        raise WaitTimeout(
            f"input {input_id} was used, but its turn goes on in another frame and did not end within {plan.wait_text}",
            hint=f"look at it with: lash show {shell_word(session.meta.name)}",
            details={"input": receipt(session, stored, turn_id=turn_id, is_replay=document["replayed"])},
        )
    if ended is None:
        raise WaitTimeout(
            f"input {input_id} was not used within {plan.wait_text}",
            hint=f"it stays queued; look at it with: lash queue show {input_id}",
            details={"input": document},
        )
    row = ended.row
    if row is None:
        raise NotFoundError(f"input {input_id} is no more", code="input_not_found", details={"input": document})
    document = receipt(session, row, turn_id=ended.turn_id, is_replay=document["replayed"])
    if row.state is InputState.CANCELLED:
        raise TurnCancelledError(
            f"input {input_id} was cancelled before a turn used it", code="input_cancelled", details={"input": document}
        )
    return document if ended.result is None else _with_outcome(session, document, ended.result)


async def _results(store: RuntimePersistence, session_id: str, turn_id: str | None) -> tuple[TurnResult, ...] | None:
    """What the turn that used an input came to, and the frames it handed on to; None while it goes on in one."""
    if turn_id is None:
        return ()
    from lash_cli.runtime.stored_turns import ended_results

    return await ended_results(store, session_id, turn_id)


def _with_outcome(session: SessionRow, document: Document, result: TurnResult) -> Document:
    """The receipt of a used input with how its turn ended, in the last of its frames; raises the error that this stands
    for. An answer that is not kept is warned of: the receipt has no place for it."""
    from lash_cli.cli.exit_status import turn_error
    from lash_cli.cli.output import warn
    from lash_cli.cli.turn_documents import outcome_document, turn_result_document

    document = {**document, "outcome": outcome_document(result.outcome), "text": result.assistant_message()}
    turn = turn_result_document(result, name=document["session_name"])
    provider = session.config.provider_id
    error: LashError | None = turn_error(result, {"input": document, "turn": turn}, provider=provider)
    if error is not None:
        raise error
    for issue in result.errors:
        if issue.code == ANSWER_NOT_KEPT:
            warn(issue.message, ANSWER_NOT_KEPT)
    return document
