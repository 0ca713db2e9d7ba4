"""`SessionAdmin`: the history of an opened session, under the names the project was founded on (contract 01 §4.8).

Each verb waits for a running turn of this session, changes the stored session
in one commit and brings the handle up to date before it returns, so that
another process sees the same as this one (contract 01 §10).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lash_cli.core.codec import reread
from lash_cli.core.content import Message, ProtocolTurnOptions
from lash_cli.core.graph import ConversationPayload, PluginPayload, SessionGraph, SessionNode
from lash_cli.core.history import TreeEntry
from lash_cli.errors import UsageError
from lash_cli.runtime.appending import (
    Appended,
    AppendSessionNodesRequest,
    SessionAppendNode,
    StaleBranch,
    append_session_nodes,
)
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.compaction import CompactionReport, compact_context
from lash_cli.runtime.frame_opening import OpenAgentFrameRequest, OpenAgentFrameResult, open_agent_frame
from lash_cli.runtime.history import HeadMove, move_head
from lash_cli.runtime.replacing import ReadStateReplaced, replace_active_read_state
from lash_cli.runtime.session import ResidentSession, Undo
from lash_cli.runtime.state import RuntimeSessionState
from lash_cli.store.base import RuntimePersistence, SessionMeta

if TYPE_CHECKING:
    from lash_cli.api.session import LashSession
    from lash_cli.core.lease import LeaseOwnerIdentity
    from lash_cli.runtime.host import RuntimeHost


class SessionAdmin:
    """What changes the history of an opened session, from `LashSession.admin()` (contract 01 §4.8, §8.3). Without a
    store compaction, frames and the export work as with one, and every other verb raises `LashRuntimeError`
    (`missing_session_store_factory`). Every verb raises `SessionClosed` once the handle is closed, and, where it
    writes, `SessionExecutionBusy` while another owner holds the lane and `ConflictError` (`turn_unfinished`) while a
    turn that a crash cut off is not finished."""

    def __init__(self, session: LashSession) -> None:
        self._session = session

    def _parts(self) -> tuple[RuntimeHost, RuntimePersistence, LeaseOwnerIdentity]:
        """What a verb works with that needs a store."""
        core = self._session._core
        return core.host, core.store, self._session._shared.owner

    def export_state(self) -> RuntimeSessionState:
        """What memory holds of the state, for `open_with_state`: without `keep_all` what is said in the current frame,
        and attachments by name only. See `export_persistence_state` for all of it."""
        return self._session.export_state()

    async def export_persistence_state(self) -> RuntimeSessionState:
        """All that is committed, for `open_with_state` and `apply_persistence_state`, in this store or another: every
        branch and frame, the records of plugins, tools, costs, and the bytes of attachments. Without a store it is
        `export_state`."""
        from lash_cli.runtime.persistence import export_state

        session = self._session
        store = session._core.host.store
        async with session._shared.lock:
            state = session._state
            return state.export_state() if store is None else await export_state(store, state)

    async def apply_persistence_state(self, state: RuntimeSessionState) -> None:
        """Go on from `state` instead of what is stored, in one commit; what it had shows nobody any more. The policy,
        the count of turns and what was spent stay those of the session.

        Raises `StoreSessionMismatch` for the state of another session, and `UsageError` (`session_state_invalid`) as
        `LashCore.open_with_state`. On failure nothing is changed.
        """
        from lash_cli.runtime.persistence import apply_state

        host, store, owner = self._parts()
        await self._session._alone(
            lambda resident: apply_state(host, store, resident, owner, state), is_behind_flush=True
        )

    async def message_tree(self) -> tuple[TreeEntry, ...]:
        """Every committed message, those of other branches and frames included."""
        self._session._check_open()
        return await self._session._core.message_tree(self._session.session_id)

    async def session_graph(self) -> SessionGraph:
        """Every committed node, those of other branches and of older frames included, and the head."""
        self._session._check_open()
        return await self._session._core.session_graph(self._session.session_id)

    async def get_historic_node(self, node_id: str) -> SessionNode:
        """One committed node, on whatever branch it is, read alone; raises as `LashCore.get_historic_node`."""
        self._session._check_open()
        return await self._session._core.get_historic_node(self._session.session_id, node_id)

    async def branch_to_node(self, node_id: str | None) -> HeadMove:
        """Move the head to a node of the session, None for before everything that was said.

        Raises as `LashCore.branch_to_node`.
        """
        host, store, owner = self._parts()
        return await self._session._alone(
            lambda state: move_head(host, store, owner, state.session_id, node_id, follow=state.refresh),
            is_behind_flush=True,
        )

    async def set_protocol_turn_options(self, options: ProtocolTurnOptions) -> None:
        """Ask every turn of the current agent frame, and of those opened after it, with `options`; a turn's own stand
        over them, key by key. What was set before is replaced. Raises `UsageError` for options that cannot be used
        (`invalid_turn_options`)."""
        await self._set_options(options, is_for_all=False)

    async def set_protocol_turn_options_all_frames(self, options: ProtocolTurnOptions) -> None:
        """`set_protocol_turn_options` for the frames before it as well, which the head can be moved back to."""
        await self._set_options(options, is_for_all=True)

    async def _set_options(self, options: ProtocolTurnOptions, *, is_for_all: bool) -> None:
        from lash_cli.runtime.structured import options_issue  # no other verb judges schemas

        try:
            options = reread(options, ProtocolTurnOptions)
        except ValueError as error:
            raise UsageError(f"those are no options a turn can have: {error}", code="invalid_turn_options") from error
        issue = options_issue(options)
        if issue is not None:
            raise UsageError(issue.message, code=issue.code)

        def change(state: ResidentSession) -> Undo | None:
            frames, dirty = state.frames, set(state.dirty)
            if not state.set_turn_options(options, is_for_all=is_for_all):
                return None

            def undo() -> None:
                state.frames, state.dirty = frames, dirty

            return undo

        await self._session._change(change)

    async def compact_context(self, instructions: str | None = None) -> bool:
        """Go on in a new frame that begins with a summary of the old one; whether one was opened.

        False when there is nothing to compact or the model gave no summary: then
        nothing changed, except that what it cost is booked. Raises
        `SessionExecutionLeaseExpired` when the lane was lost meanwhile, and
        `ConfigError` for a provider that cannot be used.
        """
        return (await self.compact_with_report(instructions)).is_opened

    async def compact_with_report(
        self, instructions: str | None = None, *, operation_id: str | None = None, token: CancelToken | None = None
    ) -> CompactionReport:
        """`compact_context`, saying what was done. `operation_id` makes a repeat harmless; a tripped `token` ends the
        call of the model, and then nothing is opened. Raises `ConflictError` (`agent_frame_reused`) for an operation
        that led to an older frame."""
        self._session._check_open()
        shared, signal = self._session._shared, token or CancelToken()
        with shared.in_use(signal):
            return await self._session._alone(
                lambda state: compact_context(
                    shared.host, state, shared.owner, signal, instructions=instructions, operation_id=operation_id
                )
            )

    async def open_agent_frame(self, request: OpenAgentFrameRequest) -> OpenAgentFrameResult:
        """Go on in a new frame that begins with the given nodes; the id of the current one opens nothing.

        Raises `ConflictError` (`agent_frame_reused`) for the id of an older one, and `UsageError` (`node_invalid`) for
        nodes that could not be read again; of attachments as `append_session_nodes`.
        """
        session = self._session
        return await session._alone(
            lambda state: open_agent_frame(session._core.host, state, session._shared.owner, request)
        )

    async def append_session_nodes(self, request: AppendSessionNodesRequest) -> Appended | StaleBranch:
        """Add messages, events of a protocol and records of plugins below the head, in one commit.

        Nothing is written for a branch that is not the current one any more, and nothing twice for one operation.
        Raises `ConflictError`: `node_not_resumable` when the messages leave tool calls without a result, and
        `node_exists` when the operation added something else before; `UsageError` (`node_invalid`) for what could not
        be read again, and (`attachment_source_policy_denied`) for an attachment the host does not allow; and
        `NotFoundError` (`attachment_not_found`) for one whose bytes this session has not.
        """
        host, store, owner = self._parts()
        return await self._session._alone(lambda state: append_session_nodes(host, store, state, owner, request))

    async def append_messages(self, messages: Sequence[Message], *, operation_id: str | None = None) -> Appended:
        """Add messages below the head, whatever it is, under ids of the session's own, which the answer has in their
        order; raises as `append_session_nodes`."""
        return await self._appended(
            tuple(SessionAppendNode(ConversationPayload(message)) for message in messages), operation_id
        )

    async def append_plugin_body(self, plugin_type: str, body: Any, *, operation_id: str | None = None) -> Appended:
        """Add a record of a plugin, JSON in `body`, that no model is shown; raises as `append_session_nodes`."""
        return await self._appended((SessionAppendNode(PluginPayload(plugin_type, body)),), operation_id)

    async def _appended(self, nodes: tuple[SessionAppendNode, ...], operation_id: str | None) -> Appended:
        done = await self.append_session_nodes(AppendSessionNodesRequest(nodes, operation_id=operation_id))
        assert isinstance(done, Appended), "no ancestor was required"
        return done

    async def replace_active_read_state(
        self, messages: Sequence[Message], *, operation_id: str | None = None
    ) -> ReadStateReplaced:
        """Go on in the current frame as if `messages` were all that was said in it (contract 01 §8.2), in one commit.

        As many of them as were said there in this order stay; the others are appended beside what followed, which
        stays as a branch. Transient ones are left out, and those that are appended get ids of their own.
        `operation_id` makes a repeat harmless. Raises as `append_session_nodes`.
        """
        host, store, owner = self._parts()
        return await self._session._alone(
            lambda state: replace_active_read_state(host, store, state, owner, messages, operation_id=operation_id),
            is_behind_flush=True,
        )

    async def fork(
        self, *, session_id: str | None = None, at: str | None = None, name: str | None = None
    ) -> SessionMeta:
        """A new session that goes on from here, or `at` a node or turn; raises as `LashCore.fork_session`."""
        session = self._session
        async with session._shared.lock:
            await session._flush()
        return await session._core.fork_session(session.session_id, session_id=session_id, at=at, name=name)
