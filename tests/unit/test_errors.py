"""The exception tree (contract 01 §16): what a program may conclude from an error without reading its text."""

import pytest

from lash_cli import errors
from lash_cli.errors import LashError, LashRuntimeError, SessionClosed, StoreError, StoreLocked, UsageError


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
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LashError)]
    assert len(kinds) > 40
    assert not [kind for kind in kinds if kind.terminal and (kind.retryable or kind.ambiguous)]


def test_whoever_knows_the_session_fills_it_into_the_hint_of_an_error_and_nothing_else() -> None:
    error = StoreError("disk I/O error")
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
