"""A whole tool as one value, and how a prompt shows it (contract 05 §1.1)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.work import at_most

from lash_cli.core.codec import decode, encode, sha256_hex
from lash_cli.core.compact_contract import compact_contract
from lash_cli.core.schemas import SchemaProjection
from lash_cli.core.tool_definition import ToolDefinition, ToolExecutionGrant, tool_batch_id
from lash_cli.core.tool_shapes import (
    MATERIALIZED,
    STATIC,
    CompactContract,
    CompactField,
    MaterializedArguments,
    OutputFromInput,
    PreservedReferences,
    StaticOutput,
)
from lash_cli.core.tools import NeverRetry, SafeRetry, ToolContract, ToolManifest

QUERY = {
    "type": "object",
    "properties": {
        "limit": {"type": "integer"},
        "q": {"type": "string", "description": "What is\n  looked for."},
    },
    "required": ["q"],
}
WHOLE = ToolDefinition(
    id="t.find",
    name="find",
    description="Finds.",
    input_schema=QUERY,
    output_schema={"type": "array", "items": {"type": "string"}},
    output_contract=OutputFromInput("shape", {"type": "string"}),
    examples=("find('a')",),
    retry_policy=SafeRetry(2),
    activation="internal",
    approval="network",
    timeout_ms=5,
    exclusive_group="g",
    bindings={"lua": {"module_path": ["m"], "operation": "find"}},
    argument_projection=PreservedReferences("q"),
)


def test_a_definition_has_the_fields_of_both_halves_and_gives_them_back() -> None:
    halves = {*ToolManifest.__struct_fields__, *ToolContract.__struct_fields__}
    assert {*ToolDefinition.__struct_fields__} == halves - {"compact_contract"}
    assert not {*ToolManifest.__struct_fields__} & {*ToolContract.__struct_fields__}
    assert ToolDefinition.of(WHOLE.manifest(), WHOLE.contract()) == WHOLE
    assert decode(encode(WHOLE), ToolDefinition) == WHOLE
    assert decode(encode(WHOLE.manifest()), ToolManifest) == WHOLE.manifest()


def test_what_is_as_usual_is_not_written_and_is_read_from_what_was_written_before() -> None:
    plain = ToolDefinition("t", "t", "")
    assert encode(plain) == b'{"id":"t","name":"t","description":"","input_schema":{"type":"object"}}'
    assert encode(ToolManifest("t", "t", "")) == b'{"id":"t","name":"t","description":""}'
    assert encode(ToolContract()) == b'{"input_schema":{"type":"object"}}'
    assert (plain.argument_projection, plain.output_contract) == (MATERIALIZED, STATIC)


@pytest.mark.parametrize("fields", [{"id": " "}, {"name": ""}, {"retry_policy": SafeRetry(0)}])
def test_what_no_tool_can_be_is_refused_and_not_read_either(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ToolDefinition(**{"id": "t", "name": "t", "description": "", **fields})
    document = msgspec.to_builtins({"id": "t", "name": "t", "description": "", **fields})
    for kind in (ToolDefinition, ToolManifest):
        with pytest.raises(msgspec.ValidationError):
            decode(encode(document), kind)


@pytest.mark.parametrize(
    ("declared", "wire"),
    [
        (MaterializedArguments(), b'{"kind":"materialize_projected_values"}'),
        (PreservedReferences("q"), b'{"kind":"preserve_projected_refs_in_field","field":"q"}'),
        (StaticOutput(), b'{"kind":"static"}'),
        (OutputFromInput("q"), b'{"kind":"from_input_schema","input_field":"q"}'),
    ],
)
def test_a_declaration_has_its_pinned_shape(declared: Any, wire: bytes) -> None:
    assert (encode(declared), decode(wire, type(declared))) == (wire, declared)
    if "field" in str(wire):
        with pytest.raises(ValueError):
            type(declared)(" ")
        with pytest.raises(msgspec.ValidationError):
            decode(wire.replace(b'"q"', b'""'), type(declared))


def shown(**fields: Any) -> CompactContract:
    compact = ToolDefinition("t", "find", "Finds.", **fields).manifest().compact_contract
    assert compact is not None
    return compact


def test_a_manifest_that_is_made_of_a_definition_shows_the_contract() -> None:
    compact = shown(
        input_schema=QUERY,
        output_schema={
            "type": "object",
            "properties": {
                "title": {"type": ["string", "null"]},
                "tags": {"type": "array", "items": {"enum": ["a", 1]}},
            },
            "required": ["title"],
        },
        examples=("one", "x" * 300, "three"),
    )
    assert compact == CompactContract(
        name="find",
        signature='find(q: string, limit?: integer) -> {title: string | null, tags?: ("a" | 1)[]}',
        returns='{title: string | null, tags?: ("a" | 1)[]}',
        parameters=(CompactField("q", "string", True, "What is looked for."), CompactField("limit", "integer")),
        return_fields=(CompactField("title", "string | null", True), CompactField("tags", '("a" | 1)[]')),
        description="Finds.",
        examples=("one", "x" * 239 + "…"),
    )


def test_a_result_whose_type_the_call_gives_is_a_type_parameter() -> None:
    taking = {**QUERY, "properties": {"shape": {"type": "object"}, **QUERY["properties"]}}
    compact = shown(input_schema=taking, output_contract=OutputFromInput("shape", {"type": "string"}))
    assert compact.signature == "find<T = string>(q: string, limit?: integer, shape?: TypeSpec<T>) -> T"
    assert shown(output_contract=OutputFromInput("output")).signature == "find<T>(output?: TypeSpec<T>) -> T"


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (None, "any"),
        ({}, "any"),
        ({"type": "null"}, "null"),
        ({"const": "a"}, '"a"'),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "string"}]}, "string | integer"),
        ({"oneOf": [{"type": "string"}, {}]}, "any"),
        ({"anyOf": [{"const": number} for number in range(14)]}, f"{' | '.join(map(str, range(12)))} | …"),
        ({"type": "array"}, "any[]"),
        ({"type": "object"}, "object"),
        ({"$ref": "#/$defs/N", "$defs": {"N": {"type": "number"}}}, "number"),
        ({"$ref": "#/$defs/N", "$defs": {"N": {"$ref": "#/$defs/N"}}}, "any"),
        ({"$ref": "https://elsewhere/"}, "any"),
        ({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}, "{a?: object}"),
        ({"type": 5}, "any"),
        ({"type": "object", "properties": {"a": True}, "required": "a"}, "{a?: any}"),
    ],
)
def test_a_type_has_a_short_name_or_is_any(schema: Any, name: str) -> None:
    assert shown(output_schema=schema).returns == name


def test_choices_among_choices_do_not_multiply_without_end() -> None:
    with at_most(600_000):
        assert shown(output_schema={"anyOf": [{"$ref": "#"}] * 40}).returns == "any"


def test_a_schema_that_contains_itself_ends() -> None:
    tree: dict[str, Any] = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    assert compact_contract("t", "", tree, tree, STATIC, ()).returns == "{children?: object[]}"


def test_a_grant_is_of_a_whole_tool_and_names_its_source_or_does_not() -> None:
    grant = ToolExecutionGrant.of(WHOLE, source_id="plugins", execution_binding={"route": 1})
    assert ToolDefinition.of(grant.manifest, grant.contract) == WHOLE
    assert grant.manifest.compact_contract is None, "no journal has to hold what a prompt shows"
    assert decode(encode(grant), ToolExecutionGrant) == grant
    assert ToolExecutionGrant.of(WHOLE).source_id is None
    with pytest.raises(ValueError):
        ToolExecutionGrant.of(WHOLE, source_id=" ")


def test_equal_grants_are_written_alike() -> None:
    plain = ToolExecutionGrant(ToolManifest("t.b", "b", ""), ToolContract())
    spelled_out = ToolExecutionGrant(
        ToolManifest("t.b", "b", "", NeverRetry(), argument_projection=MaterializedArguments()),
        ToolContract(projection=SchemaProjection(), output_contract=StaticOutput()),
    )
    for grant in (spelled_out, decode(encode(spelled_out), ToolExecutionGrant), decode(encode(plain), type(plain))):
        assert (grant, encode(grant)) == (plain, encode(plain))


def test_a_batch_is_named_by_its_calls_in_their_order() -> None:
    grant = ToolExecutionGrant.of(ToolDefinition("t.b", "b", ""), source_id="plugins")
    one, two = ("t.a", {"x": 1, "y": 2}, None), ("t.b", {}, grant)
    listed = (
        b'[["t.a",{"x":1,"y":2},null],["t.b",{},{"manifest":{"id":"t.b","name":"b","description":""},'
        b'"contract":{"input_schema":{"type":"object"}},"source_id":"plugins"}]]'
    )
    assert tool_batch_id([one, two]) == f"tool-batch:{sha256_hex(listed)}"
    assert tool_batch_id([("t.a", {"y": 2, "x": 1}, None), two]) == tool_batch_id([one, two])
    assert len({tool_batch_id(calls) for calls in ([one, two], [two, one], [one], [("t.b", {}, None)], [two])}) == 5
