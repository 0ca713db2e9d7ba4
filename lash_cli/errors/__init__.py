"""The whole exception tree of lash on one page (contract 01 §16, 08 §6.2 and §6.4).

Every error a caller can meet is one of these classes. A class carries what a
script needs without parsing text: a stable `code`, the `exit_status` of the
`lash` command, whether a retry is safe (`retryable`), whether the effect may
have happened all the same (`ambiguous`), whether no retry can help
(`terminal`) and a `hint` naming the next step.

LashError
├── UsageError              2   usage, session_ambiguous, empty_prompt, stdin_timeout, not_a_tty, …
│   ├── InvalidQueuedWorkBatch  2
│   ├── SessionCursorError  2   cursor_invalid: Malformed, WrongSession
│   └── RemoteProtocolError 2   remote_protocol: versions and shapes of envelopes
├── NotFoundError           3   session_not_found, turn_unknown, …
│   └── SessionNotFound, SessionDeleted
├── ConflictError           4   session_exists, source_key_conflict, no_active_turn, revision_conflict
│   ├── HeadRevisionConflict, RuntimeTurnCommitConflict, PendingTurnInputSourceKeyConflict
│   └── StoreSessionMismatch, SessionBindingMismatch, SessionClosed, QueueHeld, ReconfigureError
├── ConfigError             5   config_invalid, provider_unconfigured, key_missing, permissions_unsafe, …
│   ├── StoreReadOnly       5   permissions_unsafe
│   ├── TooManyOpenFiles    5   too_many_open_files
│   └── ProviderUnconfigured, PluginRegistrationError
├── TurnStoppedError        6   turn_stopped:{…}
├── ProviderFailed          6   quota_exhausted, model_not_found, …: a provider's own no, outside of a turn
├── TurnCancelledError      7   turn_cancelled
├── PartialOutcomeError     8   partial_outcome
├── StoreError              1   store_commit_failed (ambiguous)
│   ├── StoreUnusable       9   store_corrupt, schema_too_new, store_replaced
│   │                           CorruptNode, MissingCheckpointComponent
│   ├── StoreLocked         75  store_locked
│   ├── StoreClosed         1   store_closed, store_forked
│   └── QueuedWorkClaimSuperseded, TurnInputClaimSuperseded, Unsettled*Claim, TurnCancelWon
├── BusyError               75  retry is safe
│   ├── SessionExecutionBusy, SessionStillInUse
│   └── ProviderUnavailable, ProviderRateLimited
├── SessionExecutionLeaseExpired  75  session_execution_lease_lost (ambiguous)
├── WaitTimeout             124
├── LashRuntimeError        1   an open set of codes (contract 01 §16)
│   ├── ProviderMismatch    1   llm_provider
│   ├── PluginInvokeError   1   context_prepare_turn, context_compact
│   ├── DirectCompletionError 1 invalid_request, invalid_structured_output, or the provider's code
│   └── LiveReplayError     1   live_replay: SubscriberLagged, LiveReplayClosed (3 when the session was deleted)
├── EffectError             1   journal faults and replayed effect failures (contract 03 §2)
│   ├── EffectDiverged      1   a replayed effect is not the recorded one
│   └── JournalFault        1   the journal itself failed; never recorded
└── LlmTransportError       –   one failed model attempt; never leaves the provider layer unrecorded

Across these families, as a second parent, stands whose matter an error is:

SessionError    SessionNotFound, SessionDeleted, SessionClosed, StoreSessionMismatch, SessionBindingMismatch, QueueHeld,
                SessionExecutionBusy, SessionStillInUse, SessionExecutionLeaseExpired, ProviderMismatch,
                ProviderUnconfigured
PluginError     PluginRegistrationError, PluginInvokeError
"""

from __future__ import annotations

from errno import EMFILE, ENFILE
from typing import TYPE_CHECKING, Any, ClassVar, Final

# What no repetition of the same call can get past, whatever class it is raised as: how the core is wired or which turn
# the call names is wrong (contract 01 §16).
_TERMINAL_CODES: Final = frozenset(
    (
        "missing_execution_scope_id",
        "execution_scope_turn_id_mismatch",
        "missing_process_execution_id",
        "missing_session_store_factory",
        "llm_provider",
    )
)
_TERMINAL_FAMILIES: Final = ("durable_store_required:", "durable_effect_live_")


