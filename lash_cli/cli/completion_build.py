"""The words that completion knows without asking anybody, made of the command table (contract 08 §10).

    python -m lash_cli.cli.completion_build          write the words and the four scripts of `completions/`
    python -m lash_cli.cli.completion_build --check  say what of them is not what it would write; exit status 1 then

Verbs, options and arguments are read from the parser's own commands, so nothing
about them is said twice. What a value may be follows from the name it has in
the help (`metavar`); where that is too wide, from the tables here. A test does
the same as `--check`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lash_cli.cli import globals as global_options
from lash_cli.cli.completing import WORDS_FILE
from lash_cli.cli.printed import CHANGES, READS
from lash_cli.cli.table import COMMANDS, Entry, load
from lash_cli.paths import resolve_paths

SCRIPTS_DIRECTORY = Path(__file__).parent.parent.parent / "completions"

# The kind of a value by what the help calls it.
_BY_METAVAR = {
    "SESSION": "session", "IN": "input", "ANCHOR": "input", "BATCH": "batch", "TURN": "turn", "NODE": "node",
    "FILE": "file", "FILE|-": "file", "PATH": "file", "PATH|URL|-": "file", "DIR": "dir", "DB": "file",
    "SHELL": "shell", "TOPIC": "topic", "KIND": "schema", "K=V": "label", "K[=V]": "label", "K=V|K-": "label",
    "TOOL": "tool", "NODE|TURN": "node", "CLASS=MODE": "approval", "TEXT|@FILE": "text-file",
    "ROLE": "role", "CONDITION": "condition", "KEY": "config-key", "KEY=VALUE": "override",
}  # fmt: skip
# By the name of the option or argument, where the help has no name of its own for the value.
_BY_OPTION = {
    "--model": "model", "--provider": "provider", "--profile": "profile", "--variant": "variant",
    "--if-busy": "if-busy", "--boundary": "boundary", "--on-failure": "on-failure", "--types": "event",
    "--output": "format", "--color": "color", "--fields": "fields", "--as": "export-format", "--by": "by",
}  # fmt: skip
# Where one word means different things to different commands: by the path and the parameter.
_BY_PLACE = {
    ("ls", "--status"): "status", ("ls", "--sort"): "sort", ("tail", "--until"): "tail-until",
    ("tail", "--from"): "tail-from", ("open", "session"): "session", ("rename", "name"): "",
    ("turn", "--input"): "input-format",
    ("fork", "--at"): "node", ("rewind", "--to"): "node", ("queue cancel", "--key"): "",
    ("provider add", "--kind"): "provider-kind", ("provider add", "name"): "well-known",
    ("provider add", "--key"): "key-source", ("provider test", "name"): "provider", ("provider rm", "name"): "provider",
    ("model show", "name"): "model", ("model default", "name"): "model", ("model alias", "name"): "",
    ("model alias", "model"): "model", ("config set", "value"): "config-value", ("key set", "name"): "provider",
    ("key rm", "name"): "provider", ("key test", "name"): "provider", ("set", "settings"): "setting",
}  # fmt: skip
# What a command prints, for `--fields`.
_PRINTS = READS | {path: kinds[0] for path, kinds in CHANGES.items()}
# What prints no document of which fields could be chosen.
_PRINTS_NONE = frozenset({"tail", "chat", "serve", "config schema"})


def words_text() -> str:
    """The content of `completion_words.txt`."""
    rows = [*_verbs("", COMMANDS), *_global_rows(), *_fixed_words(), *_fields()]
    return "".join("\t".join(row) + "\n" for row in rows)


def _verbs(path: str, entries: tuple[Entry, ...]) -> Iterator[tuple[str, ...]]:
    for entry in entries:
        yield path, "verb", entry.name, ",".join(entry.aliases), entry.summary
    for entry in entries:
        own = f"{path} {entry.name}".strip()
        if entry.verbs:
            yield from _verbs(own, entry.verbs)
        else:
            yield from _parameters(own, load(entry).params)


def _parameters(path: str, parameters: list[Any]) -> Iterator[tuple[str, ...]]:
    for parameter in parameters:
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "argument":
            yield path, "argument", _kind(path, parameter.name, parameter), "+" if parameter.nargs == -1 else ""
            continue
        spellings = [*parameter.opts, *parameter.secondary_opts]
        kind = "" if parameter.is_flag or parameter.count else _kind(path, _long(spellings), parameter) or "text"
        if kind and (parameter.metavar or "").startswith("["):
            kind = f"?{kind}"
        yield path, "option", ",".join(spellings), kind, _sentence(parameter.help or "")


def _kind(path: str, name: str, parameter: Any) -> str:
    """The kind of a parameter's value; empty for free text."""
    metavar = (parameter.metavar or "").rstrip(".")
    if metavar.startswith("["):
        metavar = metavar.strip("[]").rstrip(".")
    if (path, name) in _BY_PLACE:
        return _BY_PLACE[path, name]
    if name in _BY_OPTION:
        return _BY_OPTION[name]
    if re.fullmatch(r"[a-z-]+(\|[a-z-]+)+", metavar):
        return f"one of {metavar}"
    return _BY_METAVAR.get(metavar, "")


