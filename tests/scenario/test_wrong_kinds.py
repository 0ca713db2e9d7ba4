"""What a program hands to a verb in place of what belongs there: it is refused before anything is done, under a code,
and told what to give instead; or it is taken for what was meant."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from support.doubling import Number
from support.driving import S, said
from support.scripted import ScriptedCaller, text

from lash_cli.api import (
    ByInputId,
    DirectRequest,
    FunctionToolProvider,
    LashCore,
    LashSession,
    Message,
    ModelSpec,
    ResolvedOk,
    RetryingCaller,
    Role,
    SessionConfigPatch,
    SessionCursor,
    SessionSpec,
    TextItem,
    TextPart,
    ToolContext,
    TurnActivity,
    TurnActivityFanout,
    TurnInput,
    WorkOptions,
    tool,
)
from lash_cli.errors import LashError


class City(msgspec.Struct):
    name: str


@tool(name="double", description="Double a number.")
async def double(arguments: Number, context: ToolContext) -> int:
    return 2 * arguments.value


GIVEN: dict[str, tuple[str, str, Callable[[LashCore, LashSession], Any]]] = {
    "a text for a parked session": ("session_not_parked", "LashCore.open_session", lambda c, s: c.resume(S)),
    "nothing for a parked session": ("session_not_parked", "LashCore.open_session", lambda c, s: c.resume(None)),
    "a session for a parked one": ("session_not_parked", "LashCore.open_session", lambda c, s: c.resume(s)),
    "a UUID for a session id": ("usage", "letters", lambda c, s: c.open_session(uuid.uuid4())),
    "a session for its id": ("usage", "letters", lambda c, s: c.open_session(s)),
    "a session for its id, to watch": ("usage", "letters", lambda c, s: c.observe(s)),
    "a session for its id, to delete": ("usage", "LashSession", lambda c, s: c.delete_session(s)),
    "a session for its id, to enqueue": ("usage", "LashSession", lambda c, s: c.queue(s).enqueue("go")),
    "a session for its id, to work on": ("usage", "LashSession", lambda c, s: c.worker().run([s])),
    "a session id for many": ("usage", "list", lambda c, s: c.worker(WorkOptions(until_empty=True)).run(S)),
    "a model for a spec": ("policy_invalid", "SessionSpec(", lambda c, s: c.open_session("t", spec=ModelSpec("m"))),
    "an unknown heritage": (
        "policy_invalid",
        "'stored'",
        lambda c, s: c.open_session("t", spec=SessionSpec(inherit="store")),
    ),
    "a name for an owner": ("usage", "LeaseOwnerIdentity(", lambda c, s: c.open_session("t", owner="web-1")),
    "a name for a provider": ("config_invalid", "provider(", lambda c, s: c.open_session("t", provider="loopback")),
    "nothing for a state": ("session_state_invalid", "RuntimeSessionState", lambda c, s: c.open_with_state(S, None)),
    "a turn id for its address": ("usage", "TurnAddress(", lambda c, s: c.await_terminal("t1")),
    "a number for a turn id": ("missing_execution_scope_id", "int", lambda c, s: c.request_turn_cancel(S, turn_id=5)),
    "a number for a request": (
        "invalid_turn_cancel_request",
        "text",
        lambda c, s: c.request_turn_cancel(S, turn_id="t1", request_id=5),
    ),
    "a text for a request of the model": ("invalid_request", "DirectRequest(", lambda c, s: c.direct_completion("hi")),
    "a text for messages": ("invalid_request", "Message(", lambda c, s: s.direct_completion(DirectRequest("hi"))),
    "nothing for messages": ("invalid_request", "Message(", lambda c, s: s.direct_completion(DirectRequest(None))),
    "one message for messages": (
        "invalid_request",
        "Message(",
        lambda c, s: c.direct_completion(DirectRequest(Message("1", Role.USER, (TextPart("hi"),)))),
    ),
    "a UUID for a turn id": ("missing_execution_scope_id", "UUID", lambda c, s: s.turn("go", turn_id=uuid.uuid4())),
    "a number for a key": ("invalid_key", "text", lambda c, s: s.turn("go", key=5)),
    "a number for the id of an input": ("invalid_key", "text", lambda c, s: s.enqueue("go", id=5)),
    "one item for items": ("invalid_turn_input", "TextItem", lambda c, s: s.turn(TurnInput(TextItem("go")))),
    "a deque of items": ("invalid_turn_input", "deque", lambda c, s: s.turn(TurnInput(deque([TextItem("go")])))),
    "a struct for an output": ("schema_invalid", "msgspec.json.schema", lambda c, s: s.turn("go", output=City)),
    "a name for an output": ("schema_invalid", "JSON Schema", lambda c, s: s.turn("go", output="json")),
    "a dict for a generation": ("usage", "Generation(", lambda c, s: s.turn("go", generation={"temperature": 1})),
    "a name for a turn's provider": ("config_invalid", "provider(", lambda c, s: s.turn("go").provider("loopback")),
    "a text for a contribution": (
        "prompt_invalid",
        "PromptContribution(",
        lambda c, s: s.turn("go").prompt_contribution("Be kind."),
    ),
    "a text for contributions": (
        "prompt_invalid",
        "PromptContribution(",
        lambda c, s: s.turn("go").replace_prompt_slot("intro", "Be kind."),
    ),
    "an unknown slot": ("prompt_invalid", "'outro'", lambda c, s: s.turn("go").clear_prompt_slot("outro")),
    "nothing for a sink": ("usage", "function", lambda c, s: s.turn("go").stream_to(None)),
    "a spec for a patch": ("policy_invalid", "SessionConfigPatch(", lambda c, s: s.configure(SessionSpec())),
    "a batch for batches": ("usage", "list", lambda c, s: s.queued_turn("b_1")),
    "a name for a command": ("invalid_queued_work_batch", "str", lambda c, s: s.submit_session_command("reset", "k")),
    "texts for drafts": ("usage", "InputDraft", lambda c, s: c.queue(S).enqueue_all(["go"])),
    "ids for targets": ("usage", "ByInputId", lambda c, s: c.queue(S).cancel_inputs(["in_1"])),
    "an id for an anchor": ("usage", "ByInputId", lambda c, s: s.cancel_pending_turn_input_suffix("in_1")),
    "a tool for a source": ("config_invalid", "FunctionToolProvider(", lambda c, s: s.tools().add_provider(double)),
    "nothing for a source": ("config_invalid", "FunctionToolProvider(", lambda c, s: s.tools().add_provider(None)),
    "an id for a source": ("usage", "add_provider", lambda c, s: s.tools().remove_source("live:1")),
    "JSON for the key of a wait": (
        "invalid_await_event_resolution",
        "type=AwaitEventKey",
        lambda c, s: c.effect_host.resolve_await_event({"key_id": "k"}, ResolvedOk("yes")),
    ),
    "nothing for a kept cursor": (
        "cursor_invalid",
        "current_observation",
        lambda c, s: SessionCursor.from_store_token(None),
    ),
    "a tool for tools": ("plugin_registration", "list", lambda c, s: FunctionToolProvider(double)),
    "a caller for what makes attempts": ("config_invalid", "Provider", lambda c, s: RetryingCaller(ScriptedCaller([]))),
}


@pytest.mark.parametrize("given", GIVEN)
async def test_what_belongs_elsewhere_is_refused_under_a_code_and_told_what_to_give(make_core, given: str) -> None:
    code, told, call = GIVEN[given]
    core = make_core(ScriptedCaller([text("fine")]))
    async with await core.open_session(S) as session:
        with pytest.raises(LashError) as refused:
            answer = call(core, session)
            if isinstance(answer, Awaitable):
                await answer
        assert refused.value.code == code and told in f"{refused.value.message} {refused.value.hint}"
        assert (await session.turn("hello").run()).result.assistant_message() == "fine"
        await session.configure(SessionConfigPatch(max_turns=3))  # no turn is left unfinished
        assert said(session.read_view().messages) == ["hello", "fine"]


class _NeverClosed:
    kind = "echo"

    async def complete(self, request: Any, sink: Any) -> Any:
        raise NotImplementedError


def test_a_provider_that_could_not_be_closed_is_refused_before_it_is_asked() -> None:
    with pytest.raises(LashError, match="it has no aclose"):
        RetryingCaller(_NeverClosed())  # type: ignore[arg-type]


async def test_a_promise_in_memory_takes_no_plain_json_for_its_key() -> None:
    async with LashCore(provider=ScriptedCaller([]), model=ModelSpec("m")) as core:
        with pytest.raises(LashError) as refused:
            await core.effect_host.resolve_await_event({"key_id": "k"}, ResolvedOk("yes"))  # type: ignore[arg-type]
        assert refused.value.code == "invalid_await_event_resolution"


@pytest.mark.parametrize("name", ["tools", "context", "tool_hooks"])
def test_one_of_what_a_core_takes_many_of_is_refused_by_name(name: str) -> None:
    one: Any = {name: FunctionToolProvider([double])}
    with pytest.raises(LashError, match="tool hooks" if name == "tool_hooks" else name):
        LashCore(provider=ScriptedCaller([]), model=ModelSpec("m"), **one)


@pytest.mark.parametrize("name", ["tools", "context"])
def test_nothing_among_what_a_core_takes_many_of_is_refused_by_name(name: str) -> None:
    with pytest.raises(LashError, match=f"{name} cannot be of the type NoneType"):
        LashCore(provider=ScriptedCaller([]), model=ModelSpec("m"), **{name: [None]})


async def test_what_is_read_once_is_checked_and_used_too(make_core) -> None:
    core = make_core(ScriptedCaller([text("fine")]), queue_driver="none")
    async with await core.open_session(S) as session:
        waiting = [await session.enqueue(said) for said in ("one", "two")]
        results = await core.queue(S).cancel_inputs(ByInputId(given.input_id) for given in waiting)
        assert [result.target.value for result in results] == [given.input_id for given in waiting]
        assert not await core.queue(S).pending_inputs()
        asked = (Message("1", Role.USER, (TextPart(said),)) for said in ("hi", "you"))
        answer = await session.direct_completion(DirectRequest(asked))
        assert answer.response.full_text == "fine"
        await session.enqueue("three")
        assert await session.queued_turn(named for named in ("b_1", "b_2")).run() is None, "nothing of that name waits"
        assert len(await core.queue(S).pending_inputs()) == 1


@pytest.mark.parametrize("way", ["a turn", "a turn with several", "a pass over the queue"])
async def test_a_plain_function_is_a_sink_too(make_core, way: str) -> None:
    core = make_core(ScriptedCaller([text("fine")]))
    shown: list[TurnActivity] = []
    async with await core.open_session(S) as session:
        if way == "a turn":
            output = await session.turn("hello").stream_to(shown.append)
        elif way == "a turn with several":
            output = await session.turn("hello").stream_to(TurnActivityFanout([lambda activity: 5, shown.append]))
        else:
            await session.enqueue("hello")
            output = await session.queued_turn().stream_to(shown.append)
        assert output is not None and output.result.assistant_message() == "fine"
        await session.configure(SessionConfigPatch(max_turns=3))
    assert [type(activity.event).__name__ for activity in shown][-1] == "TurnFinished"


@pytest.mark.parametrize("returned", [None, 5])
async def test_a_plain_function_is_told_of_work_too(make_core, returned: object) -> None:
    core = make_core(ScriptedCaller([text("fine")]))
    async with await core.open_session(S) as session:
        await session.enqueue("hello")
    told: list[object] = []

    def tell(event: object) -> object:
        told.append(event)
        return returned

    report = await core.worker(WorkOptions(until_empty=True), on_event=tell).run()
    assert report.turns == 1 and "TurnEnded" in [type(event).__name__ for event in told]
