"""The exception tree (contract 01 §16): what a program may conclude from an error without reading its text."""

import pytest

from lash_cli import errors
from lash_cli.errors import LashError, LashRuntimeError, UsageError


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