def _long(spellings: list[str]) -> str:
    return next((spelling for spelling in spellings if spelling.startswith("--")), spellings[0])


def _sentence(text: str) -> str:
    """The first clause of a help text, on one line."""
    return re.split(r"(?<=[a-z)])[.;](?:\s|$)", " ".join(text.split()), maxsplit=1)[0].rstrip(".")


def _global_rows() -> Iterator[tuple[str, ...]]:
    """The options of every command, described by the rows of the root's help."""
    valued = {**global_options._VALUED, "--fields": "fields"}
    by_target: dict[tuple[str, object], list[str]] = {}
    for spelling, attribute in valued.items():
        by_target.setdefault((attribute, None), []).append(spelling)
    for spelling, target in global_options._SWITCHES.items():
        by_target.setdefault(target, []).append(spelling)
    by_target["verbose", None] = ["-v", "--verbose"]
    by_target["help", None] = ["-h", "--help"]
    for spellings in by_target.values():
        kind = ""
        if spellings[0] in valued:
            metavar = _help_row(spellings)[1]
            kind = _BY_OPTION.get(_long(spellings)) or _BY_METAVAR.get(metavar, "") or "text"
        if spellings[-1] in ("--db", "--log-file"):
            kind = "file"
        yield "*", "option", ",".join(spellings), kind, _help_row(spellings)[0]


def _help_row(spellings: list[str]) -> tuple[str, str]:
    """What the root's help says of an option, and what it calls its value."""
    if "--help" in spellings:
        return "say what the command takes", ""
    for heading, text in global_options.HELP_ROWS:
        parts = [part.split() for part in heading.split(", ")]
        named = [part for part in parts if part[0] in spellings]
        if named:
            metavar = next((part[1] for part in named if len(part) > 1), "")
            texts = text.split("; ")
            return texts[min(parts.index(named[0]), len(texts) - 1)] if len(texts) == len(parts) else text, metavar
    return next(text for heading, text in global_options.HELP_ROWS if spellings[0] in f"{heading} {text}"), ""


