"""Effects: what a turn reaches out for, identified so that a replay finds it (contract 03 §2).

An envelope is an invocation and a command. Its replay key is a function of
durable identity only, never of a clock or a random number; its canonical hash
tells a replay from a divergence. Values of a divergence are never shown, only
the paths where it happened.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from lash_cli.core.activity import PluginRuntime
from lash_cli.core.codec import Record, encode, sha256_hex
from lash_cli.core.content import Message
from lash_cli.core.graph import CausalRef
from lash_cli.core.ingress import Boundary, TurnInputCompletion
from lash_cli.core.llm import LlmCallResult
from lash_cli.core.queued_work import QueuedWorkCompletion
from lash_cli.core.tool_definition import ToolExecutionGrant
from lash_cli.core.tools import PendingCompletion, ToolCall, ToolCallOutput
from lash_cli.errors import EffectDiverged, EffectError

MAX_DIVERGENT_PATHS = 8


class TurnScope(Record, tag="turn", tag_field="type"):
    """One turn of one session."""

    session_id: str
    turn_id: str


class ProcessScope(Record, tag="process", tag_field="type"):
    """One background process."""

    process_id: str


class QueueDrainScope(Record, tag="queue_drain", tag_field="type"):
    """One pass over a session's queue."""

    session_id: str
    drain_id: str


class SessionDeleteScope(Record, tag="session_delete", tag_field="type"):
    """The deletion of a session."""

    session_id: str


class RuntimeOperationScope(Record, tag="runtime_operation", tag_field="type"):
    """A host operation outside any session."""

    operation_id: str


ExecutionScope = TurnScope | ProcessScope | QueueDrainScope | SessionDeleteScope | RuntimeOperationScope


def scope_session_id(scope: ExecutionScope) -> str | None:
    """The session a scope belongs to, if any."""
    match scope:
        case TurnScope(session_id=session_id) | QueueDrainScope(session_id=session_id):
            return session_id
        case SessionDeleteScope(session_id=session_id):
            return session_id
        case _:
            return None


def validate_scope(scope: ExecutionScope) -> None:
    """Raise `EffectError` (`missing_execution_scope_id`) when any id of the scope is blank."""
    if not all(map(str.strip, msgspec.structs.astuple(scope))):
        raise EffectError("missing_execution_scope_id", f"execution scope has a blank id: {type(scope).__name__}")


def scope_key(scope: ExecutionScope) -> str:
    """The journal identity of a scope: canonical JSON of all of it, so equal turn ids of two sessions differ."""
    validate_scope(scope)
    return encode(scope).decode()


class LlmCallCommand(Record, tag="llm_call", tag_field="kind"):
    """A model call, by digest: the committed prefix is named, not repeated, so the envelope stays small.

    `base` names the prefix (frame, leaf, length), `tail` holds the SHA-256 of
    each message since, and `shape` of everything else the wire would carry.
    """

    provider_id: str
    model: str
    base: str
    tail: tuple[str, ...]
    shape: str


class ToolAttemptCommand(Record, tag="tool_attempt", tag_field="kind"):
    """One attempt of one call; `grant` is what it is made under when its tool is not in the catalogue."""

    call: ToolCall
    attempt: int
    max_attempts: int
    grant: ToolExecutionGrant | None = None


class ToolHookCommand(Record, tag="tool_hook", tag_field="kind"):
    """What the hooks make of a call, at one point of it. Which hooks there are is not part of it: a turn that goes on
    in a core with other ones keeps what was decided."""

    point: Literal["before", "after", "project"]
    call_id: str
    tool_name: str


class CheckpointCommand(Record, tag="checkpoint", tag_field="kind"):
    """A boundary at which queued input may enter the turn."""

    checkpoint: Boundary


# The longest a turn waits: for ever, as far as anybody can tell. When it ends is a moment that 64 bits can hold.
MAX_WAIT_MS: Final = 2**53


class SleepCommand(Record, tag="sleep", tag_field="kind"):
    """A durable delay."""

    duration_ms: int


class AwaitEventCommand(Record, tag="await_event", tag_field="kind"):
    """A durable wait for a key."""

    key_id: str


class PeekAwaitEventCommand(Record, tag="peek_await_event", tag_field="kind"):
    """A journalled look at a key."""

    key_id: str


EffectCommand = (
    LlmCallCommand
    | ToolAttemptCommand
    | ToolHookCommand
    | CheckpointCommand
    | SleepCommand
    | AwaitEventCommand
    | PeekAwaitEventCommand
)


class LlmCallOutcome(Record, tag="llm_call", tag_field="kind"):
    """The ladder's result, attempts included."""

    result: LlmCallResult


class ToolAttemptOutcome(Record, tag="tool_attempt", tag_field="kind"):
    """What one attempt produced and how long it took; without an `output` the call is `pending`, and `deadline_ms`
    (epoch, None without end) is when it is waited for no longer."""

    output: ToolCallOutput | None
    duration_ms: int = 0
    pending: PendingCompletion | None = None
    deadline_ms: int | None = None


class ToolHookOutcome(Record, tag="tool_hook", tag_field="kind"):
    """What was decided: the arguments or the result put in place of those there were, the text that the model reads,
    the messages it reads behind the batch, and the events to be shown. What is None stays as it was."""

    args: dict[str, Any] | None = None
    output: ToolCallOutput | None = None
    projection: str | None = None
    messages: tuple[Message, ...] = ()
    events: tuple[PluginRuntime, ...] = ()


