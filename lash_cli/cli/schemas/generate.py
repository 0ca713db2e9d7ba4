"""JSON Schema (draft 2020-12) made of a kind's shape.

A shape is closed and every key of it is required; the printed schema stays open,
because keys and words of an enumeration may be added within a major version: a
reader must not refuse what it does not know yet. `closed` is the other half,
for tests: it refuses every key the shape does not name.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lash_cli.cli.output import SCHEMA
from lash_cli.cli.schemas import Kind, without_contract
from lash_cli.cli.schemas.events import Line
from lash_cli.core.remote import REMOTE_PROTOCOL_VERSION
from lash_cli.core.schemas import without_layout

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def schema_of(kind: Kind) -> Schema:
    """The schema of one kind, complete in itself."""
    shapes = [kind.shape, Line] if kind.family == "event" else [kind.shape]
    raw, parts = msgspec.json.schema_components(shapes, ref_template="#/$defs/{name}")
    made, components = without_layout(list(raw)), without_layout(parts)
    spells_out = not kind.leaves_out
    definitions = {name: _opened(schema, spells_out=spells_out) for name, schema in components.items()}
    root = _resolved(_opened(made[0], spells_out=spells_out), definitions)
    match kind.family:
        case "document" | "notice":
            body = _object({"schema": {"const": SCHEMA}, "kind": {"const": kind.name}, **root["properties"]})
        case "list":
            items = {"type": "array", "items": made[0]}
            following = {"type": ["string", "null"], "description": "The cursor of the next page."}
            envelope = {"schema": {"const": SCHEMA}, "kind": {"const": kind.name}}
            body = _object({**envelope, "items": items, "next": following})
        case "event":
            line = _resolved(made[1], definitions)["properties"]
            body = _object({**line, "type": {"const": kind.name}, **root["properties"]})
        case _:
            body = {key: value for key, value in root.items() if key not in ("title", "description")}
    schema = {"$schema": DIALECT, "title": kind.name, "description": kind.description, **body}
    needed = _reachable(schema, definitions)
    if needed:
        schema["$defs"] = {name: definitions[name] for name in sorted(needed)}
    return schema


def closed(schema: Any) -> Any:
    """The same schema, refusing every key that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    shut = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        shut.setdefault("additionalProperties", False)
    return shut


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    reference = schema.get("$ref")
    return schema if reference is None else definitions[reference.rpartition("/")[2]]


def _reachable(schema: Any, definitions: dict[str, Schema]) -> set[str]:
    """The definitions that a schema needs, directly or through others."""
    found: set[str] = set()
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                waiting.append(definitions[name])
            waiting += part.values()
    return found


def _opened(schema: Any, *, spells_out: bool) -> Any:
    """What a reader may rely on. With `spells_out` every key of a record is written, its defaults too."""
    if isinstance(schema, list):
        return [_opened(item, spells_out=spells_out) for item in schema]
    if not isinstance(schema, dict):
        return schema
    dropped = {"default", "discriminator"} | ({"additionalProperties"} if "properties" in schema else set())
    opened: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            opened[key] = {name: _opened(item, spells_out=spells_out) for name, item in value.items()}
        elif key == "description" and isinstance(value, str):
            opened[key] = without_contract(value)
        elif key not in dropped:
            opened[key] = _opened(value, spells_out=spells_out)
    words = schema.get("enum")
    if isinstance(words, list) and len(words) == 1:
        del opened["enum"]
        opened["const"] = words[0]
    elif isinstance(words, list) and all(isinstance(word, str) for word in words):
        del opened["enum"]
        opened |= {"type": "string", "examples": words}
    if "properties" in schema and spells_out:
        opened["required"] = list(schema["properties"])
    if not spells_out and "protocol_version" in schema.get("properties", {}):
        opened["properties"]["protocol_version"] = {"const": REMOTE_PROTOCOL_VERSION}
    return opened
