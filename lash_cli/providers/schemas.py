"""What a provider is shown of a JSON Schema (contract 06 §8).

`project` is pure: the same schema gives the same projection, and the given one
is never changed. A projection may say less than the canonical schema, never
something else, because the canonical schema judges every answer. What cannot
be said in a dialect is refused with the path of the place, before anything is
sent; limits that a dialect does not know are told in the description instead.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, NoReturn

from lash_cli.core.codec import encode
from lash_cli.core.schemas import AUTO, MAX_DEPTH, SchemaDialect, SchemaProjection, resolve_pointer
from lash_cli.errors import LlmTransportError

CODE = "schema_unrepresentable"
MAX_CACHED_PROJECTIONS = 512

#: Words that say nothing about a value.
_ANNOTATIONS = frozenset({"title", "description", "$defs", "definitions"})
_DROPPED = frozenset(
    {"$schema", "$id", "$anchor", "$comment", "examples", "example", "deprecated", "readOnly", "writeOnly"}
)
_STRICT_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})

#: Limits that only make fewer values valid: told in words where a dialect has none for them.
_STRICT_TOLD = (
    "minLength", "maxLength", "minProperties", "maxProperties", "uniqueItems", "contains", "minContains",
    "maxContains", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "dependentRequired",
    "contentEncoding", "contentMediaType", "default",
)  # fmt: skip
_ANTHROPIC_TOLD = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
    "pattern", "format", "minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains",
    "minProperties", "maxProperties", "propertyNames",
)  # fmt: skip
_STRICT_REFUSED = (
    "oneOf", "not", "if", "then", "else", "patternProperties", "dependentSchemas", "dependencies", "prefixItems",
    "additionalItems", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
_CLOSED_REFUSED = ("not", "if", "then", "else", "patternProperties", "dependentSchemas", "dependencies")

_CHILD_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_CHILD_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_CHILD_SINGLES = (
    "items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip


def project(schema: dict[str, Any], dialect: SchemaDialect, projection: SchemaProjection = AUTO) -> dict[str, Any]:
    """What `dialect` is shown in place of the canonical `schema`.

    An override for the dialect wins; then `exact` gives the canonical schema
    and `auto` projects it. The answer is shared between calls with the same
    schema object: neither it nor `schema` may be changed afterwards. Raises
    `LlmTransportError` (validation, not retryable) naming the path for what
    cannot be said, and for `explicit_only` without an override.
    """
    override = projection.override(dialect)
    if override is not None:
        return override
    if projection.mode == "exact":
        return schema
    if projection.mode == "explicit_only":
        _refuse("#", dialect, "it is only to be sent in a form written for this dialect, and there is none")
    return _cache.get(schema, dialect)


class _ProjectionCache:
    """Projections by the identity of their schema: a turn asks for the same ones at every call.

    An entry holds its schema, so that the identity cannot be used again while it stays.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[int, SchemaDialect], tuple[dict[str, Any], dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, schema: dict[str, Any], dialect: SchemaDialect) -> dict[str, Any]:
        key = (id(schema), dialect)
        held = self._entries.get(key)
        if held is not None:
            return held[1]
        projected = _project(schema, dialect)
        with self._lock:
            self._entries[key] = (schema, projected)
            if len(self._entries) > MAX_CACHED_PROJECTIONS:
                self._entries.popitem(last=False)
        return projected


_cache = _ProjectionCache()


def _project(schema: dict[str, Any], dialect: SchemaDialect) -> dict[str, Any]:
    match dialect:
        case "google":
            return schema
        case "openai_tool_parameters":
            return _object_root(schema, dialect)
        case "openai_strict_tool_parameters" | "openai_structured_output":
            return _Strict(schema, dialect).root()
        case "anthropic_tool":
            rooted = _object_root(schema, dialect)
            return _Relaxed(rooted, dialect).root()
        case "anthropic_structured_output":
            return _Closed(schema, dialect).root()


def _object_root(schema: dict[str, Any], dialect: SchemaDialect) -> dict[str, Any]:
    """Parameters are members of one object, and providers want that said at the root."""
    kind = schema.get("type", "object")
    if kind != "object" and kind != ["object"]:
        _refuse("#/type", dialect, "the parameters of a tool are an object")
    if schema.get("type") == "object" and "properties" in schema:
        return schema
    return {**schema, "type": "object", "properties": schema.get("properties", {})}


def _refuse(path: str, dialect: str, reason: str) -> NoReturn:
    raise LlmTransportError(f"the schema cannot be sent as {dialect}: {path}: {reason}", kind="validation", code=CODE)


