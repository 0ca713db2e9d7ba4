"""The resident state of one session: what is held in memory between turns and how it reaches the store.

Memory is a cache of the head. It changes only by adopting a load or the result
of a commit, so a failed commit leaves it as it was. What was changed but not
yet written stands in `dirty`; `park`, `close` and `configure` flush it (design
D19, contract 01 §4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from lash_cli.core.codec import decode, encode
from lash_cli.core.commit import (
    Append,
    Checkpoint,
    CheckpointComponent,
    GraphDelta,
    ReplaceFull,
    RuntimeCommit,
    RuntimeCommitResult,
    Unchanged,
)
from lash_cli.core.content import Message, ProtocolTurnOptions
from lash_cli.core.frames import AgentFrame, current_frame, initial_frame, with_policy, with_turn_options
from lash_cli.core.graph import SessionNode, active_path, messages_on, refs_of, with_bytes
from lash_cli.core.head_state import TurnState
from lash_cli.core.lease import LeaseFence
from lash_cli.core.llm import MessageSequence
from lash_cli.core.policy import SessionPolicy, persisted_config
from lash_cli.core.superseded import NOTHING_SUPERSEDED, superseded_in
from lash_cli.core.tools import ToolState
from lash_cli.core.usage import (
    SessionUsageReport,
    TokenLedgerEntry,
    ledger_beyond,
    merge_ledger,
    usage_report,
)
from lash_cli.errors import (
    LashError,
    MissingCheckpointComponent,
    SessionExecutionLeaseExpired,
    StoreSessionMismatch,
)
from lash_cli.runtime.earlier_calls import CallIds
from lash_cli.runtime.phases import TurnPhaseProbe
from lash_cli.runtime.state import RuntimeSessionState, SessionReadView
from lash_cli.store.base import HeadPosition, PersistedSessionRead, ReadScope, SessionStore
from lash_cli.tools.registry import ToolRegistry

if TYPE_CHECKING:
    from lash_cli.runtime.requests import AnsweredRequest
    from lash_cli.store.resident_log import ResidentLog

TOOL_STATE = "tool_state"
USAGE_SOURCE = "turn"

Undo = Callable[[], None]

_RESET_FIELDS = (
    "frames",
    "frame_id",
    "messages",
    "leaf_node_id",
    "turn_state",
    "replaces_graph",
    "nodes",
    "cut_off",
    "superseded",
    "_initial_nodes",
    "given_attachments",
    "_adopted_ledger",
)


class Dirty(StrEnum):
    """What differs from the store."""

    CONFIG = "config"
    TOOLS = "tools"
    FRAMES = "frames"
    GRAPH = "graph"


def is_refused(error: LashError) -> bool:
    """Whether a commit that ended in `error` has certainly changed nothing."""
    return not error.ambiguous or isinstance(error, SessionExecutionLeaseExpired)


class ResidentSession:
    """State of one opened session. Every mutation happens while the caller holds the session's writer lock."""

    def __init__(
        self,
        session_id: str,
        policy: SessionPolicy,
        core_prompt_policy: SessionPolicy,
        registry: ToolRegistry,
        store: SessionStore | None,
        now_ms: int,
    ) -> None:
        self.session_id = session_id
        self.policy = policy
        self.core_policy = core_prompt_policy
        self.registry = registry
        self.store = store
        self.frames: tuple[AgentFrame, ...] = (initial_frame(session_id, policy, now_ms),)
        self.frame_id = self.frames[0].frame_id
        self.head_revision: int | None = None
        self.leaf_node_id: str | None = None
        self.checkpoint_ref: str | None = None
        self.component_refs: dict[str, str] = {}
        self.messages: list[Message] = []
        self._call_ids = CallIds()
        self.turn_state = TurnState()
        self.ledger: tuple[TokenLedgerEntry, ...] = ()
        # What was spent and stands in no commit yet: the next one takes it along (contract 01 §12).
        self.owed: tuple[TokenLedgerEntry, ...] = ()
        # What of it went along with a commit of which nobody knows whether it stands.
        self._doubted: tuple[TokenLedgerEntry, ...] = ()
        # What the state that was adopted had cost, until it is known how much of it is stored.
        self._adopted_ledger: tuple[TokenLedgerEntry, ...] = ()
        self.dirty: set[Dirty] = {Dirty.CONFIG, Dirty.FRAMES}
        self.replaces_graph = False
        # Every node of the stored graph where `keep_all` asked for it, else None: memory holds the messages alone. By
        # id, so that a commit adds its own to them however many there are.
        self.nodes: dict[str, SessionNode] | None = None
        # With it, those that lead to no root: shown, and never gone on from.
        self.cut_off: tuple[SessionNode, ...] = ()
        # What was said in older frames of a session without a store; with one the store has it.
        self.superseded = NOTHING_SUPERSEDED
        self.is_policy_explicit = False
        self.saved_tool_generation: int | None = None
        self.phase_probe: TurnPhaseProbe | None = None
        # What observers of a session without a store read; with one they read the store.
        self.log: ResidentLog | None = None
        # The turns of a session without a store by id, and by the source keys they were asked for with.
        self.answered: dict[str, AnsweredRequest] = {}
        self._initial_nodes: tuple[SessionNode, ...] = ()
        # The bytes that came with the state which was adopted, until they are committed.
        self.given_attachments: dict[str, bytes] = {}
        # What model calls share, kept from turn to turn: see `model_calls.ModelEnvironment.of`.
        self.model_environment: object = None

    def conversation(self) -> MessageSequence:
        """The messages of the current frame as an immutable view that costs nothing to take."""
        return MessageSequence(self.messages, len(self.messages))

    def earlier_call_ids(self) -> AbstractSet[str]:
        """The ids of the calls in the current frame."""
        return self._call_ids.of(self.messages)

    @property
    def usage_source(self) -> str:
        """What the turns of the current frame are booked to: what the frame was assigned, else `turn` (contract 01
        §12)."""
        # Nearly always the last one, however many there were before it.
        frame = next(frame for frame in reversed(self.frames) if frame.frame_id == self.frame_id)
        return frame.assignment.usage_source or USAGE_SOURCE

    def read_view(self) -> SessionReadView:
        """A picture of the committed state."""
        nodes = self._held_nodes()
        return SessionReadView(
            self.session_id,
            self.policy,
            self.turn_state.turn_index,
            self.turn_state.token_usage,
            self.turn_state.last_prompt_usage,
            self.conversation(),
            self.frames,
            self.leaf_node_id,
            self.head_revision,
            nodes,
            nodes is not None,
            self.cut_off,
            self.superseded,
        )

    def _held_nodes(self) -> tuple[SessionNode, ...] | None:
        """As much of the graph as a view may show: all of it, or None."""
        if self.replaces_graph and self.store is not None:
            return self._initial_nodes
        return None if self.nodes is None else tuple(self.nodes.values())

    def keep_all(self) -> None:
        """Hold every branch from now on; before anything is loaded."""
        self.nodes = {}

    @property
    def read_scope(self) -> ReadScope:
        """What a load has to bring."""
        return ReadScope.CONVERSATION if self.nodes is None else ReadScope.FULL_GRAPH

    def usage_report(self) -> SessionUsageReport:
        """The ledger, summed, with what is still to be written to it."""
        return usage_report(self._spent)

    @property
    def _spent(self) -> tuple[TokenLedgerEntry, ...]:
        return (*self.ledger, *self.owed, *self._adopted_ledger)

    def owe(self, spent: tuple[TokenLedgerEntry, ...]) -> None:
        """Keep what was spent but could not be committed for the next commit; without a store nothing is committed."""
        if self.store is None:
            self.ledger = merge_ledger((*self.ledger, *spent))
        else:
            self.owed = (*self.owed, *spent)

    def _owe_no_more(self, entries: tuple[TokenLedgerEntry, ...]) -> None:
        gone = {id(entry) for entry in entries}
        self.owed = tuple(entry for entry in self.owed if id(entry) not in gone)

    def doubt(self, commit: RuntimeCommit) -> None:
        """Nobody knows whether `commit` stands: whether what it took along of what was owed is booked shows with the
        next head."""
        taken = {id(entry) for entry in commit.usage_deltas}
        self._doubted = tuple(entry for entry in self.owed if id(entry) in taken)

    def _follow_ledger(self, stored: tuple[TokenLedgerEntry, ...]) -> None:
        """Take over the ledger of another head. What is in doubt is owed no more if the ledger grew by that much."""
        if self._doubted and not ledger_beyond(stored, (*self.ledger, *self._doubted)):
            self._owe_no_more(self._doubted)
        self._doubted = ()
        self.ledger = merge_ledger(stored)

    def export_state(self) -> RuntimeSessionState:
        """The portable state, as far as memory holds it: `read_view().to_snapshot()` with its tools and its costs."""
        return msgspec.structs.replace(
            self.read_view().to_snapshot(),
            turn_state=self.turn_state,
            tool_state=self.registry.export_state(),
            token_ledger=merge_ledger(self._spent),
        )

    def is_behind(self, head: HeadPosition) -> bool:
        """Whether the stored head differs from memory. A fresh replacement never refreshes (contract 01 §2.2)."""
        if self.replaces_graph:
            return False
        return (head.head_revision, head.leaf_node_id, head.checkpoint_ref) != (
            self.head_revision,
            self.leaf_node_id,
            self.checkpoint_ref,
        )

    async def refresh(self) -> None:
        """Load the stored head of the current frame's path and adopt it.

        What another owner configured meanwhile is adopted too, unless this
        handle has a choice of its own that still has to be written.
        """
        if self.store is None:
            return
        is_taken = False
        while not is_taken:
            read = await self.store.load_session(self.session_id, self.read_scope)
            is_taken = read is None or await self.adopt_read(read, keep_policy=Dirty.CONFIG in self.dirty)

    async def catch_up(self) -> None:
        """Take over the stored head; for a handle that is to replace it, how many turns there were and what they cost:
        both keep counting. The caller holds the lane. Raises as `adopt_read`."""
        if self.store is None:
            return
        if not self.replaces_graph:
            if self.is_behind(await self.store.head_position(self.session_id)):
                await self.refresh()
            return
        read = await self.store.load_session(self.session_id, ReadScope.HEAD)
        self._follow_ledger(() if read is None else read.token_ledger)
        self.owe(ledger_beyond(self.ledger, self._adopted_ledger))
        self._adopted_ledger = ()
        if read is not None and read.turn_state.turn_index > self.turn_state.turn_index:
            self.turn_state = msgspec.structs.replace(self.turn_state, turn_index=read.turn_state.turn_index)

    def left_behind(self, now_ms: int) -> ResidentSession:
        """The session for who goes on with it although what was done to this one can neither go on nor end: its head is
        loaded before it is used, and what is still owed is booked once."""
        other = self.unloaded(now_ms)
        other.is_policy_explicit = self.is_policy_explicit
        if self.is_policy_explicit:
            other.dirty.add(Dirty.CONFIG)
        if self.nodes is not None:
            other.keep_all()
        other.ledger, other.owed, other._doubted = self.ledger, self.owed, self.owed
        return other

    def unloaded(self, now_ms: int) -> ResidentSession:
        """The session without what a head has, or what is to be written; its head is loaded before it is used."""
        tools = self.registry.fork_with_state(ToolState())
        other = ResidentSession(self.session_id, self.policy, self.core_policy, tools, self.store, now_ms)
        other.phase_probe, other.dirty = self.phase_probe, set()
        return other

    async def adopt_read(self, read: PersistedSessionRead, *, keep_policy: bool) -> bool:
        """Take over a head that was read with `read_scope`. With `keep_policy` the host's policy stays on the current
        frame. False, and nothing is taken over, when there is another head since, and what only this one named was
        collected: then the other is to be read.

        Raises `StoreSessionMismatch` for the head of another session, and what reading its tools and asking their
        sources raises; nothing is taken over then either.
        """
        if read.session_id != self.session_id:
            raise StoreSessionMismatch(
                f"loaded session {read.session_id}, requested {self.session_id}",
                details={"loaded": read.session_id, "requested": self.session_id},
            )
        ref = read.component_refs.get(TOOL_STATE)
        is_moved = ref != self.component_refs.get(TOOL_STATE)
        try:
            tools = await self._stored_tools(ref) if is_moved else None
        except MissingCheckpointComponent:
            if await self._is_replaced(read):
                return False
            raise
        # Before anything is taken over: sources may raise, and then the head is still to be followed.
        if is_moved and self.head_revision is not None:
            # Another runtime moved the surface: what the sources offered when this one was opened may be old.
            self.registry.refresh_sources()
        report = None if tools is None else self.registry.restore_state(tools)
        stored = current_frame(read.frames)
        self.frame_id = stored.frame_id
        self.head_revision = read.head_revision
        self.leaf_node_id = read.leaf_node_id
        self.checkpoint_ref = read.checkpoint_ref
        if self.nodes is None:
            self.messages = list(read.messages)
        else:
            self.nodes = {node.node_id: node for node in read.nodes}
            self.cut_off = read.cut_off
            self.messages = messages_on(active_path(read.nodes, read.leaf_node_id), stored.frame_id)
        self.turn_state = read.turn_state
        self._follow_ledger(read.token_ledger)
        self.dirty.discard(Dirty.FRAMES)
        self.dirty.discard(Dirty.CONFIG)
        if keep_policy and stored.assignment.policy != self.policy:
            self.frames = with_policy(read.frames, self.policy)
            self.dirty |= {Dirty.CONFIG, Dirty.FRAMES}
        else:
            self.frames = read.frames
            self.policy = stored.assignment.policy
        if report is not None:
            self.saved_tool_generation = report.generation
            if report.changed:
                self.dirty.add(Dirty.TOOLS)
        self.component_refs = dict(read.component_refs)
        return True

    async def _stored_tools(self, ref: str | None) -> ToolState | None:
        if ref is None or self.store is None:
            return None
        return decode(await self.store.load_component(ref), ToolState)

    async def _is_replaced(self, read: PersistedSessionRead) -> bool:
        """Whether there is another head than the one that was read."""
        if self.store is None:
            return False
        position = await self.store.head_position(self.session_id)
        return position.head_revision != read.head_revision

    def adopt_state(self, state: RuntimeSessionState, now_ms: int) -> None:
        """Start from a caller's state that `require_own` takes; the next commit replaces what is stored (contract 01
        §2.3). Nodes of which nobody knows when they were committed are of now. Raises what a source of tools raises;
        then nothing has changed."""
        if state.tool_state is not None:
            # Before anything else is changed: a source that is asked for tools may raise.
            self.registry.restore_state(state.tool_state)
        nodes = state.nodes
        if self.store is None and state.attachments:
            nodes = with_bytes(nodes, state.attachments)
        path = active_path(nodes, state.leaf_node_id)
        self.frames = with_policy(state.frames, self.policy)
        self.frame_id = current_frame(state.frames).frame_id
        if self.store is None:
            self.superseded = superseded_in(nodes, path, self.frame_id)
        self.messages = messages_on(path, self.frame_id)
        self.leaf_node_id = state.leaf_node_id
        self.turn_state = state.turn_state
        if self.store is None:
            self.ledger = state.token_ledger
        else:
            self._adopted_ledger = state.token_ledger
        self._initial_nodes = tuple(
            node if node.at_ms else msgspec.structs.replace(node, at_ms=now_ms) for node in state.nodes
        )
        self.cut_off = ()
        self.given_attachments = {} if self.store is None else dict(state.attachments)
        self.replaces_graph = True
        self.dirty |= {Dirty.CONFIG, Dirty.FRAMES, Dirty.GRAPH, Dirty.TOOLS}

    def replace_by(self, state: RuntimeSessionState, now_ms: int) -> Undo:
        """Go on from a caller's state under the policy there is; the next commit replaces what is stored. Turns keep
        counting and what was spent stays booked. Raises as `adopt_state`."""
        undo, turns, booked = self._as_before(), self.turn_state.turn_index, self.ledger
        self.adopt_state(state, now_ms)
        if turns > state.turn_state.turn_index:
            self.turn_state = msgspec.structs.replace(state.turn_state, turn_index=turns)
        self._adopted_ledger = ()
        brought = ledger_beyond(booked, state.token_ledger)
        self.owe(brought)

        def take_back() -> None:
            undo()
            self._owe_no_more(brought)

        return take_back

    def _as_before(self) -> Undo:
        """How to have the session as it is now, but for what is owed: what is spent meanwhile was spent."""
        kept = {name: getattr(self, name) for name in _RESET_FIELDS}
        surface, dirty = self.registry.surface, set(self.dirty)

        def undo() -> None:
            for name, value in kept.items():
                setattr(self, name, value)
            self.registry.roll_back(surface)
            self.dirty = dirty

        return undo

    def set_policy(self, policy: SessionPolicy) -> bool:
        """Put `policy` on the current frame; False when nothing changed."""
        if policy == self.policy:
            return False
        self.policy = policy
        self.frames = with_policy(self.frames, policy)
        self.dirty |= {Dirty.CONFIG, Dirty.FRAMES}
        return True

    def set_turn_options(self, options: ProtocolTurnOptions, *, is_for_all: bool) -> bool:
        """Put `options` on the current frame, or on all frames; False when nothing changed."""
        frames = with_turn_options(self.frames, options, is_for_all=is_for_all)
        if frames == self.frames:
            return False
        self.frames = frames
        self.dirty.add(Dirty.FRAMES)
        return True

    def refresh_tools(self) -> Undo:
        """Ask every tool source again what it offers. Whatever a source raises passes through; then nothing changed."""
        surface, dirty = self.registry.surface, set(self.dirty)
        self.registry.refresh_sources()
        if self.registry.generation != surface.generation:
            self.dirty.add(Dirty.TOOLS)

        def undo() -> None:
            self.registry.roll_back(surface)
            self.dirty = dirty

        return undo

    def reset(self, now_ms: int) -> Undo:
        """Start over under the same id and policy: one initial frame, no messages, every tool a member again.

        Turns keep counting and the ledger stays: what was spent was spent. The
        next commit replaces the stored graph.
        """
        undo = self._as_before()
        self.frames = (initial_frame(self.session_id, self.policy, now_ms),)
        self.frame_id = self.frames[0].frame_id
        self.messages = []
        self.superseded = NOTHING_SUPERSEDED
        self.leaf_node_id = None
        self.turn_state = TurnState(turn_index=self.turn_state.turn_index)
        self.replaces_graph = True
        self._initial_nodes = ()
        self.cut_off = ()
        self.given_attachments = {}
        self.registry.restore_state(ToolState(generation=self.registry.generation))
        self.dirty |= {Dirty.CONFIG, Dirty.FRAMES, Dirty.GRAPH, Dirty.TOOLS}
        return undo

    def enter_frame(self, frames: tuple[AgentFrame, ...], messages: Sequence[Message]) -> None:
        """Go on in the frame a commit has opened; `messages` are its first ones. Older views keep what they showed.
        Without a store what was said in the frame that is left is kept here."""
        entered = current_frame(frames).frame_id
        if self.store is None and entered != self.frame_id:
            self.superseded = self.superseded.left(self.messages, self.frame_id)
        self.frames = frames
        self.frame_id = entered
        self.messages = list(messages)

    def graph_delta(self, nodes: tuple[SessionNode, ...]) -> GraphDelta:
        """The delta that appends `nodes`, or replaces the graph for a fresh open."""
        if self.replaces_graph:
            return ReplaceFull((*self._initial_nodes, *nodes), nodes[-1].node_id if nodes else self.leaf_node_id)
        if nodes:
            return Append(nodes, nodes[-1].node_id)
        return Unchanged(self.leaf_node_id)

    def commit(
        self,
        *,
        fence: LeaseFence,
        now_ms: int,
        nodes: tuple[SessionNode, ...] = (),
        turn_state: TurnState | None = None,
        usage_deltas: tuple[TokenLedgerEntry, ...] = (),
        release_lease: bool = True,
    ) -> RuntimeCommit:
        """A commit of everything dirty or owed plus the given additions, guarded by the head that memory knows."""
        components: dict[str, CheckpointComponent] = {}
        if self._tools_need_saving():
            components[TOOL_STATE] = CheckpointComponent(body=encode(self.registry.export_state()))
        return RuntimeCommit(
            session_id=self.session_id,
            fence=fence,
            config=persisted_config(self.policy),
            graph=self.graph_delta(nodes),
            checkpoint=Checkpoint(turn_state or self.turn_state, components),
            now_ms=now_ms,
            expected_head_revision=None if self.replaces_graph else self.head_revision,
            release_lease=release_lease,
            frames=self.frames if Dirty.FRAMES in self.dirty or self.head_revision is None else None,
            usage_deltas=(*self.owed, *usage_deltas),
            committed_attachment_ids=(*self.given_attachments, *refs_of(nodes)),
        )

    def _tools_need_saving(self) -> bool:
        return Dirty.TOOLS in self.dirty or self.registry.generation not in (0, self.saved_tool_generation)

    def adopt_commit(self, commit: RuntimeCommit, result: RuntimeCommitResult, messages: Sequence[Message]) -> None:
        """Take over what a successful commit established; `messages` are those its nodes added."""
        self.head_revision = result.head_revision
        self.leaf_node_id = result.leaf_node_id
        self.checkpoint_ref = result.checkpoint_ref
        self.component_refs = dict(result.component_refs)
        self.turn_state = commit.checkpoint.turn_state
        booked = commit.usage_deltas
        self._doubted = ()
        if self.owed:
            booked = self._settled(booked, is_stored=not result.replayed)
        if booked:
            self.ledger = merge_ledger((*self.ledger, *booked))
        if TOOL_STATE in commit.checkpoint.components:
            self.saved_tool_generation = self.registry.generation
        self.messages.extend(messages)
        if self.nodes is not None:
            self._hold(commit.graph)
        self.replaces_graph = False
        self._initial_nodes = ()
        if self.given_attachments:
            self.given_attachments = {}
        self.dirty.clear()

    async def committed(
        self,
        store: SessionStore,
        commit: RuntimeCommit,
        messages: Sequence[Message] = (),
        *,
        kept: int | None = None,
        undo: Undo | None = None,
    ) -> RuntimeCommitResult:
        """Write `commit` and take over what it established; to be seen through (`ending`), so that no cancellation
        comes between the two. `messages` are those its nodes added, behind the first `kept` of those there were, all
        unless given. What the store raises goes on, after `undo`."""
        try:
            result = await store.commit_runtime_state(commit)
        except BaseException as error:
            if undo is not None:
                undo()
            if isinstance(error, LashError) and not is_refused(error):
                self.doubt(commit)
            raise
        if kept is not None:
            # A list of its own: views that were taken go on showing what they showed.
            self.messages = self.messages[:kept]
        self.adopt_commit(commit, result, messages)
        return result

    def _hold(self, graph: GraphDelta) -> None:
        """Add what a commit has added. What an answer of an earlier commit stands for may be held already."""
        assert self.nodes is not None, "asked by the caller"
        match graph:
            case ReplaceFull(nodes=nodes):
                self.nodes = {node.node_id: node for node in nodes}
            case Append(nodes=nodes):
                for node in nodes:
                    self.nodes.setdefault(node.node_id, node)

    def _settled(self, booked: tuple[TokenLedgerEntry, ...], *, is_stored: bool) -> tuple[TokenLedgerEntry, ...]:
        """What of `booked` a commit has added to the ledger. It settles what it took along of what was owed, unless it
        was answered with an earlier one, which took along nothing of ours."""
        if is_stored:
            self._owe_no_more(booked)
            return booked
        owed = {id(entry) for entry in self.owed}
        return tuple(entry for entry in booked if id(entry) not in owed)

    @property
    def is_dirty(self) -> bool:
        """Whether anything in memory still has to be written. A never committed, unchanged session is clean."""
        if self.owed:
            return True
        if self.head_revision is None and not self.replaces_graph:
            return bool(self.dirty - {Dirty.CONFIG, Dirty.FRAMES})
        return bool(self.dirty)
