"""What is said about a JSON Schema beside the schema itself, and how an answer shaped by a projection is read back
(contracts 05 §1.1, 06 §8).

The canonical schema alone decides whether a value is valid. A projection is
what one provider is shown in its place: it may ask for less than the canonical
schema, and it may spell "absent" as null.
"""

from __future__ import annotations

from typing import Any, Literal

from lash_cli.core.codec import Record

SchemaDialect = Literal[
    "openai_tool_parameters",
    "openai_strict_tool_parameters",
    "openai_structured_output",
    "anthropic_tool",
    "anthropic_structured_output",
    "google",
]


class SchemaOverride(Record):
    """The schema one dialect is shown, written by hand."""

    dialect: SchemaDialect
    schema: dict[str, Any]


class SchemaProjection(Record):
    """How a canonical schema reaches a provider: `auto` projects, `exact` sends it as it is, `explicit_only` sends
    nothing but overrides. An override for the dialect wins in every mode."""

    mode: Literal["auto", "explicit_only", "exact"] = "auto"
    overrides: tuple[SchemaOverride, ...] = ()

    def override(self, dialect: SchemaDialect) -> dict[str, Any] | None:
        """The schema written by hand for `dialect`."""
        return next((given.schema for given in self.overrides if given.dialect == dialect), None)


AUTO = SchemaProjection()
MAX_DEPTH = 200


# Keywords that hold values, in which a member called "description" is no keyword.
_VALUES = frozenset({"const", "default", "enum", "examples"})
# Those whose members are named by the author of the schema.
_NAMED = frozenset({"$defs", "patternProperties", "properties"})


def without_layout(schema: Any) -> Any:
    """`schema` with every description on one line, as a new object.

    Descriptions that come from docstrings carry their indentation, and how much of it depends on the Python that
    compiled them: the same types must make the same schema everywhere.
    """
    if isinstance(schema, list):
        return [without_layout(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    laid_out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "description" and isinstance(value, str):
            laid_out[key] = " ".join(value.split())
        elif key in _NAMED and isinstance(value, dict):
            laid_out[key] = {name: without_layout(member) for name, member in value.items()}
        else:
            laid_out[key] = value if key in _VALUES else without_layout(value)
    return laid_out


def without_absent(value: Any, schema: Any) -> Any:
    """`value` without the null members that stand for "absent" under a strict projection.

    A member is dropped when it is null and the canonical `schema` neither
    requires it nor says null for it. Members are followed through local
    references, `properties`, `items`, `allOf` and `anyOf`; where alternatives
    meet, each drops what it would not have, so a caller first asks whether the
    value is valid as it stands. Returns `value` itself when nothing is dropped;
    never changes it in place.
    """
    return _Absence(schema).strip(value, schema, 0)


class _Absence:
    """One walk of a value along a schema; `root` resolves local references."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def strip(self, value: Any, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return value
        target = schema.get("$ref")
        if isinstance(target, str):
            value = self.strip(value, resolve_pointer(target, self._root), depth + 1)
        for keyword in ("allOf", "anyOf"):
            branches = schema.get(keyword)
            if isinstance(branches, list):
                for branch in branches:
                    value = self.strip(value, branch, depth + 1)
        if isinstance(value, dict):
            return self._members(value, schema, depth)
        items = schema.get("items")
        if isinstance(value, list) and isinstance(items, dict):
            stripped = [self.strip(item, items, depth + 1) for item in value]
            return value if all(new is old for new, old in zip(stripped, value, strict=True)) else stripped
        return value

    def _members(self, value: dict[str, Any], schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return value
        required = schema.get("required", ())
        kept: dict[str, Any] = {}
        is_changed = False
        for name, member in value.items():
            expected = properties.get(name, True)
            if member is None and name in properties and name not in required and not self._says_null(expected, 0):
                is_changed = True
                continue
            kept[name] = self.strip(member, expected, depth + 1)
            is_changed = is_changed or kept[name] is not member
        return kept if is_changed else value

    def _says_null(self, schema: Any, depth: int) -> bool:
        """Whether null is a value of its own here; an untyped schema allows it without naming it."""
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return bool(schema)
        kinds = schema.get("type")
        if kinds is not None and "null" not in (kinds if isinstance(kinds, list) else [kinds]):
            return False
        if "enum" in schema and None not in schema["enum"]:
            return False
        if "const" in schema and schema["const"] is not None:
            return False
        target = schema.get("$ref")
        if isinstance(target, str) and not self._says_null(resolve_pointer(target, self._root), depth + 1):
            return False
        if not all(self._says_null(branch, depth + 1) for branch in listed(schema, "allOf")):
            return False
        alternatives = [*listed(schema, "anyOf"), *listed(schema, "oneOf")]
        return not alternatives or any(self._says_null(branch, depth + 1) for branch in alternatives)


def listed(schema: dict[str, Any], keyword: str) -> list[Any]:
    """The list under a keyword, empty where there is none."""
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def is_index(key: str) -> bool:
    """Whether a step of a JSON pointer is a place in a list: plain digits, and no more than a list can have."""
    return key.isascii() and key.isdigit() and len(key) < 10


def resolve_pointer(reference: str, root: Any) -> Any:
    """The target of a local reference (`#/a/b`), None where there is none, it is a named anchor or it leaves `root`."""
    if reference == "#":
        return root
    if not reference.startswith("#"):
        return None
    from urllib.parse import unquote  # start-up never needs it

    pointer = unquote(reference[1:])
    if not pointer.startswith("/"):
        return None
    target = root
    for token in pointer[1:].split("/"):
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict):
            target = target.get(key)
        elif isinstance(target, list) and is_index(key) and int(key) < len(target):
            target = target[int(key)]
        else:
            return None
    return target