def _child(path: str, *tokens: object) -> str:
    return path + "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


class _Walk:
    """Rebuilds a schema node by node; `root` resolves references, `path` names places in the given schema."""

    told: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def __init__(self, root: dict[str, Any], dialect: SchemaDialect) -> None:
        self._root = root
        self._dialect = dialect

    def root(self) -> dict[str, Any]:
        """The whole projection."""
        projected: dict[str, Any] = self.node(self._root, "#", 0)
        return projected

    def node(self, schema: Any, path: str, depth: int) -> Any:
        """The projection of one subschema."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            self._refuse(path, f"a schema is an object or a boolean, not {type(schema).__name__}")
        if depth > MAX_DEPTH:
            self._refuse(path, f"nested deeper than {MAX_DEPTH} levels")
        for keyword in self.refused:
            if keyword in schema:
                self._refuse(_child(path, keyword), "this keyword is not known there")
        return self.children(_told(schema, self.told), path, depth)

    def children(self, schema: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
        """`schema` with every subschema projected."""
        built = dict(schema)
        for keyword in _CHILD_MAPS:
            if isinstance(schema.get(keyword), dict):
                built[keyword] = {
                    name: self.node(child, _child(path, keyword, name), depth + 1)
                    for name, child in schema[keyword].items()
                }
        for keyword in _CHILD_LISTS:
            if isinstance(schema.get(keyword), list):
                built[keyword] = [
                    self.node(child, _child(path, keyword, position), depth + 1)
                    for position, child in enumerate(schema[keyword])
                ]
        for keyword in _CHILD_SINGLES:
            if isinstance(schema.get(keyword), dict):
                built[keyword] = self.node(schema[keyword], _child(path, keyword), depth + 1)
        return built

    def _refuse(self, path: str, reason: str) -> NoReturn:
        _refuse(path, self._dialect, reason)


def _told(schema: dict[str, Any], keywords: tuple[str, ...]) -> dict[str, Any]:
    """`schema` with the limits of `keywords` moved into its description."""
    found = [keyword for keyword in keywords if keyword in schema]
    if not found:
        return schema
    limits = ", ".join(f"{keyword}: {encode(schema[keyword]).decode('utf-8')}" for keyword in found)
    kept = {keyword: value for keyword, value in schema.items() if keyword not in found}
    description = kept.get("description")
    note = f"({limits})"
    kept["description"] = f"{description} {note}" if isinstance(description, str) and description else note
    return kept


class _Relaxed(_Walk):
    """Anthropic, parameters of tools: limits are told, everything else stays."""

    told = _ANTHROPIC_TOLD


class _Closed(_Walk):
    """Anthropic, structured output: objects are closed, `oneOf` is said as `anyOf`, limits are told."""

    told = _ANTHROPIC_TOLD
    refused = _CLOSED_REFUSED

    def node(self, schema: Any, path: str, depth: int) -> Any:
        if isinstance(schema, dict) and "oneOf" in schema:
            if "anyOf" in schema:
                self._refuse(_child(path, "oneOf"), "oneOf beside anyOf cannot be said there")
            schema = {("anyOf" if keyword == "oneOf" else keyword): value for keyword, value in schema.items()}
        if isinstance(schema, dict) and _is_object(schema):
            schema = self._closed(schema, path)
        return super().node(schema, path, depth)

    def _closed(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        others = schema.get("additionalProperties", True)
        if isinstance(others, dict) or ("additionalProperties" in schema and others and not schema.get("properties")):
            self._refuse(_child(path, "additionalProperties"), "members with names of their own cannot be said there")
        return {**schema, "additionalProperties": False}


def _is_object(schema: dict[str, Any]) -> bool:
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return "object" in kinds or (kind is None and "properties" in schema)


class _Strict(_Walk):
    """Every member is required and every object closed; a member that may be absent may be null instead."""

    told = _STRICT_TOLD
    refused = _STRICT_REFUSED

    def root(self) -> dict[str, Any]:
        """The whole projection; its root is an object of its own."""
        schema = self._root
        target = schema.get("$ref")
        if isinstance(target, str):
            resolved = resolve_pointer(target, self._root)
            if not isinstance(resolved, dict) or "$ref" in resolved:
                self._refuse("#/$ref", "the root is to be an object, and this reference does not lead to one")
            schema = {**{key: value for key, value in schema.items() if key != "$ref"}, **resolved}
        if "anyOf" in schema:
            self._refuse("#/anyOf", "the root is to be one object, without alternatives")
        if schema.get("type", "object") not in ("object", ["object"]):
            self._refuse("#/type", "the root is to be an object")
        projected: dict[str, Any] = self.node({**schema, "type": "object"}, "#", 0)
        return projected

    def node(self, schema: Any, path: str, depth: int) -> Any:
        """See `_Walk.node`; a schema that allows anything cannot be said."""
        if isinstance(schema, dict):
            schema = self._merged(schema, path)
            if schema.get("format") not in _STRICT_FORMATS:
                schema = _told(schema, ("format",))
        built = super().node(schema, path, depth)
        if isinstance(built, bool):
            self._refuse(path, "a value of any type cannot be said there")
        built = {keyword: value for keyword, value in built.items() if keyword not in _DROPPED}
        if "$ref" in built:
            return self._reference(built, path)
        if "anyOf" not in built and "type" not in built:
            built["type"] = self._kind(built, path)
        if _is_object(built):
            return self._object(built, schema, path)
        if isinstance(built.get("items"), list):
            self._refuse(_child(path, "items"), "items by position cannot be said there")
        return built

    def _merged(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        """A single `allOf` says nothing that its only member does not say."""
        branches = schema.get("allOf")
        if branches is None:
            return schema
        rest = {keyword: value for keyword, value in schema.items() if keyword != "allOf"}
        if not isinstance(branches, list) or len(branches) != 1 or not isinstance(branches[0], dict):
            self._refuse(_child(path, "allOf"), "several schemas at once cannot be said there")
        only = self._merged(branches[0], _child(path, "allOf", 0))
        clashing = (only.keys() & rest.keys()) - _ANNOTATIONS
        if clashing:
            self._refuse(_child(path, "allOf"), f"it says {min(clashing)} twice")
        return {**only, **rest}

    def _reference(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        """A reference stands alone; what is only said about it is put around it."""
        if not isinstance(schema["$ref"], str) or not schema["$ref"].startswith("#"):
            self._refuse(_child(path, "$ref"), "only references inside the schema are followed")
        beside = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
        if not beside:
            return schema
        limits = beside.keys() - _ANNOTATIONS
        if limits:
            self._refuse(_child(path, min(limits)), "a reference cannot have limits beside it there")
        return {**beside, "anyOf": [{"$ref": schema["$ref"]}]}

    def _kind(self, schema: dict[str, Any], path: str) -> Any:
        """The type that the other keywords imply."""
        if "properties" in schema:
            return "object"
        if "items" in schema:
            return "array"
        values = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else []
        kinds = sorted({_kind_of(value) for value in values})
        if not kinds:
            self._refuse(path, "a value of any type cannot be said there")
        return kinds[0] if len(kinds) == 1 else kinds

    def _object(self, built: dict[str, Any], schema: dict[str, Any], path: str) -> dict[str, Any]:
        others = schema.get("additionalProperties", False)
        properties = built.get("properties", {})
        if isinstance(others, dict) or (others is True and not properties):
            self._refuse(_child(path, "additionalProperties"), "members with names of their own cannot be said there")
        required = schema.get("required", [])
        unknown = [name for name in required if name not in properties]
        if unknown:
            self._refuse(_child(path, "required"), f"{unknown[0]!r} is required but not described")
        closed = {name: member if name in required else self._nullable(member) for name, member in properties.items()}
        return {**built, "properties": closed, "required": list(properties), "additionalProperties": False}

    def _nullable(self, member: dict[str, Any]) -> dict[str, Any]:
        """`member`, or null for a member that is absent."""
        if "anyOf" in member and member.keys() <= _ANNOTATIONS | {"anyOf"}:
            has_null = {"type": "null"} in member["anyOf"]
            return member if has_null else {**member, "anyOf": [*member["anyOf"], {"type": "null"}]}
        if {"anyOf", "const", "$ref"} & member.keys():
            about: dict[str, Any] = {
                keyword: member[keyword] for keyword in ("title", "description") if keyword in member
            }
            bare = {keyword: value for keyword, value in member.items() if keyword not in about}
            return member if member.get("const", 0) is None else {**about, "anyOf": [bare, {"type": "null"}]}
        kinds = member["type"] if isinstance(member["type"], list) else [member["type"]]
        widened = dict(member)
        if "null" not in kinds:
            widened["type"] = [*kinds, "null"]
        if "enum" in member and None not in member["enum"]:
            widened["enum"] = [*member["enum"], None]
        return widened


def _kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
