"""How answers are drawn: the session's policy, overlaid by the turn (contract 06 §4, §15)."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.driving import Crash, CrashPoints
from support.frozen import cut_lease
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    DirectRequest,
    Generation,
    LashCore,
    ModelSpec,
    SessionConfigPatch,
    SessionPolicy,
    SessionSpec,
    TurnInput,
)
from lash_cli.core.content import Message, ProtocolTurnOptions, Role, TextPart
from lash_cli.core.generation import GENERATION_OPTION, generation_of, with_generation
from lash_cli.core.policy import NO_GENERATION
from lash_cli.errors import UsageError

POLICY = SessionPolicy(ModelSpec("m"), "scripted", generation=Generation(temperature=1.0, seed=1))
OWN = SessionSpec(generation=Generation(temperature=0.5, stop_sequences=("END",)))
STORED = SessionSpec(inherit="stored")


def asked(caller: ScriptedCaller) -> list[Generation]:
    return [request.generation for request in caller.requests]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_turns_intent_lies_over_the_sessions_for_that_turn_in_each_of_its_calls(
    make_core, is_stored: bool
) -> None:
    caller = ScriptedCaller([calls(("a", "nothing", "{}")), text("1"), text("2")])
    core = make_core(caller) if is_stored else LashCore(provider=caller, model=ModelSpec("m"))
    async with core, await core.open_session("s1", spec=OWN) as session:
        await session.turn("a", generation=Generation(seed=7, stop_sequences=())).run()
        await session.turn("b").run()
    turn = Generation(0.5, 7, ())
    assert asked(caller) == [turn, turn, Generation(0.5, None, ("END",))]


async def test_the_intent_is_policy_of_the_core_unless_the_session_has_its_own_and_is_stored(make_core) -> None:
    caller = ScriptedCaller([text("1"), text("2"), text("3"), text("4")])
    async with await make_core(caller, policy=POLICY).open_session("s1") as session:
        await session.turn("a").run()
        await session.configure(SessionConfigPatch(generation=Generation(seed=3)))
        await session.turn("b").run()
    async with await make_core(caller).open_session("s1", spec=STORED) as session:
        assert session.policy_snapshot.generation == Generation(seed=3)
        await session.turn("c").run()
    async with await make_core(caller, policy=POLICY).open_session("s1") as session:
        await session.turn("d").run()
    assert asked(caller) == [POLICY.generation, Generation(seed=3), Generation(seed=3), POLICY.generation]


async def test_a_turn_that_was_cut_off_is_finished_under_its_own_intent(make_core, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        core = make_core(ScriptedCaller([text("1")]), crash_point=CrashPoints("after:lane"))
        session = await core.open_session("s1", spec=OWN)
        await session.turn("a", generation=Generation(temperature=0.0)).run()
    cut_lease(tmp_path / "home" / "lash.db", "s1", left_ms=0)
    caller = ScriptedCaller([text("1"), text("2")])
    async with await make_core(caller, policy=POLICY).open_session("s1") as session:
        await session.redrive(busy_wait_ms=120_000).run()
        await session.turn("b").run()
    assert asked(caller) == [Generation(0.0, None, ("END",)), Generation(0.5, None, ("END",))]


async def test_a_queued_text_is_answered_under_the_intent_it_was_queued_with(make_core) -> None:
    caller = ScriptedCaller([text("1")])
    queued = TurnInput.text("a")
    options = with_generation(None, Generation(seed=9))
    async with await make_core(caller).open_session("s1", spec=OWN) as session:
        await session.enqueue(TurnInput(queued.items, protocol_turn_options=options))
        await session.queued_turn().run()
    assert asked(caller) == [Generation(0.5, 9, ("END",))]


async def test_a_summary_of_the_session_is_not_cut_where_its_answers_are(make_core) -> None:
    caller = ScriptedCaller([text("ok"), text("ok"), text("the gist")])
    async with await make_core(caller).open_session("s1", spec=OWN) as session:
        await session.turn("one").run()
        await session.turn("two").run()
        assert await session.admin().compact_context()
    assert asked(caller)[2] == NO_GENERATION


async def test_a_direct_completion_has_its_own_intent_and_no_other(make_core) -> None:
    caller = ScriptedCaller([text("1"), text("2")])
    messages = (Message("m", Role.USER, (TextPart("hi"),)),)
    async with await make_core(caller).open_session("s1", spec=OWN) as session:
        await session.direct_completion(DirectRequest(messages, generation=Generation(seed=4)))
        await session.direct_completion(DirectRequest(messages))
    assert asked(caller) == [Generation(seed=4), NO_GENERATION]


@pytest.mark.parametrize("payload", [7, {"temprature": 1}, {"temperature": -1}, {"stop_sequences": [""]}])
async def test_an_intent_that_cannot_be_read_stops_the_turn_before_anything_is_sent(make_core, payload: object) -> None:
    caller = ScriptedCaller([])
    options = ProtocolTurnOptions(payload={GENERATION_OPTION: payload})
    with pytest.raises(ValueError, match="generation option"):
        generation_of(options)
    unreadable = TurnInput(TurnInput.text("a").items, protocol_turn_options=options)
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn(unreadable).run()
        with pytest.raises(UsageError, match="generation option"):
            session.turn(unreadable, generation=Generation(seed=1))
    assert output.result.errors[0].code == "invalid_turn_options"
    assert caller.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"seed": 2**63},
        {"stop_sequences": ("END", "")},
    ],
)
def test_an_intent_that_no_provider_could_take_is_none(fields) -> None:
    with pytest.raises(ValueError):
        Generation(**fields)
