"""Compaction: a new agent frame that begins with what the context plugins make of the old one (contract 01 §11).

The plugins are asked in order and the first that returns anything wins; none
leaves everything as it is. Frame, first nodes and the cost of the summary are
one commit. The lane is held from the first look at the messages on, so that no
turn can begin in a frame that is about to be left.
"""

from __future__ import annotations

import asyncio
from itertools import chain, count
from typing import Literal

import msgspec

from lash_cli.core.codec import reread
from lash_cli.core.content import TurnInput, message_text
from lash_cli.core.context import COMPACT_FAILED, CompactionContext, ContextPlugin, SummaryRequest, plugin_failed
from lash_cli.core.graph import NodePayload, SessionNode, messages_on
from lash_cli.core.lease import LeaseFence, LeaseOwnerIdentity
from lash_cli.core.outcome import TurnResult
from lash_cli.core.policy import NO_GENERATION, PromptLayer, SessionPolicy, session_prompt
from lash_cli.core.prompt import NO_BUILTINS
from lash_cli.core.usage import TokenLedgerEntry, TokenUsage
from lash_cli.effects.inline import InlineEffectHost
from lash_cli.errors import LashError
from lash_cli.runtime.asking import CANCEL_GRACE_S
from lash_cli.runtime.attachments import kept_payloads
from lash_cli.runtime.cancellation import CancelToken
from lash_cli.runtime.context import moment_of
from lash_cli.runtime.ephemeral import EphemeralTurn
from lash_cli.runtime.foreign import CutOff, within_turn
from lash_cli.runtime.frame_opening import OpenAgentFrameRequest, PlannedFrame, commit_frame, held_lane, plan_frame
from lash_cli.runtime.history import require_movable
from lash_cli.runtime.host import RuntimeHost
from lash_cli.runtime.requests import TurnRequest, unseen
from lash_cli.runtime.session import ResidentSession
from lash_cli.store.base import RuntimePersistence
from lash_cli.tools.registry import ToolRegistry

USAGE_SOURCE = "compaction"
REASON = "compaction"


class CompactionReport(msgspec.Struct, frozen=True):
    """What a compaction did (contract 01 §11). `frame_id` is the frame it opened, None when it opened none: then
    `reason` says why. `turn` is how the model was asked for the summary, None when it was not, and `usage` what that
    cost."""

    session_id: str
    frame_id: str | None
    previous_frame_id: str
    previous_leaf_node_id: str | None
    messages_before: int
    messages_after: int
    usage: TokenUsage
    head_revision: int | None
    reason: Literal["nothing_to_compact", "no_summary"] | None = None
    turn: TurnResult | None = None
    summary: str | None = None

    @property
    def is_opened(self) -> bool:
        """Whether a frame was opened."""
        return self.frame_id is not None


class _Summariser:
    """Asks the session's model, in a session of its own that lives in memory and has no tools (contract 05 §5.2)."""

    def __init__(self, host: RuntimeHost, session: ResidentSession, scope: str, token: CancelToken) -> None:
        self._host = msgspec.structs.replace(
            host, store=None, effects=InlineEffectHost(host.clock, host.ids), builtins=NO_BUILTINS, crash_point=None
        )
        self._session = session
        self._turn_id = f"{scope}:rolling-history-compaction"
        self._token = token
        self.usage = TokenUsage()
        self.turn: TurnResult | None = None

    async def ask(self, request: SummaryRequest) -> str | None:
        """The answer of the model; None when it gave none."""
        child_id = f"{self._session.session_id}-compaction"
        policy: SessionPolicy = msgspec.structs.replace(
            self._session.policy,
            session_id=child_id,
            prompt=session_prompt(request.system),
            max_turns=1,
            generation=NO_GENERATION,  # how the session's answers end is not how its summary does
        )
        core_policy = msgspec.structs.replace(policy, prompt=PromptLayer())
        child = ResidentSession(child_id, policy, core_policy, ToolRegistry(), None, self._host.clock.now_ms())
        wanted = TurnRequest(TurnInput.text(request.text), self._turn_id, max_turns=1)
        output = await EphemeralTurn(self._host, child, wanted, self._token, unseen).run_traced()
        result = output.result
        if result is None:
            return None
        self.turn = result
        self.usage = self.usage + result.total_usage()
        return result.assistant_message()


async def compact_context(
    host: RuntimeHost,
    session: ResidentSession,
    owner: LeaseOwnerIdentity,
    token: CancelToken,
    *,
    instructions: str | None = None,
    operation_id: str | None = None,
) -> CompactionReport:
    """Compact the current frame of a session because somebody asked for it, while the caller holds its writer lock.

    The frame's id is a function of `operation_id`, or of the head without one,
    so a repeated operation opens no second frame. Raises
    `SessionExecutionBusy`, `SessionClosed`, `ConflictError` (`turn_unfinished`, and
    `agent_frame_reused` for an operation that led to an older frame),
    `SessionExecutionLeaseExpired`, and what resolving the provider raises.
    """
    store = host.store
    if store is None:
        return await _Compaction(host, session, token, instructions, operation_id, is_requested=True).run(None, None)
    async with held_lane(host, store, session, owner, token) as fence:
        await require_movable(store, session.session_id)
        compaction = _Compaction(host, session, token, instructions, operation_id, is_requested=True)
        return await compaction.run(store, fence)


