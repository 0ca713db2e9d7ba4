"""Durable waits: promises resolved once by whoever comes first (contract 03 §3).

A key is minted purely from its scope and identity and signed, so it is a
capability that can cross processes. `judge_resolve` and `is_swept` are the
rules every backend applies to the state of a key.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from lash_cli.core.codec import Record, encode, has_non_number, reread, sha256_hex
from lash_cli.core.effect import ExecutionScope, validate_scope
from lash_cli.errors import EffectError, UsageError


class ToolCompletionWait(Record, tag="tool_completion", tag_field="kind"):
    """The outside completes a pending tool call."""

    tool_call_id: str


class ProcessSignalWait(Record, tag="process_signal", tag_field="kind"):
    """The `ordinal`-th signal of a name, from 1."""

    process_id: str
    signal_name: str
    ordinal: int


class TurnCancelGateWait(Record, tag="turn_cancel_gate", tag_field="kind"):
    """Cancel request or completion, whichever is first."""


class TurnTerminalWait(Record, tag="turn_terminal", tag_field="kind"):
    """How the turn ended."""


class CustomWait(Record, tag="custom", tag_field="kind"):
    """A host's own promise."""

    key: str


WaitIdentity = ToolCompletionWait | ProcessSignalWait | TurnCancelGateWait | TurnTerminalWait | CustomWait


class AwaitEventKey(Record):
    """A signed capability to resolve or await one promise."""

    scope: ExecutionScope
    wait: WaitIdentity
    key_id: str
    signature: str


class ResolvedOk(Record, tag="ok", tag_field="status"):
    """Resolved with a value."""

    payload: Any = None


class ResolvedErr(Record, tag="err", tag_field="status"):
    """Resolved with an error."""

    code: str
    message: str
    raw: Any = None


class ResolvedTimeout(Record, tag="timeout", tag_field="status"):
    """The waiter's deadline passed."""


class ResolvedCancelled(Record, tag="cancelled", tag_field="status"):
    """The wait was cancelled."""


Resolution = ResolvedOk | ResolvedErr | ResolvedTimeout | ResolvedCancelled


class ResolveOutcome(Record):
    """What a resolver learns; `terminal` is the value that stands when somebody else was first."""

    kind: Literal["accepted", "already_resolved", "unknown_or_revoked"]
    terminal: Resolution | None = None


class WaitState(StrEnum):
    """State of one key."""

    MISSING = "missing"
    PENDING = "pending"
    RESOLVED = "resolved"
    REVOKED = "revoked"


def is_turn_control(wait: WaitIdentity) -> bool:
    """Whether the promise controls a turn: such a promise is never poisoned by a waiter or a sweep."""
    return isinstance(wait, TurnCancelGateWait | TurnTerminalWait)


def validate_identity(wait: WaitIdentity) -> None:
    """Raise `EffectError` (`invalid_await_event_wait_identity`) for blank or zero parts."""
    for name in wait.__struct_fields__:
        value = getattr(wait, name)
        if (isinstance(value, str) and not value.strip()) or (isinstance(value, int) and value < 1):
            raise EffectError("invalid_await_event_wait_identity", f"{name} of a wait must not be blank or zero")


def _key_id(scope: ExecutionScope, wait: WaitIdentity) -> str:
    return sha256_hex(encode((scope, wait)))


def _signature(secret: bytes, scope: ExecutionScope, wait: WaitIdentity, key_id: str) -> str:
    import hashlib  # both load a cryptographic library; who only reads signs nothing (design D16)
    import hmac

    return hmac.new(secret, encode((scope, wait, key_id)), hashlib.sha256).hexdigest()


def mint(secret: bytes, scope: ExecutionScope, wait: WaitIdentity) -> AwaitEventKey:
    """The key of a promise. Pure: equal arguments give the equal key, and nothing is written."""
    validate_scope(scope)
    validate_identity(wait)
    key_id = _key_id(scope, wait)
    return AwaitEventKey(scope, wait, key_id, _signature(secret, scope, wait, key_id))


def is_authentic(secret: bytes, key: AwaitEventKey) -> bool:
    """Whether a key was minted with `secret` and not altered; compared in constant time."""
    genuine = _is_equal(key.signature, _signature(secret, key.scope, key.wait, key.key_id))
    return genuine and _is_equal(key.key_id, _key_id(key.scope, key.wait))


def _is_equal(given: str, own: str) -> bool:
    import hmac

    # Bytes, because compare_digest raises on text outside ASCII, which a forger is free to send.
    return hmac.compare_digest(given.encode(errors="surrogatepass"), own.encode())


def unknown_or_revoked() -> EffectError:
    """The error of a forged key or a revoked session; it does not say which."""
    return EffectError("await_event_unknown_or_revoked", "this wait is unknown or was revoked")


def readable_resolution(resolution: Resolution) -> Resolution:
    """What somebody offers to a promise, as its waiter will read it. Raises `UsageError`
    (`invalid_await_event_resolution`) for what it could not read: the first resolution stands, so nobody could put
    another one in its place."""
    try:
        kept: Resolution = reread(resolution, Resolution)
    except ValueError as error:
        raise _no_resolution(str(error)) from error
    if has_non_number(resolution):
        raise _no_resolution("it has NaN or Infinity, which JSON cannot hold")
    return kept


def require_wait_key(given: object) -> None:
    """Raise `UsageError` (`invalid_await_event_resolution`) for what is no key of a wait, such as one that was read as
    plain JSON."""
    if not isinstance(given, AwaitEventKey):
        raise UsageError(
            f"a wait is resolved by its AwaitEventKey, not by {type(given).__name__}",
            code="invalid_await_event_resolution",
            hint="one that was kept as JSON is decoded as what it is: type=AwaitEventKey",
        )


def _no_resolution(why: str) -> UsageError:
    return UsageError(f"that cannot resolve a wait: {why}", code="invalid_await_event_resolution")


def judge_resolve(state: WaitState, stored: Resolution | None) -> ResolveOutcome:
    """The rule of `resolve`: the first one wins, the others are told what stands."""
    match state:
        case WaitState.MISSING | WaitState.PENDING:
            return ResolveOutcome("accepted")
        case WaitState.RESOLVED:
            return ResolveOutcome("already_resolved", stored)
        case _:
            return ResolveOutcome("unknown_or_revoked")


def is_swept(wait: WaitIdentity, state: WaitState) -> bool:
    """Whether a session-wide cancel sweep resolves this wait: pending ones, except turn control."""
    return state is WaitState.PENDING and not is_turn_control(wait)
