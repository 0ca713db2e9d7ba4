"""Effects: identity, validation, canonical form, divergence (contract 03 §2)."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lash_cli.core.codec import decode_any, encode, sha256_hex, tag_of
from lash_cli.core.effect import (
    CanonicalEnvelope,
    CheckpointCommand,
    EffectEnvelope,
    EffectInvocation,
    ExecutionScope,
    ProcessScope,
    QueueDrainScope,
    RuntimeOperationScope,
    SessionDeleteScope,
    SleepCommand,
    ToolAttemptCommand,
    TurnScope,
    canonical,
    child_replay_key,
    divergent_paths,
    mismatch_error,
    scope_key,
    scope_session_id,
    turn_replay_key,
    validate_envelope,
)
from lash_cli.core.tools import ToolCall
from lash_cli.errors import EffectError

SCOPE = TurnScope("s", "t")
SCOPES: list[tuple[ExecutionScope, str | None]] = [
    (SCOPE, "s"),
    (QueueDrainScope("s", "d"), "s"),
    (SessionDeleteScope("s"), "s"),
    (ProcessScope("p"), None),
    (RuntimeOperationScope("o"), None),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "secret"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def attempt(call_id: str = "c", number: int = 1, of: int = 1) -> ToolAttemptCommand:
    return ToolAttemptCommand(ToolCall(call_id, "id", "name", {}), number, of)


IDLE = CheckpointCommand("after_work")


def envelope(command=IDLE, *, effect_id="1", key="k", scope=SCOPE):  # type: ignore[no-untyped-def]
    return EffectEnvelope(EffectInvocation(scope, effect_id, key), command)


@pytest.mark.parametrize(("scope", "session"), SCOPES)
def test_a_scope_knows_its_session_and_round_trips(scope: ExecutionScope, session: str | None) -> None:
    assert scope_session_id(scope) == session
    assert decode_any(scope_key(scope), ExecutionScope) == scope


def test_equal_turn_ids_of_two_sessions_have_two_journals() -> None:
    keys = {scope_key(scope) for scope, _ in SCOPES} | {scope_key(TurnScope("s2", "t"))}
    assert len(keys) == len(SCOPES) + 1


@pytest.mark.parametrize("scope", [TurnScope(" ", "t"), TurnScope("s", ""), ProcessScope("\n")])
def test_a_blank_scope_id_is_refused(scope: ExecutionScope) -> None:
    with pytest.raises(EffectError) as raised:
        scope_key(scope)
    assert raised.value.code == "missing_execution_scope_id"


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (envelope(effect_id=" "), "runtime_effect_invocation_subject"),
        (envelope(key=""), "runtime_effect_replay_required"),
        (envelope(attempt(call_id=" ")), "runtime_effect_tool_attempt_call_id"),
        (envelope(attempt(number=0)), "runtime_effect_tool_attempt_index"),
        (envelope(attempt(number=3, of=2)), "runtime_effect_tool_attempt_index"),
        (envelope(scope=TurnScope("", "t")), "missing_execution_scope_id"),
        (envelope(scope=TurnScope("s", "another")), "runtime_effect_scope_mismatch"),
    ],
)
def test_an_envelope_that_cannot_be_journalled_is_refused(broken: EffectEnvelope, code: str) -> None:
    with pytest.raises(EffectError) as raised:
        validate_envelope(broken, SCOPE)
    assert raised.value.code == code


def test_a_sound_envelope_passes() -> None:
    validate_envelope(envelope(), TurnScope("s", "t"))
    validate_envelope(envelope(attempt(number=2, of=2)), SCOPE)


def test_keys_are_functions_of_durable_identity() -> None:
    base = turn_replay_key(0, 2, "llm_call", 7)
    assert base == "0:2:llm_call:7"
    assert child_replay_key(base, "attempt:2") == "0:2:llm_call:7:attempt:2"
    assert tag_of(SleepCommand(5)) == "sleep"


def test_equal_envelopes_have_equal_bytes_and_different_ones_different_hashes() -> None:
    assert canonical(envelope()) == canonical(envelope())
    assert canonical(envelope()).hash != canonical(envelope(key="other")).hash


@given(json_values)
def test_a_value_does_not_diverge_from_itself(value: object) -> None:
    assert divergent_paths(value, value) == []


@given(json_values, json_values)
def test_paths_are_empty_exactly_for_equal_json(left: object, right: object) -> None:
    assert (divergent_paths(left, right) == []) == (encode(left) == encode(right))


def test_paths_name_where_two_values_differ() -> None:
    stored = {"a": [1, {"x": 1}], "b": 1, "gone": 0}
    rebuilt = {"a": [1, {"x": 2}, 3], "b": True}
    assert divergent_paths(stored, rebuilt) == ["a[1].x", "a[2]", "b", "gone"]
    assert divergent_paths(1, 2) == ["$"]


def test_a_mismatch_names_paths_and_never_values() -> None:
    stored, rebuilt = canonical(envelope(key="hunter2")), canonical(envelope(key="swordfish"))
    error = mismatch_error("runtime_effect_replay_mismatch", stored, rebuilt)
    assert error.code == "runtime_effect_replay_mismatch"
    assert error.details["first_divergent_paths"] == ["invocation.replay_key"]
    shown = f"{error} {error.details}"
    assert "hunter2" not in shown and "swordfish" not in shown


def test_many_divergent_paths_are_counted_but_not_all_shown() -> None:
    def form(value: int) -> CanonicalEnvelope:
        data = encode({f"k{i:02}": value for i in range(20)})
        return CanonicalEnvelope(data, sha256_hex(data))

    error = mismatch_error("x", form(1), form(2))
    assert error.details["divergent_path_count"] == 20
    assert len(error.details["first_divergent_paths"]) == 8


def test_a_stored_envelope_that_is_damaged_is_not_called_a_divergence() -> None:
    good = canonical(envelope())
    undecodable = msgspec.structs.replace(good, json=b"{")
    tampered = msgspec.structs.replace(good, hash="0" * 64)
    assert mismatch_error("x", undecodable, good).code == "runtime_effect_envelope_canonical_decode"
    altered = msgspec.structs.replace(good, json=good.json.replace(b'"', b'"x', 1))
    for damaged in (tampered, altered):
        assert mismatch_error("x", damaged, good).code == "runtime_effect_envelope_canonical_hash_invariant"
