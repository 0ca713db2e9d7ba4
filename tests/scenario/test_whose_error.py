"""Whose matter an error is, as a program that embeds lash finds it (contract 01 §16)."""

from __future__ import annotations

import pytest
from support.doubling import double
from support.driving import S
from support.scripted import ScriptedCaller, text

from lash_cli.api import FunctionToolProvider, LashCore, ModelSpec
from lash_cli.core.lease import LeaseOwnerIdentity
from lash_cli.errors import (
    ConfigError,
    LashRuntimeError,
    NotFoundError,
    PluginError,
    PluginRegistrationError,
    ProviderMismatch,
    SessionError,
)
from lash_cli.plugins.rolling_history import RollingHistory


def answers(provider_id: str = "scripted") -> ScriptedCaller:
    return ScriptedCaller([text("ok")], provider_id=provider_id, repeat=True)


async def test_what_is_the_matter_with_a_session_is_caught_as_that(make_core) -> None:
    core = make_core(answers())
    caught: list[str] = []

    async def expect(work) -> None:
        with pytest.raises(SessionError) as failed:
            await work
        caught.append(failed.value.code)

    await expect(core.open_session("nobody", create=False))
    session = await core.open_session(S)
    await session.turn("one").run()
    lease = await core.store.try_claim_lease(S, LeaseOwnerIdentity("somebody", "1"), ttl_ms=60_000, token="theirs")
    await expect(session.turn("two").run())
    await core.store.release_lease(lease.fence())
    clone = session.clone()
    await expect(session.park())
    clone.close_handle()
    other = await make_core(answers("another")).open_session(S, create=False)
    await expect(other.turn("three").run())
    await session.close()
    await expect(session.request_turn_cancel("t", "r"))
    await core.delete_session(S)
    await expect(core.open_session(S))
    assert caught == [
        "session_not_found",
        "session_execution_busy",
        "session_still_in_use",
        "llm_provider",
        "session_closed",
        "session_deleted",
    ]


async def test_another_provider_than_the_recorded_one_names_both(make_core) -> None:
    session = await make_core(answers()).open_session(S)
    await session.turn("one").run()
    other = await make_core(answers("another")).open_session(S, create=False)
    with pytest.raises(LashRuntimeError) as failed:
        await other.turn("two").run()
    error = failed.value
    assert isinstance(error, ProviderMismatch) and error.terminal
    assert (error.recorded, error.wired) == ("scripted", "another")
    assert error.details == {"recorded": "scripted", "wired": "another"}


async def test_an_unknown_session_is_still_what_does_not_exist(make_core) -> None:
    with pytest.raises(NotFoundError) as failed:
        await make_core(answers()).open_session("nobody", create=False)
    assert isinstance(failed.value, SessionError) and failed.value.exit_status == 3


class Broken(RollingHistory):
    """A context plugin that fails, or shows another number of messages than there are."""

    plugin_id = "broken"

    def __init__(self, *, raises: bool) -> None:
        self.raises = raises

    def prepare_turn(self, messages, moment):
        if self.raises:
            raise ValueError("no")
        return [*messages, *messages]


@pytest.mark.parametrize("raises", [True, False])
async def test_what_a_plugin_does_wrong_is_its_own_matter(make_core, raises: bool) -> None:
    core = make_core(answers(), context=[Broken(raises=raises)])
    session = await core.open_session(S)
    plain = make_core(answers())
    async with await plain.open_session(S) as first:
        await first.turn("one").run()
    with pytest.raises(PluginError) as failed:
        await session.turn("two").run()
    error = failed.value
    assert isinstance(error, LashRuntimeError) and not isinstance(error, SessionError)
    assert (error.code, error.details) == ("context_prepare_turn", {"plugin": "broken"})


async def test_what_cannot_be_plugged_in_is_the_plugins_matter_and_one_of_wiring() -> None:
    with pytest.raises(PluginError) as failed:
        LashCore(
            provider=answers(),
            model=ModelSpec("m"),
            tools=[FunctionToolProvider([double]), FunctionToolProvider([double])],
        )
    error = failed.value
    assert isinstance(error, PluginRegistrationError) and isinstance(error, ConfigError)
    assert (error.code, error.exit_status, error.terminal) == ("plugin_registration", 5, True)
