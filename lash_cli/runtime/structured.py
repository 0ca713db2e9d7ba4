"""Judging an answer against what the turn was asked to answer with (contract 06 §8, §15).

Here the protocol, which knows when an answer is due, and the validator of tool
arguments meet. The canonical schema judges, never what a provider was shown of
it: a null that only stands for an absent member is dropped first.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lash_cli.core.codec import decode_written
from lash_cli.core.content import TURN_OPTIONS_VERSION, ProtocolTurnOptions
from lash_cli.core.generation import generation_of
from lash_cli.core.llm import JsonObjectOutput, JsonSchemaOutput, OutputSpec
from lash_cli.core.outcome import TurnIssue
from lash_cli.core.schemas import without_absent
from lash_cli.core.structured import INVALID_OPTIONS, FittingAnswer, JudgeAnswer, UnfitAnswer, output_of
from lash_cli.errors import UsageError
from lash_cli.tools.schema import ArgumentsInvalid, SchemaRefused, check_schema, validate_value

FENCE = "```"


def check_output(output: OutputSpec) -> None:
    """Raise `UsageError` (`schema_invalid`) for a schema that no answer can be judged by."""
    if isinstance(output, JsonSchemaOutput):
        try:
            check_schema(output.schema)
        except SchemaRefused as refused:
            raise UsageError(
                refused.message.replace("the tool's schema", "the schema"), code="schema_invalid"
            ) from refused


def options_issue(options: ProtocolTurnOptions | None) -> TurnIssue | None:
    """Why the options of a turn cannot be followed, if they cannot."""
    if options is None:
        return None
    if options.schema_version != TURN_OPTIONS_VERSION:
        text = f"the turn's options have version {options.schema_version}, this program reads {TURN_OPTIONS_VERSION}"
        return TurnIssue("input_validation", text, code=INVALID_OPTIONS, retryable=False)
    try:
        generation_of(options)
        output = output_of(options)
        if output is not None:
            check_output(output)
    except (ValueError, UsageError) as error:
        return TurnIssue("input_validation", str(error), code=INVALID_OPTIONS, retryable=False)
    return None


def judge_of(output: OutputSpec) -> JudgeAnswer:
    """A pure function from the text of an answer to its value, or to what is wrong with it."""

    def judge(text: str) -> FittingAnswer | UnfitAnswer:
        return judged(text, output)

    return judge


def judged(text: str, output: OutputSpec) -> FittingAnswer | UnfitAnswer:
    """The value of an answer, or what is wrong with it."""
    try:
        value = decode_written(unfenced(text))
    except msgspec.DecodeError as error:
        return UnfitAnswer(f"it is not JSON: {error}" if text.strip() else "it is empty")
    match output:
        case JsonObjectOutput():
            return FittingAnswer(value) if isinstance(value, dict) else UnfitAnswer("it is not a JSON object")
        case JsonSchemaOutput(schema=schema):
            return _judged_by(value, schema)


def _judged_by(value: Any, schema: dict[str, Any]) -> FittingAnswer | UnfitAnswer:
    try:
        validate_value(value, schema)
    except ArgumentsInvalid as invalid:
        present = without_absent(value, schema)
        if present is value:
            return UnfitAnswer(invalid.message)
        try:
            validate_value(present, schema)
        except ArgumentsInvalid:
            return UnfitAnswer(invalid.message)
        return FittingAnswer(present)
    return FittingAnswer(value)


def unfenced(text: str) -> str:
    """`text` without the code fence that models put around JSON by habit."""
    stripped = text.strip()
    first, _, rest = stripped.partition("\n")
    is_fenced = first.startswith(FENCE) and first[3:].strip().lower() in ("", "json") and rest.endswith(FENCE)
    return rest[: -len(FENCE)] if is_fenced else stripped
