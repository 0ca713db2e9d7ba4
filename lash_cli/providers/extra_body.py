"""Body fields a host supplies for its endpoint, laid over those of the wire (contract 06 §9.2).

`extra_body` is a JSON merge patch (RFC 7386): objects are merged, null takes a
field away, everything else replaces. It is data of the endpoint, such as a
routing object or a sampling default, so it may not touch what a call is about:
the model, the conversation, the tools and whether the answer streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lash_cli.errors import ConfigError

OF_THE_CALL = frozenset({"model", "messages", "input", "instructions", "tools", "stream"})


def checked_extra_body(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """`extra` as it may be laid over a body; raises `ConfigError` for a field that belongs to the call."""
    fields = dict(extra or {})
    taken = sorted(OF_THE_CALL & fields.keys())
    if taken:
        raise ConfigError(f"extra_body cannot set {', '.join(taken)}: every call sets that itself")
    return fields


def overlaid(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with `extra` merged over it; neither is changed."""
    merged = dict(body)
    for name, value in extra.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            below = merged.get(name)
            merged[name] = overlaid(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[name] = value
    return merged
