"""Body fields a host supplies for its endpoint, laid over those of the wire (contract 06 §9.2).

`extra_body` is a JSON merge patch (RFC 7386): objects are merged, null takes a
field away, everything else replaces. It is data of the endpoint, such as a
routing object or a sampling default, so it may not touch what a call is about:
the model, the conversation, the tools and whether the answer streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lash_cli.errors import ConfigError

OF_THE_CALL = frozenset(
    {"model", "messages", "input", "instructions", "system", "tools", "stream", "contents", "systemInstruction"}
)


def checked_extra_body(extra: Mapping[str, Any], omitted: Sequence[str] = ()) -> dict[str, Any]:
    """`extra` as it may be laid over a body, together with the fields to take away.

    `omitted` are dotted paths, for configurations that cannot write a null.
    Raises `ConfigError` for a field that belongs to the call.
    """
    fields = dict(extra)
    for path in omitted:
        place = fields
        *above, last = path.split(".")
        for name in above:
            below = place.get(name)
            place[name] = dict(below) if isinstance(below, Mapping) else {}
            place = place[name]
        place[last] = None
    taken = sorted(OF_THE_CALL & fields.keys())
    if taken:
        raise ConfigError(f"extra_body and omit_body cannot touch {', '.join(taken)}: every call sets that itself")
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
