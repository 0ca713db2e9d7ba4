"""A schema made of types is the same on every Python that makes it, and a reference in one leads where it points."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lash_cli.core.schemas import resolve_pointer, without_layout
from lash_cli.tools.function import arguments_schema


class Inner(msgspec.Struct):
    """An inner one, said
    in two lines."""

    default: int = 1


class Outer(msgspec.Struct):
    inner: Inner


def test_descriptions_stand_on_one_line_whatever_their_docstrings_look_like() -> None:
    schema = arguments_schema(Outer)
    assert schema["$defs"]["Inner"]["description"] == "An inner one, said in two lines."


def test_only_descriptions_are_laid_out_and_nothing_is_changed_in_place() -> None:
    text = "a\n    b"
    schema: dict[str, Any] = {
        "description": text,
        "properties": {
            "description": {"type": "string", "description": text, "default": {"description": text}},
            "default": {"description": text, "enum": [{"description": text}]},
        },
        "anyOf": [{"description": text}, {"const": {"description": text}}],
    }
    before = msgspec.json.encode(schema)
    assert without_layout(schema) == {
        "description": "a b",
        "properties": {
            "description": {"type": "string", "description": "a b", "default": {"description": text}},
            "default": {"description": "a b", "enum": [{"description": text}]},
        },
        "anyOf": [{"description": "a b"}, {"const": {"description": text}}],
    }
    assert msgspec.json.encode(schema) == before


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#", {"$defs": {"a/b": {"type": "null"}, "é": {"items": [1, 2]}}}),
        ("#/$defs/a~1b", {"type": "null"}),
        ("#%2F$defs%2Fa~1b", {"type": "null"}),
        ("#/$defs/%C3%A9/items/1", 2),
        ("#/$defs/%C3%A9/items/2", None),
        ("#anchor", None),
        ("other.json#/$defs/a~1b", None),
    ],
)
def test_a_reference_is_a_pointer_in_a_fragment(reference: str, found: Any) -> None:
    assert resolve_pointer(reference, {"$defs": {"a/b": {"type": "null"}, "é": {"items": [1, 2]}}}) == found
