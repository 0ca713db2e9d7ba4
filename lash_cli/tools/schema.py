"""Arguments of a model against the canonical schema of a tool (contract 05 §1.2).

Unparsable text is an error that quotes the parser, never an empty object. A
schema may only refer to itself: remote references are refused before anything
is compiled, so validation can never reach for the network. A schema whose
in-place references multiply beyond a bound is refused too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from lash_cli.core.codec import decode_written, encode
from lash_cli.core.schemas import resolve_pointer, without_absent
from lash_cli.errors import ConfigError, UsageError

MAX_CACHED_VALIDATORS = 1024
MAX_CACHED_SCHEMA_BYTES = 16 * 1024 * 1024
MAX_SCHEMA_DEPTH = 200
MAX_IN_PLACE_EXPANSION = 16_384
MAX_VIOLATIONS_SHOWN = 20
# To make an exception of each violation takes about 0.1 ms of everybody's time, and tells more of alternatives.
MAX_VALUES_WITH_EXCEPTIONS = 2000
MAX_VIOLATION_CHARS = 400

_REFERENCE_KEYWORDS = ("$ref", "$dynamicRef", "$recursiveRef")
_LITERAL_KEYWORDS = frozenset({"const", "enum", "default", "examples", "example"})
_SCHEMA_MAP_KEYWORDS = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
_IN_PLACE_LISTS = ("allOf", "anyOf", "oneOf")
_IN_PLACE_SINGLES = ("not", "if", "then", "else")
_IN_PLACE_MAPS = ("dependentSchemas", "dependencies")


class ArgumentsInvalid(UsageError):
    """The arguments cannot be read or violate the schema; the message is for the model."""

    default_code = "invalid_tool_args"


class SchemaRefused(ConfigError):
    """The tool's own schema is unusable; the message says why."""

    default_code = "tool_contract_unavailable"


class _Validator(Protocol):
    def iter_errors(self, instance: Any) -> Any: ...

    def is_valid(self, instance: Any) -> bool: ...

    def evaluate(self, instance: Any) -> Any: ...


def screen_schema(schema: dict[str, Any]) -> None:
    """Refuse what must not be compiled; raises `SchemaRefused`.

    Refused are references that leave the document, nesting deeper than
    `MAX_SCHEMA_DEPTH` and in-place references that expand beyond
    `MAX_IN_PLACE_EXPANSION` subschemas for one instance value.
    """
    subschemas: list[dict[str, Any]] = []
    _collect(schema, 0, subschemas)
    sizes: dict[int, int] = {}
    for subschema in subschemas:
        if _expansion(subschema, schema, sizes, 0) > MAX_IN_PLACE_EXPANSION:
            raise SchemaRefused("the tool's schema is refused: its references multiply without bound")


def _collect(node: Any, depth: int, found: list[dict[str, Any]]) -> None:
    """Every subschema of `node`, in document order; checks references and depth on the way."""
    if depth > MAX_SCHEMA_DEPTH:
        raise SchemaRefused(f"the tool's schema is refused: nested deeper than {MAX_SCHEMA_DEPTH} levels")
    if isinstance(node, list):
        for item in node:
            _collect(item, depth + 1, found)
    if not isinstance(node, dict):
        return
    found.append(node)
    for keyword in _REFERENCE_KEYWORDS:
        target = node.get(keyword)
        if isinstance(target, str) and not target.startswith("#"):
            raise SchemaRefused(f"the tool's schema is refused: only local references are allowed, not {target!r}")
    for keyword, value in node.items():
        if keyword in _LITERAL_KEYWORDS:
            continue
        if keyword in _SCHEMA_MAP_KEYWORDS and isinstance(value, dict):
            for child in value.values():
                _collect(child, depth + 1, found)
        else:
            _collect(value, depth + 1, found)


def _expansion(node: dict[str, Any], root: dict[str, Any], sizes: dict[int, int], depth: int) -> int:
    """How many subschemas judge one instance value at `node`; a cycle counts once."""
    known = sizes.get(id(node))
    if known is not None:
        return known
    if depth > MAX_SCHEMA_DEPTH:
        raise SchemaRefused(f"the tool's schema is refused: references chained deeper than {MAX_SCHEMA_DEPTH}")
    sizes[id(node)] = 1
    total = 1
    for child in _in_place_children(node, root):
        total += _expansion(child, root, sizes, depth + 1)
    sizes[id(node)] = total
    return total


def _in_place_children(node: dict[str, Any], root: dict[str, Any]) -> list[dict[str, Any]]:
    children: list[Any] = []
    for keyword in _REFERENCE_KEYWORDS:
        target = node.get(keyword)
        if isinstance(target, str):
            children.append(resolve_pointer(target, root))  # what dangles is left to the compiler
    for keyword in _IN_PLACE_LISTS:
        listed = node.get(keyword)
        if isinstance(listed, list):
            children.extend(listed)
    children.extend(node.get(keyword) for keyword in _IN_PLACE_SINGLES)
    for keyword in _IN_PLACE_MAPS:
        mapped = node.get(keyword)
        if isinstance(mapped, dict):
            children.extend(mapped.values())
    return [child for child in children if isinstance(child, dict)]


