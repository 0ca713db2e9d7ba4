"""Trace records as OpenTelemetry spans (contract 04 §9), for a host that has a provider of its own.

Turns, model calls and tool calls are spans, opened by the record of their start
and ended by that of their end; everything else is an instant, or an event on
the span of its model call. What a span says comes from the record alone, so it
is limited and free of secrets already. Spans that never end, because their
process was cut off, are bounded in number.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from lash_cli.core.codec import encode
from lash_cli.core.trace import TraceRecord
from lash_cli.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

MAX_OPEN_SPANS: Final = 1024

_SPANS: Final[Mapping[str, str]] = {
    "turn_started": "lash.turn",
    "turn_completed": "lash.turn",
    "llm_call_started": "lash.llm",
    "llm_call_completed": "lash.llm",
    "llm_call_failed": "lash.llm",
    "tool_call_started": "lash.tool",
    "tool_call_completed": "lash.tool",
}
_OPENING: Final = frozenset({"turn_started", "llm_call_started", "tool_call_started"})
_INSTANTS: Final[Mapping[str, str]] = {"session_started": "lash.session", "prompt_built": "lash.prompt"}
_STREAMED: Final = frozenset({"provider_request", "provider_stream_event", "runtime_stream_event"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND_NS: Final = 1_000_000

Attributes = dict[str, str | bool | int | float]
# Ids of calls are unique in their turn and not beyond it.
_Key = tuple[str, ...]


class OpenTelemetryTraceSink:
    """Hands records to an OpenTelemetry tracer; implements `TraceSink` (contract 04 §9).

    The host owns the provider and flushes it. `include_context_metadata` adds what the context's metadata says,
    `include_payload_json` what tools were given and returned and the payloads of custom records, `include_event_json`
    the whole of every record: prompts and answers are in there.
    """

    def __init__(
        self,
        tracer: Tracer,
        *,
        include_event_json: bool = False,
        include_context_metadata: bool = True,
        include_payload_json: bool = False,
    ) -> None:
        """Raises `ConfigError` where OpenTelemetry is not installed."""
        try:
            from opentelemetry.trace import StatusCode, set_span_in_context
        except ImportError as error:
            raise ConfigError("OpenTelemetry is not installed", hint="pip install 'lash-cli[otel]'") from error
        self._error_status = StatusCode.ERROR
        self._below = set_span_in_context
        self._tracer = tracer
        self._include_event_json = include_event_json
        self._include_context_metadata = include_context_metadata
        self._include_payload_json = include_payload_json
        self._lock = threading.Lock()
        # In the order in which they were opened.
        self._open: dict[_Key, Span] = {}

    def append(self, record: TraceRecord) -> None:
        """Open, end or mark a span."""
        at_ns = _moment_ns(record.timestamp)
        with self._lock:
            if record.type in _STREAMED:
                self._mark(record, at_ns)
            elif record.type in _OPENING:
                self._begin(record, at_ns)
            elif record.type in _SPANS:
                self._end(record, at_ns)
            else:
                name = _INSTANTS.get(record.type, f"lash.{record.type}")
                self._started(name, record, at_ns).end(at_ns)

    def flush(self) -> None:
        """Nothing: the provider is the host's."""

    def close(self) -> None:
        """End what is still open, as unfinished."""
        with self._lock:
            while self._open:
                self._give_up_oldest(None)

    def _begin(self, record: TraceRecord, at_ns: int) -> None:
        if len(self._open) >= MAX_OPEN_SPANS:
            self._give_up_oldest(at_ns)
        self._open[_key(record, "graph_node_id")] = self._started(_SPANS[record.type], record, at_ns)

    def _end(self, record: TraceRecord, at_ns: int) -> None:
        span = self._open.pop(_key(record, "graph_node_id"), None)
        if span is None:
            # Its start is in another trace, or was given up: an instant that is as long as it took.
            span = self._started(_SPANS[record.type], record, at_ns - _duration_ms(record) * _MILLISECOND_NS)
        else:
            span.set_attributes(self._attributes(record))
        failure = _failure(record)
        if failure is not None:
            span.set_status(self._error_status, failure)
        span.end(at_ns)

    def _mark(self, record: TraceRecord, at_ns: int) -> None:
        """An event on the span of the model call, or of the turn; one that has neither is an instant."""
        span = self._open.get(_key(record, "parent_graph_node_id"))
        if span is None:
            self._started(f"lash.{record.type}", record, at_ns).end(at_ns)
        else:
            span.add_event(f"lash.{record.type}", self._attributes(record), at_ns)

    def _give_up_oldest(self, at_ns: int | None) -> None:
        span = self._open.pop(next(iter(self._open)))
        span.set_status(self._error_status, "unfinished")
        span.end(at_ns)

    def _started(self, name: str, record: TraceRecord, at_ns: int) -> Span:
        above = self._open.get(_key(record, "parent_graph_node_id"))
        # Without one of ours above, whatever the host is in the middle of.
        context: Context | None = None if above is None else self._below(above)
        return self._tracer.start_span(name, context, attributes=self._attributes(record), start_time=at_ns)

    def _attributes(self, record: TraceRecord) -> Attributes:
        said: Attributes = {"lash.event": record.type}
        for name, value in record.context.items():
            if name != "metadata":
                said[f"lash.{name}"] = _plain(value)
            elif self._include_context_metadata:
                said.update((f"lash.metadata.{key}", _plain(item)) for key, item in value.items())
        said.update(_facts(record))
        if self._include_payload_json:
            for name in ("args", "output", "payload"):
                if name in record.payload:
                    said[f"lash.{name}_json"] = encode(record.payload[name]).decode()
        if self._include_event_json:
            said["lash.event_json"] = record.line().decode()
        return said


