"""From a command line to the queue it means: sessions, inputs and batches named with or without their session.

Nothing here opens a core or an event loop: a queue is rows, and the verbs of
the queue end after a few statements. A database that does not exist is not made
by them, because nothing can wait in it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from lash_cli.cli.queue_documents import PENDING_INPUT_STATES
from lash_cli.cli.reading import has_database, read_session_row
from lash_cli.core.lease import is_row_live
from lash_cli.errors import NotFoundError
from lash_cli.system import SystemClock, SystemIds

if TYPE_CHECKING:
    from lash_cli.api.queue import SessionQueue
    from lash_cli.core.ingress import PendingTurnInput
    from lash_cli.core.queued_work import QueuedWorkBatch
    from lash_cli.store.base import RuntimePersistence, SessionMeta, SessionRow


class FoundInput(NamedTuple):
    """One input, its session, and the turn that took or used it."""

    row: PendingTurnInput
    session: SessionRow
    turn_id: str | None

    @property
    def meta(self) -> SessionMeta:
        """What identifies the session."""
        return self.session.meta


class FoundBatch(NamedTuple):
    """One batch and its session."""

    batch: QueuedWorkBatch
    meta: SessionMeta


@asynccontextmanager
async def existing_store() -> AsyncIterator[RuntimePersistence | None]:
    """The store opened for writing, None when there is no database yet."""
    from lash_cli.cli.running import writing_store

    if not has_database():
        yield None
        return
    async with aclosing(writing_store()) as store:
        yield store


def queue_of(store: RuntimePersistence, session_id: str) -> SessionQueue:
    """The queue of a session."""
    from lash_cli.api.queue import SessionQueue  # who only looks at a queue reads the store (design D16)

    return SessionQueue(store, SystemClock(), SystemIds(), session_id)


async def find_input(store: RuntimePersistence | None, input_id: str, reference: str | None) -> FoundInput:
    """The input of that id, of the session `reference` names if it names one.

    Raises `NotFoundError` (`input_not_found`), and what `resolve_session` raises.
    """
    if store is None:
        raise input_not_found(input_id)
    session: SessionRow | None
    if reference is not None:
        session = await read_session_row(store, reference)
        found = await store.turn_input(session.meta.session_id, input_id)
    else:
        found = await store.find_input(input_id)
        session = await store.session_row(found[0].session_id) if found is not None else None
    if found is None or session is None:
        raise input_not_found(input_id, reference)
    return FoundInput(found[0], session, found[1])


async def find_batch(store: RuntimePersistence | None, batch_id: str, reference: str | None) -> FoundBatch:
    """As `find_input`, for a batch; raises `NotFoundError` (`batch_not_found`)."""
    batch: QueuedWorkBatch | None = None
    if store is not None and reference is not None:
        session = await read_session_row(store, reference)
        batch = await store.queued_work_batch(session.meta.session_id, batch_id)
    elif store is not None:
        batch = await store.find_batch(batch_id)
    session_row = await store.session_row(batch.session_id) if store is not None and batch is not None else None
    if batch is None or session_row is None:
        where = f"session {reference!r} has" if reference is not None else "there is"
        raise NotFoundError(
            f"{where} no batch {batch_id!r}",
            code="batch_not_found",
            hint="list them with: lash queue batches SESSION",
            details={"batch": batch_id, "session": reference},
        )
    return FoundBatch(batch, session_row.meta)


def input_not_found(input_id: str, reference: str | None = None) -> NotFoundError:
    """The error for an input that is not there, or not in the session that was named."""
    where = f"session {reference!r} has" if reference is not None else "there is"
    return NotFoundError(
        f"{where} no input {input_id!r}",
        code="input_not_found",
        hint="list them with: lash queue ls SESSION --all",
        details={"input": input_id, "session": reference},
    )


async def is_input_held(store: RuntimePersistence, found: FoundInput) -> bool:
    """Whether somebody has taken an input and not settled it.

    A turn that took it is on the row. A claim made outside of a turn shows only in what the listing leaves out, and
    can only stand while somebody holds the lane.
    """
    if found.row.state not in PENDING_INPUT_STATES:
        return False
    if found.turn_id is not None:
        return True
    if not is_row_live(found.session.lease, SystemClock().now_ms()):
        return False
    free = await store.inputs(found.row.session_id, pending_only=True)
    return all(row.input_id != found.row.input_id for row in free)