def _fixed_words() -> Iterator[tuple[str, ...]]:
    from lash_cli.cli.completion_scripts import SHELLS
    from lash_cli.cli.documents import STATUSES
    from lash_cli.cli.enqueue_command import BOUNDARIES
    from lash_cli.cli.exporting import FORMATS as EXPORT_FORMATS
    from lash_cli.cli.help_command import topics
    from lash_cli.cli.ls_command import ORDERS
    from lash_cli.cli.schemas import KINDS
    from lash_cli.cli.set_command import KEYS as SETTINGS
    from lash_cli.cli.spending import GROUPS
    from lash_cli.cli.tail_cursor import LAST_COMMIT, NOW, START
    from lash_cli.cli.tail_plan import UNTIL_COMMITTED, UNTIL_IDLE, UNTIL_TURN
    from lash_cli.cli.tail_stream import EVENT_TYPES
    from lash_cli.cli.turn_command import APPROVAL_CLASSES, APPROVAL_MODES
    from lash_cli.cli.wait_command import KINDS as CONDITIONS
    from lash_cli.cli.wait_command import NAMING
    from lash_cli.cli.work_command import ON_FAILURE
    from lash_cli.core.content import Role
    from lash_cli.providers.catalog import KINDS as PROVIDER_KINDS
    from lash_cli.providers.models import CATALOGUE
    from lash_cli.settings.providers import WELL_KNOWN
    from lash_cli.settings.schema import KEY_SOURCES
    from lash_cli.settings.values import Settings
    from lash_cli.system import SystemClock
    from lash_cli.wiring import standard_tools

    plain: dict[str, tuple[str, ...]] = {
        "format": global_options.FORMATS,
        "color": global_options.COLOR_CHOICES,
        "status": STATUSES,
        "sort": ORDERS,
        "role": tuple(role.value for role in Role),
        "boundary": BOUNDARIES,
        "if-busy": ("fail", "wait", "wait=", "enqueue"),
        "on-failure": ON_FAILURE,
        "condition": tuple(f"{kind}=" if kind in NAMING else kind for kind in CONDITIONS),
        "tail-until": (UNTIL_IDLE, UNTIL_TURN, UNTIL_COMMITTED),
        "tail-from": (START, LAST_COMMIT, NOW),
        "event": EVENT_TYPES,
        "approval": tuple(f"{name}={mode}" for name in APPROVAL_CLASSES for mode in APPROVAL_MODES),
        "provider-kind": tuple(sorted(PROVIDER_KINDS)),
        "well-known": tuple(WELL_KNOWN),
        "key-source": tuple(f"{source}:" for source in KEY_SOURCES),
        "variant": ("low", "medium", "high"),
        "shell": SHELLS,
        "by": GROUPS,
        "setting": tuple(f"{key}=" for key in SETTINGS),
        "export-format": EXPORT_FORMATS,
        "input-format": ("jsonl",),
    }
    for kind, values in plain.items():
        for value in values:
            yield kind, "word", value, ""
    for name in ("loopback", *WELL_KNOWN):
        yield "provider", "word", name, "built in" if name == "loopback" else ""
    for name, known in CATALOGUE.items():
        yield "model", "word", name, known.kind or ""
    tools = standard_tools(Settings({}), resolve_paths({}, home=os.sep), os.sep, SystemClock())
    for manifest in sorted(tools.manifests(), key=lambda manifest: manifest.name):
        yield "tool", "word", manifest.name, _sentence(manifest.description)
    for name, schema in KINDS.items():
        yield "schema", "word", name, schema.summary
    for name, title in topics().items():
        yield "topic", "word", name, title
    yield from _choices_in_help()
    yield from _configuration_words()


def _choices_in_help() -> Iterator[tuple[str, ...]]:
    """The alternatives that a help text spells out as the name of the value."""
    seen: set[str] = set()
    for row in _verbs("", COMMANDS):
        for field in row:
            if field.startswith("one of ") and field not in seen:
                seen.add(field)
                for value in field.removeprefix("one of ").split("|"):
                    yield field, "word", value, ""


def _configuration_words() -> Iterator[tuple[str, ...]]:
    from lash_cli.settings.schema import NAMED_SECTIONS, SECTIONS

    for section, options in SECTIONS.items():
        for name, option in options.items():
            yield "config-key", "word", f"{section}.{name}", option.kind
            yield "override", "word", f"{section}.{name}=", option.kind
            values = ("true", "false") if option.kind == "boolean" else option.choices
            for value in values:
                yield f"value of {section}.{name}", "word", value, ""
    for section in NAMED_SECTIONS:
        yield "config-key", "word", f"{section}.", "a table of yours"


def paths() -> list[str]:
    """Every command that can be called."""
    return [f"{entry.name} {verb.name}" if entry.verbs else entry.name for entry in COMMANDS
            for verb in entry.verbs or (entry,)]  # fmt: skip


def unsaid() -> list[str]:
    """Commands of which `_PRINTS` does not say what they print, and those it knows that are not there."""
    return sorted(set(paths()) ^ (_PRINTS.keys() | _PRINTS_NONE))


def _fields() -> Iterator[tuple[str, ...]]:
    from lash_cli.cli.schemas import KINDS

    for path in paths():
        kind = KINDS.get(_PRINTS.get(path, ""))
        for field in () if kind is None else kind.shape.__struct_encode_fields__:
            yield f"fields of {path}", "word", field, ""


def artefacts() -> dict[Path, str]:
    """Every generated file and what belongs into it."""
    from lash_cli.cli.completion_scripts import FILE_NAMES, script

    made = {Path(WORDS_FILE): words_text()}
    made.update({SCRIPTS_DIRECTORY / name: script(shell) for shell, name in FILE_NAMES.items()})
    return made


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` compare them."""
    drifted = [
        path for path, text in artefacts().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in drifted:
        if "--check" not in arguments:
            path.write_text(artefacts()[path], encoding="utf-8")
        print(f"{'differs' if '--check' in arguments else 'wrote'}: {path}")
    return 1 if drifted and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
