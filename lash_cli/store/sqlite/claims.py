"""Claims of a lane holder: outside of a turn, at a checkpoint, given back, found (contract 02 §1.5, §1.6, §3.3, §3.4).

Every claim looks first, on a reading connection, and opens a write transaction
only when there is something to take; the transaction validates the fence and
looks again. A held queue gives nothing. Rows a checkpoint takes are held by
their turn from then on, so only a turn that runs may take any.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import get_args

from lash_cli.core.claim_limits import MAX_CLAIMED_BATCHES, MAX_CLAIMED_INPUTS
from lash_cli.core.effect import TurnScope, scope_key
from lash_cli.core.ingress import Boundary, TurnInputClaim, admits
from lash_cli.core.lease import LeaseFence, is_fence_live
from lash_cli.core.queued_work import QueuedWorkBatch, QueuedWorkClaim, QueuedWorkClaimBoundary
from lash_cli.errors import NotFoundError
from lash_cli.store.queueing import CheckpointClaims, CheckpointRequest
from lash_cli.store.sqlite import batches, inputs, leases, line
from lash_cli.store.sqlite.database import Database, T
from lash_cli.store.sqlite.queue_announcing import announce
from lash_cli.store.sqlite.sessions import StoredSession, lease_row, read_session, running_turn

_IS_RUNNING = "SELECT 1 FROM turns WHERE session_key = ? AND turn_id = ? AND state = 'running'"
_DROP_TURN = "DELETE FROM turns WHERE session_key = ? AND turn_id = ? AND state = 'running'"
_DROP_CANCEL = "DELETE FROM turn_cancels WHERE session_key = ? AND turn_id = ?"
# Another turn under the same id must not find effects of this one.
_DROP_JOURNAL = "DELETE FROM effects WHERE scope_key = ?"
# A claim id names rows of one session; the token is what its holder proves ownership with. Of a claim whose session is
# not known, the few rows that anybody holds are looked through.
_FIND_INPUTS = """
SELECT session_key, claim_token, claim_generation, turn_id FROM inputs INDEXED BY inputs_held
WHERE claim_id = ? AND state IN ('pending_active', 'deferred_next_turn') LIMIT 1
"""
_FIND_WORK = """
SELECT session_key, claim_token, claim_generation, turn_id FROM queued_work INDEXED BY queued_work_held
WHERE claim_id = ? AND state = 'pending' LIMIT 1
"""
_SESSION_ID = "SELECT session_id FROM sessions WHERE session_key = ?"
_TOKEN_OF_INPUTS = """
SELECT claim_token FROM inputs INDEXED BY inputs_held
WHERE session_key = ? AND claim_id = ? AND state IN ('pending_active', 'deferred_next_turn') LIMIT 1
"""
_TOKEN_OF_WORK = """
SELECT claim_token FROM queued_work INDEXED BY queued_work_held
WHERE session_key = ? AND claim_id = ? AND state = 'pending' LIMIT 1
"""

# What a plain turn pays at a checkpoint (contract 02 §1.5, decision 0008): the lease, and whether anything is there
# that a checkpoint could take, or took under this claim id; never 0 when there is.
_AT_CHECKPOINT = f"""
SELECT s.lease_fencing_token, s.lease_token, s.lease_owner, s.lease_claimed_at_ms, s.lease_expires_at_ms,
    {line.ANYTHING_WAITS}
    OR EXISTS (SELECT 1 FROM inputs INDEXED BY inputs_held
        WHERE session_key = s.session_key AND claim_id = ?2 AND state IN ('pending_active', 'deferred_next_turn'))
    OR EXISTS (SELECT 1 FROM queued_work INDEXED BY queued_work_held
        WHERE session_key = s.session_key AND claim_id = ?2 AND state = 'pending')
