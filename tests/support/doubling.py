"""The tool that most turns of the tests call."""

from __future__ import annotations

import msgspec

from lash_cli.api import FunctionToolProvider, tool


class Number(msgspec.Struct):
    """A number to work on."""

    value: int


@tool(name="double")
async def double(args: Number, context: object) -> int:
    """Twice the number."""
    return args.value * 2


def doubling() -> FunctionToolProvider:
    return FunctionToolProvider([double])
