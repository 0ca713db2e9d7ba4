"""The one writer of stdout: documents, lists and the notes beside them (contract 08 §6.1).

stdout carries data, stderr everything else. A verb hands over plain JSON types
and, for people, a text; which of them is printed, which fields of it and in
which shape is decided here alone, so every verb honours `-o`, `--fields`,
`--format` and `-q` in the same way.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lash_cli.cli.invocation import OutputOptions, current
from lash_cli.errors import UsageError
from lash_cli.views import tables
from lash_cli.views.safe_text import ascii_text, safe_json, safe_text

SCHEMA = "lash/1"
# `{key}` of a template; doubled braces are braces.
_PLACEHOLDER = r"\{\{|\}\}|\{([A-Za-z0-9_.-]*)\}"

safe = safe_text

Document = dict[str, Any]


def emit_one(
    kind: str, document: Document, *, text: Any = None, name: str | None = None, is_paged: bool = False
) -> None:
    """Print one thing.

    `document` holds plain JSON types with snake_case keys; `text` is what
    people see: a string (already safe for a terminal), a Rich renderable, or
    None for aligned `key value` lines. `name` is what `-o name` and `-q`
    print, by default the document's `id`; of nothing they print nothing. With `is_paged` what people see goes
    through their pager as `paging` has it. Raises `UsageError` for a field that
    does not exist.
    """
    options = current().output
    if options.fields == ():
        write_lines(_field_names(document))
    elif options.template is not None:
        write_line(_fill(options.template, document, kind))
    elif options.format in ("json", "jsonl"):
        chosen = _select(document, options.fields, kind) if options.fields else document
        write_line(to_json({"schema": SCHEMA, "kind": kind, **chosen}))
    elif options.format == "name" or (options.quiet and options.fields is None):
        named = _name(name if name is not None else document["id"])
        write(named + "\n" if named else "")
    elif options.fields:
        write(tables.pairs([(field, _cell(_lookup(document, field, kind))) for field in options.fields]) + "\n")
    elif text is None:
        write(tables.pairs([(field, _cell(value)) for field, value in document.items()]) + "\n")
    elif isinstance(text, str):
        write_shown(text if text.endswith("\n") or not text else text + "\n", is_paged=is_paged)
    else:
        write_shown(_set_by_rich(text, options), is_paged=is_paged)


def emit_many(
    kind: str,
    items: Sequence[Document],
    *,
    columns: Sequence[str],
    next_cursor: str | None = None,
    id_field: str = "id",
    cells: Callable[[Document], Sequence[str]] | None = None,
    text: str | None = None,
    is_paged: bool = False,
) -> None:
    """Print a list: one envelope as json, one item per line as jsonl, else a table of `columns`.

    `kind` names the list (`SessionList`). A column may be a dotted path;
    `cells` makes the table row of an item when the raw values are not what
    people want to read; `text` is what people see in format `text` instead of
    a table, with `is_paged` through their pager as `paging` has it. Raises
    `UsageError` for a field that does not exist, in an empty list too.
    """
    options = current().output
    if not items and options.is_chosen_from and not current().options.fields_are_known:
        from lash_cli.cli.printed import require_fields

        known = require_fields((kind,))
        if options.fields == ():
            write_lines(known)
            return
    if options.fields == ():
        write_lines(_field_names(items[0]))
        return
    if options.template is not None:
        write_lines([_fill(options.template, item, kind) for item in items])
        return
    if options.format in ("json", "jsonl"):
        chosen = [_select(item, options.fields, kind) for item in items] if options.fields else list(items)
        if options.format == "jsonl":
            write_lines(to_json(item) for item in chosen)
        else:
            write_line(to_json({"schema": SCHEMA, "kind": kind, "items": chosen, "next": next_cursor}))
        return
    if options.format == "name" or (options.quiet and options.fields is None):
        write_lines(_name(item.get(id_field, "")) for item in items)
        return
    if text is not None and options.format == "text" and options.fields is None:
        write_shown(text + "\n" if text else "", is_paged=is_paged)
    else:
        _write_table(kind, items, columns, cells, options)
    if next_cursor is not None:
        say(f"more: repeat with --cursor {next_cursor}")


def to_json(document: Any) -> str:
    """One line of JSON that a terminal cannot be steered by; ASCII only with `--ascii`."""
    return _json(document, is_ascii=current().output.ascii)


def write(text: str) -> None:
    """Write text to stdout, byte for byte what was given except for `--ascii`."""
    if current().output.ascii and not text.isascii():
        text = ascii_text(text)
    sys.stdout.write(text)


def write_line(text: str) -> None:
    """One line to stdout."""
    write(text + "\n")


def write_lines(lines: Iterable[str]) -> None:
    """Several lines to stdout."""
    for line in lines:
        write_line(line)


def say(text: str) -> None:
    """A note for people on stderr, the commands it names being for here; silent as `tell` is."""
    tell(current().commands_here(text))


def tell(text: str) -> None:
    """What others wrote, as it is, on stderr; silent with `-q` and when a program reads the result."""
    invocation = current()
    if not (invocation.options.quiet or invocation.output.is_machine):
        write_note(safe_text(text))


def warn(text: str, code: str = "warning") -> None:
    """Something a person should know on stderr: `warning: …`, or one JSON line in a machine format."""
    invocation = current()
    text = invocation.commands_here(text)
    if invocation.notice_format in ("json", "jsonl", "name"):
        write_note(to_notice({"schema": SCHEMA, "kind": "Warning", "code": code, "message": text}))
    else:
        write_note(f"warning: {safe_text(text)}")


def warn_once(text: str, code: str = "warning") -> None:
    """As `warn`, for what more than one part of a command may come across."""
    told = current().told
    if text not in told:
        told.add(text)
        warn(text, code)


def warn_of_raw() -> None:
    """Say what `--raw` lets happen, where it can: at a terminal."""
    if sys.stdout.isatty():
        warn_once("--raw lets what the model writes control this terminal")


def to_notice(document: Any) -> str:
    """One line of JSON for stderr; needs no settings, so it also works when they are broken."""
    return _json(document, is_ascii=True)


def _json(document: Any, *, is_ascii: bool) -> str:
    import json  # who prints a text for people has no use for it (design D16)

    return safe_json(json.dumps(document, ensure_ascii=is_ascii, separators=(",", ":")))


def write_note(line: str) -> None:
    """A line on stderr, harmless for a terminal already; a stderr that is gone loses it, and the exit status still
    tells."""
    if current().wants_ascii:
        line = ascii_text(line)
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return


def _name(value: object) -> str:
    """A name exactly as it is for a program, and harmless for a terminal."""
    return safe_text(str(value)) if sys.stdout.isatty() else str(value)


def terminal_width() -> int | None:
    """The columns of the terminal stdout is, None when it is none (then nothing is ever cut)."""
    options = current().output
    if not options.is_terminal:
        return None
    if options.columns is not None:
        return options.columns
    import shutil  # and with it every compressor; a pipe never needs it (design D16)

    return shutil.get_terminal_size().columns


def _write_table(
    kind: str,
    items: Sequence[Document],
    columns: Sequence[str],
    cells: Callable[[Document], Sequence[str]] | None,
    options: OutputOptions,
) -> None:
    shown = options.fields or columns
    if options.fields or cells is None:
        rows = [[_cell(_lookup(item, column, kind)) for column in shown] for item in items]
    else:
        rows = [list(cells(item)) for item in items]
    if not items and options.format == "text":
        return
    header = [column.rpartition(".")[2].replace("_", " ").upper() for column in shown]
    write_line(tables.columns(header, rows, width=terminal_width(), ascii_only=options.ascii))


def write_shown(text: str, *, is_paged: bool) -> None:
    """Write what people see, through their pager where that is meant and stdout is a terminal."""
    if is_paged and sys.stdout.isatty():
        from lash_cli.cli.paging import write_paged

        write_paged(text)
    else:
        write(text)


def _set_by_rich(renderable: Any, options: OutputOptions) -> str:
    from rich.console import Console

    console = Console(
        no_color=not options.color,
        force_terminal=options.color or options.is_terminal,  # said here, or rich asks the environment again
        highlight=False,
        soft_wrap=not options.is_terminal,
        width=options.columns,
    )
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()  # not written by the console, which ends the process when the reader has left


def _lookup(document: Document, path: str, kind: str) -> Any:
    value: Any = document
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            if current().options.fields_are_known:
                return None  # of a kind that this command prints, if not of this one
            from lash_cli.cli.printed import may_have

            if may_have(kind, path):
                return None  # in another thing of this kind, as a label is
            raise UsageError(f"no field {path!r}", hint=f"fields: {', '.join(_field_names(document))}")
        value = value[name]
    return value


def _select(document: Document, fields: Sequence[str], kind: str) -> Document:
    """The part of `document` that `fields` name, nested as in the original."""
    chosen: Document = {}
    for path in fields:
        value = _lookup(document, path, kind)
        *parents, last = path.split(".")
        place = chosen
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return chosen


def _field_names(document: Document, prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, value in document.items():
        names.append(prefix + name)
        if isinstance(value, dict):
            names.extend(_field_names(value, f"{prefix}{name}."))
    return names


def template_keys(template: str) -> list[str]:
    """The keys that a template names, in order; one that is empty too."""
    return [match.group(1) for match in re.finditer(_PLACEHOLDER, template) if match.group(1) is not None]


def _fill(template: str, document: Document, kind: str) -> str:
    """`{key}` replaced by the value of that key; `{{` and `}}` are braces. Nothing else is evaluated."""

    def replacement(match: re.Match[str]) -> str:
        if match.group() in ("{{", "}}"):
            return match.group()[0]
        value = _lookup(document, match.group(1), kind)
        return safe_text("" if value is None else value if isinstance(value, str) else to_json(value))

    return re.sub(_PLACEHOLDER, replacement, template)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int | float) else to_json(value)
