"""Foreign code that cancels the task it runs in has failed, and nobody else is cancelled for it (contract 05 §3.6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.driving import S
from support.scripted import ScriptedCaller, text
from support.tool_hooks import ONE, After, Before, Projector, Work

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
