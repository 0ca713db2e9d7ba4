"""Which configuration keys exist and what each may hold (contract 08 §6.7).

A key is a dotted path: `SECTION.KEY`, or `SECTION.NAME.KEY` for the sections
whose members the user names. Everything not in this table is an error that
names the nearest key that is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

OptionKind = Literal[
    "text", "name", "integer", "number", "boolean", "choice", "list", "duration", "table", "key_source", "age",
    "busy_rule",
]  # fmt: skip

KEY_SOURCES = ("keys", "env", "file", "cmd", "keyring")
# How long something is kept that is kept for ever.
NEVER = "never"
_FOREVER = "forever"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
_DURATION = r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|)"
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# 10 000 years: longer than anybody waits, and short enough for every clock and column that it is added up in.
_LONGEST_SECONDS = 10_000 * 365 * 86400.0


class Option(NamedTuple):
    """What one key holds. `choices` are for it, or for the items of a list; `minimum` bounds integers; `default` None
    means unset; `fields` are all a table may have.

    A `name` is a text that is not blank: an empty one would silently be as if it were not set. An empty `text` says
    that there is none (no prompt, no trace), and so wins over what it is set over.
    """

    kind: OptionKind
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: int = 0
    fields: dict[str, Option] | None = None


# What may stand in the toolbar of a chat, and does unless it is said.
TOOLBAR_SLOTS = ("model", "ctx", "queue", "lease", "cost")
_MODES = ("ask", "auto", "never")

# What is known of a model's costs: money for a million tokens of each usage bucket.
_PRICES = {
    "input": Option("number"),
    "cache_read": Option("number"),
    "cache_write": Option("number"),
    "output": Option("number"),
    "currency": Option("name"),
    "looked_up": Option("name"),
}
# What a model takes as a reasoning selection, and how it is written (contract 06 §4).
_REASONING = {
    "efforts": Option("list"),
    "default_effort": Option("name"),
    "aliases": Option("table"),
    "encoding": Option("choice", choices=("effort", "budget")),
    "budgets": Option("table"),
    "disable": Option("name"),
    "mandatory": Option("boolean"),
}

# Sections with a fixed set of keys.
SECTIONS: dict[str, dict[str, Option]] = {
    "defaults": {
        "model": Option("name"),
        "provider": Option("name"),
        "output": Option("choice", "text", ("text", "table", "json", "jsonl", "name")),
        "if_busy": Option("busy_rule", "fail"),
        "max_steps": Option("integer", minimum=1),
        "system": Option("text"),
    },
    "approval": {
        "read": Option("choice", "auto", _MODES),
        "write": Option("choice", "ask", _MODES),
        "execute": Option("choice", "ask", _MODES),
        "network": Option("choice", "ask", _MODES),
    },
    "tools": {"roots": Option("list"), "allow_outside": Option("boolean", False)},
    "input": {"stdin_wait": Option("duration", 5.0)},
    "lease": {"ttl_ms": Option("integer", 30_000, minimum=3)},
    "store": {"synchronous": Option("choice", "full", ("full", "normal"))},
    "repl": {
        "editing": Option("choice", "emacs", ("emacs", "vi")),
        "ctrl_c": Option("choice", "draft-first", ("draft-first", "turn-first")),
        "after_interrupt": Option("choice", "hold", ("hold", "continue")),
        "replay": Option("integer", 20),
        "history": Option("integer", 5000),
        "toolbar": Option("list", choices=TOOLBAR_SLOTS),
        "keys": Option("table"),
    },
    "work": {
        "concurrency": Option("integer", 1, minimum=1),
        "on_failure": Option("choice", "pause", ("pause", "continue")),
    },
    "privacy": {"redact_export": Option("boolean", True), "log_prompts": Option("boolean", False)},
    "retention": {"max_age": Option("age", NEVER), "min_age": Option("duration", 86400.0)},
    "trace": {"file": Option("text"), "level": Option("choice", "standard", ("standard", "extended"))},
    "completion": {"previews": Option("boolean", False)},
}
# Sections whose members the user names.
NAMED_SECTIONS: dict[str, dict[str, Option]] = {
    "models": {
        "id": Option("name"),
        "variant": Option("name"),
        "max_output_tokens": Option("integer", minimum=1),
        "context_window_tokens": Option("integer", minimum=1),
        "prices": Option("table", fields=_PRICES),
        "reasoning": Option("table", fields=_REASONING),
        "cache_control": Option("choice", choices=("anthropic", "gemini", "none")),
        "stream_termination": Option("choice", choices=("require", "tolerate_eof")),
        "thought_signatures": Option("choice", choices=("required", "optional")),
    },
    "providers": {
        "kind": Option("name"),
        "base_url": Option("name"),
        "key": Option("key_source"),
        "options": Option("table"),
    },
}
# A section of free keys with text values.
LABELS = "labels"
# What a project file may set (a cloned repository must not be able to redirect a key).
PROJECT_KEYS = ("defaults.model", "defaults.system", "repl.editing", "repl.toolbar", "repl.replay")


class UnknownKey(LookupError):
    """No such key; `nearest` is the closest one that exists, or None."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key
        self.nearest = nearest_key(key)


