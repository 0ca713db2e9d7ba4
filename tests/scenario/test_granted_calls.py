"""Calls of tools that are in no catalogue, for who holds a grant (contract 05 §1.8, §3.1, §3.2)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from support.driving import Crash, CrashPoints
from support.scripted import ScriptedCaller, calls, text
from support.tools import GrantedTools, NamedTools

from lash_cli.api import LashCore, PendingCompletion, SafeRetry, Stopped, ToolExecutionGrant, ToolManifest, TurnOutput
from lash_cli.core.content import ToolCallPart
from lash_cli.core.tools import ToolCallRecord, interrupted, success
from lash_cli.runtime import dispatch
from lash_cli.runtime.nested import RequestedCall

DEEP = calls(("a", "deep", '{"n":7}'))
GRANTS: dict[str, ToolExecutionGrant] = {}


class GrantingDispatcher(dispatch.ToolDispatcher):
    """The dispatcher of a mode that holds grants for tools which the catalogue has not."""

    async def run_batch(
        self, calls: tuple[ToolCallPart, ...], *, iteration: int, effect_id: int
    ) -> tuple[ToolCallRecord, ...]:
        key = f"{self._turn.turn_index}:{iteration}:exec_code:{effect_id}"
        return await self.run_calls(key, [RequestedCall(call, GRANTS.get(call.tool_name)) for call in calls])


@pytest.fixture(autouse=True)
def granting(monkeypatch: pytest.MonkeyPatch) -> None:
    GRANTS.clear()
    monkeypatch.setattr(dispatch, "ToolDispatcher", GrantingDispatcher)


def outputs(output: TurnOutput) -> list[Any]:
    return [record.output for record in output.result.tool_calls]


async def journal(core: LashCore) -> list[Any]:
    """The envelopes of the tool attempts in the file of a core."""
    rows = await core.store.journal_rows('{"type":"turn","session_id":"s1","turn_id":"t1"}')
    envelopes = [json.loads(row.envelope.json) for row in rows]
    return [found["command"] for found in envelopes if found["command"]["kind"] == "tool_attempt"]


async def test_a_granted_tool_runs_and_the_state_does_not_hear_of_it(make_core) -> None:
    source = GrantedTools(("t.a", "a"))
    GRANTS["deep"] = source.grant("deep")
    async with await make_core(ScriptedCaller([DEEP, text("done")]), tools=[source]).open_session("s1") as session:
        before = session.tools().state()
        assert outputs(await session.turn("go").run()) == [success([7, [1, {"route": "deep"}], {"route": "deep"}])]
        assert session.tools().state() == before
        assert [manifest.name for manifest in session.tools().active_manifests()] == ["a"]
    ((grant, call, context),) = source.ran
    assert (grant, call.tool_id, call.tool_name) == (GRANTS["deep"], "deferred.deep", "deep")
    assert context.replay_key.endswith(":deferred.deep")


@pytest.mark.parametrize("point", ["after:tool_started", "before:tool_recorded", "after:tool_recorded"])
@pytest.mark.parametrize("retry", [{}, {"retry_policy": SafeRetry(2)}], ids=["never", "safe"])
async def test_a_granted_attempt_that_a_crash_cut_off_is_gone_on_with_like_any_other(make_core, point, retry) -> None:
    source = GrantedTools()
    GRANTS["deep"] = source.grant("deep", **retry)
    doomed = make_core(ScriptedCaller([DEEP]), tools=[source], crash_point=CrashPoints(point))
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go", turn_id="t1").run()
    (command,) = await journal(doomed)
    assert (command["grant"]["source_id"], command["grant"]["execution_binding"]) == ("plugins", {"route": "deep"})
    ran_before = len(source.ran)
    async with await make_core(ScriptedCaller([text("done")]), tools=[source]).open_session("s1") as session:
        output = await session.redrive().run()
        assert session.tools().state().tools == {}
    done = success([7, [1, {"route": "deep"}], {"route": "deep"}])
    is_lost = not retry and point != "after:tool_recorded"
    assert outputs(output) == [interrupted("deep") if is_lost else done]
    assert output.result.assistant_message() == "done"
    assert len(source.prepared) == 1, "what was minted for it is in the journal"
    assert len(source.ran) - ran_before == (1 if retry and point != "after:tool_recorded" else 0)


async def test_another_grant_for_a_recorded_attempt_is_no_longer_the_same_turn(make_core) -> None:
    source = GrantedTools()
    GRANTS["deep"] = source.grant("deep")
    doomed = make_core(ScriptedCaller([DEEP]), tools=[source], crash_point=CrashPoints("after:tool_recorded"))
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go").run()
    GRANTS["deep"] = msgspec.structs.replace(GRANTS["deep"], execution_binding={"route": "elsewhere"})
    session = await make_core(ScriptedCaller([text("done")]), tools=[source]).open_session("s1")
    with pytest.raises(Exception, match=r"command\.grant\.execution_binding\.route"):
        await session.redrive().run()


async def test_a_recorded_attempt_is_used_though_its_source_is_gone(make_core) -> None:
    source = GrantedTools()
    GRANTS["deep"] = source.grant("deep")
    doomed = make_core(ScriptedCaller([DEEP]), tools=[source], crash_point=CrashPoints("after:tool_recorded"))
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go").run()
    async with await make_core(ScriptedCaller([text("done")])).open_session("s1") as session:
        assert outputs(await session.redrive().run()) == [success([7, [1, {"route": "deep"}], {"route": "deep"}])]


class Deaf(NamedTools):
    """A source that runs no granted calls."""


@pytest.mark.parametrize(
    ("changes", "tools"),
    [
        ({"source_id": None}, None),
        ({"source_id": "live:9"}, None),
        ({}, Deaf()),
    ],
    ids=["no source named", "an unknown source", "a source without granted calls"],
)
async def test_a_grant_that_nobody_can_honour_is_unavailable(make_core, changes, tools) -> None:
    source = GrantedTools()
    GRANTS["deep"] = msgspec.structs.replace(source.grant("deep"), **changes)
    core = make_core(ScriptedCaller([DEEP, text("done")]), tools=[tools or source])
    async with await core.open_session("s1") as session:
        (output,) = outputs(await session.turn("go").run())
    failed = output.outcome.failure
    assert (failed.failure_class, failed.code) == ("unavailable", "tool_unavailable")
    assert (source.prepared, source.ran) == ([], [])


async def test_a_granted_call_is_validated_and_allowed_like_any_other(make_core) -> None:
    asked: list[ToolManifest] = []

    class Refuse:
        async def decide(self, manifest: ToolManifest, call: object) -> str | None:
            asked.append(manifest)
            return "no"

    source = GrantedTools()
    GRANTS["deep"] = source.grant("deep", approval="network")
    script = [calls(("b", "deep", '{"n":"x"}')), DEEP, text("done")]
    async with await make_core(ScriptedCaller(script), tools=[source], approval=Refuse()).open_session("s1") as session:
        codes = [output.outcome.failure.code for output in outputs(await session.turn("go").run())]
    assert (codes, source.prepared, source.ran) == (["invalid_tool_args", "tool_denied"], [], [])
    assert asked == [GRANTS["deep"].manifest]


async def test_a_grant_does_not_weaken_what_the_source_demands_of_its_tool(make_core) -> None:
    approved: list[str] = []

    class Ask:
        async def decide(self, manifest: ToolManifest, call: object) -> str | None:
            approved.append(manifest.approval)
            return None

    source = GrantedTools(ToolManifest("deferred.deep", "deep", "", approval="execute"))
    GRANTS["deep"] = source.grant("deep")
    core = make_core(ScriptedCaller([DEEP, text("done")]), tools=[source], approval=Ask())
    async with await core.open_session("s1") as session:
        await session.turn("go").run()
    assert (approved, len(source.ran)) == (["execute"], 1)


async def test_the_source_of_a_granted_call_that_is_pending_hears_of_its_end(make_core) -> None:
    async def wait_for_it(call: Any, context: Any) -> PendingCompletion:
        await context.completion_key()
        return PendingCompletion()

    source = GrantedTools()
    source.answer = wait_for_it
    GRANTS["deep"] = source.grant("deep")
    doomed = make_core(ScriptedCaller([DEEP]), tools=[source], crash_point=CrashPoints("after:tool_recorded"))
    with pytest.raises(Crash):
        await (await doomed.open_session("s1")).turn("go", turn_id="t1").run()
    core = make_core(ScriptedCaller([]), tools=[source])
    await core.request_turn_cancel("s1", turn_id="t1", request_id="r1")
    async with await core.open_session("s1") as session:
        output = await session.redrive().run()
    assert (output.result.outcome, len(source.ran)) == (Stopped("cancelled"), 1)
    assert [call.tool_name for call in source.cancelled] == ["deep"]


async def test_a_source_that_is_added_again_behind_a_crash_is_the_one_that_a_grant_names(make_core) -> None:
    doomed = make_core(ScriptedCaller([DEEP]), crash_point=CrashPoints("after:tool_started"))
    session = await doomed.open_session("s1")
    source = GrantedTools()
    source.source_id = (await session.tools().add_provider(source)).source_id
    GRANTS["deep"] = source.grant("deep", retry_policy=SafeRetry(2))
    with pytest.raises(Crash):
        await session.turn("go").run()
    async with await make_core(ScriptedCaller([text("done")])).open_session("s1") as again:
        await again.tools().add_provider(source)
        output = await again.redrive().run()
    assert outputs(output) == [success([7, [1, {"route": "deep"}], {"route": "deep"}])]