class ValidatorCache:
    """Least recently used compiled validators by canonical schema, bounded by number and by bytes of schema text."""

    def __init__(self, max_entries: int = MAX_CACHED_VALIDATORS, max_bytes: int = MAX_CACHED_SCHEMA_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, _Validator] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, schema: dict[str, Any]) -> _Validator:
        """The validator of `schema`, compiled at most once while it stays cached; raises `SchemaRefused`."""
        text = _canonical_text(schema)
        with self._lock:
            held = self._entries.get(text)
            if held is not None:
                self._entries.move_to_end(text)
                return held
        validator = _compile(schema)
        with self._lock:
            self._store(text, validator)
        return validator

    def _store(self, text: bytes, validator: _Validator) -> None:
        if len(text) > self._max_bytes or text in self._entries:  # another thread may have been faster
            return
        self._entries[text] = validator
        self._bytes += len(text)
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            dropped, _ = self._entries.popitem(last=False)
            self._bytes -= len(dropped)


def _canonical_text(schema: dict[str, Any]) -> bytes:
    try:
        return encode(schema)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise SchemaRefused(f"the tool's schema is not JSON: {error}") from error


def _compile(schema: dict[str, Any]) -> _Validator:
    import jsonschema_rs

    screen_schema(schema)
    try:
        validator: _Validator = jsonschema_rs.validator_for(schema, offline=True)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        reason = str(error).partition("\n")[0]
        raise SchemaRefused(f"the tool's schema is invalid: {reason}") from error
    return validator


_cache = ValidatorCache()


def check_schema(schema: dict[str, Any]) -> None:
    """Raise `SchemaRefused` unless `schema` can be used to validate arguments."""
    _cache.get(schema)


def parse_arguments(input_json: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The arguments a model sent as text, parsed and valid.

    Empty text counts as `{}`, which a schema with required fields then
    refuses. Of duplicate keys the last one counts. Raises `ArgumentsInvalid`
    with the message for the model, `SchemaRefused` when the schema is at fault.
    """
    if not input_json.strip():
        value: Any = {}
        if schema.get("required"):
            raise ArgumentsInvalid("the arguments are empty, but these fields are required: " + _required(schema))
    else:
        try:
            value = decode_written(input_json)
        except msgspec.DecodeError as error:
            raise ArgumentsInvalid(f"the arguments are not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArgumentsInvalid(f"the arguments must be a JSON object, not {_json_kind(value)}")
    try:
        validate_value(value, schema, what="the arguments")
    except ArgumentsInvalid:
        # A strict projection asks for null where a member may be absent.
        present: dict[str, Any] = without_absent(value, schema)
        if present is value:
            raise
        validate_value(present, schema, what="the arguments")
        return present
    return value


def validate_value(value: Any, schema: dict[str, Any], *, what: str = "it") -> None:
    """Raise `ArgumentsInvalid` listing every violation as `/json/pointer: message`, joined by `; `; of more than
    `MAX_VIOLATIONS_SHOWN` the first ones, and how many more there are."""
    validator = _cache.get(schema)
    try:
        violations = _violations(validator, value)
    except (ValueError, RecursionError) as error:
        raise ArgumentsInvalid(f"{what} cannot be checked: {error}") from error
    if not violations:
        return
    told = [f"{pointer or '/'}: {_shortened(message)}" for pointer, message in violations[:MAX_VIOLATIONS_SHOWN]]
    hidden = len(violations) - len(told)
    raise ArgumentsInvalid("; ".join(told + [f"and {hidden} more"] * (hidden > 0)))


def _violations(validator: _Validator, value: Any) -> list[tuple[str, str]]:
    """Pointer and message of each violation; of a large value where no alternative fits, those of each alternative."""
    if not _has_more_values(value, MAX_VALUES_WITH_EXCEPTIONS):
        return [(_pointer(error.instance_path), error.message) for error in validator.iter_errors(value)]
    if validator.is_valid(value):
        return []
    return [(error["instanceLocation"], error["error"]) for error in validator.evaluate(value).errors()]


def _has_more_values(value: Any, most: int) -> bool:
    pending = [value]
    while pending and most >= 0:
        inner = pending.pop()
        most -= 1
        if isinstance(inner, dict | list):
            pending.extend(inner.values() if isinstance(inner, dict) else inner)
    return most < 0


def _pointer(path: Iterable[str | int]) -> str:
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in path)


def _shortened(message: str) -> str:
    """Both ends of a message: it begins with the value, which may be long, and ends with what is wrong with it."""
    if len(message) <= MAX_VIOLATION_CHARS:
        return message
    half = MAX_VIOLATION_CHARS // 2
    return f"{message[:half]}…{message[-half:]}"


def _required(schema: dict[str, Any]) -> str:
    required = schema["required"]
    return ", ".join(str(name) for name in required) if isinstance(required, list) else str(required)


def _json_kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case _:
            return "an array"
