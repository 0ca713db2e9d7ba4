"""Foreign code that cancels the task it runs in has failed, and nobody else is cancelled for it (contract 05 §3.6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.driving import S
from support.scripted import ScriptedCaller, calls, text
from support.tool_hooks import ONE, After, Before, Projector, Work

from lash_cli.api import AttachmentItem, Inline, TextItem, TurnInput
from lash_cli.core.tools import SafeRetry
from lash_cli.errors import PluginInvokeError
from lash_cli.plugins.rolling_history import RollingHistory


async def cancel_own_task(*_: object, **__: object) -> Any:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


def core_with(make_core, who: str) -> Any:
    work = Work(retry=SafeRetry(2))
    caller = ScriptedCaller([ONE, text("done")])
    options: dict[str, Any] = {"tools": [work.provider]}
    match who:
        case "tool":
            work.answer = cancel_own_task
        case "preparation":
            work.provider.prepare_tool_call = cancel_own_task  # type: ignore[method-assign]
        case "before":
            options["tool_hooks"] = [Before(cancel_own_task)]
        case "after":
            options["tool_hooks"] = [After(cancel_own_task)]
        case "projector":
            options["tool_result_projector"] = Projector(cancel_own_task)
        case "model":
            caller.call = cancel_own_task  # type: ignore[method-assign]
    return make_core(caller, **options)


@pytest.mark.parametrize("who", ["tool", "preparation", "before", "after", "projector", "model"])
async def test_who_cancels_its_own_task_has_failed_and_the_turn_goes_on(make_core, who: str) -> None:
    core = core_with(make_core, who)
    session = await core.open_session(S)
    output = await session.turn("go").run()
    result = output.result
    assert result is not None and result.cancellation is None
    if who == "model":
        assert result.errors[0].code == "provider_panicked"
    else:
        assert result.is_success
        (record,) = result.tool_calls
        assert record.output.status == ("success" if who == "projector" else "failure")
    assert (await core.store.session_row(S)).running_turn_id is None


class SelfCancelling(RollingHistory):
    """A context plugin that cancels its own task instead of compacting."""

    def is_due(self, moment):
        return True

    compact = cancel_own_task


async def test_a_context_plugin_that_cancels_its_own_task_has_failed(make_core) -> None:
    session = await make_core(ScriptedCaller([text("ok")]), context=[SelfCancelling()]).open_session(S)
    await session.turn("one").run()
    with pytest.raises(PluginInvokeError, match="CancelledError"):
        await session.turn("two").run()


def raise_cancelled(*_: object) -> Any:
    """What code that asks a cancelled future for its result does, called and not awaited."""
    raise asyncio.CancelledError


class Failing(RollingHistory):
    """A context plugin of which one method fails."""

    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(self, method, raise_cancelled)


@pytest.mark.parametrize("method", ["contract", "resolve_manifest"])
async def test_a_source_of_tools_that_raises_a_cancellation_has_failed_and_the_turn_has_an_outcome(
    make_core, method: str
) -> None:
    work = Work()
    caller = ScriptedCaller([calls(("a", "unseen", "{}")), text("done")])
    core = make_core(caller, tools=[work.provider])
    session = await core.open_session(S)
    setattr(work.provider, method, raise_cancelled)
    if method == "resolve_manifest":
        work.provider.resolve_manifest_by_id = lambda _: None  # type: ignore[attr-defined]
    result = (await session.turn("go").run()).result
    assert result is not None and result.cancellation is None
    assert result.is_success == (method == "resolve_manifest")
    assert (await core.store.session_row(S)).running_turn_id is None


@pytest.mark.parametrize("method", ["is_due", "prepare_turn"])
async def test_a_context_plugin_that_raises_a_cancellation_has_failed(make_core, method: str) -> None:
    session = await make_core(ScriptedCaller([text("ok")], repeat=True), context=[Failing(method)]).open_session(S)
    if method == "is_due":
        await session.turn("one").run()
    with pytest.raises(PluginInvokeError, match="CancelledError"):
        await session.turn("two").run()


async def test_a_provider_that_raises_a_cancellation_has_refused_the_attachment_it_was_asked_about(make_core) -> None:
    caller = ScriptedCaller([text("ok")])
    caller.attachment_refusal = raise_cancelled  # type: ignore[attr-defined]
    session = await make_core(caller).open_session(S)
    picture = AttachmentItem(Inline("image/gif", b"GIF89a"))
    result = (await session.turn(TurnInput((TextItem("see"), picture))).run()).result
    assert result is not None and result.cancellation is None
    assert [issue.message for issue in result.errors] == ["the model caller raised CancelledError"]


async def test_a_driver_that_raises_a_cancellation_when_it_is_told_fails_nobodys_call(make_core) -> None:
    class Driver:
        notify = raise_cancelled

        async def aclose(self) -> None:
            """Nothing is driven."""

    session = await make_core(ScriptedCaller([text("ok")]), queue_driver=Driver()).open_session(S)
    assert (await session.enqueue("later")).input_id
