"""A schema made of types is the same on every Python that makes it."""

from __future__ import annotations

from typing import Any

import msgspec

from lash_cli.core.schemas import without_layout
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
