"""A store or an effect host that breaks its word ends the call with a fault of its own, leaves no lane held, and is
used again when it keeps it (contract 01 §9.1, 02 §6.2, 03 §2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.doubling import doubling
from support.driving import S
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import LashCore, Stopped
from lash_cli.core.effect import (
    CheckpointCommand,
    EffectCommand,
    EffectEnvelope,
    EffectOutcome,
    LlmCallCommand,
    SleepOutcome,
    ToolAttemptCommand,
    ToolHookCommand,
)
from lash_cli.core.ingress import ActiveTurn
from lash_cli.core.protocols import EffectExecutor
from lash_cli.core.queued_work import AgentFrameTask, QueuedWorkClaim
from lash_cli.effects.inline import InlineEffectHost, InlineScopedEffects
from lash_cli.errors import EffectError, LashRuntimeError
from lash_cli.runtime.entering import MOST_VAIN_LOOKS
from lash_cli.store.base import HeadPosition, LaneGranted, LaneRequest
from lash_cli.system import SystemClock, SystemIds


async def fault_of(core: LashCore, **broken: Callable[..., Any]) -> str:
    """What a turn ends with while the store's methods are `broken`; afterwards the session is free, and answers."""
    real: dict[str, Any] = {name: getattr(core.store, name) for name in broken}
    with pytest.MonkeyPatch.context() as patch:
        for name, make in broken.items():

            async def answer(*given: Any, _name: str = name, _make: Callable[..., Any] = make, **options: Any) -> Any:
                return _make(await real[_name](*given, **options))

            patch.setattr(core.store, name, answer)
        with pytest.raises(LashRuntimeError) as raised:
            await (await core.open_session(S)).turn("hello", turn_id="t1").run()
    row = await core.store.session_row(S)
    assert row is None or row.lease.token is None
    output = await (await core.open_session(S)).turn("hello", turn_id="t1").run()
    assert output.result.assistant_message() == "hi"
    return f"{raised.value.code}: {raised.value.message}"


async def with_command(make_core: Any) -> LashCore:
    """A core whose session has a command to run before the turn."""
    core: LashCore = make_core(ScriptedCaller([text("hi")]))
    await (await core.open_session(S)).commands().refresh_tool_catalog("look", "k")
    return core


async def test_a_lane_without_a_lease(make_core, monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core(ScriptedCaller([text("hi")]))
    session = await core.open_session(S)

    async def granted(request: LaneRequest) -> LaneGranted:
        return LaneGranted(None, HeadPosition(0, None, None))

    with monkeypatch.context() as patch:
        patch.setattr(core.store, "open_lane", granted)
        with pytest.raises(LashRuntimeError) as raised:
            await session.turn("hello").run()
    assert raised.value.code == "lane_without_lease"
    assert (await session.turn("hello").run()).result.assistant_message() == "hi"


async def test_commands_that_are_due_and_never_there(make_core) -> None:
    core = make_core(ScriptedCaller([text("hi")]))
    looks = []

    def due(outcome: LaneGranted) -> LaneGranted:
        looks.append(outcome)
        return msgspec.structs.replace(outcome, commands_due=True)

    assert await fault_of(core, open_lane=due) == (
        "session_command_claim: the store says that commands are due and has none"
    )
    assert len(looks) == MOST_VAIN_LOOKS


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda batch: (batch, batch), "a claimed session command is not one exclusive batch"),
        (
            lambda batch: (msgspec.structs.replace(batch, payloads=(AgentFrameTask("f", "go on"),)),),
            "the head of the queue is not a session command",
        ),
    ],
)
async def test_a_claim_that_is_not_one_command(make_core, change: Any, problem: str) -> None:
    def changed(claim: QueuedWorkClaim) -> QueuedWorkClaim:
        return msgspec.structs.replace(claim, batches=change(*claim.batches))

    core = await with_command(make_core)
    assert await fault_of(core, claim_leading_session_command=changed) == f"session_command_claim: {problem}"
    assert await (await core.open_session(S)).queued_work() == (), "it was run when the store kept its word"


async def test_a_committed_turn_without_a_summary(make_core) -> None:
    core = make_core(ScriptedCaller([text("hi")]))
    await (await core.open_session(S)).turn("hello", turn_id="t1").run()
    told = await fault_of(core, turn=lambda turn: msgspec.structs.replace(turn, summary=None))
    assert told == "turn_summary_missing: a committed turn has no stored summary"


class Muddled(InlineEffectHost):
    """Answers commands of one kind as if they were to sleep."""

    muddles: type[EffectCommand] | None

    def scoped(self, *given: Any, **options: Any) -> InlineScopedEffects:
        effects = super().scoped(*given, **options)
        execute = effects.execute

        async def muddled(envelope: EffectEnvelope, run: EffectExecutor) -> EffectOutcome:
            is_muddled = type(envelope.command) is self.muddles
            return SleepOutcome() if is_muddled else await execute(envelope, run)

        effects.execute = muddled  # type: ignore[method-assign]
        return effects


class Hook:
    hook_id = "nothing"

    async def before_tool_call(self, call: object) -> None:
        """Has nothing to say."""


@pytest.mark.parametrize("kind", [LlmCallCommand, ToolAttemptCommand, ToolHookCommand, CheckpointCommand])
async def test_an_effect_answered_by_an_outcome_of_another_kind(make_core, kind: type[EffectCommand]) -> None:
    host = Muddled(SystemClock(), SystemIds())
    host.muddles = kind
    caller = ScriptedCaller([calls(("c1", "double", '{"value": 2}')), text("four")])
    core = make_core(caller, tools=[doubling()], tool_hooks=[Hook()], effect_host=host)
    session = await core.open_session(S)
    await session.enqueue("and wait", ingress=ActiveTurn("t1", "after_work"))  # else a checkpoint is none
    with pytest.raises(EffectError) as raised:
        await session.turn("double two", turn_id="t1").run()
    assert raised.value.code == "runtime_effect_wrong_outcome"
    assert (await core.store.session_row(S)).lease.token is None
    host.muddles = None
    await core.request_turn_cancel(S)
    assert (await session.redrive().run()).result.outcome == Stopped("cancelled")
