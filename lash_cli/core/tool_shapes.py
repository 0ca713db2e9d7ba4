"""What a tool says of its arguments and results beside the schemas of them (contract 05 §1.1).

These are declarations. Who reads them is whoever shows tools to code: how projected values reach a call, and how a
result takes its type from an argument, is the business of the mode that runs code.
"""

from __future__ import annotations

from typing import Any

from lash_cli.core.codec import Record


class MaterializedArguments(Record, tag="materialize_projected_values", tag_field="kind"):
    """The tool gets every argument as a value (the default)."""


class PreservedReferences(Record, tag="preserve_projected_refs_in_field", tag_field="kind"):
    """The tool gets what stands in `field` as references, and every other argument as a value.

    Only code has projected values (contract 06 §13.7): a call of a model holds none, so every tool that a model calls
    gets its arguments as values, whatever it declares here. Raises `ValueError` for a blank field.
    """

    field: str

    def __post_init__(self) -> None:
        if not self.field.strip():
            raise ValueError("an argument projection needs the name of a field")


ArgumentProjection = MaterializedArguments | PreservedReferences


class StaticOutput(Record, tag="static", tag_field="kind"):
    """What the tool returns always fits its output schema (the default)."""


class OutputFromInput(Record, tag="from_input_schema", tag_field="kind"):
    """What the tool returns fits the schema that a call gives in `input_field`; `default_schema` where it gives none.

    It says what to expect; nothing holds a result against it. Raises `ValueError` for a blank field.
    """

    input_field: str
    default_schema: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.input_field.strip():
            raise ValueError("an output contract needs the name of a field")


OutputContract = StaticOutput | OutputFromInput

MATERIALIZED = MaterializedArguments()
STATIC = StaticOutput()


class CompactField(Record):
    """One parameter of a tool, or one member of what it returns."""

    name: str
    type: str
    required: bool = False
    description: str = ""


class CompactContract(Record):
    """A tool as a prompt shows it: a line that reads like code, and what there is to say about its parts."""

    name: str
    signature: str
    returns: str
    parameters: tuple[CompactField, ...] = ()
    return_fields: tuple[CompactField, ...] = ()
    description: str = ""
    examples: tuple[str, ...] = ()