class LashError(Exception):
    """Root of every error lash raises on purpose.

    `message` is for people and may change; `code` is the contract. `details`
    must be JSON-able and must never hold a key or a prompt. SESSION in a
    default hint becomes the id that `details["session"]` tells, so that the
    command it names can be typed as it stands; where none is told, the
    `sessionless_hint` is given instead, if there is one.
    """

    default_code: ClassVar[str] = "internal"
    exit_status: int = 1
    retryable: bool = False
    ambiguous: bool = False
    terminal: bool = False
    default_hint: ClassVar[str | None] = None
    sessionless_hint: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        if self.code in _TERMINAL_CODES or self.code.startswith(_TERMINAL_FAMILIES):
            self.terminal = True
        self.details: dict[str, Any] = details or {}
        self.hint = hint if hint is not None else self._default_hint()

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is, whatever its class is made from: a copy, or what comes out of another process, is no new error."""
        return _again, (type(self), self.args), vars(self)

    def _default_hint(self) -> str | None:
        if self.default_hint is None or "SESSION" not in self.default_hint:
            return self.default_hint
        session = self.details.get("session")
        if not isinstance(session, str):
            return self.sessionless_hint or self.default_hint
        return self.default_hint.replace("SESSION", session)

    def happened_in(self, session_id: str) -> None:
        """Fill in the session that its own hint leaves open, for whoever knows which one it is."""
        leaves_open = self.default_hint is not None and "SESSION" in self.default_hint and "session" not in self.details
        if leaves_open and self.hint == self._default_hint():
            self.details = {**self.details, "session": session_id}
            self.hint = self._default_hint()


def _again(kind: type[LashError], args: tuple[object, ...]) -> LashError:
    """An error that is still to be told what it is: `pickle` and `copy` do that."""
    return kind.__new__(kind, *args)


class SessionError(LashError):
    """Something is the matter with one session: it is gone, in use, closed, or its provider cannot be used (contract 01
    §16). What a program can do about it says the other parent of each class, and `code`."""


class PluginError(LashError):
    """Code that a host plugged in is at fault, not lash and not the session (contract 01 §16)."""


class UsageError(LashError):
    """The command or call was malformed; nothing was done."""

    default_code = "usage"
    exit_status = 2


class InvalidQueuedWorkBatch(UsageError):
    """A batch of queued work that no claim could ever use (contract 02 §3.1); nothing was stored."""

    default_code = "invalid_queued_work_batch"
    terminal = True


class SessionCursorError(UsageError):
    """A session cursor that cannot be used; nothing was read (contract 04 §1)."""

    default_code = "cursor_invalid"
    terminal = True
    default_hint = "start again from what is now: lash tail SESSION --from now"


class SessionCursorMalformed(SessionCursorError):
    """The token is not a cursor; the message names the part that is wrong."""


class SessionCursorWrongSession(SessionCursorError):
    """The cursor belongs to another session."""

    def __init__(self, expected_session_id: str, actual_session_id: str) -> None:
        super().__init__(
            f"the cursor belongs to session {actual_session_id!r}, not to {expected_session_id!r}",
            details={"expected_session_id": expected_session_id, "actual_session_id": actual_session_id},
        )
        self.expected_session_id = expected_session_id
        self.actual_session_id = actual_session_id


class NotFoundError(LashError):
    """The thing named does not exist."""

    default_code = "session_not_found"
    exit_status = 3


class SessionNotFound(NotFoundError, SessionError):
    """No session has this id."""

    default_hint = "list them with: lash ls; make one with: lash open"


class SessionDeleted(NotFoundError, SessionError):
    """The session id was deleted; ids are used once (contract 01 §1.4)."""

    default_code = "session_deleted"
    terminal = True
    default_hint = "session ids are never reused; open a session under another id"


class ConflictError(LashError):
    """The request contradicts the current state; nothing was changed."""

    default_code = "revision_conflict"
    exit_status = 4


class HeadRevisionConflict(ConflictError):
    """The head moved since the commit was prepared (contract 01 §9.2 step 4)."""

    default_code = "revision_conflict"

    def __init__(self, expected: int | None, actual: int | None) -> None:
        super().__init__(
            f"expected head revision {expected}, found {actual}",
            details={"expected": expected, "actual": actual},
        )
        self.expected = expected
        self.actual = actual


class RuntimeTurnCommitConflict(ConflictError):
    """Another content was already committed under this turn id (contract 01 §9.2 step 2)."""

    default_code = "turn_commit_conflict"
    terminal = True


class PendingTurnInputSourceKeyConflict(ConflictError):
    """A source key was reused with a different submission (contract 02 §1.3)."""

    default_code = "source_key_conflict"
    default_hint = "use a new key for changed text, or resend the original text unchanged"


class StoreSessionMismatch(ConflictError, SessionError):
    """The loaded state belongs to another session (contract 01 §2.1)."""

    default_code = "store_session_mismatch"
    terminal = True


class SessionBindingMismatch(ConflictError, SessionError):
    """A store bound to one session was asked about another (contract 01 §9)."""

    default_code = "session_binding_mismatch"
    terminal = True


class SessionClosed(ConflictError, SessionError):
    """The handle, or the session itself, is closed."""

    default_code = "session_closed"
    default_hint = "reopen it with: lash resume SESSION"


class QueueHeld(ConflictError, SessionError):
    """The session's queue is held: nothing is taken from it until it is released (contract 08 §5.2)."""

    default_code = "queue_held"
    default_hint = "let it go on with: lash queue release SESSION"


