"""Records of a session's state: what a reader sees, what is exported, what a turn is started under.

All of them are immutable pictures; `runtime.session` holds the state they are taken of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from lash_cli.core.codec import MAX_KEPT_DEPTH, Record, decode, reread
from lash_cli.core.content import Message, ProtocolTurnOptions, is_safe_to_resume
from lash_cli.core.frames import AgentFrame, current_frame, initial_frame
from lash_cli.core.graph import (
    ChronologicalEntry,
    SessionGraph,
    SessionNode,
    active_path,
    chronological,
    events_on,
    messages_on,
)
from lash_cli.core.head_state import TurnState
from lash_cli.core.policy import NO_LAYER, PersistedSessionConfig, PromptLayer, SessionPolicy
from lash_cli.core.pricing import CostLimit
from lash_cli.core.prompt import NO_BUILTINS, PromptBuiltins
from lash_cli.core.superseded import NOTHING_SUPERSEDED, SupersededNodes
from lash_cli.core.tools import ToolState
from lash_cli.core.usage import PromptUsage, TokenLedgerEntry, TokenUsage
from lash_cli.errors import LashRuntimeError, ReconfigureError, StoreSessionMismatch, StoreUnusable, UsageError
from lash_cli.tools.surface import check_state

if TYPE_CHECKING:
    from lash_cli.core.history import TreeEntry
    from lash_cli.store.base import TurnRecord

# What an opened session of a store holds in memory: what is said in its current frame, or the whole graph (contract
# 01 §10).
Residency = Literal["active_path_only", "keep_all"]
# More than a state has around what was as deep as may be when it was taken: messages and options in nodes and frames.
_LEVELS_AROUND = 8


class TurnPlan(Record):
    """What a turn was started with; a re-drive runs under the same (contract 01 §3, "resolved once").

    `head_revision` is the head the turn started from: when it moved since,
    somebody configured the session after the crash, and that choice stands.
    """

    config: PersistedSessionConfig
    max_turns: int | None = None
    core_prompt: PromptLayer = PromptLayer()
    head_revision: int | None = None
    turn_prompt: PromptLayer = NO_LAYER
    builtins: PromptBuiltins = NO_BUILTINS
    cost_limit: CostLimit | None = None
    frame_options: ProtocolTurnOptions = ProtocolTurnOptions()


class SessionReadView(msgspec.Struct, frozen=True):
    """An immutable picture of the current frame's active path (contract 04 §8).

    `nodes` is as much of the graph as whoever took it holds: None is nothing
    but the messages, with `is_whole` it is every branch, else the path of the
    current frame; `cut_off` is what belongs to every branch and leads to no root.
    What is asked for beyond that raises `LashRuntimeError` (`graph_not_resident`).
    `superseded` has what was said in older frames of a session without a store,
    which leaves nothing anywhere else.
    """

    session_id: str
    policy: SessionPolicy
    turn_index: int
    token_usage: TokenUsage
    last_prompt_usage: PromptUsage | None
    messages: Sequence[Message]
    frames: tuple[AgentFrame, ...]
    leaf_node_id: str | None
    head_revision: int | None
    nodes: tuple[SessionNode, ...] | None = None
    is_whole: bool = False
    cut_off: tuple[SessionNode, ...] = ()
    superseded: SupersededNodes = NOTHING_SUPERSEDED

    @property
    def revision(self) -> int:
        """The revision of the head; of a session without one, how many turns it had (contract 04 §2)."""
        return self.turn_index if self.head_revision is None else self.head_revision

    @property
    def protocol_turn_options(self) -> ProtocolTurnOptions:
        """What every turn of the current frame is asked with, unless it says otherwise."""
        return current_frame(self.frames).protocol_turn_options

    def active_events(self) -> tuple[SessionNode, ...]:
        """The messages of the current frame and the events of its protocol, in order."""
        return events_on(self._path(), self._frame_id)

    def chronological_projection(self) -> tuple[ChronologicalEntry, ...]:
        """`active_events` as they are told: each message once, the transient ones left out."""
        return chronological(self.active_events(), self.messages)

    def session_graph(self) -> SessionGraph:
        """Every node, those of other branches and of older frames included; of a session without a store the messages
        are all there is."""
        if self.nodes is None and self.head_revision is None:
            path = self._path()
            return SessionGraph(self.superseded.graph(path), self.superseded.leaf(path))
        if self.nodes is None or not self.is_whole:
            raise self._not_resident("the other branches")
        return SessionGraph(self.nodes, self.leaf_node_id, self.cut_off)

    def message_tree(self) -> tuple[TreeEntry, ...]:
        """Every message, those of other branches and frames included."""
        from lash_cli.core.history import message_tree

        graph = self.session_graph()
        return message_tree(graph.nodes, graph.leaf_node_id, graph.cut_off)

    def to_snapshot(self) -> RuntimeSessionState:
        """What `open_with_state` goes on from: the nodes that are held, those of the messages where that is nothing
        else. Tools and costs are no part of it."""
        nodes, leaf = self.nodes, self.leaf_node_id
        if nodes is None:
            said = self._said()
            nodes, leaf = self.superseded.graph(said), self.superseded.leaf(said)
        elif not self.is_whole:
            # What the first of them hung below is in an older frame and not here.
            nodes = tuple(
                node if index else msgspec.structs.replace(node, parent_node_id=None)
                for index, node in enumerate(nodes)
            )
            leaf = nodes[-1].node_id if nodes else None
        state = TurnState(self.turn_index, self.token_usage, self.last_prompt_usage)
        return RuntimeSessionState(self.session_id, self.policy, self.frames, nodes, leaf, state, cut_off=self.cut_off)

    @property
    def _frame_id(self) -> str:
        return current_frame(self.frames).frame_id

    def _path(self) -> tuple[SessionNode, ...]:
        if self.nodes is None:
            if self.head_revision is not None:
                raise self._not_resident("anything but the messages")
            return self._said()  # nothing is stored: there is nothing else
        return active_path(self.nodes, self.leaf_node_id) if self.is_whole else self.nodes

    def _said(self) -> tuple[SessionNode, ...]:
        """Nodes of the messages, whose moments nobody knows."""
        return self.superseded.said(self.messages, self._frame_id)

    def _not_resident(self, what: str) -> LashRuntimeError:
        return LashRuntimeError(
            "graph_not_resident",
            f"this view of session {self.session_id} does not hold {what}",
            hint="ask session.admin() for the graph, or build the core with residency='keep_all'",
            details={"session": self.session_id},
        )


class RuntimeSessionState(Record):
    """A portable export of a session: what `open_with_state` adopts (contract 01 §2.3). `attachments` are the bytes of
    those that its messages name, by reference. `cut_off` are the nodes that led to no root where it was exported: told,
    so that nothing is lost unnoticed, and not adopted."""

    session_id: str
    policy: SessionPolicy
    frames: tuple[AgentFrame, ...]
    nodes: tuple[SessionNode, ...] = ()
    leaf_node_id: str | None = None
    turn_state: TurnState = TurnState()
    tool_state: ToolState | None = None
    token_ledger: tuple[TokenLedgerEntry, ...] = ()
    attachments: dict[str, bytes] = {}
    cut_off: tuple[SessionNode, ...] = ()

    def rebound_to(self, session_id: str) -> RuntimeSessionState:
        """The same conversation as the start of another session: one initial frame, no cost booked to it yet."""
        policy = msgspec.structs.replace(self.policy, session_id=session_id)
        frame_id = current_frame(self.frames).frame_id
        first = initial_frame(session_id, policy, self.frames[0].created_at_ms)
        said = {node.node_id for node in self.nodes if node.agent_frame_id == frame_id}
        nodes = tuple(
            msgspec.structs.replace(
                node,
                agent_frame_id=first.frame_id,
                parent_node_id=node.parent_node_id if node.parent_node_id in said else None,
            )
            for node in self.nodes
            if node.node_id in said
        )
        leaf = self.leaf_node_id if self.leaf_node_id in said else None
        return msgspec.structs.replace(
            self,
            session_id=session_id,
            policy=policy,
            frames=(first,),
            nodes=nodes,
            leaf_node_id=leaf,
            token_ledger=(),
            cut_off=(),
        )


def require_own(session_id: str, state: RuntimeSessionState) -> None:
    """Raise for a state that somebody hands in and that the session could not go on from: `StoreSessionMismatch` for
    that of another one, and `UsageError` (`session_state_invalid`) for what is none, what could not be read again,
    other than one active frame, a node twice, one whose parent does not stand before it or whose frame is unknown, an
    unknown leaf, tool calls without a result, or tools that none can be restored from."""
    if not isinstance(state, RuntimeSessionState):
        raise _unsound(session_id, f"it is a RuntimeSessionState, not {type(state).__name__}")
    if state.session_id != session_id:
        raise StoreSessionMismatch(
            f"state belongs to session {state.session_id}, requested {session_id}",
            hint=f"what begins another session with it: state.rebound_to({session_id!r})",
            details={"loaded": state.session_id, "requested": session_id},
        )
    try:
        reread(msgspec.structs.replace(state, attachments={}), RuntimeSessionState, MAX_KEPT_DEPTH + _LEVELS_AROUND)
    except ValueError as error:
        raise _unsound(session_id, str(error)) from error
    known = {frame.frame_id for frame in state.frames}
    seen: set[str | None] = {None}
    for node in state.nodes:
        if node.node_id in seen:
            raise _unsound(session_id, f"node {node.node_id!r} is there twice")
        if node.parent_node_id not in seen:
            raise _unsound(session_id, f"the parent of node {node.node_id!r} does not stand before it")
        if node.agent_frame_id not in known:
            raise _unsound(session_id, f"node {node.node_id!r} is in an unknown frame")
        seen.add(node.node_id)
    try:
        current = current_frame(state.frames)
        path = active_path(state.nodes, state.leaf_node_id)
    except ValueError as error:
        raise _unsound(session_id, str(error)) from error
    if not is_safe_to_resume(messages_on(path, current.frame_id)):
        raise _unsound(session_id, "it leaves tool calls without a result")
    if state.tool_state is not None:
        try:
            check_state(state.tool_state)
        except ReconfigureError as error:
            raise _unsound(session_id, error.message) from error


def _unsound(session_id: str, problem: str) -> UsageError:
    return UsageError(
        f"the state of session {session_id!r} does not hold together: {problem}",
        code="session_state_invalid",
        details={"session": session_id},
    )


def plan_of(turn: TurnRecord, claim_id: str | None) -> TurnPlan | None:
    """What an unfinished turn, which began with the claim `claim_id`, was started with; None where that is not told.

    Raises `StoreUnusable` (`store_corrupt`) naming the turn whose plan does not decode.
    """
    if not turn.plan:
        return None
    try:
        return decode(turn.plan, TurnPlan)
    except msgspec.DecodeError as error:
        from shlex import quote  # a turn may be called anything; nothing else here needs it

        hint = f"give back what it took, and it is dropped: lash queue abandon {quote(claim_id)}" if claim_id else None
        raise StoreUnusable(
            f"what turn {turn.turn_id!r} was started with does not decode: {error}",
            hint=hint,
            details={"session": turn.session_id, "turn_id": turn.turn_id, "claim_id": claim_id},
        ) from error


def policy_of_plan(base: SessionPolicy, plan: TurnPlan) -> SessionPolicy:
    """`base` with the model, provider, limits and prompt a turn was started with."""
    config = plan.config
    return msgspec.structs.replace(
        base,
        provider_id=config.provider_id,
        model=config.model,
        max_turns=config.max_turns,
        prompt=config.prompt if config.prompt is not None else base.prompt,
        generation=config.generation,
    )