def find_option(key: str) -> tuple[Option, str, tuple[str, ...]]:
    """The option a dotted key names, the key that holds the value, and the path inside a table value.

    Raises `UnknownKey`.
    """
    parts = tuple(key.split("."))
    if parts[0] == LABELS and len(parts) == 2 and parts[1]:
        return Option("text"), key, ()
    if parts[0] in NAMED_SECTIONS:
        if len(parts) >= 3 and re.fullmatch(_NAME, parts[1]):
            return _within(NAMED_SECTIONS[parts[0]], parts, 2)
    elif parts[0] in SECTIONS and len(parts) >= 2:
        return _within(SECTIONS[parts[0]], parts, 1)
    raise UnknownKey(key)


def _within(options: dict[str, Option], parts: tuple[str, ...], depth: int) -> tuple[Option, str, tuple[str, ...]]:
    option = options.get(parts[depth])
    rest = parts[depth + 1 :]
    if option is None or (rest and option.kind != "table") or not all(rest):
        raise UnknownKey(".".join(parts))
    if rest and option.fields is not None and rest[0] not in option.fields:
        raise UnknownKey(".".join(parts))
    return option, ".".join(parts[: depth + 1]), rest


def is_group(parts: tuple[str, ...]) -> bool:
    """Whether a dotted path is a table of keys rather than a key."""
    if parts[0] in NAMED_SECTIONS:
        return len(parts) == 1 or (len(parts) == 2 and re.fullmatch(_NAME, parts[1]) is not None)
    return len(parts) == 1 and (parts[0] in SECTIONS or parts[0] == LABELS)


def fixed_keys() -> list[str]:
    """Every key whose path is known without the user's names."""
    return [f"{section}.{name}" for section, options in SECTIONS.items() for name in options]


def nearest_key(key: str) -> str | None:
    """The existing key closest to `key`, with the user's own name kept in named sections."""
    import difflib

    parts = key.split(".")
    known = [*fixed_keys(), *SECTIONS, *NAMED_SECTIONS, LABELS]
    if len(parts) >= 2:
        for section, options in NAMED_SECTIONS.items():
            for name, option in options.items():
                known.append(f"{section}.{parts[1]}.{name}")
                known.extend(f"{section}.{parts[1]}.{name}.{field}" for field in option.fields or ())
    matches = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return matches[0] if matches else None


