"""What `--schema FILE` asks a turn to answer with (contract 06 §8, 08 §5.1)."""

from __future__ import annotations

from typing import Any

import msgspec

from lash_cli.cli.stdin import STDIN_MARK, read_stdin_bytes
from lash_cli.core.codec import decode_json
from lash_cli.core.llm import JsonSchemaOutput
from lash_cli.errors import UsageError
from lash_cli.paths import regular_or_given

MAX_SCHEMA_BYTES = 1024 * 1024
CODE = "schema_invalid"
NAME = "answer"


def read_schema(path: str) -> JsonSchemaOutput:
    """The schema in a file, or on stdin for `-`; raises `UsageError` (`schema_invalid`) for what is none."""
    from lash_cli.runtime.structured import check_output

    output = JsonSchemaOutput(NAME, _parsed(_read(path), path))
    check_output(output)
    return output


def _read(path: str) -> bytes:
    if path == STDIN_MARK:
        return read_stdin_bytes(MAX_SCHEMA_BYTES, _too_large)
    try:
        with open(path, "rb", opener=regular_or_given) as file:
            data = file.read(MAX_SCHEMA_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read the schema {path}: {reason}; nothing was sent", code=CODE) from error
    if len(data) > MAX_SCHEMA_BYTES:
        raise _too_large(f"{path} is", MAX_SCHEMA_BYTES)
    return data


def _parsed(data: bytes, path: str) -> dict[str, Any]:
    try:
        schema = decode_json(data)
    except msgspec.DecodeError as error:
        raise UsageError(f"the schema {path} is not JSON: {error}; nothing was sent", code=CODE) from error
    if not isinstance(schema, dict):
        raise UsageError(f"the schema {path} is not a JSON object; nothing was sent", code=CODE)
    return schema


def _too_large(what: str, limit_bytes: int) -> UsageError:
    return UsageError(f"the schema {what} larger than {limit_bytes} bytes; nothing was sent", code=CODE)
