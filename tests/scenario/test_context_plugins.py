"""Context plugins of a host that do what none may: their session stays readable, their turn can be ended (contract 05
§4.3, §4.6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.driving import S, said
from support.scripted import ScriptedCaller, text

from lash_cli.core.content import Message, PluginOrigin, Role, TextPart
from lash_cli.core.context import SummaryRequest
from lash_cli.core.graph import ConversationPayload, PluginPayload
from lash_cli.errors import PluginInvokeError
from lash_cli.plugins.rolling_history import RollingHistory


class Foreign(RollingHistory):
    """A plugin that compacts and views as it is told."""

    plugin_id = "foreign"

    def __init__(self) -> None:
        self.compacts: Any = None
        self.views: Any = None

    def prepare_turn(self, messages, moment):
        return messages if self.views is None else self.views(messages)

    def is_due(self, moment):
        return self.compacts is not None

    async def compact(self, context):
        answer = self.compacts(context)
        return await answer if asyncio.iscoroutine(answer) else answer


def message(content: Any, *parts: Any) -> Message:
    return Message("m", Role.USER, parts or (TextPart(content),), PluginOrigin("foreign"))


def circle(_: object) -> Any:
    value: dict[str, Any] = {}
    value["value"] = value
    return (PluginPayload("foreign", value),)


async def cancels_itself(_: object) -> Any:
    raise asyncio.CancelledError


WRONG_NODES = {
    "nothing": lambda context: (None,),
    "messages": lambda context: [message("gist")],
    "a text": lambda context: "gist",
    "bytes": lambda context: b"gist",
    "a dictionary": lambda context: {"gist": 1},
    "numbers": lambda context: [1, 2],
    "a number": lambda context: 7,
    "a content that is no text": lambda context: (ConversationPayload(message(7)),),
    "a part that is none": lambda context: (ConversationPayload(message("", "gist")),),
    "a text no UTF-8 can hold": lambda context: (ConversationPayload(message("\ud800")),),
    "a circle": circle,
    "a cancellation": cancels_itself,
}


@pytest.mark.parametrize("is_asked_for", [False, True], ids=["due", "asked-for"])
@pytest.mark.parametrize("wrong", WRONG_NODES)
async def test_what_is_no_beginning_of_a_frame_is_a_failure_of_its_plugin_and_is_not_stored(
    make_core, wrong: str, is_asked_for: bool
) -> None:
    plugin = Foreign()
    core = make_core(ScriptedCaller([text("ok")], repeat=True), context=[plugin])
    session = await core.open_session(S)
    await session.turn("one").run()
    plugin.compacts = WRONG_NODES[wrong]
    with pytest.raises(PluginInvokeError, match="'foreign'") as caught:
        await (session.admin().compact_context() if is_asked_for else session.turn("two").run())
    assert caught.value.code == "context_compact"
    assert (await core.store.session_row(S)).lease.token is None
    plugin.compacts = None
    await session.turn("three").run()
    reopened = await make_core(ScriptedCaller([])).open_session(S, create=False)
    expected = ["one", "ok", "three", "ok"] if is_asked_for else ["one", "ok", "two", "ok", "three", "ok"]
    assert said(session.read_view().messages) == said(reopened.read_view().messages) == expected


WRONG_VIEWS = {
    "nothing": lambda messages: [None] * len(messages),
    "texts": lambda messages: ["x"] * len(messages),
    "a content that is no text": lambda messages: [message(7)] * len(messages),
    "a text no UTF-8 can hold": lambda messages: [message("\ud800")] * len(messages),
    "objects": lambda messages: [object()] * len(messages),
}


@pytest.mark.parametrize("wrong", WRONG_VIEWS)
async def test_a_view_that_is_none_is_a_failure_of_its_plugin_and_no_model_is_asked(make_core, wrong: str) -> None:
    plugin = Foreign()
    caller = ScriptedCaller([text("ok")], repeat=True)
    session = await make_core(caller, context=[plugin]).open_session(S)
    await session.turn("one").run()
    plugin.views = WRONG_VIEWS[wrong]
    with pytest.raises(PluginInvokeError, match="'foreign'") as caught:
        await session.turn("two").run()
    assert (caught.value.code, len(caller.requests)) == ("context_prepare_turn", 1)
    plugin.views = None
    await session.turn("three").run()
    assert said(session.read_view().messages) == ["one", "ok", "two", "ok", "three", "ok"]


@pytest.mark.parametrize("is_asked_for", [False, True], ids=["due", "asked-for"])
async def test_a_cancel_does_not_wait_for_a_plugin_and_what_it_cost_is_booked(make_core, is_asked_for: bool) -> None:
    plugin = Foreign()
    pondering = asyncio.Event()

    async def ponder(context) -> Any:
        await context.summarise(SummaryRequest("you summarise", "what was said?"))
        pondering.set()
        await asyncio.get_running_loop().create_future()

    caller = ScriptedCaller([text("ok"), text("gist", tokens=(70, 7)), text("ok")])
    session = await make_core(caller, context=[plugin]).open_session(S)
    await session.turn("one").run()
    plugin.compacts = ponder
    asked = session.admin().compact_context() if is_asked_for else session.turn("two").run()
    running = asyncio.ensure_future(asked)
    async with asyncio.timeout(30):
        await pondering.wait()
        assert session.cancel_running_turns(reason="enough") == 1
        output = await running
    assert output is False if is_asked_for else output.result.cancellation.reason == "enough"
    assert len(session.read_view().frames) == 1
    (entry,) = [entry for entry in session.usage_report().by_source_model if entry.source == "compaction"]
    assert (entry.usage.input_tokens, entry.usage.output_tokens) == (70, 7)
