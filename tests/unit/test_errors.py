"""The exception tree (contract 01 §16): what a program may conclude from an error without reading its text."""

import ast
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lash_cli import errors
from lash_cli.core.tools import FailureClass, RetryHint
from lash_cli.errors import (
    HeadRevisionConflict,
    LashError,
    LashRuntimeError,
    LlmTransportError,
    PluginError,
    ProviderMismatch,
    SessionClosed,
    SessionError,
    SessionExecutionBusy,
    StoreError,
    StoreLocked,
    UsageError,
)
from lash_cli.tools.faults import ToolFault

# The tree as it is written, with whatever part of it is only loaded where it is needed.
NAMES = [
    node.name
    for path in sorted(Path(errors.__file__).parent.glob("*.py"))
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef)
]
KINDS = [getattr(errors, name) for name in NAMES]

# Whose matter an error is, with what a script can tell it by: that stays whatever stands above it.
OF_A_SESSION = {
    "SessionNotFound": ("session_not_found", 3),
    "SessionDeleted": ("session_deleted", 3),
    "SessionClosed": ("session_closed", 4),
    "StoreSessionMismatch": ("store_session_mismatch", 4),
    "SessionBindingMismatch": ("session_binding_mismatch", 4),
    "QueueHeld": ("queue_held", 4),
    "ProviderUnconfigured": ("provider_unconfigured", 5),
    "SessionExecutionBusy": ("session_execution_busy", 75),
    "SessionStillInUse": ("session_still_in_use", 75),
    "SessionExecutionLeaseExpired": ("session_execution_lease_lost", 75),
    "ProviderMismatch": ("llm_provider", 1),
}
OF_A_PLUGIN = {"PluginRegistrationError": ("plugin_registration", 5), "PluginInvokeError": ("internal", 1)}


@pytest.mark.parametrize(("node", "below"), [(SessionError, OF_A_SESSION), (PluginError, OF_A_PLUGIN)])
def test_whose_matter_an_error_is_changes_neither_its_code_nor_its_status(node, below) -> None:
    found = {kind.__name__: (kind.default_code, kind.exit_status) for kind in KINDS if issubclass(kind, node)}
    found.pop(node.__name__)
    assert found == below


def test_every_error_has_its_home_on_the_page_of_the_tree_and_is_there_once() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(issubclass(kind, LashError) for kind in KINDS)
    with pytest.raises(AttributeError, match="has no attribute 'SessionCursors'"):
        errors.SessionCursors  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "missing_execution_scope_id",
        "execution_scope_turn_id_mismatch",
        "missing_process_execution_id",
        "missing_session_store_factory",
        "llm_provider",
        "durable_store_required:trigger_store",
        "durable_effect_live_plugin_input",
    ],
)
@pytest.mark.parametrize("kind", [UsageError, lambda message, code: LashRuntimeError(code, message)])
def test_what_no_repetition_gets_past_is_terminal_whatever_it_is_raised_as(kind, code: str) -> None:
    error = kind("no", code=code)
    assert (error.code, error.terminal, error.retryable, error.ambiguous) == (code, True, False, False)


@pytest.mark.parametrize("code", ["turn_without_claim", "durable_store", "llm_providers"])
def test_a_code_nobody_called_hopeless_is_not_terminal(code: str) -> None:
    assert not LashRuntimeError(code, "no").terminal


def test_no_error_is_both_worth_a_repetition_and_past_all_hope() -> None:
    assert len(KINDS) > 60
    assert not [kind for kind in KINDS if kind.terminal and (kind.retryable or kind.ambiguous)]


def test_whoever_knows_the_session_fills_it_into_the_hint_of_an_error_and_nothing_else() -> None:
    error = StoreError("disk I/O error")
    assert error.hint == "look before retrying: lash ls"
    error.happened_in("s1")
    assert (error.hint, error.details) == ("look before retrying: lash show s1", {"session": "s1"})
    error.happened_in("s2")
    assert (error.hint, error.details) == ("look before retrying: lash show s1", {"session": "s1"})
    for other in (
        StoreLocked("stayed locked"),
        StoreError("no", hint="something else"),
        SessionClosed("closed", details={"session": "s1"}),
        LashRuntimeError("x", "no"),
    ):
        before = (other.hint, other.details)
        other.happened_in("s2")
        assert (other.hint, other.details) == before


@pytest.mark.parametrize(
    "error",
    [
        SessionExecutionBusy("busy", details={"session": "s"}),
        LashRuntimeError("llm_provider", "another one", hint="configure it"),
        ToolFault(FailureClass.TIMEOUT, "late", "too late", retry=RetryHint("safe"), raw={"a": [1]}),
        LlmTransportError("refused", kind="auth", status=401),
        ProviderMismatch("recorded", "wired"),
        HeadRevisionConflict(1, 2),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("passed", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_comes_through_another_process_as_it_was(error: LashError, passed: Callable[[Any], Any]) -> None:
    """A pool of processes breaks when it cannot make the error again that a worker raised."""
    error.add_note("seen")
    again = passed(error)
    assert type(again) is type(error)
    assert (again.args, str(again), vars(again)) == (error.args, str(error), vars(error))