def check_value(option: Option, value: Any) -> Any:
    """`value` as it is kept (durations become seconds); raises `ValueError` saying what is allowed."""
    match option.kind:
        case "text":
            return _expect(value, isinstance(value, str), "text")
        case "name":
            return _expect(value, _is_name(value), "a text that is not empty")
        case "integer":
            is_integer = isinstance(value, int) and not isinstance(value, bool) and value >= option.minimum
            return _expect(value, is_integer, f"a whole number of at least {option.minimum}")
        case "boolean":
            return _expect(value, isinstance(value, bool), "true or false")
        case "choice":
            return _expect(value, value in option.choices, f"one of: {', '.join(option.choices)}")
        case "list":
            # Blanks are something: a stop sequence may be a line break.
            is_list = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
            if option.choices:
                is_known = is_list and all(item in option.choices for item in value)
                return _expect(value, is_known, f"a list of: {', '.join(option.choices)}")
            return _expect(value, is_list, "a list of texts that are not empty")
        case "number":
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
            return _expect(value, is_number, "a number of at least 0")
        case "table":
            return _table(option, _expect(value, isinstance(value, dict), "a table"))
        case "duration":
            return duration_seconds(value)
        case "age":
            return NEVER if value == NEVER else duration_seconds(value, or_else=NEVER)
        case "busy_rule":
            return _busy_rule(value)
        case "key_source":
            return _key_source(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _table(option: Option, table: dict[str, Any]) -> dict[str, Any]:
    """`table`, checked field by field when the option says which fields there are."""
    if option.fields is None:
        return table
    checked: dict[str, Any] = {}
    for name, value in table.items():
        field = option.fields.get(name)
        if field is None:
            raise ValueError(f"unknown field {name!r}; there are: {', '.join(option.fields)}")
        try:
            checked[name] = check_value(field, value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return checked


def _expect(value: Any, is_valid: bool, wanted: str) -> Any:
    if not is_valid:
        raise ValueError(f"expected {wanted}, got {value!r}")
    return value


def duration_seconds(value: Any, *, or_else: str | None = None) -> float:
    """Seconds of `5`, `0.5`, `"5s"`, `"500ms"`, `"2m"`, 10 000 years at most.

    Raises `ValueError`, which names `or_else` as allowed too."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(min(value, _LONGEST_SECONDS))
    match = re.fullmatch(_DURATION, value.strip()) if isinstance(value, str) else None
    if match is None:
        other = f", or {or_else!r}" if or_else is not None else ""
        raise ValueError(f"expected a duration such as 5s or 500ms{other}, got {value!r}")
    return min(float(match[1]) * _UNIT_SECONDS[match[2]], _LONGEST_SECONDS)


def _busy_rule(value: Any) -> str:
    """What a turn does when the session is busy: `fail`, `enqueue`, `wait` or `wait=DURATION`."""
    if isinstance(value, str):
        word, equals, wait = value.partition("=")
        if word == "wait" and equals:
            if wait != _FOREVER:
                duration_seconds(wait)
            return value
        if value in ("fail", "enqueue", "wait"):
            return value
    raise ValueError(f"expected fail, enqueue, wait or wait=DURATION, got {value!r}")


def _key_source(value: Any) -> str:
    """A place a key comes from. The value is never repeated in the error: it may be the key itself."""
    scheme, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    if scheme not in KEY_SOURCES or not colon or not rest.strip():
        raise ValueError(
            "expected where the key is kept (keys:NAME, env:NAME, file:PATH, cmd:COMMAND or keyring:NAME),"
            " never the key itself"
        )
    return str(value)


def parse_text(option: Option, text: str) -> Any:
    """The value a command line or the environment means by `text`; raises `ValueError`."""
    match option.kind:
        case "integer":
            try:
                return check_value(option, int(text))
            except ValueError:
                raise ValueError(f"expected a whole number of at least {option.minimum}, got {text!r}") from None
        case "boolean":
            word = text.strip().lower()
            if word not in ("true", "false", "yes", "no", "on", "off", "1", "0"):
                raise ValueError(f"expected true or false, got {text!r}")
            return word in ("true", "yes", "on", "1")
        case "list":
            if text.lstrip().startswith("["):
                return check_value(option, parse_toml_value(text))
            return check_value(option, [item.strip() for item in text.split(",") if item.strip()])
        case "table" | "number":
            return check_value(option, parse_toml_value(text))
        case _:
            return check_value(option, text)


def parse_within(option: Option, inside: Sequence[str], text: str) -> Any:
    """As `parse_text`, for the key `inside` a table; what a table of any keys holds there is taken as TOML or text."""
    field = (option.fields or {}).get(inside[0]) if len(inside) == 1 else None
    return loose_toml_value(text, inside) if field is None else parse_text(field, text)


def parse_toml_value(text: str) -> Any:
    """One TOML value; raises `ValueError` for anything else."""
    from lash_cli.settings.toml import parse_toml

    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError as error:
        raise ValueError(f"expected a TOML value, got {text!r}") from error


def loose_toml_value(text: str, inside: Sequence[str]) -> Any:
    """One TOML value, or the text itself when it is none or a date: for the free key `inside` a table. What goes into
    a header or an address is always text."""
    try:
        value = parse_toml_value(text)
    except ValueError:
        return text
    # Nothing here holds a date; a version such as 2024-10-21 is meant as it stands.
    is_text = len(inside) > 1 and inside[-2] in ("headers", "query")
    return value if isinstance(value, str if is_text else bool | int | float | str | list | dict) else text
