"""Shape of the records of a trace file (contract 04 §9): one envelope, and the fields of the kind beside it.

The kinds are those of the core, whose records name their fields; what is absent
is left out of a line.
"""

from __future__ import annotations

import functools
import operator
from typing import Any, Literal, get_args

import msgspec

from lash_cli.cli.schemas.shape import enveloped
from lash_cli.core.trace import TraceContext
from lash_cli.core.trace_events import TraceEvent
from lash_cli.core.trace_limits import Cut


class _Envelope(msgspec.Struct, kw_only=True):
    schema_version: Literal[2]
    id: str
    timestamp: str
    context: TraceContext
    cut: list[Cut] | None = None


def _variant(record: type[msgspec.Struct]) -> Any:
    """The line of one kind of event."""
    fields: list[Any] = [
        (field.encode_name, field.type) if field.required else (field.encode_name, field.type, None)
        for field in msgspec.structs.fields(record)
    ]
    return enveloped(record, f"{record.__name__}Record", _Envelope, fields)


TraceRecord: Any = functools.reduce(operator.or_, map(_variant, get_args(TraceEvent)))
KINDS: dict[str, Any] = {"TraceRecord": TraceRecord}
TEXTS: dict[str, str] = {
    "TraceRecord": "One line of a trace file, by its `type`. `cut` names what was shortened; `context` says which span "
    "the record describes and which one caused it."
}
