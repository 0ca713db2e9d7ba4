"""What a turn's outcome means for a script: the error, and with it the exit status (contract 08 §6.4).

One source of truth for every verb that runs a turn. A turn that ran, was
committed and stopped is still a failure of the command: stdout stays empty and
the error carries the turn in `details.turn`.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from lash_cli.core.outcome import Stopped, StopReason, TurnIssue, TurnResult
from lash_cli.errors import (
    ConfigError,
    LashError,
    ProviderRateLimited,
    ProviderUnavailable,
    TurnCancelledError,
    TurnStoppedError,
    WaitTimeout,
)

if TYPE_CHECKING:
    from lash_cli.cli.next_steps import Steps

# A process that a signal ended has this and the number of the signal as its status.
SIGNAL_EXIT_BASE = 128
CLOSED_STDOUT_EXIT = SIGNAL_EXIT_BASE + 13

# The ladder's code for a failure it may not repeat because output had started. A person may: nothing was executed and
# the turn is committed, so for a script this is a provider that failed.
OUTPUT_STARTED = "unsafe_retry_after_output_started"
_UNREACHABLE = frozenset({"transport", "timeout"})
# What of the environment nothing can be sent with, such as the address of a proxy.
NO_NETWORK = "network_setup_invalid"
# Where a server, or the template of its model, has rules of its own for what may follow what.
CONVERSATION_REFUSED = "conversation_refused"
# Where the reasoning in the conversation was encrypted for somebody else, such as the organisation of an earlier key.
FOREIGN_REASONING = "invalid_encrypted_content"
# The codes of answers that come from somewhere else than an API.
WRONG_ADDRESS = frozenset({"unexpected_html", "unexpected_content_type", "unexpected_redirect"})
# Refusals of our own, before anything is sent: they are for how a model is asked, and nothing said is at fault.
_REFUSED_HERE = frozenset(
    {
        "schema_unrepresentable", "effort_not_configurable", "effort_required", "unsupported_effort",
        "malformed_capability", "reasoning_encoding_unrepresentable", "stored_attachment_not_resolved",
        "empty_conversation", "invalid_request",
    }
)  # fmt: skip
_TRANSIENT = frozenset({"http", "stream", "unknown"})


def interrupted_error(signal_number: int, details: dict[str, Any], *, has_begun: bool = True) -> TurnCancelledError:
    """The turn was cancelled and committed because this process got a signal, or never began as it still waited for
    the session; exits with 128 + the signal."""
    name = signal.Signals(signal_number).name
    became = "the turn was cancelled and committed" if has_begun else "the session was in use, and nothing was sent"
    error = TurnCancelledError(f"{name} received: {became}", details=details)
    error.exit_status = SIGNAL_EXIT_BASE + signal_number
    return error


def turn_error(
    result: TurnResult,
    details: dict[str, Any],
    *,
    provider: str | None = None,
    is_kept: bool = True,
    is_in_chat: bool = False,
) -> LashError | None:
    """The error a finished turn stands for, None when it did what was asked. `details` goes into the error, the name
    of the `provider` into the hint, if it is known. The session of a turn that is not `is_kept` is gone, so that
    nothing can be done about it; what `is_in_chat` is told what to do there."""
    if not isinstance(result.outcome, Stopped):
        return None
    reason = result.outcome.reason
    if reason == "cancelled":
        return TurnCancelledError(_cancel_message(result), details=details)
    from lash_cli.cli.next_steps import chat_steps, shell_steps

    steps = chat_steps(result) if is_in_chat else shell_steps(result, is_kept=is_kept)
    issue = _blocking_issue(result.errors)
    if reason == "provider_error" and issue is not None:
        refined = _provider_error(issue, details, provider, steps)
        if refined is not None:
            return refined
    return TurnStoppedError(
        _stop_message(result.outcome, issue),
        code=f"turn_stopped:{reason}",
        hint=_next_step(reason, issue, provider, steps) or steps.look,
        details=details,
    )


def timeout_error(timeout_text: str, details: dict[str, Any]) -> WaitTimeout:
    """The turn was cancelled because its `--timeout` passed."""
    return WaitTimeout(f"the turn did not finish within {timeout_text} and was cancelled", details=details)


def _blocking_issue(issues: tuple[TurnIssue, ...]) -> TurnIssue | None:
    blocking = [issue for issue in issues if issue.blocking]
    return blocking[-1] if blocking else None


def _provider_error(issue: TurnIssue, details: dict[str, Any], provider: str | None, steps: Steps) -> LashError | None:
    """The provider failures a script treats differently from a turn that merely stopped; None for the others."""
    kind = issue.provider_failure_kind
    if kind == "auth":
        from lash_cli.cli.key_hint import key_hint_of

        return ConfigError(issue.message, code="key_rejected", hint=key_hint_of(provider) + steps.key, details=details)
    if kind == "quota" and issue.retryable:
        return ProviderRateLimited(issue.message, hint=f"wait, then run it again: {steps.again}", details=details)
    if issue.code == OUTPUT_STARTED:
        hint = f"part of the answer had been shown, so it was not asked for again; run it again: {steps.again}"
        said = ProviderRateLimited if kind == "quota" else ProviderUnavailable
        return said(issue.message, hint=hint, details=details)
    if kind == "quota":
        return TurnStoppedError(
            f"the turn stopped (provider_error): {issue.message}",
            code="turn_stopped:provider_error",
            hint="waiting does not help: raise the limit or add credit at the provider, or ask another one:"
            f" {steps.elsewhere}",
            details=details,
        )
    if kind in _UNREACHABLE or (kind in _TRANSIENT and issue.retryable):
        return ProviderUnavailable(issue.message, hint=f"run it again: {steps.again}", details=details)
    return None


def _next_step(reason: StopReason, issue: TurnIssue | None, provider: str | None, steps: Steps) -> str | None:
    """What helps where the provider's word for the failure says it; None where one has to look."""
    raised = steps.raised.get(reason)
    if raised is not None:
        return (
            f"let it go on: {steps.on}, with a higher limit by {raised}" if steps.on else f"raise the limit by {raised}"
        )
    if issue is None:
        return None
    if issue.terminal_reason == "context_overflow":
        return f"{steps.shorter}, or ask a model with a larger window: {steps.model}"
    if issue.terminal_reason == "output_limit":
        longer = "allow a longer answer by max_output_tokens of the model"
        return f"let it go on: {steps.on}, or {longer}" if steps.on else longer
    if issue.code == "model_not_found":
        return f"name a model that the provider has: {steps.model}"
    if issue.code == CONVERSATION_REFUSED:
        option = f"providers.{provider or 'NAME'}.options.conversation_dialect"
        return f"if the model is one of Mistral's, say so with: lash config set {option} mistral, then: {steps.anew}"
    if issue.code == FOREIGN_REASONING:
        option = f"providers.{provider or 'NAME'}.options.replay_reasoning"
        return f"leave out the reasoning that it cannot read with: lash config set {option} false, then: {steps.anew}"
    if issue.code == NO_NETWORK:
        return f"set that right or unset it, then: {steps.anew}"
    if issue.code in WRONG_ADDRESS:
        return f"check the address and the kind of the provider with: lash provider test {provider or 'NAME'}"
    if steps.back is not None and issue.provider_failure_kind == "validation" and issue.code not in _REFUSED_HERE:
        what = "if it is for what was said or attached last, which every request repeats"
        return f"{what}, go back before it: {steps.back}"
    return None


def _cancel_message(result: TurnResult) -> str:
    evidence = result.cancellation
    if evidence is None or not evidence.reason:
        return f"turn {result.turn_id} was cancelled"
    return f"turn {result.turn_id} was cancelled: {evidence.reason}"


def _stop_message(outcome: Stopped, issue: TurnIssue | None) -> str:
    where = f" by tool {outcome.tool_name}" if outcome.tool_name else ""
    if issue is not None:
        return f"the turn stopped ({outcome.reason}{where}): {issue.message}"
    if isinstance(outcome.value, str) and outcome.value:
        return f"the turn stopped ({outcome.reason}{where}): {outcome.value}"
    return f"the turn stopped ({outcome.reason}{where})"
