"""Projections of JSON Schemas (contract 06 §8): what each dialect is shown, and what is refused before sending."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lash_cli.core.schemas import SchemaDialect, SchemaOverride, SchemaProjection, without_absent
from lash_cli.errors import LlmTransportError
from lash_cli.providers.schemas import project

STRICT: tuple[SchemaDialect, ...] = ("openai_strict_tool_parameters", "openai_structured_output")
ALL: tuple[SchemaDialect, ...] = (
    *STRICT,
    "openai_tool_parameters",
    "anthropic_tool",
    "anthropic_structured_output",
    "google",
)


_names = st.sampled_from(["a", "b", "c", "d/e", "f~g"])
_leaves: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["string", "null"]},
        {"enum": ["x", "y"]},
        {"type": "string", "enum": ["x", "y"]},
        {"const": 7},
        {"$ref": "#/$defs/leaf"},
        {"$ref": "#/$defs/leaf", "description": "a leaf"},
        {"allOf": [{"$ref": "#/$defs/leaf"}], "title": "Leaf"},
    ]
)


def _objects(children: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(_names, children, max_size=3))
        required = [name for name in properties if draw(st.booleans())]
        return {"type": "object", "properties": properties, "required": required}

    return build()


_nodes = st.recursive(
    _leaves,
    lambda children: st.one_of(
        _objects(children),
        children.map(lambda items: {"type": "array", "items": items}),
        st.lists(children, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches}),
    ),
    max_leaves=8,
)
_schemas = _objects(_nodes).map(
    lambda root: {**root, "$defs": {"leaf": {"type": "object", "properties": {"v": {"type": "integer"}}}}}
)


def _draw_value(draw: Any, schema: dict[str, Any], root: dict[str, Any], depth: int = 0) -> Any:
    """A value that the strict projection allows."""
    if "$ref" in schema:
        return _draw_value(draw, root["$defs"]["leaf"], root, depth + 1)
    if "anyOf" in schema:
        return _draw_value(draw, draw(st.sampled_from(schema["anyOf"])), root, depth + 1)
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if "const" in schema:
        return schema["const"]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    match draw(st.sampled_from(kinds)):
        case "object":
            return {name: _draw_value(draw, child, root, depth + 1) for name, child in schema["properties"].items()}
        case "array":
            return [_draw_value(draw, schema["items"], root, depth + 1) for _ in range(draw(st.integers(0, 2)))]
        case "string":
            return draw(st.text(max_size=3))
        case "integer":
            return draw(st.integers(-5, 5))
        case "boolean":
            return draw(st.booleans())
        case _:
            return None


@settings(max_examples=100, deadline=None)
@given(schema=_schemas, data=st.data())
def test_whatever_a_strict_projection_allows_fits_the_canonical_schema_once_absent_members_are_gone(
    schema: dict[str, Any], data: st.DataObject
) -> None:
    projected = project(schema, "openai_structured_output")
    value = _draw_value(data.draw, projected, projected)
    assert jsonschema_rs.validator_for(projected).is_valid(value)
    stripped = without_absent(value, schema)
    # an alternative that allows any object may keep a null that another one drops: both are values of the schema
    assert jsonschema_rs.validator_for(schema).is_valid(stripped) or _has_object_alternatives(schema)


def _has_object_alternatives(schema: Any) -> bool:
    """Whether alternatives meet in one object, where "absent" depends on which of them was meant."""
    if isinstance(schema, list):
        return any(map(_has_object_alternatives, schema))
    if not isinstance(schema, dict):
        return False
    return len(schema.get("anyOf", ())) > 1 or any(map(_has_object_alternatives, schema.values()))


def _subschemas(node: Any) -> list[dict[str, Any]]:
    found = [node]
    for keyword in ("properties", "$defs"):
        found += [sub for child in node.get(keyword, {}).values() for sub in _subschemas(child)]
    found += [sub for child in node.get("anyOf", ()) for sub in _subschemas(child)]
    if isinstance(node.get("items"), dict):
        found += _subschemas(node["items"])
    return found


@settings(max_examples=100, deadline=None)
@given(schema=_schemas, dialect=st.sampled_from(ALL))
def test_a_projection_changes_nothing_given_is_the_same_twice_and_projects_to_itself(
    schema: dict[str, Any], dialect: SchemaDialect
) -> None:
    before = copy.deepcopy(schema)
    projected = project(schema, dialect)
    assert schema == before
    assert project(copy.deepcopy(schema), dialect) == projected
    assert project(copy.deepcopy(projected), dialect) == projected
    assert project(schema, dialect) is projected


@settings(max_examples=100, deadline=None)
@given(schema=_schemas, dialect=st.sampled_from(STRICT))
def test_a_strict_projection_closes_every_object_requires_every_member_and_types_every_value(
    schema: dict[str, Any], dialect: SchemaDialect
) -> None:
    for node in _subschemas(project(schema, dialect)):
        assert {"type", "anyOf", "$ref"} & node.keys()
        assert "allOf" not in node
        if "$ref" in node:
            assert set(node) == {"$ref"}
        if "properties" in node:
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}]}}}, "#/properties/a/oneOf"),
        ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "#/properties/a/not"),
        ({"type": "object", "if": {"required": ["a"]}}, "#/if"),
        ({"type": "object", "patternProperties": {"^x": {"type": "string"}}}, "#/patternProperties"),
        ({"type": "object", "properties": {"a/b": {"allOf": [{}, {}]}}}, "#/properties/a~1b/allOf"),
        ({"anyOf": [{"type": "object"}]}, "#/anyOf"),
        ({"type": "array", "items": {"type": "string"}}, "#/type"),
        ({"type": "object", "properties": {"a": {}}}, "#/properties/a"),
        ({"type": "object", "properties": {"a": True}}, "#/properties/a"),
        (
            {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}}},
            "#/properties/a/additionalProperties",
        ),
        ({"type": "object", "properties": {"a": {"$ref": "https://x.example/s"}}}, "#/properties/a/$ref"),
        ({"type": "object", "required": ["a"]}, "#/required"),
        ({"type": "object", "properties": {"a": {"type": "array", "prefixItems": [{}]}}}, "#/properties/a/prefixItems"),
    ],
)
@pytest.mark.parametrize("dialect", STRICT)
def test_what_the_strict_dialect_cannot_say_is_refused_with_its_path(
    schema: dict[str, Any], path: str, dialect: SchemaDialect
) -> None:
    with pytest.raises(LlmTransportError) as refused:
        project(schema, dialect)
    assert (refused.value.kind, refused.value.code, refused.value.retryable) == (
        "validation",
        "schema_unrepresentable",
        False,
    )
    assert f": {path}: " in str(refused.value)
    assert refused.value.protocol_position == "no_response"


def test_limits_the_strict_dialect_does_not_know_are_told_in_the_description() -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 2, "pattern": "^a", "format": "uri", "description": "A name"},
            "when": {"type": "string", "format": "date"},
            "count": {"type": "integer", "minimum": 1, "default": 3},
        },
        "required": ["name", "when", "count"],
    }
    properties = project(schema, "openai_structured_output")["properties"]
    assert properties["name"] == {
        "type": "string",
        "pattern": "^a",
        "description": 'A name (format: "uri") (minLength: 2)',
    }
    assert properties["when"] == {"type": "string", "format": "date"}
    assert properties["count"] == {"type": "integer", "minimum": 1, "description": "(default: 3)"}


def test_a_root_that_only_refers_becomes_the_object_it_refers_to() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": []}
    projected = project({"$ref": "#/$defs/node", "$defs": {"node": node}}, "openai_structured_output")
    assert projected["type"] == "object"
    assert projected["properties"] == {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}
    assert projected["$defs"]["node"]["required"] == ["next"]


def test_anthropic_is_told_limits_in_words_and_shown_closed_objects_for_an_answer() -> None:
    schema = {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 0, "maximum": 150, "description": "Years"},
            "kind": {"oneOf": [{"const": "a"}, {"const": "b"}]},
        },
    }
    answer = project(schema, "anthropic_structured_output")
    assert answer["additionalProperties"] is False
    assert answer["properties"]["age"] == {"type": "integer", "description": "Years (minimum: 0, maximum: 150)"}
    assert answer["properties"]["kind"] == {"anyOf": [{"const": "a"}, {"const": "b"}]}
    tool = project(schema, "anthropic_tool")
    assert "additionalProperties" not in tool
    assert tool["properties"]["age"] == answer["properties"]["age"]
    assert tool["properties"]["kind"] == schema["properties"]["kind"]  # type: ignore[index]


def test_google_and_plain_parameters_get_the_schema_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 3}}}
    assert project(schema, "google") is schema
    assert project(schema, "openai_tool_parameters") is schema
    assert project({"additionalProperties": False}, "openai_tool_parameters") == {
        "additionalProperties": False,
        "properties": {},
        "type": "object",
    }


def test_an_override_wins_exact_sends_the_canonical_schema_and_explicit_only_refuses_without_one() -> None:
    canonical = {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}]}}}
    by_hand = {"type": "object", "properties": {"a": {"type": "string"}}}
    override = SchemaOverride("openai_structured_output", by_hand)
    for mode in ("auto", "exact", "explicit_only"):
        projection = SchemaProjection(mode, (override,))
        assert project(canonical, "openai_structured_output", projection) is by_hand
    assert project(canonical, "openai_structured_output", SchemaProjection("exact")) is canonical
    with pytest.raises(LlmTransportError, match="written for this dialect"):
        project(canonical, "anthropic_tool", SchemaProjection("explicit_only", (override,)))


def test_null_stays_where_the_canonical_schema_says_null_or_requires_the_member() -> None:
    schema = {
        "type": "object",
        "properties": {
            "said": {"type": ["string", "null"]},
            "needed": {"type": "string"},
            "optional": {"type": "string"},
            "list": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        },
        "required": ["needed"],
        "$defs": {"item": {"type": "object", "properties": {"x": {"enum": [1, 2]}}}},
    }
    value = {"said": None, "needed": None, "optional": None, "list": [{"x": None}, {"x": 1}]}
    assert without_absent(value, schema) == {"said": None, "needed": None, "list": [{}, {"x": 1}]}
    whole = {"needed": "n", "list": [{"x": 1}]}
    assert without_absent(whole, schema) is whole
