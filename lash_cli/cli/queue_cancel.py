"""`lash queue cancel|cancel-suffix|cancel-batch`: take out of a queue what nobody uses yet (contract 08 §5.3).

One transaction, and a typed outcome for every row. When not every row ended
cancelled, the rows are the details of the error: stdout stays empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer

from lash_cli.api.queue import source_key_of
from lash_cli.cli.arguments import OfSession, OneSession
from lash_cli.cli.documents import Document
from lash_cli.cli.output import emit_many, emit_one, safe, tell
from lash_cli.cli.queue_access import existing_store, find_batch, input_not_found, queue_of
from lash_cli.cli.queue_documents import batch_document, batch_preview, outcome_item
from lash_cli.cli.reading import named_session, read_session_row, run_at_once
from lash_cli.core.ingress import (
    AnchorNotFound,
    ByInputId,
    BySourceKey,
    InputNotFound,
    PendingTurnInputCancelOutcome,
    PendingTurnInputCancelTarget,
)
from lash_cli.core.queued_work import BatchState
from lash_cli.errors import ConflictError, LashError, NotFoundError, PartialOutcomeError, UsageError
from lash_cli.store.base import RuntimePersistence, SessionMeta, SessionRow

COLUMNS = ("outcome", "id", "preview")
_DONE = frozenset({"cancelled", "already_cancelled"})
_NOT_FOUND = "not_found"


class Cut(NamedTuple):
    """What a cancel was asked for, as the user said it."""

    input_ids: tuple[str, ...]
    keys: tuple[str, ...]
    reference: str | None

    @property
    def targets(self) -> list[PendingTurnInputCancelTarget]:
        """Ids first, then keys, each in the order given. Raises `UsageError` (`invalid_key`)."""
        return [*map(ByInputId, self.input_ids), *(BySourceKey(source_key_of(key)) for key in self.keys)]


def cancel(
    inputs: Annotated[list[str] | None, typer.Argument(metavar="[IN...]", help="Ids of inputs.")] = None,
    key: Annotated[list[str] | None, typer.Option("--key", metavar="K", help="By key; repeatable.")] = None,
    session: OfSession = None,
) -> int:
    """Cancel inputs that nobody uses yet: all of them at one moment.

    Exit status 0 means each is cancelled, now or before; 8 that some could not
    be, 4 that none could, 3 that none was found. A key needs --session, or
    LASH_SESSION.
    """
    cut = Cut(tuple(inputs or ()), tuple(key or ()), session)
    if not cut.targets:
        raise UsageError("nothing to cancel was named", hint="give IN ids or --key K; see: lash queue ls SESSION")
    return finish_cancel(run_at_once(_cancel(cut)))


async def _cancel(cut: Cut) -> list[Document]:
    async with existing_store() as store:
        session = await _one_session(store, cut)
        if store is None or session is None:
            return [outcome_item(target, InputNotFound(), None) for target in cut.targets]
        results = await queue_of(store, session.meta.session_id).cancel_inputs(cut.targets)
        return [outcome_item(result.target, result.outcome, session.meta) for result in results]


async def _one_session(store: RuntimePersistence | None, cut: Cut) -> SessionRow | None:
    """The session of everything named; None when nothing named is there. Raises `UsageError` for several."""
    if cut.reference is not None or cut.keys:
        return await read_session_row(store, cut.reference)
    if store is None:
        return None
    # Whatever the text is like: one that does not decode is what a person wants to be rid of.
    ids = {found for input_id in cut.input_ids if (found := await store.session_of_input(input_id)) is not None}
    if len(ids) > 1:
        raise UsageError(
            f"these inputs belong to {len(ids)} sessions, and a set is cancelled in one",
            hint="cancel them session by session; nothing was done",
            details={"sessions": sorted(ids)},
        )
    return await store.session_row(ids.pop()) if ids else None


def cancel_suffix(
    session: OneSession,
    anchor: Annotated[str | None, typer.Argument(metavar="[ANCHOR]", help="The id of the first input to go.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="K", help="The anchor by its key.")] = None,
) -> int:
    """Cancel an input and everything queued behind it, at one moment.

    The anchor is only a place: it may be used or cancelled itself. What is in
    use is left, and said so. The exit status is that of lash queue cancel.
    """
    if (anchor is None) == (key is None):
        raise UsageError("one anchor is needed: ANCHOR or --key K", hint="see: lash queue ls SESSION")
    target = BySourceKey(source_key_of(key)) if key is not None else ByInputId(anchor or "")
    return finish_cancel(run_at_once(suffix_outcomes(session, target)))


async def suffix_outcomes(reference: str | None, anchor: PendingTurnInputCancelTarget) -> list[Document]:
    """Cancel the suffix; what became of each row. Raises `NotFoundError` (`input_not_found`) without its anchor."""
    async with named_session(existing_store(), reference) as (store, session):
        outcome = await queue_of(store, session.meta.session_id).cancel_suffix(anchor)
        if isinstance(outcome, AnchorNotFound):
            error = input_not_found(anchor.value, session.meta.name)
            error.details.update(outcome="anchor_not_found", items=[])
            raise error
        return [_suffix_item(row, session.meta) for row in outcome.outcomes]


def _suffix_item(outcome: PendingTurnInputCancelOutcome, meta: SessionMeta) -> Document:
    assert not isinstance(outcome, InputNotFound), "a suffix lists rows that are there"
    return outcome_item(ByInputId(outcome.input.input_id), outcome, meta)


def finish_cancel(items: Sequence[Document]) -> int:
    """Print the rows of a cancel, or raise what they add up to."""
    error = cancel_error(items)
    if error is None:
        emit_many("CancelOutcomeList", items, columns=COLUMNS)
        return 0
    for item in items:
        turn_id = item["claim"]["turn_id"] if item["claim"] is not None else None
        turn = f"  (turn {turn_id})" if turn_id is not None else ""
        tell(f"{item['outcome']}  {item['id'] or item['target']['value']}  {item['preview'] or ''}".rstrip() + turn)
    raise error


def cancel_error(items: Sequence[Document]) -> LashError | None:
    """The error a set of outcomes stands for (contract 08 §5.3); None when every row ended cancelled.

    Some but not all: `partial_outcome`. None, because each is in use or used:
    that conflict. None because nothing was found: `input_not_found`.
    """
    outcomes = [item["outcome"] for item in items]
    done = sum(outcome in _DONE for outcome in outcomes)
    details = {"items": list(items)}
    if done == len(outcomes):
        return None
    if done:
        return PartialOutcomeError(
            f"{done} of {len(outcomes)} are cancelled; {_count(outcomes)}",
            hint="see what is left with: lash queue ls SESSION --all",
            details=details,
        )
    if all(outcome == _NOT_FOUND for outcome in outcomes):
        return NotFoundError(
            f"none of {len(outcomes)} inputs was found" if len(outcomes) > 1 else "there is no such input",
            code="input_not_found",
            hint="list them with: lash queue ls SESSION --all",
            details=details,
        )
    is_claimed = "already_claimed" in outcomes
    return ConflictError(
        f"nothing could be cancelled: {_count(outcomes)}",
        code="input_already_claimed" if is_claimed else "input_already_completed",
        hint="stop the turn that uses it with: lash cancel SESSION" if is_claimed else None,
        details=details,
    )


def _count(outcomes: Sequence[str]) -> str:
    """`1 already_claimed, 2 not_found`: what did not end cancelled."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        if outcome not in _DONE:
            counts[outcome] = counts.get(outcome, 0) + 1
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def cancel_batch(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="The id of a batch.")],
    session: OfSession = None,
) -> int:
    """Cancel background work, or a session command, that nobody has taken; a dead one too."""
    document = run_at_once(_cancel_batch(batch, session))
    text = f"{document['outcome']}  {document['id']}  {safe(document['preview'])}".rstrip()
    emit_one("BatchCancel", document, text=text)
    return 0


async def _cancel_batch(batch_id: str, reference: str | None) -> Document:
    async with existing_store() as store:
        found = await find_batch(store, batch_id, reference)
        assert store is not None, "without a store no batch was found"
        queue = queue_of(store, found.meta.session_id)
        cancelled = await queue.cancel_batch(batch_id)
        if cancelled is not None:
            return {**batch_document(cancelled), "outcome": "cancelled", "preview": batch_preview(cancelled)}
        standing = await store.queued_work_batch(found.meta.session_id, batch_id) or found.batch
        document = batch_document(standing, is_held=standing.state is BatchState.PENDING)
        if standing.state is BatchState.CANCELLED:
            return {**document, "outcome": "already_cancelled"}
        is_used = standing.state is BatchState.COMPLETED
        raise ConflictError(
            f"batch {batch_id} {'was done' if is_used else 'is in use'}",
            code="batch_already_completed" if is_used else "batch_already_claimed",
            details={"batch": document},
        )
