"""What every effect host shares: outcome and error codecs, and the waits.

The protocols `EffectHost` and `ScopedEffects` live in `core.protocols`; the
hosts are `inline` (remembers nothing) and `journal` (remembers everything)
(contract 03 §2.1, §2.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec

from lash_cli.core.codec import Record, decode, decode_any, encode, from_builtins_any, tag_of
from lash_cli.core.effect import (
    AwaitEventCommand,
    CheckpointCommand,
    CheckpointOutcome,
    EffectCommand,
    EffectEnvelope,
    EffectOutcome,
    LlmCallCommand,
    LlmCallOutcome,
    PeekAwaitEventCommand,
    SleepCommand,
    SleepOutcome,
    ToolAttemptCommand,
    ToolAttemptOutcome,
    ToolHookCommand,
    ToolHookOutcome,
    ValueOutcome,
)
from lash_cli.core.protocols import Clock
from lash_cli.core.wait import Resolution
from lash_cli.errors import EffectError

MS_PER_S = 1000

_OUTCOME_OF: dict[type[EffectCommand], type[EffectOutcome]] = {
    LlmCallCommand: LlmCallOutcome,
    ToolAttemptCommand: ToolAttemptOutcome,
    ToolHookCommand: ToolHookOutcome,
    CheckpointCommand: CheckpointOutcome,
    SleepCommand: SleepOutcome,
    AwaitEventCommand: ValueOutcome,
    PeekAwaitEventCommand: ValueOutcome,
}


class RecordedError(Record):
    """An `EffectError` as the journal keeps it."""

    code: str
    message: str
    retryable: bool = False
    details: dict[str, Any] = {}


def due_at_ms(envelope: EffectEnvelope, now_ms: int) -> int | None:
    """When a sleep that starts now is over; None for every other command."""
    command = envelope.command
    return now_ms + command.duration_ms if isinstance(command, SleepCommand) else None


def require_outcome_kind(command: EffectCommand, outcome: EffectOutcome) -> None:
    """Raise `EffectError` (`runtime_effect_wrong_outcome`) when an outcome does not answer its command."""
    if not isinstance(outcome, _OUTCOME_OF[type(command)]):
        raise EffectError("runtime_effect_wrong_outcome", f"{tag_of(command)} was answered by {type(outcome).__name__}")


def encode_outcome(outcome: EffectOutcome) -> bytes:
    """Canonical bytes of an outcome; raises `TypeError` when a value in it is not JSON."""
    return encode(outcome)


def decode_outcome(data: bytes, command: EffectCommand) -> EffectOutcome:
    """The outcome of `command`; raises `msgspec.DecodeError` when the bytes are not one."""
    outcome: EffectOutcome = decode_any(data, _OUTCOME_OF[type(command)])
    return outcome


def encode_error(error: EffectError) -> bytes:
    """Canonical bytes of an error; details that are not JSON are left out rather than losing the error."""
    try:
        return encode(RecordedError(error.code, error.message, error.retryable, error.details))
    except TypeError:
        return encode(RecordedError(error.code, error.message, error.retryable))


def decode_error(data: bytes) -> EffectError:
    """The error to raise again; raises `msgspec.DecodeError` when the bytes are not one."""
    recorded = decode(data, RecordedError)
    return EffectError(recorded.code, recorded.message, retryable=recorded.retryable, details=recorded.details)


async def first_of(*waits: Awaitable[Any] | None) -> None:
    """Return when the first of `waits` is done, after ending the others; None entries are skipped.

    The first exception among the finished ones is raised. Cancelling the
    caller cancels all of them.
    """
    tasks = [asyncio.ensure_future(wait) for wait in waits if wait is not None]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def sleep_until(clock: Clock, due_at_ms: int) -> None:
    """Return at `due_at_ms`, also where the clock was set back meanwhile."""
    while (remaining_ms := due_at_ms - clock.now_ms()) > 0:
        await clock.sleep(remaining_ms / MS_PER_S)


def resolution_of(outcome: EffectOutcome) -> Resolution | None:
    """The resolution inside the outcome of an await or a peek.

    Raises `EffectError` (`runtime_effect_wrong_outcome`) when there is none of
    that shape.
    """
    if not isinstance(outcome, ValueOutcome):
        raise EffectError("runtime_effect_wrong_outcome", f"{type(outcome).__name__} holds no resolution")
    if outcome.value is None:
        return None
    try:
        resolution: Resolution = from_builtins_any(outcome.value, Resolution)
    except msgspec.ValidationError as error:
        raise EffectError("runtime_effect_wrong_outcome", f"not a resolution: {error}") from error
    return resolution
