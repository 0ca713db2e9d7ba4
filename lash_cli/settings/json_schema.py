"""The configuration file as JSON Schema (draft 2020-12), made of the table of options (contract 08 §6.7).

As strict as loading: what the schema refuses is refused there, except for what
only a look at the text can tell, such as whether a duration is one.
"""

from __future__ import annotations

from typing import Any

from lash_cli.settings.schema import KEY_SOURCES, LABELS, NAMED_SECTIONS, NEVER, SECTIONS, Option

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DURATION = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\s*\d+(\.\d+)?(ms|s|m|h|d)?\s*$"}]
}
_NAME = {"type": "string", "pattern": r"\S"}
_NAMES = {"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]*$"}

Schema = dict[str, Any]


def config_schema() -> Schema:
    """The schema of a user's file."""
    sections = _sections()
    profile = _closed(sections)
    profiles = {"type": "object", "additionalProperties": {"$ref": "#/$defs/profile"}}
    return {
        "$schema": DIALECT,
        "title": "lash configuration",
        **_closed(
            {**{name: {"$ref": f"#/$defs/profile/properties/{name}"} for name in sections}, "profiles": profiles}
        ),
        "$defs": {"profile": profile},
    }


def _sections() -> dict[str, Schema]:
    fixed = {section: _closed(_options(options)) for section, options in SECTIONS.items()}
    named = {
        section: {"type": "object", "propertyNames": _NAMES, "additionalProperties": _closed(_options(options))}
        for section, options in NAMED_SECTIONS.items()
    }
    return {**fixed, **named, LABELS: {"type": "object", "additionalProperties": {"type": "string"}}}


def _closed(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _options(options: dict[str, Option]) -> dict[str, Schema]:
    return {name: _with_default(option, _value(option)) for name, option in options.items()}


def _with_default(option: Option, schema: Schema) -> Schema:
    return schema if option.default is None else {**schema, "default": option.default}


def _value(option: Option) -> Schema:
    match option.kind:
        case "text":
            return {"type": "string"}
        case "name":
            return dict(_NAME)
        case "integer":
            return {"type": "integer", "minimum": option.minimum}
        case "number":
            return {"type": "number", "minimum": 0}
        case "boolean":
            return {"type": "boolean"}
        case "choice":
            return {"enum": list(option.choices)}
        case "list":
            return {"type": "array", "items": {"enum": list(option.choices)} if option.choices else dict(_NAME)}
        case "table":
            return {"type": "object"} if option.fields is None else _closed(_options(option.fields))
        case "duration":
            return dict(_DURATION)
        case "age":
            return {"anyOf": [{"const": NEVER}, *_DURATION["anyOf"]]}
        case "busy_rule":
            return {"type": "string", "pattern": "^(fail|enqueue|wait|wait=.+)$"}
        case "key_source":
            return {"type": "string", "pattern": f"^({'|'.join(KEY_SOURCES)}):.+$"}
