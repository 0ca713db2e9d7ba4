"""The whole of what a session has committed as one value, and going on from such a value (contract 01 §2.3, §4.8).

Unlike `read_view().to_snapshot()`, which is what memory holds, it has every
branch, every frame, the records of plugins and the bytes of attachments: a
session in another store goes on from it. What belongs to a place and not to
the session, its queue and its turns, is what `lash export` is for.
"""

from __future__ import annotations

import msgspec

from lash_cli.core.codec import decode, sha256_hex
from lash_cli.core.content import Stored
from lash_cli.core.graph import SessionNode, attachments_of, refs_of
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.core.tools import ToolState
from lash_cli.core.usage import merge_ledger
from lash_cli.errors import NotFoundError, UsageError
from lash_cli.runtime.ending import seen_through
from lash_cli.runtime.history import require_movable
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.lane import borrowed_lane
from lash_cli.runtime.session import TOOL_STATE, ResidentSession
from lash_cli.runtime.state import RuntimeSessionState, require_own
from lash_cli.store.base import ReadScope, RuntimePersistence


async def export_state(store: RuntimePersistence, session: ResidentSession) -> RuntimeSessionState:
    """All that is committed, under the policy the session has now; for one that will replace what is stored, that.

    Raises what the store raises for a node, a component or an attachment that cannot be read.
    """
    read = None if session.replaces_graph else await store.load_session(session.session_id, ReadScope.FULL_GRAPH)
    if read is None:
        state = session.export_state()
    else:
        ref = read.component_refs.get(TOOL_STATE)
        state = RuntimeSessionState(
            session.session_id,
            session.policy,
            read.frames,
            read.nodes,
            read.leaf_node_id,
            read.turn_state,
            None if ref is None else decode(await store.load_component(ref), ToolState),
            merge_ledger(read.token_ledger),
            cut_off=read.cut_off,
        )
    attachments = {
        ref: await store.get_attachment(session.session_id, ref)
        for ref in sorted(refs_of(state.nodes))
        if ref not in session.given_attachments
    }
    return msgspec.structs.replace(state, attachments={**session.given_attachments, **attachments})


async def require_attachments(store: RuntimePersistence | None, state: RuntimeSessionState) -> None:
    """Raise `UsageError` (`session_state_invalid`) for a state that names an attachment which is neither with it nor
    the session's already, or whose bytes are others. Nothing is written."""
    for ref, data in state.attachments.items():
        if ref != f"sha256:{sha256_hex(data)}":
            raise _unusable(state, f"the bytes of {ref} are others")
    for ref in sorted(refs_of(state.nodes) - state.attachments.keys()):
        try:
            if store is None:
                raise NotFoundError("without a store there are no stored attachments")
            await store.get_attachment(state.session_id, ref)
        except NotFoundError as error:
            raise _unusable(state, f"the attachment {ref} is missing") from error


def _unusable(state: RuntimeSessionState, problem: str) -> UsageError:
    return UsageError(
        f"the state of session {state.session_id!r} cannot be gone on from: {problem}",
        code="session_state_invalid",
        hint="export it with: await session.admin().export_persistence_state()",
        details={"session": state.session_id},
    )


async def put_attachments(store: RuntimePersistence, state: RuntimeSessionState, now_ms: int) -> None:
    """Store what came with a state under its session; the commit that adopts its nodes makes them its own."""
    for source in _given(state.nodes, state.attachments).values():
        await store.put_attachment(
            state.session_id,
            state.attachments[source.attachment_ref],
            media_type=source.media_type,
            owner=None,
            now_ms=now_ms,
            label=source.label,
        )


def _given(nodes: tuple[SessionNode, ...], given: dict[str, bytes]) -> dict[str, Stored]:
    return {
        source.attachment_ref: source
        for source in attachments_of(nodes)
        if isinstance(source, Stored) and source.attachment_ref in given
    }


async def apply_state(
    host: RuntimeHost,
    store: RuntimePersistence,
    session: ResidentSession,
    owner: LeaseOwnerIdentity,
    state: RuntimeSessionState,
) -> None:
    """Have an opened session go on from `state`, in one commit, while the caller holds its writer lock and nothing is
    left to flush. On failure nothing is changed.

    Raises `StoreSessionMismatch`, `UsageError` (`session_state_invalid`), `SessionExecutionBusy`, `SessionClosed` and
    `ConflictError` (`turn_unfinished`).
    """
    require_own(session.session_id, state)
    await require_attachments(store, state)
    async with borrowed_lane(host, store, owner, session) as fence:
        await require_movable(store, session.session_id)
        now_ms = host.clock.now_ms()
        await put_attachments(store, state, now_ms)
        undo = session.replace_by(state, now_ms)
        try:
            commit = session.commit(fence=fence, now_ms=now_ms)
            host.reach("before:apply")
        except BaseException:
            undo()
            raise
        await seen_through(session.committed(store, commit, undo=undo))
        host.reach("after:apply")
