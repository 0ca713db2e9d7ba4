"""Answers with a shape: what a turn was asked to answer with, and how a wrong answer is given back (contract 06 §8).

What is wanted stands in the turn's options (`ProtocolTurnOptions`), so it is
stored with the input and a re-driven turn wants the same. Whether an answer
fits is judged by a function the runtime supplies; a wrong one is repaired by
at most one more request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lash_cli.core.codec import Record, encode
from lash_cli.core.content import Message, ProtocolTurnOptions, Role, TextPart, option_of, with_option
from lash_cli.core.llm import JsonObjectOutput, JsonSchemaOutput, OutputSpec
from lash_cli.core.outcome import TurnIssue

OUTPUT_OPTION = "output"
REPAIR_LABEL = "structured output"
INVALID_OPTIONS = "invalid_turn_options"
INVALID_OUTPUT = "invalid_structured_output"


class FittingAnswer(Record):
    """The value an answer holds."""

    value: Any


class UnfitAnswer(Record):
    """Why an answer does not fit, in words for the model."""

    problem: str


JudgeAnswer = Callable[[str], FittingAnswer | UnfitAnswer]


def with_output(options: ProtocolTurnOptions | None, output: OutputSpec) -> ProtocolTurnOptions:
    """`options` that also ask for `output`."""
    return with_option(options, OUTPUT_OPTION, output)


def output_of(options: ProtocolTurnOptions | None) -> OutputSpec | None:
    """What `options` ask for, a null for prose; raises `ValueError` when that cannot be read."""
    wanted: OutputSpec | None = option_of(options, OUTPUT_OPTION, OutputSpec)
    return wanted


def repair_message(output: OutputSpec, problem: str) -> Message:
    """What the model is told about an answer that does not fit, without an id."""
    match output:
        case JsonSchemaOutput(schema=schema):
            wanted = f"one JSON value that is valid against this schema:\n{encode(schema).decode('utf-8')}"
        case JsonObjectOutput():
            wanted = "one JSON object."
    text = f"Your answer does not have the required form: {problem}\nAnswer again with nothing but {wanted}"
    return Message("", Role.EVENT, (TextPart(text, REPAIR_LABEL),))


def was_repaired(messages: Iterable[Message]) -> bool:
    """Whether the turn's messages hold the one repair already."""
    return any(
        isinstance(part, TextPart) and part.label == REPAIR_LABEL
        for message in messages
        if message.role is Role.EVENT
        for part in message.parts
    )


def unfit_issue(problem: str) -> TurnIssue:
    """The issue of a turn whose repaired answer does not fit either."""
    return TurnIssue(
        "llm_provider", f"the answer does not have the required form: {problem}", code=INVALID_OUTPUT, retryable=False
    )
