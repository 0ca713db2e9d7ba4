"""What `lash doctor` finds in a database that can be read: holders, unfinished turns, what waits for a person.

Read-only, and without an event loop. One pass over the sessions.
"""

from __future__ import annotations

from typing import NamedTuple

from lash_cli.cli.output import Document
from lash_cli.cli.reading import every_session, run_inline
from lash_cli.cli.session_detail import times_begun
from lash_cli.core.lease import LocalProcess, is_row_live
from lash_cli.core.queued_work import BatchState
from lash_cli.paths import Paths
from lash_cli.store.base import RuntimePersistence, SessionRow
from lash_cli.system import SystemClock, is_definitely_dead, this_process
from lash_cli.views.times import rfc3339


class StoreReport(NamedTuple):
    """What is in a store; empty for one that is absent."""

    sessions: int | None = None
    holders: tuple[Document, ...] = ()
    unfinished: tuple[Document, ...] = ()
    held: tuple[Document, ...] = ()
    dead: tuple[Document, ...] = ()
    from_the_future: tuple[Document, ...] = ()


def inspect_store(paths: Paths) -> StoreReport:
    """Look at every session. Raises what `wiring.open_store` raises for a database that cannot be read."""
    from lash_cli.wiring import open_store

    async def look() -> StoreReport:
        store = open_store(paths, read_only=True)
        try:
            return await _report(store)
        finally:
            await store.aclose()

    return run_inline(look)


async def _report(store: RuntimePersistence) -> StoreReport:
    rows = {row.meta.session_id: row async for row in every_session(store)}
    holders = {key: _holder(row) for key, row in rows.items() if row.lease.token is not None}
    unfinished = [
        {
            "session": turn.session_id,
            "name": rows[turn.session_id].meta.name if turn.session_id in rows else None,
            "turn": turn.turn_id,
            "started_at": rfc3339(turn.started_at_ms),
            "holder": _live_pid(holders.get(turn.session_id)),
            "begun": await times_begun(store, turn),
        }
        for turn in await store.unfinished_turns()
    ]
    held = [_held(row) for row in rows.values() if row.meta.held_at_ms is not None]
    dead = [document for row in rows.values() for document in await _dead_batches(store, row)]
    future = [holders[key] for key, row in rows.items() if _is_from_the_future(row)]
    return StoreReport(len(rows), tuple(holders.values()), tuple(unfinished), tuple(held), tuple(dead), tuple(future))


def _held(row: SessionRow) -> Document:
    """One queue from which nothing is taken."""
    return {
        "session": row.meta.session_id,
        "name": row.meta.name,
        "held_at": rfc3339(row.meta.held_at_ms),
        "reason": row.meta.hold_reason,
        "pending_inputs": row.pending_inputs,
        "pending_batches": row.pending_batches,
    }


async def _dead_batches(store: RuntimePersistence, row: SessionRow) -> list[Document]:
    """The batches of a session that failed too often."""
    return [
        {
            "session": batch.session_id,
            "name": row.meta.name,
            "id": batch.batch_id,
            "class": batch.work_class.value,
            "attempts": batch.attempts,
            "last_error": batch.last_error,
        }
        for batch in await store.queued_work(row.meta.session_id, pending_only=False)
        if batch.state is BatchState.DEAD
    ]


def _live_pid(holder: Document | None) -> int | str | None:
    """Who is finishing a turn now: a pid or an owner id; None when nobody is."""
    if holder is None or holder["state"] != "live":
        return None
    return holder["pid"] or str(holder["owner"])


def _is_from_the_future(row: SessionRow) -> bool:
    """Whether a lane is kept by a lease that was taken at a time which is yet to come, and whose holder cannot be asked
    whether it lives: the clock was set back since, and nothing but the lease's end frees the lane (contract 01 §13)."""
    now_ms = SystemClock().now_ms()
    owner = row.lease.owner
    if not is_row_live(row.lease, now_ms) or row.lease.claimed_at_ms <= now_ms or owner is None:
        return False
    this = this_process()
    process = owner.liveness if isinstance(owner.liveness, LocalProcess) else None
    return process is None or (process.host_id, process.boot_id) != (this.host_id, this.boot_id)


def _holder(row: SessionRow) -> Document:
    """One lease: `live`, `expired`, or `dead` when its process is provably gone."""
    now_ms = SystemClock().now_ms()
    owner = row.lease.owner
    process = owner.liveness if owner is not None and isinstance(owner.liveness, LocalProcess) else None
    state = "live" if is_row_live(row.lease, now_ms) else "expired"
    if state == "live" and process is not None and is_definitely_dead(process):
        state = "dead"
    return {
        "session": row.meta.session_id,
        "name": row.meta.name,
        "owner": owner.owner_id if owner is not None else None,
        "label": owner.label if owner is not None else None,
        "pid": process.pid if process is not None else None,
        "state": state,
        "generation": row.lease.fencing_token,
        "expires_at": rfc3339(row.lease.expires_at_ms),
        "expires_in_ms": max(0, row.lease.expires_at_ms - now_ms),
    }
