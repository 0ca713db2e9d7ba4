"""`lash schema [KIND]`: JSON Schema of everything the command prints as JSON (contract 08 §6.1)."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from lash_cli.cli.invocation import current
from lash_cli.cli.output import emit_many, to_json, write_line
from lash_cli.core.nearest import did_you_mean
from lash_cli.errors import NotFoundError, UsageError


def command(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="Such as Session or turn_finished.")] = None,
) -> int:
    """Print the JSON Schema (draft 2020-12) of a kind, or list the kinds.

    A kind is the value of "kind" in a document, or of "type" in a line of a
    stream. Keys are always there, null when unknown; more of them, and more
    words where a text stands for one of several, may be added.
    """
    from lash_cli.cli.schemas import KINDS

    if kind is None:
        items = [{"id": k.name, "kind": k.name, "family": k.family, "summary": k.summary} for k in KINDS.values()]
        emit_many("SchemaList", items, columns=("kind", "family", "summary"))
        return 0
    if kind not in KINDS:
        raise _unknown(kind, list(KINDS))
    _print(kind)
    return 0


def _print(kind: str) -> None:
    from lash_cli.cli.schemas import KINDS
    from lash_cli.cli.schemas.generate import schema_of

    options = current().output
    if options.is_chosen_from:
        raise UsageError("a schema is printed whole", hint=f"choose from it with: lash schema {kind} | jq .properties")
    if options.format == "name" or options.quiet:
        write_line(kind)
        return
    schema = schema_of(KINDS[kind])
    write_line(to_json(schema) if options.is_machine else _indented(schema))


def _indented(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=True)


def _unknown(kind: str, known: list[str]) -> NotFoundError:
    hint, nearest = did_you_mean(kind, known, "list them with: lash schema", most=3)
    return NotFoundError(
        f"there is no kind {kind!r}", code="schema_not_found", hint=hint, details={"kind": kind, "nearest": nearest}
    )
