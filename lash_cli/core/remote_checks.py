"""What a peer's envelope must hold beyond its own fields (contract 04 §6): parts that are plain JSON on the wire.

Versions are equal when this is asked, so what is unknown or missing here is
wrong and not merely newer. A field that is wrong raises `InvalidEnvelope`, one
that is absent or blank `MissingRequiredField`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args

import msgspec

from lash_cli.core.activity import TurnEvent
from lash_cli.core.codec import from_builtins, tag_of
from lash_cli.core.usage import TokenUsage
from lash_cli.errors import InvalidEnvelope, MissingRequiredField

COUNTERS: Final = TokenUsage.__struct_fields__
# Kinds that only mean something to the host they come from travel under one type.
DIAGNOSTIC_TYPE: Final = "runtime_diagnostic"
DIAGNOSTIC_KINDS: Final = frozenset({"queued_work_started", "plugin_runtime", "queued_input_accepted"})
# What travels in another form than it is recorded in, by the fields that are always there.
_WRITTEN_OUT: Final[Mapping[str, tuple[str, ...]]] = {
    "retry_status": ("wait_seconds", "attempt", "max_attempts", "reason"),
    "error": ("message",),
    "tool_call_completed": ("call_id", "name", "output", "duration_ms"),
    DIAGNOSTIC_TYPE: ("kind", "data"),
}
_RECORDS: Final[Mapping[str, type[msgspec.Struct]]] = {tag_of(record): record for record in get_args(TurnEvent)}
_TOOL_STATUSES: Final = ("success", "failure", "cancelled")


def require_keys(type_name: str, document: object, *keys: str) -> None:
    """Raise unless `document` is an object that has `keys`."""
    if not isinstance(document, Mapping):
        raise InvalidEnvelope(type_name, "is no object")
    for key in keys:
        if key not in document:
            raise MissingRequiredField(type_name, key)


def require_usage(usage: object) -> None:
    """Raise unless `usage` has all five counters, none below zero."""
    require_keys("RemoteUsage", usage, *COUNTERS)
    assert isinstance(usage, Mapping)
    for counter in COUNTERS:
        count = usage[counter]
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise InvalidEnvelope("RemoteUsage", f"{counter} is no count")


def require_tool_call(call: object) -> None:
    """Raise unless `call` is a tool call of a result. What it was given and what it returned may be null."""
    require_keys("RemoteToolCall", call, "tool_name", "args", "outcome", "duration_ms")
    assert isinstance(call, Mapping)
    require_keys("RemoteToolCall.outcome", call["outcome"], "status", "payload")
    if call["outcome"]["status"] not in _TOOL_STATUSES:
        raise InvalidEnvelope("RemoteToolCall", f"unknown status {call['outcome']['status']!r}")


def require_activity(type_name: str, kind: str, fields: Mapping[str, Any]) -> None:
    """Raise unless `fields` are those of an activity of type `kind`; others may stand beside them."""
    if kind in _WRITTEN_OUT:
        require_keys(type_name, fields, *_WRITTEN_OUT[kind])
        return
    record = _RECORDS.get(kind)
    if record is None or kind in DIAGNOSTIC_KINDS:
        raise InvalidEnvelope(type_name, f"unknown type {kind!r}")
    given: dict[str, Any] = {"type": kind}
    for field in msgspec.structs.fields(record):
        if field.name in fields:
            given[field.name] = fields[field.name]
        elif field.type is Any or type(None) in get_args(field.type):
            given[field.name] = None  # what is null is left out
        elif field.required:
            raise MissingRequiredField(type_name, field.name)
        if field.type is TokenUsage:
            require_usage(given.get(field.name))
    try:
        from_builtins(given, record)
    except msgspec.ValidationError as error:
        raise InvalidEnvelope(type_name, str(error)) from error
