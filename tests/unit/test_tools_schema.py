"""Argument parsing and validation (contract 05 §1.2)."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from lash_cli.tools.schema import (
    MAX_SCHEMA_DEPTH,
    ArgumentsInvalid,
    SchemaRefused,
    ValidatorCache,
    check_schema,
    parse_arguments,
    validate_value,
)

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
    "additionalProperties": False,
}
OPEN: dict[str, Any] = {"type": "object"}


def refusal(text: str, schema: dict[str, Any] = OPEN) -> str:
    with pytest.raises(ArgumentsInvalid) as caught:
        parse_arguments(text, schema)
    assert caught.value.code == "invalid_tool_args"
    return caught.value.message


def test_valid_arguments_are_returned_as_they_are() -> None:
    assert parse_arguments('{"name": "é", "tags": [1, 2]}', PERSON) == {"name": "é", "tags": [1, 2]}


@pytest.mark.parametrize("text", ['{"name": ', "{'name': 1}", "NaN", '{"a": Infinity}', "[" * 100_000])
def test_unparsable_text_is_never_an_empty_object(text: str) -> None:
    assert refusal(text).startswith("the arguments are not valid JSON: ")


def test_the_parse_error_is_quoted() -> None:
    assert "byte" in refusal('{"a": 1,,}')


@pytest.mark.parametrize(
    ("text", "kind"),
    [("[1]", "an array"), ("null", "null"), ('"x"', "a string"), ("true", "a boolean"), ("1", "a number")],
)
def test_only_an_object_is_accepted(text: str, kind: str) -> None:
    assert refusal(text) == f"the arguments must be a JSON object, not {kind}"


def test_empty_text_is_an_empty_object_only_without_required_fields() -> None:
    assert parse_arguments("", OPEN) == {}
    assert parse_arguments(" \n", OPEN) == {}
    assert "name" in refusal("", PERSON)


def test_of_duplicate_keys_the_last_counts() -> None:
    assert parse_arguments('{"name": 1, "name": "b"}', PERSON) == {"name": "b"}


def test_every_violation_is_listed_with_its_pointer() -> None:
    message = refusal('{"tags": [1, "x"], "a/b": 0}', PERSON)
    parts = message.split("; ")
    assert len(parts) == 3
    assert any(part.startswith('/tags/1: "x" is not of type') for part in parts)
    assert any(part.startswith("/: ") and "required" in part for part in parts)


def test_references_that_lead_on_without_end_are_refused() -> None:
    chain = {f"n{n}": {"$ref": f"#/$defs/n{n + 1}"} for n in range(MAX_SCHEMA_DEPTH + 2)}
    with pytest.raises(SchemaRefused, match="chained deeper"):
        check_schema({"$defs": {**chain, f"n{len(chain)}": {}}, "$ref": "#/$defs/n0"})


def test_pointers_are_escaped() -> None:
    schema = {"type": "object", "properties": {"a/b~c": {"type": "integer"}}}
    assert refusal('{"a/b~c": "x"}', schema).startswith("/a~1b~0c: ")


def test_many_or_huge_violations_stay_readable() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    body = ",".join(f'"k{n}":"{"x" * 5000}"' for n in range(100))
    message = refusal("{" + body + "}", schema)
    first, *_, last = message.split("; ")
    assert first.startswith('/k0: "xxx') and first.endswith('xxx" is not of type "integer"')
    assert last == "and 80 more"
    assert len(message) < 10_000


def test_of_a_large_value_as_many_violations_are_told_as_of_a_small_one() -> None:
    schema = {"type": "object", "properties": {"a": {"items": {"type": "string"}}, "b": {"anyOf": [{}, False]}}}
    many = ", ".join(["1"] * 100_000)
    *parts, rest = refusal(f'{{"a": [{many}], "b": 1}}', schema).split("; ")
    # Which one an item is stands in its place or, in older releases of the library, in its message.
    assert len(set(parts)) == 20 and all(re.fullmatch(r'/a.*: 1.* is not of type "string"', part) for part in parts)
    assert rest == "and 99980 more"
    with pytest.raises(ArgumentsInvalid, match=r'^/: \[1,1,.*….*,1\] is not of type "string"$'):
        validate_value([1] * 3000, {"type": "string"})
    assert len(parse_arguments(f'{{"a": [{many}]}}', {"type": "object"})["a"]) == 100_000


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize("place", ["top", "property", "list", "unused"])
def test_remote_references_are_refused_before_anything_is_fetched(
    keyword: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("something opened a socket"))
    remote = {keyword: "http://127.0.0.1:9/schema.json"}
    schema: dict[str, Any] = {
        "top": remote,
        "property": {"properties": {"const": remote}},
        "list": {"anyOf": [OPEN, {"items": [remote]}]},
        "unused": {"$defs": {"never": remote}},
    }[place]
    with pytest.raises(SchemaRefused, match="only local references"):
        check_schema(schema)


def test_what_only_looks_like_a_reference_is_accepted() -> None:
    check_schema({"properties": {"$ref": {"type": "string"}, "x": {"const": {"$ref": "http://x"}}}})


def test_local_references_and_recursive_schemas_work() -> None:
    tree = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}},
                "additionalProperties": False,
            }
        },
    }
    assert parse_arguments('{"left": {"right": {}}}', tree) == {"left": {"right": {}}}
    assert refusal('{"left": {"right": {"x": 1}}}', tree).startswith("/left/right: ")


def test_references_that_double_are_refused() -> None:
    levels = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    with pytest.raises(SchemaRefused, match="multiply"):
        check_schema({"$ref": "#/$defs/d0", "$defs": {**levels, "d40": {"type": "object"}}})


def test_a_bottomless_schema_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"properties": {"a": schema}}
    with pytest.raises(SchemaRefused):
        check_schema(schema)
    deep: dict[str, Any] = {}
    for _ in range(MAX_SCHEMA_DEPTH):
        deep = {"not": deep}
    check_schema(deep)
    with pytest.raises(SchemaRefused, match=f"deeper than {MAX_SCHEMA_DEPTH} levels"):
        check_schema({"items": deep})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 12},
        {"$ref": "#/nowhere"},
        {"$ref": "#/anyOf/²", "anyOf": [{}]},
        {"$ref": f"#/anyOf/{'1' * 5000}", "anyOf": [{}]},
        {"$schema": "http://127.0.0.1:9/meta"},
    ],
    ids=["type", "nowhere", "raised", "endless", "meta"],
)
def test_an_invalid_schema_is_a_fault_of_the_tool(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaRefused) as caught:
        parse_arguments("{}", schema)
    assert caught.value.code == "tool_contract_unavailable"


def test_equal_schemas_share_a_validator_and_the_cache_is_bounded_in_both_ways() -> None:
    cache = ValidatorCache(max_entries=2, max_bytes=200)
    first = cache.get({"type": "object", "title": "1"})
    assert cache.get({"title": "1", "type": "object"}) is first
    cache.get({"title": "2"})
    cache.get({"title": "1", "type": "object"})
    cache.get({"title": "3"})
    assert len(cache) == 2
    assert cache.get({"type": "object", "title": "1"}) is first
    cache.get({"title": "y" * 500})
    assert len(cache) == 2
    cache.get({"title": "x" * 180})
    assert len(cache) == 1


def test_a_null_that_a_strict_provider_sends_for_an_absent_member_is_no_argument() -> None:
    schema = {"type": "object", "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}}}
    schema["required"] = ["path"]
    assert parse_arguments('{"path": "a", "limit": null}', schema) == {"path": "a"}
    with pytest.raises(ArgumentsInvalid, match="/path"):
        parse_arguments('{"path": null, "limit": null}', schema)