async def make_room(
    host: RuntimeHost,
    store: RuntimePersistence | None,
    session: ResidentSession,
    fence: LeaseFence | None,
    token: CancelToken,
) -> CompactionReport:
    """Compact before a turn begins, under its lane if there is a store: what a caller does when
    `context.is_room_due`."""
    return await _Compaction(host, session, token, None, None, is_requested=False).run(store, fence)


class _Compaction:
    """One compaction of one frame."""

    def __init__(
        self,
        host: RuntimeHost,
        session: ResidentSession,
        token: CancelToken,
        instructions: str | None,
        operation_id: str | None,
        *,
        is_requested: bool,
    ) -> None:
        self._host = host
        self._session = session
        self._instructions = instructions
        self._is_requested = is_requested
        self._before = len(session.messages)
        self._frame_id = _frame_id(session, operation_id)
        self._previous = (session.frame_id, session.leaf_node_id)
        self._token = token
        self._summariser = _Summariser(host, session, self._frame_id, token)

    async def run(self, store: RuntimePersistence | None, fence: LeaseFence | None) -> CompactionReport:
        """Ask the plugins and open the frame; `fence` is that of the lane, which stays held. What the model was paid
        is booked also when this raises."""
        session = self._session
        unchanged = PlannedFrame(session.frames, (), is_new=False)
        try:
            planned = await self._planned()
        except Exception:
            if self._spent:
                await commit_frame(self._host, store, session, fence, unchanged, self._spent)
            raise
        except BaseException:
            session.owe(self._spent)  # who is stopped waits for no commit
            raise
        if planned.nodes or self._spent:
            await commit_frame(self._host, store, session, fence, planned if planned.nodes else unchanged, self._spent)
        return self._report(planned.nodes)

    @property
    def _spent(self) -> tuple[TokenLedgerEntry, ...]:
        """What the model was paid so far."""
        usage = self._summariser.usage
        return (TokenLedgerEntry(USAGE_SOURCE, self._session.policy.model.id, usage),) if usage.total else ()

    async def _planned(self) -> PlannedFrame:
        """The frame with what the plugins make of the context; without nodes when they make nothing of it."""
        session, clock = self._session, self._host.clock
        # An id that opens nothing, or that was used before, is found out before the model is asked.
        planned = plan_frame(session, OpenAgentFrameRequest(self._frame_id, REASON), clock.now_ms())
        payloads = await self._payloads() if planned.is_new and self._before else ()
        return plan_frame(session, OpenAgentFrameRequest(self._frame_id, REASON, payloads), clock.now_ms())

    async def _payloads(self) -> tuple[NodePayload, ...]:
        session = self._session
        context = CompactionContext(
            session.conversation(),
            moment_of(session, session.policy),
            self._summariser.ask,
            self._instructions,
            self._is_requested,
        )
        for plugin in self._host.context:
            payloads = await self._asked(plugin, context)
            if payloads:
                return await kept_payloads(self._host, session, payloads)
        return ()

    async def _asked(self, plugin: ContextPlugin, context: CompactionContext) -> tuple[NodePayload, ...]:
        """What a plugin makes of the context; nothing where it is cancelled before it has an answer. Raises
        `PluginInvokeError` (`context_compact`) when it fails, or answers what could not be read again, and what asking
        the model raises."""

        async def contained() -> tuple[NodePayload, ...]:
            try:
                payloads: tuple[NodePayload, ...] = reread(await plugin.compact(context) or (), tuple[NodePayload, ...])
                return payloads
            except LashError:
                raise
            except asyncio.CancelledError as error:
                raise plugin_failed(plugin, COMPACT_FAILED, error) from None
            except Exception as error:
                raise plugin_failed(plugin, COMPACT_FAILED, error) from error

        what = f"the context plugin {plugin.plugin_id!r}"
        try:
            # As long as the call of the model that it may be making.
            return await within_turn(
                asyncio.ensure_future(contained()), what, self._token, self._session.session_id, grace_s=CANCEL_GRACE_S
            )
        except CutOff:
            return ()

    def _report(self, nodes: tuple[SessionNode, ...]) -> CompactionReport:
        frame_id, leaf = self._previous
        summary = next((message_text(message) for message in messages_on(nodes)), None)
        reason: Literal["nothing_to_compact", "no_summary"] | None = None
        if not nodes:
            reason = "nothing_to_compact" if self._summariser.turn is None else "no_summary"
        return CompactionReport(
            self._session.session_id,
            self._frame_id if nodes else None,
            frame_id,
            leaf,
            self._before,
            len(self._session.messages),
            self._summariser.usage,
            self._session.head_revision,
            reason,
            self._summariser.turn,
            summary,
        )


def _frame_id(session: ResidentSession, operation_id: str | None) -> str:
    """The id of the frame a compaction opens: a function of its operation, or without one of the head, and of the
    frames that were opened elsewhere at a head of the same number and brought here by an import or a state."""
    base = f"{session.session_id}:frame:compaction:"
    if operation_id is not None:
        return f"{base}{operation_id}"
    first = f"{base}r{session.head_revision or session.turn_state.turn_index}"
    used = {frame.frame_id for frame in session.frames}
    return next(name for name in chain((first,), (f"{first}.{number}" for number in count(2))) if name not in used)
