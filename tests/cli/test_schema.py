"""What `lash schema` prints is pinned, and what every verb prints is what `lash schema` says (contract 08 §6.1).

After a change that is meant, write the pinned schemas anew with
LASH_WRITE_GOLDEN=1; that refuses to take a key away or to give it another name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema_rs
import pytest

from lash_cli.cli.schemas import KINDS
from lash_cli.cli.schemas.generate import DIALECT, schema_of

GOLDEN = Path(__file__).parent / "golden"
IS_WRITING = os.environ.get("LASH_WRITE_GOLDEN") == "1"


def golden_path(name: str) -> Path:
    # By family, because names that differ only in case must not share a file.
    return GOLDEN / KINDS[name].family / f"{name}.json"


def keys(schema, at: str = "") -> set[str]:
    """Every key that a schema names, by its path, and whether it is always there."""
    found: set[str] = set()
    if isinstance(schema, list):
        for item in schema:
            found |= keys(item, at)
    elif isinstance(schema, dict):
        for name, inner in schema.get("properties", {}).items():
            always = "!" if name in schema.get("required", ()) else "?"
            found |= {f"{at}/{name}{always}"} | keys(inner, f"{at}/{name}")
        for name, inner in schema.get("$defs", {}).items():
            found |= keys(inner, f"{at}#{name}")
        for word in ("items", "anyOf", "additionalProperties"):
            found |= keys(schema.get(word), at)
    return found


def lost(old, new) -> set[str]:
    return keys(old) - keys(new)


@pytest.mark.parametrize("name", KINDS)
def test_a_printed_schema_is_the_pinned_one(name: str) -> None:
    schema = schema_of(KINDS[name])
    path = golden_path(name)
    if IS_WRITING:
        if path.exists():
            assert not lost(json.loads(path.read_text()), schema), "keys are only ever added within a major version"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(schema, indent=1) + "\n")
    assert json.loads(path.read_text()) == schema


@pytest.mark.parametrize("name", KINDS)
def test_no_printed_schema_sends_its_reader_to_a_contract(name: str) -> None:
    assert "contract 0" not in json.dumps(schema_of(KINDS[name]))


@pytest.mark.parametrize(("written", "meant"), [("Sesion", "Session"), ("SESSION", "Session"), ("sesion", "session")])
def test_a_kind_that_there_is_not_offers_those_that_differ_least(written: str, meant: str, lash) -> None:
    refused = lash("schema", written, "-o", "json")
    assert (refused.code, refused.error["code"]) == (3, "schema_not_found")
    assert meant in refused.error["details"]["nearest"][:2] and meant in refused.error["hint"]


def test_every_pinned_schema_belongs_to_a_kind() -> None:
    assert {path.relative_to(GOLDEN) for path in GOLDEN.rglob("*.json")} == {
        golden_path(name).relative_to(GOLDEN) for name in KINDS
    }


def test_taking_a_key_away_or_renaming_it_is_noticed_and_adding_one_is_fine() -> None:
    schema = schema_of(KINDS["Session"])
    renamed = json.loads(json.dumps(schema).replace('"held_at"', '"stopped_at"'))
    assert lost(schema, renamed) == {"/held_at!"}
    optional = {**schema, "required": [key for key in schema["required"] if key != "head"]}
    assert lost(schema, optional) == {"/head!"}
    added = {**schema, "properties": {**schema["properties"], "more": {"type": "string"}}}
    assert lost(schema, added) == set()
    deep = json.loads(json.dumps(schema).replace('"claimed_at"', '"taken_at"'))
    assert lost(schema, deep) == {"#Lease/claimed_at!"}


@pytest.mark.parametrize("name", KINDS)
def test_every_schema_is_valid_and_complete_in_itself(name: str) -> None:
    schema = schema_of(KINDS[name])
    assert schema["$schema"] == DIALECT and schema["title"] == name
    assert schema["description"].endswith(".")
    jsonschema_rs.Draft202012Validator(schema)  # raises for a reference that leads nowhere
    jsonschema_rs.meta.validate(schema)


def test_without_a_kind_they_are_listed_and_each_of_them_can_be_printed(lash) -> None:
    listed = lash("schema", "-o", "json").json
    assert [item["id"] for item in listed["items"]] == list(KINDS)
    printed = lash("schema", "turn_finished", "-o", "json")
    assert printed.json == schema_of(KINDS["turn_finished"]) and printed.out.count("\n") == 1
    assert json.loads(lash("schema", "turn_finished").out) == printed.json
    assert lash("schema", "turn_finished", "-o", "name").out == "turn_finished\n"


def test_an_unknown_kind_is_not_found_and_the_nearest_is_named(lash) -> None:
    done = lash("schema", "Sesion", "-o", "json")
    assert (done.code, done.out, done.error["code"]) == (3, "", "schema_not_found")
    assert done.error["details"]["nearest"][0].lower() == "session"
    assert lash("schema", "nothing-like-it").code == 3


def test_a_schema_is_printed_whole(lash) -> None:
    assert lash("schema", "Session", "--fields", "title", "-o", "json").error["code"] == "usage"


def test_no_store_is_needed_or_made(lash, home: Path) -> None:
    assert lash("schema", "Session").code == 0
    assert not home.exists()
