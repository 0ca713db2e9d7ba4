"""Durable waits: keys as capabilities, first resolver wins (contract 03 §3)."""

import msgspec
import pytest

from lash_cli.core.codec import decode, encode
from lash_cli.core.effect import TurnScope
from lash_cli.core.wait import (
    AwaitEventKey,
    CustomWait,
    ProcessSignalWait,
    ResolvedErr,
    ResolvedOk,
    ToolCompletionWait,
    TurnCancelGateWait,
    TurnTerminalWait,
    WaitIdentity,
    WaitState,
    is_authentic,
    is_swept,
    is_turn_control,
    judge_resolve,
    mint,
    validate_identity,
)
from lash_cli.errors import EffectError

SECRET = b"secret"
SCOPE = TurnScope("s", "t")
KEY = mint(SECRET, SCOPE, ToolCompletionWait("c1"))
WAITS: list[WaitIdentity] = [
    ToolCompletionWait("c"),
    ProcessSignalWait("p", "go", 1),
    TurnCancelGateWait(),
    TurnTerminalWait(),
    CustomWait("k"),
]


def test_minting_is_pure_and_a_key_survives_the_wire() -> None:
    assert mint(SECRET, SCOPE, ToolCompletionWait("c1")) == KEY
    assert is_authentic(SECRET, decode(encode(KEY), AwaitEventKey))


def test_every_promise_of_a_scope_has_a_key_of_its_own() -> None:
    keys = [mint(SECRET, scope, wait).key_id for wait in WAITS for scope in (SCOPE, TurnScope("s2", "t"))]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "change",
    [
        {"scope": TurnScope("s2", "t")},
        {"wait": ToolCompletionWait("c2")},
        {"key_id": "0" * 64},
        {"signature": "0" * 64},
        {"signature": "é"},
        {"signature": "\ud800"},
        {"signature": ""},
    ],
)
def test_an_altered_key_is_not_authentic(change: dict[str, object]) -> None:
    assert not is_authentic(SECRET, msgspec.structs.replace(KEY, **change))


def test_a_key_of_another_secret_is_not_authentic() -> None:
    assert not is_authentic(b"other", KEY)


@pytest.mark.parametrize(
    "wait", [ToolCompletionWait(" "), ProcessSignalWait("p", "", 1), ProcessSignalWait("p", "go", 0), CustomWait("")]
)
def test_blank_or_zero_parts_are_refused(wait: WaitIdentity) -> None:
    with pytest.raises(EffectError) as raised:
        mint(SECRET, SCOPE, wait)
    assert raised.value.code == "invalid_await_event_wait_identity"


def test_sound_identities_pass() -> None:
    for wait in WAITS:
        validate_identity(wait)


def test_a_blank_scope_cannot_mint() -> None:
    with pytest.raises(EffectError):
        mint(SECRET, TurnScope("", "t"), CustomWait("k"))


def test_the_first_resolver_wins_and_the_others_learn_what_stands() -> None:
    assert judge_resolve(WaitState.PENDING, None).kind == "accepted"
    assert judge_resolve(WaitState.MISSING, None).kind == "accepted"
    late = judge_resolve(WaitState.RESOLVED, ResolvedErr("x", "no"))
    assert (late.kind, late.terminal) == ("already_resolved", ResolvedErr("x", "no"))
    assert judge_resolve(WaitState.REVOKED, ResolvedOk(1)).kind == "unknown_or_revoked"


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("state", list(WaitState))
def test_a_sweep_takes_pending_waits_but_never_turn_control(wait: WaitIdentity, state: WaitState) -> None:
    control = isinstance(wait, TurnCancelGateWait | TurnTerminalWait)
    assert is_turn_control(wait) is control
    assert is_swept(wait, state) is (state is WaitState.PENDING and not control)