class ReconfigureError(ConflictError):
    """A tool-surface edit was refused (contract 05 §2.2): Validation, UnknownSource or GenerationMismatch."""

    default_code = "tool_state_invalid"


class GenerationMismatch(ReconfigureError):
    """The tool surface changed since it was exported."""

    default_code = "tool_state_generation_mismatch"
    retryable = True


class ConfigError(LashError):
    """Configuration, credentials or permissions are not usable."""

    default_code = "config_invalid"
    exit_status = 5
    terminal = True


class ProviderUnconfigured(ConfigError, SessionError):
    """The provider a session is recorded with, or one that was named, is not configured (contract 01 §2.4)."""

    default_code = "provider_unconfigured"


class PluginRegistrationError(ConfigError, PluginError):
    """What was plugged in cannot be used as it is: a tool of another shape, or an id that is taken (contract 05 §1)."""

    default_code = "plugin_registration"


class TurnStoppedError(LashError):
    """A turn ran, was committed, and stopped short of an answer."""

    default_code = "turn_stopped:runtime_error"
    exit_status = 6


class ProviderFailed(LashError):
    """A provider was reached and refused for good: no credit, no such model, a request it does not take."""

    default_code = "provider_failed"
    exit_status = 6


class TurnCancelledError(LashError):
    """A turn was cancelled by a recorded request and committed as cancelled."""

    default_code = "turn_cancelled"
    exit_status = 7


class PartialOutcomeError(LashError):
    """A bulk operation was applied to some of its targets."""

    default_code = "partial_outcome"
    exit_status = 8


class StoreError(LashError):
    """The store failed; if a commit was under way its outcome is unknown."""

    default_code = "store_commit_failed"
    ambiguous = True
    default_hint: ClassVar[str | None] = "look before retrying: lash show SESSION"
    sessionless_hint = "look before retrying: lash ls"


class StoreUnusable(StoreError):
    """The database cannot be used at all: corrupt, foreign or newer than this program."""

    default_code = "store_corrupt"
    exit_status = 9
    ambiguous = False
    terminal = True
    default_hint = "read all of it and see what is wrong: lash db check"


class StoreLocked(StoreError):
    """Another connection held the write lock beyond the busy timeout; nothing was written."""

    default_code = "store_locked"
    exit_status = 75
    retryable = True
    ambiguous = False
    default_hint = "another process is writing; try again"


class StoreClosed(StoreError):
    """The store was closed before, here or by the fork that made this process; nothing was done, unless it is
    ambiguous: then a turn was under way, which whoever uses its session next finishes."""

    default_code = "store_closed"
    ambiguous = False
    default_hint = None


class StoreReadOnly(ConfigError):
    """The database or its directory cannot be written."""

    default_code = "permissions_unsafe"