FROM sessions s WHERE s.session_id = ?1
"""

# Whether there may be something to take, and taking it; with the session and the time the fence was judged by.
Look = Callable[[sqlite3.Connection, StoredSession, int], bool]
Take = Callable[[sqlite3.Connection, StoredSession, int], T]


def drop_turn(connection: sqlite3.Connection, session: StoredSession, turn_id: str) -> list[str]:
    """Undo an unfinished turn: everything it took is free again. Returns the ids of what it gave back."""
    from lash_cli.store.sqlite.waits import drop_waits  # hardly any turn is dropped

    connection.execute(_DROP_TURN, (session.key, turn_id))
    connection.execute(_DROP_CANCEL, (session.key, turn_id))
    scope = TurnScope(session.session_id, turn_id)
    connection.execute(_DROP_JOURNAL, (scope_key(scope),))
    drop_waits(connection, scope)
    return [
        *inputs.give_back_taken(connection, session.key, turn_id),
        *batches.give_back_taken(connection, session.key, turn_id),
    ]


def _drop_if_unfinished(connection: sqlite3.Connection, session: StoredSession, turn_id: str | None) -> list[str]:
    """Drop the turn a claim was given back by: its journal still delivers those rows, so it could never commit."""
    if turn_id is None or connection.execute(_IS_RUNNING, (session.key, turn_id)).fetchone() is None:
        return []
    return drop_turn(connection, session, turn_id)


def _abandon(
    connection: sqlite3.Connection, claims: Sequence[TurnInputClaim | QueuedWorkClaim], now_ms: int
) -> tuple[str, ...]:
    """Give back what the claims still own; a claim that owns nothing any more is passed over."""
    given_back: list[str] = []
    for claim in claims:
        try:
            session = read_session(connection, claim.session_id)
        except NotFoundError:
            continue
        family = inputs if isinstance(claim, TurnInputClaim) else batches
        ids = family.give_back_claim(
            connection, session.key, claim.claim_id, claim.claim_token, generation=claim.generation
        )
        if ids:
            ids += _drop_if_unfinished(connection, session, claim.turn_id)
        announce(connection, session, "enqueued", ids, now_ms)
        given_back += ids
    return tuple(given_back)


def _admitted_boundaries(checkpoint: Boundary) -> list[str]:
    return [boundary for boundary in get_args(Boundary) if admits(boundary, checkpoint)]


def _may_take_at_checkpoint(
    connection: sqlite3.Connection, session: StoredSession, request: CheckpointRequest, generation: int, now_ms: int
) -> bool:
    """Whether a checkpoint may find anything: cheap, and never False when there is something."""
    for statement in (_TOKEN_OF_INPUTS, _TOKEN_OF_WORK):
        if connection.execute(statement, (session.key, request.claim_id)).fetchone() is not None:
            return True
    if session.held_at_ms is not None:
        return False
    boundaries = _admitted_boundaries(request.checkpoint)
    if request.max_inputs > 0 and inputs.admitted_inputs(connection, session.key, request.turn_id, boundaries, 1):
        return True
    if request.max_batches < 1:
        return False
    front = line.read_front(connection, session.key, generation, now_ms)
    head = line.read_head(connection, front)
    return front.has_due_work or (head is not None and not head.is_shut_at("active_turn_checkpoint"))


def _repeated(
    connection: sqlite3.Connection, session: StoredSession, request: CheckpointRequest, generation: int
) -> CheckpointClaims | None:
    """What an earlier request of the same claim id took, with the token it stored; None when it took nothing."""
    claim_id = request.claim_id
    input_rows = inputs.rows_of_claim(connection, session.key, claim_id)
    work_rows = line.rows_of_claim(connection, session.key, claim_id)
    if not input_rows and not work_rows:
        return None
    taken_inputs = taken_work = None
    if input_rows:
        (token,) = connection.execute(_TOKEN_OF_INPUTS, (session.key, claim_id)).fetchone()
        rows = tuple(inputs.input_of(session.session_id, row) for row in input_rows)
        taken_inputs = TurnInputClaim(
            session.session_id, claim_id, token, generation, request.turn_id, rows, input_rows[0][-1]
        )
    if work_rows:
        (token,) = connection.execute(_TOKEN_OF_WORK, (session.key, claim_id)).fetchone()
        found = line.batches_of(session.session_id, work_rows)
        taken_work = QueuedWorkClaim(
            session.session_id, claim_id, token, generation, request.turn_id, found, work_rows[0][-1]
        )
    return CheckpointClaims(taken_inputs, taken_work)


def _take_at_checkpoint(
    connection: sqlite3.Connection, session: StoredSession, request: CheckpointRequest, generation: int, now_ms: int
) -> CheckpointClaims:
    repeated = _repeated(connection, session, request, generation)
    if repeated is not None:
        return repeated
    is_running = connection.execute(_IS_RUNNING, (session.key, request.turn_id)).fetchone() is not None
    if session.held_at_ms is not None or not is_running:
        return CheckpointClaims()
    taken_inputs = taken_work = None
    limit = min(request.max_inputs, MAX_CLAIMED_INPUTS)
    boundaries = _admitted_boundaries(request.checkpoint)
    rows = inputs.admitted_inputs(connection, session.key, request.turn_id, boundaries, limit) if limit > 0 else []
    if rows:
        taken_inputs = inputs.claim_rows(
            connection,
            session.session_id,
            rows,
            turn_id=request.turn_id,
            claim_id=request.claim_id,
            claim_token=request.claim_token,
            generation=generation,
        )
    line.join_due(connection, session.key, now_ms)
    decoded = line.select_group(
        connection, session.key, session.session_id, generation, "active_turn_checkpoint", request.max_batches
    )
    if decoded:
        taken_work = line.claim_decoded(
            connection,
            session.session_id,
            decoded,
            turn_id=request.turn_id,
            claim_id=request.claim_id,
            claim_token=request.claim_token,
            generation=generation,
        )
    return CheckpointClaims(taken_inputs, taken_work)


def _take_work(
    connection: sqlite3.Connection,
    session: StoredSession,
    boundary: QueuedWorkClaimBoundary,
    *,
    claim_token: str,
    generation: int,
    max_batches: int,
    batch_ids: Sequence[str],
    now_ms: int,
) -> QueuedWorkClaim | None:
    decoded: list[tuple[batches.BatchRow, QueuedWorkBatch]] | None
    if batch_ids:
        named = line.select_by_id(connection, session.key, batch_ids, generation, boundary, max_batches, now_ms)
        decoded = line.decode_or_park(connection, session.session_id, named.rows)
    else:
        line.join_due(connection, session.key, now_ms)
        decoded = line.select_group(connection, session.key, session.session_id, generation, boundary, max_batches)
    if not decoded:
        return None
    return line.claim_decoded(connection, session.session_id, decoded, claim_token=claim_token, generation=generation)


def _find(connection: sqlite3.Connection, claim_id: str) -> TurnInputClaim | QueuedWorkClaim | None:
    """The claim of that id whose rows are still unsettled, for somebody who wants them back whatever they hold."""
    of_inputs = connection.execute(_FIND_INPUTS, (claim_id,)).fetchone()
    found = of_inputs or connection.execute(_FIND_WORK, (claim_id,)).fetchone()
    if found is None:
        return None
    key, token, generation, turn_id = found
    (session_id,) = connection.execute(_SESSION_ID, (key,)).fetchone()
    if of_inputs is not None:
        rows = inputs.rows_of_claim(connection, key, claim_id)
        held = tuple(inputs.legible_input(session_id, row) for row in rows)
        return TurnInputClaim(session_id, claim_id, token, generation, turn_id, held, rows[0][-1])
    work_rows = line.rows_of_claim(connection, key, claim_id)
    work = tuple(batches.legible_batch(session_id, row) for row in work_rows)
    return QueuedWorkClaim(session_id, claim_id, token, generation, turn_id, work, work_rows[0][-1])


class Claims:
    """Claims under a fence, and giving them back; the async face of this module.

    None is synced (D22): a claim that a power cut takes back was never acted on.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def _take(self, fence: LeaseFence, look: Look, take: Take[T], nothing: T) -> T:
        """Look with a read, then take in a write transaction; the fence must be live in both."""

        def fenced(connection: sqlite3.Connection) -> tuple[StoredSession, int]:
            session = read_session(connection, fence.session_id)
            now_ms = self._db.clock.now_ms()
            leases.require_live(session, fence, now_ms)
            return session, now_ms

        if not self._db.read(lambda connection: look(connection, *fenced(connection))):
            return nothing
        return await self._db.write(lambda connection: take(connection, *fenced(connection)), durable=False)

    async def claim_next_turn_inputs(
        self, fence: LeaseFence, *, claim_token: str, max_inputs: int = MAX_CLAIMED_INPUTS
    ) -> TurnInputClaim | None:
        """See `queueing.TurnInputStore.claim_next_turn_inputs`."""
        limit = min(max_inputs, MAX_CLAIMED_INPUTS)
        generation = fence.fencing_token

        def look(connection: sqlite3.Connection, session: StoredSession, now_ms: int) -> bool:
            is_open = limit > 0 and session.held_at_ms is None
            return is_open and bool(inputs.next_inputs(connection, session.key, generation, 1))

        def take(connection: sqlite3.Connection, session: StoredSession, now_ms: int) -> TurnInputClaim | None:
            rows = inputs.next_inputs(connection, session.key, generation, limit)
            if session.held_at_ms is not None or not rows:
                return None
            return inputs.claim_rows(
                connection, session.session_id, rows, claim_token=claim_token, generation=generation
            )

        return await self._take(fence, look, take, None)

    async def claim_checkpoint_work(self, fence: LeaseFence, request: CheckpointRequest) -> CheckpointClaims:
        """See `queueing.TurnInputStore.claim_checkpoint_work`; nothing for a turn that does not run."""
        if self._is_quiet(fence, request.claim_id):
            return CheckpointClaims()
        generation = fence.fencing_token

        def look(connection: sqlite3.Connection, session: StoredSession, now_ms: int) -> bool:
            return _may_take_at_checkpoint(connection, session, request, generation, now_ms)

        def take(connection: sqlite3.Connection, session: StoredSession, now_ms: int) -> CheckpointClaims:
            return _take_at_checkpoint(connection, session, request, generation, now_ms)

        return await self._take(fence, look, take, CheckpointClaims())

    def _is_quiet(self, fence: LeaseFence, claim_id: str) -> bool:
        """Whether one cheap look proves that a checkpoint under a live fence finds nothing; any doubt is for `_take`,
        which also raises what there is to raise."""
        found = self._db.peek(_AT_CHECKPOINT, (fence.session_id, claim_id))
        if not found:
            return False
        *lease, is_anything = found[0]
        return not is_anything and is_fence_live(lease_row(*lease), fence, self._db.clock.now_ms())

    async def claim_leading_session_command(self, fence: LeaseFence, *, claim_token: str) -> QueuedWorkClaim | None:
        """See `queueing.QueuedWorkStore.claim_leading_session_command`."""
        generation = fence.fencing_token

        def look(connection: sqlite3.Connection, session: StoredSession, now_ms: int) -> bool:
            front = line.read_front(connection, session.key, generation, now_ms)
            head = line.read_head(connection, front)
            return session.held_at_ms is None and (front.has_due_work or (head is not None and not head.is_turn_work))

        def take(connection: sqlite3.Connection, session: StoredSession, now_ms: int) -> QueuedWorkClaim | None:
            if session.held_at_ms is not None:
                return None
            line.join_due(connection, session.key, now_ms)
            return line.take_leading_command(connection, session.key, session.session_id, generation, claim_token)

        return await self._take(fence, look, take, None)

    async def claim_ready_queued_work(
        self,
        fence: LeaseFence,
        boundary: QueuedWorkClaimBoundary,
        *,
        claim_token: str,
        max_batches: int = MAX_CLAIMED_BATCHES,
        batch_ids: Sequence[str] = (),
    ) -> QueuedWorkClaim | None:
        """See `queueing.QueuedWorkStore.claim_ready_queued_work`."""
        generation = fence.fencing_token

        def look(connection: sqlite3.Connection, session: StoredSession, now_ms: int) -> bool:
            if session.held_at_ms is not None or max_batches < 1:
                return False
            if batch_ids:
                named = line.select_by_id(connection, session.key, batch_ids, generation, boundary, max_batches, now_ms)
                return bool(named.rows)
            front = line.read_front(connection, session.key, generation, now_ms)
            head = line.read_head(connection, front)
            return front.has_due_work or (head is not None and not head.is_shut_at(boundary))

        def take(connection: sqlite3.Connection, session: StoredSession, now_ms: int) -> QueuedWorkClaim | None:
            if session.held_at_ms is not None:
                return None
            return _take_work(
                connection,
                session,
                boundary,
                claim_token=claim_token,
                generation=generation,
                max_batches=max_batches,
                batch_ids=batch_ids,
                now_ms=now_ms,
            )

        return await self._take(fence, look, take, None)

    async def abandon(self, claims: Sequence[TurnInputClaim] | Sequence[QueuedWorkClaim]) -> tuple[str, ...]:
        """See `queueing.TurnInputStore.abandon_turn_input_claims`; work is given back in the same way."""
        return await self._db.write(
            lambda connection: _abandon(connection, claims, self._db.clock.now_ms()), durable=False
        )

    async def fail_queued_work(self, fence: LeaseFence, claim: QueuedWorkClaim, error: str) -> tuple[str, ...]:
        """See `queueing.QueuedWorkStore.fail_queued_work`; an unfinished turn that took the claim is dropped."""

        def job(connection: sqlite3.Connection) -> tuple[str, ...]:
            session = read_session(connection, fence.session_id)
            now_ms = self._db.clock.now_ms()
            leases.require_live(session, fence, now_ms)
            ids, parked = batches.fail(connection, session.key, claim, error, now_ms)
            if ids:
                ids += _drop_if_unfinished(connection, session, claim.turn_id)
            announce(connection, session, "enqueued", ids, now_ms)
            return tuple(parked)

        return await self._db.write(job, durable=False)

    async def defer_orphaned_active_turn_inputs(self, fence: LeaseFence, *, turn_id: str | None = None) -> int:
        """See `queueing.TurnInputStore.defer_orphaned_active_turn_inputs`."""

        def job(connection: sqlite3.Connection) -> int:
            session = read_session(connection, fence.session_id)
            leases.require_live(session, fence, self._db.clock.now_ms())
            if turn_id is not None:
                return inputs.defer_inputs_of_turn(connection, session.key, turn_id)
            return inputs.defer_orphans(connection, session.key, turn_id=running_turn(connection, session.key))

        return await self._db.write(job, durable=False)

    async def find_claim(self, claim_id: str) -> TurnInputClaim | QueuedWorkClaim | None:
        """See `queueing.QueuedWorkStore.find_claim`."""
        return self._db.read(lambda connection: _find(connection, claim_id))
