"""A trace record: its envelope, who it belongs to, and the seam it leaves through (contract 04 §9).

A trace is a durable diagnosis, not history: nothing reads it back. Every record
says which span it describes and which span caused it; both are stamped here,
in one place, so that a reader can rebuild the tree from any mixture of files.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from lash_cli.core.codec import Record, to_builtins
from lash_cli.core.trace_events import (
    EXTENDED_ONLY,
    Custom,
    EffectEnvelopeDiff,
    LlmCallCompleted,
    LlmCallFailed,
    LlmCallStarted,
    PromptBuilt,
    ProviderRequest,
    ProviderStreamEvent,
    RuntimeStreamEvent,
    SessionStarted,
    ToolCallCompleted,
    ToolCallStarted,
    TraceEvent,
    TurnCompleted,
    TurnStarted,
    UsageCounted,
)
from lash_cli.core.trace_limits import Cut

TRACE_SCHEMA_VERSION = 2
CAUSED_BY = "caused_by"
_EPOCH = datetime(1970, 1, 1)


class TraceLevel(StrEnum):
    """How much is traced: `extended` adds every request's bytes, what is streamed back, every live delta, and
    both sides of a replay that diverged."""

    STANDARD = "standard"
    EXTENDED = "extended"

    def admits(self, event: TraceEvent) -> bool:
        """Whether an event of this kind is written at this level."""
        return self is TraceLevel.EXTENDED or not isinstance(event, EXTENDED_ONLY)


class TraceContext(Record):
    """Who a record belongs to (contract 04 §9). Every field is optional; the host sets the experiment's, the runtime
    the rest."""

    run_id: str | None = None
    experiment_id: str | None = None
    candidate_id: str | None = None
    candidate_parent_id: str | None = None
    example_id: str | None = None
    split: str | None = None
    session_id: str | None = None
    turn_id: str | None = None
    graph_node_id: str | None = None
    parent_graph_node_id: str | None = None
    turn_index: int | None = None
    protocol_iteration: int | None = None
    effect_id: str | None = None
    llm_call_id: str | None = None
    metadata: dict[str, Any] = {}

    def overlaid_by(self, later: TraceContext) -> TraceContext:
        """This context with every field that `later` sets replaced; `metadata` is merged key by key."""
        changes = {
            name: value
            for name in self.__struct_fields__
            if name != "metadata" and (value := getattr(later, name)) is not None
        }
        return msgspec.structs.replace(self, metadata={**self.metadata, **later.metadata}, **changes)


class TraceRecord(msgspec.Struct, frozen=True):
    """One record as a sink gets it (contract 04 §9): plain JSON types, limited and free of secrets.

    `context` is a `TraceContext` and `payload` the fields of an event of kind
    `type`; `cut` lists what of them was shortened.
    """

    id: str
    timestamp: str
    context: dict[str, Any]
    type: str
    payload: dict[str, Any]
    cut: tuple[Cut, ...] = ()
    schema_version: int = TRACE_SCHEMA_VERSION

    def document(self) -> dict[str, Any]:
        """The record as one flat JSON object; `cut` only when something was."""
        document = {
            "schema_version": self.schema_version,
            "id": self.id,
            "timestamp": self.timestamp,
            "type": self.type,
            "context": self.context,
            **self.payload,
        }
        if self.cut:
            document["cut"] = [to_builtins(cut) for cut in self.cut]
        return document

    def line(self) -> bytes:
        """One line of UTF-8 JSON without its line feed; `schema_version` and `type` stand near its beginning."""
        return msgspec.json.encode(self.document())


class TraceSink(Protocol):
    """Where records go (contract 04 §9). The tracer catches and logs what a sink raises, so a sink may say honestly
    that it failed."""

    def append(self, record: TraceRecord) -> None:
        """Take one record. Called on the turn's path: it must not wait."""
        ...

    def flush(self) -> None:
        """Make what was appended survive a power cut, if the sink can."""
        ...

    def close(self) -> None:
        """Release what is open; a later `append` opens it again."""
        ...


def moment(epoch_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return (_EPOCH + timedelta(milliseconds=epoch_ms)).isoformat(timespec="milliseconds") + "Z"


def session_node(session_id: str) -> str:
    """The span of an opened session."""
    return f"session:{session_id}"


def turn_node(session_id: str, turn_id: str | None, turn_index: int | None) -> str | None:
    """The span of a turn, None when nothing names it."""
    if turn_id is not None:
        return f"turn:{session_id}:{turn_id}"
    return f"turn:{session_id}:idx{turn_index}" if turn_index is not None else None


def stamped(event: TraceEvent, context: TraceContext) -> TraceContext:
    """`context` with the span of the event and the span that caused it.

    What a caller set stays. Nothing is its own parent. Turns hang on the node
    in `metadata.caused_by` or else on their session; calls hang on their turn;
    what a provider sent or streamed hangs on the model call; everything else
    is an instant of its turn, or of its session outside a turn.
    """
    session_id = context.session_id
    session = session_node(session_id) if session_id is not None else None
    turn = turn_node(session_id, context.turn_id, context.turn_index) if session_id is not None else None
    call = f"llm:{context.llm_call_id}" if context.llm_call_id is not None else None
    node: str | None = None
    parent: str | None = turn or session
    match event:
        case SessionStarted():
            node, parent = session, None
        case TurnStarted() | TurnCompleted():
            node, parent = turn, context.metadata.get(CAUSED_BY) or session
        case LlmCallStarted() | LlmCallCompleted() | LlmCallFailed():
            node = call
        case ToolCallStarted(call_id=call_id) | ToolCallCompleted(call_id=call_id):
            node = f"tool:{call_id}"
        case ProviderRequest() | ProviderStreamEvent() | RuntimeStreamEvent():
            parent = call or parent
        case PromptBuilt() | UsageCounted() | EffectEnvelopeDiff() | Custom():
            pass
    node = context.graph_node_id or node
    parent = context.parent_graph_node_id or parent
    return msgspec.structs.replace(context, graph_node_id=node, parent_graph_node_id=parent if parent != node else None)