class TooManyOpenFiles(ConfigError):
    """This process may not open one file more; what needed one was not done."""

    default_code = "too_many_open_files"
    default_hint = "let it have more files open, for example: ulimit -n 256"

    @classmethod
    def behind(cls, error: Exception) -> TooManyOpenFiles | None:
        """`error` as one of these when nothing else is at the bottom of it, whatever it was taken for; else None.

        An error that leaves open whether something was done stays what it is.
        """
        cause: BaseException | None = error
        # What is raised again because of itself is at the bottom of itself.
        seen: list[BaseException] = []
        while cause is not None and cause not in seen and not getattr(cause, "ambiguous", False):
            seen.append(cause)
            if isinstance(cause, cls):
                return cause
            # A module in machine code is opened by the system's loader, which has these words for it and no number.
            is_one = isinstance(cause, OSError) and cause.errno in (EMFILE, ENFILE)
            if is_one or (isinstance(cause, ImportError) and "Too many open files" in str(cause)):
                name = getattr(cause, "filename", None)
                told = cls("too many open files" if name is None else f"{name} cannot be opened: too many open files")
                told.__cause__ = error
                return told
            cause = cause.__cause__
        return None


class CorruptNode(StoreUnusable):
    """A stored node does not decode; it is never skipped silently (contract 01 §14)."""


class MissingCheckpointComponent(StoreUnusable):
    """A checkpoint names a blob that is absent (contract 01 §14)."""


class QueuedWorkClaimSuperseded(StoreError):
    """The claim no longer owns its batches; the commit changed nothing (contract 02 §5)."""

    default_code = "queued_work_claim_superseded"
    ambiguous = False


class TurnInputClaimSuperseded(StoreError):
    """The claim no longer owns its inputs; the commit changed nothing (contract 02 §5)."""

    default_code = "turn_input_claim_superseded"
    ambiguous = False


class UnsettledQueuedWorkClaim(StoreError):
    """A commit omits a batch claim its turn was built from: an engine bug (contract 01 §9.2)."""

    default_code = "unsettled_queued_work_claim"
    ambiguous = False


class UnsettledTurnInputClaim(StoreError):
    """A commit omits an input claim its turn was built from: an engine bug (contract 01 §9.2)."""

    default_code = "unsettled_turn_input_claim"
    ambiguous = False


class TurnCancelWon(StoreError):
    """A cancel request reached the gate before completion; the commit changed nothing.

    `details["evidence"]` is the request that won. The turn must be committed
    as cancelled with that evidence (contract 01 §6.6).
    """

    default_code = "turn_cancel_won"
    ambiguous = False


class BusyError(LashError):
    """Nothing was written; the same call may succeed later."""

    default_code = "session_execution_busy"
    exit_status = 75
    retryable = True


class SessionExecutionBusy(BusyError, SessionError):
    """Another owner holds the session's lane (contract 01 §5.4 step 2). `details["holder"]` names it."""

    default_code = "session_execution_busy"
    default_hint = "wait for its end: lash wait SESSION, or stop it: lash cancel SESSION --wait"


class SessionStillInUse(BusyError, SessionError):
    """Another handle or a running turn shares the runtime; the session stays usable (contract 01 §4.2)."""

    default_code = "session_still_in_use"
    default_hint = "finish or cancel the running turn first: lash cancel SESSION --wait"


class ProviderUnavailable(BusyError):
    """The model provider could not be reached or is overloaded."""

    default_code = "provider_unavailable"


class ProviderRateLimited(BusyError):
    """The model provider asked us to slow down."""

    default_code = "provider_rate_limited"


class SessionExecutionLeaseExpired(SessionError):
    """The fence is dead: the store refused the write, or the lane was lost (contract 01 §13)."""

    default_code = "session_execution_lease_lost"
    exit_status = 75
    ambiguous = True
    default_hint = "look before retrying: lash show SESSION"


class WaitTimeout(LashError):
    """A time limit given by the caller passed."""

    default_code = "wait_timeout"
    exit_status = 124


