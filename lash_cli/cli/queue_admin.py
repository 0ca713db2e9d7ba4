"""`lash queue wait-batch|abandon|revoke-waits`: for whoever looks after a queue (contract 08 §5.2, 02 §3.4)."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer

from lash_cli.cli.arguments import OfSession, SessionArgument
from lash_cli.cli.asking import confirm
from lash_cli.cli.documents import Document, is_lease_live, lease_document
from lash_cli.cli.durations import duration_ms
from lash_cli.cli.output import emit_one, safe, warn
from lash_cli.cli.queue_access import existing_store, find_batch, queue_of
from lash_cli.cli.queue_documents import batch_document
from lash_cli.cli.reading import present_row, read_session_row, reading_store, run_at_once
from lash_cli.cli.running import writing_store
from lash_cli.cli.waiting import look_until, tell_if_stuck
from lash_cli.core.ingress import TurnInputClaim
from lash_cli.core.queued_work import BatchState, QueuedWorkBatch, QueuedWorkClaim
from lash_cli.errors import ConflictError, NotFoundError, WaitTimeout
from lash_cli.store.base import RuntimePersistence, SessionMeta, SessionRow
from lash_cli.system import SystemClock, is_definitely_dead
from lash_cli.views.shell_words import shell_word


def wait_batch(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="The id of a batch.")],
    timeout: Annotated[str | None, typer.Option(metavar="DUR", help="Give up after this long (exit 124).")] = None,
    session: OfSession = None,
) -> int:
    """Wait until a batch is settled: done or cancelled.

    A batch that failed too often is never settled by itself: exit status 4.
    """
    timeout_ms = duration_ms(timeout) if timeout is not None else None
    document = run_at_once(_wait_batch(batch, session, timeout_ms))
    emit_one("Batch", document, text=f"{document['state']}  {document['id']}")
    return 0


async def _wait_batch(batch_id: str, reference: str | None, timeout_ms: int | None) -> Document:
    async with reading_store() as store:
        found = await find_batch(store, batch_id, reference)
        assert store is not None, "without a store no batch was found"
        session_id = found.meta.session_id
        told_stuck: set[str] = set()

        async def look() -> QueuedWorkBatch | None:
            batch = await store.queued_work_batch(session_id, batch_id)
            if batch is None:
                raise NotFoundError(f"batch {batch_id} is no more", code="batch_not_found")
            if batch.state is not BatchState.PENDING:
                return batch
            row = await store.session_row(session_id)
            if row is not None:
                tell_if_stuck(row, told_stuck)
            return None

        ended = await look_until(store, look, timeout_ms)
    if ended is None:
        raise WaitTimeout(f"batch {batch_id} was not settled in time", details={"batch": batch_document(found.batch)})
    if ended.state is BatchState.DEAD:
        raise ConflictError(
            f"batch {batch_id} failed {ended.attempts} times: {ended.last_error}",
            code="batch_dead",
            hint=f"drop it with: lash queue cancel-batch {batch_id}",
            details={"batch": batch_document(ended)},
        )
    return batch_document(ended)


def abandon(claim: Annotated[str, typer.Argument(metavar="CLAIM", help="The id of a claim.")]) -> int:
    """Give back what a claim took when its owner is gone and nobody else can have it.

    A claim whose owner still works is refused. An unfinished turn that the claim
    started is dropped: its text is used again, by another turn, and so is what
    its tools did.
    """
    document = run_at_once(_abandon(claim))
    if document["dropped_turn"] is not None:
        warn(f"the unfinished turn {document['dropped_turn']} was dropped; what its tools had done may be done again")
    given = ", ".join(document["released"]) or "nothing; it was settled meanwhile"
    emit_one("ClaimAbandoned", document, text=f"given back: {given}")
    return 0


async def _abandon(claim_id: str) -> Document:
    async with existing_store() as store:
        claim = await store.find_claim(claim_id) if store is not None else None
        session = await store.session_row(claim.session_id) if store is not None and claim is not None else None
        if store is None or claim is None or session is None:
            raise NotFoundError(
                f"there is no open claim {claim_id!r}",
                code="claim_not_found",
                hint="a cancel that came too late names it: lash queue cancel IN -o json",
                details={"claim": claim_id},
            )
        _require_dead(session, claim)
        unfinished = {turn.turn_id for turn in await store.unfinished_turns(claim.session_id)}
        queue = queue_of(store, claim.session_id)
        released = await (
            queue.abandon_inputs(claim) if isinstance(claim, TurnInputClaim) else queue.abandon_work(claim)
        )
        dropped = await _dropped_turn(store, claim, unfinished)
        return {
            "id": claim_id,
            "session": claim.session_id,
            "session_name": session.meta.name,
            "family": "input" if isinstance(claim, TurnInputClaim) else "batch",
            "generation": claim.generation,
            "released": list(released),
            "dropped_turn": dropped,
        }


def _require_dead(session: SessionRow, claim: TurnInputClaim | QueuedWorkClaim) -> None:
    """Raise `ConflictError` (`claim_is_live`) while the claim's generation holds the lane."""
    now_ms = SystemClock().now_ms()
    is_live = is_lease_live(session.lease, now_ms, is_definitely_dead)
    if is_live and session.lease.fencing_token == claim.generation:
        raise ConflictError(
            f"claim {claim.claim_id} is in use",
            code="claim_is_live",
            hint=f"stop the turn with: lash cancel {shell_word(session.meta.name)} --wait",
            details={
                "claim": claim.claim_id,
                "session": claim.session_id,
                "turn_id": claim.turn_id,
                "lease": lease_document(session.lease, now_ms, is_definitely_dead),
            },
        )


async def _dropped_turn(
    store: RuntimePersistence, claim: TurnInputClaim | QueuedWorkClaim, unfinished: set[str]
) -> str | None:
    """The claim's turn, if it was unfinished before and is gone now."""
    if claim.turn_id is None or claim.turn_id not in unfinished:
        return None
    still = {turn.turn_id for turn in await store.unfinished_turns(claim.session_id)}
    return claim.turn_id if claim.turn_id not in still else None


def revoke_waits(session: SessionArgument = None) -> int:
    """End every wait of a session as cancelled: what its tools and turns are waiting for.

    Turns themselves are not cancelled (lash cancel does that), and the session
    stays usable. Asks first; --yes answers.
    """
    meta = run_at_once(_meta_of(session))
    confirm(f"end every open wait of {meta.name} as cancelled?")
    document = run_at_once(_revoke(meta))
    emit_one("WaitsRevoked", document, text=f"ended {document['revoked']} waits of {safe(document['name'])}")
    return 0


async def _meta_of(reference: str | None) -> SessionMeta:
    async with reading_store() as opened:
        return (await read_session_row(opened, reference)).meta


async def _revoke(meta: SessionMeta) -> Document:
    async with aclosing(writing_store()) as store:
        # Of the session that was asked about, whatever its reference means by now.
        await present_row(store, meta.session_id)
        count = await store.cancel_session_waits(meta.session_id)
    return {"id": meta.session_id, "name": meta.name, "revoked": count}
