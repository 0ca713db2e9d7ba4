"""Turns that are to answer with a value: judged by the canonical schema, repaired once, replayed as they were
(contract 06 §8, §15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.driving import Crash, CrashPoints
from support.frozen import cut_lease
from support.scripted import ScriptedCaller, calls, text

from lash_cli.api import (
    AssistantMessage,
    FinalValue,
    Finished,
    LashCore,
    ModelSpec,
    OpenAgentFrameRequest,
    SessionSpec,
    Stopped,
    TurnInput,
)
from lash_cli.core import activity
from lash_cli.core.content import ProtocolTurnOptions, Role, TextPart
from lash_cli.core.llm import JsonObjectOutput, JsonSchemaOutput
from lash_cli.core.structured import REPAIR_LABEL, with_output
from lash_cli.errors import PendingTurnInputSourceKeyConflict, UsageError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "note": {"type": "string"}},
    "required": ["city"],
}


async def test_a_fitting_answer_is_the_value_of_the_turn(make_core) -> None:
    caller = ScriptedCaller([text('{"city": "Oslo"}')])
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn("where", output=SCHEMA).run()
    assert output.result.outcome == Finished(FinalValue({"city": "Oslo"}))
    assert output.result.assistant_output.raw_text == '{"city":"Oslo"}'
    assert not output.result.errors
    assert caller.requests[0].output_spec == JsonSchemaOutput("answer", SCHEMA)
    assert activity.FinalValueShown({"city": "Oslo"}) in [shown.event for shown in output.activities]


async def test_a_null_that_stands_for_an_absent_member_is_no_part_of_the_value(make_core) -> None:
    caller = ScriptedCaller([text('```json\n{"city": "Oslo", "note": null}\n```')])
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn("where", output=SCHEMA).run()
    assert output.result.outcome == Finished(FinalValue({"city": "Oslo"}))


async def test_a_wrong_answer_is_given_back_once_with_what_is_wrong(make_core) -> None:
    caller = ScriptedCaller([text('{"town": "Oslo"}'), text('{"city": "Oslo"}')])
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn("where", output=SCHEMA).run()
    assert output.result.outcome == Finished(FinalValue({"city": "Oslo"}))
    repair = caller.requests[1].messages[-1]
    assert repair.role is Role.EVENT
    (part,) = repair.parts
    assert isinstance(part, TextPart) and part.label == REPAIR_LABEL
    assert '"city" is a required property' in part.content


async def test_a_second_wrong_answer_stops_the_turn_with_its_code_and_asks_no_more(make_core) -> None:
    caller = ScriptedCaller([text("Oslo"), text("it is Oslo")])
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn("where", output=SCHEMA).run()
        assert output.result.outcome == Stopped("provider_error")
        assert [(issue.code, issue.retryable) for issue in output.result.errors if issue.blocking] == [
            ("invalid_structured_output", False)
        ]
        assert len(caller.requests) == 2
        caller.steps = [text("fine")]
        assert (await session.turn("and now").run()).result.assistant_message() == "fine"
    assert caller.requests[2].output_spec is None


async def test_tools_run_before_the_value_is_judged(make_core) -> None:
    caller = ScriptedCaller([calls(("c1", "nowhere", "{}")), text('{"city": "Oslo"}')])
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn("where", output=SCHEMA).run()
    assert output.result.outcome == Finished(FinalValue({"city": "Oslo"}))


async def test_any_object_will_do_where_only_an_object_is_asked_for(make_core) -> None:
    caller = ScriptedCaller([text("[1]"), text('{"a": 1}')])
    async with await make_core(caller).open_session("s1") as session:
        output = await session.turn("x", output=JsonObjectOutput()).run()
    assert output.result.outcome == Finished(FinalValue({"a": 1}))


@pytest.mark.parametrize(("point", "is_answered"), [("after:lane", False), ("before:commit", True)])
async def test_a_turn_that_was_cut_off_is_finished_under_the_same_schema(
    make_core, tmp_path: Path, point: str, is_answered: bool
) -> None:
    """The schema is stored with the input: who resumes does not know it, and journalled calls are found again."""
    answers = [text("Oslo"), text('{"city": "Oslo"}')]
    with pytest.raises(Crash):
        core = make_core(ScriptedCaller(answers), crash_point=CrashPoints(point))
        session = await core.open_session("s1")
        await session.turn("where", output=SCHEMA).run()
    if point == "after:lane":  # there it ends with the lane in its hand
        cut_lease(tmp_path / "home" / "lash.db", "s1", left_ms=0)
    rest = ScriptedCaller([] if is_answered else answers)
    async with await make_core(rest).open_session("s1", spec=SessionSpec(inherit="stored")) as session:
        output = await session.redrive(busy_wait_ms=120_000).run()
    assert output.result.outcome == Finished(FinalValue({"city": "Oslo"}))
    assert [request.output_spec for request in rest.requests] == [JsonSchemaOutput("answer", SCHEMA)] * (
        0 if is_answered else 2
    )


async def test_a_repeated_key_answers_the_same_value_and_another_schema_conflicts(make_core) -> None:
    caller = ScriptedCaller([text('{"city": "Oslo"}')])
    async with await make_core(caller).open_session("s1") as session:
        first = await session.turn("where", key="k", output=SCHEMA).run()
        again = await session.turn("where", key="k", output=SCHEMA).run()
        assert again.replayed and again.result.outcome == first.result.outcome
        with pytest.raises(PendingTurnInputSourceKeyConflict):
            await session.turn("where", key="k", output={"type": "array"}).run()


async def test_a_queued_input_keeps_its_schema(make_core) -> None:
    caller = ScriptedCaller([text('{"city": "Oslo"}')])
    wanted = with_output(None, JsonSchemaOutput("answer", SCHEMA))
    core = make_core(caller, queue_driver="none")
    async with await core.open_session("s1") as session:
        await session.turn("first", output=SCHEMA).run()
        caller.steps = [text('{"city": "Bergen"}')]
        await session.enqueue(TurnInput(TurnInput.text("where").items, wanted))
        output = await session.queued_turn().run()
    assert output is not None and output.result is not None
    assert output.result.outcome == Finished(FinalValue({"city": "Bergen"}))


async def test_a_session_without_a_store_answers_with_values_too(make_core) -> None:
    caller = ScriptedCaller([text("no"), text('{"city": "Oslo"}')])
    async with LashCore(provider=caller, model=ModelSpec("m")) as core:
        session = await core.open_session("s1")
        output = await session.turn("where", output=SCHEMA).run()
    assert output.result is not None
    assert output.result.outcome == Finished(FinalValue({"city": "Oslo"}))


async def test_a_schema_that_cannot_judge_is_refused_before_anything_is_written(make_core) -> None:
    caller = ScriptedCaller([])
    async with await make_core(caller).open_session("s1") as session:
        for schema in ({"type": "nonsense"}, {"$ref": "https://example.org/s"}):
            with pytest.raises(UsageError) as refused:
                session.turn("x", output=schema)
            assert refused.value.code == "schema_invalid"


WANTED = with_output(None, JsonSchemaOutput("answer", SCHEMA))


@pytest.mark.parametrize("has_store", [True, False])
async def test_what_a_frame_asks_for_every_turn_is_asked_and_a_turns_own_options_stand_over_it(
    make_core, has_store: bool
) -> None:
    caller = ScriptedCaller([text('{"city": "Oslo"}'), text("prose"), text("true"), text('{"city": "Bergen"}')])
    core = make_core(caller) if has_store else LashCore(provider=caller, model=ModelSpec("m"))
    session = await core.open_session("s1")
    await session.admin().set_protocol_turn_options(WANTED)
    if has_store:
        await session.close()
        session = await core.open_session("s1")
    assert session.read_view().protocol_turn_options == WANTED
    own = TurnInput(TurnInput.text("tell me").items, ProtocolTurnOptions(payload={"output": None}))
    outcomes = [
        (await turn.run()).result.outcome.finish
        for turn in (session.turn("where"), session.turn(own), session.turn("sure?", output={"type": "boolean"}))
    ]
    assert outcomes == [FinalValue({"city": "Oslo"}), AssistantMessage("prose"), FinalValue(True)]
    await session.admin().open_agent_frame(OpenAgentFrameRequest("f2", "test"))
    assert (await session.turn("and there?").run()).result.final_value() == {"city": "Bergen"}
    await core.aclose()


async def test_options_of_a_turn_are_given_as_it_is_described_and_are_part_of_what_its_key_names(make_core) -> None:
    caller = ScriptedCaller([text('{"city": "Oslo"}')])
    session = await make_core(caller).open_session("s1")
    first = await session.turn("where", key="k").protocol_turn_options(WANTED).run()
    assert first.result.final_value() == {"city": "Oslo"}
    assert (await session.turn("where", key="k", output=SCHEMA).run()).replayed
    with pytest.raises(PendingTurnInputSourceKeyConflict):
        await session.turn("where", key="k").run()
    plain = session.turn("x", output=SCHEMA).protocol_turn_options(ProtocolTurnOptions(payload={"output": None}))
    caller.steps = [text("prose")]
    assert (await plain.run()).result.assistant_message() == "prose"
    with pytest.raises(UsageError):
        session.redrive().protocol_turn_options(WANTED)


async def test_options_are_set_for_one_frame_or_for_all(make_core) -> None:
    session = await make_core(ScriptedCaller([text("ok")], repeat=True)).open_session("s1")
    await session.turn("one").run()
    before = session.read_view()
    await session.admin().open_agent_frame(OpenAgentFrameRequest("f2", "test"))
    await session.admin().set_protocol_turn_options(WANTED)
    assert [frame.protocol_turn_options for frame in session.read_view().frames] == [ProtocolTurnOptions(), WANTED]
    await session.admin().set_protocol_turn_options_all_frames(WANTED)
    assert [frame.protocol_turn_options for frame in session.read_view().frames] == [WANTED, WANTED]
    await session.admin().set_protocol_turn_options(ProtocolTurnOptions())
    await session.admin().branch_to_node(before.leaf_node_id)
    assert session.read_view().protocol_turn_options == WANTED


async def test_a_turn_that_was_cut_off_is_finished_with_the_options_its_frame_had(make_core) -> None:
    core = make_core(ScriptedCaller([text('{"city": "Oslo"}')]), crash_point=CrashPoints("after:model_recorded"))
    session = await core.open_session("s1")
    await session.admin().set_protocol_turn_options(WANTED)
    with pytest.raises(Crash):
        await session.turn("where").run()
    other = await make_core(ScriptedCaller([])).open_session("s1")
    await other.admin().set_protocol_turn_options(ProtocolTurnOptions())
    output = await other.redrive().run()
    assert output.result.final_value() == {"city": "Oslo"}
    assert other.read_view().protocol_turn_options == ProtocolTurnOptions()


@pytest.mark.parametrize("options", [ProtocolTurnOptions(2), ProtocolTurnOptions(payload={"output": {"type": "poem"}})])
async def test_options_of_another_version_or_shape_are_refused(make_core, options: ProtocolTurnOptions) -> None:
    async with await make_core(ScriptedCaller([])).open_session("s1") as session:
        with pytest.raises(UsageError) as refused:
            await session.admin().set_protocol_turn_options(options)
        assert refused.value.code == "invalid_turn_options"
        assert session.read_view().head_revision is None
        output = await session.turn(TurnInput(TurnInput.text("x").items, options)).run()
    assert output.result.outcome == Stopped("invalid_input")
    assert output.result.errors[0].code == "invalid_turn_options"


def test_an_output_is_added_to_options_as_they_are() -> None:
    given = ProtocolTurnOptions(2, {"more": 1})
    added = with_output(given, JsonObjectOutput())
    assert (added.schema_version, added.payload) == (2, {"more": 1, "output": {"type": "json_object"}})
