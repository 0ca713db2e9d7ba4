"""Model calls outside turns (contract 06 §15)."""

from __future__ import annotations

import msgspec
import pytest
from support.scripted import ScriptedCaller, calls, error, text

from lash_cli.api import DirectRequest, JsonSchemaOutput, LashCore, ModelSpec
from lash_cli.core.content import AttachmentPart, Inline, Message, Role, TextPart
from lash_cli.core.policy import ModelCapability, ReasoningCapability, ReasoningEffort
from lash_cli.errors import DirectCompletionError, UsageError


def asking(*texts: str, **fields: object) -> DirectRequest:
    messages = tuple(Message(f"m{i}", Role.USER, (TextPart(words),)) for i, words in enumerate(texts))
    return DirectRequest(messages, **fields)  # type: ignore[arg-type]


SCHEMA = JsonSchemaOutput("answer", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})


async def test_it_asks_without_tools_and_without_what_says_nothing(make_core) -> None:
    caller = ScriptedCaller([text("hi", tokens=(3, 2))])
    completion = await make_core(caller).direct_completion(asking("", "hello", " ", system="be brief"))
    assert (completion.text, completion.usage.total, completion.short.text) == ("hi", 5, "hi")
    (request,) = caller.requests
    assert [message.id for message in request.messages] == ["m1"]
    assert (request.system, request.tools, request.tool_choice.value) == ("be brief", (), "none")
    assert not request.is_shown
    assert request.scope.session_id.startswith("direct:") and request.scope.session_id == request.scope.request_id
    assert request.scope.agent_frame_id is None


async def test_a_session_asks_in_its_own_name_books_the_cost_and_keeps_its_transcript(make_core) -> None:
    caller = ScriptedCaller([text("one"), text("title", tokens=(7, 1)), text("two")])
    async with await make_core(caller).open_session("s1") as session:
        await session.turn("a").run()
        await session.direct_completion(asking("title?", caused_by="titles"))
        await session.turn("b").run()
        assert [len(view.messages) for view in (session.read_view(),)] == [4]
        scope = caller.requests[1].scope
        assert (scope.session_id, scope.request_id, scope.agent_frame_id) == ("s1", "s1:direct", "s1:frame:direct")
    async with await make_core(ScriptedCaller([])).open_session("s1") as again:
        assert {source: usage.total for source, usage in again.usage_report().by_source.items()} == {
            "turn": 30,
            "titles": 8,
        }


async def test_the_value_is_judged_by_the_canonical_schema_and_not_asked_for_twice(make_core) -> None:
    caller = ScriptedCaller([text('{"n": 1}'), text('{"n": "one"}', tokens=(4, 4))])
    async with await make_core(caller).open_session("s1") as session:
        assert (await session.direct_completion(asking("n?", output=SCHEMA))).value == {"n": 1}
        with pytest.raises(DirectCompletionError) as unfit:
            await session.direct_completion(asking("n?", output=SCHEMA))
        assert unfit.value.code == "invalid_structured_output"
        assert len(caller.requests) == 2
        assert session.usage_report().by_source["direct"].total == 15 + 8


async def test_an_impossible_request_is_refused_before_anything_is_sent(make_core) -> None:
    caller = ScriptedCaller([])
    core = make_core(caller)
    reasoning = ModelCapability(ReasoningCapability(("low",)))
    model = msgspec.structs.replace(ModelSpec("m"), variant=ReasoningEffort("high"), capability=reasoning)
    for request in (asking("x", model=model), asking(" "), asking("x", caused_by="\ud800"), asking("x", caused_by=5)):
        with pytest.raises(DirectCompletionError) as refused:
            await core.direct_completion(request)
        assert refused.value.code == "invalid_request"
    broken = JsonSchemaOutput("answer", {"type": "nonsense"})
    with pytest.raises(UsageError):
        await core.direct_completion(asking("x", output=broken))
    large = Message("m", Role.USER, (AttachmentPart(Inline("image/png", bytes(21 * 1024 * 1024))),))
    with pytest.raises(UsageError):
        await core.direct_completion(DirectRequest((large,)))
    assert caller.requests == []


async def test_a_failed_call_and_an_unwanted_tool_call_are_errors_with_their_record(make_core) -> None:
    caller = ScriptedCaller([error("quota", code="insufficient_quota"), calls(("c", "t", "{}"))])
    core = make_core(caller)
    for code in ("insufficient_quota", "unexpected_tool_call"):
        with pytest.raises(DirectCompletionError) as failed:
            await core.direct_completion(asking("x"))
        assert failed.value.code == code
        assert failed.value.details["call"]["call_id"].startswith("direct:")


async def test_a_session_without_a_store_books_in_memory() -> None:
    async with LashCore(provider=ScriptedCaller([text("hi")]), model=ModelSpec("m")) as core:
        session = await core.open_session("s1")
        await session.direct_completion(asking("x"))
        assert session.usage_report().by_source["direct"].total == 15
