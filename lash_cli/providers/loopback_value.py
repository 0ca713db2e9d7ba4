"""A value that fits a JSON Schema, for a provider without a model: the smallest one that is easy to name.

It follows the words most schemas are made of. Where a schema asks for more
than that (a pattern, a negation), the value may not fit, and the turn goes the
way of any answer that does not: it is given back once.
"""

from __future__ import annotations

from typing import Any

from lash_cli.core.schemas import resolve_pointer

MAX_DEPTH = 32
TEXT = "loopback"


def example_of(schema: Any, root: Any, depth: int = 0) -> Any:
    """An example value of `schema`; `root` resolves its local references."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if schema.get("enum"):
        return schema["enum"][0]
    target = schema.get("$ref")
    if isinstance(target, str):
        return example_of(resolve_pointer(target, root), root, depth + 1)
    merged = dict(schema)
    for keyword in ("anyOf", "oneOf"):
        if merged.get(keyword):
            return example_of({**_without(merged, keyword), **_chosen(merged[keyword][0], root)}, root, depth + 1)
    for branch in merged.pop("allOf", ()):
        merged = _joined(merged, _chosen(branch, root))
    return _of_kind(merged, root, depth)


def _of_kind(schema: dict[str, Any], root: Any, depth: int) -> Any:
    match _kind(schema):
        case "object":
            properties = schema.get("properties", {})
            return {name: example_of(properties.get(name), root, depth + 1) for name in schema.get("required", ())}
        case "array":
            least = schema.get("minItems", 0)
            return [example_of(schema.get("items", {}), root, depth + 1) for _ in range(min(least, 100))]
        case "string":
            least, most = schema.get("minLength", 0), schema.get("maxLength", len(TEXT))
            return (TEXT * (least // len(TEXT) + 1))[: max(least, min(len(TEXT), most))]
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return False
        case _:
            return None


def _number(schema: dict[str, Any]) -> float:
    """Zero, or the nearest number the limits allow."""
    step = schema.get("multipleOf", 1)
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    value: float = 0
    if least is not None and value < least:
        value = -(-least // step) * step
    if above is not None and value <= above:
        value = (above // step + 1) * step
    if most is not None and value > most:
        value = most // step * step
    if below is not None and value >= below:
        value = (-(-below // step) - 1) * step
    return value


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema or "required" in schema else "array" if "items" in schema else "null"


def _chosen(branch: Any, root: Any) -> dict[str, Any]:
    target = branch.get("$ref") if isinstance(branch, dict) else None
    resolved = resolve_pointer(target, root) if isinstance(target, str) else branch
    return resolved if isinstance(resolved, dict) else {}


def _without(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != keyword}


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both schemas at once, as far as their members and required names go."""
    properties = {**first.get("properties", {}), **second.get("properties", {})}
    required = [*first.get("required", ()), *second.get("required", ())]
    joined = {**first, **second}
    return joined | ({"properties": properties} if properties else {}) | ({"required": required} if required else {})