def _key(record: TraceRecord, which: str) -> _Key:
    node = record.context.get(which, "")
    if node.startswith(("turn:", "session:")):
        return (node,)
    return (record.context.get("session_id", ""), record.context.get("turn_id", ""), node)


def _facts(record: TraceRecord) -> Attributes:
    """What a record says in a few words and numbers; no text of a prompt, an answer or a tool."""
    payload = record.payload
    said: Attributes = {}
    for name in ("call_id", "name", "status", "done_reason", "duration_ms", "prompt_chars", "replayed"):
        if isinstance(payload.get(name), str | int):
            said[f"lash.{name}"] = payload[name]
    request, response, event = (payload.get(name) or {} for name in ("request", "response", "event"))
    if "model" in request:
        said["lash.model"] = _plain(request["model"])
    for name in ("duration_ms", "terminal_reason"):
        if name in response:
            said[f"lash.{name}"] = _plain(response[name])
    if record.type in _STREAMED:
        small = ("provider", "sequence", "elapsed_ms", "endpoint", "event_name", "body_len", "raw_len")
        said.update((f"lash.{name}", _plain(event[name])) for name in small if name in event)
    for counter, count in (payload.get("usage") or {}).items():
        said[f"lash.usage.{counter}"] = _plain(count)
    if "output" in payload:
        said["lash.status"] = _outcome_of(payload)
    return said


def _outcome_of(payload: Mapping[str, Any]) -> str:
    return str(payload["output"]["outcome"]["status"])


def _failure(record: TraceRecord) -> str | None:
    """Why a span failed; None for one that did not."""
    payload = record.payload
    match record.type:
        case "llm_call_failed":
            return str(payload["error"]["message"])
        case "turn_completed" if payload["status"] == "failed":
            return str(payload["done_reason"])
        case "tool_call_completed" if _outcome_of(payload) == "failure":
            return str(payload["name"])
    return None


def _duration_ms(record: TraceRecord) -> int:
    holder = record.payload.get("response", record.payload)
    return int(holder.get("duration_ms") or 0)


def _plain(value: Any) -> str | bool | int | float:
    return value if isinstance(value, str | bool | int | float) else encode(value).decode()


def _moment_ns(timestamp: str) -> int:
    return (datetime.fromisoformat(timestamp) - _EPOCH) // timedelta(milliseconds=1) * _MILLISECOND_NS