class LashRuntimeError(LashError):
    """A runtime fault with an open set of codes (contract 01 §16, RuntimeErrorCode)."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint, details=details)


class ProviderMismatch(LashRuntimeError, SessionError):
    """A session is recorded with another provider than the one that is wired (contract 01 §2.4)."""

    default_code = "llm_provider"

    def __init__(self, recorded: str, wired: str) -> None:
        super().__init__(
            self.default_code,
            f"the session was recorded with provider {recorded!r}, but {wired!r} is wired",
            hint="choose the provider again with configure(), or wire the recorded one",
            details={"recorded": recorded, "wired": wired},
        )
        self.recorded = recorded
        self.wired = wired


class PluginInvokeError(LashRuntimeError, PluginError):
    """A plugin failed when it was called: `context_prepare_turn`, `context_compact`. `details["plugin"]` names it."""

    def __init__(self, code: str, message: str, *, plugin_id: str) -> None:
        super().__init__(code, message, details={"plugin": plugin_id})
        self.plugin_id = plugin_id


class DirectCompletionError(LashRuntimeError):
    """A completion outside a turn failed (contract 06 §15). `record` holds its attempts, None when nothing was sent."""

    default_code = "direct_completion"

    def __init__(self, message: str, *, code: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(code, message, details=details)
        self.record: Any = None


class EffectError(LashError):
    """An effect could not be executed, replayed or recorded (contract 03 §2.2, §2.4, §2.6)."""

    default_code = "runtime_effect_failed"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.retryable = retryable


class EffectDiverged(EffectError):
    """A replayed effect is not the recorded one (contract 03 §2.4). `stored` and `rebuilt` are the canonical envelopes,
    for an extended trace: their values stand in no message."""

    stored: bytes = b""
    rebuilt: bytes = b""


class JournalFault(EffectError):
    """The journal itself failed (lease lost, store gone). Never recorded as an outcome (design D5)."""


class LlmTransportError(LashError):
    """One model attempt failed (contract 06 §1). The retry ladder turns it into an attempt record.

    `kind` is one of transport, timeout, http, stream, auth, validation, quota,
    unsupported, unknown. `retry_after_ms` is what the provider asked for.
    `partial` is whatever was assembled before the failure (an `LlmResponse`),
    kept as evidence and never shown as an answer.
    """

    default_code = "llm_provider"

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        code: str | None = None,
        status: int | None = None,
        retryable: bool = False,
        retry_after_ms: int | None = None,
        terminal_reason: str = "provider_error",
        protocol_position: str = "no_response",
        partial: Any = None,
        raw: str | None = None,
    ) -> None:
        super().__init__(message, code=code or kind)
        self.kind = kind
        self.status = status
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.terminal_reason = terminal_reason
        self.protocol_position = protocol_position
        self.partial = partial
        self.raw = raw


if TYPE_CHECKING:
    from lash_cli.errors.observing import LiveReplayClosed as LiveReplayClosed
    from lash_cli.errors.observing import LiveReplayError as LiveReplayError
    from lash_cli.errors.observing import SubscriberLagged as SubscriberLagged
    from lash_cli.errors.remote import ActivitySerialization as ActivitySerialization
    from lash_cli.errors.remote import ActivityWrite as ActivityWrite
    from lash_cli.errors.remote import DuplicateRemoteCallPath as DuplicateRemoteCallPath
    from lash_cli.errors.remote import InvalidAttachmentData as InvalidAttachmentData
    from lash_cli.errors.remote import InvalidAttachmentRef as InvalidAttachmentRef
    from lash_cli.errors.remote import InvalidEnvelope as InvalidEnvelope
    from lash_cli.errors.remote import InvalidToolGrant as InvalidToolGrant
    from lash_cli.errors.remote import MismatchedNestedProtocolVersion as MismatchedNestedProtocolVersion
    from lash_cli.errors.remote import MissingRequiredField as MissingRequiredField
    from lash_cli.errors.remote import MissingToolBinding as MissingToolBinding
    from lash_cli.errors.remote import RemoteProtocolError as RemoteProtocolError
    from lash_cli.errors.remote import RemoteToolRegistryReopenMismatch as RemoteToolRegistryReopenMismatch
    from lash_cli.errors.remote import UnsupportedProtocolVersion as UnsupportedProtocolVersion
else:

    def __getattr__(name: str) -> Any:
        """An error of a part of the tree that most commands never need; raises `AttributeError` for anything else."""
        if name[0] != "_":
            from importlib import import_module

            for part in ("observing", "remote"):
                kind = vars(import_module(f"lash_cli.errors.{part}")).get(name)
                if isinstance(kind, type) and issubclass(kind, LashError):
                    return kind
        raise AttributeError(f"module 'lash_cli.errors' has no attribute {name!r}")