class CheckpointOutcome(Record, tag="checkpoint", tag_field="kind"):
    """What entered the turn, and the claims its commit settles; a replay needs both (contract 02 §5)."""

    messages: tuple[Message, ...] = ()
    inputs: TurnInputCompletion | None = None
    work: QueuedWorkCompletion | None = None
    causes: tuple[CausalRef, ...] = ()


class SleepOutcome(Record, tag="sleep", tag_field="kind"):
    """The delay passed."""


class ValueOutcome(Record, tag="value", tag_field="kind"):
    """Any other JSON result."""

    value: Any = None


EffectOutcome = LlmCallOutcome | ToolAttemptOutcome | ToolHookOutcome | CheckpointOutcome | SleepOutcome | ValueOutcome


class EffectInvocation(Record):
    """Who runs the effect: its scope, its id within it, its cause and its replay key."""

    scope: ExecutionScope
    effect_id: str
    replay_key: str
    caused_by: str | None = None


class EffectEnvelope(Record):
    """An effect as the host sees it."""

    invocation: EffectInvocation
    command: EffectCommand


def turn_replay_key(turn_index: int, iteration: int, kind: str, effect_id: int) -> str:
    """`{turn_index}:{iteration}:{kind}:{effect_id}`: session and turn are in the key of the scope already."""
    return f"{turn_index}:{iteration}:{kind}:{effect_id}"


def iteration_replay_prefix(turn_index: int, iteration: int) -> str:
    """What every replay key of one iteration of a turn begins with."""
    return f"{turn_index}:{iteration}:"


def child_replay_key(parent: str, suffix: str) -> str:
    """The key of an effect inside another one."""
    return f"{parent}:{suffix}"


def validate_envelope(envelope: EffectEnvelope, scope: ExecutionScope) -> None:
    """Raise `EffectError` with the contract's code when the envelope cannot be journalled in `scope`, whose own ids
    were looked at when it was opened (contract 03 §2.2)."""
    invocation = envelope.invocation
    if invocation.scope != scope:
        validate_scope(invocation.scope)
        raise EffectError("runtime_effect_scope_mismatch", "an effect was issued through the host of another scope")
    if not invocation.effect_id.strip():
        raise EffectError("runtime_effect_invocation_subject", "an effect needs a non-blank effect id")
    if not invocation.replay_key.strip():
        raise EffectError("runtime_effect_replay_required", "an effect needs a non-blank replay key")
    if isinstance(envelope.command, ToolAttemptCommand):
        command = envelope.command
        if not command.call.call_id.strip():
            raise EffectError("runtime_effect_tool_attempt_call_id", "a tool attempt needs a call id")
        if not 1 <= command.attempt <= command.max_attempts:
            raise EffectError(
                "runtime_effect_tool_attempt_index",
                f"attempt {command.attempt} is outside 1..{command.max_attempts}",
            )


class CanonicalEnvelope(msgspec.Struct, frozen=True):
    """Canonical bytes of an envelope and their SHA-256."""

    json: bytes
    hash: str


def canonical(envelope: EffectEnvelope) -> CanonicalEnvelope:
    """The canonical form of a validated envelope."""
    data = encode(envelope)
    return CanonicalEnvelope(data, sha256_hex(data))


def divergent_paths(stored: Any, rebuilt: Any, path: str = "") -> list[str]:
    """Structural paths at which two JSON values differ, in document order, without values."""
    if isinstance(stored, list) and isinstance(rebuilt, list):
        place = "{path}[{key}]"
        stored, rebuilt = dict(enumerate(stored)), dict(enumerate(rebuilt))
    elif isinstance(stored, dict) and isinstance(rebuilt, dict):
        place = "{path}.{key}" if path else "{key}"
    else:
        return [] if stored == rebuilt and type(stored) is type(rebuilt) else [path or "$"]
    found: list[str] = []
    for key in sorted({*stored, *rebuilt}):
        inner = place.format(path=path, key=key)
        if key in stored and key in rebuilt:
            found += divergent_paths(stored[key], rebuilt[key], inner)
        else:
            found.append(inner)
    return found


def mismatch_error(code: str, stored: CanonicalEnvelope, rebuilt: CanonicalEnvelope) -> EffectError:
    """The error of a replay whose envelope differs (contract 03 §2.4). Values never appear in it."""
    try:
        paths = divergent_paths(msgspec.json.decode(stored.json), msgspec.json.decode(rebuilt.json))
    except msgspec.DecodeError:
        return EffectError("runtime_effect_envelope_canonical_decode", "a stored effect envelope does not decode")
    if sha256_hex(stored.json) != stored.hash or not paths:
        return EffectError(
            "runtime_effect_envelope_canonical_hash_invariant",
            "a stored effect envelope does not match its own hash",
            details={"stored_hash": stored.hash, "rebuilt_hash": rebuilt.hash},
        )
    shown = paths[:MAX_DIVERGENT_PATHS]
    error = EffectDiverged(
        code,
        f"replayed effect differs from the recorded one at {', '.join(shown)}",
        details={
            "stored_hash": stored.hash,
            "rebuilt_hash": rebuilt.hash,
            "divergent_path_count": len(paths),
            "first_divergent_paths": shown,
        },
    )
    error.stored, error.rebuilt = stored.json, rebuilt.json
    return error
