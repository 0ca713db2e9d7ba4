"""A tool in few words: its schemas as a line that reads like code (contract 05 §1.1).

It is shown in a prompt and nothing is judged by it, so what has no short name is `any`, nested objects are told one
level deep, and references that lead back to themselves end.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lash_cli.core.schemas import listed, resolve_pointer
from lash_cli.core.tool_shapes import CompactContract, CompactField, OutputContract, OutputFromInput

MAX_EXAMPLES = 2
MAX_EXAMPLE_CHARS = 240
_MAX_DEPTH = 6
_MAX_CHOICES = 12
# The type that an argument of the call gives to the result, and that of such an argument.
_TYPE_PARAMETER = "T"
_TYPE_ARGUMENT = "TypeSpec<T>"
_ANY = "any"


def compact_contract(
    name: str,
    description: str,
    input_schema: dict[str, Any],
    output_schema: dict[str, Any] | None,
    output_contract: OutputContract,
    examples: tuple[str, ...],
) -> CompactContract:
    """The prompt rendering of a tool. Pure; whatever the schemas hold, it renders something."""
    parameters = _fields(input_schema)
    generic = ""
    if isinstance(output_contract, OutputFromInput):
        parameters = _with_type_argument(parameters, output_contract.input_field)
        default = output_contract.default_schema
        generic = f"<{_TYPE_PARAMETER} = {_type_of(default, default, 0)}>" if default else f"<{_TYPE_PARAMETER}>"
        returns, return_fields = _TYPE_PARAMETER, _fields(default)
    else:
        returns, return_fields = _type_of(output_schema, output_schema, 0), _fields(output_schema)
    listed = ", ".join(f"{_named(field)}: {field.type}" for field in parameters)
    return CompactContract(
        name=name,
        signature=f"{name}{generic}({listed}) -> {returns}",
        returns=returns,
        parameters=parameters,
        return_fields=return_fields,
        description=description,
        examples=tuple(_cut(example) for example in examples[:MAX_EXAMPLES]),
    )


def _with_type_argument(parameters: tuple[CompactField, ...], name: str) -> tuple[CompactField, ...]:
    """`parameters`, of which the one that gives the result its type is last and says so."""
    own = next((field for field in parameters if field.name == name), CompactField(name, _ANY))
    rest = tuple(field for field in parameters if field.name != name)
    return (*rest, msgspec.structs.replace(own, type=_TYPE_ARGUMENT))


def _named(field: CompactField) -> str:
    return field.name if field.required else f"{field.name}?"


def _cut(example: str) -> str:
    return example if len(example) <= MAX_EXAMPLE_CHARS else example[: MAX_EXAMPLE_CHARS - 1] + "…"


def _fields(schema: Any) -> tuple[CompactField, ...]:
    """The members of an object, those that are required first; none for anything else."""
    target = _resolved(schema, schema)
    properties = target.get("properties") if isinstance(target, dict) else None
    if not isinstance(properties, dict):
        return ()
    required = listed(target, "required")
    fields = [
        CompactField(str(name), _type_of(member, schema, 0), name in required, _description(member))
        for name, member in properties.items()
    ]
    return tuple(sorted(fields, key=lambda field: not field.required))


def _description(schema: Any) -> str:
    text = schema.get("description") if isinstance(schema, dict) else None
    return " ".join(text.split()) if isinstance(text, str) else ""


def _resolved(schema: Any, root: Any) -> Any:
    """What a schema that only refers refers to; None when that leads nowhere."""
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str):
            return schema
        schema = resolve_pointer(reference, root)
    return None


def _type_of(schema: Any, root: Any, depth: int) -> str:
    """The name of a type, as in `string | null` or `integer[]`."""
    schema = _resolved(schema, root)
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return _ANY
    if "const" in schema:
        return _literal(schema["const"])
    if choices := listed(schema, "enum"):
        shown = [_literal(choice) for choice in choices[:_MAX_CHOICES]]
        return " | ".join([*shown, "…"] if len(choices) > _MAX_CHOICES else shown)
    for keyword in ("anyOf", "oneOf"):
        if branches := listed(schema, keyword):
            return _union(branches, root, depth)
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return _union([{**schema, "type": kind} for kind in kinds], root, depth)
    match kinds:
        case "array":
            item = _type_of(schema.get("items"), root, depth + 1)
            return f"({item})[]" if " | " in item else f"{item}[]"
        case "object":
            return _object(schema, root, depth)
        case str():
            return kinds
        case _:
            return _ANY


def _union(choices: list[Any], root: Any, depth: int) -> str:
    """Each type once, in order. Choices among choices multiply, so they count for two levels."""
    unique = dict.fromkeys(_type_of(choice, root, depth + 2) for choice in choices[:_MAX_CHOICES])
    if len(choices) > _MAX_CHOICES:
        unique["…"] = None
    return _ANY if _ANY in unique else " | ".join(unique)


def _object(schema: dict[str, Any], root: Any, depth: int) -> str:
    properties = schema.get("properties")
    if depth > 0 or not isinstance(properties, dict) or not properties:
        return "object"
    required = listed(schema, "required")
    members = [
        f"{name if name in required else f'{name}?'}: {_type_of(member, root, depth + 1)}"
        for name, member in properties.items()
    ]
    return "{" + ", ".join(members) + "}"


def _literal(value: Any) -> str:
    return msgspec.json.encode(value).decode()
